"""Layers of the transformer's encoder and decoder.

The encoder has a *vector* for each step. The decoder has a vector and a *field*: channels for each pitch. Weights of a
field depend on distances between pitches, never on a pitch itself, so what is learned in one key holds in all keys.

Shapes:
    B  windows    T  steps of a window    S  steps that are computed    R  steps that attention can use
    D  width of a vector    C, E  channels of a field    P  pitches    A  heads    K  width of a head's keys
    V  width of a head's values    M  matrices    O  distances between pitches, 2 * P - 1

Offers: `EncoderLayer`, `DecoderLayer`, `KeyValues`; `lag_bucket`, `distance_buckets`, `distance_matrix`,
`map_channels`, `add_mapped_channels`, `normalise_field`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from midivae.config.train import Transformer as Settings

BUCKETS = 32  # number of buckets for distances in time: the first half is exact, the others grow wider
FARTHEST = 512  # steps: greater distances share the last bucket
CHANNELS_PER_MIX = 4  # channels of a field that share one matrix of distances


def lag_bucket(lag: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
    """The bucket of each distance in steps, 0 or more (Raffel et al. 2020, section 2.1, one direction)."""
    exact = BUCKETS // 2
    wide = exact + (torch.log(lag.clamp(min=1) / exact) / math.log(FARTHEST / exact) * exact).long()
    return torch.where(lag < exact, lag, wide.clamp(max=BUCKETS - 1))


def distance_buckets(steps: int, device: torch.device) -> Int[Tensor, "{steps} {steps}"]:
    """The bucket of each distance between two steps of a window: those forward in time after those back."""
    at = torch.arange(steps, device=device)
    lag = at[:, None] - at
    return lag_bucket(lag.abs()) + BUCKETS * (lag < 0)


def distance_matrix(weight: Float[Tensor, "*M O"]) -> Float[Tensor, "*M P P"]:
    """Matrices [from pitch, to pitch] whose entries depend on the distance alone.

    Args:
        weight: the entries of distances `to - from` from 1 - P to P - 1.
    """
    pitches = (weight.shape[-1] + 1) // 2
    return weight.unfold(-1, pitches, 1).flip(-2)


def map_channels(weight: Float[Tensor, "E C"], field: Float[Tensor, "*B C P"]) -> Float[Tensor, "*B E P"]:
    """The same linear map of the channels at each pitch, as a batch of products, which copies no data."""
    flat = field.reshape(-1, *field.shape[-2:])
    out = torch.bmm(weight.expand(len(flat), *weight.shape), flat)
    return out.view(*field.shape[:-2], *out.shape[-2:])


def add_mapped_channels(
    start: Float[Tensor, "*B E _"], weight: Float[Tensor, "E C"], field: Float[Tensor, "*B C P"]
) -> Float[Tensor, "*B E P"]:
    """`start + map_channels(weight, field)` in one pass; the last axis of `start` is P or 1."""
    flat = field.reshape(-1, *field.shape[-2:])
    out = torch.baddbmm(start.reshape(-1, *start.shape[-2:]), weight.expand(len(flat), *weight.shape), flat)
    return out.view(*field.shape[:-2], *out.shape[-2:])


def normalise_field(field: Float[Tensor, "*B C P"]) -> Float[Tensor, "*B C P"]:
    """Mean 0 and variance 1 over channels and pitches together, which keeps the differences between pitches."""
    return F.layer_norm(field, field.shape[-2:])


class EncoderLayer(nn.Module):
    """Self-attention over all steps of a window, then two dense layers on each step."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.lag = nn.Embedding(2 * BUCKETS, heads)

    def forward(self, vector: Float[Tensor, "B T D"], bucket: Int[Tensor, "T T"]) -> Float[Tensor, "B T D"]:
        """The next vectors; `bucket`: of each distance, where a step that is later counts from `BUCKETS` up."""
        b, t, d = vector.shape
        q, k, v = self.qkv(self.norm1(vector)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.lag(bucket).permute(2, 0, 1)  # [A, T, T]
        attended = F.scaled_dot_product_attention(q, k, v, bias.expand(b, -1, -1, -1))
        vector = vector + self.dropout(self.out(attended.transpose(1, 2).reshape(b, t, d)))
        out: Tensor = vector + self.dropout(self.down(torch.relu(self.up(self.norm2(vector)))))
        return out


class KeyValues(NamedTuple):
    """The keys and values of a layer's steps; a value joins the head's parts of vector and field."""

    key: Float[Tensor, "B A R K"]
    value: Float[Tensor, "B A R V"]


class DecoderLayer(nn.Module):
    """Attention over steps, then layers on each step.

    Attention weights are computed from vectors alone. The values are vectors and whole fields.
    """

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

    def project(
        self, vector: Float[Tensor, "B S D"], field: Float[Tensor, "B S C P"]
    ) -> tuple[Float[Tensor, "B A S K"], KeyValues]:
        """The queries, and the keys and values, of these steps."""
        b, s, _ = vector.shape
        q, k, v = self.qkv(self.norm1(vector)).view(b, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        fields = normalise_field(field).view(b, s, self.heads, -1).transpose(1, 2)  # [B, A, S, C / A * P]
        return q, KeyValues(k, torch.cat([v, fields], -1))

    def forward(
        self,
        vector: Float[Tensor, "B S D"],
        field: Float[Tensor, "B S C P"],
        query: Float[Tensor, "B A S K"],
        memory: KeyValues,
        bucket: Int[Tensor, "S R"],
        mask: Float[Tensor, "B 1 S R"],
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S C P"]]:
        """The next vectors and fields; the lag's bias and `mask` are added to the attention's scores."""
        b, s, d = vector.shape
        c, p = field.shape[-2:]
        head = d // self.heads
        scores = query @ memory.key.transpose(-1, -2) / math.sqrt(head)
        weights = torch.softmax(scores + (self.lag(bucket).permute(2, 0, 1) + mask), -1)
        attended = (weights @ memory.value).transpose(1, 2)  # [B, S, A, (D + C * P) / A]
        vector = vector + self.dropout(self.out(attended[..., :head].reshape(b, s, d)))
        field = field + self._drop_channels(map_channels(self.field_out, attended[..., head:].reshape(b, s, c, p)))

        v, f = self.norm2(vector), normalise_field(field)
        # one product for each group of channels; a group takes every (C / CHANNELS_PER_MIX)-th channel, without a copy
        groups = f.reshape(b * s * CHANNELS_PER_MIX, -1, p).transpose(0, 1)
        near = torch.bmm(groups, distance_matrix(self.distance)).transpose(0, 1).reshape(b, s, c, p)
        hidden = add_mapped_channels(self.tell(v)[..., None], self.field_up, f)
        hidden = add_mapped_channels(hidden, self.near_up, near).relu_()
        field = field + self._drop_channels(map_channels(self.field_down, hidden))
        vector = vector + self.dropout(self.down(torch.relu(self.up(torch.cat([v, f.mean(-1)], -1)))))
        return vector, field

    def _drop_channels(self, field: Float[Tensor, "B S C P"]) -> Float[Tensor, "B S C P"]:
        """Dropout that drops a channel of a step at all pitches."""
        if not self.training:
            return field
        kept: Tensor = self.dropout(torch.ones(*field.shape[:-1], 1, device=field.device))  # not in bfloat16
        return field * kept
