"""The notes of piano rolls: where they sound and start, how often each pitch class, transposition.

Conventions, here and in every measure:
    * Rolls are bool [B, T, N, K, P] as in `roll`. Functions work on all B at once, in blocks that fit into the cache.
    * A note starts at every onset and where a frame follows no frame. It lasts until the next start or the first step
      without a frame, as in `roll.cell_runs`. A note that is held into a window from before it counts as a note of the
      window.
    * Drums have no pitch: functions with `layout` leave them out.

Shapes:
    B  rolls    T  steps    N  parts    M  parts with pitches    K  planes    P  pitches

Offers: `blocks`, `in_blocks`; `without_drums`, `any_along`; `per_pitch`, `pitch_class_of_row`, `chroma`;
`transposed`; `ratio`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from midivae.music.roll import Layout, starts

_BLOCK_CELLS = 1 << 21  # cells of rolls worked on at once: a few MB, so that they stay in the cache

Planes = Bool[np.ndarray, "B T N 2 P"]


# --- notes of a roll --------------------------------------------------------------------------------------------------
def blocks(planes: Planes) -> Iterator[slice]:
    """Slices of the batch, each of about `_BLOCK_CELLS` cells."""
    size = max(1, _BLOCK_CELLS // max(1, planes[:1].size))
    return (slice(start, start + size) for start in range(0, len(planes), size))


def in_blocks(
    planes: Planes, measure: Callable[[Planes], dict[str, np.ndarray]], dtype: type[np.floating[Any]]
) -> dict[str, np.ndarray]:
    """Columns of measures of all rolls, computed a block at a time."""
    parts = [measure(planes[block]) for block in blocks(planes)] or [measure(planes)]
    return {name: np.concatenate([part[name] for part in parts]).astype(dtype) for name in parts[0]}


def any_along(cells: np.ndarray, *axes: int) -> np.ndarray:
    """Whether any cell along the axes is set."""
    found: np.ndarray = np.logical_or.reduce(cells, axis=axes)
    return found


def without_drums(cells: np.ndarray, layout: Layout) -> np.ndarray:
    """The cells [B, T, N, ...] of the parts that have pitches."""
    pitched = layout.pitched
    return cells if len(pitched) == len(layout.parts) else cells[:, :, pitched]


def per_pitch(start: Bool[np.ndarray, "B T N P"]) -> Int64[np.ndarray, "B P"]:
    """How many notes of each pitch start."""
    counts: np.ndarray = np.count_nonzero(start, axis=(1, 2)).astype(np.int64)
    return counts


def pitch_class_of_row(layout: Layout) -> Int64[np.ndarray, "P 12"]:
    """1 where a row of the roll has the pitch class."""
    pitch = layout.pitch_low + np.arange(layout.pitches)
    belongs: np.ndarray = pitch[:, None] % 12 == np.arange(12)
    return belongs.astype(np.int64)


def chroma(planes: Planes, layout: Layout) -> Int64[np.ndarray, "B 12"]:
    """How many notes of each pitch class, C first, start in each roll; drums left out."""
    per_roll = [np.zeros((0, 12), np.int64)]
    for block in blocks(planes):
        start = starts(planes[block])
        per_roll.append(per_pitch(without_drums(start, layout)) @ pitch_class_of_row(layout))
    return np.concatenate(per_roll)


def ratio(above: np.ndarray, below: np.ndarray) -> Float[np.ndarray, " B"]:
    """The quotient `above / below` in double precision, NaN where below is 0."""
    quotient = np.full(len(below), np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


def transposed(planes: Planes, layout: Layout, shift: Int[np.ndarray, " B"]) -> Planes:
    """Rolls moved by semitones, each by its own number; drums stay.

    A note that would leave the pitches of the roll is moved back by octaves, so that none is lost; it may coincide with
    another note.
    """
    moved = planes.copy()
    parts = layout.pitched
    row = np.arange(layout.pitches)
    for semitones in np.unique(shift).tolist():
        rolls = np.flatnonzero(shift == semitones)
        target = row + semitones
        below, above = -(np.minimum(target, 0) // 12), np.maximum(target - layout.pitches + 12, 0) // 12  # octaves
        target = np.clip(target + 12 * (below - above), 0, layout.pitches - 1)
        for part in parts:
            out = np.zeros_like(planes[rolls, :, part])
            for source, to in zip(row.tolist(), target.tolist(), strict=True):
                out[..., to] |= planes[rolls, :, part, :, source]
            moved[rolls, :, part] = out
    return moved
