"""Modes whose samples are one window, made of at most one other: sample, reconstruct, vary.

Shapes:
    B  samples    Z  latent

Offers: `sample`, `reconstruct`, `vary`; `around`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from midivae.config.jobs import FromOne, Job, Vary
from midivae.generate.context import (
    Context,
    Draws,
    Latents,
    Samples,
    choices,
    drawn_from,
    encoded,
    labels,
    parent_windows,
)
from midivae.models import coding, latent


def sample(context: Context, job: Job, numbers: range) -> Samples:
    """Latents drawn from the prior."""
    draws = Draws.of(context, numbers)
    z = context.space.latent(draws.noise())
    return Samples(z, coding.decode(context.model, z, context.chance, draws.cells()))


def reconstruct(context: Context, job: FromOne, numbers: range) -> Samples:
    """Parents encoded and decoded."""
    draws = Draws.of(context, numbers)
    draws.noise()
    index = parent_windows(context, numbers, choices(context, numbers))
    z, _ = encoded(context.model, context.pool, index)
    planes = coding.decode(context.model, z, context.chance, draws.cells())
    return Samples(z, planes, {"parents": labels(context, index)})


def vary(context: Context, job: Vary, numbers: range) -> Samples:
    """Latents at a distance from those of parents."""
    draws, rngs = Draws.of(context, numbers), choices(context, numbers)
    noise = draws.noise()
    index = parent_windows(context, numbers, rngs)
    radius = np.array([drawn_from(job.radius, rng) for rng in rngs])
    z, _ = encoded(context.model, context.pool, index)
    z = around(context, z, radius, noise)
    planes = coding.decode(context.model, z, context.chance, draws.cells())
    return Samples(z, planes, {"parents": labels(context, index), "radius": radius.tolist()})


def around(context: Context, z: Latents, radius: Float[np.ndarray, " B"], noise: Latents) -> Latents:
    """Latents at a distance from others; with a radius of 0 they keep every bit."""
    space = context.space
    moved = space.latent(latent.vary(space.noise(z), radius, noise))
    return np.where(radius[:, None] > 0, moved, z)
