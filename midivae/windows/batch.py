"""A batch of windows, the input of models.

Shapes:
    B  windows    L  steps before the window    T  steps of it
    N  parts      K  planes (onset and frame, or frame alone)     P  pitches
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Batch(NamedTuple):
    """Windows, and the steps before them.

    Attributes:
        x: the windows; silent after the end of the piece.
        before: the steps before each window, in order; silent if not known.
        n_before: how many of them, the last ones, are known.
        n_inside: how many steps of each window, the first ones, lie inside its piece.
    """

    x: Float[Tensor, "B T N K P"]
    before: Float[Tensor, "B L N K P"]
    n_before: Int[Tensor, " B"]
    n_inside: Int[Tensor, " B"]

    @classmethod
    def of(cls, x: Float[Tensor, "B T N K P"]) -> Batch:
        """Complete windows with nothing known before them."""
        none = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return cls(x, x[:, :0], none, none + x.shape[1])
