"""Stage `generate`: jobs of samples -> `data/samples/`: the catalog in Parquet, MIDI bytes inside, and .mid files.

Sample i of a job depends on the model, the job's parameters, its parents and (seed, job name, i) alone. It does not
depend on how many samples are made, in which parts and by how many processes (`context`, `parts`).

Offers: `run`.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from midivae.config.params import Params
from midivae.generate.parts import Part, make, parts, write_pools
from midivae.generate.requests import requests, work_folder
from midivae.generate.rows import training_bars
from midivae.storage import folders, schema, tables
from midivae.storage.files import copy_file
from midivae.storage.paths import catalog_file

log = logging.getLogger(__name__)

KEPT = 16  # finished jobs of earlier runs kept in the work directory


def run(params: Params, data: Path) -> dict[str, object]:
    """Makes the samples of every job in `params.generate`, and publishes `data/samples`.

    Returns:
        Counts (samples, silent, jobs, parts made and reused), seconds and samples_per_s.

    Raises:
        ParamsError: a job asks for something that its model does not have.
        InputError, CorruptError: rolls or models are missing or damaged.
        WorkerError: a child process crashed, hung or ran out of memory; finished parts are kept.
    """
    start = time.monotonic()
    settings, rolls = params.generate, data / "rolls"
    by_name = requests(settings.jobs, params, data)  # every job is checked before the first parent is read
    write_pools(by_name, params, rolls)
    bars = training_bars(rolls, params.evaluate.beats_per_bar)
    every = [part for request in by_name.values() for part in parts(request, settings.samples_per_part, bars)]
    missing = [part for part in every if not tables.is_whole(part.target, schema.CATALOG)]
    if len(missing) < len(every):
        log.info("%d of %d parts are reused from an earlier run", len(every) - len(missing), len(every))
    make(missing, params)
    silent = _publish(every, data / "samples")
    _delete_old({part.target.parent for part in every} | {r.pool for r in by_name.values() if r.pool} | {bars})
    seconds = time.monotonic() - start
    return {
        "samples": sum(job.count for job in settings.jobs),
        "silent": silent,
        "jobs": {job.name: job.count for job in settings.jobs},
        "parts_made": len(missing),
        "parts_reused": len(every) - len(missing),
        "seconds": round(seconds, 3),
        "samples_per_s": round(sum(part.last - part.first for part in missing) / seconds, 1),
    }


def _publish(every: Sequence[Part], target: Path) -> int:
    """Publishes `data/samples` from finished parts; returns the number of silent samples."""
    silent = 0
    per_job = Counter(part.request.job.name for part in every)
    number: Counter[str] = Counter()
    with folders.publishing(target) as staging:
        for part in every:
            name = part.request.job.name
            copy_file(part.target, staging / "catalog" / catalog_file(name, number[name], per_job[name]))
            number[name] += 1
            rows = tables.read(part.target, schema.CATALOG, ["notes", "midi"])
            silent += int(pc.sum(pc.equal(rows.column("notes"), 0)).as_py())
            if part.request.job.midi_files:
                _write_midi_files(rows.column("midi"), staging / "midi" / name)
    return silent


def _write_midi_files(column: pa.ChunkedArray, folder: Path) -> None:
    """Writes the bytes of each row to a file, named by the last part of its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for midi_file in column.to_pylist():
        (folder / Path(midi_file["path"]).name).write_bytes(midi_file["bytes"])


def _delete_old(used: AbstractSet[Path]) -> None:
    """Deletes finished work of earlier runs from the work directory, except the latest `KEPT` folders or files."""
    others = [path for path in work_folder().iterdir() if path not in used]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
