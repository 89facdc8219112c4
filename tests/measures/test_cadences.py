"""Cadences: held chords, basses that fall a fifth, and endings; by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from measures.rolls import SATB, Note, roll
from midivae.measures import cadences
from midivae.measures.counterpoint import outer_pitches
from midivae.measures.notes import any_along
from midivae.music.roll import Layout, sounding, starts

pytestmark = pytest.mark.numerical

S, A, T, B = range(4)


def held(notes: list[Note], steps: int = 16) -> int:
    planes = roll(notes, SATB, steps)
    return int(cadences.held_chords(any_along(sounding(planes), 2), any_along(starts(planes), 2, 3), 8)[0])


def test_held_chords_by_hand() -> None:
    assert held([(S, 72, 0, 8), (B, 48, 0, 8)]) == 1
    assert held([(S, 72, 0, 16), (B, 48, 0, 16)]) == 1  # a whole note is one
    assert held([(S, 72, 0, 7), (B, 48, 0, 8)]) == 0  # a part ends before
    assert held([(S, 72, 0, 8), (B, 48, 0, 4), (B, 50, 4, 8)]) == 0  # a part moves
    assert held([(S, 72, 0, 4), (S, 72, 4, 8), (B, 48, 0, 8)]) == 0  # or repeats its note
    assert held([(S, 72, 0, 8), (B, 48, 0, 8), (S, 74, 8, 16), (B, 50, 8, 16)]) == 2
    assert held([(S, 72, 12, 16), (B, 48, 12, 16)]) == 0  # cut by the end
    assert held([(S, 72, 0, 4)], steps=4) == 0


def fifths(*bass: int) -> int:
    """A melody over a bass in quarters; 0 for a rest of both."""
    notes = [(part, low + 12 * (part == S), 4 * i, 4 * i + 4) for i, low in enumerate(bass) if low for part in (S, B)]
    heard = any_along(sounding(roll(notes, SATB, 4 * len(bass))), 2)
    return int(cadences.bass_fifths(outer_pitches(heard)[1])[0])


def test_basses_that_fall_a_fifth() -> None:
    assert fifths(55, 48) == 1  # down a fifth
    assert fifths(43, 48) == 1  # up a fourth
    assert fifths(43, 60) == 1  # an octave further
    assert fifths(48, 55) == fifths(48, 43) == fifths(48, 50) == fifths(48, 48) == 0
    assert fifths(43, 0, 48) == 1  # over a rest
    assert fifths(0, 43, 48, 41, 46, 0) == 3
    assert fifths(0, 43) == 0


def ends(notes: list[Note], steps: int = 24, layout: Layout = SATB) -> dict[str, float]:
    return {name: float(value[0]) for name, value in cadences.endings(roll(notes, layout, steps), layout).items()}


def closing(*chords: tuple[int, ...]) -> list[Note]:
    """A chord per beat, from soprano to bass."""
    return [(part, pitch, 4 * i, 4 * i + 4) for i, chord in enumerate(chords) for part, pitch in enumerate(chord)]


# C major: I, IV, V, I, each as soprano, alto, tenor, bass
TON, SUB, DOM = (72, 67, 64, 48), (72, 69, 65, 53), (71, 67, 62, 43)


def test_an_authentic_cadence() -> None:
    yes = {"ends_on_triad": 1.0, "ends_with_v_i": 1.0, "ends_on_tonic": 1.0}
    assert ends(closing(TON, SUB, DOM, TON)) == yes  # with silence behind the end
    assert ends(closing(TON, SUB, DOM, TON, TON), steps=20) == yes  # the last bass note is repeated


def test_other_endings() -> None:
    half = ends(closing(TON, SUB, TON, DOM))
    assert half == {"ends_on_triad": 1, "ends_with_v_i": 0, "ends_on_tonic": 0}
    plagal = ends(closing(TON, DOM, SUB, TON))
    assert plagal == {"ends_on_triad": 1, "ends_with_v_i": 0, "ends_on_tonic": 1}
    suspended = ends(closing(TON, SUB, DOM, (72, 67, 65, 48)))
    assert suspended == {"ends_on_triad": 0, "ends_with_v_i": 1, "ends_on_tonic": 1}
    assert ends(closing(TON, SUB, DOM, (72, 64, 64, 48)))["ends_on_triad"] == 1  # without its fifth
    assert ends(closing(TON, SUB, DOM, (72, 67, 60, 48)))["ends_on_triad"] == 0  # a bare fifth
    assert ends(closing(TON))["ends_with_v_i"] == 0  # no bass note before
    # a single note that is left over is not the last chord
    assert ends([*closing(TON, SUB, DOM, TON), (S, 74, 16, 18)]) == ends(closing(TON, SUB, DOM, TON))


def test_each_piece_ends_on_its_own() -> None:
    planes = np.concatenate(
        [roll(closing(TON, SUB, DOM, TON), SATB, 24), roll(closing(TON, SUB, TON, DOM, DOM), SATB, 24)]
    )
    found = cadences.endings(planes, SATB)
    assert found["ends_with_v_i"].tolist() == [1, 0]
    assert found["ends_on_tonic"].tolist() == [1, 0]


def test_music_without_chords_has_no_ending() -> None:
    assert all(math.isnan(value) for value in ends([(S, 72, 0, 4), (S, 74, 4, 8)]).values())
    assert all(math.isnan(value) for value in ends([]).values())
    drums = Layout(("drums", "drums"), 36, 48, 4)
    assert all(math.isnan(value) for value in ends([(0, 40, 0, 4), (1, 45, 0, 4)], layout=drums).values())
