"""Stage `evaluate`: how far samples are from held-out music, and how far music is from itself -> `data/evaluation/`.

What is compared: the samples of each job with windows of the held-out pieces (splits valid and test), cut as the
model's windows are, parts merged where its are; both with onsets, since that is what is heard. Every distance stands
beside the same distance between real and real:

    * The held-out *pieces* are divided at random into halves A and B, `evaluate.repeats` times. Windows of one piece
      are alike, so that halves of the windows would be too near to each other.
    * From A, from B and from the job n rows each are drawn. KLD and Frechet distance grow as n shrinks, so n is one for
      all three: the smallest half, or half of what the job has if that is less. Never more than half of the job, so
      that the distances vary as much as they would with other samples of it.
    * Job to B is the distance, A to B the floor: mean and standard deviation over the divisions. A job at its floor
      cannot be told from held-out music by that measure.

The distances (see `distances`), of which the first three are per feature:
    overlapping_area  from 0 (apart) to 1 (the same)
    kld_nats          how badly the job's density explains the held-out one
    wasserstein_sd    how far values must move, in standard deviations of the held-out windows
    frechet           of the whole vector `VECTOR`, each feature in standard deviations of the held-out windows

What has no value (the pitches of a silent sample) is counted and left out: a row with a missing value is in no
distance; the share of silent samples stands beside them. A feature that has no value in any held-out window, as groove
has none in windows of one bar, is left out of all distances; one that has a single value there has no standard
deviation to measure by, so it is in neither wasserstein_sd nor frechet.

What is written:
    metrics.json           one flat list of names and numbers, and the verdict on the article in a sentence
    distances.csv          per job, feature and distance: mean and sd, and those of the floor
    models.csv             per job, and of held-out music: what its samples are like
    features.csv           per set and feature: how many values, mean, sd, quantiles
    features_real.parquet  the measures of every held-out window
    distributions/*.csv    per feature: the share of each set in bins, for plots
    refused.csv            samples whose MIDI file does not read back with the catalog's number of notes

Offers: `run`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int, UInt64
from tqdm import tqdm

from midivae import distances, features, loader, midi, models, schema, store
from midivae.errors import InputError, MidiError
from midivae.models import Config, WindowModel
from midivae.params import Params, View
from midivae.schema import FEATURES

log = logging.getLogger(__name__)

HELD_OUT = "held-out"
# `notes` is `density` times a constant, and `pitch_range` a difference of two: they would count twice
VECTOR = tuple(name for name in FEATURES if name not in ("notes", "pitch_range"))
PER_FEATURE = ("overlapping_area", "kld_nats", "wasserstein_sd")
CONVINCING = 0.95  # the share of divisions in which one model must be nearer, before we say that it is
_SHOWN = ("density", "polyphony", "note_length", "pitch_class_entropy", "scale_consistency")  # means in the metrics
_WHOLE_NUMBERS = ("notes", "pitch_low", "pitch_high", "pitch_range")
_BINS = 40
_WINDOWS_AT_ONCE = 1024
_WINDOWS_ENCODED = 4096  # stand for all, where there are more

Row = dict[str, Any]
Values = Float[np.ndarray, "M F"]


@dataclass(frozen=True)
class Measured:
    """What was measured of the samples of a job, or of the windows of held-out music.

    Attributes:
        name: of the job, or `HELD_OUT`.
        measures: a row per sample, a column per name in `FEATURES`; NaN where there is no value.
        novelty: share of a row's bars that are in no training piece; NaN without music.
        model, temperature: what made the samples; "" and NaN for music.
        valid: whether the MIDI file reads back with as many notes; true for music.
        piece: which piece a window is of; for samples, which sample.
    """

    name: str
    measures: Values
    novelty: Float[np.ndarray, " M"]
    model: str
    temperature: float
    valid: Bool[np.ndarray, " M"]
    piece: Int[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.measures)

    def __getitem__(self, feature: str) -> Float[np.ndarray, " M"]:
        return self.measures[:, FEATURES.index(feature)]

    def columns(self, names: Sequence[str]) -> Values:
        """The columns of some features."""
        return self.measures[:, [FEATURES.index(name) for name in names]]

    @property
    def silent_share(self) -> float:
        """Share of rows without a note."""
        return float((self["notes"] == 0).mean())


def run(params: Params, data: Path) -> dict[str, object]:
    """Compares every job in the catalog with held-out music, and publishes `data/evaluation`.

    Returns:
        Counts (jobs, samples, refused, held_out_pieces, held_out_windows), verdict and seconds.

    Raises:
        InputError: samples, rolls or models are missing, do not fit each other, or fewer than two pieces are held out.
        SchemaError, CorruptError: they are of another version, or damaged.
    """
    start = time.monotonic()
    trained = [models.load(folder) for folder in _model_folders(data / "model")]
    jobs, refused = _samples(data / "samples" / "catalog", trained[0].config)
    held_out = loader.load(data / "rolls", ["valid", "test"])
    known = loader.bar_hashes(loader.load(data / "rolls", ["train"]), params.evaluate.beats_per_bar)
    real, windows = _held_out(held_out, trained[0].config.view, known, params.evaluate.beats_per_bar)
    latents = [_latents(model, held_out) for model in trained]

    floor = _floor(real, params)
    bar = tqdm(jobs, desc="evaluate", unit="job", disable=None, file=sys.stderr)
    compared = {job.name: _compare(job, floor) for job in bar}
    verdict = _verdict(jobs, floor)

    metrics = _metrics(real, jobs, compared, latents, verdict)
    with store.publishing(data / "evaluation") as folder:
        store.write_json(folder / "metrics.json", metrics)
        store.write_table(folder / "features_real.parquet", windows, schema.WINDOWS)
        _write_csv(folder / "distances.csv", [row for rows in compared.values() for row in rows], _DISTANCE_COLUMNS)
        _write_csv(folder / "features.csv", [row for each in (real, *jobs) for row in _summary(each)])
        _write_csv(folder / "models.csv", _model_table(real, jobs, compared, latents))
        _write_csv(folder / "refused.csv", refused, ("sample_id", "notes", "reason"))
        for feature in FEATURES:
            _write_csv(folder / "distributions" / f"{feature}.csv", _histogram(feature, [real, *jobs]))
    return {
        "jobs": len(jobs),
        "samples": sum(map(len, jobs)),
        "refused": len(refused),
        "held_out_pieces": metrics["held_out_pieces"],
        "held_out_windows": len(real),
        "verdict": verdict.sentence,
        "seconds": round(time.monotonic() - start, 3),
    }


# --- what is compared -------------------------------------------------------------------------------------------------
def _samples(folder: Path, config: Config) -> tuple[list[Measured], list[Row]]:
    """The jobs of the catalog, in the order of their names, and the samples whose MIDI file is not as it should be."""
    files = sorted(folder.glob("*-of-*.parquet"))
    if not files:
        raise InputError(f"{folder}: no catalog of samples; run stage `generate`")
    table = schema.CATALOG
    refused = [row for path in files for row in _refused(path, table)]
    columns = ["job", "index", "sample_id", "model", "temperature", "parts", "n_steps", "steps_per_beat", "novelty"]
    rows = store.scan(files, table, [*columns, *FEATURES]).to_pandas().sort_values(["job", "index"])
    _check_alike(rows, config)
    rows["valid"] = ~rows["sample_id"].isin([row["sample_id"] for row in refused])
    return [_job(str(name), mine) for name, mine in rows.groupby("job", sort=True)], refused


def _check_alike(rows: pd.DataFrame, config: Config) -> None:
    """Samples must have the shape of the windows that they are compared with."""
    shapes = zip(rows["job"], rows["n_steps"], rows["steps_per_beat"], rows["parts"].map(tuple), strict=True)
    wanted = (config.view.steps, config.layout.steps_per_beat, config.layout.parts)
    for job, *shape in dict.fromkeys(shapes):
        if tuple(shape) != wanted:
            raise InputError(
                f"job {job!r}: samples of {shape[0]} steps, {shape[1]} to a beat, parts {list(shape[2])}; the model's "
                f"windows have {wanted[0]}, {wanted[1]}, {list(wanted[2])}; rerun stage `generate`"
            )


def _job(name: str, rows: pd.DataFrame) -> Measured:
    return Measured(
        name=name,
        measures=rows[list(FEATURES)].to_numpy(np.float64),
        novelty=rows["novelty"].to_numpy(np.float64),
        model=str(rows["model"].iloc[0]),
        temperature=float(rows["temperature"].astype(float).iloc[0]),
        valid=rows["valid"].to_numpy(bool),
        piece=np.arange(len(rows)),
    )


def _refused(path: Path, table: schema.Table) -> list[Row]:
    """The samples in one file of the catalog whose MIDI bytes do not read back with the catalog's number of notes."""
    rows = store.read_table(path, table, ["sample_id", "notes", "midi"])
    files = rows.column("midi").combine_chunks().field("bytes")
    reasons = [_reason(data.as_py(), notes.as_py()) for data, notes in zip(files, rows.column("notes"), strict=True)]
    wrong = np.flatnonzero([reason is not None for reason in reasons]).tolist()
    names, notes = rows.column("sample_id"), rows.column("notes")
    return [{"sample_id": names[i].as_py(), "notes": int(notes[i].as_py()), "reason": reasons[i]} for i in wrong]


