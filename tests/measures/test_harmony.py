"""All measures of harmony and form at once: their columns, layouts in which they have no meaning, blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from measures.rolls import BAND, ONE, SATB, Note, music, roll
from midivae.measures import harmony, notes
from midivae.measures.notes import transposed
from midivae.music.roll import Layout
from midivae.storage.schema import HARMONY

pytestmark = pytest.mark.numerical

OF_PARTS = ("dissonant_leap_share", "parallel_share", "crossing_share")
TON, SUB, DOM = (72, 67, 64, 48), (72, 69, 65, 53), (71, 67, 62, 43)


def chorale() -> list[Note]:
    """Two bars of C major: I IV V I in quarters, then I held for a half note, and V, I."""
    times = [(0, 4, TON), (4, 8, SUB), (8, 12, DOM), (12, 16, TON), (16, 24, TON), (24, 28, DOM), (28, 32, TON)]
    return [(part, pitch, on, off) for on, off, chord in times for part, pitch in enumerate(chord)]


def measured(notes: list[Note], layout: Layout = SATB, steps: int = 32) -> dict[str, float]:
    return {name: float(value[0]) for name, value in harmony.measure(roll(notes, layout, steps), layout, 4).items()}


def test_a_short_chorale_by_hand() -> None:
    found = measured(chorale())
    assert list(found) == list(HARMONY)
    assert found["triad_share"] == 1
    assert found["seventh_share"] == found["no_tertian_share"] == found["chromatic_share"] == 0
    assert found["held_chords"] == 2  # one in two bars
    # I-SUB, V-I, V-I in two bars
    assert found["bass_fifths"] == 6
    # moves: I-SUB (the bass), SUB-V, V-I, I-V, V-I: all both but the first; no fifths or octaves in a row
    assert found["parallel_share"] == 0
    assert np.isnan(found["dissonant_leap_share"])  # no dissonance
    # intervals of the four lines, six each. soprano 0 -1 1 0 -1 1, alto 2 -2 0 0 0 0, tenor 1 -3 2 0 -2 2,
    # bass 5 -10 5 0 -5 5
    assert found["repeat_share"] == pytest.approx(8 / 24)
    assert found["step_share"] == pytest.approx(10 / 24)
    assert found["wide_leap_share"] == 0


def test_counted_per_four_bars() -> None:
    # the same music in bars of three quarters: 8 beats are 2/3 of 4 bars
    planes = roll(chorale(), SATB)
    assert harmony.measure(planes, SATB, 3)["held_chords"][0] == pytest.approx(1.5)
    assert harmony.measure(planes, SATB, 3)["bass_fifths"][0] == pytest.approx(4.5)


def test_chromatic_notes_are_outside_the_key() -> None:
    # one F sharp among the notes of C major; A minor's G sharp is its leading note, D sharp is not
    assert measured([*chorale(), (1, 66, 30, 31)])["chromatic_share"] == pytest.approx(1 / 29)
    minor = [(0, 57 + by, 2 * i, 2 * i + 2) for i, by in enumerate((0, 2, 3, 5, 7, 8, 10, 0, 7, 3, 0, 7))]
    assert measured([*minor, (3, 44, 24, 26)])["chromatic_share"] == 0
    assert measured([*minor, (3, 51, 24, 26)])["chromatic_share"] == pytest.approx(1 / 13)


def test_what_has_no_meaning_has_no_value() -> None:
    alone = measured([(0, pitch, on, off) for _, pitch, on, off in chorale()], ONE)
    assert all(np.isnan(alone[name]) for name in OF_PARTS)
    assert (alone["triad_share"], alone["held_chords"], alone["bass_fifths"]) == (1, 2, 6)
    band = measured([(1, pitch, on, off) for _, pitch, on, off in chorale()], BAND)  # drums are no part with pitches
    assert {name: value for name, value in band.items() if not np.isnan(value)} == {
        name: value for name, value in alone.items() if not np.isnan(value)
    }
    silent = measured([])
    drums = measured([(0, 40, 0, 4), (0, 42, 4, 8)], BAND)
    assert all(np.isnan(value) for value in (*silent.values(), *drums.values()))
    melody = measured([(0, 72, 0, 4), (0, 74, 4, 8)], ONE)
    assert {name for name, value in melody.items() if not np.isnan(value)} == {
        *("chromatic_share", "repeat_share", "step_share", "wide_leap_share", "held_chords")
    }


def test_drums_change_nothing() -> None:
    layout = Layout(("drums", *SATB.parts), 36, 48, 4)
    parts = [(part + 1, pitch, on, off) for part, pitch, on, off in chorale()]
    with_drums = measured([*parts, (0, 38, 3, 5), (0, 40, 17, 19)], layout)
    np.testing.assert_equal(with_drums, measured(chorale()))


@given(music())
def test_order_of_parts_and_transposition_change_nothing(notes: list[Note]) -> None:
    planes = roll(notes, SATB, 48)
    here = harmony.measure(planes, SATB, 4)
    turned = harmony.measure(transposed(planes, SATB, np.array([3])), SATB, 4)
    for name in HARMONY:
        np.testing.assert_allclose(turned[name], here[name], rtol=1e-6, err_msg=name)
        if name != "dissonant_leap_share" and name in here:
            assert here[name][0] >= 0 or np.isnan(here[name][0])


def test_a_roll_is_the_same_alone_or_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    planes = np.repeat(rng.random((20, 32, 4, 1, 48)) < 0.03, 2, axis=3)
    whole = harmony.measure(planes, SATB, 4)
    monkeypatch.setattr(notes, "_BLOCK_CELLS", 3 * planes[0].size)
    blocks = harmony.measure(planes, SATB, 4)
    for name in HARMONY:
        np.testing.assert_array_equal(blocks[name], whole[name])
        np.testing.assert_array_equal(harmony.measure(planes[7:8], SATB, 4)[name][0], whole[name][7])
    assert all(
        value.shape == (0,) and value.dtype == np.float32 for value in harmony.measure(planes[:0], SATB, 4).values()
    )
