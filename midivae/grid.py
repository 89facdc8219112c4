"""Ticks <-> steps: the rounding rule, once.

Conventions: a *tick* is the MIDI file's own unit, `ticks_per_quarter` of them to a quarter note; a *step* is a cell of
the grid, `steps_per_beat` of them to a quarter note (4 by default: sixteenths). One beat is one quarter note, whatever
the time signature. Everything is integer arithmetic, so that no platform rounds differently.

Offers: `to_steps`, `to_ticks`, `quantise` (onsets and durations together) and `bar_starts`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Int

Ints = Int[np.ndarray, "..."]


def to_steps(ticks: Ints, ticks_per_quarter: int | Ints, steps_per_beat: int) -> Ints:
    """The step nearest to each tick, halves up: floor(tick * steps_per_beat / ticks_per_quarter + 1/2)."""
    wide = np.asarray(ticks, dtype=np.int64)
    return (2 * wide * steps_per_beat + ticks_per_quarter) // (2 * np.asarray(ticks_per_quarter, dtype=np.int64))


def to_ticks(steps: Ints, ticks_per_quarter: int, steps_per_beat: int) -> Ints:
    """The tick at which each step starts; exact when `ticks_per_quarter` is a multiple of `steps_per_beat`."""
    return to_steps(steps, steps_per_beat, ticks_per_quarter)


def quantise(
    onset_tick: Ints, duration_tick: Ints, ticks_per_quarter: int | Ints, steps_per_beat: int
) -> tuple[Ints, Ints]:
    """Onset and offset steps of notes; a note lasts at least one step.

    Onset and offset are rounded each to its own nearest step, so that abutting notes stay abutting.

    Returns:
        `(onset_step, offset_step)`, with `offset_step > onset_step`; the note sounds in `[onset_step, offset_step)`.
    """
    onset_step = to_steps(onset_tick, ticks_per_quarter, steps_per_beat)
    offset_tick = np.asarray(onset_tick, np.int64) + duration_tick
    offset_step = to_steps(offset_tick, ticks_per_quarter, steps_per_beat)
    return onset_step, np.maximum(offset_step, onset_step + 1)


def bar_starts(
    time_signatures: Int[np.ndarray, "S 3"], ticks_per_quarter: int, steps_per_beat: int, n_steps: int
) -> Int[np.ndarray, " R"]:
    """The steps in `[0, n_steps)` at which bars start.

    Each row of `time_signatures` is `(tick, numerator, denominator)`. A change of signature starts a bar; a file
    without any is in 4/4. A numerator of 1 that lasts longer than one bar says nothing about bars (POP909 writes 1/4
    for pop songs): it is read as 4/4. A bar whose length falls between steps starts at the nearest step.
    """
    rows = time_signatures.tolist()
    if not rows or rows[0][0] > 0:
        rows.insert(0, [0, 4, 4])
    _, numerator, denominator = rows[0]
    if numerator == 1 and n_steps * denominator > 4 * steps_per_beat:
        numerator, denominator = 4, 4
    steps_per_bar, rest = divmod(4 * steps_per_beat * numerator, denominator)
    if len(rows) == 1 and rest == 0:  # nearly all files
        return np.arange(0, n_steps, steps_per_bar)
    end_tick = -(-n_steps * ticks_per_quarter // steps_per_beat)
    bars = [_bars(row, until, ticks_per_quarter) for row, until in pairwise([*rows, [end_tick]])]
    steps = to_steps(np.concatenate(bars), ticks_per_quarter, steps_per_beat)
    distinct = np.diff(steps, prepend=-1) > 0  # bars shorter than a step fall together
    return steps[distinct & (steps < n_steps)]


def _bars(signature: list[int], until: list[int], ticks_per_quarter: int) -> Ints:
    """The ticks at which bars start, from one signature to the next event."""
    tick, numerator, denominator = signature
    span = until[0] - tick
    if numerator == 1 and span * denominator > 4 * ticks_per_quarter:
        numerator, denominator = 4, 4
    n_bars = max(0, -(-span * denominator // (4 * ticks_per_quarter * numerator)))
    return tick + np.arange(n_bars) * (4 * ticks_per_quarter * numerator) // denominator
