"""Charts: numbers as people read them, round ticks, shapes where the values are, and nothing that is not escaped."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midivae.render import charts

HOSTILE = "<script>alert('x')</script>\"&\u202e"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (1234567, "1\u202f234\u202f567"),
        (1234.6, "1\u202f235"),
        (-3, "−3"),
        (3.14159, "3.14"),
        (31.4159, "31.4"),
        (314.159, "314"),
        (0.0271828, "0.0272"),
        (-0.5, "−0.500"),
        (0.000012, "1.20e−05"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert charts.number(value) == text


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (3, 47, [10, 20, 30, 40]), (2.2, 3.4, [2.5, 3.0]), (5, 5, [5])],
)
def test_ticks_by_hand(low: float, high: float, found: list[float]) -> None:
    assert charts.ticks(low, high) == found


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_inside_and_not_many(low: float, span: float) -> None:
    found = charts.ticks(low, low + span)
    assert 1 <= len(found) <= 7
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # of our own making


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+),([-\d.]+)", path)]


def test_a_curve_by_hand() -> None:
    svg = parse(charts.curves([charts.Curve("s0", [1, 2, 3], [10, math.nan, 0], mark=2)], "epoch", "says"))
    assert svg.attrib["aria-label"] == "says"
    line = next(shape for shape in svg if shape.attrib.get("class") == "line s0")
    # x from 1 to 3 lies on 44 to 470, y from 0 to 10 on 156 (down) to 10; the point without a value is left out
    assert points(line.attrib["d"]) == [(44, 10), (470, 156)]
    dot = next(shape for shape in svg if shape.tag == "circle")
    assert (dot.attrib["cx"], dot.attrib["cy"]) == ("470", "156")


def test_what_lies_above_the_top_runs_out_of_the_chart() -> None:
    svg = parse(charts.curves([charts.Curve("s0", [0, 1, 2], [30, 10, 0])], "epoch", "says", top=10))
    line = next(shape for shape in svg if shape.attrib.get("class") == "line s0")
    assert [y for _, y in points(line.attrib["d"])] == [156 - 3 * 146, 10, 156]


def test_a_histogram_by_hand() -> None:
    shares = {"real": [0.25, 0.75], "s0": [1.0, 0.0]}
    svg = parse(charts.histogram([1.0, 2.0], shares, "notes", "says"))
    area, line = (shape for shape in svg if shape.attrib["class"] in ("area real", "line s0"))
    # edges 0.5, 1.5, 2.5 at 10, 170, 330; shares 0 to 1 from 156 up to 10: 0.25 at 119.5, 0.75 at 46.5
    assert points(area.attrib["d"]) == [(10, 156), (10, 119.5), (170, 119.5), (170, 46.5), (330, 46.5), (330, 156)]
    assert points(line.attrib["d"]) == [(10, 156), (10, 10), (170, 10), (170, 156), (330, 156), (330, 156)]


def test_shares_in_bins_by_hand() -> None:
    # bins from 0 to 1 and from 1 to 2: one value of two in each; of nothing, no share
    svg = charts.histogram_of(
        {"real": np.array([0.5, 1.5]), "s0": np.array([])}, np.array([0.0, 1.0, 2.0]), "x", "says"
    )
    shares = {"real": [0.5, 0.5], "s0": [0.0, 0.0]}
    assert svg == charts.histogram([0.5, 1.5], shares, "x", "says")


def test_dots_by_hand() -> None:
    rows = [charts.Dots("density", [("s0", 2.0), ("s1", math.nan)], 0.5, 1.0), charts.Dots("b", [], math.nan, math.nan)]
    svg = parse(charts.dots(rows, "sd", "says"))
    (dot,) = (shape for shape in svg if shape.tag == "circle")
    (band,) = (shape for shape in svg if shape.tag == "rect")
    # values from 0 to 2 lie on 150 to 470
    assert (dot.attrib["class"], dot.attrib["cx"]) == ("dot s0", "470")
    assert (band.attrib["x"], band.attrib["width"]) == ("230", "80")


def test_nothing_to_show_is_still_a_chart() -> None:
    parse(charts.curves([charts.Curve("s0", [], [])], "epoch", "says"))
    parse(charts.histogram([0.5], {"s0": [0.0]}, "notes", "says"))
    parse(charts.dots([], "sd", "says"))


def test_every_text_is_escaped() -> None:
    made = [
        charts.curves([charts.Curve(HOSTILE, [0, 1], [0, 1])], HOSTILE, HOSTILE),
        charts.histogram([0, 1], {HOSTILE: [0, 1]}, HOSTILE, HOSTILE),
        charts.dots([charts.Dots(HOSTILE, [(HOSTILE, 1.0)], 0, 1)], HOSTILE, HOSTILE),
    ]
    for svg in made:
        assert "<script" not in svg
        found = parse(svg)
        assert found.attrib["aria-label"] == HOSTILE
        assert HOSTILE in [text.text for text in found]


def test_what_lies_beyond_the_top_is_an_arrow() -> None:
    rows = [charts.Dots("a", [("s0", 1.0), ("s1", 50.0)], 0.0, 0.5)]
    whole, cut = str(charts.dots(rows, "x", "says")), str(charts.dots(rows, "x", "says", top=2.0))
    assert whole.count("<circle") == 2
    assert cut.count("<circle") == 1
    assert '<path class="dot s1"' in cut
