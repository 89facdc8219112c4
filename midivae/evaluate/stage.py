"""Stage `evaluate`: how far samples are from held-out music, and whether they do as asked -> `data/evaluation/`.

What is compared: the samples of each job, and those of two trivial generators (`baselines`), with windows of the
held-out pieces (splits valid and test), cut as the model's windows are, parts merged where its are; both with onsets,
since that is what is heard. Longer samples are cut into windows (`samples`). Every distance stands beside the same
distance between real and real (`set_distances`); what a mode promises is asked of the jobs of that mode (`by_mode`).

What is written; docs/evaluate.md explains every column:
    metrics.json           one flat list of names and numbers, and the verdict on the article in a sentence
    distances.csv          per set, feature and distance: mean, sd and interval, and those of the floor
    models.csv             per set, held-out music first: what its windows are like
    features.csv           per set and feature: how many values, mean, sd, quantiles
    features_real.parquet  the measures of every held-out window
    neighbours.parquet     of every window, the nearest one in training pieces
    distributions/*.csv    per feature: the share of each set in bins, for plots
    control.csv paths.csv parents.csv longform.csv seams.csv ensemble.csv    per mode (`by_mode`)
    refused.csv            samples whose MIDI file does not read back with the catalog's number of notes

Offers: `run`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float, Int
from tqdm import tqdm

from midivae import models
from midivae.config.params import Params
from midivae.errors import InputError
from midivae.evaluate import by_mode, samples, set_distances, set_measures
from midivae.evaluate.by_mode import Real, Tables
from midivae.evaluate.samples import Job
from midivae.evaluate.set_distances import PAIRED, PER_FEATURE, VECTOR, Floor, Measured, mean
from midivae.evaluate.set_measures import Gathered, World
from midivae.measures import baselines, distances
from midivae.measures.control import Row
from midivae.models import WindowModel
from midivae.storage import folders, schema, tables
from midivae.storage.files import rounded, write_bytes, write_json
from midivae.storage.paths import METRICS, compared_folders
from midivae.storage.schema import FEATURES, HELD_OUT
from midivae.windows import loader

CONVINCING = 0.95  # the share of divisions in which one model must be nearer, before we say that it is
_SHOWN = ("density", "polyphony", "note_length", "pitch_class_entropy", "scale_consistency")  # means in the metrics
_WHOLE_NUMBERS = ("notes", "pitch_low", "pitch_high", "pitch_range", "pitch_count")
_BINS = 40
_WINDOWS_ENCODED = 4096  # stand for all, where there are more


@dataclass(frozen=True)
class Set:
    """A set with all that is known of it.

    Attributes:
        diversity: of its first windows; of held-out music, of windows that do not overlap.
    """

    measured: Measured
    gathered: Gathered
    diversity: set_measures.Diversity

    @property
    def name(self) -> str:
        """Its name."""
        return self.measured.name


def run(params: Params, data: Path) -> dict[str, object]:
    """Compares every job in the catalog with held-out music, and publishes `data/evaluation`.

    Returns:
        Counts (jobs, samples, refused, held_out_pieces, held_out_windows), verdict and seconds.

    Raises:
        InputError: samples, rolls or models are missing, do not fit each other, or fewer than two pieces are held out.
        SchemaError, CorruptError: they are of another version, or damaged.
    """
    start = time.monotonic()
    settings, catalog = params.evaluate, data / "samples" / "catalog"
    trained = [models.load(folder) for folder in (data / "model", *compared_folders(data / "model"))]
    held_out, training = loader.load(data / "rolls", ["valid", "test"]), loader.load(data / "rolls", ["train"])
    world = set_measures.world_of(training, trained[0].config.view, settings)
    windows = _windows(held_out, world)
    found = samples.read(catalog, world, trained[0])
    _check_names(found)

    real = _held_out(held_out, windows, world, trained[0])
    floor, rich = (
        set_distances.floor_of(real.measured, settings),
        set_distances.floor_of(real.measured.with_vectors, settings),
    )
    trivial = [_trivial(name, world, 2 * floor.smallest, settings.seed, trained[0]) for name in baselines.NAMES]
    made = [Set(job.measured, job.gathered, set_measures.diversity(job.gathered.packed, world)) for job in found]
    bar = tqdm([*trivial, *made], desc="evaluate: distances", unit="set", disable=None, file=sys.stderr)
    compared = {each.name: set_distances.compare(each.measured, floor, rich) for each in bar}
    of_modes = by_mode.tables(found, Real(held_out, windows, real.gathered, training, settings.seed), world, catalog)
    latents = [_latents(model, held_out) for model in trained]
    verdict = _verdict([job.measured for job in found], floor)

    every = [real, *trivial, *made]
    rows = _model_table(every, compared, latents, floor)
    metrics = _metrics(real, found, rows, compared, latents, verdict, of_modes)
    refused = [row for job in found for row in job.refused]
    with folders.publishing(data / "evaluation") as folder:
        write_json(folder / METRICS, metrics)
        tables.write(folder / "features_real.parquet", _window_table(held_out, windows, real), schema.WINDOWS)
        tables.write(folder / "neighbours.parquet", _neighbours(held_out, windows, real, trivial, found, world),
                          schema.NEIGHBOURS)  # fmt: skip
        _write_csv(
            folder / "distances.csv", [r for each in compared.values() for r in each], set_distances.DISTANCE_COLUMNS
        )
        _write_csv(folder / "features.csv", [row for each in every for row in _summary(each.measured)])
        _write_csv(folder / "models.csv", rows)
        _write_csv(folder / "refused.csv", refused, ("sample_id", "notes", "reason"))
        for name, (content, columns) in of_modes.files.items():
            _write_csv(folder / name, content, columns)
        for feature in FEATURES:
            shares = _histogram(feature, [each.measured for each in every])
            _write_csv(folder / "distributions" / f"{feature}.csv", shares)
    return {
        "jobs": len(found),
        "samples": sum(len(job.rows) for job in found),
        "refused": len(refused),
        "held_out_pieces": metrics["held_out_pieces"],
        "held_out_windows": len(real.measured),
        "verdict": verdict.sentence,
        "seconds": round(time.monotonic() - start, 3),
    }


# --- what is compared -------------------------------------------------------------------------------------------------
def _windows(corpus: loader.Corpus, world: World) -> loader.Windows:
    """The windows of the held-out pieces."""
    windows = loader.windows(corpus, world.view)
    if len(windows) == 0:
        raise InputError(
            f"no window of {world.view.steps} steps in the {len(corpus)} pieces of splits valid and test; hold out "
            "more pieces (ingest.split), or shorten train.view.steps"
        )
    return windows


def _check_names(found: Sequence[Job]) -> None:
    """Jobs must not be called what other sets are called."""
    taken = [job.name for job in found if job.name in (HELD_OUT, *baselines.NAMES)]
    if taken:
        raise InputError(
            f"job {taken[0]!r} of the catalog is called as one of the sets that jobs are compared with; rename it in "
            "generate.jobs"
        )


def _held_out(corpus: loader.Corpus, windows: loader.Windows, world: World, model: WindowModel) -> Set:
    gathered = set_measures.gather(set_measures.held_out(corpus, windows, world.view), world, model)
    measured = Measured(
        name=HELD_OUT,
        measures=gathered.measures,
        novelty=gathered.phrases[1].astype(np.float64),
        model="",
        temperature=np.nan,
        valid=np.ones(len(gathered), bool),
        piece=windows.piece,
        vectors=gathered.vectors,
    )
    step = windows.start - corpus.starts[windows.piece]
    apart = np.flatnonzero(step[: len(gathered.packed)] % world.view.steps == 0)  # do not overlap
    return Set(measured, gathered, set_measures.diversity(gathered.packed[apart], world))


def _trivial(name: baselines.Name, world: World, n: int, seed: int, model: WindowModel) -> Set:
    """So many samples of a trivial generator."""
    blocks = baselines.draw(name, world.counts, n, world.view.steps, seed)
    gathered = set_measures.gather(blocks, world, model)
    novelty, valid = gathered.phrases[1].astype(np.float64), np.ones(n, bool)
    measured = Measured(name, gathered.measures, novelty, "", np.nan, valid, np.arange(n), gathered.vectors)
    return Set(measured, gathered, set_measures.diversity(gathered.packed, world))


def _window_table(corpus: loader.Corpus, windows: loader.Windows, real: Set) -> pa.Table:
    """The held-out windows as rows of `schema.WINDOWS`."""
    measures = real.gathered.measures.astype(np.float32)
    columns = {name: _or_null(measures[:, i]) for i, name in enumerate(FEATURES)}
    n = len(windows)
    return pa.table(
        {
            "piece_id": pa.array(np.array(corpus.piece_ids)[windows.piece].tolist(), pa.string()),
            "start_step": pa.array(windows.start - corpus.starts[windows.piece], pa.int32()),
            "n_steps": pa.array(np.full(n, real.gathered.packed.shape[1]), pa.int32()),
            **columns,
            "key": pa.array(real.gathered.keys, pa.string()),
            "novelty": _or_null(real.gathered.phrases[1]),
        }
    )


def _or_null(values: Float[np.ndarray, " B"]) -> pa.Array:
    """NaN as a missing value."""
    return pa.array(values.astype(np.float32), mask=np.isnan(values))


def _neighbours(
    corpus: loader.Corpus,
    windows: loader.Windows,
    real: Set,
    trivial: Sequence[Set],
    found: Sequence[Job],
    world: World,
) -> pa.Table:
    """The nearest training window of every window, as rows of `schema.NEIGHBOURS`: held-out music, then each set."""
    piece_ids = np.array(corpus.piece_ids)[windows.piece]
    start = windows.start - corpus.starts[windows.piece]
    parts = [_neighbour_rows(HELD_OUT, piece_ids.tolist(), start, real.gathered, world)]
    for each in trivial:
        n = len(each.measured)
        names = [f"{each.name}-{index:07d}" for index in range(n)]
        parts.append(_neighbour_rows(each.name, names, np.zeros(n, np.int64), each.gathered, world))
    for job in found:
        names = job.rows["sample_id"].to_numpy()[job.measured.piece].tolist()
        parts.append(_neighbour_rows(job.name, names, job.start, job.gathered, world))
    return pa.concat_tables(parts)


def _neighbour_rows(
    name: str, ids: Sequence[str], start: Int[np.ndarray, " B"], gathered: Gathered, world: World
) -> pa.Table:
    at, none = gathered.neighbours.window, gathered.neighbours.window < 0
    known = len(world.starts) > 0
    return pa.table(
        {
            "set": pa.array([name] * len(ids), pa.string()),
            "id": pa.array(ids, pa.string()),
            "start_step": pa.array(start, pa.int32()),
            "piece_id": pa.array(world.piece_ids[at].tolist() if known else [None] * len(at), pa.string(), mask=none),
            "piece_start_step": pa.array(world.starts[at] if known else np.zeros(len(at)), pa.int32(), mask=none),
            "semitones": pa.array(gathered.neighbours.semitones, pa.int32(), mask=none),
            "distance": _or_null(gathered.neighbours.distance),
        }
    )


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
    n = min(set_distances.drawable(vae, floor), set_distances.drawable(plain, floor))
    if max(set_distances.drawable(vae, floor), set_distances.drawable(plain, floor)) < 2:
        return Verdict(None, None, "Neither model of the article makes samples that can be measured: train longer.")
    if n < 2:
        nearer = float(set_distances.drawable(vae, floor) > set_distances.drawable(plain, floor))
        measured = "one of the two makes hardly a sample that can be measured"
    else:
        nearness, other = set_distances.frechet_of(vae, floor, n), set_distances.frechet_of(plain, floor, n)
        with_kl, without, real = nearness.mine, other.mine, nearness.real
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


def _latents(model: WindowModel, corpus: loader.Corpus) -> Latents:
    """Encodes held-out windows, at most some thousand of them, evenly spaced."""
    view = model.config.view.model_copy(update={"planes": "onset+frame"})
    windows = loader.windows(corpus, view)
    chosen = distances.evenly(len(windows), _WINDOWS_ENCODED)
    blocks = np.array_split(chosen, -(-len(chosen) // set_measures.AT_ONCE))
    found = [set_measures.encode(model, loader.planes(corpus, windows, index, view)) for index in blocks]
    mu, variance = (np.concatenate(each) for each in zip(*found, strict=True))
    centre = mu.mean(axis=0)
    spread = np.maximum(mu.var(axis=0) + variance.mean(axis=0), 1e-12)  # a dead dimension has none, and no logarithm
    gap = 0.5 * (centre**2 + spread - 1 - np.log(spread)).sum()
    return Latents(model.config.name, float(np.sqrt(spread.mean())), float(gap))


def _model_table(
    every: Sequence[Set], compared: Mapping[str, list[Row]], latents: Sequence[Latents], floor: Floor
) -> list[Row]:
    """Rows of models.csv: held-out music, the trivial generators, then each job."""
    by_model = {each.model: each for each in latents}
    trivial = [each.measured for each in every if each.name in baselines.NAMES]
    rows = []
    for each in every:
        measured, where = each.measured, by_model.get(each.measured.model)
        row: Row = {"set": each.name, "model": measured.model, "windows": len(measured), **_character(each)}
        if each.name in compared:
            row |= {"valid_midi_share": float(measured.valid.mean()), **_nearness_of_all(compared[each.name])}
            n = set_distances.drawable(measured, floor)
            row |= {f"frechet_{other.name}": mean(set_distances.frechet_of(other, floor, n).mine) for other in trivial}
        row |= {"latent_sd": where.sd if where else np.nan, "latent_gap_nats": where.gap_nats if where else np.nan}
        rows.append(row)
    return rows


def _nearness_of_all(rows: Sequence[Row]) -> Row:
    """The distances of whole vectors, each with its floor."""
    made: Row = {}
    for name in ("frechet", "frechet_mu"):
        (row,) = (each for each in rows if each["distance"] == name)
        made |= {name: row["mean"], f"{name}_sd": row["sd"]}
        made |= {f"{name}_real_to_real": row["real_mean"], f"{name}_real_to_real_sd": row["real_sd"]}
        made["n" if name == "frechet" else "n_mu"] = row["n"]
    return made


def _character(each: Set) -> Row:
    """What the windows of a set are like: the share of silence, and means over the others."""
    measured, gathered = each.measured, each.gathered
    means = {name: mean(measured[name]) for name in ("notes", *_SHOWN)}
    near = gathered.neighbours.distance
    there = near[~np.isnan(near)]
    return {
        "silent_share": measured.silent_share,
        **means,
        "novelty": mean(measured.novelty),
        **{f"novelty_{bars}_bars": mean(gathered.phrases[bars]) for bars in set_measures.PHRASES[1:]},
        "neighbour_distance": mean(near),
        "copied_share": float((there == 0).mean()) if len(there) else np.nan,
        "diversity": each.diversity.rolls,
        "distinct_bars": each.diversity.distinct_bars,
        "diversity_windows": each.diversity.windows,
        "chord_nats": mean(gathered.nats),
        "tonal_distance": mean(gathered.tonal),
    }


# --- what is written --------------------------------------------------------------------------------------------------
def _metrics(
    real: Set,
    found: Sequence[Job],
    rows: Sequence[Row],
    compared: Mapping[str, list[Row]],
    latents: Sequence[Latents],
    verdict: Verdict,
    of_modes: Tables,
) -> Row:
    """The content of metrics.json."""
    metrics: Row = {
        "held_out_pieces": len(np.unique(real.measured.piece)),
        "held_out_windows": len(real.measured),
    }
    by_set = {row["set"]: row for row in rows}
    character = tuple(_character(real))
    metrics |= {f"held_out_{name}": by_set[HELD_OUT][name] for name in character}
    counts = {job.name: len(job.rows) for job in found}
    for name in compared:
        row = by_set[name]
        values = {name_: row[name_] for name_ in (*character, "valid_midi_share")} | _nearness(compared[name])
        if name in counts:
            values |= {"count": counts[name], **_beats(row)}
        metrics |= {f"{_prefix(name)}_{key}": value for key, value in values.items()}
    for each in latents:
        metrics |= {f"{each.model}_latent_sd": each.sd, f"{each.model}_latent_gap_nats": each.gap_nats}
    metrics |= _mode_metrics(of_modes)
    metrics |= {
        "vae_nearer_than_autoencoder_share": verdict.nearer,
        "article_is_right": verdict.right,
        "article_verdict": verdict.sentence,
    }
    return {name: _plain(value) for name, value in metrics.items()}


def _prefix(name: str) -> str:
    """A name as part of a metric's name."""
    return name.replace("-", "_").replace(", ", "_").replace(":", "_")


