"""Model `mlp`: the article's variational autoencoder, dense layers with a normal latent."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from midivae.models.base import Config
from midivae.models.dense import DenseModel


class Mlp(DenseModel):
    """Two linear maps of the innermost hidden layer give mean and log-variance of the latent."""

    name: ClassVar[str] = "mlp"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.logvar = nn.Linear(self.mu.in_features, self.latent)

    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of the latent's posterior."""
        hidden = self.hidden(x)
        return self.mu(hidden), self.logvar(hidden)
