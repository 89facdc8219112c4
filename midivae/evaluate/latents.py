"""Where models put held-out windows in their latent spaces.

Offers: `Latents` and `latents_of`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from midivae.evaluate.measured_set import encode
from midivae.evaluate.windows import slices
from midivae.measures import distances
from midivae.models import WindowModel
from midivae.windows import loader

_WINDOWS = 4096  # windows that are encoded, evenly spaced, at most


@dataclass(frozen=True)
class Latents:
    """Where a model puts held-out windows in its latent space.

    Attributes:
        sd: standard deviation of a latent dimension, root mean square over dimensions; 1 for a standard normal.
        gap_nats: KL divergence from the standard normal of the normal fitted, per dimension, to the latents; 0 if
            samples are drawn from where the music is.
    """

    model: str
    sd: float
    gap_nats: float


def latents_of(model: WindowModel, corpus: loader.Corpus) -> Latents:
    """Encodes held-out windows."""
    view = model.config.view.model_copy(update={"planes": "onset+frame"})
    windows = loader.windows(corpus, view)
    index = distances.evenly(len(windows), _WINDOWS)
    encoded = [encode(model, loader.planes(corpus, windows, block, view)) for block in slices(index)]
    mu, variance = (np.concatenate(column) for column in zip(*encoded, strict=True))
    centre = mu.mean(axis=0)
    spread = np.maximum(mu.var(axis=0) + variance.mean(axis=0), 1e-12)  # a dead dimension has none, and no logarithm
    gap = 0.5 * (centre**2 + spread - 1 - np.log(spread)).sum()
    return Latents(model.config.name, float(np.sqrt(spread.mean())), float(gap))
