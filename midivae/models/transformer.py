"""Model `transformer`: a variational autoencoder whose decoder is autoregressive over steps and over a step's cells.

The decoder keeps two states for each step: a *vector*, for what concerns the step as a whole (key, harmony, form), and
a *field*, with channels for each pitch. Attention over earlier steps is computed from vectors alone and returns vectors
and whole fields, so a relation such as "as two bars ago" is learned once for all pitches. Within a step, layers mix
the pitches of a field by their distance. Weights that hold in every key need less data.

The head (`models.head`) then decides the cells of the step one after the other.

Each window has one latent. A linear map turns it into a *plan*, `PLAN` numbers for each beat, which is added to the
vectors and fields of that beat's steps. With `settings.draft`, a *draft* of each beat's cells (`models.draft`) is also
decoded from the latent and shown to fields and head. The draft's encoder then replaces `models.encoder`.

The decoder sees the steps before the window as they are. So windows continue each other, and their bounds add up. With
z_w the latent of window w:

    log p(x) >= sum over w of E_q[log p(x_w | x_<w, z_w)] - KL(q(z_w | x_w) || p(z_w))

Shapes:
    B  windows    L  steps before the window    T  steps of the window    S  steps that are computed, at most L + T
    N  parts      K  planes    P  pitches       Z  latent    Q  beats     D  width of a vector    C  channels of a field
    M  rows of a draft, N * K or 0

Offers: `Transformer`.
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
from midivae.models.layers import DecoderLayer, KeyValues, lag_bucket, map_channels
from midivae.music.roll import FRAME, ONSET
from midivae.windows.batch import Batch

RECENT = 4  # last steps whose cells enter a field directly; attention provides the others
DRAFT_SCALE = 4.0  # a draft is shown as tanh(logit / DRAFT_SCALE)
MASKED = -1e9  # added to the attention's score of a step that must not be seen


class Plan(NamedTuple):
    """What is decoded from a latent alone.

    Attributes:
        vector, field: added to the states of the steps; 0 for the steps before the window.
        draft: of each cell of the window, from -1 to 1; no rows if the model has no draft.
    """

    vector: Float[Tensor, "B S D"]
    field: Float[Tensor, "B S C P"]
    draft: Float[Tensor, "B T M P"]


class Transformer(WindowModel):
    """The model of this module."""

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
        draft_rows = n * k if settings.draft else 0
        self.draft_field = nn.Parameter(torch.empty(c, draft_rows)) if settings.draft else None
        self.embed = nn.Linear(n * k * p + 1, d)  # the cells of the previous step, and whether there is none
        self.place = nn.Parameter(torch.empty(settings.context + t, d))
        self.recent = nn.Parameter(torch.empty(c, RECENT * n * k))
        self.pitch = nn.Parameter(torch.empty(c, p))
        self.layers = nn.ModuleList(DecoderLayer(settings, p) for _ in range(settings.layers))
        self.head = Head(settings, n, p, n * k + draft_rows)
        self.prior: Prior = Prior(settings.latent, beats if settings.draft else 1)
        self.prior.requires_grad_(False)  # it is fitted afterwards

    def initialise(self, generator: torch.Generator) -> None:
        """Gives every weight its first value, normal with the variance at which layers keep the size of their input."""
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
            self._assign_dimensions_to_beats()
            self.plan_field.weight.mul_(0.1)
            self.head.bias.fill_(-3.0)  # most cells are silent
        if self.draft is not None:
            self.draft.initialise(generator)
        self.prior.initialise(generator)

    def _assign_dimensions_to_beats(self) -> None:
        """At first each beat mainly writes and reads its own latent dimensions.

        Training may use any dimension for any beat, but from this start the latent comes into use far sooner.
        """
        beats, latent = self.plan.out_features // PLAN, self.settings.latent
        beat_of_dimension = torch.arange(latent) * beats // latent
        own = (torch.arange(beats).repeat_interleave(PLAN)[:, None] == beat_of_dimension).float()  # [Q * PLAN, Z]
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

    def _plan(self, z: Float[Tensor, "B Z"], context: int) -> Plan:
        """The plan of a window with so many steps before it."""
        steps, n, k, pitches = self.config.window_shape
        beats = torch.tanh(self.plan(z)).view(len(z), -1, PLAN)  # [B, Q, PLAN]
        field = self.plan_field(beats).view(*beats.shape[:2], -1, pitches)
        vector, field = (x.repeat_interleave(self.beat, 1)[:, :steps] for x in (self.plan_vector(beats), field))
        draft = field[:, :, :0]
        if self.draft is not None:
            draft = torch.tanh(self.draft.decode(z) / DRAFT_SCALE).view(len(z), steps, n * k, pitches)
            field = field + map_channels(cast("Tensor", self.draft_field), draft)
        return Plan(F.pad(vector, (0, 0, context, 0)), F.pad(field, (0, 0, 0, 0, context, 0)), draft)

    # --- states
    def _first_states(
        self, cells: Float[Tensor, "B _ N K P"], at_begin: Bool[Tensor, "B S"], place: Float[Tensor, "S D"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S C P"]]:
        """The states of S steps before the layers.

        Args:
            cells: of the RECENT + S - 1 steps that end before the last of the S steps.
            at_begin: whether no step before this one is known.
        """
        b, r = cells.shape[:2]
        s = r - RECENT + 1
        flat = cells[:, RECENT - 1 :].flatten(2)
        vector = self.embed(torch.cat([flat, at_begin[..., None].to(flat.dtype)], -1)) + place
        rows = cells.flatten(2, 3)  # [B, RECENT + S - 1, N * K, P]
        recent = torch.cat([rows[:, RECENT - 1 - i : r - i] for i in range(RECENT)], 2)  # [B, S, RECENT * N * K, P]
        return vector, map_channels(self.recent, recent).view(b, s, -1, cells.shape[-1]) + self.pitch

    def _states(
        self,
        cells: Float[Tensor, "B _ N K P"],
        plan: Plan,
        n_before: Int[Tensor, " B"],
        first: int = 0,
        memory: list[KeyValues] | None = None,
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S C P"]]:
        """The states of S steps after the layers.

        Args:
            cells: as in `_first_states`.
            plan: of all L + T steps.
            n_before: how many of the L steps before the window are known.
            first: the first of the S steps, among the L + T.
            memory: the keys and values of each layer: those of earlier steps are read, those of the S steps are
                written. Empty at first. None: the S steps see no others.
        """
        last = first + cells.shape[1] - RECENT + 1
        total = plan.vector.shape[1]
        context = total - plan.draft.shape[1]
        steps = torch.arange(last, device=cells.device)
        now, begin = steps[first:], (context - n_before)[:, None]
        place = self.place[now + self.settings.context - context]  # relative to the window's start
        vector, field = self._first_states(cells, now == begin, place)
        vector, field = vector + plan.vector[:, first:last], field + plan.field[:, first:last]
        lag = now[:, None] - steps
        visible = (lag >= 0) & (steps >= begin[..., None]) | (lag == 0)
        mask, bucket = torch.where(visible, 0.0, MASKED).unsqueeze(1), lag_bucket(lag.clamp(min=0))
        for i, layer in enumerate(self._decoder):
            query, keys_values = layer.project(vector, field)
            if memory is not None:
                if len(memory) == i:
                    memory.append(KeyValues(*(x.new_empty(*x.shape[:2], total, x.shape[3]) for x in keys_values)))
                for stored, new in zip(memory[i], keys_values, strict=True):
                    stored[:, :, first:last] = new
                keys_values = KeyValues(*(stored[:, :, :last] for stored in memory[i]))
            vector, field = layer(vector, field, query, keys_values, bucket, mask)
        return vector, field

    # --- likelihood
    def nats(self, batch: Batch, z: Float[Tensor, "B Z"]) -> Float[Tensor, " B"]:
        """-log p(x | z, before) of each window, over the steps inside the piece.

        If a window has no steps before it, a note that is held at its first step counts as one that begins there.
        """
        return self._nats(batch, self._plan(z, batch.before.shape[1]), torch.cat([batch.before, batch.x], 1))

    def _nats(self, batch: Batch, plan: Plan, cells: Float[Tensor, "B S N K P"]) -> Float[Tensor, " B"]:
        """As `nats`; `cells`: what the decoder sees of the batch."""
        x, context = batch.x, batch.before.shape[1]
        vector, field = self._states(F.pad(cells[:, :-1], (0, 0, 0, 0, 0, 0, RECENT, 0)), plan, batch.n_before)
        # the head sees the true previous step, because it decides whether a hold is possible
        previous = F.pad(torch.cat([batch.before, x], 1), (0, 0, 0, 0, 0, 0, 1, 0))[:, context:-1]  # [B, T, N, K, P]
        frame, onset = x[..., -1, :], x[..., ONSET, :] if x.shape[3] == 2 else None
        inputs = torch.cat([previous.flatten(2, 3), plan.draft], 2)
        logits = self.head(vector[:, context:], field[:, context:], inputs, frame, onset)
        frame_logit, onset_logit = logits.float().unbind(2)
        nats = F.softplus(frame_logit) - frame * frame_logit  # [B, T, N, P]
        if onset is not None:
            nats = nats + previous[..., FRAME, :] * frame * (F.softplus(onset_logit) - onset * onset_logit)
        inside = torch.arange(x.shape[1], device=x.device) < batch.n_inside[:, None]
        total: Tensor = (nats.sum((2, 3)) * inside).sum(1)
        return total

    def elbo(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """The parts of the bound, with one draw of the latent; without `generator` at the posterior's mean."""
        mu, logvar = self.encode(batch.x)
        z = elbo.reparameterise(mu, logvar, generator)
        kl = elbo.kl_per_dimension(mu, logvar)
        cells = torch.cat([batch.before, batch.x], 1)
        if self.training and generator is not None:
            batch, cells = self._hide_cells(batch, cells, generator)
        nats = self._nats(batch, self._plan(z, batch.before.shape[1]), cells)
        return Elbo(nats, kl.sum(1), self.settings.beta, elbo.charged(kl, self.settings.free_nats))

    def _hide_cells(
        self, batch: Batch, cells: Float[Tensor, "B S N K P"], generator: torch.Generator
    ) -> tuple[Batch, Float[Tensor, "B S N K P"]]:
        """What the decoder sees in training, by the shares `drop_*` of the settings."""

        def kept(share: float, *shape: int) -> Bool[Tensor, "*shape"]:
            return torch.rand(shape, generator=generator, device=cells.device) >= share

        b, s, n, _, p = cells.shape
        with_context = kept(self.settings.drop_context, b)
        windows = kept(self.settings.drop_window, b, 1, 1, 1, 1)
        before = batch.before * with_context[:, None, None, None, None]
        batch = batch._replace(before=before, n_before=batch.n_before * with_context)
        notes = kept(self.settings.drop_steps, b, s, 1, 1, 1) & kept(self.settings.drop_notes, b, s, n, 1, p)
        return batch, torch.cat([before, batch.x], 1) * (notes & windows)

    # --- samples
    @torch.inference_mode()
    def cells(
        self,
        z: Float[Tensor, "B Z"],
        chance: Chance,
        uniform: Float[Tensor, "B T N K P"] | None = None,
        before: Batch | None = None,
    ) -> Bool[Tensor, "B T N K P"]:
        """The windows that are decoded from latents, step by step; keys and values of earlier steps are kept."""
        shape = (len(z), *self.config.window_shape)
        if before is None:
            before = Batch.of(torch.zeros(shape, device=z.device))
        context = before.before.shape[1]
        plan = self._plan(z, context)
        cells = F.pad(torch.cat([before.before, torch.zeros(shape, device=z.device)], 1), (0, 0) * 3 + (RECENT, 0))
        limits, additions = chance.limits(uniform).to(z.device).expand(shape), self.head.additions()
        memory: list[KeyValues] = []
        if context:
            self._states(cells[:, : context + RECENT - 1], plan, before.n_before, 0, memory)
        for t in range(shape[1]):
            first = context + t
            vector, field = self._states(cells[:, first : first + RECENT], plan, before.n_before, first, memory)
            previous = cells[:, first + RECENT - 1]
            rows = torch.cat([previous.flatten(1, 2), plan.draft[:, t]], 1)
            inputs = self.head.prepare(vector, field, rows[:, None])[:, 0]
            cells[:, first + RECENT] = self.head.sample_step(inputs, previous, limits[:, t], additions)
        return cells[:, RECENT + context :] > 0
