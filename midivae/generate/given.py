"""Modes that keep some cells of a parent and make the others: infill, accompany, replace.

The coarse latent is drawn from the prior; the parent decides the given cells alone, which every sample keeps as they
are.

Shapes:
    B  samples    T  steps    N  parts    P  pitches

Offers: `infill`, `accompany`, `replace`; `gap_of`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int

from midivae.config.jobs import Accompany, Infill, Replace
from midivae.generate.context import Context, Planes, Samples
from midivae.models.conditions import Conditions
from midivae.windows.place import bar_numbers


def infill(context: Context, job: Infill, numbers: range) -> Samples:
    """Parents with some bars made anew."""
    first, last = gap_of(job, context.model.config.view.steps, context.model.config.steps_per_bar)

    def given(planes: Planes, bars: Int[np.ndarray, "B T"]) -> Bool[np.ndarray, "B T N"]:
        outside = (bars < first) | (bars > last)
        return np.broadcast_to(outside[:, :, None], planes.shape[:3])

    return _with_given(context, numbers, given)


def accompany(context: Context, job: Accompany, numbers: range) -> Samples:
    """Some parts of parents, with all other parts made anew."""
    kept = np.isin(context.layout.parts, job.parts or context.layout.parts[:1])
    return _with_given(context, numbers, lambda planes, _: np.broadcast_to(kept, planes.shape[:3]))


def replace(context: Context, job: Replace, numbers: range) -> Samples:
    """Parents with some parts made anew."""
    kept = ~np.isin(context.layout.parts, job.parts or context.layout.parts[:1])
    return _with_given(context, numbers, lambda planes, _: np.broadcast_to(kept, planes.shape[:3]))


def gap_of(job: Infill, steps: int, steps_per_bar: int) -> tuple[int, int]:
    """The first and the last bar that are made anew: the job's, else the middle half of a window of so many steps."""
    bars = max(1, steps // steps_per_bar)
    margin = max(1, bars // 4)
    first = min(bars, 1 + margin)
    return job.bars or (first, max(first, bars - margin))


def _with_given(
    context: Context, numbers: range, given: Callable[[Planes, Int[np.ndarray, "B T"]], Bool[np.ndarray, "B T N"]]
) -> Samples:
    """Windows of parents, of which `given` says by planes and numbers of bars which steps of which part are kept."""
    draws = context.draws(numbers)
    z = context.space.latent(draws.noise())
    index = context.parent_windows(numbers, context.choices(numbers))
    view = context.model.config.view
    planes, places = context.pool.windows(index, view), context.pool.places(index, view.steps)
    kept = given(planes, bar_numbers(places))  # [B, T, N]
    cells = np.broadcast_to(kept[..., None], (*planes.shape[:3], planes.shape[4]))
    made = context.decode(z, draws.cells(), Conditions(place=places, x=planes, given=cells))
    changed = ~np.asarray(kept.all(axis=2))  # [B, T]: steps of which not all parts are kept
    lead, tail = (steps.argmax(axis=1) for steps in (changed, changed[:, ::-1]))
    origin = {"parents": context.labels(index), "lead_steps": lead.tolist(), "tail_steps": tail.tolist()}
    return Samples(context.kept(z), made, origin, context.bars_of(index))
