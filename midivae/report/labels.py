"""How names and numbers are written on the page, and the CSS classes of jobs.

Offers: `UNITS`, `HARMONY`; `words`, `percent`, `rounded`; `job_classes`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from midivae.storage import files

UNITS = {
    "notes": "notes",
    "density": "notes per beat",
    "pitch_low": "lowest pitch, MIDI",
    "pitch_high": "highest pitch, MIDI",
    "pitch_range": "semitones",
    "polyphony": "pitches that sound together",
    "note_length": "beats",
    "pitch_class_entropy": "bits",
    "scale_consistency": "share of notes in the best scale",
    "groove_consistency": "1: the same rhythm in every bar",
    "empty_bar_rate": "share of bars without a note",
    "used_pitch_classes": "pitch classes in a bar",
    "qualified_note_share": "share of notes longer than a step",
    "empty_beat_rate": "share of beats without a note",
    "pitch_count": "different pitches",
    "pitch_interval": "semitones from note to note",
    "inter_onset_interval": "beats between onsets",
    "register": "mean pitch, MIDI",
    "syncopation": "share of notes off the beat",
}
HARMONY = {  # measures of harmony and form, in words for musicians
    "triad_share": "chords on beats that are triads",
    "seventh_share": "seventh chords, which may lack their fifth",
    "no_tertian_share": "chords that are not built of thirds: suspensions, clusters, bare fifths",
    "chromatic_share": "notes outside the key",
    "dissonant_leap_share": "dissonances over the bass that are left by a leap",
    "parallel_share": "moves of the outer pitches that are parallel fifths or octaves",
    "crossing_share": "time in which a part is below one that should be lower",
    "repeat_share": "melodic intervals that repeat the pitch",
    "step_share": "melodic intervals that are seconds",
    "wide_leap_share": "melodic intervals wider than an octave",
    "held_chords": "chords held for two beats or longer, per 4 bars: they end phrases",
    "bass_fifths": "falls of the bass by a fifth, as from V to I, per 4 bars",
    "chord_nats": "how surprising a chord is after the one before, in nats",
}
_LABELS = {"n": "rows compared", "frechet_real_to_real": "frechet, real to real", "frechet_real_to_real_sd": "its sd"}
_SHADES = 6  # colours of jobs in the style sheet
_DRAWN = 4  # jobs that the charts show at first; a reader can choose the others


def words(name: str) -> str:
    """A column's name in words."""
    return _LABELS.get(name, name.replace("_", " "))


def percent(share: float | int | None) -> str:
    """A share as a whole percentage."""
    return "–" if share is None or pd.isna(share) else f"{100 * share:.0f} %"


def rounded(value: Any) -> float | None:
    """A number with four significant digits; None for a missing value."""
    return None if value is None or pd.isna(value) else files.rounded(float(value), digits=4)


def job_classes(index: int) -> str:
    """The CSS classes of a job in a chart: colour, line style, the job itself, and `off` if it is hidden at first.

    The line style tells jobs of the same colour apart.
    """
    return f"s{index % _SHADES} d{index // _SHADES % 3} j{index}" + ("" if index < _DRAWN else " off")