def _beats(row: Row) -> Row:
    """Whether a job is nearer to held-out music than both trivial generators are, of equal numbers."""
    others = [row[f"frechet_{name}"] for name in baselines.NAMES]
    found = {f"frechet_{name}": other for name, other in zip(baselines.NAMES, others, strict=True)}
    known = not np.isnan([row["frechet"], *others]).any()
    return found | {"beats_trivial": bool(row["frechet"] < min(others)) if known else None}


def _nearness(rows: Sequence[Row]) -> Row:
    """A set's distances of whole vectors, and the means over `VECTOR` of its other distances, each with its floor."""
    nearness: Row = {}
    for distance in ("frechet", "frechet_mu", *PER_FEATURE, *PAIRED):
        mine = [row for row in rows if row["distance"] == distance and row["feature"] in ("all", *VECTOR)]
        nearness[distance] = mean(np.array([row["mean"] for row in mine]))
        nearness[f"{distance}_real_to_real"] = mean(np.array([row["real_mean"] for row in mine]))
    for name in ("frechet", "frechet_mu"):
        nearness[f"{name}_times_real_to_real"] = nearness[name] / (nearness[f"{name}_real_to_real"] or np.nan)
    return nearness


def _mode_metrics(of_modes: Tables) -> Row:
    """The figures of the tables of modes, flat."""
    metrics: Row = {}
    for row in of_modes.control:
        prefix = f"{_prefix(row['job'])}_{_prefix(row['asked'])}"
        if row["measured"] == row["asked"]:
            metrics |= {f"{prefix}_{name}": row[name] for name in ("spearman", "slope")}
            metrics |= {f"{prefix}_largest_{name}": np.nan for name in ("leakage", "drift")}
        else:
            for name in ("leakage", "drift"):
                metrics[f"{prefix}_largest_{name}"] = float(np.fmax(metrics[f"{prefix}_largest_{name}"], row[name]))
    for job in dict.fromkeys(row["job"] for row in of_modes.paths):
        mine = [row for row in of_modes.paths if row["job"] == job]
        metrics[f"{_prefix(job)}_paths"] = len(mine)
        for name in ("spearman", "monotone_share", "largest_step", "length", "nats_ends", "nats_middle"):
            metrics[f"{_prefix(job)}_path_{name}"] = mean(np.array([row[name] for row in mine]))
    metrics |= _parent_metrics(of_modes.parents)
    for row in of_modes.longform:
        prefix = _prefix(row["job"]) + (f"_{row['form'].lower()}" if row["form"] else "")
        metrics |= {f"{prefix}_{name}": row[name] for name in by_mode.LONGFORM_COLUMNS[4:]}
    for row in of_modes.seams:
        prefix = f"{_prefix(row['job'])}_seam_{row['measure']}"
        metrics |= {prefix: row["mean"], f"{prefix}_real": row["real_mean"]}
    for row in of_modes.ensemble:
        prefix = _prefix(row["set"]) + (f"_{row['method']}" if row["method"] else "")
        metrics[f"{prefix}_tonal_distance"] = row["tonal_distance"]
    return metrics