def _reason(data: bytes, notes: float) -> str | None:
    """Why a sample's MIDI file is not valid; None: it is."""
    try:
        found = len(midi.read(data))
    except MidiError as error:
        if error.code != "no_notes":
            return str(error)
        found = 0
    return None if found == notes else f"the file has {found} notes"


def _held_out(
    corpus: loader.Corpus, view: View, known: UInt64[np.ndarray, " H"], beats_per_bar: int
) -> tuple[Measured, pa.Table]:
    """The windows of the held-out pieces, for comparisons and as the table of them."""
    view = view.model_copy(update={"planes": "onset+frame"})
    windows = loader.windows(corpus, view)
    if len(windows) == 0:
        raise InputError(
            f"no window of {view.steps} steps in the {len(corpus)} pieces of splits valid and test; hold out more "
            "pieces (ingest.split), or shorten train.view.steps"
        )
    columns, keys = _measure_windows(corpus, windows, view, known, beats_per_bar)
    real = Measured(
        name=HELD_OUT,
        measures=np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float64),
        novelty=columns["novelty"].astype(np.float64),
        model="",
        temperature=np.nan,
        valid=np.ones(len(windows), bool),
        piece=windows.piece,
    )
    ids = np.array(corpus.piece_ids)[windows.piece]
    return real, _window_table(ids, windows.start - corpus.starts[windows.piece], view.steps, columns, keys)


