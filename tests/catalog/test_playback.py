"""Rolls of samples from their MIDI bytes: what was written comes back, and what is wrong with a file is said."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rolls import planes_of

from midivae.catalog import playback
from midivae.models.coding import complete
from midivae.music import smf
from midivae.music.roll import Layout, Roll, batch_to_notes, cell_runs, to_notes

LAYOUT = Layout(("drums", "high <b>", "low"), 48, 12, 4)


def files_of(planes: np.ndarray) -> list[bytes]:
    return [smf.write(notes) for notes in batch_to_notes(planes, LAYOUT)]


def notes_of(planes: np.ndarray) -> np.ndarray:
    return np.array([len(cell_runs(roll[None])[0]) for roll in planes])


@given(st.integers(0, 10_000), st.floats(0, 0.3))
def test_what_was_written_comes_back(seed: int, share: float) -> None:
    planes = complete(np.random.default_rng(seed).random((3, 20, 3, 2, 12)) < share)
    played = playback.play(files_of(planes), notes_of(planes), np.full(3, 20), LAYOUT)
    assert played.reasons == {}
    np.testing.assert_array_equal(played.planes(), planes)


def test_lengths_of_their_own() -> None:
    rng = np.random.default_rng(0)
    planes = np.stack([planes_of(rng, 24, LAYOUT) for _ in range(3)])
    planes[1, 16:] = False
    played = playback.play(files_of(planes), notes_of(planes), np.array([24, 16, 24]), LAYOUT)
    np.testing.assert_array_equal(played.planes(), planes)
    np.testing.assert_array_equal(played.planes(np.array([2, 0])), planes[[2, 0]])
    # what lies beyond a sample's length is not in it
    cut = playback.play(files_of(planes), notes_of(planes), np.array([24, 24, 8]), LAYOUT).planes()
    assert not cut[2, 8:].any()
    np.testing.assert_array_equal(cut[2, :8], planes[2, :8])


def test_what_is_wrong_is_said_and_the_others_stand() -> None:
    rng = np.random.default_rng(0)
    planes = np.stack([planes_of(rng, 16, LAYOUT) for _ in range(5)])
    planes[4] = False
    files, notes = files_of(planes), notes_of(planes)
    files[1], notes[2] = b"RIFF and nothing", notes[2] + 1
    other = Layout(("drums", "somebody", "low"), 48, 12, 4)
    files[3] = smf.write(to_notes(Roll(planes[3], other)))
    played = playback.play(files, notes, np.full(5, 16), LAYOUT)
    assert sorted(played.reasons) == [1, 2, 3]  # a silent sample is no error
    assert "begins with" in played.reasons[1]
    assert played.reasons[2] == f"the file has {notes[2] - 1} notes"
    assert played.reasons[3] == f"the file has {notes[3] - planes[3, :, 1, 0].sum()} notes"  # in parts that we know
    assert not played.planes()[1].any()
    np.testing.assert_array_equal(played.planes()[[0, 2, 4]], planes[[0, 2, 4]])


def test_no_files() -> None:
    assert playback.play([], np.zeros(0, np.int64), np.zeros(0, np.int64), LAYOUT).packed.shape == (0, 0, 9)