def _parent_metrics(rows: Sequence[Row]) -> Row:
    """How near jobs stay to their parents: means over all radii, and whether the distance grows with the radius."""
    metrics: Row = {}
    names = ("onset_f1", "frame_f1", "exact_steps", "distance", "distance_to_others")
    for job in dict.fromkeys(row["job"] for row in rows):
        mine = [row for row in rows if row["job"] == job]
        weight = np.array([row["rows"] for row in mine])
        for name in names:
            values = np.array([row[name] for row in mine])
            metrics[f"{_prefix(job)}_parent_{name}"] = float((values * weight).sum() / weight.sum())
        radius = np.array([row["radius"] for row in mine])
        if len(mine) > 1 and not np.isnan(radius).any():
            distance = np.array([row["distance"] for row in mine])
            metrics[f"{_prefix(job)}_parent_radius_spearman"] = distances.spearman(radius, distance)
    return metrics


def _plain(value: Any) -> Any:
    """A value for JSON: numbers are rounded, missing ones are None."""
    if not isinstance(value, float):
        return value
    return None if np.isnan(value) else rounded(value)


def _summary(rows: Measured) -> list[Row]:
    """Rows of features.csv: what values each feature has in a set."""
    return [_quantiles(rows.name, feature, rows[feature]) for feature in FEATURES]


def _quantiles(name: str, feature: str, values: np.ndarray) -> Row:
    there = values[~np.isnan(values)]
    row: Row = {"set": name, "feature": feature, "values": len(there), "missing": len(values) - len(there)}
    names = ("min", "p05", "p25", "median", "p75", "p95", "max")
    found = np.quantile(there, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)) if len(there) else np.full(len(names), np.nan)
    spread = float(there.std()) if len(there) else np.nan
    return row | {"mean": mean(there), "sd": spread} | dict(zip(names, found.tolist(), strict=True))


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
    write_bytes(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
