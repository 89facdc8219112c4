"""Fits one model: reads the corpus, chooses the first weights, fits the draft, then the whole model.

The key of a run in the work directory covers everything that decides the weights: the config of the model (with the
hash of its rolls), the settings, the machine, the earlier model that training starts from, and the code of this module,
of the network and of everything that both import.

Offers: `Splits`, `load_splits`, `Trained`, `fit`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from midivae import __version__
from midivae.config.streams import Stream
from midivae.config.train import Fit, Train
from midivae.config.train import Transformer as TransformerSettings
from midivae.errors import InputError, TrainingError
from midivae.models.base import Config, WindowModel, create, read_config, read_weights
from midivae.models.transformer import Transformer
from midivae.storage import folders
from midivae.storage.code import code_version
from midivae.storage.files import file_sha256
from midivae.storage.paths import CONFIG, WEIGHTS, compared_folders
from midivae.storage.workdir import key_of, work_dir
from midivae.train.checkpoint import Checkpoints, Progress
from midivae.train.devices import Machine, torch_rng
from midivae.train.trainer import Trainer, slices
from midivae.windows.corpus import Corpus, load_corpus
from midivae.windows.device import BitMatrix
from midivae.windows.place import usual_bar
from midivae.windows.windows import find_windows, sample_layout

log = logging.getLogger(__name__)


SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Splits:
    """The pieces of each split, and their windows on the training device, by the split's name."""

    corpora: dict[str, Corpus]
    windows: dict[str, BitMatrix]
    rolls_sha256: str

    @property
    def valid_corpus(self) -> Corpus | None:
        """The pieces of split `valid`; None: they have no windows."""
        return self.corpora["valid"] if self.windows["valid"] else None

    @property
    def n_windows(self) -> dict[str, int]:
        """The number of windows of each split."""
        return {name: len(windows) for name, windows in self.windows.items()}


@dataclass(frozen=True)
class Trained:
    """A model with the weights of its best epoch, and its training.

    Attributes:
        key: of the run, in the work directory.
        seconds: of this call.
        steps: optimiser steps of this call; fewer than those of the run if it was resumed.
    """

    model: WindowModel
    key: str
    progress: Progress
    seconds: float
    steps: int
    precision: str


def load_splits(rolls: Path, settings: Train, device: torch.device) -> Splits:
    """Reads the rolls and cuts them into windows.

    Raises:
        InputError, SchemaError, CorruptError: the rolls are missing, of another version or damaged.
        ParamsError: the view merges parts and the rolls have nothing but drums.
        TrainingError: split `train` has no piece, or fewer windows than a model's batch.
    """
    manifest = rolls / folders.MANIFEST
    if not manifest.is_file():
        raise InputError(f"{rolls}: no {folders.MANIFEST}; run stage `ingest`")
    view, names = settings.view, (settings.model, *settings.compare)
    context = settings.transformer.context if "transformer" in names else 0
    corpora = {name: load_corpus(rolls, [name]) for name in SPLITS}
    windows = {
        name: BitMatrix(corpus, find_windows(corpus, view), view, device, context) for name, corpus in corpora.items()
    }
    _check_some(corpora)
    for name in names:
        _check_enough(len(windows["train"]), name, settings)
    if not windows["valid"]:
        log.warning("no windows in split `valid`: the training loss chooses the best weights and stops no training")
    return Splits(corpora, windows, file_sha256(manifest))


def _check_some(corpora: Mapping[str, Corpus]) -> None:
    if not len(corpora["train"]):
        held_out = ", ".join(f"{len(corpus)} in {name}" for name, corpus in corpora.items() if name != "train")
        raise TrainingError(
            f"no piece is in split train ({held_out}): there is nothing to train on; set ingest.split.valid and "
            "ingest.split.test to 0, set another ingest.split.seed, or ingest more pieces (copies and near copies of "
            "one piece count as one)"
        )


def _check_enough(n_windows: int, name: str, settings: Train) -> None:
    size = settings.network(name).batch_size
    if n_windows < size:
        section = "transformer" if name == "transformer" else "dense"
        raise TrainingError(
            f"{n_windows} training window(s) of {settings.view.steps} steps, but train.{section}.batch_size is "
            f"{size}: an epoch of model {name!r} needs at least one full batch; lower it or train.view.steps, or "
            "ingest more pieces"
        )


