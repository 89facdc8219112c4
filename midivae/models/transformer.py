"""Model `transformer`: a variational autoencoder whose decoder is autoregressive over steps and over a step's cells.

The decoder keeps two states for each step: a *vector*, for what concerns the step as a whole (key, harmony, form), and
a *field*, with channels for each pitch. Attention over earlier steps is computed from vectors alone and returns vectors
and whole fields, so a relation such as "as two bars ago" is learned once for all pitches. Within a step, layers mix
the pitches of a field by their distance. Weights that hold in every key need less data.

The head (`models.head`) then decides the cells of the step one after the other.

What the decoder knows of a window beforehand is its *plan*, which is added to the states of its steps:

    the coarse latent   some numbers for the whole window: its idea. A linear map turns it into `PLAN` numbers a beat
    the fine latent     some numbers for each beat: its notes, as a draft (`models.draft`) that field and head see
    the place           of each step in its bar, and of the bar in the piece (`windows.place`)
    given cells         that are decided beforehand (`models.given`)
    the shift           in semitones, if training transposed the window. Samples have shift 0: the registers and keys of
                        the corpus, although the model learned from transposed music

A latent that brings the notes back cannot be predicted by a prior, and a latent that a prior can predict cannot bring
the notes back; so there are two. In training some windows have none of them, some both, most the coarse one, and the
decoder is told which. So it is a model that writes music with an idea, and an autoencoder.

The decoder sees the steps before the window as they are. So windows continue each other, and their bounds add up. With
z_w the latent of window w:

    log p(x) >= sum over w of E_q[log p(x_w | x_<w, z_w)] - KL(q(z_w | x_w) || p(z_w))

Shapes:
    B  windows    L  steps before the window    T  steps of the window    S  steps that are computed, at most L + T
    N  parts      K  planes    P  pitches       Z  latent    Q  beats     D  width of a vector    C  channels of a field
    C_ coarse latent
    M  rows of cells of a plan: the draft's N * K, and those of given cells

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
from midivae.models.base import Config, WindowModel
from midivae.models.chance import Chance
from midivae.models.draft import Draft
from midivae.models.elbo import Elbo
from midivae.models.encoder import PLAN, Encoder
from midivae.models.flow import Prior
from midivae.models.given import GivenEncoder, random_given
from midivae.models.head import Head
from midivae.models.layers import DecoderLayer, KeyValues, lag_bucket, map_channels
from midivae.music.roll import FRAME, ONSET
from midivae.windows.batch import Batch
from midivae.windows.place import BEFORE, PLACES, UNKNOWN, grid_places

RECENT = 4  # last steps whose cells enter a field directly; attention provides the others
DRAFT_SCALE = 4.0  # a draft is shown as tanh(logit / DRAFT_SCALE)
MASKED = -1e9  # added to the attention's score of a step that must not be seen


NO_LATENT, COARSE, BOTH = range(3)  # what the decoder has of a window's latent


class Plan(NamedTuple):
    """What is known of a window beforehand.

    Attributes:
        vector, field: added to the states of the steps.
        rows: the draft of each cell of the window, from -1 to 1, and its given cells.
    """

    vector: Float[Tensor, "B S D"]
    field: Float[Tensor, "B S C P"]
    rows: Float[Tensor, "B T M P"]


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

        self.draft, self.encoder = Draft(config), Encoder(config, settings, beats)
        self.given = GivenEncoder(config, settings)
        self.plan = nn.Linear(settings.coarse, beats * PLAN)
        self.plan_vector, self.plan_field = nn.Linear(PLAN, d), nn.Linear(PLAN, c * p)
        self.draft_field = nn.Parameter(torch.empty(c, n * k))
        self.level = nn.Embedding(3, d)  # NO_LATENT, COARSE or BOTH
        self.share = nn.Parameter(torch.empty(d))  # times the share of the fine dimensions that are used
        self.places = nn.Embedding(sum(PLACES), d)
        self.shift = nn.Embedding(2 * settings.transpose + 1, d)  # semitones by which a window is transposed
        self.embed = nn.Linear(n * k * p + 1, d)  # the cells of the previous step, and whether there is none
        self.place = nn.Parameter(torch.empty(settings.context + t, d))  # relative to the window's start
        self.recent = nn.Parameter(torch.empty(c, RECENT * n * k))
        self.pitch = nn.Parameter(torch.empty(c, p))
        self.layers = nn.ModuleList(DecoderLayer(settings, p) for _ in range(settings.layers))
        self.head = Head(settings, n, p, 2 * n * k + self.given.rows)
        self.prior: Prior = Prior(settings.coarse, self.draft.latent)
        self.prior.requires_grad_(False)  # it is fitted afterwards

    def initialise(self, generator: torch.Generator) -> None:
        """Gives every weight its first value, normal with the variance at which layers keep the size of their input."""
        small = ("now", "distance", "begun", "place", "pitch", "share")
        for name, weight in self.named_parameters():
            if name.startswith(("prior.", "draft.")):
                continue
            kind = name.rpartition(".")[2]
            if weight.ndim == 1 and "norm" in name and kind == "weight":
                nn.init.ones_(weight)
            elif kind in ("bias", "inner_bias"):
                nn.init.zeros_(weight)
            elif kind in small or "lag" in name or name.startswith(("level.", "places.", "shift.")):
                nn.init.normal_(weight, std=0.05, generator=generator)
            else:
                nn.init.normal_(weight, std=weight.shape[-1] ** -0.5, generator=generator)
        with torch.no_grad():
            for layer in self._decoder:
                for residual in (layer.field_out, layer.field_down, layer.out.weight, layer.down.weight):
                    residual.mul_(0.5)
            for start in (self.encoder.posterior.weight, self.given.out.weight):
                start.mul_(0.5)
            self.plan_field.weight.mul_(0.1)
            self.head.bias.fill_(-3.0)  # most cells are silent
        self.draft.initialise(generator)
        self.prior.initialise(generator)

    @property
    def _decoder(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.layers))

    # --- latent
    @property
    def latent(self) -> int:
        """Z, the number of latent dimensions."""
        return self.coarse + self.draft.latent

    @property
    def coarse(self) -> int:
        """The number of coarse dimensions, the first ones of a latent."""
        return self.settings.coarse

    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of the posterior of both latents."""
        mu, logvar = (torch.cat(both, 1) for both in zip(self.encoder.encode(x), self.draft.encode(x), strict=True))
        return mu, logvar

    def _plan(self, batch: Batch, z: Float[Tensor, "B Z"], level: Int[Tensor, " B"], count: Int[Tensor, " B"]) -> Plan:
        """The plan of windows.

        Args:
            level: what the decoder has of each latent.
            count: how many fine dimensions of each beat are used at level `BOTH`.
        """
        steps, n, k, pitches = self.config.window_shape
        context = batch.before.shape[1]
        coarse, fine = z[:, : self.coarse], z[:, self.coarse :] * self.draft.first_dimensions(count)
        has_coarse, has_fine = (level >= COARSE).to(z.dtype), (level == BOTH).to(z.dtype)

        beats = torch.tanh(self.plan(coarse)).view(len(z), -1, PLAN) * has_coarse[:, None, None]
        field = self.plan_field(beats).view(*beats.shape[:2], -1, pitches)
        vector, field = (x.repeat_interleave(self.beat, 1)[:, :steps] for x in (self.plan_vector(beats), field))
        share = has_fine * count / self.draft.fine
        shift = self.shift((batch.shift + self.settings.transpose).clamp(0, 2 * self.settings.transpose))
        vector = vector + (self.level(level) + share[:, None] * self.share + shift)[:, None]
        draft = torch.tanh(self.draft.decode(fine) / DRAFT_SCALE).view(len(z), steps, n * k, pitches)
        draft = draft * has_fine[:, None, None, None]
        nothing = torch.zeros(len(z), steps, n, pitches, dtype=torch.bool, device=z.device)
        given = self.given(batch.x, nothing if batch.given is None else batch.given)
        vector, field = vector + given.vector, field + given.field + map_channels(self.draft_field, draft)

        first = torch.tensor((0, *PLACES[:-1]), device=z.device).cumsum(0)  # of the rows of each of the four numbers
        places = self.places(batch.place + first).sum(2)  # [B, L + T, D]
        vector = F.pad(vector, (0, 0, context, 0)) + places
        return Plan(vector, F.pad(field, (0, 0, 0, 0, context, 0)), torch.cat([draft, given.rows], 2))

    def _levels(
        self, z: Float[Tensor, "B Z"], fidelity: Float[Tensor, " B"] | None
    ) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """Level and count, as `_plan` takes them, of a fidelity."""
        if fidelity is None:
            fidelity = torch.ones(len(z), device=z.device)
        count = torch.ceil(fidelity * self.draft.fine).long()
        return torch.where(count > 0, BOTH, COARSE), count

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
        context = total - plan.rows.shape[1]
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
    def nats(
        self, batch: Batch, z: Float[Tensor, "B Z"], fidelity: Float[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        """-log p(x | z, before, given) of each window, over the steps inside the piece and the cells not given.

        If a window has no steps before it, a note that is held at its first step counts as one that begins there.
        """
        plan = self._plan(batch, z, *self._levels(z, fidelity))
        return self._nats(batch, plan, torch.cat([batch.before, batch.x], 1))

    def _nats(self, batch: Batch, plan: Plan, cells: Float[Tensor, "B S N K P"]) -> Float[Tensor, " B"]:
        """As `nats`; `cells`: what the decoder sees of the batch."""
        x, context = batch.x, batch.before.shape[1]
        vector, field = self._states(F.pad(cells[:, :-1], (0, 0, 0, 0, 0, 0, RECENT, 0)), plan, batch.n_before)
        # the head sees the true previous step, because it decides whether a hold is possible
        previous = F.pad(torch.cat([batch.before, x], 1), (0, 0, 0, 0, 0, 0, 1, 0))[:, context:-1]  # [B, T, N, K, P]
        frame, onset = x[..., -1, :], x[..., ONSET, :] if x.shape[3] == 2 else None
        rows = torch.cat([previous.flatten(2, 3), plan.rows], 2)
        logits = self.head(vector[:, context:], field[:, context:], rows, frame, onset)
        frame_logit, onset_logit = logits.float().unbind(2)
        nats = F.softplus(frame_logit) - frame * frame_logit  # [B, T, N, P]
        if onset is not None:
            nats = nats + previous[..., FRAME, :] * frame * (F.softplus(onset_logit) - onset * onset_logit)
        if batch.given is not None:
            nats = nats * ~batch.given
        inside = torch.arange(x.shape[1], device=x.device) < batch.n_inside[:, None]
        total: Tensor = (nats.sum((2, 3)) * inside).sum(1)
        return total

    def elbo(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """The parts of the bound with the coarse latent, drawn once; without `generator` at the posterior's mean.

        In training, what the decoder has of each window is drawn too, by the shares of the settings. A window without a
        latent then counts no KL.
        """
        mu, logvar = self.encoder.encode(batch.x)
        coarse, kl = elbo.reparameterise(mu, logvar, generator), elbo.kl_per_dimension(mu, logvar)
        free = self.settings.free_nats
        if not self.training or generator is None:
            z = torch.cat([coarse, coarse.new_zeros(len(coarse), self.draft.latent)], 1)
            nats = self.nats(batch, z, torch.zeros(len(z), device=z.device))
            return Elbo(nats, kl.sum(1), self.settings.beta, elbo.charged(kl, free))
        with torch.no_grad():
            fine = elbo.reparameterise(*self.draft.encode(batch.x), generator)
        z = torch.cat([coarse, fine], 1)
        draw = torch.rand(len(z), generator=generator, device=z.device)
        level = (draw >= self.settings.no_latent).long() + (draw >= 1 - self.settings.both_latents).long()
        batch, cells = self._hide(batch, level, generator)
        nats = self._nats(batch, self._plan(batch, z, level, self.draft.random_counts(len(z), generator)), cells)
        has_coarse = (level >= COARSE).float()[:, None]
        n = has_coarse.sum()
        charged = elbo.charged(kl * has_coarse * len(z) / n.clamp(min=1), free) * n / len(z)
        return Elbo(nats, (kl * has_coarse).sum(1), self.settings.beta, charged)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it cannot follow generators
    def _hide(
        self, batch: Batch, level: Int[Tensor, " B"], generator: torch.Generator
    ) -> tuple[Batch, Float[Tensor, "B S N K P"]]:
        """What the decoder sees in training, by the shares of the settings: the batch, and its cells."""

        def kept(share: float, *shape: int) -> Bool[Tensor, "*shape"]:
            return torch.rand(shape, generator=generator, device=batch.x.device) >= share

        settings, (b, t, n, _, p) = self.settings, batch.x.shape
        s = t + batch.before.shape[1]
        with_context = kept(settings.drop_context, b)
        before = batch.before * with_context[:, None, None, None, None]
        bars = kept(settings.drop_bars, b, 1, 2)
        place = torch.cat([batch.place[..., :BEFORE], torch.where(bars, batch.place[..., BEFORE:], UNKNOWN)], 2)
        given = random_given(batch.x, self.config.steps_per_bar, self.beat, settings.given, generator)
        batch = batch._replace(before=before, n_before=batch.n_before * with_context, place=place, given=given)
        windows = kept(settings.drop_window, b) | (level == NO_LATENT)
        notes = kept(settings.drop_steps, b, s, 1, 1, 1) & kept(settings.drop_notes, b, s, n, 1, p)
        return batch, torch.cat([before, batch.x], 1) * (notes & windows[:, None, None, None, None])

    # --- samples
    @torch.inference_mode()
    def cells(
        self,
        z: Float[Tensor, "B Z"],
        chance: Chance,
        uniform: Float[Tensor, "B T N K P"] | None = None,
        batch: Batch | None = None,
        fidelity: Float[Tensor, " B"] | None = None,
    ) -> Bool[Tensor, "B T N K P"]:
        """The windows that are decoded from latents, step by step; keys and values of earlier steps are kept."""
        shape = (len(z), *self.config.window_shape)
        if batch is None:
            place = torch.from_numpy(grid_places(0, shape[1], self.config.steps_per_bar)).to(z.device)
            batch = Batch.of(torch.zeros(shape, device=z.device))._replace(place=place.long().expand(len(z), -1, -1))
        context = batch.before.shape[1]
        plan = self._plan(batch, z, *self._levels(z, fidelity))
        cells = F.pad(torch.cat([batch.before, torch.zeros(shape, device=z.device)], 1), (0, 0) * 3 + (RECENT, 0))
        limits, additions = chance.limits(uniform).to(z.device).expand(shape), self.head.additions()
        if batch.given is not None:  # no logit is above infinity, and each is above minus infinity
            decided = torch.where(batch.x > 0, -torch.inf, torch.inf)
            limits = torch.where(batch.given[:, :, :, None], decided, limits)
        memory: list[KeyValues] = []
        if context:
            self._states(cells[:, : context + RECENT - 1], plan, batch.n_before, 0, memory)
        for t in range(shape[1]):
            first = context + t
            vector, field = self._states(cells[:, first : first + RECENT], plan, batch.n_before, first, memory)
            previous = cells[:, first + RECENT - 1]
            rows = torch.cat([previous.flatten(1, 2), plan.rows[:, t]], 1)
            inputs = self.head.prepare(vector, field, rows[:, None])[:, 0]
            cells[:, first + RECENT] = self.head.sample_step(inputs, previous, limits[:, t], additions)
        return cells[:, RECENT + context :] > 0
