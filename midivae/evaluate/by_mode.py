"""What each mode of generation promises, measured beside real music: a table per question.

    control.csv    edit: what was requested, and what changed (`control.control`)
    paths.csv      blend: what lies between two parents (`control.path_row`)
    parents.csv    reconstruct, vary, edit: how far samples are from their parent (`parents`)
    longform.csv   song: whether it keeps a key, resembles itself and ends, beside real pieces (`songs`)
    seams.csv      samples with music of their parent around the new: what changes where they meet (`seams`)
    ensemble.csv   ensemble: how far parts are from each other, beside real music (`ensembles`)

A job has no rows in the tables of other modes.

Offers: `mode_tables` and `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from midivae.evaluate.context import Context
from midivae.evaluate.ensembles import ENSEMBLE_COLUMNS, ensemble_rows, real_ensemble_rows
from midivae.evaluate.measured_set import MeasuredSet, Reference
from midivae.evaluate.parents import PARENT_COLUMNS, parent_rows
from midivae.evaluate.samples import MeasuredJob
from midivae.evaluate.seams import SEAM_COLUMNS, seam_rows
from midivae.evaluate.songs import SONG_COLUMNS, song_rows
from midivae.evaluate.windows import unpacked
from midivae.measures import chords, control, features, likeness
from midivae.measures.control import Row
from midivae.music import roll

COLUMNS: dict[str, tuple[str, ...]] = {  # of each table, by its file
    "control.csv": control.CONTROL_COLUMNS,
    "paths.csv": control.PATH_COLUMNS,
    "parents.csv": PARENT_COLUMNS,
    "longform.csv": SONG_COLUMNS,
    "seams.csv": SEAM_COLUMNS,
    "ensemble.csv": ENSEMBLE_COLUMNS,
}


def mode_tables(
    jobs: Sequence[MeasuredJob], reference: Reference, context: Context, catalog: Path
) -> dict[str, list[Row]]:
    """The rows of each table, by its file; jobs in the order in which they are given."""
    tables: dict[str, list[Row]] = {file: [] for file in COLUMNS}
    sd = _units(reference.measured, context) if any(job.mode == "edit" for job in jobs) else {}
    several_parts = len(context.layout.pitched) > 1
    if several_parts:
        tables["ensemble.csv"] += real_ensemble_rows(reference, context)
    for job in jobs:
        tables["seams.csv"] += seam_rows(job, reference, context)
        if job.mode in ("reconstruct", "vary", "edit"):
            tables["parents.csv"] += parent_rows(job, reference, context, catalog)
        match job.mode:
            case "edit":
                tables["control.csv"] += control.control(job.name, job.rows["edits"].tolist(), sd)
            case "blend":
                tables["paths.csv"] += _paths(job, context)
            case "song":
                tables["longform.csv"] += song_rows(job, reference, context)
            case "ensemble" if several_parts:
                tables["ensemble.csv"] += ensemble_rows(job)
    return tables


def _units(measured: MeasuredSet, context: Context) -> dict[str, float]:
    """The standard deviation of each attribute over held-out windows."""
    blocks = [
        features.attributes(planes, context.layout) for planes in unpacked(measured.windows.packed, context.layout)
    ]
    return control.units({name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})


# --- blend ------------------------------------------------------------------------------------------------------------
def _paths(job: MeasuredJob, context: Context) -> list[Row]:
    parents, weights = ([value.tolist() for value in job.of_first(name)] for name in ("parents", "weights"))
    rows = []
    for number, path in enumerate(control.paths_of(parents, weights)):
        planes = roll.unpack(job.rolls[path.rows], context.layout)
        from_first = likeness.apart(planes, np.repeat(planes[:1], len(planes), axis=0))
        steps = likeness.apart(planes[:-1], planes[1:])
        nats = context.bigram.nats(chords.chords(planes, context.layout))
        rows.append(control.path_row(path, number, job.name, from_first, steps, nats))
    return rows
