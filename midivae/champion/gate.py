"""Whether a newly trained model takes the champion's place: both are scored on the same frozen hold-out, in one run.

The hold-out is the `test` split of the rolls on the day it was frozen: the same pieces for every pair of models, while
the corpus grows. A piece of it that has since come into `train` or `valid`, as a new duplicate may bring about, is left
out for both, and counted.

The rule: the challenger's bound must be better than the champion's by more than the margin, which is what models that
differ in their seed alone differ by (`params.Gate`); and it must pass the guards, which keep out a model that is better
by that measure and useless all the same: a collapsed latent, invalid or silent samples, notes too few or too many,
samples that are copies. Without a champion the guards alone decide.

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
from midivae.storage.paths import METRICS, PIECES_TABLE, WEIGHTS, roll_shard, roll_shards
from midivae.storage.schema import PIECES, SHARD
from midivae.train import devices
from midivae.train import stage as train
from midivae.windows import loader

log = logging.getLogger(__name__)

HOLDOUT_SPLIT = "test"
SEED = 0  # of the draw of the latent: the same for both models


# --- the hold-out -----------------------------------------------------------------------------------------------------
def freeze(rolls: Path, target: Path) -> dict[str, object]:
    """Keeps the `test` split of `rolls` in the folder `target`, as rolls that `loader.load` reads.

    Returns:
        pieces and steps of the hold-out, and the sha256 of its manifest.

    Raises:
        InputError: `target` is there already, or the split has no piece.
    """
    if target.exists():
        raise InputError(f"{target}: a hold-out is frozen there; it stays as it is, or delete it to begin anew")
    corpus = loader.load(rolls, [HOLDOUT_SPLIT])
    if not len(corpus):
        raise InputError(
            f"{rolls}: no piece in split {HOLDOUT_SPLIT!r} to hold out; ingest more, or raise ingest.split"
        )
    wanted = pa.array(corpus.piece_ids, pa.string())
    rows = pa.concat_tables([_rows_in(tables.read(path, SHARD), wanted) for path in roll_shards(rolls)])
    pieces = _rows_in(tables.read(rolls / PIECES_TABLE, PIECES), wanted)
    pieces = pieces.filter(pieces.column("accepted"))
    pieces = pieces.set_column(pieces.schema.get_field_index("shard"), "shard", pa.array([0] * len(pieces), pa.int32()))
    with folders.publishing(target) as staging:
        extra = {"layout": corpus.layout.to_json()}
        tables.write(staging / roll_shard(0, 1), rows.sort_by("piece_id"), SHARD, extra)
        tables.write(staging / PIECES_TABLE, pieces, PIECES)
    manifest = file_sha256(target / folders.MANIFEST)
    return {"pieces": len(corpus), "steps": int(corpus.starts[-1]), "sha256": manifest}


def _rows_in(table: pa.Table, piece_ids: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table.column("piece_id"), piece_ids))


# --- scores -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Score:
    """How well a model explains the hold-out.

    Attributes:
        model_sha256: of its weights.
        nats_per_step: of the bound; lower is better.
        kl_nats_per_step: what the latent tells of a step.
        active_share: of the latent's dimensions that are used.
        windows: that were looked at.
    """

    model: str
    model_sha256: str
    nats_per_step: float
    kl_nats_per_step: float
    active_share: float
    windows: int


def score(folder: Path, corpus: loader.Corpus, left_out: Sequence[str], rules: Gate, device: str = "auto") -> Score:
    """Scores the model in a folder on a hold-out, without the pieces `left_out`.

    Raises:
        InputError: the model has no bound, or sees windows that cannot be cut from these rolls.
        CorruptError: its weights are damaged.
    """
    model = models.load(folder)
    _check_fits(folder, model, corpus)
    model = model.to(devices.connect(device, "32", False).device)  # type: ignore[arg-type]
    view = model.config.view
    windows = _chosen(corpus, loader.windows(corpus, view), left_out, rules.max_windows)
    if not len(windows):
        raise InputError(
            f"hold-out: no window of {view.steps} steps is left; delete it, and the next night freezes one"
        )
    context = getattr(model.config.network, "context", 0)
    matrix = loader.BitMatrix(corpus, windows, view, model.device, context)
    found = train.heldout(model, matrix, SEED)
    return Score(
        model=model.name,
        model_sha256=file_sha256(folder / WEIGHTS),
        nats_per_step=-float(found["elbo_nats_per_step"]),
        kl_nats_per_step=float(found["kl_nats_per_step"]),
        active_share=round(found["active_units"] / found["latent"], 4),
        windows=len(windows),
    )


def _check_fits(folder: Path, model: WindowModel, corpus: loader.Corpus) -> None:
    if not model.samples_latent:
        raise InputError(f"{folder}: model {model.name!r} has no bound to be compared by; set train.model to another")
    wanted = loader.sample_layout(corpus.layout, model.config.view)
    if model.config.layout != wanted:
        raise InputError(
            f"{folder}: it sees {model.config.layout}, but the hold-out was frozen with {wanted}; delete the hold-out "
            "to freeze another, which begins a new line of champions"
        )


def _chosen(corpus: loader.Corpus, windows: loader.Windows, left_out: Sequence[str], most: int) -> loader.Windows:
    """The windows of the other pieces, evenly spaced where they are too many."""
    index = np.flatnonzero(~np.isin(np.array(corpus.piece_ids)[windows.piece], np.array(left_out, np.str_)))
    index = index[distances.evenly(len(index), most)]
    return loader.Windows(windows.start[index], windows.stop[index], windows.piece[index])


def _trained_on(rolls: Path, holdout: loader.Corpus) -> list[str]:
    """The pieces of the hold-out that `rolls` has in another split: a model of these rolls may have seen them."""
    pieces = tables.read(rolls / PIECES_TABLE, PIECES, ["piece_id", "accepted", "split"])
    moved = pc.and_(pieces.column("accepted"), pc.not_equal(pieces.column("split"), HOLDOUT_SPLIT))
    seen = set(pieces.filter(moved).column("piece_id").to_pylist())
    return sorted(seen & set(holdout.piece_ids))


# --- the decision -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Samples:
    """What stage `evaluate` found of the challenger's samples; None: nothing could be measured.

    Attributes:
        density_ratio: their notes per beat as a share of held-out music's.
        novelty: share of their bars that are in no training piece.
    """

    invalid_share: float
    silent_share: float
    density_ratio: float | None
    novelty: float | None


@dataclass(frozen=True)
class Check:
    """One rule, what it was applied to and whether it holds."""

    name: str
    value: float | None
    rule: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What becomes of the challenger.

    Attributes:
        promote: whether it takes the champion's place.
        why: in a sentence.
        gain_nats: by how much its bound is better, nats a step; None: no champion.
        margin_nats: that it had to exceed.
    """

    promote: bool
    why: str
    gain_nats: float | None
    margin_nats: float
    checks: tuple[Check, ...]


