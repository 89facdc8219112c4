"""`transformer`: a variational autoencoder whose decoder is causal over steps and autoregressive over cells.

The decoder keeps two states a step: a *vector*, which says where in the music we are (key, harmony, form), and a
*field*, some channels for each pitch. Attention over the steps before is computed from the vectors alone; what it
fetches are vectors and whole fields, so that "as two bars ago" is learned once for all pitches. Layers mix the pitches
of a field by their distance. What music shares under transposition is thus shared in the weights: data sets are small.

A step is then a sequence of cells, part after part and from low to high pitches (a neural autoregressive distribution
estimator; Larochelle & Murray 2011). A cell sees the step's vector and field and all cells before it, and says two
things: does a note sound, and, where one sounded on the step before, does it begin anew (onset) or go on (hold). Where
none sounded, a note that sounds begins: a hold without a note before it has no probability.

Each window has one latent. From it comes a *plan*, a few numbers per beat, which is added to vectors and fields; and
where params ask for one, a *draft* of each beat's cells (`models/draft.py`), which fields and head see: it then writes
the latent too, in place of the encoder over all steps.

The steps before the window are seen as they are, so that windows continue each other and their bounds add up: with z_w
the latent of window w, log p(x) >= sum over w of E_q[log p(x_w | x_<w, z_w)] - KL(q(z_w | x_w) || p(z_w)).

Shapes:
    B  windows    L  steps before the window    T  steps of it       S = L + T    N  parts      K  planes    P  pitches
    Z  latent     D  width of vectors           C  channels          A  heads     H  hidden units of a cell  Q  beats
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from midivae.config.train import Transformer as Settings
from midivae.models import elbo
from midivae.models.base import Chance, Config, WindowModel
from midivae.models.draft import Draft
from midivae.models.elbo import Elbo
from midivae.models.flow import Prior
from midivae.music.roll import FRAME, ONSET
from midivae.windows.batch import Batch

RECENT = 4  # steps whose cells enter a field directly; attention brings the others
BUCKETS = 32  # of distances in time: exact up to half of them, then ever wider
FARTHEST = 512  # steps: all beyond share the last bucket
CHANNELS_PER_MIX = 4  # channels of a field that share one mixing of pitches
PLAN = 64  # numbers per beat
SURE = 4.0  # the logit at which a draft counts as sure
NEVER = -1e9  # added to the weight of a step that attention must not see


# --- pieces of it -----------------------------------------------------------------------------------------------------
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


class Encoder(nn.Module):
    """A posterior from all steps of a window at once, where there is no draft."""

    def __init__(self, config: Config, settings: Settings, beats: int) -> None:
        super().__init__()
        _, n, k, p = config.window_shape
        self.beat = config.layout.steps_per_beat
        self.read = nn.Linear(n * k * p, settings.width)
        self.layers = nn.ModuleList(EncoderLayer(settings.width, settings.heads, settings.dropout) for _ in range(2))
        self.summary = nn.Linear(settings.width, PLAN)
        self.posterior = nn.Linear(beats * PLAN, 2 * settings.latent)

    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of the latent's posterior."""
        steps = x.shape[1]
        at = torch.arange(steps, device=x.device)
        lag = at[:, None] - at
        bucket = lag_bucket(lag.abs()) + BUCKETS * (lag < 0)
        vector = torch.relu(self.read(x.flatten(2)))
        for layer in self.layers:
            vector = layer(vector, bucket)
        beats = F.pad(self.summary(vector), (0, 0, 0, -steps % self.beat))
        beats = beats.view(len(x), -1, self.beat, PLAN).mean(2)  # [B, Q, PLAN]
        mu, logvar = self.posterior(beats.flatten(1)).float().chunk(2, -1)
        return mu, logvar


class Planned(NamedTuple):
    """What a latent says of its window's steps.

    Attributes:
        vector, field: added to the states of the steps.
        draft: of each cell, from -1 to 1; nothing where there is no draft.
    """

    vector: Float[Tensor, "B T D"]
    field: Float[Tensor, "B T C P"]
    draft: Float[Tensor, "B T M P"]


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


