"""Model `autoencoder`: the article's first model, with the layers of `mlp` but without noise and KL term.

Nothing gives its latents a known distribution, so samples from a standard normal are latents that the decoder was not
trained on. It is here to show why a VAE is needed.
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
    """The latent is `mu`, without noise: the log-variance is minus infinity."""

    name: ClassVar[str] = "autoencoder"
    samples_latent: ClassVar[bool] = False

    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """The latent, and minus infinity as log-variance."""
        mu: Tensor = self.mu(self.hidden(x))
        return mu, torch.full_like(mu, -math.inf)

    def elbo(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """The reconstruction alone; `kl` is 0 with weight 0, because a point's divergence from a normal is infinite."""
        mu, _ = self.encode(batch.x)
        reconstruction = self.reconstruction(self.decode(mu), batch.x)
        none = torch.zeros_like(reconstruction)
        return Elbo(reconstruction, none, 0.0, none.sum())
