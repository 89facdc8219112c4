"""Sections "Against held-out music" and "Novelty": the samples of each job beside held-out music.

Offers: `comparison`, `novelty`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from midivae.render import charts
from midivae.render.charts import number
from midivae.report.labels import HARMONY, UNITS, words
from midivae.storage import schema, tables
from midivae.storage.files import read_csv
from midivae.storage.schema import HELD_OUT

_TRIVIAL = ("bernoulli", "markov")  # sets of samples that come from trivial generators, not from a job
_DISTANCES = ("overlapping_area", "kld_nats", "wasserstein_sd", "frechet", "frechet_mu")  # shown in the table
_IN_CHART = 0.93  # share of the dots that the chart's axis must hold
_NOVELTY = ("novelty", "novelty_2_bars", "novelty_4_bars", "neighbour_distance", "copied_share")
_BINS = 24  # of the histogram of distances to the nearest training window


# --- against held-out music -------------------------------------------------------------------------------------------
def comparison(folder: Path, classes: Mapping[str, str], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Distances and distributions of each job beside held-out music; `classes` are the CSS classes of each job."""
    distances = read_csv(folder / "distances.csv", "evaluate")
    summary = read_csv(folder / "features.csv", "evaluate")
    return {
        "jobs": list(classes),
        "pieces": metrics.get("held_out_pieces"),
        "windows": metrics.get("held_out_windows"),
        "models": _sets(folder, classes, "models.csv"),
        "harmony": _harmony(folder, classes),
        "distances": _distances_chart(distances, classes),
        "table": _distances_table(distances, list(classes)),
        "distributions": [_distribution(folder, name, classes, summary) for name in UNITS],
    }


def _sets(folder: Path, classes: Mapping[str, str], table: str) -> list[dict[str, Any]]:
    """A table's row of each set: held-out music, the trivial generators, then the jobs in the order of the page."""
    order = [HELD_OUT, *_TRIVIAL, *classes]
    rows: list[dict[str, Any]] = read_csv(folder / table, "evaluate").to_dict("records")
    return sorted(rows, key=lambda row: order.index(row["set"]))


def _harmony(folder: Path, classes: Mapping[str, str]) -> dict[str, Any]:
    """The measures of harmony and form that have a value: what each is, and its mean in every set."""
    sets = _sets(folder, classes, "harmony.csv")
    rows = [
        {"name": name, "about": about, "cells": [row[name] for row in sets]}
        for name, about in HARMONY.items()
        if not np.isnan([row[name] for row in sets]).all()
    ]
    return {"sets": [row["set"] for row in sets], "rows": rows}


def _distances_chart(table: pd.DataFrame, classes: Mapping[str, str]) -> Markup:
    """Per feature: a dot for the distance of each job to held-out music, a bar for held-out music to itself."""
    table = table[table["distance"] == "wasserstein_sd"].set_index(["feature", "job"])
    rows, says = [], []
    for feature in dict.fromkeys(table.index.get_level_values("feature")):
        jobs = [(job, table.loc[(feature, job)]) for job in classes if (feature, job) in table.index]
        floor = jobs[0][1]
        spread = 0.0 if np.isnan(floor["real_sd"]) else 2 * floor["real_sd"]
        band = floor["real_mean"] - spread, floor["real_mean"] + spread
        rows.append(charts.Dots(words(feature), [(classes[job], row["mean"]) for job, row in jobs], *band))
        says.append(f"{words(feature)}: " + ", ".join(f"{job} {number(row['mean'])}" for job, row in jobs))
    sentence = "Distance of samples from held-out music, in standard deviations. " + "; ".join(says) + "."
    ends = [row.high for row in rows] + [dot for row in rows for _, dot in row.values]  # noqa: PD011 - no pandas
    # one job that is far away would move all other dots to the left edge
    top = 1.2 * float(np.nanquantile(ends, _IN_CHART)) if np.isfinite(ends).any() else None
    return charts.dots(rows, "standard deviations of held-out music", sentence, top)


def _distances_table(table: pd.DataFrame, jobs: Sequence[str]) -> list[dict[str, Any]]:
    """Per feature and distance: the mean of each job, and the same distance from held-out music to itself."""
    rows = []
    for (feature, distance), group in table.groupby(["feature", "distance"], sort=False):
        if distance in _DISTANCES:
            cells = group.set_index("job").loc[list(jobs), ["mean", "real_mean"]].to_numpy().tolist()
            rows.append({"feature": feature, "distance": distance, "cells": cells})
    return rows


def _distribution(folder: Path, feature: str, classes: Mapping[str, str], summary: pd.DataFrame) -> dict[str, Any]:
    """The distribution of a feature in held-out music and in each job."""
    table = read_csv(folder / "distributions" / f"{feature}.csv", "evaluate")
    sets = {HELD_OUT: "real", **classes}
    shares = {kind: table[name].tolist() for name, kind in sets.items()}
    medians = summary[summary["feature"] == feature].set_index("set")["median"]
    says = f"{words(feature)}: medians " + ", ".join(f"{name} {number(medians[name])}" for name in sets)
    return {
        "feature": feature,
        "chart": charts.histogram(table["value"].tolist(), shares, UNITS[feature], says),
        "medians": [(name, kind, medians[name]) for name, kind in sets.items()],
    }


# --- novelty ----------------------------------------------------------------------------------------------------------
def novelty(folder: Path, classes: Mapping[str, str]) -> dict[str, Any]:
    """Shares of new bars and phrases, and distances to the nearest training window."""
    rows = _sets(folder, classes, "models.csv")
    table = tables.read(folder / "neighbours.parquet", schema.NEIGHBOURS, ["set", "distance"]).to_pandas()
    distances = {
        kind: table.loc[table["set"] == name, "distance"].dropna().to_numpy(np.float64)
        for name, kind in {HELD_OUT: "real", **classes}.items()
    }
    edges = np.linspace(0, 1, _BINS + 1)
    means = ", ".join(f"{row['set']} {number(row['neighbour_distance'])}" for row in rows)
    says = f"Distance to the nearest training window; means: {means}."
    return {
        "names": _NOVELTY,
        "rows": [{"kind": classes.get(row["set"], "real"), **row} for row in rows],
        "chart": charts.histogram_of(distances, edges, "distance to the nearest training window", says),
    }
