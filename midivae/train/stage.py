"""Stage `train`: piano rolls -> `data/model/`: a model, and the models that it is compared with.

Offers: `run`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midivae.config.params import Params
from midivae.config.train import Train
from midivae.models import WindowModel, coding
from midivae.models.fit_controls import fit_controls
from midivae.storage import folders
from midivae.storage.files import file_sha256, write_bytes, write_json
from midivae.storage.paths import CORPUS_TABLE, METRICS, WEIGHTS, model_folder
from midivae.storage.workdir import work_dir
from midivae.train import checkpoint, devices, fit_prior
from midivae.train.card import read_sources, write_card
from midivae.train.curves import csv_bytes, write_curves
from midivae.train.fit import Splits, Trained, fit, load_splits
from midivae.train.heldout import measure_held_out, measure_prior

log = logging.getLogger(__name__)

KEPT_RUNS = 8  # finished runs kept in the work directory


def run(params: Params, data: Path) -> dict[str, object] | None:
    """Trains `params.train.model` and each of `params.train.compare`, measures them, and publishes `data/model`.

    Under torchrun all processes train together, and process 0 alone does the rest.

    Returns:
        Windows per split; per model epochs, losses and held-out F1; seconds; windows_per_s (None if every model was
        trained in an earlier run). None in processes other than 0.

    Raises:
        InputError, SchemaError, CorruptError: the rolls are missing, of another version or damaged.
        ParamsError: a device that does not exist, a view that leaves nothing to see, or a batch that the processes
            cannot divide evenly.
        TrainingError: too few windows to fill a batch, or training that diverged.
    """
    start = time.monotonic()
    settings = params.train
    machine = devices.connect(settings.device, settings.precision, settings.compile)
    splits = load_splits(data / "rolls", settings, machine.device)
    models = {name: fit(name, settings, splits, machine) for name in (settings.model, *settings.compare)}
    machine.disconnect()
    if machine.rank:
        return None
    priors = {name: _fit_prior(trained, settings, splits) for name, trained in models.items()}
    metrics = {name: _metrics(trained, splits, settings) for name, trained in models.items()}
    sources = read_sources(data / "corpus" / CORPUS_TABLE)
    with folders.publishing(data / "model") as staging:
        for name, trained in models.items():
            folder = model_folder(staging, name, settings.model)
            trained.model.save_pretrained(folder)
            write_json(folder / METRICS, metrics[name])
            write_curves(folder, trained.progress.curves, trained.progress.trace)
            write_card(folder, trained, metrics[name], settings, sources)
            if (curve := priors[name]) is not None:
                write_bytes(folder / "prior.csv", curve)
            _fit_controls(trained.model, splits, settings, folder)
    checkpoint.prune(work_dir() / "train", KEPT_RUNS)

    trained_windows = sum(trained.steps * settings.network(name).batch_size for name, trained in models.items())
    seconds = sum(trained.seconds for trained in models.values())
    return {
        "windows": splits.n_windows,
        "models": {name: _summary(values) for name, values in metrics.items()},
        "seconds": round(time.monotonic() - start, 3),
        "windows_per_s": round(trained_windows / seconds, 1) if trained_windows else None,
        "device": machine.device.type,
        "precision": machine.precision,
        "processes": machine.processes,
    }


def _summary(metrics: Mapping[str, Any]) -> dict[str, object]:
    """The metrics that the summary of the stage shows."""
    training = {name: metrics[name] for name in ("epochs", "best_epoch", "loss")}
    return training | {name: metrics["heldout"].get(name) for name in ("frame_f1", "onset_f1")}


def _fit_prior(trained: Trained, settings: Train, splits: Splits) -> bytes | None:
    """Fits a model's prior to its latents; returns the curve as CSV, None if the model has no prior."""
    if trained.model.prior is None:
        return None
    curve = fit_prior.fit_model_prior(
        trained.model, trained.key, splits.corpora["train"], splits.valid_corpus, settings
    )
    return csv_bytes(curve, fit_prior.CURVE)


def _metrics(trained: Trained, splits: Splits, settings: Train) -> dict[str, Any]:
    """The content of `metrics.json`."""
    model, progress = trained.model, trained.progress
    best = progress.curves[progress.best_epoch - 1]
    windows, corpus = splits.windows["test"], splits.corpora["test"]
    prior = {"prior": measure_prior(model, corpus, settings)} if model.prior is not None and windows else {}
    return {
        "model": model.name,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "windows": splits.n_windows,
        "epochs": progress.epoch,
        "steps": progress.step,
        "best_epoch": progress.best_epoch,
        "loss": {split: best[f"{split}_loss"] for split in ("train", "valid")},
        "heldout": {**measure_held_out(model, windows, settings.seed), "pieces": len(corpus)},
        **prior,
    }


def _fit_controls(model: WindowModel, splits: Splits, settings: Train, folder: Path) -> None:
    """Finds the directions of attributes in a model's latent space, and writes them beside its weights."""
    log.info("%s: attributes in its latent space", model.name)
    weights_sha256 = file_sha256(folder / WEIGHTS)
    train, chance = splits.corpora["train"], coding.default_chance(model)
    for coarse in (False, True) if model.coarse < model.latent else (False,):
        controls = fit_controls(model, train, splits.valid_corpus, settings.seed, weights_sha256, chance, coarse)
        controls.write(folder, coarse)
