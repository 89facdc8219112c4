"""Mode edit: attributes of music changed along directions in latent space.

Shapes:
    B  samples    Z  latent    T  steps    N  parts    P  pitches    S  strengths, and no change

Offers: `edit`; `Edited` and `edited`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from midivae.config.jobs import Edit
from midivae.generate.context import Context, Latents, Planes, Samples, drawn_from
from midivae.measures import features
from midivae.models.controls import Changes, Controls, measure_changes
from midivae.music.roll import Layout
from midivae.storage.files import rounded

STRENGTHS = (1.0, 0.5, 1.5, 2.0)  # of a change: the strength whose result is closest to the request is kept


def edit(context: Context, job: Edit, numbers: range) -> Samples:
    """Parents with changed attributes."""
    draws, rngs = context.draws(numbers), context.choices(numbers)
    draws.noise()
    index = context.parent_windows(numbers, rngs)
    ranges = job.changes or {name: context.controls.usual_range(name) for name in context.controls.offered}
    requests = [_request(ranges, job.together, i, rng) for i, rng in zip(numbers, rngs, strict=True)]
    z, _ = context.encoded(index)
    changes = {name: np.array([request.get(name, 0.0) for request in requests]) for name in ranges}
    requested = {name: np.array([name in request for request in requests]) for name in ranges}
    uniform, places = draws.cells(), context.places(index)

    def play(moved: Float32[np.ndarray, "S B Z"]) -> Bool[np.ndarray, "S B T N 2 P"]:
        return np.stack([context.decode(latents, uniform, places) for latents in moved])

    best = edited(context.controls, context.layout, z, changes, requested, play)
    edits = [best.as_json(row, request) for row, request in enumerate(requests)]
    return Samples(
        context.kept(best.z), best.planes, {"parents": context.labels(index), "edits": edits}, context.bars_of(index)
    )


def _request(
    ranges: dict[str, float | tuple[float, float]], together: bool, number: int, rng: np.random.Generator
) -> dict[str, float]:
    """The changes of one sample: all of them, or one in turn."""
    names = list(ranges) if together else [list(ranges)[number % len(ranges)]]
    return {name: drawn_from(ranges[name], rng) for name in names}


@dataclass(frozen=True)
class Edited:
    """Windows with changed attributes, and the measured change of each attribute (`measure_changes`)."""

    z: Latents
    planes: Planes
    measured: dict[str, Float[np.ndarray, " B"]]

    def as_json(self, row: int, request: Mapping[str, float]) -> str:
        """The requested and the measured changes of a row, in 6 digits; NaN is null."""

        def plain(values: Mapping[str, float]) -> dict[str, float | None]:
            return {name: None if np.isnan(value) else rounded(value) for name, value in values.items()}

        measured = {name: float(values[row]) for name, values in self.measured.items()}
        return json.dumps({"asked": plain(request), "measured": plain(measured)})


def edited(
    controls: Controls,
    layout: Layout,
    z: Latents,
    changes: Changes,
    requested: Mapping[str, Bool[np.ndarray, " B"]],
    play: Callable[[Float32[np.ndarray, "S B Z"]], Bool[np.ndarray, "S B T N 2 P"]],
) -> Edited:
    """Changes windows; of each window, the strength in `STRENGTHS` whose result is closest to the request is kept.

    Args:
        z: the latents that are changed.
        changes, requested: as in `Controls.deviations`.
        play: decodes latents: these without a change, and moved by each strength.
    """
    moved = np.stack([z, *(controls.move(z, changes, strength) for strength in STRENGTHS)])
    planes = play(moved)
    attributes = [features.attributes(rolls, layout) for rolls in planes]
    measured = [measure_changes(attributes[0], values) for values in attributes]
    deviations = [
        np.full(len(z), np.inf),
        *(controls.deviations(changes, requested, values) for values in measured[1:]),
    ]
    best, row = np.argmin(deviations, axis=0), np.arange(len(z))
    kept = {name: np.stack([values[name] for values in measured])[best, row] for name in measured[0]}
    return Edited(moved[best, row], planes[best, row], kept)
