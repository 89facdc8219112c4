"""`autoencoder`: the article's first model, the same layers without noise and without a KL term.

Nothing shapes its latent, so that samples drawn from a standard normal fall where the decoder never was; it is kept so
that people can see why.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from midivae.models.dense import DenseModel
from midivae.models.elbo import Elbo
from midivae.windows.batch import Batch


class Autoencoder(DenseModel):
    """The code is `mu`; a log-variance of minus infinity says that it has no noise."""

    name: ClassVar[str] = "autoencoder"
    samples_latent: ClassVar[bool] = False

    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """The code, and minus infinity: the variance of the posterior is 0."""
        mu: Tensor = self.mu(self.hidden(x))
        return mu, torch.full_like(mu, -math.inf)

    def elbo(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """Reconstruction alone; `kl` is 0 with weight 0, since the divergence of a point from a normal is infinite."""
        mu, _ = self.encode(batch.x)
        reconstruction = self.reconstruction(self.decode(mu), batch.x)
        none = torch.zeros_like(reconstruction)
        return Elbo(reconstruction, none, 0.0, none.sum())
