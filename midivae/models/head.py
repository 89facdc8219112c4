"""The transformer's head: the cells of a step, each given the step's state and the cells before it.

The cells of a step form a sequence: part after part, and from low to high pitches. This is a neural autoregressive
distribution estimator (Larochelle & Murray 2011). For each cell the head computes two logits: that a note sounds, and
that it begins (onset) rather than continues (hold), if one sounded in this cell on the previous step. If none sounded,
a note begins: a hold without a note before it has probability 0.

A cell is computed from `H` hidden inputs: the sum of what the step's state gives (`prepare`) and what each note in a
cell before it adds (`influence`, and `rhythm` for the first note that begins in a part).

Shapes:
    B  windows    T  steps    N  parts    K  planes (onset and frame, or frame alone)    P  pitches
    D  width of a vector      C  channels of a field    M  rows of cells that the head sees beside the field
    H  hidden units of a cell

Offers: `Head`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from midivae.config.train import Transformer as Settings
from midivae.models.layers import add_mapped_channels, distance_matrix, normalise_field
from midivae.music.roll import FRAME, ONSET


class Head(nn.Module):
    """The head of this module."""

    def __init__(self, settings: Settings, parts: int, pitches: int, rows: int) -> None:
        """`rows`: M, the rows of cells that the head sees: the previous step, and the draft."""
        super().__init__()
        n, p, h = parts, pitches, settings.cell
        self.shape = (n, h, p)
        self.norm = nn.LayerNorm(settings.width)
        self.from_vector = nn.Linear(settings.width, n * h * p)
        self.from_field = nn.Parameter(torch.empty(n * h, settings.channels + rows))
        self.now = nn.Parameter(torch.empty(n, n, h, 2 * p - 1))  # [from part, to part, ...]: a note, by distance
        self.begun = nn.Parameter(torch.empty(n, n, h))  # [from part, to part, ...]: a note begins in it
        self.inner, self.inner_bias = nn.Parameter(torch.empty(h, h)), nn.Parameter(torch.empty(h, 1))
        self.out = nn.Parameter(torch.empty(n, 2, h))
        self.bias = nn.Parameter(torch.empty(2, n, p))

    def prepare(
        self, vector: Float[Tensor, "B T D"], field: Float[Tensor, "B T C P"], rows: Float[Tensor, "B T M P"]
    ) -> Float[Tensor, "B T N H P"]:
        """The hidden inputs of all cells before any cell of the step is decided."""
        b, t = vector.shape[:2]
        n, h, p = self.shape
        inputs: Tensor = self.from_vector(self.norm(vector)).view(b * t, n * h, p)
        cells = torch.cat([normalise_field(field), rows], 2).flatten(0, 1)
        return inputs.baddbmm_(self.from_field.expand(b * t, *self.from_field.shape), cells).view(b, t, n, h, p)

    def influence(self) -> Float[Tensor, "N P N H P"]:
        """[from part, from pitch, to part, ...]: what a note in one cell adds to all cells after it."""
        n, _, p = self.shape
        part = torch.arange(n, device=self.now.device)
        earlier = (part[:, None] < part).view(n, n, 1, 1, 1)
        lower = torch.ones(p, p, device=self.now.device).triu(1) * (part[:, None] == part).view(n, n, 1, 1, 1)
        matrix = distance_matrix(self.now) * (earlier + lower)  # [from part, to part, H, from pitch, to pitch]
        return matrix.permute(0, 3, 1, 2, 4)

    def rhythm(self) -> tuple[Float[Tensor, "N N H"], Float[Tensor, "N N H"]]:
        """[from part, to part, ...]: what the first note that begins in a part adds.

        Returns:
            To all cells of later parts, and to the cells above it in its own part; 0 elsewhere.
        """
        part = torch.arange(self.shape[0], device=self.begun.device)[:, None]
        return self.begun * (part < part.T)[..., None], self.begun * (part == part.T)[..., None]

    def logits(self, hidden: Float[Tensor, "*B _ H P"], parts: slice = slice(None)) -> Float[Tensor, "*B 2 _ P"]:
        """That a note sounds, and that it begins if one sounded before; `hidden`: the rectified inputs of the parts."""
        out, (*batch, n, h, p) = self.out[parts], hidden.shape
        hidden = add_mapped_channels(self.inner_bias.expand(*batch, n, h, 1), self.inner, hidden).relu_()
        weight = out.expand(math.prod(batch), n, 2, h).reshape(-1, 2, h)
        logits = torch.bmm(weight, hidden.view(-1, h, p)).view(*batch, n, 2, p)
        return logits.transpose(-2, -3) + self.bias[:, parts]

    def forward(
        self,
        vector: Float[Tensor, "B T D"],
        field: Float[Tensor, "B T C P"],
        rows: Float[Tensor, "B T M P"],
        frame: Float[Tensor, "B T N P"],
        onset: Float[Tensor, "B T N P"] | None,
    ) -> Float[Tensor, "B T 2 N P"]:
        """The logits of all cells, each given the true cells before it.

        It adds `prepare`, `influence` and `rhythm` in as few passes as possible over the hidden inputs, the model's
        largest array.
        """
        b, t = vector.shape[:2]
        n, h, p = self.shape
        inputs = torch.cat([self.norm(vector), frame.flatten(2)], -1).flatten(0, 1)
        weight = torch.cat([self.from_vector.weight, self.influence().reshape(n * p, n * h * p).T], 1)
        inputs = F.linear(inputs, weight, self.from_vector.bias).view(b, t, n * h, p)
        cells: tuple[Tensor, ...] = (normalise_field(field), rows)
        weights: tuple[Tensor, ...] = (self.from_field,)
        if onset is not None:
            begins = onset.amax(-1, keepdim=True).expand_as(onset)
            begins_below = (onset.cumsum(-1) - onset).clamp(max=1)
            later, above = self.rhythm()
            cells = (*cells, begins, begins_below)
            weights = (*weights, later.flatten(1).T, above.flatten(1).T)
        inputs = add_mapped_channels(inputs, torch.cat(weights, 1), torch.cat(cells, 2))
        return self.logits(inputs.relu_().view(b, t, n, h, p))

    # --- samples
    def additions(self) -> list[Float[Tensor, "_ _ H P"]]:
        """For each part: what its notes add to the hidden inputs of this part and the later ones.

        Rows: a note at each pitch; no note; the same for a note that is the first to begin in its part.
        """
        n, h, p = self.shape
        influence, (later, above) = self.influence(), self.rhythm()
        higher = torch.ones(p, p, device=above.device).triu(1)
        begins = later[:, None, :, :, None] + above[:, None, :, :, None] * higher[:, None, None]  # [N, P, N, H, P]
        none = torch.zeros(1, n, h, p, device=above.device)
        return [torch.cat([influence[i], none, influence[i] + begins[i]])[:, i:].contiguous() for i in range(n)]

    def sample_step(
        self,
        inputs: Float[Tensor, "B N H P"],
        previous: Float[Tensor, "B N K P"],
        limits: Float[Tensor, "B N K P"],
        additions: list[Float[Tensor, "_ _ H P"]],
    ) -> Float[Tensor, "B N K P"]:
        """The cells of one step.

        A silent cell adds nothing to the cells after it. So the cells of a part are decided in rounds: all cells above
        the last note are decided as if none of them sounded; the lowest one that sounds is the next note; what it adds
        is added. This decides the same as cell by cell, in one round more than the part has notes.

        Args:
            inputs: of `prepare`; overwritten.
            previous: the cells of the step before.
            limits: a cell is set if its logit is greater.
        """
        b, n, k, p = previous.shape
        limit = limits[:, :, -1:]  # the frame's limit comes first, as its logit does
        if k == 2:
            onset_limit = limits[:, :, ONSET].masked_fill(previous[:, :, FRAME] == 0, -torch.inf)
            limit = torch.cat([limit, onset_limit[:, :, None]], 2)
        cells = torch.zeros(b, n, k, p + 1, device=inputs.device)  # writes to index P are dropped
        order = torch.arange(p, device=inputs.device)
        for part in range(n):
            last = torch.full((b, 1), -1, device=inputs.device)  # the last note; P: there are no more
            begun = torch.zeros(b, dtype=torch.bool, device=inputs.device)
            while True:
                logits = self.logits(torch.relu(inputs[:, part : part + 1]), slice(part, part + 1))[:, :k, 0]
                is_set = logits > limit[:, part]  # [B, K, P]
                has_note, pitch = (is_set[:, 0] & (order > last)).max(1)  # the first
                if not has_note.any():
                    break
                note = torch.where(has_note, pitch, p)
                cells[:, part, 0].scatter_(1, note[:, None], 1.0)
                row = note
                if k == 2:
                    begins = has_note & is_set[:, 1].gather(1, pitch[:, None])[:, 0]
                    cells[:, part, 1].scatter_(1, torch.where(begins, pitch, p)[:, None], 1.0)
                    row = torch.where(begins & ~begun, pitch + p + 1, note)
                    begun |= begins
                inputs[:, part:] += additions[part][row]
                last = note[:, None]
        return cells[..., :p].flip(2)
