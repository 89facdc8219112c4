"""Requests: jobs with the facts of their models, checked before any work.

Offers: `Request` and `requests`; `rolls_sha256`, `work_folder`.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from midivae import models
from midivae.config.jobs import Accompany, Continue, Edit, Ensemble, Infill, Job, Parent, Replace, Song
from midivae.config.params import Params
from midivae.config.train import View
from midivae.errors import InputError, ParamsError
from midivae.generate.context import Context
from midivae.generate.given import gap_of
from midivae.generate.parents import Pool
from midivae.generate.sequences import windows_of
from midivae.models import coding
from midivae.models.chance import Chance
from midivae.models.controls import Controls, controls_file
from midivae.music.roll import Layout
from midivae.storage import folders
from midivae.storage.code import code_version
from midivae.storage.files import file_sha256
from midivae.storage.paths import CONFIG, WEIGHTS, model_folder
from midivae.storage.workdir import key_of, work_dir

log = logging.getLogger(__name__)

_LIBRARIES = ("numpy", "torch", "pyarrow")


@dataclass(frozen=True)
class Request:
    """A job and the facts of its model.

    Attributes:
        folder: of the model.
        view: how the model's windows are cut.
        model_sha256: of its weights.
        chance: how cells are decided.
        steps_per_bar: the metre of samples without parents.
        tempo_qpm: quarter notes a minute.
        programs: General MIDI program of each part of the model's layout.
        fitted: whether moves are made in the noise of the model's fitted prior.
        fidelity: share of the fine latent dimensions that are used; None: the model has one latent.
        parents: the texts of the job's parents.
        pool: folder of the windows that the job's parents stand for; None: the job has no parents.
        params_sha256: of the job's parameters, in 16 hex digits.
        key: hash of everything that decides the samples; the name of the folder of finished parts.
    """

    job: Job
    seed: int
    folder: Path
    model: str
    model_sha256: str
    view: View
    layout: Layout
    chance: Chance
    steps_per_bar: int
    tempo_qpm: float
    programs: tuple[int, ...]
    fitted: bool
    fidelity: float | None
    parents: tuple[str, ...]
    pool: Path | None
    beats_per_bar: int
    params_sha256: str
    key: str

    def context(self) -> Context:
        """What the modes need; the model is loaded once per process."""
        model = _model(self.folder, self.model_sha256)
        return Context(
            job=self.job,
            seed=self.seed,
            model=model,
            chance=self.chance,
            fitted=self.fitted,
            parents=Pool.open(self.pool) if self.pool is not None else None,
            attributes=Controls.read(self.folder, _is_coarse(self.job, model)) if _needs_controls(self.job) else None,
        )


def work_folder() -> Path:
    """The folder of finished work of this stage; absolute, as other machines have other working directories."""
    return work_dir().absolute() / "generate"


def rolls_sha256(rolls: Path) -> str:
    """A hash that identifies the rolls: that of their manifest."""
    manifest = rolls / folders.MANIFEST
    if not manifest.is_file():
        raise InputError(f"{rolls}: no {folders.MANIFEST}; run stage `ingest`")
    return file_sha256(manifest)


def requests(jobs: Sequence[Job], params: Params, data: Path) -> dict[str, Request]:
    """The requests of jobs, by name. A job may have samples of earlier jobs as parents.

    Raises:
        ParamsError: a job asks for something that its model does not have.
        InputError, CorruptError: rolls or models are missing or damaged.
    """
    rolls = rolls_sha256(data / "rolls")
    by_name: dict[str, Request] = {}
    for job in jobs:
        by_name[job.name] = _request(job, params, data, rolls, by_name)
    return by_name


@lru_cache(maxsize=3)
def _model(folder: Path, _model_sha256: str) -> models.WindowModel:
    """The model, loaded once per process."""
    return models.load(folder)


def _request(job: Job, params: Params, data: Path, rolls: str, earlier: Mapping[str, Request]) -> Request:
    name = job.model or params.train.model
    folder = model_folder((data / "model").absolute(), name, params.train.model)
    path = folder / WEIGHTS
    weights = file_sha256(path) if path.is_file() else ""  # loading says what is missing
    model = _model(folder, weights)
    config = model.config
    params_sha256 = job.digest(exclude={"count", "midi_files"})  # neither decides what a sample is
    if config.data_sha256 != rolls:
        log.warning("%s was trained on other rolls than those in %s: novelty is against these", folder, data / "rolls")
    _check_mode(job, model, folder)
    parents = getattr(job, "parents", ())
    identities = [_identity(job, text, earlier) for text in parents]
    facts = {
        "job": params_sha256,
        "seed": params.generate.seed,
        "weights": weights,
        "config": file_sha256(folder / CONFIG),
        "controls": file_sha256(folder / controls_file(_is_coarse(job, model))) if _needs_controls(job) else None,
        "rolls": rolls,
        "parents": identities,
        "ingest": params.ingest.digest() if identities else None,
        "beats_per_bar": params.evaluate.beats_per_bar,
        "code": code_version("midivae.generate.parts"),  # it makes the samples, and imports this module
        "libraries": {library: importlib.metadata.version(library) for library in _LIBRARIES},
    }
    key = key_of(facts)
    return Request(
        job=job,
        seed=params.generate.seed,
        folder=folder,
        model=name,
        model_sha256=weights,
        view=config.view,
        layout=config.layout,
        chance=_chance(job, model),
        steps_per_bar=config.steps_per_bar,
        tempo_qpm=job.tempo_qpm if job.tempo_qpm is not None else config.tempo_qpm,
        programs=_programs(job, config.layout, config.programs),
        fitted=_fitted(job, model),
        fidelity=getattr(job, "fidelity", 0.0) if model.coarse < model.latent else None,
        parents=parents,
        pool=work_folder() / f"parents-{key}" if identities else None,
        beats_per_bar=params.evaluate.beats_per_bar,
        params_sha256=params_sha256,
        key=key,
    )


# --- rules of a job ---------------------------------------------------------------------------------------------------
def _needs_controls(job: Job) -> bool:
    return isinstance(job, Edit) or (isinstance(job, Continue | Song) and job.one_key)


def _is_coarse(job: Job, model: models.WindowModel) -> bool:
    """Whether the job uses the coarse latent alone, of a model that has two."""
    return model.coarse < model.latent and not getattr(job, "fidelity", 0.0)


def _check_mode(job: Job, model: models.WindowModel, folder: Path) -> None:
    """Whether the model has what the mode needs."""
    parts, prefix = model.config.layout.parts, f"generate job {job.name!r}"
    if isinstance(job, Continue | Song) and model.prior is None:
        raise ParamsError(
            f"{prefix}: mode {job.mode} needs a model that knows which window follows which, and {model.name!r} does "
            "not; set its model to transformer"
        )
    if isinstance(job, Song):
        windows_of(job, model)
    if isinstance(job, Infill | Accompany | Replace):
        _check_given(job, model, prefix)
    if isinstance(job, Ensemble) and len(parts) < 2:
        raise ParamsError(
            f"{prefix}: mode ensemble needs a model with several parts, and {model.name!r} has one, {parts[0]!r}; set "
            "train.view.merge_parts to false, or ingest more parts"
        )
    if isinstance(job, Edit):
        _check_changes(job, Controls.read(folder, _is_coarse(job, model)), prefix)


def _check_given(job: Infill | Accompany | Replace, model: models.WindowModel, prefix: str) -> None:
    """Whether the model can keep what the job gives, and has something left to make."""
    config = model.config
    if model.name != "transformer":
        raise ParamsError(
            f"{prefix}: mode {job.mode} needs a model that sees given notes, and {model.name!r} does not; set its "
            "model to transformer"
        )
    if isinstance(job, Infill):
        bars = -(-config.view.steps // config.steps_per_bar)
        if gap_of(job, config.view.steps, config.steps_per_bar)[1] > bars:
            raise ParamsError(f"{prefix}: a window has {bars} bars; set bars to numbers from 1 to {bars}")
        return
    parts = config.layout.parts
    unknown = sorted(set(job.parts or ()) - set(parts))
    if unknown:
        raise ParamsError(f"{prefix}: no part {unknown[0]!r}; the model plays {list(parts)}")
    if len(parts) < 2 or set(job.parts or parts[:1]) == set(parts):
        raise ParamsError(
            f"{prefix}: mode {job.mode} keeps some parts and makes the others; of {list(parts)} nothing would be left "
            "to do; name fewer parts, or train on several"
        )


def _check_changes(job: Edit, controls: Controls, prefix: str) -> None:
    """Whether the model can change the attributes of the job."""
    if not (job.changes or controls.offered):
        raise ParamsError(
            f"{prefix}: no attribute can be changed: the model's latents explain too little of any; train it longer, "
            "or leave the job out"
        )
    explained = dict(zip(controls.names, controls.explained, strict=True))
    for name in job.changes or ():
        if name not in controls.offered:
            share = f"; its latents explain {explained[name]:.0%} of it" if name in explained else ""
            raise ParamsError(
                f"{prefix}: its model cannot change {name!r} on purpose{share}; it can change "
                f"{', '.join(controls.offered) or 'nothing'}"
            )


def _identity(job: Job, text: str, earlier: Mapping[str, Request]) -> str:
    """The text of a parent and the hash of its music, for the key of a job."""
    parent = Parent.parse(text)
    prefix = f"generate job {job.name!r}: parent {text}"
    if parent.kind == "file":
        path = Path(parent.name)
        if not path.is_file():
            raise InputError(f"{prefix}: no such file; relative paths start at the folder of the file of parameters")
        return f"{text} {file_sha256(path)}"
    if parent.kind == "sample":
        name, _, index = parent.name.rpartition("-")
        if name not in earlier:
            raise ParamsError(f"{prefix}: no job {name!r} stands before it; there are {list(earlier)}")
        if int(index) >= earlier[name].job.count:
            raise ParamsError(f"{prefix}: job {name!r} has {earlier[name].job.count} samples, from 0")
        return f"{text} {earlier[name].key}"
    return text


def _chance(job: Job, model: models.WindowModel) -> Chance:
    """How the job's cells are decided; temperature "auto" draws them if cells depend on each other."""
    temperature = coding.default_chance(model).temperature if job.temperature == "auto" else job.temperature
    return Chance(job.threshold, temperature, job.top_p)


def _fitted(job: Job, model: models.WindowModel) -> bool:
    """Whether the job's latents come from a fitted prior; "auto" uses the prior that the model has."""
    if job.prior == "fitted" and model.prior is None:
        raise ParamsError(
            f"generate job {job.name!r}: prior is 'fitted', but model {model.name!r} has the standard normal alone; "
            "set it to normal, or model to transformer"
        )
    return job.prior != "normal" and model.prior is not None


def _programs(job: Job, layout: Layout, most_used: Sequence[int]) -> tuple[int, ...]:
    """The program of each part: the job's, else the one that training pieces use most, else 0, a piano."""
    unknown = sorted(set(job.programs) - set(layout.parts))
    if unknown:
        raise ParamsError(
            f"generate job {job.name!r}: programs name part {unknown[0]!r}, but its model plays {list(layout.parts)}; "
            "name one of these, or train on other parts"
        )
    return tuple(job.programs.get(part, max(0, used)) for part, used in zip(layout.parts, most_used, strict=True))
