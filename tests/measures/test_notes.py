"""The notes of rolls: transposition, and which notes there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measures.rolls import SATB
from midivae.measures.notes import chroma, transposed
from midivae.music.roll import FRAME, ONSET, Layout

pytestmark = pytest.mark.numerical


def test_transposed_by_hand() -> None:
    # pitches 36 to 83: G4 (67) two semitones up is A4 (69); B5 (83) would leave the roll, and comes back as C#5 (73);
    # C2 (36) down two semitones is Bb2 (46)
    planes = np.zeros((2, 1, 4, 2, 48), bool)
    for pitch in (67, 83):
        planes[0, 0, 1, :, pitch - 36] = True
    planes[1, 0, 2, :, 0] = True
    moved = transposed(planes, SATB, np.array([2, -2]))
    assert sorted(np.flatnonzero(moved[0, 0, 1, FRAME]) + 36) == [69, 73]
    assert (np.flatnonzero(moved[1, 0, 2, ONSET]) + 36).tolist() == [46]
    assert moved.sum() == planes.sum()


def test_drums_stay_where_they_are() -> None:
    layout = Layout(("drums", "piano"), 36, 48, 4)
    planes = np.random.default_rng(0).random((2, 8, 2, 2, 48)) < 0.1
    moved = transposed(planes, layout, np.array([5, -7]))
    assert np.array_equal(moved[:, :, 0], planes[:, :, 0])
    assert not np.array_equal(moved[:, :, 1], planes[:, :, 1])


@given(st.integers(-24, 24), st.integers(0, 2**31))
def test_transposition_moves_pitch_classes_and_can_be_undone(shift: int, seed: int) -> None:
    planes = np.zeros((1, 8, 4, 2, 48), bool)
    planes[..., 24:30] = np.random.default_rng(seed).random((1, 8, 4, 2, 6)) < 0.3  # room for a dozen below and above
    by = np.array([shift])
    moved = transposed(planes, SATB, by)
    counts = [chroma(rolls, SATB)[0] for rolls in (planes, moved)]
    assert np.array_equal(np.roll(counts[0], shift), counts[1])
    if abs(shift) <= 18:
        assert np.array_equal(transposed(moved, SATB, -by), planes)
