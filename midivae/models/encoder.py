"""The transformer's encoder: all steps of a window -> the posterior of its coarse latent.

Shapes:
    B  windows    T  steps    N  parts    K  planes    P  pitches    C  coarse latent    Q  beats

Offers: `Encoder`, `PLAN`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from midivae.config.train import Transformer as Settings
from midivae.models.base import Config
from midivae.models.layers import EncoderLayer, distance_buckets

PLAN = 64  # width of what a latent and a beat have in common: encoder and decoder pass through it


class Encoder(nn.Module):
    """Attention over all steps, the mean of each beat, and a linear map to the posterior."""

    def __init__(self, config: Config, settings: Settings, beats: int) -> None:
        super().__init__()
        _, n, k, p = config.window_shape
        self.beat = config.layout.steps_per_beat
        self.read = nn.Linear(n * k * p, settings.width)
        self.layers = nn.ModuleList(EncoderLayer(settings.width, settings.heads, settings.dropout) for _ in range(2))
        self.summary = nn.Linear(settings.width, PLAN)
        self.posterior = nn.Linear(beats * PLAN, 2 * settings.coarse)

    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
        """Mean and log-variance of the coarse latent's posterior."""
        vector = torch.relu(self.read(x.flatten(2)))
        bucket = distance_buckets(x.shape[1], x.device)
        for layer in self.layers:
            vector = layer(vector, bucket)
        beats = F.pad(self.summary(vector), (0, 0, 0, -x.shape[1] % self.beat))
        beats = beats.view(len(x), -1, self.beat, PLAN).mean(2)  # [B, Q, PLAN]
        mu, logvar = self.posterior(beats.flatten(1)).float().chunk(2, -1)
        return mu, logvar