def _measure_windows(
    corpus: loader.Corpus,
    windows: loader.Windows,
    view: View,
    known: UInt64[np.ndarray, " H"],
    beats_per_bar: int,
) -> tuple[dict[str, np.ndarray], list[str | None]]:
    """Features and novelty of windows, as columns, and their keys."""
    layout = loader.sample_layout(corpus.layout, view)
    blocks: list[dict[str, np.ndarray]] = []
    keys: list[str | None] = []
    for first in range(0, len(windows), _WINDOWS_AT_ONCE):
        index = np.arange(first, min(first + _WINDOWS_AT_ONCE, len(windows)))
        planes = loader.planes(corpus, windows, index, view)
        hashes = features.bar_hashes(planes, layout, beats_per_bar * layout.steps_per_beat)
        measures = features.measure(planes, layout, beats_per_bar)
        blocks.append({**measures, "novelty": features.novelty(hashes, known)})
        keys += features.keys(planes, layout)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}, keys


def _window_table(
    piece_ids: np.ndarray,
    start_step: Int[np.ndarray, " W"],
    n_steps: int,
    columns: dict[str, np.ndarray],
    keys: list[str | None],
) -> pa.Table:
    """The held-out windows as rows of `schema.WINDOWS`."""
    measured = {name: pa.array(values, mask=np.isnan(values)) for name, values in columns.items()}
    return pa.table(
        {
            "piece_id": pa.array(piece_ids.tolist(), pa.string()),
            "start_step": pa.array(start_step, pa.int32()),
            "n_steps": pa.array(np.full(len(start_step), n_steps), pa.int32()),
            **measured,
            "key": pa.array(keys, pa.string()),
        }
    )


