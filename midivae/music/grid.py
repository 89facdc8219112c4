"""Ticks <-> steps, and bar lines: the rule that says where a note starts, and the rule that says where a bar starts.

Conventions: a *tick* is the MIDI file's own unit, `ticks_per_quarter` of them to a quarter note; a *step* is a cell of
the grid, `steps_per_beat` of them to a quarter note (4 by default: sixteenths). One beat is one quarter note, whatever
the time signature. Results are exact integers, so that no platform rounds differently.

Offers: `to_steps`, `to_ticks`, `quantise` (onsets and durations together), `bar_starts` (in steps) and
`bar_ticks`; `time_signature`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from midivae.music.notes import TimeSignature

Ints = Int[np.ndarray, "..."]


def to_steps(ticks: Ints, ticks_per_quarter: int, steps_per_beat: int) -> Ints:
    """The step nearest to each tick, halves up: floor(tick * steps_per_beat / ticks_per_quarter + 1/2)."""
    doubled = 2 * steps_per_beat * np.asarray(ticks, np.int64) + ticks_per_quarter
    return doubled // (2 * ticks_per_quarter)


def to_ticks(steps: Ints, ticks_per_quarter: int, steps_per_beat: int) -> Ints:
    """The tick at which each step starts; exact when `ticks_per_quarter` is a multiple of `steps_per_beat`."""
    return to_steps(steps, steps_per_beat, ticks_per_quarter)


def quantise(onset_tick: Ints, duration_tick: Ints, ticks_per_quarter: int, steps_per_beat: int) -> tuple[Ints, Ints]:
    """Onset and offset steps of notes; a note lasts at least one step.

    Onset and offset are rounded each to its own nearest step, so that abutting notes stay abutting.

    Returns:
        `(onset_step, offset_step)`, with `offset_step > onset_step`; the note sounds in `[onset_step, offset_step)`.
    """
    onset_step = to_steps(onset_tick, ticks_per_quarter, steps_per_beat)
    offset_tick = np.asarray(onset_tick, np.int64) + duration_tick
    offset_step = to_steps(offset_tick, ticks_per_quarter, steps_per_beat)
    return onset_step, np.maximum(offset_step, onset_step + 1, out=offset_step)


def bar_starts(
    time_signatures: Sequence[tuple[int, int, int]], ticks_per_quarter: int, steps_per_beat: int, n_steps: int
) -> Int[np.ndarray, " R"]:
    """The steps in `[0, n_steps)` at which bars start; a bar that starts between two steps counts at the nearest.

    Args:
        time_signatures: as `bar_ticks` takes them.
    """
    end_tick = -(-n_steps * ticks_per_quarter // steps_per_beat)  # the first tick at or after the end of the last step
    steps = to_steps(bar_ticks(time_signatures, ticks_per_quarter, end_tick), ticks_per_quarter, steps_per_beat)
    distinct = np.append(True, steps[1:] > steps[:-1])  # several bars shorter than a step may start on one
    return steps[distinct & (steps < n_steps)]


def bar_ticks(
    time_signatures: Sequence[tuple[int, int, int]], ticks_per_quarter: int, end_tick: int
) -> Int[np.ndarray, " R"]:
    """The ticks at which bars start, from 0 to the first that is not before `end_tick`.

    A change of signature starts a bar. A file without any is in 4/4. A numerator of 1 that lasts longer than one bar
    does not describe the bars (POP909 writes 1/4 for pop songs) and is read as 4/4.

    Args:
        time_signatures: (tick, numerator, denominator), in order of the ticks.
    """
    rows = list(time_signatures)
    if not rows or rows[0][0] > 0:
        rows.insert(0, (0, 4, 4))
    whole = 4 * ticks_per_quarter  # ticks of a whole note
    ends = [*(tick for tick, _, _ in rows[1:]), max(end_tick, rows[-1][0])]
    bars = []
    for (tick, numerator, denominator), end in zip(rows, ends, strict=True):
        if numerator == 1 and (end - tick) * denominator > whole:
            numerator, denominator = 4, 4
        n_bars = -((tick - end) * denominator // (whole * numerator))
        bars.append(tick + np.arange(n_bars + 1) * (whole * numerator) // denominator)
    ticks = np.concatenate([*(of_signature[:-1] for of_signature in bars[:-1]), bars[-1]])
    return np.asarray(ticks[: np.searchsorted(ticks, end_tick) + 1])


def time_signature(steps_per_bar: int, steps_per_beat: int) -> TimeSignature:
    """The time signature of bars of so many steps: in quarters where that is a whole number of them, else in eighths.

    Bars that hold no whole number of eighths are in sixty-fourths, rounded.
    """
    for denominator in (4, 8):
        if steps_per_bar * denominator % (4 * steps_per_beat) == 0:
            return TimeSignature(0, steps_per_bar * denominator // (4 * steps_per_beat), denominator)
    return TimeSignature(0, max(1, round(steps_per_bar * 16 / steps_per_beat)), 64)
