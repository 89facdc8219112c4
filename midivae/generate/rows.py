"""Samples as rows of the catalog, with measures, novelty and their MIDI bytes.

Shapes:
    B  samples    V  steps of a sample    N  parts    P  pitches    H  hashes of bars

Offers: `rows`, `method_of`; `training_bars`, `read_bars`; `LoadedJob`, for samples that are made one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt64

from midivae.config.jobs import Accompany, Infill, Job, Replace, Song
from midivae.config.params import Params
from midivae.generate.context import Samples
from midivae.generate.requests import Request, requests, rolls_sha256, work_folder
from midivae.measures import cadences, features, harmony
from midivae.measures.hashes import bar_hashes, novelty
from midivae.measures.keys import key_names
from midivae.music import roll, smf
from midivae.music.grid import time_signature
from midivae.storage import schema, tables
from midivae.storage.code import code_version
from midivae.windows.corpus import load_corpus
from midivae.windows.windows import corpus_bar_hashes

Hashes = UInt64[np.ndarray, " H"]


def rows(request: Request, numbers: range, samples: Samples, bars: Hashes) -> pa.Table:
    """A block of samples as rows of the catalog.

    Args:
        request: the job.
        numbers: the numbers of the samples in the job.
        samples: the samples.
        bars: the hashes of all bars in training pieces, for the novelty.
    """
    job, layout, n, planes = request.job, request.layout, len(numbers), samples.planes
    n_steps = planes.shape[1]
    names = [f"{job.name}-{index:07d}" for index in numbers]
    hashes = bar_hashes(planes, layout, request.beats_per_bar * layout.steps_per_beat)
    constants: dict[str, Any] = {  # the same in every row, if `origin` has no other values
        "job": job.name,
        "mode": job.mode,
        "seed": request.seed,
        "model": request.model,
        "model_sha256": request.model_sha256,
        "params_sha256": request.params_sha256,
        "temperature": request.chance.temperature,
        "prior": "fitted" if request.fitted else "normal",
        "method": method_of(job),
        "parents": [],
        "weights": [],
        "radius": None,
        "fidelity": request.fidelity,
        "edits": None,
        **dict.fromkeys(schema.ENDINGS),
        "transpose": job.transpose,
        "lead_steps": 0,
        "tail_steps": 0,
        "tempo_qpm": request.tempo_qpm,
        "parts": list(layout.parts),
        "programs": list(request.programs),
        "n_steps": n_steps,
        "steps_per_beat": layout.steps_per_beat,
        "duration_s": n_steps / layout.steps_per_beat * 60 / request.tempo_qpm,
    }
    table = schema.CATALOG.columns
    columns = {name: pa.repeat(pa.scalar(value, table.field(name).type), n) for name, value in constants.items()}
    columns |= {name: pa.array(values, table.field(name).type) for name, values in samples.origin.items()}
    columns |= {
        "sample_id": pa.array(names, pa.string()),
        "index": pa.array(numbers, pa.int64()),
        "z": pa.array(list(samples.z), table.field("z").type),
        "key": pa.array(key_names(planes, layout), pa.string()),
        "novelty": pa.array(novelty(hashes, bars), from_pandas=True),
        "midi": _midi_column(request, names, samples),
    }
    measures = [measure(planes, layout, request.beats_per_bar) for measure in (features.measure, harmony.measure)]
    if isinstance(job, Song):
        measures.append(cadences.endings(planes, layout))
    columns |= {name: pa.array(of, pa.float32(), from_pandas=True) for part in measures for name, of in part.items()}
    return pa.table(columns).select(table.names)


def method_of(job: Job) -> str | None:
    """The method of a job, as the catalog has it: the form of a song, the bars that are filled in, the named parts."""
    if isinstance(job, Song):
        return job.form
    if isinstance(job, Infill):
        return None if job.bars is None else f"{job.bars[0]}-{job.bars[1]}"
    if isinstance(job, Accompany | Replace):
        return None if job.parts is None else "+".join(job.parts)
    return getattr(job, "method", None)


def _midi_column(request: Request, names: Sequence[str], samples: Samples) -> pa.Array:
    """The samples as MIDI files, and the path of each below `data/samples`, also if no file is written there."""
    layout, bars = request.layout, samples.steps_per_bar
    music = roll.batch_to_notes(samples.planes, layout, request.tempo_qpm, request.programs)
    lengths = [request.steps_per_bar] * len(names) if bars is None else bars.tolist()
    end = samples.planes.shape[1] * roll.TICKS_PER_STEP
    files = [
        smf.write(replace(notes, time_signatures=(time_signature(length, layout.steps_per_beat),)), end)
        for notes, length in zip(music, lengths, strict=True)
    ]
    paths = [f"midi/{request.job.name}/{name}.mid" for name in names]
    return pa.StructArray.from_arrays([pa.array(files, pa.binary()), pa.array(paths)], fields=list(schema.MIDI))


# --- bars of training pieces ------------------------------------------------------------------------------------------
def training_bars(rolls: Path, beats_per_bar: int) -> Path:
    """A table of the hashes of all bars in the training pieces, computed once for these rolls."""
    name = f"bars-{rolls_sha256(rolls)[:16]}-{beats_per_bar}-{code_version(corpus_bar_hashes.__module__)}.parquet"
    target = work_folder() / name
    if not tables.is_whole(target, schema.BARS):
        hashes = corpus_bar_hashes(load_corpus(rolls, ["train"]), beats_per_bar)
        tables.write(target, pa.table({"hash": hashes}), schema.BARS)
    return target


@lru_cache(maxsize=2)
def read_bars(path: Path) -> Hashes:
    """The hashes in such a table, read once per process."""
    hashes: np.ndarray = tables.read(path, schema.BARS).column("hash").to_numpy()
    return hashes


# --- samples made one at a time ---------------------------------------------------------------------------------------
class LoadedJob:
    """A job with its model loaded, for a program that makes samples one at a time."""

    def __init__(self, job: Job, params: Params, data: Path) -> None:
        """Loads the model of a job that has no parents.

        Raises:
            ParamsError, InputError, CorruptError: as `requests.requests`.
        """
        self._rolls = data / "rolls"
        self._request = requests([job], params, data)[job.name]
        self.context = self._request.context()
        self.folder, self.model_sha256 = self._request.folder, self._request.model_sha256

    @cached_property
    def _bars(self) -> Hashes:
        return read_bars(training_bars(self._rolls, self._request.beats_per_bar))

    @property
    def extra(self) -> dict[str, str]:
        """The metadata of a file of these rows."""
        return {"layout": self._request.layout.to_json()}

    def rows(self, job: Job, seed: int, numbers: range, samples: Samples) -> pa.Table:
        """Samples as rows of the catalog.

        Args:
            job: the job that the rows name.
            seed: likewise.
            numbers: the numbers of the samples in that job.
            samples: the samples and their origin.
        """
        request = replace(
            self._request,
            job=job,
            seed=seed,
            tempo_qpm=job.tempo_qpm if job.tempo_qpm is not None else self._request.tempo_qpm,
            params_sha256=job.digest(exclude={"count", "midi_files"}),
        )
        return rows(request, numbers, samples, self._bars)
