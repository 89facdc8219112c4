"""The fine latent of the transformer: the notes of each beat, written and read by two dense layers each way.

Each beat of a window has `settings.fine` dimensions. The encoder writes them from the cells of the beat alone; the
decoder makes of them a *draft* of the beat, a logit for each cell. A draft has nothing but the latent. So it is fitted
first, as a model of its own, within minutes, and the transformer is fitted with it afterwards. Fitted together with a
decoder that sees the music before, it would learn little: that decoder needs few of the notes to be told.

The dimensions of a beat are ordered by importance (nested dropout; Rippel, Gelbart & Adams 2014, "Learning ordered
representations with nested dropout"): in half of the training windows only the first k dimensions of each beat are
used, with k drawn evenly. So the first dimensions alone give an outline of the beat.

Shapes:
    B  windows    T  steps    N  parts    K  planes    P  pitches    F  fine latent of a window    Q  beats
    S  steps of a beat    O  dimensions of a beat    H  hidden units

Offers: `Draft`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from midivae.config.train import Transformer as Settings
from midivae.models import elbo
from midivae.models.base import CellwiseModel, Config
from midivae.models.elbo import Elbo
from midivae.windows.batch import Batch

FIRST_LOGVAR = -2.0  # of the posterior; dimensions that begin with more noise come into use late
FREE_NATS = 0.05  # KL of each dimension that is not charged
WHOLE = 0.5  # share of the training windows that use all dimensions


class Draft(CellwiseModel):
    """The model of this module."""

    name: ClassVar[str] = "draft"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        settings = config.network
        if not isinstance(settings, Settings):
            raise TypeError(f"a draft needs the section of model 'transformer', not {type(settings).__name__}")
        self.settings = settings
        steps, *of_step = config.window_shape
        self.beat = config.layout.steps_per_beat
        self.beats = -(-steps // self.beat)
        self.fine = settings.fine
        cells, hidden = self.beat * math.prod(of_step), settings.draft
        self.read, self.write = nn.Linear(cells, hidden), nn.Linear(hidden, 2 * self.fine)
        self.write_linear = nn.Linear(cells, 2 * self.fine, bias=False)
        self.recall, self.cell = nn.Linear(self.fine, hidden), nn.Linear(hidden, cells)
        self.cell_linear = nn.Linear(self.fine, cells, bias=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Gives every weight its first value: normal with the variance at which layers keep the size of their input."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.normal_(weight, std=weight.shape[-1] ** -0.5, generator=generator)
        with torch.no_grad():
            self.read.weight.mul_(4.0)  # most of its inputs are 0
            self.write.bias[self.fine :] = FIRST_LOGVAR
            self.cell.bias.fill_(-3.0)  # most cells are silent

    @property
    def latent(self) -> int:
        """F, the number of fine dimensions of a window."""
        return self.beats * self.fine

    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F"]]:
        """Mean and log-variance of the fine latent's posterior, beat after beat."""
        steps = F.pad(x.flatten(2), (0, 0, 0, self.beats * self.beat - x.shape[1]))
        cells = steps.view(len(x), self.beats, -1)  # [B, Q, S * N * K * P]
        both = self.write_linear(cells) + self.write(torch.relu(self.read(cells)))  # [B, Q, 2 * O]
        mu, logvar = (half.flatten(1).float() for half in both.chunk(2, -1))
        return mu, logvar

    def first_dimensions(self, count: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        """1 for so many dimensions of each beat of a window, the most important ones, and 0 for the others."""
        return (torch.arange(self.fine, device=count.device) < count[:, None]).float().repeat(1, self.beats)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it cannot follow generators
    def random_counts(self, n: int, generator: torch.Generator) -> Int[Tensor, " {n}"]:
        """How many dimensions of each beat `n` training windows use."""
        draw = torch.rand(2, n, generator=generator, device=generator.device)
        return torch.where(draw[0] < WHOLE, self.fine, 1 + (draw[1] * self.fine).long())

    def decode(self, z: Float[Tensor, "B F"]) -> Float[Tensor, "B T N K P"]:
        """Logits of the cells."""
        beats = z.view(len(z), self.beats, self.fine)
        cells: Tensor = self.cell_linear(beats) + self.cell(torch.relu(self.recall(beats)))
        steps, *of_step = self.config.window_shape
        return cells.view(len(z), -1, *of_step)[:, :steps]

    def elbo(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """The parts of the bound, with one draw of the latent; without `generator` at the posterior's mean."""
        mu, logvar = self.encode(batch.x)
        z, kl = elbo.reparameterise(mu, logvar, generator), elbo.kl_per_dimension(mu, logvar)
        if self.training and generator is not None:
            used = self.first_dimensions(self.random_counts(len(z), generator))
            z, kl = z * used, kl * used
        return Elbo(self.nats(batch, z), kl.sum(1), self.settings.fine_beta, elbo.charged(kl, FREE_NATS))
