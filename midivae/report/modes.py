"""Section "What modes do": the tables that stage `evaluate` writes for single modes of generation.

Offers: `modes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from midivae.storage.files import read_csv

_ABOUT = {
    "paths": "How music changes along a blend, from parent to parent.",
    "parents": "How close samples are to their parents.",
    "longform": "Whether songs keep a key, repeat themselves and end, beside held-out pieces.",
    "seams": "The bar lines where new music meets that of its parent, beside other bar lines.",
    "ensemble": "Whether parts fit together, beside held-out music and beside parts of different pieces.",
}
_MOST_ROWS = 12  # a longer table is summarised
_RADIUS_STEP = 0.25  # of that summary
_SHADES = (0.1, 0.2, 1 / 3, 0.66)  # drifts from which a cell gets a darker colour


def modes(folder: Path) -> dict[str, Any]:
    """The tables, without those that have no rows, and the control matrices of mode `edit`."""
    tables = []
    for name, about in _ABOUT.items():
        rows = read_csv(folder / f"{name}.csv", "evaluate")
        if not rows.empty:
            tables.append({"name": name, "about": about, **_table(name, rows)})
    return {"control": _control(read_csv(folder / "control.csv", "evaluate")), "tables": tables}


def _table(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    """A table's columns and rows; a long table is summarised, and `note` says how."""
    note = ""
    if len(rows) > _MOST_ROWS and name == "parents":
        rows, note = _by_radius(rows), "Means over the rows of each quarter of a radius."
    elif len(rows) > _MOST_ROWS and name == "paths":
        rows, note = _of_all_paths(rows), "The median path of each job; all are in data/evaluation/paths.csv."
    return {"columns": list(rows.columns), "rows": rows.to_numpy().tolist(), "note": note}


def _by_radius(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of parents.csv with similar radii as one row, with the middle of their range as radius."""
    middle = (np.floor(rows["radius"] / _RADIUS_STEP) + 0.5) * _RADIUS_STEP
    grouped = rows.assign(radius=middle).groupby(["job", "mode", "radius"], sort=False, dropna=False)
    means = grouped.mean(numeric_only=True).assign(rows=grouped["rows"].sum()).reset_index()
    return means[list(rows.columns)].sort_values(["job", "radius"], kind="stable")


def _of_all_paths(rows: pd.DataFrame) -> pd.DataFrame:
    """The medians of the rows of paths.csv, one row per job."""
    grouped = rows.drop(columns=["path", "parents"]).groupby("job", sort=False)
    medians = grouped.median()
    medians.insert(0, "paths", grouped.size())
    return medians.reset_index()


def _control(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One matrix per job: requested attributes in rows, measured attributes in columns.

    A cell is the change of the measured attribute, as a share of the change of the requested one, and the shade of its
    colour.
    """
    matrices = []
    for job, group in rows.groupby("job", sort=False):
        names = list(dict.fromkeys(group["asked"]))
        drift = group.pivot_table("drift", "asked", "measured").reindex(index=names, columns=names)
        shades = np.digitize(drift.fillna(0), _SHADES).tolist()
        own = group[group["asked"] == group["measured"]].set_index("asked")
        lines = [
            {
                "asked": name,
                **own.loc[name, ["rows", "spearman", "slope"]],
                "cells": list(zip(names, drift.loc[name], shades[i], strict=True)),
            }
            for i, name in enumerate(names)
        ]
        matrices.append({"job": job, "measured": names, "rows": lines})
    return matrices
