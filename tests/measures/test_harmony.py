"""Chords and what follows them; how far parts are from each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midivae.measures import harmony
from midivae.measures.harmony import CHORDS, Bigram
from midivae.music.roll import Layout

pytestmark = pytest.mark.numerical

LAYOUT = Layout(("drums", "high", "low"), 48, 24, 4)
ALL = np.arange(CHORDS)


def turned(chord: int, by: int) -> int:
    """A chord up by so many semitones."""
    return sum(1 << (tone + by) % 12 for tone in range(12) if chord >> tone & 1)


def roll(*notes: tuple[int, int, int, int], steps: int = 8) -> np.ndarray:
    """Frames of (part, pitch, onset, offset)."""
    planes = np.zeros((1, steps, 3, 2, 24), bool)
    for part, pitch, onset, offset in notes:
        planes[0, onset:offset, part, 1, pitch - 48] = True
    return planes


def test_chords_are_what_sounds_on_the_beat() -> None:
    # C held over both beats, E struck after the first, a drum on the second, an octave of C
    planes = roll((1, 60, 0, 8), (2, 52, 2, 6), (0, 50, 4, 5), (2, 48, 0, 2))
    assert harmony.chords(planes, LAYOUT)[0].tolist() == [1, 1 | 1 << 4]
    assert harmony.chords(planes & False, LAYOUT)[0].tolist() == [0, 0]
    assert harmony.chords(planes[:, :7], LAYOUT).shape == (1, 1)  # whole beats only


chord_rows = st.lists(st.lists(st.integers(0, CHORDS - 1), min_size=4, max_size=4), min_size=1, max_size=4)
# with chords that some transposition leaves as they are: silence, tritone, augmented and diminished seventh chords, all
SYMMETRIC = [0, 0b1000001, 0b100010001, 0b1001001001, 0b10101010101, CHORDS - 1]


@given(chord_rows, st.integers(0, CHORDS - 1) | st.sampled_from(SYMMETRIC))
def test_chances_of_all_chords_sum_to_one(found: list[list[int]], before: int) -> None:
    model = Bigram.fit(np.array([*found, [*SYMMETRIC[:4]]]))
    chances = model.probability(np.full(CHORDS, before), ALL)
    assert chances.min() > 0
    assert chances.sum() == pytest.approx(1)


@given(chord_rows, st.sampled_from(SYMMETRIC) | st.integers(0, CHORDS - 1), st.integers(0, 11))
def test_transposition_changes_nothing(found: list[list[int]], chord: int, by: int) -> None:
    model = Bigram.fit(np.array(found))
    pair = np.array([[chord, found[0][1]]])
    moved = np.array([[turned(chord, by), turned(found[0][1], by)]])
    assert model.nats(moved)[0] == pytest.approx(model.nats(pair)[0])
    other = Bigram.fit(np.array([[turned(each, by) for each in row] for row in found]))
    assert other.nats(pair)[0] == pytest.approx(model.nats(pair)[0])


def test_bigram_by_hand() -> None:
    # C, G, C, G as single tones: N = 4 chords of one class (U = 1); from a tone: up a fifth twice, up a fourth once,
    # two kinds. P(t) of a tone: 4/5 * 4/(4 * 12) + 1/5 / 4096; P(G | C) = 3/5 * 2/3 + 2/5 P(G)
    c, g = 1, 1 << 7
    model = Bigram.fit(np.array([[c, g, c, g]]))
    alone = 4 / 5 / 12 + 1 / 5 / CHORDS
    (chance,) = model.probability(np.array([c]), np.array([g]))
    assert chance == pytest.approx(3 / 5 * 2 / 3 + 2 / 5 * alone)
    # D to A is the same step; what never followed has what is left
    assert model.probability(np.array([1 << 2]), np.array([1 << 9]))[0] == pytest.approx(chance)
    triad = c | 1 << 4 | g
    assert model.probability(np.array([c]), np.array([triad]))[0] == pytest.approx(2 / 5 * 1 / 5 / CHORDS)
    assert model.nats(np.array([[c, g, triad]]))[0] == pytest.approx(
        -(math.log(chance) + math.log(model.probability(np.array([g]), np.array([triad]))[0])) / 2
    )


def test_nothing_known_is_nothing_likelier() -> None:
    model = Bigram.fit(np.zeros((0, 4), np.int64))
    np.testing.assert_allclose(model.probability(ALL, ALL[::-1].copy()), 1 / CHORDS)
    assert np.isnan(model.nats(np.zeros((2, 1), np.int64))).all()


def test_what_it_was_fitted_to_is_likelier_than_noise() -> None:
    rng = np.random.default_rng(0)
    song = np.array([turned(0b10010001, int(5 * step % 12)) for step in range(64)]).reshape(4, 16)
    model = Bigram.fit(song)
    assert model.nats(song).max() < model.nats(rng.integers(0, CHORDS, (4, 16))).min() - 5


# --- tonal distance ---------------------------------------------------------------------------------------------------
def test_tonal_distance_by_hand() -> None:
    # C against G: a fifth is 7 * 7/6 = 49/6 half turns on the first circle, 7 * 3/2 on the second, 7 * 2/3 on the third
    angles, radii = (7 * 7 * math.pi / 6, 7 * 3 * math.pi / 2, 7 * 2 * math.pi / 3), (1, 1, 0.5)
    wanted = math.sqrt(sum((2 * r * math.sin(a / 2)) ** 2 for a, r in zip(angles, radii, strict=True)))
    assert harmony.tonal_distance(roll((1, 67, 0, 8), (2, 48, 0, 8)), LAYOUT)[0] == pytest.approx(wanted)
    # an octave is no distance; a beat in which one of them is silent does not count
    assert harmony.tonal_distance(roll((1, 60, 0, 8), (2, 48, 0, 8)), LAYOUT)[0] == pytest.approx(0)
    assert harmony.tonal_distance(roll((1, 67, 0, 8), (2, 48, 0, 4)), LAYOUT)[0] == pytest.approx(wanted)
    assert np.isnan(harmony.tonal_distance(roll((1, 67, 0, 4), (2, 48, 4, 8), (0, 50, 0, 8)), LAYOUT)[0])
    assert np.isnan(harmony.tonal_distance(roll((1, 60, 0, 8))[:, :, :2], Layout(("drums", "high"), 48, 24, 4))[0])


def test_a_semitone_and_a_tritone_are_farther_than_a_fifth() -> None:
    far = {
        tone: float(harmony.tonal_distance(roll((1, tone, 0, 8), (2, 48, 0, 8)), LAYOUT)[0]) for tone in range(60, 72)
    }
    assert far[60] == pytest.approx(0)
    assert far[67] == min(far[tone] for tone in range(61, 72))
    assert max(far.values()) <= 3 + 1e-9
    assert far[61] > far[67] and far[66] > far[67]


@given(st.integers(0, 11), st.integers(0, 11), st.integers(0, 11))
def test_transposition_leaves_the_distance(a: int, b: int, by: int) -> None:
    here, there = (
        harmony.tonal_distance(roll((1, 48 + x, 0, 8), (2, 48 + y, 0, 8)), LAYOUT)[0]
        for x, y in ((a, b), ((a + by) % 12, (b + by) % 12))
    )
    assert here == pytest.approx(there)
