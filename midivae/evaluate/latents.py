"""Where models put held-out windows in their latent spaces.

Offers: `Latents` and `latents_of`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from midivae.measures import distances
from midivae.models import WindowModel
from midivae.windows.corpus import Corpus
from midivae.windows.windows import cut_planes, find_windows

_WINDOWS = 4096  # windows that are encoded, evenly spaced, at most
_AT_ONCE = 128


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


def latents_of(model: WindowModel, corpus: Corpus) -> Latents:
    """Encodes held-out windows."""
    view = model.config.view
    windows = find_windows(corpus, view)
    index = distances.evenly(len(windows), _WINDOWS)
    encoded = []
    with torch.inference_mode():
        for first in range(0, len(index), _AT_ONCE):
            planes = cut_planes(corpus, windows, index[first : first + _AT_ONCE], view)
            mu, logvar = model.encode(torch.from_numpy(planes.astype(np.float32)).to(model.device))
            coarse = (values[:, : model.coarse].double().cpu().numpy() for values in (mu, logvar.exp()))
            encoded.append(tuple(coarse))
    means, variances = (np.concatenate(column) for column in zip(*encoded, strict=True))
    centre = means.mean(axis=0)
    spread = np.maximum(
        means.var(axis=0) + variances.mean(axis=0), 1e-12
    )  # a dead dimension has none, and no logarithm
    gap = 0.5 * (centre**2 + spread - 1 - np.log(spread)).sum()
    return Latents(model.config.name, float(np.sqrt(spread.mean())), float(gap))
