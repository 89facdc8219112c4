"""The rounding rule and the bar lines."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midivae.music import grid
from midivae.music.notes import TimeSignature


def test_nearest_step_halves_up() -> None:
    # 480 ticks a quarter, 4 steps a beat: a step is 120 ticks; 60 is half way and goes up, 59 goes down
    ticks = np.array([0, 59, 60, 119, 120, 179, 180, 480])
    assert grid.to_steps(ticks, 480, 4).tolist() == [0, 0, 1, 1, 1, 1, 2, 4]


@given(st.integers(0, 2**31 - 1), st.integers(1, 32767), st.integers(1, 96))
def test_rounding_is_exact(tick: int, resolution: int, steps_per_beat: int) -> None:
    exact = Fraction(tick * steps_per_beat, resolution) + Fraction(1, 2)
    assert int(grid.to_steps(np.array([tick]), resolution, steps_per_beat)[0]) == exact.numerator // exact.denominator


@given(st.integers(0, 100_000), st.integers(1, 24), st.integers(1, 48))
def test_steps_to_ticks_and_back(step: int, steps_per_beat: int, multiple: int) -> None:
    resolution = steps_per_beat * multiple
    ticks = grid.to_ticks(np.array([step]), resolution, steps_per_beat)
    assert ticks.tolist() == [step * multiple]
    assert grid.to_steps(ticks, resolution, steps_per_beat).tolist() == [step]


def test_a_note_lasts_a_step_at_least_and_abutting_notes_stay_so() -> None:
    # steps of 120 ticks: [0, 0) and [10, 20) are too short to see; [0, 130) and [130, 250) abut at tick 130 = step 1
    onset, offset = grid.quantise(np.array([0, 10, 0, 130]), np.array([0, 10, 130, 120]), 480, 4)
    assert onset.tolist() == [0, 0, 0, 1]
    assert offset.tolist() == [1, 1, 1, 2]


def bars(signatures: list[tuple[int, int, int]], n_steps: int, resolution: int = 480) -> list[int]:
    return grid.bar_starts(signatures, resolution, 4, n_steps).tolist()


def test_bars_of_a_file_without_signature_are_four_quarters() -> None:
    assert bars([], 40) == [0, 16, 32]


def test_bars_follow_the_signatures() -> None:
    # a pickup of one quarter (4 steps), one bar of 3/4 (12 steps), then 6/8 (12 steps a bar) from tick 4 * 480
    assert bars([(0, 1, 4), (480, 3, 4), (1920, 6, 8)], 41) == [0, 4, 16, 28, 40]


def test_a_change_inside_a_bar_starts_a_bar() -> None:
    # 4/4 is cut short after 2 quarters (8 steps) by 3/4
    assert bars([(0, 4, 4), (960, 3, 4)], 30) == [0, 8, 20]


def test_long_bars_of_one_quarter_are_read_as_four() -> None:
    assert bars([(0, 1, 4)], 40) == [0, 16, 32]


def test_a_first_signature_after_the_start_leaves_four_quarters_before() -> None:
    assert bars([(3840, 3, 4)], 60) == [0, 16, 32, 44, 56]


def test_bars_shorter_than_a_step_are_not_counted_twice() -> None:
    starts = bars([(0, 3, 64)], 12)  # 3/64 is 0.75 of a sixteenth step
    assert starts == sorted(set(starts))


@given(st.integers(1, 400), st.sampled_from([(4, 4), (3, 4), (6, 8), (7, 8), (5, 16)]))
def test_bars_are_even_under_one_signature(n_steps: int, signature: tuple[int, int]) -> None:
    starts = bars([(0, *signature)], n_steps)
    length = 16 * Fraction(*signature)
    assert starts == [s for i in range(n_steps) if (s := int(i * length + Fraction(1, 2))) < n_steps]


signature = st.tuples(st.integers(0, 4000), st.integers(1, 12), st.sampled_from([1, 2, 4, 8, 16, 32, 64]))


@given(st.lists(signature, max_size=3), st.integers(1, 960), st.integers(1, 300))
def test_bars_follow_each_other_from_the_start_to_the_end(
    signatures: list[tuple[int, int, int]], resolution: int, n_steps: int
) -> None:
    by_tick = sorted({s[0]: s for s in signatures}.values())
    end_tick = n_steps * resolution
    ticks = grid.bar_ticks(by_tick, resolution, end_tick).tolist()
    assert ticks[0] == 0
    assert ticks[-2] < end_tick <= ticks[-1]
    assert ticks == sorted(set(ticks)) or resolution < 16  # a bar of 1/64 lasts less than a tick then
    assert {tick for tick, _, _ in by_tick if tick < end_tick} <= set(ticks)
    starts = bars(by_tick, n_steps, resolution)
    assert starts == sorted({s for tick in ticks if (s := (2 * 4 * tick + resolution) // (2 * resolution)) < n_steps})


@pytest.mark.parametrize(
    ("steps_per_bar", "steps_per_beat", "numerator", "denominator"),
    [(16, 4, 4, 4), (12, 4, 3, 4), (6, 4, 3, 8), (14, 4, 7, 8), (48, 12, 4, 4), (3, 2, 3, 8), (5, 4, 20, 64)],
)
def test_the_time_signature_of_a_bar(steps_per_bar: int, steps_per_beat: int, numerator: int, denominator: int) -> None:
    found = grid.time_signature(steps_per_bar, steps_per_beat)
    assert found == TimeSignature(0, numerator, denominator)
