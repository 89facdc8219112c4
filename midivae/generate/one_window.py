"""Modes whose samples are one window, made of at most one other: sample, reconstruct, vary.

Shapes:
    B  samples    Z  latent    T  steps of a window

Offers: `sample`, `reconstruct`, `vary`; `drawn`, `place_of`, `around`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from midivae.config.jobs import Reconstruct, Sample, Vary
from midivae.generate.context import Context, Latents, Samples, drawn_from
from midivae.models import moves
from midivae.models.conditions import Conditions
from midivae.windows.place import grid_places

PIECE_BARS = 16  # bars of the piece in which a sample has its place


def sample(context: Context, job: Sample, numbers: range) -> Samples:
    """Latents drawn from the prior."""
    return drawn(context, numbers, place_of(context, job.place))


def drawn(context: Context, numbers: range, place: UInt8[np.ndarray, "T 4"]) -> Samples:
    """Latents drawn from the prior, for windows at one place."""
    draws = context.draws(numbers)
    z = context.space.latent(draws.noise())
    conditions = Conditions(place=np.broadcast_to(place, (len(z), *place.shape)))
    return Samples(context.kept(z), context.decode(z, draws.cells(), conditions))


def place_of(context: Context, name: str | None) -> UInt8[np.ndarray, "T 4"]:
    """The place of a window at the start, in the middle or at the end of a piece of `PIECE_BARS` bars, or anywhere."""
    config = context.model.config
    steps, bar = config.view.steps, config.steps_per_bar
    if name is None:
        return grid_places(0, steps, bar)
    window = -(-steps // bar)
    bars = max(PIECE_BARS, window)
    first = {"start": 0, "middle": (bars - window) // 2, "end": bars - window}[name]
    return grid_places(0, steps, bar, first, bars)


def reconstruct(context: Context, job: Reconstruct, numbers: range) -> Samples:
    """Parents encoded and decoded."""
    draws = context.draws(numbers)
    draws.noise()
    index = context.parent_windows(numbers, context.choices(numbers))
    z, _ = context.encoded(index)
    planes = context.decode(z, draws.cells(), context.places(index))
    return Samples(context.kept(z), planes, {"parents": context.labels(index)}, context.bars_of(index))


def vary(context: Context, job: Vary, numbers: range) -> Samples:
    """Latents at a distance from those of parents."""
    draws, rngs = context.draws(numbers), context.choices(numbers)
    noise = draws.noise()
    index = context.parent_windows(numbers, rngs)
    radius = np.array([drawn_from(job.radius, rng) for rng in rngs])
    z, _ = context.encoded(index)
    z = around(context, z, radius, noise)
    planes = context.decode(z, draws.cells(), context.places(index))
    return Samples(
        context.kept(z), planes, {"parents": context.labels(index), "radius": radius.tolist()}, context.bars_of(index)
    )


def around(context: Context, z: Latents, radius: Float[np.ndarray, " B"], noise: Latents) -> Latents:
    """Latents at a distance from others; with a radius of 0 they keep every bit."""
    space = context.space
    moved = space.latent(moves.vary(space.noise(z), radius, noise))
    return np.where(radius[:, None] > 0, moved, z)