# --- the model --------------------------------------------------------------------------------------------------------
class Transformer(WindowModel):
    """The model of this module's title."""

    name: ClassVar[str] = "transformer"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        settings = config.network
        if not isinstance(settings, Settings):
            raise TypeError(f"model 'transformer' needs its own section, not {type(settings).__name__}")
        self.settings = settings
        t, n, k, p = config.window_shape
        d, c = settings.width, settings.channels
        self.beat = config.layout.steps_per_beat
        beats = -(-t // self.beat)

        self.draft = Draft(config) if settings.draft else None
        self.encoder = None if settings.draft else Encoder(config, settings, beats)
        self.plan = nn.Linear(settings.latent, beats * PLAN)
        self.plan_vector, self.plan_field = nn.Linear(PLAN, d), nn.Linear(PLAN, c * p)
        drafted = n * k if settings.draft else 0  # rows of cells that a draft adds
        self.draft_field = nn.Parameter(torch.empty(c, drafted)) if settings.draft else None
        self.embed = nn.Linear(n * k * p + 1, d)  # the cells of the step before, and whether there is none
        self.place = nn.Parameter(torch.empty(settings.context + t, d))
        self.recent = nn.Parameter(torch.empty(c, RECENT * n * k))
        self.pitch = nn.Parameter(torch.empty(c, p))
        self.layers = nn.ModuleList(DecoderLayer(settings, p) for _ in range(settings.layers))
        self.head = Head(settings, n, p, n * k + drafted)
        self.prior: Prior = Prior(settings.latent, beats if settings.draft else 1)
        self.prior.requires_grad_(False)  # it is fitted afterwards

    def initialise(self, generator: torch.Generator) -> None:
        """Gives every weight its first value: normal with the variance that keeps a layer's output as its input."""
        for name, weight in self.named_parameters():
            if name.startswith(("prior.", "draft.")):
                continue
            kind = name.rpartition(".")[2]
            if weight.ndim == 1 and "norm" in name and kind == "weight":
                nn.init.ones_(weight)
            elif kind in ("bias", "inner_bias"):
                nn.init.zeros_(weight)
            elif kind in ("now", "distance", "begun", "place", "pitch") or "lag" in name:
                nn.init.normal_(weight, std=0.05, generator=generator)
            else:
                nn.init.normal_(weight, std=weight.shape[-1] ** -0.5, generator=generator)
        with torch.no_grad():
            for layer in self._decoder:
                for residual in (layer.field_out, layer.field_down, layer.out.weight, layer.down.weight):
                    residual.mul_(0.5)
            self._give_beats_latents()
            self.plan_field.weight.mul_(0.1)
            self.head.bias.fill_(-3.0)  # most cells are silent
        if self.draft is not None:
            self.draft.initialise(generator)
        self.prior.initialise(generator)

    def _give_beats_latents(self) -> None:
        """At first each beat writes to latent dimensions of its own, and reads them, louder than all the others.

        Any dimension may come to serve any beat; but what a latent is for is found far sooner from there.
        """
        beats, latent = self.plan.out_features // PLAN, self.settings.latent
        of_latent = torch.arange(latent) * beats // latent
        own = (torch.arange(beats).repeat_interleave(PLAN)[:, None] == of_latent).float()  # [Q * PLAN, Z]
        self.plan.weight.mul_(own * beats**0.5 + 0.1)
        if self.encoder is not None:
            self.encoder.posterior.weight.mul_(0.3 * (own.T * beats**0.5 + 0.1).repeat(2, 1))

    @property
    def _decoder(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.layers))

    # --- latent
    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of the latent's posterior."""
        return (self.draft or cast("Encoder", self.encoder)).encode(x)

    def _planned(self, z: Float[Tensor, "B Z"]) -> Planned:
        """What the latent says of the window's steps."""
        steps, n, k, pitches = self.config.window_shape
        plan = torch.tanh(self.plan(z)).view(len(z), -1, PLAN)  # [B, Q, PLAN]
        field = self.plan_field(plan).view(*plan.shape[:2], -1, pitches)
        vector, field = (each.repeat_interleave(self.beat, 1)[:, :steps] for each in (self.plan_vector(plan), field))
        if self.draft is None:
            return Planned(vector, field, field[:, :, :0])
        draft = torch.tanh(self.draft.decode(z) / SURE).view(len(z), steps, n * k, pitches)
        return Planned(vector, field + channelwise(cast("Tensor", self.draft_field), draft), draft)

    # --- states
    def _first_states(
        self, cells: Float[Tensor, "B R N K P"], first: Bool[Tensor, "B S"], place: Float[Tensor, "S D"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S C P"]]:
        """States of S steps before any layer, from the cells of R = S + RECENT - 1 steps, all but the last one."""
        b, r = cells.shape[:2]
        s = r - RECENT + 1
        flat = cells[:, RECENT - 1 :].flatten(2)
        vector = self.embed(torch.cat([flat, first[..., None].to(flat.dtype)], -1)) + place
        rows = cells.flatten(2, 3)  # [B, R, N * K, P]
        recent = torch.cat([rows[:, RECENT - 1 - i : r - i] for i in range(RECENT)], 2)  # [B, S, RECENT * N * K, P]
        return vector, channelwise(self.recent, recent).view(b, s, -1, cells.shape[-1]) + self.pitch

    def _states(
        self, batch: Batch, planned: Planned, cells: Float[Tensor, "B S N K P"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T C P"]]:
        """States of the window's steps; `cells`: what is seen of context and window."""
        steps, context = batch.x.shape[1], batch.before.shape[1]
        total = context + steps
        at = torch.arange(total, device=cells.device)
        begin = context - batch.n_before  # [B]
        vector, field = self._first_states(
            F.pad(cells[:, :-1], (0, 0, 0, 0, 0, 0, RECENT, 0)), at == begin[:, None], self._places(context, at)
        )
        vector = torch.cat([vector[:, :context], vector[:, context:] + planned.vector], 1)
        field = torch.cat([field[:, :context], field[:, context:] + planned.field], 1)
        lag = at[:, None] - at
        visible = (lag >= 0) & (at >= begin[:, None, None]) | (lag == 0)
        hidden = torch.where(visible, 0.0, NEVER).unsqueeze(1)
        bucket = lag_bucket(lag.clamp(min=0))
        for layer in self._decoder:
            query, seen = layer.look(vector, field)
            vector, field = layer(vector, field, query, seen, bucket, hidden)
        return vector[:, context:], field[:, context:]

    def _places(self, context: int, at: Int[Tensor, " S"]) -> Float[Tensor, "S D"]:
        """Where steps lie relative to the window's start; a batch may bring fewer steps before it than there can be."""
        return self.place[at + self.settings.context - context]

    # --- likelihood
    def nats(self, batch: Batch, z: Float[Tensor, "B Z"]) -> Float[Tensor, " B"]:
        """-log p(x | z, before) of each window, of the steps in its piece.

        A note that goes on from a step that is not seen, at the start of a window without steps before it, counts as
        one that begins: nothing else could be heard.
        """
        return self._nats(batch, self._planned(z), torch.cat([batch.before, batch.x], 1))

    def _nats(self, batch: Batch, planned: Planned, cells: Float[Tensor, "B S N K P"]) -> Float[Tensor, " B"]:
        x, context = batch.x, batch.before.shape[1]
        vector, field = self._states(batch, planned, cells)
        # the head sees the step before as it is: it says whether a hold is possible at all
        truth = F.pad(torch.cat([batch.before, x], 1), (0, 0, 0, 0, 0, 0, 1, 0))[:, context:-1]  # [B, T, N, K, P]
        frame, onset = x[..., -1, :], x[..., ONSET, :] if x.shape[3] == 2 else None
        beside = torch.cat([truth.flatten(2, 3), planned.draft], 2)
        frame_logit, onset_logit = self.head(vector, field, beside, frame, onset).float().unbind(2)
        nats = F.softplus(frame_logit) - frame * frame_logit  # [B, T, N, P]
        if onset is not None:
            nats = nats + truth[..., FRAME, :] * frame * (F.softplus(onset_logit) - onset * onset_logit)
        inside = torch.arange(x.shape[1], device=x.device) < batch.n_inside[:, None]
        total: Tensor = (nats.sum((2, 3)) * inside).sum(1)
        return total

    def elbo(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """The parts of the bound, with one draw of the latent; `generator` None takes its mean."""
        mu, logvar = self.encode(batch.x)
        z = elbo.reparameterise(mu, logvar, generator)
        kl = elbo.kl_per_dimension(mu, logvar)
        cells = torch.cat([batch.before, batch.x], 1)
        if self.training and generator is not None:
            batch, cells = self._obscured(batch, cells, generator)
        settings = self.settings
        nats = self._nats(batch, self._planned(z), cells)
        return Elbo(nats, kl.sum(1), settings.beta, elbo.charged(kl, settings.free_nats))

    def _obscured(
        self, batch: Batch, cells: Float[Tensor, "B S N K P"], generator: torch.Generator
    ) -> tuple[Batch, Float[Tensor, "B S N K P"]]:
        """What the decoder sees in training: some windows not at all, some without what came before; not every note."""

        def kept(share: float, *shape: int) -> Bool[Tensor, "*shape"]:
            return torch.rand(shape, generator=generator, device=cells.device) >= share

        b, s, n, _, p = cells.shape
        with_context = kept(self.settings.drop_context, b)
        seeing = kept(self.settings.drop_window, b, 1, 1, 1, 1)
        before = batch.before * with_context[:, None, None, None, None]
        batch = batch._replace(before=before, n_before=batch.n_before * with_context)
        seen = kept(self.settings.drop_steps, b, s, 1, 1, 1) & kept(self.settings.drop_notes, b, s, n, 1, p)
        return batch, torch.cat([before, batch.x], 1) * (seen & seeing)

    # --- samples
    @torch.inference_mode()
    def cells(
        self,
        z: Float[Tensor, "B Z"],
        chance: Chance,
        uniform: Float[Tensor, "B T N K P"] | None = None,
        before: Batch | None = None,
    ) -> Bool[Tensor, "B T N K P"]:
        """The windows that it makes of latents, step after step; each layer keeps what later steps look at."""
        steps, n, k, p = self.config.window_shape
        b, device = len(z), z.device
        context = self.settings.context if before is None else before.before.shape[1]
        known = torch.zeros(b, dtype=torch.long, device=device) if before is None else before.n_before
        if before is None:
            context = 0
        made = torch.zeros(b, RECENT + context + steps, n, k, p, device=device)  # RECENT silent steps go before
        if before is not None:
            made[:, RECENT : RECENT + context] = before.before
        influence, rhythm = self.head.influence().view(n * p, n, -1, p), self.head.rhythm()
        planned = self._planned(z)
        total = context + steps
        at = torch.arange(total, device=device)
        begin = context - known
        caches: list[Seen | None] = [None] * len(self.layers)
        for first, last in [(0, context), *((t, t + 1) for t in range(context, total))]:
            if first == last:
                continue
            now = at[first:last]
            seen_cells = made[:, first : last + RECENT - 1]
            vector, field = self._first_states(seen_cells, now == begin[:, None], self._places(context, now))
            if first >= context:
                vector = vector + planned.vector[:, first - context, None]
                field = field + planned.field[:, first - context, None]
            lag = now[:, None] - at[:last]
            visible = (lag >= 0) & (at[:last] >= begin[:, None, None]) | (lag == 0)
            hidden, bucket = torch.where(visible, 0.0, NEVER).unsqueeze(1), lag_bucket(lag.clamp(min=0))
            for i, layer in enumerate(self._decoder):
                query, new = layer.look(vector, field)
                past = caches[i]
                seen = new if past is None else Seen(*(torch.cat(pair, 2) for pair in zip(past, new, strict=True)))
                caches[i] = seen
                vector, field = layer(vector, field, query, seen, bucket, hidden)
            if first >= context:
                previous = made[:, RECENT + first - 1]
                beside = torch.cat([previous[:, None].flatten(2, 3), planned.draft[:, first - context, None]], 2)
                given = self.head.given(vector, field, beside)[:, 0]
                mine = None if uniform is None else uniform[:, first - context]
                made[:, RECENT + first] = self._step(given, previous, chance, mine, influence, rhythm)
        return made[:, RECENT + context :] > 0

    def _step(
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
            logits = self.head.logits(known.clone())
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
