"""Mode blend: music between parents.

The samples of one path between two parents share the random numbers of the path, so that they differ by their latents
alone.

Shapes:
    B  samples    Z  latent    M  parents

Offers: `blend`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from midivae.config.jobs import Blend
from midivae.generate.context import Context, Samples
from midivae.models.conditions import Conditions
from midivae.models.moves import barycentre, slerp
from midivae.windows.place import without_bars


def blend(context: Context, job: Blend, numbers: range) -> Samples:
    """Latents between those of parents: the steps of a path from one to another, or weighted means of several."""
    on_path = job.method == "slerp"
    seeds = [i // job.steps for i in numbers] if on_path else list(numbers)
    draws, rngs = context.draws(seeds), context.choices(seeds)
    draws.noise()
    pool, space = context.pool, context.space
    m = len(job.parents)
    index = np.array([[pool.any_window(parent, rng) for parent in range(m)] for rng in rngs])  # [B, M]
    z = np.stack([context.encoded(index[:, parent])[0] for parent in range(m)], axis=1)  # [B, M, Z]
    noise = np.stack([space.noise(z[:, parent]) for parent in range(m)], axis=1)
    if on_path:
        share = np.array([i % job.steps for i in numbers]) / (job.steps - 1)
        weights = np.stack([1 - share, share], axis=1)
        mixed = slerp(noise[:, 0], noise[:, 1], share)
    else:
        weights = np.stack([_weights(job, rng) for rng in rngs])
        mixed = barycentre(noise, weights)
    mixed = space.latent(mixed)
    for parent in range(m):  # a parent with all the weight stays as it is, to the last bit
        mixed = np.where(weights[:, parent, None] == 1, z[:, parent], mixed)
    places = Conditions(place=without_bars(context.pool.places(index[:, 0], context.model.config.view.steps)))
    planes = context.decode(mixed, draws.cells(), places)  # in the bars of the first parent
    bars = context.bars_of(index[:, 0])
    return Samples(context.kept(mixed), planes, {"parents": context.labels(index), "weights": weights.tolist()}, bars)


def _weights(job: Blend, rng: np.random.Generator) -> Float[np.ndarray, " M"]:
    """The job's weights, or weights drawn evenly from all that sum to 1."""
    if job.weights is not None:
        return np.array(job.weights)
    drawn = rng.standard_exponential(len(job.parents))
    return np.asarray(drawn / drawn.sum())
