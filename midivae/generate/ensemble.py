"""Mode ensemble: several instruments, of one latent or each of its own.

Offers: `ensemble`.
"""

from __future__ import annotations

import numpy as np

from midivae.config.jobs import Ensemble
from midivae.generate.context import Context, Samples
from midivae.generate.one_key import to_key
from midivae.generate.one_window import drawn, place_of
from midivae.measures.keys import best_scale
from midivae.measures.notes import chroma, transposed
from midivae.models.conditions import Conditions


def ensemble(context: Context, job: Ensemble, numbers: range) -> Samples:
    """Joint: all parts of one sample. Merged: each part from a sample of its own, moved to the key of the first."""
    place = place_of(context, None)
    if job.method == "joint":
        return drawn(context, numbers, place)
    draws, layout = context.draws(numbers), context.layout
    rolls, latents = [], []
    for _ in layout.parts:
        z = context.space.latent(draws.noise())
        conditions = Conditions(place=np.broadcast_to(place, (len(z), *place.shape)))
        rolls.append(context.decode(z, draws.cells(), conditions))
        latents.append(context.kept(z))
    keys = [best_scale(chroma(planes, layout))[0] for planes in rolls]  # of all parts of each sample
    merged = np.empty_like(rolls[0])
    for part, (planes, key) in enumerate(zip(rolls, keys, strict=True)):
        alone = np.zeros_like(planes)
        alone[:, :, part] = planes[:, :, part]
        merged[:, :, part] = transposed(alone, layout, to_key(key, keys[0]))[:, :, part]
    return Samples(np.concatenate(latents, axis=1), merged)
