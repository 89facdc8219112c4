"""Hashes of bars and phrases, and novelty."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measures.rolls import BAND, ONE, SATB, Note, music, roll
from midivae.measures.hashes import bar_hashes, novelty, phrase_hashes
from midivae.music.roll import Layout

pytestmark = pytest.mark.numerical


def hashes(notes: list[Note], layout: Layout = SATB, steps: int = 32) -> list[int]:
    values: list[int] = bar_hashes(roll(notes, layout, steps), layout, 16)[0].tolist()
    return values


TUNE: list[Note] = [(0, 72, 0, 4), (0, 72, 4, 8), (1, 67, 0, 8), (3, 48, 0, 16)]


def mixed(word: int) -> int:
    """The finaliser of splitmix64, in Python's integers."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def test_hashes_are_the_same_on_every_machine() -> None:
    # TUNE again, as pitches above its lowest, 48: the words of 128 bits of each step, onsets and then frames
    onsets = {0: [24, 19, 0], 4: [24]}
    total = 0
    for step in range(16):
        sounding = [0] + ([24, 19] if step < 8 else [])
        for plane, pitches in enumerate((onsets.get(step, []), sounding)):
            word = sum(1 << pitch for pitch in pitches)
            for half in range(2):
                nth = 4 * step + 2 * plane + half + 1
                salt = mixed(nth * 0x9E3779B97F4A7C15 % 2**64)
                total += mixed((word >> 64 * half) % 2**64 ^ salt)
    assert hashes(TUNE) == [total % 2**64, 0]
    assert hashes(TUNE)[0] == 308157785569460461  # and so it stays: catalogs and known bars outlive a release


@pytest.mark.parametrize(
    "same",
    [
        [(part, pitch + 5, a, b) for part, pitch, a, b in TUNE],  # transposed
        [(part, pitch - 12, a, b) for part, pitch, a, b in TUNE],
        [(3 - part, pitch, a, b) for part, pitch, a, b in TUNE],  # other parts
        [*TUNE, (2, 67, 0, 8)],  # a unison
    ],
)
def test_same_music_has_the_same_hash(same: list[Note]) -> None:
    assert hashes(same) == hashes(TUNE)


@pytest.mark.parametrize(
    "other",
    [
        [(0, 72, 0, 8), (1, 67, 0, 8), (3, 48, 0, 16)],  # the repeated note held
        [*TUNE[:3], (3, 48, 0, 15)],  # a step shorter
        [*TUNE[:3], (3, 49, 0, 16)],  # another bass
        [(part, pitch, a + 1, min(16, b + 1)) for part, pitch, a, b in TUNE],  # later
        [*TUNE, (2, 60, 15, 16)],  # a note more
    ],
)
def test_other_music_has_another_hash(other: list[Note]) -> None:
    assert hashes(other)[0] not in (0, hashes(TUNE)[0])


def test_drums_are_not_in_the_hash() -> None:
    piano: list[Note] = [(1, 60, 0, 8)]
    assert hashes([*piano, (0, 38, 4, 5)], BAND) == hashes(piano, BAND)
    assert hashes([(0, 38, 4, 5)], BAND) == [0, 0]


def test_a_bar_is_the_same_whether_its_first_notes_were_struck_or_held() -> None:
    held = hashes([(0, 60, 8, 24), (0, 64, 24, 32)])
    struck = hashes([(0, 60, 0, 4), (0, 60, 16, 24), (0, 64, 24, 32)])
    assert held[1] == struck[1]


def test_a_frame_that_follows_silence_starts_a_note_in_the_hash_too() -> None:
    planes = roll([(0, 60, 2, 6), (0, 60, 8, 10)])
    without_onset = planes.copy()
    without_onset[0, 8, 0, 0] = False
    np.testing.assert_array_equal(bar_hashes(without_onset, ONE, 16), bar_hashes(planes, ONE, 16))


