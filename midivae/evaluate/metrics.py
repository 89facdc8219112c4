"""The content of metrics.json: one flat list of names and numbers.

Offers: `metrics_of`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from midivae.evaluate.by_mode import COLUMNS
from midivae.evaluate.held_out_distances import PAIRED, PER_FEATURE, VECTOR, Row, mean
from midivae.evaluate.latents import Latents
from midivae.evaluate.measured_set import MeasuredSet
from midivae.evaluate.samples import MeasuredJob
from midivae.evaluate.summaries import character
from midivae.evaluate.verdict import Verdict
from midivae.measures import baselines, distances
from midivae.storage.files import rounded
from midivae.storage.metrics import metric_name
from midivae.storage.schema import HARMONY, HELD_OUT


def metrics_of(
    held_out: MeasuredSet,
    jobs: Sequence[MeasuredJob],
    models: Sequence[Row],
    compared: Mapping[str, list[Row]],
    latents: Sequence[Latents],
    verdict: Verdict,
    tables: Mapping[str, Sequence[Row]],
) -> Row:
    """All metrics; numbers in 6 digits, missing ones as None."""
    metrics: Row = {
        "held_out_pieces": len(np.unique(held_out.features.piece)),
        "held_out_windows": len(held_out.features),
    }
    by_set = {row["set"]: row for row in models}
    names = tuple(character(held_out))
    metrics |= {metric_name(HELD_OUT, name): by_set[HELD_OUT][name] for name in names}
    counts = {job.name: len(job.rows) for job in jobs}
    for measured, rows in compared.items():
        row = by_set[measured]
        values = {name: row[name] for name in (*names, "valid_midi_share")} | _nearness(rows)
        if measured in counts:
            values |= {"count": counts[measured], **_against_trivial(row)}
        metrics |= {metric_name(measured, name): value for name, value in values.items()}
    for model in latents:
        metrics |= {
            metric_name(model.model, "latent_sd"): model.sd,
            metric_name(model.model, "latent_gap_nats"): model.gap_nats,
        }
    for row in tables["harmony.csv"]:
        metrics |= {metric_name(row["set"], name): row[name] for name in HARMONY}
    metrics |= _control_metrics(tables["control.csv"])
    metrics |= _path_metrics(tables["paths.csv"])
    metrics |= _parent_metrics(tables["parents.csv"])
    for row in tables["longform.csv"]:
        for name in COLUMNS["longform.csv"][4:]:
            metrics[_with_method(row["job"], row["form"].lower(), name)] = row[name]
    for row in tables["seams.csv"]:
        metrics[metric_name(row["job"], "seam", row["measure"])] = row["mean"]
        metrics[metric_name(row["job"], "seam", row["measure"], "real")] = row["real_mean"]
    for row in tables["ensemble.csv"]:
        metrics[_with_method(row["set"], row["method"], "tonal_distance")] = row["tonal_distance"]
    metrics |= {
        "vae_nearer_than_autoencoder_share": verdict.nearer,
        "article_is_right": verdict.right,
        "article_verdict": verdict.sentence,
    }
    return {name: _plain(value) for name, value in metrics.items()}


def _with_method(name: str, method: str, measure: str) -> str:
    return metric_name(name, method, measure) if method else metric_name(name, measure)


def _against_trivial(row: Row) -> Row:
    """Whether a job is nearer to held-out music than both trivial generators, at equal numbers."""
    trivial = {name: row[name] for name in (f"frechet_{generator}" for generator in baselines.NAMES)}
    known = not np.isnan([row["frechet"], *trivial.values()]).any()
    return trivial | {"beats_trivial": bool(row["frechet"] < min(trivial.values())) if known else None}


def _nearness(rows: Sequence[Row]) -> Row:
    """A set's distances of whole vectors, and the means over `VECTOR` of its other distances, each with its floor."""
    nearness: Row = {}
    for distance in ("frechet", "frechet_mu", *PER_FEATURE, *PAIRED):
        averaged = [row for row in rows if row["distance"] == distance and row["feature"] in ("all", *VECTOR)]
        nearness[distance] = _mean(averaged, "mean")
        nearness[f"{distance}_real_to_real"] = _mean(averaged, "real_mean")
    for name in ("frechet", "frechet_mu"):
        nearness[f"{name}_times_real_to_real"] = nearness[name] / (nearness[f"{name}_real_to_real"] or np.nan)
    return nearness


def _control_metrics(rows: Sequence[Row]) -> Row:
    """Of each changed attribute: how well it obeys, and the largest side effect on another."""
    metrics: Row = {}
    for row in rows:
        job, asked = row["job"], row["asked"]
        for name in ("spearman", "slope") if row["measured"] == asked else ():
            metrics[metric_name(job, asked, name)] = row[name]
        for name in ("leakage", "drift"):
            key = metric_name(job, asked, "largest", name)
            value = np.nan if row["measured"] == asked else row[name]
            metrics[key] = float(np.fmax(metrics.get(key, np.nan), value))
    return metrics


def _path_metrics(rows: Sequence[Row]) -> Row:
    """The number of paths of each job, and means over them."""
    metrics: Row = {}
    for job, paths in _by_job(rows).items():
        metrics[metric_name(job, "paths")] = len(paths)
        for name in ("spearman", "monotone_share", "largest_step", "length", "nats_ends", "nats_middle"):
            metrics[metric_name(job, "path", name)] = _mean(paths, name)
    return metrics


def _parent_metrics(rows: Sequence[Row]) -> Row:
    """How near jobs stay to their parents: means over all radii, and whether the distance grows with the radius."""
    metrics: Row = {}
    for job, by_radius in _by_job(rows).items():
        weight = _column(by_radius, "rows")
        for name in ("onset_f1", "frame_f1", "exact_steps", "distance", "distance_to_others"):
            average = float((_column(by_radius, name) * weight).sum() / weight.sum())
            metrics[metric_name(job, "parent", name)] = average
        radius = _column(by_radius, "radius")
        if len(by_radius) > 1 and not np.isnan(radius).any():
            correlation = distances.spearman(radius, _column(by_radius, "distance"))
            metrics[metric_name(job, "parent_radius_spearman")] = correlation
    return metrics


def _by_job(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each job, in their order."""
    jobs: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        jobs[row["job"]].append(row)
    return jobs


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], np.float64)


def _mean(rows: Sequence[Row], name: str) -> float:
    return mean(_column(rows, name))


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if np.isnan(value) else rounded(value)