# --- distances, each beside its floor ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Floor:
    """Held-out music, and its division into halves.

    Attributes:
        measured: the features that have a value in held-out music.
        scaled: those among them that vary there, and so have a unit.
        usable: rows with a value for every measured feature.
        sd: standard deviation of each feature over the usable rows.
        halves: per division, the usable rows of both halves, each in random order.
    """

    real: Measured
    measured: tuple[str, ...]
    scaled: tuple[str, ...]
    usable: Int[np.ndarray, " M"]
    sd: dict[str, float]
    halves: tuple[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]], ...]
    seed: int

    @property
    def smallest(self) -> int:
        """Rows of the smallest half."""
        return min(len(half) for pair in self.halves for half in pair)


def _floor(real: Measured, params: Params) -> Floor:
    measured = tuple(name for name in FEATURES if not np.isnan(real[name]).all())
    usable = _usable(real, measured)
    sd = {name: float(real[name][usable].std()) for name in measured}
    scaled = tuple(name for name in measured if sd[name] > 1e-9)
    halves = tuple(_halves(real.piece[usable], usable, params.evaluate.seed, r) for r in range(params.evaluate.repeats))
    left_out = [name for name in FEATURES if name not in scaled]
    if left_out:
        log.info("held-out music has no value, or only one, of %s: not in the Frechet distance", ", ".join(left_out))
    return Floor(real, measured, scaled, usable, sd, halves, params.evaluate.seed)


def _usable(rows: Measured, names: Sequence[str]) -> Int[np.ndarray, " _"]:
    """The rows that have a value for each of these features."""
    return np.flatnonzero(~np.isnan(rows.columns(names)).any(axis=1))


