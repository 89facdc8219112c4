"""Ticks <-> steps: the rounding rule, once.

Conventions: a *tick* is the MIDI file's own unit, `ticks_per_quarter` of them to a quarter note; a *step* is a cell of
the grid, `steps_per_beat` of them to a quarter note (4 by default: sixteenths). One beat is one quarter note, whatever
the time signature. Everything is integer arithmetic, so that no platform rounds differently.

Offers: `to_steps`, `to_ticks`, `quantise` (onsets and durations together), `bar_starts`, and `batch_bar_starts` for the
files of a batch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int

Ints = Int[np.ndarray, "..."]


def to_steps(ticks: Ints, ticks_per_quarter: int | Ints, steps_per_beat: int) -> Ints:
    """The step nearest to each tick, halves up: floor(tick * steps_per_beat / ticks_per_quarter + 1/2).

    One division in double precision is exact here and ten times as fast as one of integers: the quotient of two
    integers lies at least 1 / divisor below the next whole number, which is more than rounding adds as long as the
    dividend is below 2**52. Ticks below 2**31 and 96 steps a beat keep it below 2**39.
    """
    steps = np.asarray(ticks) * (2.0 * steps_per_beat)
    steps += ticks_per_quarter
    steps /= 2.0 * np.asarray(ticks_per_quarter)
    return np.asarray(np.floor(steps, out=steps).astype(np.int64))


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
    return onset_step, np.maximum(offset_step, onset_step + 1, out=offset_step)


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
    end_tick = _end_tick(n_steps, ticks_per_quarter, steps_per_beat)
    bars = [_bars(row, until, ticks_per_quarter) for row, until in pairwise([*rows, [end_tick]])]
    steps = to_steps(np.concatenate(bars), ticks_per_quarter, steps_per_beat)
    distinct = np.diff(steps, prepend=-1) > 0  # bars shorter than a step fall together
    return steps[distinct & (steps < n_steps)]


def batch_bar_starts(
    time_signatures: Int[np.ndarray, "S 4"],
    ticks_per_quarter: Int[np.ndarray, " Q"],
    steps_per_beat: int,
    n_steps: Int[np.ndarray, " Q"],
) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " Q"]]:
    """`bar_starts` of many files: end to end, and how many each has.

    Rows of `time_signatures` open with the index of their file, and ascend. Files with one signature from the start
    on, nearly all, are done at once where their bars are whole steps.
    """
    files = np.arange(len(n_steps))
    own = np.searchsorted(time_signatures[:, 0], np.append(files, len(files)))  # rows of file i: own[i] to own[i + 1]
    rows = np.concatenate([time_signatures[:, 1:], [[0, 4, 4]]])[np.where(np.diff(own) > 0, own[:-1], -1)]
    tick, numerator, denominator = rows.T
    says_nothing = _says_nothing(
        numerator, denominator, _end_tick(n_steps, ticks_per_quarter, steps_per_beat), ticks_per_quarter
    )
    numerator, denominator = np.where(says_nothing, 4, numerator), np.where(says_nothing, 4, denominator)
    per_bar, rest = np.divmod(4 * steps_per_beat * numerator, denominator)
    plain = (np.diff(own) <= 1) & (tick == 0) & (rest == 0)
    counts = np.where(plain, -(-n_steps // np.maximum(per_bar, 1)), 0)
    starts = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts *= np.repeat(per_bar, counts)
    if plain.all():
        return starts, counts
    each = np.split(starts, np.cumsum(counts)[:-1])
    for i in np.flatnonzero(~plain).tolist():
        signatures = time_signatures[own[i] : own[i + 1], 1:]
        each[i] = bar_starts(signatures, int(ticks_per_quarter[i]), steps_per_beat, int(n_steps[i]))
    return np.concatenate(each), np.array([len(one) for one in each])


def _end_tick(n_steps: Any, ticks_per_quarter: Any, steps_per_beat: int) -> Any:
    """The first tick at or behind the end of the last step; integers or arrays of them."""
    return -(-n_steps * ticks_per_quarter // steps_per_beat)


def _says_nothing(numerator: Any, denominator: Any, span: Any, ticks_per_quarter: Any) -> Any:
    """Whether a numerator is 1 and yet holds for more ticks than one bar; integers or arrays of them."""
    return (numerator == 1) & (span * denominator > 4 * ticks_per_quarter)


def _bars(signature: list[int], until: list[int], ticks_per_quarter: int) -> Ints:
    """The ticks at which bars start, from one signature to the next event."""
    tick, numerator, denominator = signature
    span = until[0] - tick
    if _says_nothing(numerator, denominator, span, ticks_per_quarter):
        numerator, denominator = 4, 4
    n_bars = max(0, -(-span * denominator // (4 * ticks_per_quarter * numerator)))
    return tick + np.arange(n_bars) * (4 * ticks_per_quarter * numerator) // denominator
