"""Modes whose samples are one window, made of at most one other: sample, reconstruct, vary.

Shapes:
    B  samples    Z  latent

Offers: `sample`, `reconstruct`, `vary`; `around`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from midivae.config.jobs import FromOne, Job, Vary
from midivae.generate.context import Context, Latents, Samples, drawn_from
from midivae.models import moves


def sample(context: Context, job: Job, numbers: range) -> Samples:
    """Latents drawn from the prior."""
    draws = context.draws(numbers)
    z = context.space.latent(draws.noise())
    return Samples(z, context.decode(z, draws.cells()))


def reconstruct(context: Context, job: FromOne, numbers: range) -> Samples:
    """Parents encoded and decoded."""
    draws = context.draws(numbers)
    draws.noise()
    index = context.parent_windows(numbers, context.choices(numbers))
    z, _ = context.encoded(index)
    planes = context.decode(z, draws.cells())
    return Samples(z, planes, {"parents": context.labels(index)})


def vary(context: Context, job: Vary, numbers: range) -> Samples:
    """Latents at a distance from those of parents."""
    draws, rngs = context.draws(numbers), context.choices(numbers)
    noise = draws.noise()
    index = context.parent_windows(numbers, rngs)
    radius = np.array([drawn_from(job.radius, rng) for rng in rngs])
    z, _ = context.encoded(index)
    z = around(context, z, radius, noise)
    planes = context.decode(z, draws.cells())
    return Samples(z, planes, {"parents": context.labels(index), "radius": radius.tolist()})


def around(context: Context, z: Latents, radius: Float[np.ndarray, " B"], noise: Latents) -> Latents:
    """Latents at a distance from others; with a radius of 0 they keep every bit."""
    space = context.space
    moved = space.latent(moves.vary(space.noise(z), radius, noise))
    return np.where(radius[:, None] > 0, moved, z)
