"""Stage `train`: piano rolls -> `data/model/`: a model, and beside it those it is compared with.

`trainer.py` fits them. After training, the best weights are measured on pieces they never saw, the `test` split.

Shapes:
    B  windows    T  steps    N  parts    K  planes    P  pitches    Z  latent    W  windows of a split

Offers: `run`, `heldout`.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from midivae import __version__
from midivae.config.params import Params
from midivae.config.streams import Stream
from midivae.config.train import Train
from midivae.errors import InputError, TrainingError
from midivae.measures import distances
from midivae.measures.likeness import Match, matched
from midivae.models import Config, WindowModel, coding, elbo
from midivae.models.base import Chance
from midivae.models.fit_controls import fit_controls
from midivae.storage import folders, tables
from midivae.storage.files import file_sha256, rounded, write_bytes, write_json
from midivae.storage.paths import CORPUS_TABLE, CURVES, METRICS, WEIGHTS, model_folder
from midivae.storage.schema import CORPUS
from midivae.storage.workdir import work_dir
from midivae.train import checkpoint, devices, fit, fit_prior
from midivae.train.checkpoint import Row
from midivae.train.fit import Trained
from midivae.train.trainer import CURVES as CURVE_COLUMNS
from midivae.train.trainer import TRACE, csv_bytes, torch_rng
from midivae.windows.batch import Batch
from midivae.windows.corpus import Corpus, load_corpus
from midivae.windows.device import BitMatrix
from midivae.windows.windows import find_windows, sample_layout

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
ACTIVE = 0.01  # a latent dimension is used if the variance of its mean over the data is above this (Burda et al. 2016)
KEPT_RUNS = 8  # finished runs kept in the work directory
MOST_HELDOUT = 4096  # windows of split `test` that are measured: the time does not grow with the corpus
_MEASURED_AT_ONCE = 64
_ABOUT = {
    "transformer": "A variational autoencoder whose decoder is causal over steps and autoregressive over the cells of "
    "a step, and goes on from the steps before the window.",
    "mlp": "A variational autoencoder of dense layers.",
    "autoencoder": "An autoencoder of dense layers, without noise and without a KL term: samples drawn from a standard "
    "normal fall where its decoder never was. It is here to be compared with.",
}

_LIMITS = (
    "Cells are independent of each other given the latent, so chords smear where the latent leaves doubt, and a window "
    "knows nothing of the one before it.",
    "The decoder can go on from what it sees with little help of its latent: look at the KL per window and at the "
    "reconstruction before relying on the latent.",
)


# --- the stage --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Splits:
    """The windows of each split on the training device, and what they were cut from."""

    train: BitMatrix
    valid: BitMatrix
    test: BitMatrix
    corpora: dict[str, Corpus]  # per split
    data_sha256: str


def run(params: Params, data: Path) -> dict[str, object] | None:
    """Trains `params.train.model` and each of `params.train.compare`, measures them, and publishes `data/model`.

    Started by torchrun, all processes train together, and process 0 does the rest.

    Returns:
        Windows per split, epochs, best validation loss and held-out F1 per model, seconds, and windows_per_s (None
        where every model was there from an earlier run). Nothing in processes other than 0.

    Raises:
        InputError, SchemaError, CorruptError: the rolls are missing, of another version or damaged.
        ParamsError: a device that is not there, a view that leaves nothing to see, or a batch that the processes cannot
            share evenly.
        TrainingError: too few windows to fill a batch, or training that diverged.
    """
    start = time.monotonic()
    settings = params.train
    machine = devices.connect(settings.device, settings.precision, settings.compile)
    splits = _splits(data / "rolls", settings, machine.device)
    trained = {
        name: fit.fit(_config(name, settings, splits), settings, splits.train, splits.valid, machine)
        for name in (settings.model, *settings.compare)
    }
    machine.leave()
    if machine.rank:
        return None
    priors = {name: _fit_prior(each, settings, splits) for name, each in trained.items()}
    metrics = {name: _metrics(each, splits, settings) for name, each in trained.items()}
    sources = _sources(data / "corpus" / CORPUS_TABLE)
    with folders.publishing(data / "model") as staging:
        for name, each in trained.items():
            folder = model_folder(staging, name, settings.model)
            _write(folder, each, metrics[name], settings, sources)
            if priors[name]:
                write_bytes(folder / "prior.csv", csv_bytes(priors[name], fit_prior.CURVE))
            _fit_controls(each.model, splits, settings, folder)
    checkpoint.prune(work_dir() / "train", KEPT_RUNS)

    seen = sum(each.steps * settings.network(name).batch_size for name, each in trained.items())
    seconds = sum(each.seconds for each in trained.values())
    return {
        "windows": {name: len(getattr(splits, name)) for name in SPLITS},
        "models": {name: _digest(values) for name, values in metrics.items()},
        "seconds": round(time.monotonic() - start, 3),
        "windows_per_s": round(seen / seconds, 1) if seen else None,
        "device": machine.device.type,
        "precision": machine.precision,
        "processes": machine.processes,
    }


def _digest(metrics: Mapping[str, Any]) -> dict[str, object]:
    """What the summary says of a model."""
    chosen = {name: metrics[name] for name in ("epochs", "best_epoch", "loss")}
    return {**chosen, "frame_f1": metrics["heldout"].get("frame_f1"), "onset_f1": metrics["heldout"].get("onset_f1")}


# --- data -------------------------------------------------------------------------------------------------------------
def _splits(rolls: Path, settings: Train, device: torch.device) -> Splits:
    manifest = rolls / folders.MANIFEST
    if not manifest.is_file():
        raise InputError(f"{rolls}: no {folders.MANIFEST}; run stage `ingest`")
    corpora = {name: load_corpus(rolls, [name]) for name in SPLITS}
    view = settings.view
    context = settings.transformer.context if "transformer" in (settings.model, *settings.compare) else 0
    train, valid, test = (BitMatrix(c, find_windows(c, view), view, device, context) for c in corpora.values())
    for name in (settings.model, *settings.compare):
        _check_enough(len(train), name, settings)
    if not len(valid):
        log.warning("no windows in split `valid`: the training loss says which weights are best, and none stops it")
    return Splits(train, valid, test, corpora, file_sha256(manifest))


def _check_enough(n_windows: int, name: str, settings: Train) -> None:
    size = settings.network(name).batch_size
    if n_windows < size:
        section = "transformer" if name == "transformer" else "dense"
        raise TrainingError(
            f"{n_windows} training window(s) of {settings.view.steps} steps, but train.{section}.batch_size is "
            f"{size}: an epoch of model {name!r} needs at least one full batch; lower it or train.view.steps, or "
            "ingest more pieces"
        )


def _config(name: str, settings: Train, splits: Splits) -> Config:
    corpus = splits.corpora["train"]
    return Config(
        name=name,
        layout=sample_layout(corpus.layout, settings.view),
        view=settings.view,
        network=settings.network(name),
        tempo_qpm=round(float(np.median(corpus.tempo_qpm)), 3),
        programs=_programs(corpus, settings.view.merge_parts),
        data_sha256=splits.data_sha256,
    )


def _programs(corpus: Corpus, merge_parts: bool) -> tuple[int, ...]:
    """Per part, the program that most pieces use; 0, a piano, where none has notes."""
    by_part = list(corpus.programs.T)
    if merge_parts:
        by_part = [corpus.programs[:, corpus.layout.pitched].reshape(-1)]
    used = (np.bincount(programs[programs >= 0], minlength=1) for programs in by_part)
    return tuple(int(counts.argmax()) for counts in used)


# --- controls ---------------------------------------------------------------------------------------------------------
def _fit_prior(trained: Trained, settings: Train, splits: Splits) -> tuple[Row, ...]:
    """Fits a model's prior to its latents; returns the curve, which is empty if the model has no prior."""
    if trained.model.prior is None:
        return ()
    valid = splits.corpora["valid"] if splits.valid else None
    return fit_prior.fit_model(trained.model, trained.key, splits.corpora["train"], valid, settings)


