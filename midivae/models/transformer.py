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
from midivae.models.encoder import PLAN, Encoder
from midivae.models.flow import Prior
from midivae.models.head import Head
from midivae.models.layers import DecoderLayer, Seen, channelwise, lag_bucket
from midivae.music.roll import FRAME, ONSET
from midivae.windows.batch import Batch

RECENT = 4  # steps whose cells enter a field directly; attention brings the others
SURE = 4.0  # the logit at which a draft counts as sure
NEVER = -1e9  # added to the weight of a step that attention must not see


class Planned(NamedTuple):
    """What a latent says of its window's steps.

    Attributes:
        vector, field: added to the states of the steps.
        draft: of each cell, from -1 to 1; nothing where there is no draft.
    """

    vector: Float[Tensor, "B T D"]
    field: Float[Tensor, "B T C P"]
    draft: Float[Tensor, "B T M P"]


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
                made[:, RECENT + first] = self.head.sample_step(given, previous, chance, mine, influence, rhythm)
        return made[:, RECENT + context :] > 0
