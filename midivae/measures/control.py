"""Control: does what is asked for happen, and nothing else? Edits, paths between parents, steps away from a parent.

Source: MusicVAE (Roberts et al. 2018), sections 6.3 and 6.4: the matrix of attribute vectors, and what lies between two
latents.

Offers: `units` (of attributes), `control` (asked x measured); `Path`, `paths_of`, `path_row`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from midivae.measures.distances import spearman

Row = dict[str, Any]
RELATIVE = ("density", "polyphony", "note_length")  # changes of these are shares of what there was
CONTROL_COLUMNS = ("job", "asked", "measured", "rows", "spearman", "slope", "moved_sd", "leakage", "drift")
PATH_COLUMNS = ("job", "path", "parents", "rows", "spearman", "monotone_share", "largest_step", "length",
                "nats_ends", "nats_middle")  # fmt: skip


# --- edits ------------------------------------------------------------------------------------------------------------
def units(attributes: Mapping[str, Float[np.ndarray, " B"]]) -> dict[str, float]:
    """The standard deviation of each attribute over held-out windows, in the unit in which edits state changes.

    Args:
        attributes: `features.attributes` of the windows.

    Returns:
        Under the names that edits use: `density`, `polyphony`, `note_length` as shares of their mean; `syncopation` and
        `balance:<part>` as shares of the notes; `register` in semitones; `key` in steps on the circle of fifths, about
        the mean direction of all windows (3.46 where they lie all around it).
    """
    found: dict[str, float] = {}
    for name, values in attributes.items():
        there = values[~np.isnan(values)]
        if name.startswith("fifths") or len(there) == 0:
            continue
        found[name] = float(there.std() / there.mean()) if name in RELATIVE and there.mean() > 0 else float(there.std())
    x, y = attributes["fifths_x"], attributes["fifths_y"]
    angle = np.angle((x + 1j * y)[~np.isnan(x)])
    if len(angle):
        middle = np.angle(np.exp(1j * angle).sum())
        steps = np.angle(np.exp(1j * (angle - middle))) * 6 / np.pi  # -6 to 6
        found["key"] = float(np.sqrt((steps**2).mean()))
    return found


def control(job: str, edits: Sequence[str | None], sd: Mapping[str, float]) -> list[Row]:
    """The matrix of what was asked and what was measured, as rows of control.csv.

    For each attribute that was asked of some samples, over these samples, for each attribute that was measured:

        spearman   rank correlation of the asked change and the measured one; of an attribute with itself, how well it
                   obeys in order, with another, whether that is dragged along
        slope      of the line fitted to the measured change as a function of the asked one by least squares, with an
                   intercept; of an attribute with itself, 1 where the calibration is right
        moved_sd   mean size of the measured change, in the attribute's standard deviations over held-out windows
        leakage    moved_sd over that of the asked attribute; 1 for itself; the aim for others is below a third
        drift      the part of it that follows what was asked: |slope| in standard deviations, over that of the asked

    Trap: `leakage` also counts what moves by chance when a sample is decoded anew, in either direction; `drift` does
    not, and misses what moves whichever way is asked. Samples that ask for several attributes count for each of them.

    Args:
        edits: of each sample, the catalog's JSON; None where it was not edited.
        sd: `units` of held-out windows.
    """
    parsed = [json.loads(text) for text in edits if text is not None]
    asked_names = sorted({name for each in parsed for name in each["asked"]})
    rows: list[Row] = []
    for asked_name in asked_names:
        mine = [each for each in parsed if asked_name in each["asked"]]
        asked = np.array([each["asked"][asked_name] for each in mine], np.float64)
        names = [asked_name, *sorted({name for each in mine for name in each["measured"]} - {asked_name})]
        rows += _matrix_row(job, asked_name, asked, {name: _column(mine, name) for name in names}, sd)
    return rows


def _column(edits: Sequence[Mapping[str, Any]], name: str) -> Float[np.ndarray, " M"]:
    """The measured changes of an attribute; NaN where it was not measured."""
    values = [each["measured"].get(name) for each in edits]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _matrix_row(
    job: str,
    asked_name: str,
    asked: Float[np.ndarray, " M"],
    measured: Mapping[str, Float[np.ndarray, " M"]],
    sd: Mapping[str, float],
) -> list[Row]:
    rows: list[Row] = []
    own_moved, own_slope = np.nan, np.nan
    for name, values in measured.items():
        there = ~np.isnan(values)
        x, y, unit = asked[there], values[there], sd.get(name, np.nan) or np.nan
        slope = float(np.cov(x, y)[0, 1] / x.var(ddof=1)) if len(x) > 1 and x.var() > 0 else np.nan
        moved = float(np.abs(y).mean() / unit) if len(y) else np.nan
        if name == asked_name:
            own_moved, own_slope = moved, slope / unit
        rows.append(
            {
                "job": job,
                "asked": asked_name,
                "measured": name,
                "rows": len(x),
                "spearman": spearman(x, y),
                "slope": slope,
                "moved_sd": moved,
                "leakage": moved / own_moved if own_moved > 0 else np.nan,
                "drift": abs(slope / unit / own_slope) if own_slope else np.nan,
            }
        )
    return rows


# --- paths between parents --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Path:
    """A path from a parent A to a parent B: rows of a job, in order, the ends included."""

    parents: tuple[str, ...]
    rows: Int[np.ndarray, " R"]


def paths_of(parents: Sequence[Sequence[str]], weights: Sequence[Sequence[float]]) -> list[Path]:
    """The paths in a job of blends: rows on end with the same two parents, the weight of the second rising.

    Where the weight falls back, another path begins, though it be of the same parents. Rows with more parents than two,
    and single rows, are on no path.
    """
    groups: list[list[int]] = []
    for row, (names, shares) in enumerate(zip(parents, weights, strict=True)):
        if len(names) != 2:
            continue
        goes_on = (
            bool(groups)
            and groups[-1][-1] == row - 1
            and tuple(parents[row - 1]) == tuple(names)
            and shares[1] > weights[row - 1][1]
        )
        if goes_on:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [Path(tuple(parents[group[0]]), np.array(group)) for group in groups if len(group) > 2]


def path_row(
    path: Path,
    number: int,
    job: str,
    from_first: Float[np.ndarray, " R"],
    steps: Float[np.ndarray, " R1"],
    nats: Float[np.ndarray, " R"],
) -> Row:
    """What a path is like, as a row of paths.csv.

    Args:
        from_first: distance of each row to the first one, A as the model rebuilds it.
        steps: distance of each row to the next.
        nats: of each row under a bigram of chords.

    Returns:
        spearman        rank correlation of the place on the path and the distance from A; 1 where it only grows
        monotone_share  share of the steps on which the distance from A does not shrink
        largest_step    the largest step over the mean one: 1 on an even path, rows - 1 where all happens at once; NaN
                        where nothing happens
        length          sum of the steps over the distance from A to B; 1 without a detour
        nats_ends, nats_middle: mean over the two ends, and over the rows between them
    """
    total = float(steps.sum())
    return {
        "job": job,
        "path": number,
        "parents": " ".join(path.parents),
        "rows": len(path.rows),
        "spearman": spearman(np.arange(len(path.rows), dtype=np.float64), from_first),
        "monotone_share": float((np.diff(from_first) >= 0).mean()),
        "largest_step": float(steps.max() / steps.mean()) if total > 0 else np.nan,
        "length": total / float(from_first[-1]) if from_first[-1] > 0 else np.nan,
        "nats_ends": float(nats[[0, -1]].mean()),
        "nats_middle": float(nats[1:-1].mean()),
    }
