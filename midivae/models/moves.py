"""Moves in latent space: near a point and between points.

Moves are made where latents are spread like a standard normal: in the *noise* of which a fitted prior makes latents
(`models.flow`), or among the latents themselves for a model that has the standard normal alone. There a point's
distance from the origin says nothing and its direction everything, so that moves keep the distance: halfway between two
pieces, and around a piece, lie points that are as likely as pieces are.

Shapes:
    B  samples    Z  latent    M  parents

Offers: `Space` (`noise` / `latent`), `vary`, `slerp`, `barycentre`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from midivae.models import coding
from midivae.models.flow import Prior

Latents = Float32[np.ndarray, "B Z"]


@dataclass(frozen=True)
class Space:
    """Where moves are made; `prior` None: among the latents themselves."""

    prior: Prior | None

    def noise(self, z: Latents) -> Latents:
        """Latents as points of this space."""
        return z if self.prior is None else coding.noise(self.prior, z)

    def latent(self, noise: Latents) -> Latents:
        """The latents of points of this space."""
        return noise if self.prior is None else coding.latents(self.prior, noise)


def vary(noise: Latents, radius: Float[np.ndarray, " B"], other: Latents) -> Latents:
    """Points around others: (noise + radius * other) / sqrt(1 + radius**2).

    With `other` a draw of a standard normal this keeps the spread of a standard normal. Radius 0 is the point itself,
    and with a radius far above 1 little of it is left.
    """
    r = radius[:, None]
    moved: np.ndarray = (noise + r * other) / np.sqrt(1 + r**2)
    return moved.astype(np.float32)


def slerp(start: Latents, end: Latents, share: Float[np.ndarray, " B"]) -> Latents:
    """Points on the way from `start` (share 0) to `end` (share 1) along the sphere (Shoemake 1985), evenly spaced.

    Lengths, which differ a little, are interpolated; between points in one direction the way is straight.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    long_a, long_b = (np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    unit_a, unit_b = a / np.maximum(long_a, 1e-12), b / np.maximum(long_b, 1e-12)
    angle = np.arccos(np.clip((unit_a * unit_b).sum(1, keepdims=True), -1, 1))
    t = share[:, None]
    sine = np.sin(angle)
    straight = sine < 1e-6
    weight_a = np.where(straight, 1 - t, np.sin((1 - t) * angle) / np.where(straight, 1, sine))
    weight_b = np.where(straight, t, np.sin(t * angle) / np.where(straight, 1, sine))
    found: np.ndarray = (weight_a * unit_a + weight_b * unit_b) * ((1 - t) * long_a + t * long_b)
    return found.astype(np.float32)


def barycentre(parents: Float32[np.ndarray, "B M Z"], weights: Float[np.ndarray, "B M"]) -> Latents:
    """Weighted sums of parents, with the length that sums of independent normals would otherwise lose.

    A weight of 1 gives that parent.
    """
    total: np.ndarray = np.einsum("bmz,bm->bz", parents.astype(np.float64), weights)
    total /= np.linalg.norm(weights, axis=1, keepdims=True)
    return total.astype(np.float32)
