"""The transformer's head: the cells of a step.

Shapes:
    B  windows    T  steps    N  parts    K  planes    P  pitches    D  width of vectors    C  channels
    H  hidden units of a cell    M  rows of cells beside a field

Offers: `Head`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from midivae.config.train import Transformer as Settings
from midivae.models.base import Chance
from midivae.models.layers import by_distance, normed, plus_channelwise
from midivae.music.roll import FRAME, ONSET


class Head(nn.Module):
    """The cells of a step, part after part and upwards, each given the step's state and the cells before it."""

    def __init__(self, settings: Settings, parts: int, pitches: int, beside: int) -> None:
        super().__init__()
        n, p, h = parts, pitches, settings.cell
        self.shape = (n, h, p)
        self.norm = nn.LayerNorm(settings.width)
        self.from_vector = nn.Linear(settings.width, n * h * p)
        self.from_field = nn.Parameter(torch.empty(n * h, settings.channels + beside))  # and from what lies beside it
        self.now = nn.Parameter(torch.empty(n, n, h, 2 * p - 1))  # [from part, to part, ...] by distance in pitch
        self.begun = nn.Parameter(torch.empty(n, n, h))  # [from part, to part, ...]: a note begins in it
        self.inner, self.inner_bias = nn.Parameter(torch.empty(h, h)), nn.Parameter(torch.empty(h, 1))
        self.out = nn.Parameter(torch.empty(n, 2, h))
        self.bias = nn.Parameter(torch.empty(2, n, p))

    def given(
        self, vector: Float[Tensor, "B T D"], field: Float[Tensor, "B T C P"], beside: Float[Tensor, "B T M P"]
    ) -> Float[Tensor, "B T N H P"]:
        """What every cell knows before any cell of its step is decided; `beside`: the step before, and the draft."""
        b, t = vector.shape[:2]
        n, h, p = self.shape
        known = self.from_vector(self.norm(vector)).view(b, t, n * h, p)
        cells = torch.cat([normed(field), beside], 2)
        return plus_channelwise(known, self.from_field, cells).view(b, t, n, h, p)

    def influence(self) -> Float[Tensor, "NP NHP"]:
        """What a note in one cell adds to all cells after it."""
        n, h, p = self.shape
        part = torch.arange(n, device=self.now.device)
        earlier = (part[:, None] < part).view(n, n, 1, 1, 1)
        lower = torch.ones(p, p, device=self.now.device).triu(1) * (part[:, None] == part).view(n, n, 1, 1, 1)
        matrix = by_distance(self.now) * (earlier + lower)  # [from part, to part, H, from pitch, to pitch]
        return matrix.permute(0, 3, 1, 2, 4).reshape(n * p, n * h * p)

    def rhythm(self) -> tuple[Float[Tensor, "N NH"], Float[Tensor, "N NH"]]:
        """What a note that begins in a part adds to the parts after it, and to the cells above it in its own."""
        n, h, _ = self.shape
        part = torch.arange(n, device=self.begun.device)[:, None]
        later, own = ((self.begun * mask[..., None]).reshape(n, n * h) for mask in (part < part.T, part == part.T))
        return later, own

    def logits(self, known: Float[Tensor, "*B N H P"]) -> Float[Tensor, "*B 2 N P"]:
        """Of a note that sounds, and of one that begins where it sounded before; of cells that know all before them.

        Overwrites `known`.
        """
        n, h, p = self.shape
        hidden = plus_channelwise(self.inner_bias.expand(*known.shape[:-2], h, 1), self.inner, known.relu_()).relu_()
        hidden = hidden.view(-1, h, p)
        out = torch.bmm(self.out.expand(len(hidden) // n, n, 2, h).reshape(-1, 2, h), hidden)
        return out.view(*known.shape[:-2], 2, p).transpose(-2, -3) + self.bias

    def forward(
        self,
        vector: Float[Tensor, "B T D"],
        field: Float[Tensor, "B T C P"],
        beside: Float[Tensor, "B T M P"],
        frame: Float[Tensor, "B T N P"],
        onset: Float[Tensor, "B T N P"] | None,
    ) -> Float[Tensor, "B T 2 N P"]:
        """The logits of all cells, each given the true cells before it: the sum of `given`, `influence` and `rhythm`.

        As few passes as can be over the largest array of the model.
        """
        b, t = vector.shape[:2]
        n, h, p = self.shape
        known = torch.cat([self.norm(vector), frame.flatten(2)], -1).flatten(0, 1)
        weight = torch.cat([self.from_vector.weight, self.influence().T], 1)
        known = F.linear(known, weight, self.from_vector.bias).view(b, t, n * h, p)
        cells: tuple[Tensor, ...] = (normed(field), beside)
        of_cells: tuple[Tensor, ...] = (self.from_field,)
        if onset is not None:
            began = onset.amax(-1, keepdim=True).expand_as(onset)
            below = (onset.cumsum(-1) - onset).clamp(max=1)  # a note begins below
            later, own = self.rhythm()
            cells, of_cells = (*cells, began, below), (*of_cells, later.T, own.T)
        known = plus_channelwise(known, torch.cat(of_cells, 1), torch.cat(cells, 2))
        return self.logits(known.view(b, t, n, h, p))

    def sample_step(
        self,
        known: Float[Tensor, "B N H P"],
        previous: Float[Tensor, "B N K P"],
        chance: Chance,
        uniform: Float[Tensor, "B N K P"] | None,
        influence: Float[Tensor, "NP N H P"],
        rhythm: tuple[Float[Tensor, "N NH"], Float[Tensor, "N NH"]],
    ) -> Float[Tensor, "B N K P"]:
        """The cells of one step.

        Cell after cell would be N * P rounds. But a cell that stays silent changes nothing for those after it: in each
        round all cells are decided as if none before them sounded since the last note, the first that sounds is taken,
        what it changes is added, and the next round goes on behind it. That is the same draw, in as many rounds as the
        fullest step of the batch has notes.
        """
        b, n, h, p = known.shape
        k = previous.shape[2]
        cells = torch.zeros(b, n, k, p, device=known.device)
        order = torch.arange(n * p, device=known.device)
        behind = torch.full((b, 1), -1, device=known.device)  # the last cell that is decided
        row = torch.arange(b, device=known.device)
        later, own = rhythm[0], rhythm[1].view(n, n, h)[torch.arange(n), torch.arange(n), :, None]
        started = torch.zeros(b, n, device=known.device)
        while True:
            logits = self.logits(known.clone())
            frame_logit, onset_logit = (each.flatten(1) for each in logits.unbind(1))  # [B, NP]
            draw = None if uniform is None else uniform[:, :, -1].flatten(1)
            sounds = chance.decide(frame_logit, draw) & (order > behind)
            found = sounds.any(1)
            if not found.any():
                return cells
            cell = sounds.int().argmax(1)  # the first
            part, pitch = cell // p, cell % p
            cells[row, part, -1, pitch] = torch.maximum(cells[row, part, -1, pitch], found.float())
            known = known + influence[cell] * found[:, None, None, None]
            if k == 2:
                draw = None if uniform is None else uniform[:, :, ONSET].flatten(1)[row, cell]
                again = chance.decide(onset_logit[row, cell], draw) | (previous[row, part, FRAME, pitch] == 0)
                begins = found & again
                cells[row, part, ONSET, pitch] = torch.maximum(cells[row, part, ONSET, pitch], begins.float())
                new = begins.float() * (1 - started[row, part])  # the first that begins in its part
                started[row, part] = torch.maximum(started[row, part], begins.float())
                known = known + (later[part] * new[:, None]).view(b, n, h, 1)
                above = (torch.arange(p, device=known.device) > pitch[:, None]) * new[:, None]  # [B, P]
                known[row, part] += own[part] * above[:, None]
            behind = torch.where(found, cell, n * p)[:, None]
