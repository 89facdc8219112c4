"""Fits one model: from random weights or those of an earlier model, its draft first, then all of it.

The key of a run in the work directory covers everything that decides the weights: the config of the model (with the
hash of its rolls), the settings, the machine, the earlier model, and the code of this module, of the network, and of
all that both import.

Offers: `Trained`, `fit`.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from midivae import __version__
from midivae.config.streams import Stream
from midivae.config.train import Train
from midivae.errors import InputError
from midivae.models.base import Config, WindowModel, create, read_config, read_weights
from midivae.storage.code import code_version
from midivae.storage.files import file_sha256
from midivae.storage.paths import CONFIG, WEIGHTS, compared_folders
from midivae.storage.workdir import key_of, work_dir
from midivae.train.checkpoint import Checkpoints, Progress
from midivae.train.devices import Machine
from midivae.train.trainer import Trainer, slices, torch_rng
from midivae.windows.device import BitMatrix

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A model with the weights of its best epoch, and its training.

    Attributes:
        key: of the run, in the work directory.
        steps: of this call; fewer than those of the run if it was resumed.
    """

    model: WindowModel
    key: str
    progress: Progress
    seconds: float
    steps: int
    precision: str


def fit(config: Config, settings: Train, train: BitMatrix, valid: BitMatrix, machine: Machine) -> Trained:
    """Fits a model, or takes it from the work directory.

    Raises:
        InputError: `train.warm_start` names a folder without a model.
        TrainingError: training diverged.
    """
    model = create(config, torch_rng(torch.device("cpu"), Stream.WEIGHTS.seeds(settings.seed)))
    earlier = _earlier(config.name, settings)
    key = _key(model, settings, machine, earlier)
    all_fit = earlier is not None and _start_from(model, earlier)
    model = model.to(train.device)
    network = settings.network(config.name)
    draft = getattr(model, "draft", None)
    if draft is not None and settings.transformer.draft_steps:
        if not all_fit:
            _fit_draft(draft, key, settings, train, valid, machine)
        draft.requires_grad_(False)  # the decoder learns from its latents, so they must not change
    trainer = Trainer(model, train, valid, network, settings.seed, _checkpoints(key), machine)
    start, first_step = time.monotonic(), trainer.progress.step
    trainer.fit()
    model.load_state_dict(trainer.best)
    model.eval()
    seconds = time.monotonic() - start
    return Trained(model, key, trainer.progress, seconds, trainer.progress.step - first_step, machine.precision)


def _checkpoints(key: str) -> Checkpoints:
    return Checkpoints(work_dir() / "train" / key)


def _fit_draft(
    draft: WindowModel, key: str, settings: Train, train: BitMatrix, valid: BitMatrix, machine: Machine
) -> None:
    """Fits the draft of a transformer, which decides what the latents hold."""
    steps = settings.transformer.draft_steps
    alone: dict[str, object] = {
        "max_steps": steps,
        "epochs": sys.maxsize,
        "patience": None,
        "anneal_steps": steps // 4,
        "optimizer": "adamw",  # as its figures in docs/benchmarks.md were measured
    }
    network = settings.transformer.model_copy(update=alone)
    trainer = Trainer(draft, train, valid, network, settings.seed, _checkpoints(f"{key}-draft"), machine)
    trainer.fit()
    draft.load_state_dict(trainer.best)


def _earlier(name: str, settings: Train) -> Path | None:
    """The folder of the model of this name that training starts from; None: there is none.

    Raises:
        InputError: the folder that params name holds no model.
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
    """Loads the weights of an earlier model whose tensors have the same names and shapes.

    Both must have the same layout and view; otherwise, and for other tensors, the weights stay as they are.

    Returns:
        Whether all tensors were loaded.
    """
    before, now = read_config(folder), model.config
    if (before.layout, before.view) != (now.layout, now.view):
        log.warning("%s: %s has other windows: training starts from random weights", now.name, folder)
        return False
    own = model.state_dict()
    same = {
        name: weight for name, weight in read_weights(folder).items() if name in own and own[name].shape == weight.shape
    }
    model.load_state_dict(same, strict=False)
    log.info("%s: starts from %s, %d of %d tensors", now.name, folder, len(same), len(own))
    return len(same) == len(own)


def _key(model: WindowModel, settings: Train, machine: Machine, earlier: Path | None = None) -> str:
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