@given(music(parts=1, steps=16, low=48, high=71), st.integers(-12, 12), st.integers(0, 2))
def test_hashes_follow_the_bar_not_its_place(notes: list[Note], by: int, bar: int) -> None:
    here = hashes(notes, ONE, 48)
    there = hashes([(part, pitch + by, a + 16 * bar, b + 16 * bar) for part, pitch, a, b in notes], ONE, 48)
    assert there[bar] == here[0]
    assert (here[0] == 0) == (not notes)


def test_hashes_do_not_depend_on_the_range_of_the_roll() -> None:
    # shifts on both sides of 64 rows, up to the last of 128 pitches
    narrow = hashes(TUNE)
    full = Layout(SATB.parts, 0, 128, 4)
    for by in (-48, -1, 0, 15, 16, 17, 55):
        moved = [(part, pitch + by, a, b) for part, pitch, a, b in TUNE]
        assert hashes(moved, full) == narrow, by


def test_bars_that_differ_in_a_few_bits_do_not_collide() -> None:
    # sparse bars of 14 pitches x 16 steps, the lowest pitch always row 0: the hard case for a weak hash
    rng = np.random.default_rng(1)
    bars = rng.random((40_000, 16, 1, 1, 14)) < 0.02
    bars[:, 0, 0, 0, 0] = True
    planes = np.repeat(bars, 2, axis=3)
    layout = Layout(("merged",), 60, 14, 4)
    found = bar_hashes(planes, layout, 16)[:, 0]
    assert len(np.unique(found)) == len(np.unique(bars.reshape(len(bars), -1), axis=0))
    # every bit of the hash is set in about half of the bars
    ones = np.unpackbits(np.unique(found).view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 0.02


def test_novelty_is_the_share_of_filled_bars_not_known() -> None:
    known = np.array([3, 5, 2**63 + 1], np.uint64)
    bars = np.array([[3, 5, 0], [3, 4, 0], [7, 2**63, 1], [0, 0, 0], [2**64 - 1, 3, 3]], np.uint64)
    np.testing.assert_allclose(novelty(bars, known), [0, 0.5, 1, math.nan, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(novelty(bars[:2], known[:0]), [1, 1])


# --- phrases ----------------------------------------------------------------------------------------------------------
def test_phrases_are_bars_on_end_shifted_together() -> None:
    bar: list[Note] = [(0, 60, 0, 8), (0, 64, 8, 16)]

    def song(*keys: int) -> np.ndarray:
        notes = [(part, pitch + key, a + 16 * i, b + 16 * i) for i, key in enumerate(keys) for part, pitch, a, b in bar]
        return roll(notes, ONE, 16 * len(keys))

    ones = phrase_hashes(song(0, 0, 5), ONE, 16, 1)
    np.testing.assert_array_equal(ones, bar_hashes(song(0, 0, 5), ONE, 16))
    assert len(set(ones[0].tolist())) == 1  # each bar is the same, transposition aside
    twos = phrase_hashes(song(0, 0, 5, 5), ONE, 16, 2)[0]
    assert twos.shape == (3,)
    assert twos[0] == twos[2] != twos[1]  # 0 0 and 5 5 are one phrase, 0 5 is another
    assert phrase_hashes(song(3, 8), ONE, 16, 2)[0, 0] == twos[1]
    later = phrase_hashes(song(0, 0, 5, 9, 9, 2), ONE, 16, 2)[0]  # steps 0, 5, 4, 0 and -7
    assert [later[0] == each for each in later.tolist()] == [True, False, False, True, False]
    assert (later[1], later[2]) == (twos[1], phrase_hashes(song(1, 5), ONE, 16, 2)[0, 0])
    assert phrase_hashes(song(0, 0), ONE, 16, 4).shape == (1, 0)
    np.testing.assert_array_equal(phrase_hashes(song(1, 2, 3, 4), ONE, 16, 4), bar_hashes(song(1, 2, 3, 4), ONE, 64))
