"""Dense layers over the flattened window, which the article's two models share.

The window is flattened in the order [T, N, K, P]. With the merged frame plane of the article's presets that is [T, P]:
100 x 88 = 8,800 and 480 x 48 = 23,040 inputs. The outputs are logits; the sigmoid is part of the loss and of decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from midivae.config.train import Dense
from midivae.models import elbo
from midivae.models.base import CellwiseModel, Config
from midivae.models.elbo import Elbo
from midivae.windows.batch import Batch


def stack(sizes: Sequence[int]) -> nn.Sequential:
    """Dense layers between these sizes, each followed by ReLU."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers)


class DenseModel(CellwiseModel):
    """Window -> hidden layers -> latent -> the same layers in reverse order -> window."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        layers = config.network
        if not isinstance(layers, Dense):
            raise TypeError(f"model {config.name!r} needs the section of dense layers, not {type(layers).__name__}")
        self.layers = layers
        cells, hidden, latent = math.prod(config.window_shape), layers.hidden, layers.latent
        innermost = (cells, *hidden)[-1]
        self.encoder = stack([cells, *hidden])
        self.mu = nn.Linear(innermost, latent)
        self.decoder = stack([latent, *reversed(hidden)])
        self.logits = nn.Linear((latent, *reversed(hidden))[-1], cells)

    def initialise(self, generator: torch.Generator) -> None:
        """Glorot-uniform weights and zero biases, as in Keras' dense layers."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def hidden(self, x: Float[Tensor, "B T N K P"]) -> Float[Tensor, "B H"]:
        """The innermost hidden layer of the encoder."""
        out: Tensor = self.encoder(x.flatten(1))  # [B, T * N * K * P]
        return out

    def decode(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B T N K P"]:
        """Logits of the cells."""
        flat: Tensor = self.logits(self.decoder(z))
        return flat.view(-1, *self.config.window_shape)

    def reconstruction(self, logits: Float[Tensor, "B T N K P"], x: Float[Tensor, "B T N K P"]) -> Float[Tensor, " B"]:
        """The reconstruction term that params name, summed over the window."""
        term = elbo.bernoulli if self.layers.reconstruction == "bce" else elbo.squared_error
        return term(logits, x)

    def elbo(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """The parts of the bound, with one draw of the latent; without `generator` at the posterior's mean."""
        mu, logvar = self.encode(batch.x)
        z = elbo.reparameterise(mu, logvar, generator)
        kl = elbo.kl_per_dimension(mu, logvar)
        return Elbo(self.reconstruction(self.decode(z), batch.x), kl.sum(1), self.layers.beta, elbo.charged(kl))
