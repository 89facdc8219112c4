"""Parts against each other: crossings, parallels, dissonances, melodies, tonal distance; by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measures.rolls import SATB, Note
from measures.rolls import roll as roll_of
from midivae.measures import counterpoint
from midivae.measures.counterpoint import lines, outer_pitches
from midivae.measures.notes import any_along
from midivae.music.roll import Layout, sounding, starts

pytestmark = pytest.mark.numerical

S, A, T, B = range(4)
LAYOUT = Layout(("drums", "high", "low"), 48, 24, 4)


def quarters(*pitches: tuple[int, ...]) -> list[Note]:
    """A chord per beat: the pitches of the parts, 0 for a rest."""
    return [
        (part, pitch, 4 * beat, 4 * beat + 4)
        for beat, chord in enumerate(pitches)
        for part, pitch in enumerate(chord)
        if pitch
    ]


def planes_of(*pitches: tuple[int, ...]) -> np.ndarray:
    return roll_of(quarters(*pitches), SATB, 4 * len(pitches))


def parallels(*pitches: tuple[int, ...]) -> float:
    heard = any_along(sounding(planes_of(*pitches)), 2)
    return float(counterpoint.parallel_share(*outer_pitches(heard))[0])


def crossings(*pitches: tuple[int, ...]) -> float:
    return float(counterpoint.crossing_share(lines(sounding(planes_of(*pitches))))[0])


def leaps(planes: np.ndarray) -> float:
    sounds = sounding(planes)
    bass = outer_pitches(any_along(sounds, 2))[1]
    return float(counterpoint.dissonant_leap_share(lines(sounds), lines(starts(planes)), bass, 4)[0])


# --- lines ------------------------------------------------------------------------------------------------------------
def test_lines_and_outer_pitches() -> None:
    # a soprano of two pitches at once, a bass alone on the second beat, silence on the third
    planes = roll_of([(S, 72, 0, 4), (S, 76, 0, 4), (B, 48, 0, 4), (B, 50, 4, 8)], SATB, 12)
    line = lines(sounding(planes))
    assert line[0, :, 0].tolist() == [40, -1, -1, 12]
    assert line[0, :, 4].tolist() == [-1, -1, -1, 14]
    assert line[0, :, 8].tolist() == [-1] * 4
    top, bass = outer_pitches(any_along(sounding(planes), 2))
    assert top[0, ::4].tolist() == [40, -1, -1]  # a single pitch has no bass
    assert bass[0, ::4].tolist() == [12, -1, -1]


# --- melodies ---------------------------------------------------------------------------------------------------------
def test_melodies_by_hand() -> None:
    # soprano: 0, 2, 1, 13, 12 up or down; bass: 3 down; from the soprano to the bass is no interval
    soprano = [72, 72, 74, 73, 60, 72]
    bass = [48, 0, 0, 45, 0, 0]
    planes = planes_of(*[(a, 0, 0, b) for a, b in zip(soprano, bass, strict=True)])
    shares = counterpoint.steps_of_lines(lines(starts(planes)))
    assert {name: float(value[0]) for name, value in shares.items()} == pytest.approx(
        {"repeat_share": 1 / 6, "step_share": 2 / 6, "wide_leap_share": 1 / 6}
    )
    alone = counterpoint.steps_of_lines(lines(starts(planes_of((72, 60, 55, 48)))))
    assert all(np.isnan(value[0]) for value in alone.values())


def test_intervals_belong_to_their_roll() -> None:
    planes = np.concatenate([planes_of((72, 0, 0, 48), (74, 0, 0, 48)), planes_of((72, 0, 0, 0), (79, 0, 0, 48))])
    interval, of_roll = counterpoint.intervals(lines(starts(planes)))
    assert (interval.tolist(), of_roll.tolist()) == ([2, 0, 7], [0, 0, 1])


# --- crossings --------------------------------------------------------------------------------------------------------
def test_crossings_by_hand() -> None:
    # the alto is above the soprano on the second of four beats; the third has a single part
    assert crossings((72, 65, 57, 48), (67, 69, 57, 48), (72, 0, 0, 0), (74, 65, 57, 48)) == pytest.approx(1 / 3)
    assert crossings((72, 65, 57, 48)) == 0
    assert crossings((72, 72, 57, 48)) == 0  # a unison
    assert math.isnan(crossings((72, 0, 0, 0), (74, 0, 0, 0)))


def test_order_of_parts_does_not_matter_for_crossings() -> None:
    planes = planes_of((72, 65, 57, 48), (67, 69, 57, 48), (74, 65, 57, 48))
    line = lines(sounding(planes))
    assert counterpoint.crossing_share(line[:, ::-1])[0] == counterpoint.crossing_share(line)[0] == pytest.approx(1 / 3)


# --- parallels --------------------------------------------------------------------------------------------------------
def test_parallels_by_hand() -> None:
    assert parallels((67, 64, 0, 48), (69, 65, 0, 50)) == 1  # fifths
    assert parallels((72, 64, 0, 48), (74, 65, 0, 50)) == 1  # octaves
    assert parallels((67, 0, 0, 48), (72, 0, 0, 41)) == 1  # fifths in contrary motion: 19 and 31 semitones
    assert parallels((64, 0, 0, 48), (65, 0, 0, 50)) == 0  # thirds
    assert parallels((67, 0, 0, 48), (67, 0, 0, 48)) != parallels((67, 0, 0, 48), (69, 0, 0, 48))  # no move; oblique
    assert parallels((67, 0, 0, 48), (69, 0, 0, 48)) == 0
    assert parallels((67, 0, 0, 48), (74, 0, 0, 50)) == 0  # a fifth, then an octave
    # inner parts do not count: fifths of alto and bass under a soprano that holds
    assert parallels((79, 67, 0, 48), (79, 69, 0, 50)) == 0
    # two of three moves; a repeated chord is no move, and a rest is between the last two
    moves = [(67, 0, 0, 48), (69, 0, 0, 50), (69, 0, 0, 50), (67, 0, 0, 48), (64, 0, 0, 48), (0, 0, 0, 0)]
    assert parallels(*moves, (67, 0, 0, 48)) == pytest.approx(2 / 3)
    # octaves on both sides of a rest, and one oblique move
    assert parallels((72, 0, 0, 48), (0, 0, 0, 0), (74, 0, 0, 50), (76, 0, 0, 50)) == 0
    assert parallels((72, 72, 72, 72), (74, 74, 74, 74)) != 1  # a melody in unison has no bass


# --- dissonances ------------------------------------------------------------------------------------------------------
def test_dissonances_by_hand() -> None:
    # a suspended fourth falls by a step; a seventh leaps up a fourth; the third is consonant
    assert leaps(planes_of((65, 0, 0, 48), (64, 0, 0, 48))) == 0
    assert leaps(planes_of((70, 0, 0, 48), (75, 0, 0, 48))) == 1
    assert leaps(planes_of((65, 70, 0, 48), (64, 75, 0, 48))) == pytest.approx(1 / 2)
    assert math.isnan(leaps(planes_of((64, 0, 0, 48), (72, 0, 0, 48))))  # no dissonance
    assert math.isnan(leaps(planes_of((65, 0, 0, 48), (0, 0, 0, 48))))  # the dissonance is not left
    # every fourth, second and seventh, and no third, fifth, sixth or octave
    dissonant = [by for by in range(13) if not math.isnan(leaps(planes_of((60 + by, 0, 0, 48), (72, 0, 0, 48))))]
    assert dissonant == [1, 2, 5, 6, 10, 11]


def test_a_dissonance_is_what_sounds_on_the_beat() -> None:
    # D starts off the beat over C and leaps: not on a beat; held over the next beat it is
    off = roll_of([(S, 64, 0, 2), (S, 62, 2, 4), (S, 67, 4, 8), (B, 48, 0, 8)], SATB, 8)
    assert math.isnan(leaps(off))
    held = roll_of([(S, 64, 0, 2), (S, 62, 2, 6), (S, 67, 6, 8), (B, 48, 0, 8)], SATB, 8)
    assert leaps(held) == 1
    # the bass moves under a held note: a suspension, whose next note counts from the beat on
    suspended = roll_of([(S, 64, 0, 6), (S, 62, 6, 8), (B, 48, 0, 4), (B, 47, 4, 8)], SATB, 8)
    assert leaps(suspended) == 0
    assert leaps(roll_of([(S, 64, 0, 6), (S, 67, 6, 8), (B, 48, 0, 4), (B, 47, 4, 8)], SATB, 8)) == 1


# --- tonal distance ---------------------------------------------------------------------------------------------------
def roll(*notes: Note, steps: int = 8) -> np.ndarray:
    """Notes of (part, pitch, onset, offset) in the layout with drums."""
    return roll_of(list(notes), LAYOUT, steps)


def test_tonal_distance_by_hand() -> None:
    # C against G: a fifth is 7 * 7/6 = 49/6 half turns on the first circle, 7 * 3/2 on the second, 7 * 2/3 on the third
    angles, radii = (7 * 7 * math.pi / 6, 7 * 3 * math.pi / 2, 7 * 2 * math.pi / 3), (1, 1, 0.5)
    wanted = math.sqrt(sum((2 * r * math.sin(a / 2)) ** 2 for a, r in zip(angles, radii, strict=True)))
    assert counterpoint.tonal_distance(roll((1, 67, 0, 8), (2, 48, 0, 8)), LAYOUT)[0] == pytest.approx(wanted)
    # an octave is no distance; a beat in which one of them is silent does not count
    assert counterpoint.tonal_distance(roll((1, 60, 0, 8), (2, 48, 0, 8)), LAYOUT)[0] == pytest.approx(0)
    assert counterpoint.tonal_distance(roll((1, 67, 0, 8), (2, 48, 0, 4)), LAYOUT)[0] == pytest.approx(wanted)
    assert np.isnan(counterpoint.tonal_distance(roll((1, 67, 0, 4), (2, 48, 4, 8), (0, 50, 0, 8)), LAYOUT)[0])
    assert np.isnan(counterpoint.tonal_distance(roll((1, 60, 0, 8))[:, :, :2], Layout(("drums", "high"), 48, 24, 4))[0])


def test_a_semitone_and_a_tritone_are_farther_than_a_fifth() -> None:
    far = {
        tone: float(counterpoint.tonal_distance(roll((1, tone, 0, 8), (2, 48, 0, 8)), LAYOUT)[0])
        for tone in range(60, 72)
    }
    assert far[60] == pytest.approx(0)
    assert far[67] == min(far[tone] for tone in range(61, 72))
    assert max(far.values()) <= 3 + 1e-9
    assert far[61] > far[67] and far[66] > far[67]


@given(st.integers(0, 11), st.integers(0, 11), st.integers(0, 11))
def test_transposition_leaves_the_distance(a: int, b: int, by: int) -> None:
    here, there = (
        counterpoint.tonal_distance(roll((1, 48 + x, 0, 8), (2, 48 + y, 0, 8)), LAYOUT)[0]
        for x, y in ((a, b), ((a + by) % 12, (b + by) % 12))
    )
    assert here == pytest.approx(there)
