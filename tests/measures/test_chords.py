"""Chords, their kinds, and what follows them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midivae.measures import chords
from midivae.measures.chords import CHORDS, Bigram
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
    assert chords.chords(planes, LAYOUT)[0].tolist() == [1, 1 | 1 << 4]
    assert chords.chords(planes & False, LAYOUT)[0].tolist() == [0, 0]
    assert chords.chords(planes[:, :7], LAYOUT).shape == (1, 1)  # whole beats only


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


# --- kinds ------------------------------------------------------------------------------------------------------------
def bits(*tones: int) -> int:
    return sum(1 << tone % 12 for tone in set(tones))


def test_kinds_of_chords_by_hand() -> None:
    c, cm7, sus = bits(0, 4, 7), bits(0, 3, 7, 10), bits(0, 5, 7)
    shares = {
        name: float(value[0])
        for name, value in chords.kinds(np.array([[c, turned(c, 5), cm7, sus, bits(2, 5), bits(9), 0]])).items()
    }
    # five chords: two triads, a seventh chord, a suspension, and a third, which is none of the three; a tone and
    # silence are no chords
    assert shares == pytest.approx({"triad_share": 2 / 5, "seventh_share": 1 / 5, "no_tertian_share": 1 / 5})
    assert all(np.isnan(value[0]) for value in chords.kinds(np.array([[1, 0, 1 << 5]])).values())
    assert all(np.isnan(value[0]) for value in chords.kinds(np.zeros((1, 0), np.int64)).values())


@pytest.mark.parametrize(
    ("tones", "kind"),
    [
        ((0, 4, 7), "triad_share"),
        ((0, 3, 7), "triad_share"),
        ((0, 3, 6), "triad_share"),
        ((0, 4, 8), "triad_share"),
        ((0, 4, 7, 10), "seventh_share"),
        ((0, 4, 7, 11), "seventh_share"),
        ((0, 3, 6, 9), "seventh_share"),
        ((0, 3, 6, 10), "seventh_share"),
        ((0, 4, 10), "seventh_share"),  # without its fifth
        ((0, 7), "no_tertian_share"),
        ((0, 2), "no_tertian_share"),
        ((0, 7, 10), "no_tertian_share"),  # without a third
        ((0, 2, 4, 7), "no_tertian_share"),
        ((0, 5, 7), "no_tertian_share"),
    ],
)
def test_each_kind_in_all_transpositions(tones: tuple[int, ...], kind: str) -> None:
    shares = chords.kinds(np.array([[turned(bits(*tones), by)] for by in range(12)]))
    for name, share in shares.items():
        assert share.tolist() == [float(name == kind)] * 12
