"""What windows are decoded under besides their latents: the music before, the place, given cells, the fidelity.

Shapes:
    B  windows    R  rows of a block    L  steps before a window    T  steps of it    S = L + T
    N  parts      P  pitches

Offers: `Conditions`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from midivae.models.base import WindowModel
from midivae.music.roll import FRAME
from midivae.windows.batch import Batch
from midivae.windows.place import grid_places


@dataclass(frozen=True)
class Conditions:
    """The conditions of some windows, a row for each.

    Attributes:
        before: the steps that these windows go on from, all of them known; None: they go on from nothing.
        place: of the steps before and of the windows (`windows.place`); None: the windows begin at a bar line of a
            piece of which nothing is known.
        x, given: cells of the windows, and which of them stay as they are; None: none.
        fidelity: share of each beat's fine latent dimensions that are used, the most important ones first; 0: the
            coarse latent alone; None: all.
    """

    before: Bool[np.ndarray, "B L N 2 P"] | None = None
    place: UInt8[np.ndarray, "B S 4"] | None = None
    x: Bool[np.ndarray, "B T N 2 P"] | None = None
    given: Bool[np.ndarray, "B T N P"] | None = None
    fidelity: Float[np.ndarray, " B"] | None = None

    def repeated(self, times: int) -> Conditions:
        """Each row so many times, one after the other."""
        values = {name: np.repeat(value, times, axis=0) for name, value in vars(self).items() if value is not None}
        return replace(self, **values)

    def of_rows(self, rows: slice, size: int, model: WindowModel) -> tuple[Batch, Float[torch.Tensor, " R"] | None]:
        """A block of `size` rows, filled up with zeros, as a model takes it, and its fidelity."""
        steps, n, k, p = model.config.window_shape
        device = model.device

        def block(values: np.ndarray) -> torch.Tensor:
            filled = np.zeros((size, *values.shape[1:]), values.dtype)
            filled[: len(values[rows])] = values[rows]
            return torch.from_numpy(filled).to(device)

        def cells(planes: Bool[np.ndarray, "B _ N 2 P"] | None) -> Float[torch.Tensor, "R _ N K P"] | None:
            return None if planes is None else block(planes if k == 2 else planes[:, :, :, FRAME:]).float()

        before = cells(self.before)
        if before is None:
            before = torch.zeros(size, 0, n, k, p, device=device)
        known = before.shape[1]
        place = self.place
        if place is None:
            place = np.broadcast_to(
                grid_places(-known, known + steps, model.config.steps_per_bar), (rows.stop, known + steps, 4)
            )
        x = cells(self.x)
        whole = torch.full((size,), steps, device=device)
        batch = Batch(
            torch.zeros(size, steps, n, k, p, device=device) if x is None else x,
            before,
            torch.full_like(whole, known),
            whole,
            block(place).long(),
            torch.zeros_like(whole),
            None if self.given is None else block(self.given),
        )
        return batch, None if self.fidelity is None else block(self.fidelity.astype(np.float32))
