"""How alike two rolls are: by hand, by definition, and under transposition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rolls import planes_of

from midivae.measures import likeness
from midivae.measures.likeness import Match
from midivae.measures.notes import transposed
from midivae.music.roll import Layout

pytestmark = pytest.mark.numerical

LAYOUT = Layout(("high", "low"), 48, 36, 4)
BAND = Layout(("drums", "piano"), 36, 24, 4)


def music(seed: int, n: int = 1, steps: int = 32, low: int = 12, high: int = 24) -> np.ndarray:
    """Rolls whose notes lie between two rows."""
    rng = np.random.default_rng(seed)
    narrow = Layout(LAYOUT.parts, 0, high - low, 4)
    planes = np.zeros((n, steps, 2, 2, LAYOUT.pitches), bool)
    planes[..., low:high] = np.stack([planes_of(rng, steps, narrow) for _ in range(n)])
    return planes


# --- cell by cell -----------------------------------------------------------------------------------------------------
def test_match_by_hand() -> None:
    wanted, made = np.zeros((2, 1, 4, 1, 2, 3), bool)
    wanted[0, 0, 0, :, 0] = True
    wanted[0, 1:3, 0, 1, 0] = True  # a note of three steps
    made[0, 0, 0, :, 0] = True
    made[0, 1, 0, 1, 0] = True  # the same, of two
    made[0, 3, 0, :, 2] = True  # and another
    match = Match.of(likeness.matched(made, wanted))
    assert match.onset_f1 == pytest.approx(2 * 1 / (1 + 2))
    assert match.frame_f1 == pytest.approx(2 * 2 / (3 + 3))
    assert match.exact_steps == 0.5  # steps 0 and 1
    nothing = Match.of(likeness.matched(wanted & False, wanted & False))
    assert np.isnan(nothing.onset_f1) and nothing.exact_steps == 1


def test_counts_add_over_rolls() -> None:
    made, wanted = music(0, 6), music(1, 6)
    whole = likeness.matched(made, wanted)
    parts = sum(likeness.matched(made[i : i + 2], wanted[i : i + 2]) for i in range(0, 6, 2))
    np.testing.assert_array_equal(whole, parts)
    assert Match.of(likeness.matched(made, made)) == Match(1.0, 1.0, 1.0)


def test_apart_by_hand() -> None:
    x, y = np.zeros((2, 1, 4, 1, 2, 3), bool)
    x[0, :, 0, 1, 0] = True  # four cells
    y[0, 2:, 0, 1, 0] = True  # two of them
    y[0, 0, 0, 1, 1] = True  # and another one
    assert likeness.apart(x, y)[0] == pytest.approx(3 / 5)
    assert likeness.apart(x & False, y & False)[0] == 0
    assert likeness.apart(x, x & False)[0] == 1


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_apart_is_a_metric(a: int, b: int, c: int) -> None:
    x, y, z = music(a), music(b), music(c)
    assert likeness.apart(x, x)[0] == 0
    assert likeness.apart(x, y)[0] == likeness.apart(y, x)[0]
    assert likeness.apart(x, z)[0] <= likeness.apart(x, y)[0] + likeness.apart(y, z)[0] + 1e-12


def test_pairs_are_those_of_apart() -> None:
    planes = np.concatenate([music(3, 4), music(3, 1) & False])
    wanted = [likeness.apart(planes[i : i + 1], planes[j : j + 1])[0] for i in range(5) for j in range(i + 1, 5)]
    np.testing.assert_allclose(likeness.pairwise_apart(planes), wanted, atol=1e-6)


# --- beat by beat -----------------------------------------------------------------------------------------------------
def test_chroma_of_beats_by_hand() -> None:
    planes = np.zeros((1, 10, 2, 2, 24), bool)
    planes[0, 0, 1, 1, 0] = True  # C
    planes[0, 3, 1, 1, 16] = True  # E, within the first beat
    planes[0, 4:8, 1, 1, 23] = True  # B in the second
    planes[0, 4, 0, 1, 5] = True  # a drum
    planes[0, 9, 1, 1, 1] = True  # beyond the last whole beat
    found = likeness.beat_chroma(planes, BAND)
    assert [np.flatnonzero(beat).tolist() for beat in found[0]] == [[0, 4], [11]]
    lower = Layout(("drums", "piano"), 31, 24, 4)  # row 0 is a G
    assert [np.flatnonzero(beat).tolist() for beat in likeness.beat_chroma(planes, lower)[0]] == [[7, 11], [6]]


def brute_force(query: np.ndarray, references: np.ndarray) -> tuple[int, int, float]:
    """The nearest by its definition."""
    found = []
    for index, reference in enumerate(references):
        for by in range(12):
            moved = np.roll(reference, by, axis=1)
            found.append(((query ^ moved).sum() / max(1, (query | moved).sum()), index, by))
    distance, index, by = min(found)
    return index, by, distance


def test_nearest_is_that_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "_QUERIES_AT_ONCE", 4)
    monkeypatch.setattr(likeness, "_REFERENCES_AT_ONCE", 3)
    queries, references = (likeness.beat_chroma(music(seed, 11), LAYOUT) for seed in (5, 6))
    index, semitones, distance = likeness.nearest(queries, references)
    for row, query in enumerate(queries):
        assert (index[row], semitones[row], pytest.approx(distance[row])) == brute_force(query, references)


@given(st.integers(0, 100), st.integers(-11, 11), st.integers(0, 4))
def test_a_copy_in_another_key_is_at_no_distance(seed: int, by: int, which: int) -> None:
    references = music(seed, 5)
    copy = transposed(references[which : which + 1], LAYOUT, np.array([by]))
    index, semitones, distance = likeness.nearest(
        likeness.beat_chroma(copy, LAYOUT), likeness.beat_chroma(references, LAYOUT)
    )
    assert distance[0] == 0
    found = transposed(references[index], LAYOUT, semitones)
    np.testing.assert_array_equal(likeness.beat_chroma(found, LAYOUT), likeness.beat_chroma(copy, LAYOUT))


def test_silence_and_no_references_have_no_neighbour() -> None:
    chroma = likeness.beat_chroma(music(0, 3), LAYOUT)
    for queries, references in ((chroma & False, chroma), (chroma, chroma[:0])):
        index, semitones, distance = likeness.nearest(queries, references)
        assert index.tolist() == [-1] * 3 and semitones.tolist() == [0] * 3
        assert np.isnan(distance).all()