def _fit_controls(model: WindowModel, splits: Splits, settings: Train, folder: Path) -> None:
    """Finds the directions of attributes in a model's latent space, and writes them beside its weights."""
    valid = splits.corpora["valid"] if splits.valid else None
    weights = file_sha256(folder / WEIGHTS)
    log.info("%s: attributes in its latent space", model.name)
    controls = fit_controls(model, splits.corpora["train"], valid, settings.seed, weights, coding.usual(model))
    controls.write(folder)


# --- held-out pieces --------------------------------------------------------------------------------------------------
@torch.inference_mode()
def heldout(model: WindowModel, windows: BitMatrix, seed: int) -> dict[str, float | int]:
    """How well a model keeps windows that it never saw, all of them or `MOST_HELDOUT`, evenly spaced.

    Returns:
        Likelihood in nats per window and per step of music, with one draw of the latent (whatever `reconstruction` it
        was trained with); the bound and its KL only where the model has a noise to bound. F1 of frame and onset cells
        and the share of exact steps, reconstructed from the latent's mean alone, every cell at one half. Statistics of
        the latent. Only {"windows": 0} where there are no windows.
    """
    if not len(windows):
        return {"windows": 0}
    noise = torch_rng(windows.device, Stream.TEST.seeds(seed))
    chosen = torch.from_numpy(distances.evenly(len(windows), MOST_HELDOUT)).to(windows.device)
    batches = []
    with tqdm(total=len(chosen), desc=f"{model.name}: test", unit="window", disable=None, file=sys.stderr) as bar:
        for index in torch.split(chosen, _MEASURED_AT_ONCE):
            batches.append(_measure(model, windows.batch(index), noise))
            bar.update(len(index))
    nats, mu, logvar, inside = (torch.cat(column) for column in zip(*(batch[:4] for batch in batches), strict=True))
    kl = elbo.kl_per_dimension(mu, logvar).sum(1) if model.samples_latent else None
    match = Match.of(np.sum([batch.counts for batch in batches], axis=0))
    return {
        "windows": len(chosen),
        **_likelihood(nats, kl, int(inside.sum())),
        "frame_f1": rounded(match.frame_f1),
        "onset_f1": rounded(match.onset_f1),
        "step_accuracy": rounded(match.exact_steps),
        **_latent(mu, logvar),
    }


