"""A batch of windows, as models get it.

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
    """Windows, and what came before them.

    Attributes:
        x: the windows; silence beyond the end of the piece.
        before: the steps before each, the last one next to the window; silence where they are not known.
        n_before: how many of them are known: the last ones.
        n_inside: how many steps of each window lie in its piece: the first ones.
    """

    x: Float[Tensor, "B T N K P"]
    before: Float[Tensor, "B L N K P"]
    n_before: Int[Tensor, " B"]
    n_inside: Int[Tensor, " B"]

    @classmethod
    def of(cls, x: Float[Tensor, "B T N K P"]) -> Batch:
        """Whole windows with nothing known before them."""
        none = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return cls(x, x[:, :0], none, none + x.shape[1])
