"""A batch of windows, the input of models.

Shapes:
    B  windows    L  steps before the window    T  steps of it    S = L + T
    N  parts      K  planes (onset and frame, or frame alone)     P  pitches
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Batch(NamedTuple):
    """Windows, the steps before them, and their places in their pieces.

    Attributes:
        x: the windows; silent after the end of the piece.
        before: the steps before each window, in order; silent if not known.
        n_before: how many of them, the last ones, are known.
        n_inside: how many steps of each window, the first ones, lie inside its piece.
        place: of the steps before the windows and of the windows (`windows.place`).
        shift: semitones by which each window was transposed.
        given: the cells of `x` that are decided beforehand; None: no cell is.
    """

    x: Float[Tensor, "B T N K P"]
    before: Float[Tensor, "B L N K P"]
    n_before: Int[Tensor, " B"]
    n_inside: Int[Tensor, " B"]
    place: Int[Tensor, "B S 4"]
    shift: Int[Tensor, " B"]
    given: Bool[Tensor, "B T N P"] | None = None

    @classmethod
    def of(cls, x: Float[Tensor, "B T N K P"]) -> Batch:
        """Complete windows with nothing known before them; all of their steps are at place 0."""
        none = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return cls(x, x[:, :0], none, none + x.shape[1], none.new_zeros(len(x), x.shape[1], 4), none)

    def alone(self) -> Batch:
        """The windows at their places, with nothing known before them."""
        context = self.before.shape[1]
        none = torch.zeros_like(self.n_before)
        return self._replace(before=self.before[:, :0], n_before=none, place=self.place[:, context:])