class _Measured(NamedTuple):
    """What is kept of a batch: -log p(x | z) in nats, the posterior, steps in the piece; counts for `Match.of`."""

    nats: Float[Tensor, " B"]
    mu: Float[Tensor, "B Z"]
    logvar: Float[Tensor, "B Z"]
    n_inside: Int[Tensor, " B"]
    counts: Int[np.ndarray, " 6"]


def _measure(model: WindowModel, batch: Batch, noise: torch.Generator) -> _Measured:
    mu, logvar = model.encode(batch.x)
    nats = model.nats(batch, elbo.reparameterise(mu, logvar, noise))
    found = coding.complete(model.cells(mu, Chance()).cpu().numpy())
    counts = matched(found, coding.complete((batch.x > 0).cpu().numpy()))
    return _Measured(nats, mu, logvar, batch.n_inside, counts)


def _likelihood(nats: Float[Tensor, " W"], kl: Float[Tensor, " W"] | None, steps: int) -> dict[str, float | int]:
    """Means per window, and per step; `steps`: of all windows."""
    means = {"reconstruction_nats": nats.mean().item()}
    if kl is not None:
        means |= {"kl_nats": kl.mean().item(), "elbo_nats": -(nats + kl).mean().item()}
    per_step = {f"{name}_per_step": mean * len(nats) / steps for name, mean in means.items()}
    return {name: rounded(value) for name, value in (means | per_step).items()}


