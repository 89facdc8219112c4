"""Cells that are decided beforehand: how the transformer sees them, and which it is given in training.

A window may come with given cells: bars on both sides of a gap, some parts, single notes. The decoder sees all of them,
past and future: as rows of cells beside each step, as a vector of each step from attention over the whole window, and
in the field, from the step itself and the next ones. It is trained to predict only the cells that are not given, and a
sample keeps those that are.

Shapes:
    B  windows    T  steps    N  parts    K  planes    P  pitches    D  width of a vector    C  channels of a field
    M  rows of given cells, N * (K + 1): of each part whether cells are given, and what they are

Offers: `GivenEncoder`, `GivenCells`; `random_given`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from midivae.config.train import Transformer as Settings
from midivae.models.base import Config
from midivae.models.layers import EncoderLayer, distance_buckets, map_channels

AHEAD = (0, 1, 2, 4)  # steps from a step whose given cells enter its field directly
# shares of training windows with given cells: all bars but some, whole parts, beats of parts; the rest: single notes
BARS, PARTS, BEATS = 0.35, 0.4, 0.15


class GivenCells(NamedTuple):
    """What the decoder sees of given cells.

    Attributes:
        vector, field: added to the states of the steps.
        rows: the cells themselves.
    """

    vector: Float[Tensor, "B T D"]
    field: Float[Tensor, "B T C P"]
    rows: Float[Tensor, "B T M P"]


class GivenEncoder(nn.Module):
    """Attention over all steps of a window, and a map of the rows of given cells to the field."""

    def __init__(self, config: Config, settings: Settings) -> None:
        super().__init__()
        _, n, k, p = config.window_shape
        self.rows = n * (k + 1)
        self.read = nn.Linear(self.rows * p, settings.width)
        self.layer = EncoderLayer(settings.width, settings.heads, settings.dropout)
        self.out = nn.Linear(settings.width, settings.width)
        self.field = nn.Parameter(torch.empty(settings.channels, len(AHEAD) * self.rows))

    def forward(self, x: Float[Tensor, "B T N K P"], given: Bool[Tensor, "B T N P"]) -> GivenCells:
        """What the decoder sees of the cells of `x` that are given."""
        steps, mask = x.shape[1], given[:, :, :, None].to(x.dtype)
        rows = torch.cat([mask, mask * x], 3).flatten(2, 3)  # [B, T, M, P]
        vector = self.layer(torch.relu(self.read(rows.flatten(2))), distance_buckets(steps, x.device))
        later = F.pad(rows, (0, 0, 0, 0, 0, max(AHEAD)))
        near = torch.cat([later[:, ahead : ahead + steps] for ahead in AHEAD], 2)
        return GivenCells(self.out(vector), map_channels(self.field, near), rows)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it cannot follow generators
def random_given(
    x: Float[Tensor, "B T N K P"], steps_per_bar: int, beat: int, share: float, generator: torch.Generator
) -> Bool[Tensor, "B T N P"]:
    """The cells of training windows that are given: none, but in a share of the windows.

    Args:
        beat: steps of a beat.
    """
    b, t, n = x.shape[:3]

    def uniform(*shape: int) -> Float[Tensor, ...]:
        return torch.rand(shape, generator=generator, device=x.device)

    def steps_of(values: Bool[Tensor, "B _ *N"], length: int) -> Bool[Tensor, "B T *N"]:
        return values.repeat_interleave(length, 1)[:, :t]

    bars, beats = -(-t // steps_per_bar), -(-t // beat)
    first = (uniform(b, 1) * bars).long()
    gap = 1 + (uniform(b, 1) * max(1, bars - 1)).long()
    bar = torch.arange(bars, device=x.device)
    outside = steps_of((bar < first) | (bar >= first + gap), steps_per_bar)[:, :, None]  # [B, T, 1]
    parts = (uniform(b, 1, n) < uniform(b, 1, 1)).expand(b, t, n)
    parts_of_beats = steps_of(uniform(b, beats, n) < uniform(b, 1, 1), beat)
    notes = steps_of(uniform(b, beats, n) < uniform(b, 1, 1), beat)[..., None] & (x[..., -1, :] > 0)
    edges = (BARS, BARS + PARTS, BARS + PARTS + BEATS, 1.0)
    draw = uniform(b, 1, 1, 1)
    kind = sum((draw >= share * edge).long() for edge in edges)  # 4: nothing is given
    kinds = (outside[..., None], parts[..., None], parts_of_beats[..., None], notes)
    found = torch.zeros_like(notes)
    for number, cells in enumerate(kinds):
        found = found | cells & (kind == number)
    return found