def decide(challenger: Score, champion: Score | None, samples: Samples, rules: Gate) -> Verdict:
    """Applies the rules."""
    margin = rules.margin_sds * rules.seed_sd_nats
    gain = None if champion is None else champion.nats_per_step - challenger.nats_per_step
    checks = (*_guards(challenger, samples, rules), *_better(gain, margin))
    broken = [check for check in checks if not check.passed]
    same = champion is not None and champion.model_sha256 == challenger.model_sha256
    return Verdict(not broken and not same, _sentence(gain, margin, broken, same), gain, margin, checks)


def _guards(challenger: Score, samples: Samples, rules: Gate) -> list[Check]:
    return [
        _at_least("active_share", challenger.active_share, rules.min_active_share),
        _at_least("kl_nats_per_step", challenger.kl_nats_per_step, rules.min_kl_nats),
        _at_most("invalid_share", samples.invalid_share, rules.max_invalid_share),
        _at_most("silent_share", samples.silent_share, rules.max_silent_share),
        _at_least("density_ratio", samples.density_ratio, rules.min_density),
        _at_most("density_ratio", samples.density_ratio, rules.max_density),
        _at_least("novelty", samples.novelty, rules.min_novelty),
    ]


def _at_least(name: str, value: float | None, least: float) -> Check:
    return Check(name, value, f"at least {least:g}", value is not None and value >= least)


