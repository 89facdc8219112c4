"""What was asked against what came: matrices, units, and paths, worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from rolls import planes_of

from midivae.measures import control, features
from midivae.measures.control import paths_of
from midivae.music.roll import Layout

pytestmark = pytest.mark.numerical


def edit(asked: dict[str, float], **measured: float | None) -> str:
    return json.dumps({"asked": asked, "measured": {name.replace("_of_", ":"): v for name, v in measured.items()}})


# --- edits ------------------------------------------------------------------------------------------------------------
def test_matrix_by_hand() -> None:
    # density obeys, at half of what was asked; register follows against it; syncopation jumps whichever way
    asked = [-0.2, -0.1, 0.1, 0.2]
    edits = [edit({"density": a}, density=a / 2, register=-2 * a, syncopation=0.1) for a in asked]
    rows = {
        (r["asked"], r["measured"]): r
        for r in control.control("job", edits, {"density": 0.1, "register": 4.0, "syncopation": 0.05})
    }
    assert list(rows) == [("density", name) for name in ("density", "register", "syncopation")]
    assert all(tuple(row) == control.CONTROL_COLUMNS for row in rows.values())
    own, register, syncopation = rows.values()
    assert (own["rows"], own["spearman"], own["slope"]) == (4, pytest.approx(1), pytest.approx(0.5))
    assert own["moved_sd"] == pytest.approx(0.075 / 0.1)  # |changes| .1, .05, .05, .1
    assert (own["leakage"], own["drift"]) == (1, 1)
    assert (register["spearman"], register["slope"]) == (pytest.approx(-1), pytest.approx(-2))
    assert register["moved_sd"] == pytest.approx(0.3 / 4)
    assert register["leakage"] == pytest.approx(0.075 / 0.75)
    assert register["drift"] == pytest.approx((2 / 4) / (0.5 / 0.1))
    # what moves alike in both directions leaks, and does not drift
    assert syncopation["leakage"] == pytest.approx(2 / 0.75)
    assert syncopation["drift"] == pytest.approx(0)
    assert math.isnan(syncopation["spearman"])


def test_each_attribute_is_judged_by_the_samples_that_ask_for_it() -> None:
    edits = [
        *(edit({"density": a}, density=a, key=0.0) for a in (0.1, 0.2, 0.3)),
        *(edit({"key": k}, density=0.0, key=k) for k in (-1.0, 2.0)),
        None,  # not edited
    ]
    rows = {(r["asked"], r["measured"]): r for r in control.control("job", edits, {"density": 0.1, "key": 3.0})}
    assert rows["density", "density"]["rows"] == 3
    assert rows["key", "key"]["rows"] == 2
    assert rows["key", "key"]["slope"] == pytest.approx(1)
    assert rows["density", "key"]["leakage"] == 0


def test_what_was_not_measured_is_left_out() -> None:
    edits = [edit({"density": 0.1}, density=0.1, register=None), edit({"density": 0.2}, density=None, register=1.0)]
    rows = {(r["asked"], r["measured"]): r for r in control.control("job", edits, {"density": 0.1, "register": 1.0})}
    assert (rows["density", "density"]["rows"], rows["density", "register"]["rows"]) == (1, 1)
    assert math.isnan(rows["density", "density"]["slope"])
    # no unit, no comparison
    assert math.isnan(control.control("job", edits, {})[1]["moved_sd"])
    assert control.control("job", [None], {}) == []


def test_units_by_hand() -> None:
    angle = np.array([0.0, math.pi / 6, -math.pi / 6, np.nan])  # C, a fifth up, a fifth down
    values = {
        "density": np.array([2.0, 4.0, 6.0, np.nan]),
        "register": np.array([60.0, 62.0, 64.0, np.nan]),
        "fifths_x": np.cos(angle) * 0.5,
        "fifths_y": np.sin(angle) * 0.5,
        "balance:alto": np.array([0.1, 0.3, 0.2, np.nan]),
    }
    found = control.units(values)
    assert set(found) == {"density", "register", "key", "balance:alto"}
    spread = math.sqrt(8 / 3)
    assert found["density"] == pytest.approx(spread / 4)  # as a share of the mean
    assert found["register"] == pytest.approx(spread)  # in semitones
    assert found["balance:alto"] == pytest.approx(spread / 20)
    assert found["key"] == pytest.approx(math.sqrt(2 / 3))  # in steps


def test_units_of_keys_do_not_break_at_the_end_of_the_circle() -> None:
    angle = np.array([math.pi - 0.1, -math.pi + 0.1])
    found = control.units({"fifths_x": np.cos(angle), "fifths_y": np.sin(angle)})
    assert found["key"] == pytest.approx(0.1 * 6 / math.pi)


def test_every_attribute_has_a_unit() -> None:
    layout = Layout(("drums", "high", "low"), 48, 24, 4)
    rng = np.random.default_rng(0)
    planes = np.stack([planes_of(rng, 32, layout) for _ in range(30)])
    planes[:10, 16:, 1] = False
    found = control.units(features.attributes(planes, layout))
    names = {"density", "polyphony", "note_length", "syncopation", "register", "key", "balance:high", "balance:low"}
    assert set(found) == names
    assert all(value > 0 for value in found.values())


# --- paths ------------------------------------------------------------------------------------------------------------
def test_paths_end_where_the_parents_change_or_the_weight_falls_back() -> None:
    ab, cd = ["piece:a@1", "piece:b@1"], ["piece:c@1", "piece:d@1"]
    up = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    parents = [*[ab] * 3, *[ab] * 3, *[cd] * 3, ["x"], ["a", "b", "c"], *[cd] * 2]
    weights = [*up, *up, *up, [1.0], [0.2, 0.3, 0.5], *up[:2]]
    found = paths_of(parents, weights)
    assert [path.rows.tolist() for path in found] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [path.parents for path in found] == [tuple(ab), tuple(ab), tuple(cd)]
    assert paths_of([], []) == []


def test_path_row_by_hand() -> None:
    path = paths_of([["a", "b"]] * 5, [[1 - k / 4, k / 4] for k in range(5)])[0]
    row = control.path_row(
        path,
        7,
        "blend",
        from_first=np.array([0.0, 0.2, 0.1, 0.5, 0.8]),  # one step back
        steps=np.array([0.2, 0.2, 0.4, 0.4]),
        nats=np.array([2.0, 3.0, 4.0, 5.0, 4.0]),
    )
    assert tuple(row) == control.PATH_COLUMNS
    assert (row["job"], row["path"], row["parents"], row["rows"]) == ("blend", 7, "a b", 5)
    assert row["spearman"] == pytest.approx(0.9)  # ranks 1 3 2 4 5: 1 - 6 * 2 / (5 * 24)
    assert row["monotone_share"] == 0.75
    assert row["largest_step"] == pytest.approx(0.4 / 0.3)
    assert row["length"] == pytest.approx(1.2 / 0.8)
    assert (row["nats_ends"], row["nats_middle"]) == (3, 4)
    still = control.path_row(path, 0, "blend", np.zeros(5), np.zeros(4), np.ones(5))
    assert math.isnan(still["spearman"]) and math.isnan(still["largest_step"]) and math.isnan(still["length"])
