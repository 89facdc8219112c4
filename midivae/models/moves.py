"""Moves in latent space: near a point and between points.

Moves are made where points are spread like a standard normal: in the *noise* that a fitted prior maps to latents
(`models.flow`), or among the latents themselves if the model has no fitted prior. There, all likely points have nearly
the same distance from the origin. So moves keep that distance: the points between two pieces, and around a piece, are
as likely as pieces are.

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
    """The space of the moves: noise of the prior; `prior` None: the latents themselves."""

    prior: Prior | None

    def noise(self, z: Latents) -> Latents:
        """The points of latents."""
        return z if self.prior is None else coding.to_noise(self.prior, z)

    def latent(self, noise: Latents) -> Latents:
        """The latents of points."""
        return noise if self.prior is None else coding.from_noise(self.prior, noise)


def vary(noise: Latents, radius: Float[np.ndarray, " B"], other: Latents) -> Latents:
    """Points near others: (noise + radius * other) / sqrt(1 + radius**2).

    If `other` is drawn from a standard normal, the result is spread like one too. Radius 0 gives the point itself;
    a radius far above 1 keeps little of it.
    """
    r = radius[:, None]
    moved: np.ndarray = (noise + r * other) / np.sqrt(1 + r**2)
    return moved.astype(np.float32)


def slerp(start: Latents, end: Latents, share: Float[np.ndarray, " B"]) -> Latents:
    """Points on the great circle from `start` (share 0) to `end` (share 1), in proportion to the angle (Shoemake 1985).

    Lengths are interpolated. Between points in the same direction the path is straight.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    length_a, length_b = (np.linalg.norm(point, axis=1, keepdims=True) for point in (a, b))
    unit_a, unit_b = a / np.maximum(length_a, 1e-12), b / np.maximum(length_b, 1e-12)
    angle = np.arccos(np.clip((unit_a * unit_b).sum(1, keepdims=True), -1, 1))
    t = share[:, None]
    sine = np.sin(angle)
    straight = sine < 1e-6
    weight_a = np.where(straight, 1 - t, np.sin((1 - t) * angle) / np.where(straight, 1, sine))
    weight_b = np.where(straight, t, np.sin(t * angle) / np.where(straight, 1, sine))
    points: np.ndarray = (weight_a * unit_a + weight_b * unit_b) * ((1 - t) * length_a + t * length_b)
    return points.astype(np.float32)


def barycentre(parents: Float32[np.ndarray, "B M Z"], weights: Float[np.ndarray, "B M"]) -> Latents:
    """Weighted sums of parents, divided by the norm of the weights, which keeps the spread of a standard normal.

    A weight of 1 gives that parent.
    """
    mean: np.ndarray = np.einsum("bmz,bm->bz", parents.astype(np.float64), weights)
    mean /= np.linalg.norm(weights, axis=1, keepdims=True)
    return mean.astype(np.float32)
