"""Keys and the circle of fifths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from measures.rolls import roll
from midivae.measures.keys import KEYS, best_scale, fifths, key_names
from midivae.measures.notes import chroma
from midivae.music.roll import Layout

pytestmark = pytest.mark.numerical


def counts(**notes: int) -> np.ndarray:
    """Notes per pitch class from names of tones ("Fs" for F sharp)."""
    names = ["C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B"]
    return np.array([[notes.get(name, 0) for name in names]])


@pytest.mark.parametrize(
    ("tones", "key", "consistency"),
    [
        (counts(C=4, D=2, E=3, F=2, G=4, A=1, B=1), "C major", 1.0),
        # the same seven tones, played around A and E: the relative minor, where a first-of-the-list rule says C major
        (counts(A=4, B=2, C=3, D=2, E=4, F=1, G=1), "A minor", 1.0),
        # G major with one C sharp among 18 notes
        (counts(G=5, A=2, B=3, C=1, D=4, E=1, Fs=1, Cs=1), "G major", 17 / 18),
        # C minor with its leading tone: B is not in the natural minor, as in MusPy
        (counts(C=5, D=2, Ds=3, F=2, G=4, Gs=1, B=1), "C minor", 17 / 18),
    ],
)
def test_keys_worked_by_hand(tones: np.ndarray, key: str, consistency: float) -> None:
    index, share = best_scale(tones)
    assert KEYS[index[0]] == key
    assert share[0] == pytest.approx(consistency)


@pytest.mark.parametrize("low", [36, 41, 0])
def test_pitch_classes_do_not_depend_on_where_the_roll_begins(low: int) -> None:
    layout = Layout(("merged",), low, 84, 4)
    chord = roll([(0, pitch, 0, 4) for pitch in (67, 71, 74, 78, 67 - 12)], layout)  # G B D F sharp, and G again
    assert chroma(chord, layout)[0].tolist() == counts(G=2, B=1, D=1, Fs=1)[0].tolist()
    assert key_names(chord, layout) == ["G major"]


def test_evenly_spread_notes_and_none() -> None:
    index, share = best_scale(np.array([[5] * 12, [0] * 12]))
    assert (index[0], share[0]) == (0, pytest.approx(7 / 12))  # all 24 tie in everything: the first
    assert index[1] == -1
    assert math.isnan(share[1])


def test_keys_are_24_with_the_tonic_at_the_index_modulo_12() -> None:
    assert len(set(KEYS)) == 24
    assert [KEYS[i] for i in (0, 7, 9 + 12, 1, 13)] == [
        "C major",
        "G major",
        "A minor",
        "Db major",
        "C# minor",
    ]
    tonic_triads = [[i % 12, (i + (4 if i < 12 else 3)) % 12, (i + 7) % 12] for i in range(24)]
    weights = np.zeros((24, 12), int)
    for key, triad in enumerate(tonic_triads):
        weights[key, triad] = [3, 1, 2]
    assert best_scale(weights)[0].tolist() == list(range(24))


@given(hnp.arrays(np.int64, (12,), elements=st.integers(0, 40)), st.integers(0, 11))
def test_key_moves_with_the_music(tones: np.ndarray, by: int) -> None:
    here, moved = best_scale(tones[None]), best_scale(np.roll(tones, by)[None])
    np.testing.assert_allclose(here[1], moved[1])
    if here[0][0] >= 0 and all(not np.array_equal(tones, np.roll(tones, k)) for k in range(1, 12)):
        # a chroma without a symmetry of its own: no tie is left to the order of the list
        mode = here[0] // 12
        assert moved[0].tolist() == (12 * mode + (here[0] + by) % 12).tolist()


@given(st.lists(st.integers(0, 11), min_size=1, max_size=20), st.integers(0, 11))
def test_a_fifth_up_is_30_degrees_on_the_circle(classes: list[int], fifths_up: int) -> None:
    x, y = fifths(np.bincount(classes, minlength=12)[None])[0]
    moved = fifths(np.bincount([(c + 7 * fifths_up) % 12 for c in classes], minlength=12)[None])[0]
    turn = complex(x, y) * complex(math.cos(math.pi * fifths_up / 6), math.sin(math.pi * fifths_up / 6))
    np.testing.assert_allclose(moved, [turn.real, turn.imag], atol=1e-12)
