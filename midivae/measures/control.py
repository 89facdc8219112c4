"""Control: does a change happen as requested, and nothing else? Edits, and paths between parents.

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
        the mean direction of all windows (3.46 if they lie all around it).
    """
    sd: dict[str, float] = {}
    for name, values in attributes.items():
        present = values[~np.isnan(values)]
        if name.startswith("fifths") or len(present) == 0:
            continue
        unit = float(present.mean()) if name in RELATIVE else 1.0
        sd[name] = float(present.std()) / (unit if unit > 0 else 1.0)
    x, y = attributes["fifths_x"], attributes["fifths_y"]
    angle = np.angle((x + 1j * y)[~np.isnan(x)])
    if len(angle):
        middle = np.angle(np.exp(1j * angle).sum())
        steps = np.angle(np.exp(1j * (angle - middle))) * 6 / np.pi  # -6 to 6
        sd["key"] = float(np.sqrt((steps**2).mean()))
    return sd


def control(job: str, edits: Sequence[str | None], sd: Mapping[str, float]) -> list[Row]:
    """The matrix of requested and measured changes, as rows of control.csv.

    For each attribute that some samples were asked to change, over these samples, for each measured attribute:

        spearman   rank correlation of the requested and the measured change; of an attribute with itself, how well it
                   obeys in order; of another, how much it moves along
        slope      of the least-squares line, with intercept, of the measured change as a function of the requested one;
                   of an attribute with itself, 1 if the calibration is right
        moved_sd   mean size of the measured change, in the attribute's standard deviations over held-out windows
        leakage    moved_sd over that of the asked attribute; 1 for itself; the aim for others is below a third
        drift      the part of it that follows the request: |slope| in standard deviations, over that of the asked one

    Trap: `leakage` also counts what moves by chance when a sample is decoded anew, in either direction; `drift` does
    not, and misses what moves in one direction whatever the request. A sample that changes several attributes counts
    for each of them.

    Args:
        edits: of each sample, the catalog's JSON; None where it was not edited.
        sd: `units` of held-out windows.
    """
    parsed = [json.loads(text) for text in edits if text is not None]
    rows: list[Row] = []
    for asked_name in sorted({name for edit in parsed for name in edit["asked"]}):
        asking = [edit for edit in parsed if asked_name in edit["asked"]]
        asked = np.array([edit["asked"][asked_name] for edit in asking], np.float64)
        names = [asked_name, *sorted({name for edit in asking for name in edit["measured"]} - {asked_name})]
        measured = {name: np.array([edit["measured"].get(name) for edit in asking], np.float64) for name in names}
        rows += _matrix_row(job, asked_name, asked, measured, sd)  # a change that was not measured is NaN
    return rows


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
        present = ~np.isnan(values)
        x, y, unit = asked[present], values[present], sd.get(name, np.nan) or np.nan
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
    """A path from a parent A to a parent B: rows of a job, in order, including both ends."""

    parents: tuple[str, ...]
    rows: Int[np.ndarray, " R"]


def paths_of(parents: Sequence[Sequence[str]], weights: Sequence[Sequence[float]]) -> list[Path]:
    """The paths in a job of blends: consecutive rows with the same two parents and a rising weight of the second.

    A falling weight starts a new path, even between the same parents. Rows with more than two parents, and paths of
    fewer than three rows, are left out.
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
    """The measures of a path, as a row of paths.csv.

    Args:
        from_first: distance of each row to the first one, A as the model rebuilds it.
        steps: distance of each row to the next.
        nats: of each row under a bigram of chords.

    Returns:
        spearman        rank correlation of the place on the path and the distance from A; 1 if it only grows
        monotone_share  share of the steps on which the distance from A does not shrink
        largest_step    the largest step over the mean one: 1 on an even path, rows - 1 if all happens in one step; NaN
                        if nothing happens
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
