"""Measures of harmony and form, for thousands of rolls at once: chords, counterpoint, cadences.

Conventions: as in `features`; drums are left out of all. A measure that has no meaning is NaN: all without notes; those
of parts against each other where there is one part.

Offers: `measure`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from midivae.measures import cadences, chords, counterpoint
from midivae.measures.keys import chromatic_share
from midivae.measures.notes import Planes, any_along, in_blocks, per_pitch, pitch_class_of_row, ratio, without_drums
from midivae.music.roll import Layout, sounding, starts

_PHRASE_BARS = 4  # cadences are counted per so many bars
_HELD_BEATS = 2


def measure(planes: Planes, layout: Layout, beats_per_bar: int) -> dict[str, Float32[np.ndarray, " B"]]:
    """Every measure in `schema.HARMONY` of every roll, in that order; NaN where a measure has no value.

    The functions of `chords`, `keys`, `counterpoint` and `cadences` have the meaning of each, and its traps.
    """
    return in_blocks(planes, lambda block: _measure_block(block, layout, beats_per_bar), np.float32)


def _measure_block(planes: Planes, layout: Layout, beats_per_bar: int) -> dict[str, np.ndarray]:
    beat = layout.steps_per_beat
    sounds, start = without_drums(sounding(planes), layout), without_drums(starts(planes), layout)
    heard = any_along(sounds, 2)
    line, line_starts = counterpoint.lines(sounds), counterpoint.lines(start)
    top, bass = counterpoint.outer_pitches(heard)
    phrases = planes.shape[1] / (_PHRASE_BARS * beats_per_bar * beat)
    held = cadences.held_chords(heard, any_along(start, 2, 3), _HELD_BEATS * beat)
    measures = {
        **chords.kinds(chords.chords(planes, layout)),
        "chromatic_share": chromatic_share(per_pitch(start) @ pitch_class_of_row(layout)),
        "dissonant_leap_share": counterpoint.dissonant_leap_share(line, line_starts, bass, beat),
        "parallel_share": counterpoint.parallel_share(top, bass),
        "crossing_share": counterpoint.crossing_share(line),
        **counterpoint.steps_of_lines(line_starts),
        "held_chords": ratio(held, np.where(any_along(heard, 1, 2), phrases, 0)),
        "bass_fifths": ratio(cadences.bass_fifths(bass), np.where((bass != counterpoint.NONE).any(axis=1), phrases, 0)),
    }
    if len(layout.pitched) < 2:
        nothing = np.full(len(planes), np.nan)
        measures |= dict.fromkeys(("dissonant_leap_share", "parallel_share", "crossing_share"), nothing)
    return measures
