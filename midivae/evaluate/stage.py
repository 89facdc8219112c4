"""Stage `evaluate`: how far samples are from held-out music, and whether they do as requested -> `data/evaluation/`.

The samples of each job, and those of two trivial generators (`baselines`), are compared with windows of the held-out
pieces (splits valid and test). These are cut as the model's windows are, parts merged if the model merges parts, both
with onsets. Longer samples are cut into windows (`samples`). Every distance stands beside the same distance between
real and real (`held_out_distances`). What a mode promises is measured for the jobs of that mode (`by_mode`).

What is written; docs/evaluate.md explains every column:
    metrics.json           one flat list of names and numbers, and the verdict on the article in a sentence
    distances.csv          per set, feature and distance: mean, sd and interval, and those of the floor
    models.csv             per set, held-out music first: what its windows are like
    harmony.csv            per set, likewise: chords, part-writing, cadences
    features.csv           per set and feature: how many values, mean, sd, quantiles
    features_real.parquet  the measures of every held-out window
    neighbours.parquet     of every window, the nearest one in training pieces
    distributions/*.csv    per feature: the share of each set in bins, for plots
    control.csv paths.csv parents.csv longform.csv seams.csv ensemble.csv    per mode (`by_mode`)
    refused.csv            samples whose MIDI file does not read back with the catalog's number of notes

Offers: `run`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from midivae import models
from midivae.config.params import Params
from midivae.errors import InputError
from midivae.evaluate import samples
from midivae.evaluate.by_mode import COLUMNS, mode_tables
from midivae.evaluate.context import context_of, held_out_of
from midivae.evaluate.held_out_distances import DISTANCE_COLUMNS, Row, compare, floor_of
from midivae.evaluate.latents import latents_of
from midivae.evaluate.measured_set import Reference, measure_held_out, measure_trivial
from midivae.evaluate.metrics import metrics_of
from midivae.evaluate.samples import MeasuredJob
from midivae.evaluate.summaries import (
    HARMONY_COLUMNS,
    feature_table,
    harmony_table,
    held_out_table,
    histogram,
    model_table,
    neighbour_table,
)
from midivae.evaluate.verdict import verdict_of
from midivae.measures import baselines
from midivae.storage import folders, schema, tables
from midivae.storage.files import write_bytes, write_json
from midivae.storage.paths import METRICS, compared_folders
from midivae.storage.schema import FEATURES, HELD_OUT
from midivae.windows.corpus import load_corpus


def run(params: Params, data: Path) -> dict[str, object]:
    """Compares every job in the catalog with held-out music, and publishes `data/evaluation`.

    Returns:
        Counts (jobs, samples, refused, held_out_pieces, held_out_windows), verdict and seconds.

    Raises:
        InputError: samples, rolls or models are missing, do not fit each other, or fewer than two pieces are held out.
        SchemaError, CorruptError: they are of another version, or damaged.
    """
    start = time.monotonic()
    settings, catalog = params.evaluate, data / "samples" / "catalog"
    trained = [models.load(folder) for folder in (data / "model", *compared_folders(data / "model"))]
    training = load_corpus(data / "rolls", ["train"])
    context = context_of(training, trained[0], settings)
    held_out = held_out_of(data / "rolls", context.view)
    jobs = samples.read(catalog, context)
    _check_names(jobs)

    real = measure_held_out(held_out, context)
    floor, vector_floor = (floor_of(rows, settings) for rows in (real.features, real.features.with_vectors))
    trivial = [measure_trivial(name, context, 2 * floor.smallest, settings.seed) for name in baselines.NAMES]
    bar = tqdm([*trivial, *jobs], desc="evaluate: distances", unit="set", disable=None, file=sys.stderr)
    compared = {measured.name: compare(measured.features, floor, vector_floor) for measured in bar}
    of_modes = mode_tables(jobs, Reference(held_out, real, training, settings.seed), context, catalog)
    latents = [latents_of(model, held_out.corpus) for model in trained]
    verdict = verdict_of([job.features for job in jobs], floor)

    sets = [real, *trivial, *jobs]
    features = [measured.features for measured in sets]
    rows = model_table(sets, compared, latents, floor)
    harmony = harmony_table(sets, {job.name: job.mode for job in jobs})
    metrics = metrics_of(real, jobs, rows, compared, latents, verdict, {"harmony.csv": harmony, **of_modes})
    refused = [row for job in jobs for row in job.refused]
    with folders.publishing(data / "evaluation") as folder:
        write_json(folder / METRICS, metrics)
        tables.write(folder / "features_real.parquet", held_out_table(real), schema.WINDOWS)
        tables.write(folder / "neighbours.parquet", neighbour_table(sets, context), schema.NEIGHBOURS)
        _write_csv(folder / "distances.csv", [row for part in compared.values() for row in part], DISTANCE_COLUMNS)
        _write_csv(folder / "features.csv", [row for part in features for row in feature_table(part)])
        _write_csv(folder / "models.csv", rows)
        _write_csv(folder / "harmony.csv", harmony, HARMONY_COLUMNS)
        _write_csv(folder / "refused.csv", refused, ("sample_id", "notes", "reason"))
        for name, content in of_modes.items():
            _write_csv(folder / name, content, COLUMNS[name])
        for feature in FEATURES:
            _write_csv(folder / "distributions" / f"{feature}.csv", histogram(feature, features))
    return {
        "jobs": len(jobs),
        "samples": sum(len(job.rows) for job in jobs),
        "refused": len(refused),
        "held_out_pieces": metrics["held_out_pieces"],
        "held_out_windows": metrics["held_out_windows"],
        "verdict": verdict.sentence,
        "seconds": round(time.monotonic() - start, 3),
    }


def _check_names(jobs: Sequence[MeasuredJob]) -> None:
    """Jobs must not have the names of other sets."""
    taken = [job.name for job in jobs if job.name in (HELD_OUT, *baselines.NAMES)]
    if taken:
        raise InputError(
            f"job {taken[0]!r} of the catalog is called as one of the sets that jobs are compared with; rename it in "
            "generate.jobs"
        )


def _write_csv(path: Path, rows: Sequence[Row], columns: Sequence[str] | None = None) -> None:
    """Writes rows as CSV, numbers in 6 digits."""
    frame = pd.DataFrame(rows, columns=list(columns) if columns is not None else None)
    write_bytes(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
