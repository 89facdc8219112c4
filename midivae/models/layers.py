"""Layers of the transformer's encoder and decoder.

Shapes:
    B  windows    S  steps of a pass    R  steps in reach    N  parts    P  pitches
    D  width of vectors    C  channels of a field    A  heads    E  width of a head

Offers: `EncoderLayer`, `DecoderLayer`, `Seen`; `lag_bucket`, `by_distance`, `channelwise`, `plus_channelwise`,
`normed`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from midivae.config.train import Transformer as Settings

BUCKETS = 32  # of distances in time: exact up to half of them, then ever wider
FARTHEST = 512  # steps: all beyond share the last bucket
CHANNELS_PER_MIX = 4  # channels of a field that share one mixing of pitches


def lag_bucket(lag: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
    """The bucket of a distance in steps, 0 and up (Raffel et al. 2020, section 2.1, one direction)."""
    half = BUCKETS // 2
    wide = half + (torch.log(lag.clamp(min=1) / half) / math.log(FARTHEST / half) * half).long()
    return torch.where(lag < half, lag, wide.clamp(max=BUCKETS - 1))


def by_distance(weight: Float[Tensor, "*G O"]) -> Float[Tensor, "*G P P"]:
    """Matrices [from, to] whose entries depend on to - from alone; `weight` holds them from 1 - P to P - 1."""
    pitches = (weight.shape[-1] + 1) // 2
    return weight.unfold(-1, pitches, 1).flip(-2)


def channelwise(weight: Float[Tensor, "E C"], field: Float[Tensor, "*B C P"]) -> Float[Tensor, "*B E P"]:
    """The same linear map of channels at each pitch; as a batch of products it copies nothing."""
    flat = field.reshape(-1, *field.shape[-2:])
    out = torch.bmm(weight.expand(len(flat), *weight.shape), flat)
    return out.view(*field.shape[:-2], *out.shape[-2:])


def plus_channelwise(
    start: Float[Tensor, "*B E R"], weight: Float[Tensor, "E C"], field: Float[Tensor, "*B C P"]
) -> Float[Tensor, "*B E P"]:
    """`start + channelwise(weight, field)` in one pass; R is P, or 1."""
    flat = field.reshape(-1, *field.shape[-2:])
    out = torch.baddbmm(start.reshape(-1, *start.shape[-2:]), weight.expand(len(flat), *weight.shape), flat)
    return out.view(*field.shape[:-2], *out.shape[-2:])


def normed(field: Float[Tensor, "*B C P"]) -> Float[Tensor, "*B C P"]:
    """Mean 0 and variance 1 over channels and pitches together, so that a louder pitch stays louder."""
    return F.layer_norm(field, field.shape[-2:])


class EncoderLayer(nn.Module):
    """Self-attention over all steps of a window, and a layer on each step."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.lag = nn.Embedding(2 * BUCKETS, heads)

    def forward(self, vector: Float[Tensor, "B T D"], bucket: Int[Tensor, "T T"]) -> Float[Tensor, "B T D"]:
        """`bucket`: of each distance, those back in time after those ahead."""
        b, t, d = vector.shape
        q, k, v = self.qkv(self.norm1(vector)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.lag(bucket).permute(2, 0, 1)  # [A, T, T]
        fetched = F.scaled_dot_product_attention(q, k, v, bias.expand(b, -1, -1, -1))
        vector = vector + self.dropout(self.out(fetched.transpose(1, 2).reshape(b, t, d)))
        out: Tensor = vector + self.dropout(self.down(torch.relu(self.up(self.norm2(vector)))))
        return out


class Seen(NamedTuple):
    """What a layer keeps of each step for the steps after it: keys, and values of vectors and fields side by side."""

    key: Float[Tensor, "B A S E"]
    value: Float[Tensor, "B A S V"]


class DecoderLayer(nn.Module):
    """Attention that weighs steps by their vectors and fetches vectors and fields; then mixing within a step."""

    def __init__(self, settings: Settings, pitches: int) -> None:
        super().__init__()
        d, c = settings.width, settings.channels
        self.heads = settings.heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.field_out = nn.Parameter(torch.empty(c, c))
        self.lag = nn.Embedding(BUCKETS, self.heads)
        self.up, self.down = nn.Linear(d + c, 4 * d), nn.Linear(4 * d, d)
        self.distance = nn.Parameter(torch.empty(c // CHANNELS_PER_MIX, 2 * pitches - 1))
        self.field_up, self.near_up = (nn.Parameter(torch.empty(2 * c, c)) for _ in range(2))
        self.tell = nn.Linear(d, 2 * c)
        self.field_down = nn.Parameter(torch.empty(c, 2 * c))
        self.dropout = nn.Dropout(settings.dropout)

    def look(
        self, vector: Float[Tensor, "B S D"], field: Float[Tensor, "B S C P"]
    ) -> tuple[Float[Tensor, "B A S E"], Seen]:
        """What these steps ask for, and what they have to give."""
        b, s, _ = vector.shape
        q, k, v = self.qkv(self.norm1(vector)).view(b, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        fields = normed(field).view(b, s, self.heads, -1).transpose(1, 2)  # [B, A, S, C / A * P]
        return q, Seen(k, torch.cat([v, fields], -1))

    def forward(
        self,
        vector: Float[Tensor, "B S D"],
        field: Float[Tensor, "B S C P"],
        query: Float[Tensor, "B A S E"],
        seen: Seen,
        bucket: Int[Tensor, "S R"],
        hidden: Float[Tensor, "B 1 S R"],
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S C P"]]:
        """The next state; R steps are in reach, `hidden` is `NEVER` where one must not be seen and 0 elsewhere."""
        b, s, d = vector.shape
        c, p = field.shape[-2:]
        scores = query @ seen.key.transpose(-1, -2) / math.sqrt(d / self.heads)
        weights = torch.softmax(scores + (self.lag(bucket).permute(2, 0, 1) + hidden), -1)
        fetched = (weights @ seen.value).transpose(1, 2)  # [B, S, A, (D + C * P) / A]
        head = d // self.heads
        vector = vector + self.dropout(self.out(fetched[..., :head].reshape(b, s, d)))
        field = field + channelwise(self.field_out, fetched[..., head:].reshape(b, s, c, p)) * self._kept(b, s, c)

        v, f = self.norm2(vector), normed(field)
        # a product of matrices per group of channels; the channels of a group lie apart, so that no copy is made
        groups = f.reshape(b * s * CHANNELS_PER_MIX, -1, p).transpose(0, 1)
        near = torch.bmm(groups, by_distance(self.distance)).transpose(0, 1).reshape(b, s, c, p)
        up = plus_channelwise(self.tell(v)[..., None], self.field_up, f)
        up = plus_channelwise(up, self.near_up, near).relu_()
        field = field + channelwise(self.field_down, up) * self._kept(b, s, c)
        vector = vector + self.dropout(self.down(torch.relu(self.up(torch.cat([v, f.mean(-1)], -1)))))
        return vector, field

    def _kept(self, b: int, s: int, c: int) -> Float[Tensor, "{b} {s} {c} 1"]:
        """Dropout of a field: a channel of a step is dropped at all pitches."""
        kept: Tensor = self.dropout(torch.ones(b, s, c, 1, device=self.field_out.device))
        return kept
