"""The latent at a point between the parents of the explorer.

Shapes:
    M  parents    Z  latent

Offers: `latent_at`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64

from midivae.models.moves import Space, barycentre, slerp, vary

Latent = Float32[np.ndarray, "1 Z"]


def latent_at(
    space: Space, z: Float32[np.ndarray, "M Z"], weights: Float64[np.ndarray, " M"], radius: float, noise: Latent
) -> Latent:
    """The latent at a point between parents, moved by the radius."""
    alone = np.flatnonzero(weights == 1)
    if len(alone) and not radius:
        return z[alone]
    if len(alone):
        point = space.noise(z[alone])
    elif len(z) == 2:
        ends = space.noise(z)
        point = slerp(ends[:1], ends[1:], weights[1:])
    else:
        point = barycentre(space.noise(z)[None], weights[None])
    return space.latent(vary(point, np.array([radius]), noise))