def _at_most(name: str, value: float | None, most: float) -> Check:
    return Check(name, value, f"at most {most:g}", value is not None and value <= most)


def _better(gain: float | None, margin: float) -> list[Check]:
    return [] if gain is None else [Check("gain_nats", round(gain, 6), f"more than {margin:.4g}", gain > margin)]


def _sentence(gain: float | None, margin: float, broken: Sequence[Check], same: bool) -> str:
    if same:
        return "kept: the challenger is the champion, weight for weight"
    if broken:
        named = "; ".join(f"{check.name} is {_number(check.value)}, must be {check.rule}" for check in broken)
        return f"kept: {named}"
    if gain is None:
        return "promoted: there was no champion, and the challenger passes every guard"
    return f"promoted: better by {gain:.4g} nats a step, more than the margin of {margin:.4g}"


def _number(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:.4g}"


# --- the command ------------------------------------------------------------------------------------------------------
def run(params: Params, data: Path, champion: Path | None, holdout: Path, rules: Gate) -> dict[str, Any]:
    """Scores the model in `data` and the champion, and decides.

    Args:
        params: those that made the challenger: its device, and the job that is looked at.
        data: the folder of all stages.
        champion: a model's folder; None: there is none.
        holdout: what `freeze` wrote.
        rules: the gate's.

    Returns:
        The content of gate.json: promote, why, gain and margin in nats a step, every check, both scores, the hold-out
        and the rules.

    Raises:
        InputError: something is missing, or the models cannot be compared.
        SchemaError, CorruptError: something is of another version, or damaged.
    """
    corpus = loader.load(holdout, [HOLDOUT_SPLIT])
    left_out = _trained_on(data / "rolls", corpus)
    if left_out:
        log.warning("hold-out: %d piece(s) have come into the training data and are left out", len(left_out))
    challenger = score(data / "model", corpus, left_out, rules, params.train.device)
    best = None if champion is None else score(champion, corpus, left_out, rules, params.train.device)
    if best is not None and models.base.read_config(data / "model").view != models.base.read_config(champion).view:  # type: ignore[arg-type]
        raise InputError(
            f"{data / 'model'} and {champion} see windows of different shape (train.view), and nats of one say nothing "
            "of the other; delete the hold-out to begin a new line of champions"
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
    """Name of the job whose samples are looked at."""
    every = [job.name for job in params.generate.jobs]
    own = [job.name for job in params.generate.jobs if job.model in (None, params.train.model)]
    name = rules.job or (own[0] if own else None)
    if name is None or name not in every:
        wanted = "of the model itself" if name is None else repr(name)
        raise InputError(f"gate: no job {wanted} among those of generate, {every}; set gate.job to one of them")
    return name


def _samples(metrics: Mapping[str, Any], job: str) -> Samples:
    """What the metrics of stage `evaluate` say of a job."""
    prefix = job.replace("-", "_")
    try:
        density, real = metrics[f"{prefix}_density"], metrics["held_out_density"]
        return Samples(
            invalid_share=round(1 - metrics[f"{prefix}_valid_midi_share"], 6),
            silent_share=metrics[f"{prefix}_silent_share"],
            density_ratio=None if not density or not real else round(density / real, 4),
            novelty=metrics[f"{prefix}_novelty"],
        )
    except KeyError as error:
        raise InputError(f"evaluation/metrics.json: no {error} for job {job!r}; rerun stage `evaluate`") from None


# --- the margin -------------------------------------------------------------------------------------------------------
def spread(folders: Sequence[Path], holdout: Path, rules: Gate) -> dict[str, Any]:
    """How much models differ that should be alike, such as those of several seeds: what the margin is taken from.

    Returns:
        nats a step of each, and the standard deviation.

    Raises:
        InputError: fewer than two, or one that cannot be scored.
    """
    if len(folders) < 2:
        raise InputError(f"{len(folders)} model: a spread needs at least two that differ in their seed; name more")
    corpus = loader.load(holdout, [HOLDOUT_SPLIT])
    found = {str(folder): score(folder, corpus, [], rules).nats_per_step for folder in folders}
    return {"models": found, "seed_sd_nats": round(statistics.stdev(found.values()), 6)}
