"""How far samples are from their parents: parents.csv, for modes `reconstruct`, `vary` and `edit`.

Parents are found by name: pieces in the corpus, samples in the catalog. A parent that is a file has no roll here, and
its samples are left out.

Shapes:
    T  steps    N  parts    K  planes    P  pitches

Offers: `parent_rows` and `PARENT_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from midivae.evaluate.context import Context
from midivae.evaluate.measured_set import Reference
from midivae.evaluate.samples import MeasuredJob, sample_planes
from midivae.evaluate.windows import Index, cut_pieces, slices
from midivae.measures import likeness
from midivae.measures.control import Row
from midivae.measures.notes import transposed
from midivae.models import coding
from midivae.music import roll

PARENT_COLUMNS = (
    *("job", "mode", "radius", "rows", "onset_f1", "frame_f1", "exact_steps"),
    *("distance", "distance_sd", "distance_to_others", "distance_to_others_sd"),
)


def parent_rows(job: MeasuredJob, reference: Reference, context: Context, catalog: Path) -> list[Row]:
    """Rows of parents.csv: one for each radius in the job, or one for all samples."""
    names = [parents[0] if len(parents) == 1 else None for parents in map(list, job.of_first("parents"))]
    rolls = _rolls_of(sorted({name for name in names if name is not None}), reference, context, catalog)
    usable = np.array([index for index, name in enumerate(names) if name in rolls], np.int64)
    radius = job.of_first("radius").astype(float)[usable]
    table = []
    for value in np.unique(radius):  # NaN is there once
        rows = usable[(radius == value) | (np.isnan(radius) & np.isnan(value))]
        table.append(_against_parents(job, rows, [str(names[row]) for row in rows], rolls, context, float(value)))
    return table


def _against_parents(
    job: MeasuredJob, rows: Index, names: Sequence[str], rolls: dict[str, np.ndarray], context: Context, radius: float
) -> Row:
    distinct = list(dict.fromkeys(names))
    other = dict(zip(distinct, [*distinct[1:], distinct[0]], strict=True))  # a parent of another sample
    shift = job.of_first("transpose").astype(np.int64)[rows]
    matches, near, far = [], [], []
    for block in slices(np.arange(len(rows))):
        samples = roll.unpack(job.rolls[rows[block]], context.layout)[:, : context.view.steps]
        of = [names[row] for row in block]
        parents, others = (
            transposed(np.stack([rolls[name] for name in parent]), context.layout, shift[block])
            for parent in (of, [other[name] for name in of])
        )
        matches.append(likeness.matched(samples, parents))
        near.append(likeness.apart(samples, parents))
        far.append(likeness.apart(samples, others))
    match, distance, to_others = likeness.Match.of(np.sum(matches, axis=0)), np.concatenate(near), np.concatenate(far)
    if len(distinct) < 2:
        to_others = np.full(1, np.nan)
    return {
        "job": job.name,
        "mode": job.mode,
        "radius": radius,
        "rows": len(rows),
        "onset_f1": match.onset_f1,
        "frame_f1": match.frame_f1,
        "exact_steps": match.exact_steps,
        "distance": float(distance.mean()),
        "distance_sd": float(distance.std()),
        "distance_to_others": float(to_others.mean()),
        "distance_to_others_sd": float(to_others.std()),
    }


def _rolls_of(
    names: Sequence[str], reference: Reference, context: Context, catalog: Path
) -> dict[str, Bool[np.ndarray, "T N 2 P"]]:
    """The first window of each parent that can be found, by its name in the catalog.

    A note that is held into a window starts there, as in every sample: none has the music before it.
    """
    rolls: dict[str, np.ndarray] = {}
    for corpus in (reference.held_out.corpus, reference.training):
        number = {piece_id: index for index, piece_id in enumerate(corpus.piece_ids)}
        places = [(name, *_place(name)) for name in names if name.startswith("piece:")]
        here = [
            (name, number[piece_id], corpus.bar_starts[number[piece_id]][bar - 1])
            for name, piece_id, bar in places
            if piece_id in number and 0 < bar <= len(corpus.bar_starts[number[piece_id]])
        ]
        if here:
            known_names, piece, start = zip(*here, strict=True)
            planes = cut_pieces(corpus, np.array(piece), np.array(start), context.view, context.view.steps)
            rolls |= dict(zip(known_names, coding.complete(planes), strict=True))
    samples = [name.removeprefix("sample:") for name in names if name.startswith("sample:")]
    planes_of = sample_planes(catalog, samples, context) if samples else {}
    return rolls | {f"sample:{name}": planes[: context.view.steps] for name, planes in planes_of.items()}


def _place(name: str) -> tuple[str, int]:
    """The id and the bar in "piece:<piece_id>@<bar>"."""
    piece_id, _, bar = name.removeprefix("piece:").partition("@")
    return piece_id, int(bar) if bar.isdecimal() else 1
