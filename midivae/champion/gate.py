"""Decides whether a newly trained model, the challenger, replaces the champion.

Both models are scored on the same frozen hold-out, in one run. The hold-out is the `test` split of the rolls on the day
it was frozen, so every pair of models is compared on the same pieces while the corpus grows. If one of its pieces moves
to `train` or `valid` later, because of a new duplicate, it is left out for both models and counted.

The rule: the challenger's bound must be better than the champion's by more than the margin, which is the difference
between models that differ only in their seed (`params.Gate`). It must also pass the guards, which reject a model that
is better by the bound and useless: a collapsed latent, invalid or silent samples, too few or too many notes, copies of
training pieces. Without a champion the guards alone decide.

Nats are those of the bound with one draw of the latent, per step of music; lower is better.

Offers: `freeze`, `score`, `decide`, `run` and `spread`.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from midivae import models
from midivae.config.champion import Gate
from midivae.config.params import Params
from midivae.errors import InputError
from midivae.measures import distances
from midivae.models import WindowModel
from midivae.storage import folders, tables
from midivae.storage.files import file_sha256, read_json
from midivae.storage.metrics import metric_name
from midivae.storage.paths import METRICS, PIECES_TABLE, WEIGHTS, roll_shard, roll_shards
from midivae.storage.schema import HELD_OUT, PIECES, SHARD
from midivae.train import devices
from midivae.train.heldout import measure_held_out
from midivae.windows.corpus import Corpus, load_corpus
from midivae.windows.device import BitMatrix
from midivae.windows.windows import Windows, find_windows, sample_layout

log = logging.getLogger(__name__)

HOLDOUT_SPLIT = "test"
SEED = 0  # of the draw of the latent: the same for both models


# --- the hold-out -----------------------------------------------------------------------------------------------------
def freeze(rolls: Path, target: Path) -> dict[str, object]:
    """Copies the `test` split of `rolls` to the folder `target`, which `load_corpus` reads.

    Returns:
        pieces and steps of the hold-out, and the sha256 of its manifest.

    Raises:
        InputError: `target` exists already, or the split has no piece.
    """
    if target.exists():
        raise InputError(f"{target}: a hold-out is frozen there and does not change; delete it to freeze another")
    corpus = load_corpus(rolls, [HOLDOUT_SPLIT])
    if not len(corpus):
        raise InputError(
            f"{rolls}: no piece in split {HOLDOUT_SPLIT!r} to hold out; ingest more, or raise ingest.split"
        )
    wanted = pc.field("piece_id").isin(corpus.piece_ids)
    rows = tables.scan(roll_shards(rolls), SHARD, SHARD.columns.names, wanted)
    pieces = tables.read(rolls / PIECES_TABLE, PIECES).filter(wanted & pc.field("accepted"))
    pieces = pieces.set_column(pieces.schema.get_field_index("shard"), "shard", pa.array([0] * len(pieces), pa.int32()))
    with folders.publishing(target) as staging:
        extra = {"layout": corpus.layout.to_json()}
        tables.write(staging / roll_shard(0, 1), rows.sort_by("piece_id"), SHARD, extra)
        tables.write(staging / PIECES_TABLE, pieces, PIECES)
    manifest = file_sha256(target / folders.MANIFEST)
    return {"pieces": len(corpus), "steps": int(corpus.starts[-1]), "sha256": manifest}


# --- scores -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Score:
    """How well a model explains the hold-out.

    Attributes:
        model_sha256: of its weights.
        nats_per_step: the negative bound; lower is better.
        kl_nats_per_step: the part of it that is the KL divergence.
        active_share: share of the latent's dimensions that are active.
        windows: number of windows that were scored.
    """

    model: str
    model_sha256: str
    nats_per_step: float
    kl_nats_per_step: float
    active_share: float
    windows: int


def score(folder: Path, corpus: Corpus, left_out: Sequence[str], rules: Gate, device: str = "auto") -> Score:
    """Scores the model in a folder on a hold-out, without the pieces `left_out`.

    Raises:
        InputError: the model has no bound, or its windows cannot be cut from these rolls.
        CorruptError: its weights are damaged.
    """
    model = models.load(folder)
    _check_fits(folder, model, corpus)
    model = model.to(devices.connect(device, "32", False).device)  # type: ignore[arg-type]
    view = model.config.view
    windows = _windows(corpus, find_windows(corpus, view), left_out, rules.max_windows)
    if not len(windows):
        raise InputError(
            f"hold-out: no window of {view.steps} steps is left; delete it, and the next night freezes one"
        )
    context = getattr(model.config.network, "context", 0)
    matrix = BitMatrix(corpus, windows, view, model.device, context)
    heldout = measure_held_out(model, matrix, SEED)
    return Score(
        model=model.name,
        model_sha256=file_sha256(folder / WEIGHTS),
        nats_per_step=-float(heldout["elbo_nats_per_step"]),
        kl_nats_per_step=float(heldout["kl_nats_per_step"]),
        active_share=round(heldout["active_units"] / heldout["latent"], 4),
        windows=len(windows),
    )


def _check_fits(folder: Path, model: WindowModel, corpus: Corpus) -> None:
    if not model.samples_latent:
        raise InputError(f"{folder}: model {model.name!r} has no bound to be compared by; set train.model to another")
    wanted = sample_layout(corpus.layout, model.config.view)
    if model.config.layout != wanted:
        raise InputError(
            f"{folder}: the model has {model.config.layout}, but the hold-out was frozen with {wanted}; delete it "
            "to freeze another, which begins a new line of champions"
        )


def _windows(corpus: Corpus, windows: Windows, left_out: Sequence[str], most: int) -> Windows:
    """The windows of all pieces but `left_out`; at most `most` of them, evenly spaced."""
    index = np.flatnonzero(~np.isin(np.array(corpus.piece_ids)[windows.piece], np.array(left_out, np.str_)))
    index = index[distances.evenly(len(index), most)]
    return windows.take(index)


def _trained_on(rolls: Path, holdout: Corpus) -> list[str]:
    """The pieces of the hold-out that are in another split of `rolls`: a model may have been trained on them."""
    pieces = tables.read(rolls / PIECES_TABLE, PIECES, ["piece_id", "accepted", "split"])
    moved = pieces.filter(pc.field("accepted") & (pc.field("split") != HOLDOUT_SPLIT))
    seen = set(moved.column("piece_id").to_pylist())
    return sorted(seen & set(holdout.piece_ids))


# --- the decision -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Samples:
    """Measures of the challenger's samples, by stage `evaluate`; None: could not be measured.

    Attributes:
        density_ratio: notes per beat of the samples, divided by that of held-out music.
        novelty: share of the samples' bars that are in no training piece.
    """

    invalid_share: float
    silent_share: float
    density_ratio: float | None
    novelty: float | None


@dataclass(frozen=True)
class Check:
    """One rule, the value that it was applied to, and whether the value passed."""

    name: str
    value: float | None
    rule: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """The decision about the challenger.

    Attributes:
        promote: whether it replaces the champion.
        why: the reason, in a sentence.
        gain_nats: by how much its bound is better, nats per step; None: no champion.
        margin_nats: the least gain.
    """

    promote: bool
    why: str
    gain_nats: float | None
    margin_nats: float
    checks: tuple[Check, ...]


def decide(challenger: Score, champion: Score | None, samples: Samples, rules: Gate) -> Verdict:
    """Applies the rules."""
    margin = rules.margin_sds * rules.seed_sd_nats
    checks = [
        _at_least("active_share", challenger.active_share, rules.min_active_share),
        _at_least("kl_nats_per_step", challenger.kl_nats_per_step, rules.min_kl_nats),
        _at_most("invalid_share", samples.invalid_share, rules.max_invalid_share),
        _at_most("silent_share", samples.silent_share, rules.max_silent_share),
        _at_least("density_ratio", samples.density_ratio, rules.min_density),
        _at_most("density_ratio", samples.density_ratio, rules.max_density),
        _at_least("novelty", samples.novelty, rules.min_novelty),
    ]
    gain = None
    if champion is not None:
        gain = champion.nats_per_step - challenger.nats_per_step
        checks.append(Check("gain_nats", round(gain, 6), f"more than {margin:.4g}", gain > margin))
    failed = [check for check in checks if not check.passed]
    same = champion is not None and champion.model_sha256 == challenger.model_sha256
    return Verdict(not failed and not same, _reason(gain, margin, failed, same), gain, margin, tuple(checks))


def _at_least(name: str, value: float | None, least: float) -> Check:
    return Check(name, value, f"at least {least:g}", value is not None and value >= least)


def _at_most(name: str, value: float | None, most: float) -> Check:
    return Check(name, value, f"at most {most:g}", value is not None and value <= most)


def _reason(gain: float | None, margin: float, failed: Sequence[Check], same: bool) -> str:
    if same:
        return "kept: challenger and champion have the same weights"
    if failed:
        return "kept: " + "; ".join(f"{check.name} is {_number(check.value)}, must be {check.rule}" for check in failed)
    if gain is None:
        return "promoted: there was no champion, and the challenger passes every guard"
    return f"promoted: better by {gain:.4g} nats per step, more than the margin of {margin:.4g}"


def _number(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:.4g}"


# --- the command ------------------------------------------------------------------------------------------------------
def run(params: Params, data: Path, champion: Path | None, holdout: Path, rules: Gate) -> dict[str, Any]:
    """Scores the model in `data` and the champion, and decides.

    Args:
        params: of the challenger's run: the device, and the job whose samples are checked.
        data: the folder of all stages.
        champion: a model's folder; None: there is none.
        holdout: the folder that `freeze` wrote.
        rules: of the gate.

    Returns:
        The content of gate.json: promote, why, gain and margin in nats per step, every check, both scores, the
        hold-out and the rules.

    Raises:
        InputError: something is missing, or the models cannot be compared.
        SchemaError, CorruptError: something is of another version, or damaged.
    """
    corpus = load_corpus(holdout, [HOLDOUT_SPLIT])
    left_out = _trained_on(data / "rolls", corpus)
    if left_out:
        log.warning("hold-out: %d piece(s) are in the training data now and are left out", len(left_out))
    challenger = score(data / "model", corpus, left_out, rules, params.train.device)
    best = None
    if champion is not None:
        best = score(champion, corpus, left_out, rules, params.train.device)
        if models.base.read_config(data / "model").view != models.base.read_config(champion).view:
            raise InputError(
                f"{data / 'model'} and {champion} have windows of different shape (train.view), so their nats cannot "
                "be compared; delete the hold-out to begin a new line of champions"
            )
    samples = _samples(read_json(data / "evaluation" / METRICS), _job(params, rules))
    verdict = decide(challenger, best, samples, rules)
    return {
        **asdict(verdict),
        "challenger": {**asdict(challenger), **asdict(samples)},
        "champion": None if best is None else asdict(best),
        "holdout": {
            "pieces": len(corpus),
            "left_out": len(left_out),
            "sha256": file_sha256(holdout / folders.MANIFEST),
        },
        "rules": rules.model_dump(mode="json"),
    }


def _job(params: Params, rules: Gate) -> str:
    """Name of the job whose samples are checked."""
    names = [job.name for job in params.generate.jobs]
    own = [job.name for job in params.generate.jobs if job.model in (None, params.train.model)]
    name = rules.job or (own[0] if own else None)
    if name is None or name not in names:
        wanted = "of the model itself" if name is None else repr(name)
        raise InputError(f"gate: no job {wanted} among those of generate, {names}; set gate.job to one of them")
    return name


def _samples(metrics: Mapping[str, Any], job: str) -> Samples:
    """The measures of a job's samples, from the metrics of stage `evaluate`."""
    try:
        density, real = (metrics[metric_name(name, "density")] for name in (job, HELD_OUT))
        return Samples(
            invalid_share=round(1 - metrics[metric_name(job, "valid_midi_share")], 6),
            silent_share=metrics[metric_name(job, "silent_share")],
            density_ratio=None if not density or not real else round(density / real, 4),
            novelty=metrics[metric_name(job, "novelty")],
        )
    except KeyError as error:
        raise InputError(f"evaluation/metrics.json: no {error} for job {job!r}; rerun stage `evaluate`") from None


# --- the margin -------------------------------------------------------------------------------------------------------
def spread(folders: Sequence[Path], holdout: Path, rules: Gate) -> dict[str, Any]:
    """Measures how much models differ that differ only in their seed; the gate's margin is based on it.

    Returns:
        nats per step of each model, and their standard deviation.

    Raises:
        InputError: fewer than two models, or one that cannot be scored.
    """
    if len(folders) < 2:
        raise InputError(f"{len(folders)} model: a spread needs at least two that differ in their seed; name more")
    corpus = load_corpus(holdout, [HOLDOUT_SPLIT])
    nats = {str(folder): score(folder, corpus, [], rules).nats_per_step for folder in folders}
    return {"models": nats, "seed_sd_nats": round(statistics.stdev(nats.values()), 6)}
