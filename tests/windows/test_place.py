"""Places of steps: in the bar, and bars from the start and the end, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from midivae.windows.place import (
    AFTER,
    BEFORE,
    ENDED,
    SINCE,
    UNKNOWN,
    UNTIL,
    bar_numbers,
    grid_places,
    piece_places,
    places_after,
    usual_bar,
    without_bars,
)


def test_a_piece_with_a_pickup_and_a_short_last_bar() -> None:
    """Bars of four steps, a pickup of one step, and a last bar of two."""
    places = piece_places(np.array([0, 1, 5, 9]), 11)
    assert places[:, SINCE].tolist() == [3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert places[:, UNTIL].tolist() == [1, 4, 3, 2, 1, 4, 3, 2, 1, 4, 3]
    assert places[:, BEFORE].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert places[:, AFTER].tolist() == [3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0]


def test_bars_of_different_metres() -> None:
    places = piece_places(np.array([0, 4, 8, 11]), 14)  # 4, 4, 3, 3
    assert places[:, SINCE].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 0, 1, 2]
    assert places[8:, UNTIL].tolist() == [3, 2, 1, 3, 2, 1]


def test_a_piece_of_one_bar() -> None:
    places = piece_places(np.array([0]), 3)
    assert places.tolist() == [[0, 3, 0, 0], [1, 2, 0, 0], [2, 1, 0, 0]]


@pytest.mark.parametrize(
    ("bars", "found"),
    [(0, 0), (7, 7), (8, 8), (9, 8), (10, 9), (11, 9), (12, 10), (15, 10), (16, 11), (23, 11), (24, 12), (900, 12)],
)
def test_classes_of_many_bars(bars: int, found: int) -> None:
    assert grid_places(0, 1, 4, bars, bars + 1)[0, BEFORE] == found
    assert grid_places(0, 1, 4, 0, bars + 1)[0, AFTER] == found


def test_a_grid_goes_on_as_a_piece_does() -> None:
    piece = piece_places(np.arange(0, 40, 4), 40)
    assert np.array_equal(grid_places(0, 40, 4, 0, 10), piece)
    assert np.array_equal(grid_places(6, 9, 4, 0, 10), piece[6:15])
    assert np.array_equal(grid_places(-3, 7, 4, 5, 10), piece[17:24])
    assert (grid_places(0, 8, 4, 0, 1)[4:, AFTER] == ENDED).all()
    unknown = grid_places(-3, 7, 4)
    assert np.array_equal(unknown, without_bars(piece[17:24]))
    assert (unknown[:, BEFORE:] == UNKNOWN).all()


def test_steps_after_a_place_are_in_bars_of_the_same_length() -> None:
    piece = piece_places(np.arange(0, 12, 3), 12)
    after = places_after(piece[None, 3], 5)
    assert np.array_equal(after, without_bars(piece[None, 4:9]))


def test_bars_are_numbered_from_the_first_step() -> None:
    piece = piece_places(np.array([0, 1, 5, 9]), 11)  # a pickup is a bar of its own
    assert bar_numbers(piece[None]).tolist() == [[1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4]]


def test_the_usual_bar() -> None:
    assert usual_bar([np.array([0, 1, 5, 9]), np.array([0, 3])], 16) == 4
    assert usual_bar([np.array([0])], 16) == 16