def _latent(mu: Float[Tensor, "W Z"], logvar: Float[Tensor, "W Z"]) -> dict[str, float | int]:
    """Statistics over the windows: a prior that fits has means near 0 and total standard deviation near 1."""
    variance = mu.var(0, correction=0)  # [Z]
    total = (variance + logvar.exp().mean(0)).sqrt()
    return {
        "active_units": int((variance > ACTIVE).sum()),
        "latent": mu.shape[1],
        "mu_mean_max": rounded(mu.mean(0).abs().max().item()),
        "mu_std_mean": rounded(variance.sqrt().mean().item()),
        "sigma_mean": rounded((0.5 * logvar).exp().mean().item()),
        "aggregate_std_min": rounded(total.min().item()),
        "aggregate_std_max": rounded(total.max().item()),
    }


# --- files ------------------------------------------------------------------------------------------------------------
def _metrics(trained: Trained, splits: Splits, settings: Train) -> dict[str, Any]:
    model, progress = trained.model, trained.progress
    best = progress.curves[progress.best_epoch - 1]
    return {
        "model": model.name,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "windows": {name: len(getattr(splits, name)) for name in SPLITS},
        "epochs": progress.epoch,
        "steps": progress.step,
        "best_epoch": progress.best_epoch,
        "loss": {split: best[f"{split}_loss"] for split in ("train", "valid")},
        "heldout": {**heldout(model, splits.test, settings.seed), "pieces": len(splits.corpora["test"])},
        **_prior_metrics(trained, splits, settings),
    }


def _prior_metrics(trained: Trained, splits: Splits, settings: Train) -> dict[str, Any]:
    """How well each prior explains the latents of held-out windows, nats a window."""
    if trained.model.prior is None or not splits.test:
        return {}
    test = fit_prior.encoded(trained.model, splits.corpora["test"], settings.view, 0, settings.seed)
    found = fit_prior.nats(trained.model.prior, test, settings.seed)
    return {"prior": {f"{name}_nats": rounded(value) for name, value in found.items()}}


def _write(
    folder: Path, trained: Trained, metrics: Mapping[str, Any], settings: Train, sources: Sequence[Mapping[str, object]]
) -> None:
    """All files of one model."""
    trained.model.save_pretrained(folder)
    write_json(folder / METRICS, metrics)
    write_bytes(folder / CURVES, csv_bytes(trained.progress.curves, CURVE_COLUMNS))
    write_bytes(folder / "steps.csv", csv_bytes(trained.progress.trace, TRACE))
    config = trained.model.config
    card = _template("model_card.md").render(
        config=config,
        about=_ABOUT[config.name],
        limits=_LIMITS[config.name == "transformer"],
        inputs=math.prod(config.window_shape),
        metrics=metrics,
        params=json.dumps(_lineage(trained, settings), indent=2),
        sources=sources,
        version=__version__,
    )
    write_bytes(folder / "README.md", card.encode())


def _lineage(trained: Trained, settings: Train) -> dict[str, Any]:
    """The parameters that made a model; where they left the precision open, the one that was taken."""
    config = trained.model.config
    sections = {"view": config.view.model_dump(mode="json"), "network": config.network.model_dump(mode="json")}
    start = {"warm_start": settings.warm_start} if settings.warm_start is not None else {}
    return {"seed": settings.seed, "precision": trained.precision, **start, **sections}


def _template(name: str) -> jinja2.Template:
    # what corpora say of themselves, licences above all, is text and never markup
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midivae.train.stage"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)


def _sources(corpus: Path) -> list[dict[str, object]]:
    """Name, licence and number of files of each source of the corpus; empty where its table is not at hand."""
    if not corpus.is_file():
        return []
    table = tables.read(corpus, CORPUS, ["source", "licence"])
    counted = table.group_by(["source", "licence"], use_threads=False).aggregate([([], "count_all")])
    rows = counted.sort_by("source").to_pylist()
    return [
        {"name": _cell(row["source"]), "licence": _cell(row["licence"] or "not stated"), "files": row["count_all"]}
        for row in rows
    ]


def _cell(text: str) -> str:
    """Text that stays in its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "/")
