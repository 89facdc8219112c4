"""Stage `generate`: jobs of samples -> `data/samples/`: the catalog in Parquet, MIDI bytes inside, and .mid files.

Sample i of a job depends on the model, the job's parameters, its parents and (seed, job name, i) alone: not on how many
samples are asked for, in which parts and by how many processes they are made. Two things see to that:

    * its random numbers come from a generator of its own (`modes`);
    * a network's result may depend, in its last bits, on a row's place in the batch: parts begin at multiples of
      `coding.BLOCK`, so that a sample has the same place in its block wherever parts are cut.

What a mode does with random numbers, latents and parents is in `modes.py`; here is who does it, and what becomes of it.

A part, `generate.samples_per_part` samples of one job, is made by one call in a child process, and kept in the work
directory under the hash of all that made it. A run that was killed, or asks for more samples, makes what is missing.

Shapes:
    B  samples    V  steps of a sample    N  parts    P  pitches

Offers: `run`; `Desk`, for who makes samples one at a time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, UInt64
from tqdm import tqdm

from midivae import models
from midivae.config.jobs import Blend, Continue, Edit, Ensemble, FromOne, Job, Parent, Song
from midivae.config.params import Params
from midivae.errors import CorruptError, InputError, ParamsError
from midivae.generate import modes, parents
from midivae.generate.modes import Made, Setting
from midivae.generate.parents import Pool
from midivae.measures import features
from midivae.measures.hashes import bar_hashes, novelty
from midivae.measures.keys import key_names
from midivae.models import coding, latent
from midivae.models.base import Chance
from midivae.models.latent import Controls
from midivae.music import midi, roll
from midivae.music.notes import TimeSignature
from midivae.music.roll import Layout
from midivae.storage import folders, schema, tables
from midivae.storage.code import code_version
from midivae.storage.files import copy_file, file_sha256
from midivae.storage.paths import CONFIG, WEIGHTS, catalog_file, model_folder
from midivae.storage.workdir import work_dir
from midivae.windows import loader
from midivae.workers.parallel import Beat, fan_out

log = logging.getLogger(__name__)

BLOCK_LIMIT_S = 600.0  # a block that takes longer hangs
KEPT = 16  # finished jobs of earlier runs kept in the work directory
_LIBRARIES = ("numpy", "torch", "symusic", "pyarrow")


# --- what is asked for ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Request:
    """A job with all it needs, checked.

    Attributes:
        folder: of the model.
        model_sha256: of its weights.
        chance: how the cells are decided.
        tempo_qpm: quarter notes a minute.
        programs: General MIDI program per part of the model's layout.
        fitted: whether moves are made in the noise of the model's fitted prior.
        pool: folder of the windows that the job's parents stand for; None: it has none.
        params_sha256: of the job's parameters, in 16 hex digits.
        key: of all that decides what the samples are; names the folder of finished parts.
    """

    job: Job
    seed: int
    folder: Path
    model: str
    model_sha256: str
    layout: Layout
    chance: Chance
    tempo_qpm: float
    programs: tuple[int, ...]
    fitted: bool
    pool: Path | None
    beats_per_bar: int
    params_sha256: str
    key: str


@dataclass(frozen=True)
class _Part:
    """Samples `first` to `last` - 1 of a request, and where to put them."""

    request: _Request
    first: int
    last: int
    known: Path
    target: Path


def run(params: Params, data: Path) -> dict[str, object]:
    """Makes the samples of every job in `params.generate`, and publishes `data/samples`.

    Returns:
        Counts (samples, silent, jobs, parts made and reused), seconds and samples_per_s.

    Raises:
        ParamsError: a job asks for what its model does not have.
        InputError, CorruptError: rolls or models are missing or damaged.
        WorkerError: a child process crashed, hung or ran out of memory; what was finished is kept.
    """
    start = time.monotonic()
    rolls_sha256 = _manifest_sha256(data / "rolls")
    requests: dict[str, _Request] = {}
    for job in params.generate.jobs:  # one after the other: a job may come from samples of those before it
        requests[job.name] = _request(job, params, data, rolls_sha256, requests)
    for request in requests.values():  # every job is as it should be before the first parent is looked up
        _gather(request, params, data / "rolls", requests)

    known = _known_bars(data / "rolls", rolls_sha256, params.evaluate.beats_per_bar)
    parts = [part for request in requests.values() for part in _parts(request, params.generate.samples_per_part, known)]
    missing = [part for part in parts if not _finished(part)]
    if len(missing) < len(parts):
        log.info("%d of %d parts are there from an earlier run", len(parts) - len(missing), len(parts))
    _make_parts(missing, params)

    silent = _publish(parts, data / "samples")
    _forget_old({part.target.parent for part in parts} | {r.pool for r in requests.values() if r.pool} | {known})
    return {
        "samples": sum(job.count for job in params.generate.jobs),
        "silent": silent,
        "jobs": {job.name: job.count for job in params.generate.jobs},
        "parts_made": len(missing),
        "parts_reused": len(parts) - len(missing),
        "seconds": round(time.monotonic() - start, 3),
        "samples_per_s": round(sum(part.last - part.first for part in missing) / (time.monotonic() - start), 1),
    }


def _manifest_sha256(rolls: Path) -> str:
    """What stands for the rolls: the hash of their hashes."""
    manifest = rolls / folders.MANIFEST
    if not manifest.is_file():
        raise InputError(f"{rolls}: no {folders.MANIFEST}; run stage `ingest`")
    return file_sha256(manifest)


def _request(job: Job, params: Params, data: Path, rolls_sha256: str, earlier: Mapping[str, _Request]) -> _Request:
    """The job with its model's facts; every rule of a job is checked here, before any work."""
    name = job.model or params.train.model
    main = (data / "model").absolute()  # children on other machines have other working directories
    folder = model_folder(main, name, params.train.model)
    path = folder / WEIGHTS
    weights = file_sha256(path) if path.is_file() else ""  # loading says what is missing
    model = _model(folder, weights)
    config = model.config
    params_sha256 = job.digest(exclude={"count", "midi_files"})  # neither decides what a sample is
    if config.data_sha256 != rolls_sha256:
        log.warning("%s was trained on other rolls than those in %s: novelty is against these", folder, data / "rolls")
    _check_mode(job, model, folder, params.evaluate.beats_per_bar)
    identities = [_identity(job, text, earlier) for text in getattr(job, "parents", ())]
    facts = {
        "job": params_sha256,
        "seed": params.generate.seed,
        "weights": weights,
        "config": file_sha256(folder / CONFIG),
        "controls": file_sha256(folder / latent.FILE) if _needs_controls(job) else None,
        "rolls": rolls_sha256,
        "parents": identities,
        "ingest": params.ingest.digest() if identities else None,
        "beats_per_bar": params.evaluate.beats_per_bar,
        "code": code_version(__name__),
        "libraries": {library: importlib.metadata.version(library) for library in _LIBRARIES},
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return _Request(
        job=job,
        seed=params.generate.seed,
        folder=folder,
        model=name,
        model_sha256=weights,
        layout=config.layout,
        chance=_chance(job, model),
        tempo_qpm=job.tempo_qpm if job.tempo_qpm is not None else config.tempo_qpm,
        programs=_programs(job, config.layout, config.programs),
        fitted=_fitted(job, model),
        pool=_kept() / f"parents-{key}" if identities else None,
        beats_per_bar=params.evaluate.beats_per_bar,
        params_sha256=params_sha256,
        key=key,
    )


def _needs_controls(job: Job) -> bool:
    return isinstance(job, Edit) or (isinstance(job, Continue | Song) and job.one_key)


def _check_mode(job: Job, model: models.WindowModel, folder: Path, beats_per_bar: int) -> None:
    """What a mode asks of its model."""
    parts, who = model.config.layout.parts, f"generate job {job.name!r}"
    if isinstance(job, Continue | Song) and model.prior is None:
        raise ParamsError(
            f"{who}: mode {job.mode} needs a model that knows which window follows which, and {model.name!r} does not; "
            "set its model to transformer"
        )
    if isinstance(job, Song):
        modes.windows_of(job, model, beats_per_bar)
    if isinstance(job, Ensemble) and len(parts) < 2:
        raise ParamsError(
            f"{who}: mode ensemble needs a model with several parts, and {model.name!r} has one, {parts[0]!r}; set "
            "train.view.merge_parts to false, or ingest more parts"
        )
    if isinstance(job, Edit):
        _check_changes(job, Controls.read(folder), who)


def _check_changes(job: Edit, controls: Controls, who: str) -> None:
    """Whether the attributes that a job changes can be changed."""
    if not (job.changes or controls.offered):
        raise ParamsError(
            f"{who}: no attribute can be changed: the model's latents explain too little of any; train it longer, or "
            "leave the job out"
        )
    known = dict(zip(controls.names, controls.explained, strict=True))
    for name in job.changes or ():
        if name not in controls.offered:
            share = f"; its latents explain {known[name]:.0%} of it" if name in known else ""
            raise ParamsError(
                f"{who}: its model cannot change {name!r} on purpose{share}; it can change "
                f"{', '.join(controls.offered) or 'nothing'}"
            )


def _identity(job: Job, text: str, earlier: Mapping[str, _Request]) -> str:
    """What stands for a parent in the key of a job: its text, and what it means."""
    parent = Parent.parse(text)
    if parent.kind == "file":
        path = Path(parent.name)
        if not path.is_file():
            raise InputError(
                f"generate job {job.name!r}: parent {text}: no such file; relative paths start at the folder of the "
                "file of parameters"
            )
        return f"{text} {file_sha256(path)}"
    if parent.kind == "sample":
        name, _, index = parent.name.rpartition("-")
        if name not in earlier:
            raise ParamsError(
                f"generate job {job.name!r}: parent {text}: no job {name!r} stands before it; there are {list(earlier)}"
            )
        if int(index) >= earlier[name].job.count:
            raise ParamsError(
                f"generate job {job.name!r}: parent {text}: job {name!r} has {earlier[name].job.count} samples, from 0"
            )
        return f"{text} {earlier[name].key}"
    return text


def _gather(request: _Request, params: Params, rolls: Path, requests: Mapping[str, _Request]) -> None:
    """Puts what a job's parents stand for into its pool, unless it is there."""
    job = request.job
    if (
        request.pool is None
        or not isinstance(job, FromOne | Blend)
        or _readable(request.pool / parents.WINDOWS, schema.PARENTS)
    ):
        return
    view = _model(request.folder, request.model_sha256).config.view

    def sample(sample_id: str) -> parents.Known:
        name, _, index = sample_id.rpartition("-")
        of, first = requests[name], int(index) // coding.BLOCK * coding.BLOCK
        made = modes.make(_setting(of), range(first, int(index) + 1))
        z = made.z[-1] if of.model_sha256 == request.model_sha256 else None
        lead_steps = made.origin.get("lead_steps", [0])[-1]
        return parents.Known.of(made.planes[-1], z, _method(of.job), of.job.transpose, lead_steps)

    request.pool.mkdir(parents=True, exist_ok=True)
    try:
        parents.gather(job.parents, request.pool, rolls, params.ingest, view, sample)
    except (InputError, ParamsError) as error:
        raise type(error)(f"generate job {job.name!r}: {error}") from error


def _method(job: Job) -> str | None:
    """How a job goes about its mode, as the catalog has it."""
    return job.form if isinstance(job, Song) else getattr(job, "method", None)


def _chance(job: Job, model: models.WindowModel) -> Chance:
    """How the job's cells are decided; temperature "auto" draws them where cells depend on each other."""
    temperature = coding.usual(model).temperature if job.temperature == "auto" else job.temperature
    return Chance(job.threshold, temperature, job.top_p)


def _fitted(job: Job, model: models.WindowModel) -> bool:
    """Whether the job's latents come from a fitted prior; "auto" takes it where there is one."""
    if job.prior == "fitted" and model.prior is None:
        raise ParamsError(
            f"generate job {job.name!r}: prior is 'fitted', but model {model.name!r} has the standard normal alone; "
            "set it to normal, or model to transformer"
        )
    return job.prior != "normal" and model.prior is not None


def _programs(job: Job, layout: Layout, most_used: Sequence[int]) -> tuple[int, ...]:
    """Per part: the job's program, else the one that training pieces use most, else 0, a piano."""
    unknown = sorted(set(job.programs) - set(layout.parts))
    if unknown:
        raise ParamsError(
            f"generate job {job.name!r}: programs name part {unknown[0]!r}, but its model plays {list(layout.parts)}; "
            "name one of these, or train on other parts"
        )
    return tuple(job.programs.get(part, max(0, used)) for part, used in zip(layout.parts, most_used, strict=True))


def _kept() -> Path:
    """Where this stage keeps finished work."""
    return work_dir().absolute() / "generate"


# --- the bars that training pieces have -------------------------------------------------------------------------------
def _known_bars(rolls: Path, rolls_sha256: str, beats_per_bar: int) -> Path:
    """A table of the hashes of all bars in the training pieces, made once for these rolls."""
    code = code_version(loader.__name__)
    target = _kept() / f"bars-{rolls_sha256[:16]}-{beats_per_bar}-{code}.parquet"
    if not _readable(target, schema.BARS):
        hashes = loader.bar_hashes(loader.load(rolls, ["train"]), beats_per_bar)
        tables.write(target, pa.table({"hash": hashes}), schema.BARS)
    return target


# --- parts ------------------------------------------------------------------------------------------------------------
def _parts(request: _Request, samples_per_part: int, known: Path) -> Iterator[_Part]:
    """The parts of a job; they begin at whole blocks."""
    step = -(-samples_per_part // coding.BLOCK) * coding.BLOCK
    folder = _kept() / request.key
    for first in range(0, request.job.count, step):
        last = min(first + step, request.job.count)
        yield _Part(request, first, last, known, folder / f"{first:07d}-{last:07d}.parquet")


def _finished(part: _Part) -> bool:
    return _readable(part.target, schema.CATALOG)


def _readable(path: Path, table: schema.Table) -> bool:
    """Whether the file is there and whole; one that is damaged is made again."""
    if not path.exists():
        return False
    try:
        tables.read(path, table)
    except CorruptError as error:
        log.warning("%s", error)
        return False
    return True


def _make_parts(parts: Sequence[_Part], params: Params) -> None:
    """Makes the parts in child processes, with a progress bar."""
    total = sum(part.last - part.first for part in parts)
    with tqdm(total=total, unit="sample", desc="generate", disable=None, file=sys.stderr) as bar:
        for index, outcome in fan_out(
            _make_part, parts, params.compute, time_limit_s=BLOCK_LIMIT_S, label="generate: part"
        ):
            outcome.get()
            bar.update(parts[index].last - parts[index].first)


def _make_part(part: _Part, beat: Beat) -> None:
    """Makes one part, in a child process."""
    blocks, setting, known = [], _setting(part.request), _known(part.known)
    for first in range(part.first, part.last, coding.BLOCK):
        beat(first)
        samples = range(first, min(first + coding.BLOCK, part.last))
        setting = replace(setting, alive=partial(beat, first))
        blocks.append(_rows(part.request, samples, modes.make(setting, samples), known))
    extra = {"layout": part.request.layout.to_json()}
    tables.write(part.target, pa.concat_tables(blocks), schema.CATALOG, extra)


@lru_cache(maxsize=3)
def _model(folder: Path, _model_sha256: str) -> models.WindowModel:
    """The model, loaded once per process."""
    return models.load(folder)


def _setting(request: _Request) -> Setting:
    """All that decides what the samples are."""
    return Setting(
        job=request.job,
        seed=request.seed,
        model=_model(request.folder, request.model_sha256),
        chance=request.chance,
        fitted=request.fitted,
        beats_per_bar=request.beats_per_bar,
        parents=Pool.open(request.pool) if request.pool is not None else None,
        attributes=Controls.read(request.folder) if _needs_controls(request.job) else None,
    )


@lru_cache(maxsize=2)
def _known(path: Path) -> UInt64[np.ndarray, " H"]:
    """The hashes in a table of bars, read once per process."""
    hashes: np.ndarray = tables.read(path, schema.BARS).column("hash").to_numpy()
    return hashes


# --- samples ----------------------------------------------------------------------------------------------------------
def _rows(request: _Request, samples: range, made: Made, known: UInt64[np.ndarray, " H"]) -> pa.Table:
    """A block of samples as rows of the catalog."""
    job, layout, n, planes = request.job, request.layout, len(samples), made.planes
    n_steps = planes.shape[1]
    names = [f"{job.name}-{index:07d}" for index in samples]
    hashes = bar_hashes(planes, layout, request.beats_per_bar * layout.steps_per_beat)
    same: dict[str, Any] = {  # in every row
        "job": job.name,
        "mode": job.mode,
        "seed": request.seed,
        "model": request.model,
        "model_sha256": request.model_sha256,
        "params_sha256": request.params_sha256,
        "temperature": request.chance.temperature,
        "prior": "fitted" if request.fitted else "normal",
        "method": _method(job),
        "parents": [],
        "weights": [],
        "radius": None,
        "edits": None,
        "transpose": job.transpose,
        "lead_steps": 0,
        "tempo_qpm": request.tempo_qpm,
        "parts": list(layout.parts),
        "programs": list(request.programs),
        "n_steps": n_steps,
        "steps_per_beat": layout.steps_per_beat,
        "duration_s": n_steps / layout.steps_per_beat * 60 / request.tempo_qpm,
    }
    table = schema.CATALOG.columns
    columns = {name: pa.repeat(pa.scalar(value, table.field(name).type), n) for name, value in same.items()}
    columns |= {name: pa.array(values, table.field(name).type) for name, values in made.origin.items()}
    columns |= {
        "sample_id": pa.array(names, pa.string()),
        "index": pa.array(samples, pa.int64()),
        "z": pa.ListArray.from_arrays(
            np.arange(n + 1, dtype=np.int32) * made.z.shape[1], made.z.reshape(-1), type=table.field("z").type
        ),
        "key": pa.array(key_names(planes, layout), pa.string()),
        "novelty": _or_null(novelty(hashes, known)),
        "midi": _midi_column(request, names, planes),
    }
    measures = features.measure(planes, layout, request.beats_per_bar)
    columns |= {name: _or_null(values) for name, values in measures.items()}
    return pa.table(columns).select(table.names)


def _or_null(values: Float32[np.ndarray, " B"]) -> pa.Array:
    """NaN as a missing value: `is None` finds it, and statistics stay of use."""
    return pa.array(values, mask=np.isnan(values))


def _midi_column(request: _Request, names: Sequence[str], planes: Bool[np.ndarray, "B V N 2 P"]) -> pa.Array:
    """The samples as MIDI files, with the path each has, or would have, below `data/samples`."""
    metre = (TimeSignature(0, request.beats_per_bar, 4),)
    music = roll.batch_to_notes(planes, request.layout, request.tempo_qpm, request.programs, metre)
    files = [midi.write(notes) for notes in music]
    paths = [f"midi/{request.job.name}/{name}.mid" for name in names]
    return pa.StructArray.from_arrays([pa.array(files, pa.binary()), pa.array(paths)], fields=list(schema.MIDI))


# --- samples that others make, one at a time --------------------------------------------------------------------------
class Desk:
    """A model at hand, and all that rows of the catalog say of it."""

    def __init__(self, job: Job, params: Params, data: Path) -> None:
        """The model of a job that has no parents of its own.

        Raises:
            ParamsError, InputError, CorruptError: as `run`.
        """
        self._rolls, self._rolls_sha256 = data / "rolls", _manifest_sha256(data / "rolls")
        self._request = _request(job, params, data, self._rolls_sha256, {})
        self.setting = _setting(self._request)
        self.folder, self.model_sha256 = self._request.folder, self._request.model_sha256

    @cached_property
    def _bars(self) -> UInt64[np.ndarray, " H"]:
        return _known(_known_bars(self._rolls, self._rolls_sha256, self._request.beats_per_bar))

    @property
    def extra(self) -> dict[str, str]:
        """What a file of these rows says of itself."""
        return {"layout": self._request.layout.to_json()}

    def rows(self, job: Job, seed: int, samples: range, made: Made) -> pa.Table:
        """Samples as rows of the catalog.

        Args:
            job: what they are samples of.
            samples: their numbers in it.
            made: what was made, and where it comes from.
        """
        request = replace(
            self._request,
            job=job,
            seed=seed,
            tempo_qpm=job.tempo_qpm if job.tempo_qpm is not None else self._request.tempo_qpm,
            params_sha256=job.digest(exclude={"count", "midi_files"}),
        )
        return _rows(request, samples, made, self._bars)


# --- the finished catalog ---------------------------------------------------------------------------------------------
def _forget_old(used: AbstractSet[Path]) -> None:
    """Removes what earlier runs left in the work directory, but for the `KEPT` folders or files written last."""
    others = [path for path in _kept().iterdir() if path not in used]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _publish(parts: Sequence[_Part], target: Path) -> int:
    """Assembles `data/samples` from finished parts; returns how many samples are silent."""
    silent = 0
    per_job = Counter(part.request.job.name for part in parts)
    number: Counter[str] = Counter()
    with folders.publishing(target) as staging:
        for part in parts:
            name = part.request.job.name
            copy_file(part.target, staging / "catalog" / catalog_file(name, number[name], per_job[name]))
            number[name] += 1
            rows = tables.read(part.target, schema.CATALOG, ["notes", "midi"])
            silent += int(pc.sum(pc.equal(rows.column("notes"), 0)).as_py())
            if part.request.job.midi_files:
                _write_midi_files(rows.column("midi"), staging / "midi" / name)
    return silent


def _write_midi_files(column: pa.ChunkedArray, folder: Path) -> None:
    """Writes each row's bytes as a file named as its path ends."""
    folder.mkdir(parents=True, exist_ok=True)
    for midi_file in column.to_pylist():
        (folder / Path(midi_file["path"]).name).write_bytes(midi_file["bytes"])