def _halves(
    piece: Int[np.ndarray, " M"], rows: Int[np.ndarray, " M"], seed: int, repeat: int
) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
    """The rows of two random halves of the pieces, each in random order."""
    pieces = np.unique(piece)
    if len(pieces) < 2:
        raise InputError(
            f"{len(pieces)} held-out piece(s) with music; two or more are needed to see how far real music is from "
            "real music; raise ingest.split.valid and ingest.split.test"
        )
    division_rng = np.random.default_rng(np.random.SeedSequence([seed, repeat]))
    first = division_rng.permutation(pieces)[: len(pieces) // 2]
    in_first = np.isin(piece, first)
    return division_rng.permutation(rows[in_first]), division_rng.permutation(rows[~in_first])


def _drawn(job: Measured, floor: Floor, repeat: int) -> Int[np.ndarray, " _"]:
    """The job's usable rows, in the random order of this division; other jobs change nothing about it."""
    draw_rng = np.random.default_rng(np.random.SeedSequence([floor.seed, repeat, 1]))  # [seed, repeat] made the halves
    return draw_rng.permutation(_usable(job, floor.measured))


def _size(job: Measured, floor: Floor) -> int:
    """How many rows are drawn from the job and from each half."""
    return min(len(_usable(job, floor.measured)) // 2, floor.smallest)


_DISTANCE_COLUMNS = ("job", "feature", "distance", "n", "mean", "sd", "real_mean", "real_sd")


def _compare(job: Measured, floor: Floor) -> list[Row]:
    """Every distance of the job beside its floor, as rows of distances.csv."""
    n = _size(job, floor)
    if n < 2:
        log.warning("job %s: %d sample(s) that can be measured; no distances", job.name, n)
    rows = [row for name in floor.measured for row in _compare_feature(name, job, floor, n)]
    return [*rows, _row(job.name, "all", "frechet", n, *_frechet(job, floor, n))]


def _row(job: str, feature: str, distance: str, n: int, asked: np.ndarray, floor: np.ndarray) -> Row:
    values = (*_mean_and_sd(asked), *_mean_and_sd(floor))
    return dict(zip(_DISTANCE_COLUMNS, (job, feature, distance, n, *values), strict=True))


def _mean_and_sd(values: np.ndarray) -> tuple[float, float]:
    """NaN where there are too few values."""
    if len(values) == 0:
        return np.nan, np.nan
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else np.nan


def _compare_feature(feature: str, job: Measured, floor: Floor, n: int) -> list[Row]:
    """The distances of one feature; all densities lie on one grid."""
    if n < 2:
        return [_row(job.name, feature, name, n, np.empty(0), np.empty(0)) for name in PER_FEATURE]
    mine, real = job[feature], floor.real[feature]
    on = distances.grid(real[floor.usable], n)
    unit = floor.sd[feature] if feature in floor.scaled else np.nan
    asked, own = [], []
    for repeat, (a, b) in enumerate(floor.halves):
        reference = real[b[:n]]
        asked.append(_of_values(mine[_drawn(job, floor, repeat)[:n]], reference, on, unit))
        own.append(_of_values(real[a[:n]], reference, on, unit))
    return [
        _row(job.name, feature, name, n, np.array(asked)[:, i], np.array(own)[:, i])
        for i, name in enumerate(PER_FEATURE)
    ]


def _of_values(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], on: distances.Grid, unit: float
) -> tuple[float, float, float]:
    """`PER_FEATURE`, in that order."""
    p, q = distances.density(x, on), distances.density(y, on)
    return distances.overlapping_area(p, q), distances.kld_nats(p, q), distances.wasserstein(x, y) / unit


def _frechet(job: Measured, floor: Floor, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The Frechet distance of the job, and its floor, for each division; empty where n is too small."""
    if n < 2:
        return np.empty(0), np.empty(0)
    names = [name for name in VECTOR if name in floor.scaled]
    unit = np.array([floor.sd[name] for name in names])
    mine, real = job.columns(names) / unit, floor.real.columns(names) / unit
    asked = [distances.frechet(mine[_drawn(job, floor, r)[:n]], real[b[:n]]) for r, (_, b) in enumerate(floor.halves)]
    own = [distances.frechet(real[a[:n]], real[b[:n]]) for a, b in floor.halves]
    return np.array(asked), np.array(own)


# --- is the article right? --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    """Whether the KL term makes sampling from a standard normal work.

    Attributes:
        nearer: share of the divisions in which the VAE's samples are nearer to held-out music than the autoencoder's;
            None: not both models have a job, or neither has samples that can be measured.
        right: None: neither model is nearer often enough to say so.
    """

    nearer: float | None
    right: bool | None
    sentence: str


def _verdict(jobs: Sequence[Measured], floor: Floor) -> Verdict:
    """Compares samples of the article's two models, drawn alike, at equal numbers and against the same windows.

    A division in which a model has too few samples that can be measured counts for the other.
    """
    pair = _article_jobs(jobs)
    if pair is None:
        return Verdict(None, None, "No job samples both models of the article, mlp and autoencoder, alike.")
    vae, plain = pair
    n = min(_size(vae, floor), _size(plain, floor))
    if max(_size(vae, floor), _size(plain, floor)) < 2:
        return Verdict(None, None, "Neither model of the article makes samples that can be measured: train longer.")
    if n < 2:
        nearer = float(_size(vae, floor) > _size(plain, floor))
        measured = "one of the two makes hardly a sample that can be measured"
    else:
        (with_kl, real), (without, _) = _frechet(vae, floor, n), _frechet(plain, floor, n)
        nearer = float((with_kl < without).mean())
        measured = (
            f"Frechet distance to held-out music {with_kl.mean():.3g} with it, {without.mean():.3g} without, "
            f"{real.mean():.3g} from real to real music"
        )
    right = True if nearer >= CONVINCING else False if nearer <= 1 - CONVINCING else None
    says = {True: "The article is right", False: "The article is wrong", None: "The article is not confirmed"}[right]
    sentence = (
        f"{says}: sampled from a standard normal, the model with a KL term is nearer to held-out music in "
        f"{nearer:.0%} of {len(floor.halves)} comparisons ({measured}; silent samples {vae.silent_share:.1%} with it, "
        f"{plain.silent_share:.1%} without)."
    )
    return Verdict(nearer, right, sentence)


def _article_jobs(jobs: Sequence[Measured]) -> tuple[Measured, Measured] | None:
    """A job of each of the article's models, decoded at one temperature."""
    plain = {str(job.temperature): job for job in reversed(jobs) if job.model == "autoencoder"}
    pairs = ((job, plain[str(job.temperature)]) for job in jobs if job.model == "mlp" and str(job.temperature) in plain)
    return next(pairs, None)


# --- models -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Latents:
    """Where a model puts held-out windows in its latent space.

    Attributes:
        sd: standard deviation of a latent dimension, root mean square over dimensions; 1 for a standard normal.
        gap_nats: KL divergence from the standard normal of the normal fitted, per dimension, to the latents; 0 where
            samples are drawn from where the music is.
    """

    model: str
    sd: float
    gap_nats: float


def _model_folders(folder: Path) -> list[Path]:
    """The model, and those trained beside it for comparison."""
    return [folder, *sorted(path.parent for path in (folder / "compare").glob("*/config.json"))]


def _latents(model: WindowModel, corpus: loader.Corpus) -> Latents:
    """Encodes held-out windows, at most some thousand of them, evenly spaced."""
    mu, variance = _encode(model, corpus)
    centre = mu.mean(axis=0)
    spread = np.maximum(mu.var(axis=0) + variance.mean(axis=0), 1e-12)  # a dead dimension has none, and no logarithm
    gap = 0.5 * (centre**2 + spread - 1 - np.log(spread)).sum()
    return Latents(model.config.name, float(np.sqrt(spread.mean())), float(gap))


def _encode(model: WindowModel, corpus: loader.Corpus) -> tuple[Float[np.ndarray, "M Z"], Float[np.ndarray, "M Z"]]:
    """Mean and variance of the latents' posterior."""
    view = model.config.view
    windows = loader.windows(corpus, view)
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _WINDOWS_ENCODED)).astype(np.int64))
    found = []
    with torch.inference_mode():
        for index in np.array_split(chosen, -(-len(chosen) // _WINDOWS_AT_ONCE)):
            planes = torch.from_numpy(loader.planes(corpus, windows, index, view).astype(np.float32))
            mu, logvar = model.encode(planes)
            found.append((mu.double().numpy(), logvar.double().exp().numpy()))
    return np.concatenate([mu for mu, _ in found]), np.concatenate([variance for _, variance in found])


def _model_table(
    real: Measured, jobs: Sequence[Measured], compared: dict[str, list[Row]], latents: Sequence[Latents]
) -> list[Row]:
    """Rows of models.csv: held-out music, then each job."""
    by_model = {each.model: each for each in latents}
    rows = [{"set": HELD_OUT, "model": "", "samples": len(real), **_character(real)}]
    for job in jobs:
        frechet = compared[job.name][-1]
        where = by_model.get(job.model)
        rows.append(
            {
                "set": job.name,
                "model": job.model,
                "samples": len(job),
                **_character(job),
                "valid_midi_share": float(job.valid.mean()),
                "frechet": frechet["mean"],
                "frechet_sd": frechet["sd"],
                "frechet_real_to_real": frechet["real_mean"],
                "frechet_real_to_real_sd": frechet["real_sd"],
                "n": frechet["n"],
                "latent_sd": where.sd if where else np.nan,
                "latent_gap_nats": where.gap_nats if where else np.nan,
            }
        )
    return rows


def _character(rows: Measured) -> Row:
    """What the samples of a set are like: the share of silence, and means over the others."""
    means = {name: _mean(rows[name]) for name in ("notes", *_SHOWN)}
    return {"silent_share": rows.silent_share, **means, "novelty": _mean(rows.novelty)}


def _mean(values: np.ndarray) -> float:
    """The mean of the values that there are."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else np.nan


# --- what is written --------------------------------------------------------------------------------------------------
def _metrics(
    real: Measured,
    jobs: Sequence[Measured],
    compared: dict[str, list[Row]],
    latents: Sequence[Latents],
    verdict: Verdict,
) -> Row:
    """The content of metrics.json."""
    metrics: Row = {"held_out_pieces": len(np.unique(real.piece)), "held_out_windows": len(real)}
    metrics |= {f"held_out_{name}": value for name, value in _character(real).items()}
    for job in jobs:
        prefix = job.name.replace("-", "_")
        values = {"count": len(job), "valid_midi_share": float(job.valid.mean()), **_character(job)}
        metrics |= {f"{prefix}_{name}": value for name, value in (values | _nearness(compared[job.name])).items()}
    for each in latents:
        metrics |= {f"{each.model}_latent_sd": each.sd, f"{each.model}_latent_gap_nats": each.gap_nats}
    metrics |= {
        "vae_nearer_than_autoencoder_share": verdict.nearer,
        "article_is_right": verdict.right,
        "article_verdict": verdict.sentence,
    }
    return {name: _plain(value) for name, value in metrics.items()}


def _nearness(rows: Sequence[Row]) -> Row:
    """A job's Frechet distance and the means over `VECTOR` of its other distances, each with its floor."""
    nearness: Row = {}
    for distance in ("frechet", *PER_FEATURE):
        mine = [row for row in rows if row["distance"] == distance and row["feature"] in ("all", *VECTOR)]
        nearness[distance] = _mean(np.array([row["mean"] for row in mine]))
        nearness[f"{distance}_real_to_real"] = _mean(np.array([row["real_mean"] for row in mine]))
    nearness["frechet_times_real_to_real"] = nearness["frechet"] / nearness["frechet_real_to_real"]
    return nearness


def _plain(value: Any) -> Any:
    """Numbers in 6 digits, which any machine agrees on; missing ones as None."""
    if not isinstance(value, float):
        return value
    return None if np.isnan(value) else float(f"{value:.6g}")


def _summary(rows: Measured) -> list[Row]:
    """Rows of features.csv: what values each feature has in a set."""
    return [_quantiles(rows.name, feature, rows[feature]) for feature in FEATURES]


def _quantiles(name: str, feature: str, values: np.ndarray) -> Row:
    there = values[~np.isnan(values)]
    row: Row = {"set": name, "feature": feature, "values": len(there), "missing": len(values) - len(there)}
    names = ("min", "p05", "p25", "median", "p75", "p95", "max")
    found = np.quantile(there, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)) if len(there) else np.full(len(names), np.nan)
    spread = float(there.std()) if len(there) else np.nan
    return row | {"mean": _mean(there), "sd": spread} | dict(zip(names, found.tolist(), strict=True))


def _histogram(feature: str, sets: Sequence[Measured]) -> list[Row]:
    """Rows of distributions/<feature>.csv: the middle of each bin, and each set's share of values in it."""
    there = {rows.name: rows[feature][~np.isnan(rows[feature])] for rows in sets}
    edges = _edges(there[HELD_OUT], np.concatenate(list(there.values())), feature in _WHOLE_NUMBERS)
    shares = {
        name: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(1, len(values))
        for name, values in there.items()
    }
    middle = (edges[:-1] + edges[1:]) / 2
    return [{"value": middle[i], **{name: share[i] for name, share in shares.items()}} for i in range(len(middle))]


def _edges(real: np.ndarray, every: np.ndarray, whole: bool) -> Float[np.ndarray, " _"]:
    """Edges of at most `_BINS` bins; those of whole numbers hold equally many of them.

    They reach beyond held-out music by its own range at most: what lies further out, as a bad model's note counts do,
    counts in the last bin, and music keeps its shape.
    """
    if len(every) == 0:
        return np.array([0.0, 1.0])
    low, high = float(every.min()), float(every.max())
    if len(real) and real.max() > real.min():
        reach = float(real.max() - real.min())
        low, high = max(low, float(real.min()) - reach), min(high, float(real.max()) + reach)
    if not whole:
        return np.linspace(low, high if high > low else low + 1, _BINS + 1)
    width = max(1, int(np.ceil((high - low + 1) / _BINS)))
    n_bins = int((high - low) // width) + 1
    return low - 0.5 + width * np.arange(n_bins + 1)


def _write_csv(path: Path, rows: Sequence[Row], columns: Sequence[str] | None = None) -> None:
    """Writes rows as CSV, numbers in 6 digits."""
    frame = pd.DataFrame(rows, columns=list(columns) if columns is not None else None)
    store.write_bytes(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
