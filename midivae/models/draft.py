"""The draft of the `transformer`: a small variational autoencoder of single beats.

Each beat of a window has latent dimensions of its own: the first dimensions belong to the first beat. They are encoded
from the beat's cells and decoded to a draft, a logit for each of these cells. Both directions are the sum of a linear
map and two dense layers. The transformer's decoder then sees the draft.

The draft is fitted first, alone, by its own `elbo`. A decoder that sees the earlier music needs little of its latent,
so its gradient takes hours to make the latent describe the window. The draft sees nothing but the latent, and takes
minutes.

Shapes:
    B  windows    T  steps    N  parts    K  planes    P  pitches    Z  latent    Q  beats    S  steps of a beat
    O  dimensions of a beat

Offers: `Draft`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from midivae.config.train import Transformer as Settings
from midivae.models import elbo
from midivae.models.base import CellwiseModel, Config
from midivae.models.elbo import Elbo
from midivae.windows.batch import Batch

FIRST_LOGVAR = -2.0  # of the posterior; dimensions that begin with more noise come into use late


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
        self.own = -(-settings.latent // self.beats)
        cells, hidden, own = self.beat * math.prod(of_step), settings.draft, self.own
        self.read, self.write = nn.Linear(cells, hidden), nn.Linear(hidden, 2 * own)
        self.write_linear = nn.Linear(cells, 2 * own, bias=False)
        self.recall, self.cell = nn.Linear(own, hidden), nn.Linear(hidden, cells)
        self.cell_linear = nn.Linear(own, cells, bias=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Gives every weight its first value: normal with the variance at which layers keep the size of their input."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.normal_(weight, std=weight.shape[-1] ** -0.5, generator=generator)
        with torch.no_grad():
            self.read.weight.mul_(4.0)  # most of its inputs are 0
            self.write.bias[self.own :] = FIRST_LOGVAR
            self.cell.bias.fill_(-3.0)  # most cells are silent

    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of the latent's posterior."""
        steps = F.pad(x.flatten(2), (0, 0, 0, self.beats * self.beat - x.shape[1]))
        cells = steps.view(len(x), self.beats, -1)  # [B, Q, S * N * K * P]
        both = self.write_linear(cells) + self.write(torch.relu(self.read(cells)))  # [B, Q, 2 * O]
        mu, logvar = (half.flatten(1)[:, : self.latent].float() for half in both.chunk(2, -1))
        return mu, logvar

    def decode(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B T N K P"]:
        """Logits of the cells."""
        own = F.pad(z, (0, self.beats * self.own - z.shape[1])).view(len(z), self.beats, -1)
        cells: Tensor = self.cell_linear(own) + self.cell(torch.relu(self.recall(own)))
        steps, *of_step = self.config.window_shape
        return cells.view(len(z), -1, *of_step)[:, :steps]

    def elbo(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """The parts of the bound, with one draw of the latent; without `generator` at the posterior's mean."""
        mu, logvar = self.encode(batch.x)
        kl = elbo.kl_per_dimension(mu, logvar)
        nats = self.nats(batch, elbo.reparameterise(mu, logvar, generator))
        return Elbo(nats, kl.sum(1), self.settings.beta, elbo.charged(kl, self.settings.free_nats))