def fit(name: str, settings: Train, splits: Splits, machine: Machine) -> Trained:
    """Fits the model of this name, or takes it from the work directory.

    Raises:
        InputError: `train.warm_start` names a folder without a model.
        ParamsError: the processes cannot divide a batch evenly.
        TrainingError: training diverged.
    """
    model = create(_config(name, settings, splits), torch_rng(torch.device("cpu"), Stream.WEIGHTS.seeds(settings.seed)))
    earlier = _earlier(name, settings)
    key = _key(model, settings, machine, earlier)
    all_loaded = earlier is not None and _start_from(model, earlier)
    model = model.to(machine.device)

    def run_of(module: WindowModel, network: Fit, key: str) -> Trainer:
        windows = splits.windows
        checkpoints = Checkpoints(work_dir() / "train" / key)
        return Trainer(module, windows["train"], windows["valid"], network, settings.seed, checkpoints, machine)

    if isinstance(model, Transformer):
        if not all_loaded:
            trainer = run_of(
                model.draft, _draft_settings(settings.transformer, len(splits.windows["train"])), f"{key}-draft"
            )
            trainer.fit()
            model.draft.load_state_dict(trainer.best)
        model.draft.requires_grad_(False)  # the decoder learns from its latents, so they must not change
    trainer = run_of(model, settings.network(name), key)
    start, first_step = time.monotonic(), trainer.progress.step
    trainer.fit()
    model.load_state_dict(trainer.best)
    model.eval()
    seconds = time.monotonic() - start
    return Trained(model, key, trainer.progress, seconds, trainer.progress.step - first_step, machine.precision)


def _config(name: str, settings: Train, splits: Splits) -> Config:
    corpus = splits.corpora["train"]
    return Config(
        name=name,
        layout=sample_layout(corpus.layout, settings.view),
        view=settings.view,
        network=settings.network(name),
        steps_per_bar=usual_bar(corpus.bar_starts, 4 * corpus.layout.steps_per_beat),
        tempo_qpm=round(float(np.median(corpus.tempo_qpm)), 3),
        programs=_programs(corpus, settings.view.merge_parts),
        data_sha256=splits.rolls_sha256,
    )


def _programs(corpus: Corpus, merge_parts: bool) -> tuple[int, ...]:
    """The program that most pieces use, per part; 0, a piano, for a part without notes."""
    by_part = list(corpus.programs.T)
    if merge_parts:
        by_part = [corpus.programs[:, corpus.layout.pitched].reshape(-1)]
    used = (np.bincount(programs[programs >= 0], minlength=1) for programs in by_part)
    return tuple(int(counts.argmax()) for counts in used)


def _draft_settings(settings: TransformerSettings, n_windows: int) -> Fit:
    """How the draft of a transformer is fitted, before the whole model: as its figures were measured."""
    changes: dict[str, object] = {
        "max_steps": settings.draft_steps,
        "epochs": sys.maxsize,
        "patience": None,
        "anneal_steps": settings.draft_steps // 4,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
        "batch_size": settings.batch_size * (4 if n_windows >= 4 * settings.batch_size else 1),
    }
    return settings.model_copy(update=changes)


def _earlier(name: str, settings: Train) -> Path | None:
    """The folder of the earlier model that this one starts from; None: there is none.

    Raises:
        InputError: the folder in params has no model.
    """
    if settings.warm_start is None:
        return None
    folder = Path(settings.warm_start)
    if not (folder / CONFIG).is_file():
        raise InputError(
            f"{folder}: no {CONFIG}, so not the folder of a model; set train.warm_start to one, or to null"
        )
    candidates = (folder, *compared_folders(folder))
    return next((candidate for candidate in candidates if read_config(candidate).name == name), None)


def _start_from(model: WindowModel, folder: Path) -> bool:
    """Loads the weights of an earlier model that have the same names and shapes; the others stay as they are.

    Nothing is loaded if layout or view differ.

    Returns:
        Whether all tensors were loaded.
    """
    before, now = read_config(folder), model.config
    if (before.layout, before.view) != (now.layout, now.view):
        log.warning("%s: %s has another layout or view: training starts from random weights", now.name, folder)
        return False
    own = model.state_dict()
    same = {
        name: weight for name, weight in read_weights(folder).items() if name in own and own[name].shape == weight.shape
    }
    model.load_state_dict(same, strict=False)
    log.info("%s: starts from %s, %d of %d tensors", now.name, folder, len(same), len(own))
    return len(same) == len(own)


def _key(model: WindowModel, settings: Train, machine: Machine, earlier: Path | None) -> str:
    """The name of a run: the model's name and a hash of everything that decides its weights."""
    facts = {
        "config": model.config.to_dict(),
        "seed": settings.seed,
        "device": machine.device.type,
        "precision": machine.precision,
        "compiled": machine.compiles,
        "slices": slices(settings.network(model.name), machine.processes),
        "starts_from": file_sha256(earlier / WEIGHTS) if earlier is not None else None,
        "code": code_version(__name__, type(model).__module__),
        "torch": torch.__version__,
        "version": __version__,
    }
    return f"{model.name}-{key_of(facts)}"
