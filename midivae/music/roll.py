"""Notes <-> Roll: which notes sound on which steps.

A roll has two boolean planes per part: *onset* (a note starts here) and *frame* (a note sounds here), so that repeated
notes stay apart. Shapes, here and wherever rolls go:

    T  steps        N  parts        P  pitches, `pitch_low` first
    K  planes: 0 onset, 1 frame     X  bytes of one packed step: ceil(N * 2 * P / 8)

In memory at scale a roll is packed: uint8 [T, X], the bits of a step in the order [N, K, P], most significant first,
padded with zeros to whole bytes (numpy.packbits of the step). In a shard the same bytes lie column by column, [X, T],
compressed with zstd: a column is eight cells through time, and runs along time are what music has.

Rules, when notes become a roll:
    1. Times go to the grid as `grid.quantise` says: nearest step, halves up, at least one step long.
    2. A note below `pitch_low` or above the last pitch is left out (and counted), not folded into range.
    3. Two notes of one part and pitch that start on one step become one, as long as the longer of both.
    4. Where notes of one part and pitch overlap, the earlier ends where the later starts, and the later lasts until no
       note of that pitch sounds any more.

Offers: `Layout`, `Roll`, `pack` / `unpack`, `rasterise` (steps of notes to a packed roll), `from_notes` / `to_notes`,
`batch_to_notes`, and `cell_runs` (the notes of rolls, as runs of cells).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from midivae.errors import SchemaError
from midivae.music import grid
from midivae.music.notes import Notes, Tempo, TimeSignature
from midivae.music.parts import DRUMS

ONSET, FRAME = 0, 1  # indices of the planes
TICKS_PER_STEP = 120  # of MIDI files that we write: 480 ticks a quarter at the default grid
VELOCITY = 90  # of notes that come from a roll, which has none


@dataclass(frozen=True)
class Layout:
    """How the bits of a roll are to be read."""

    parts: tuple[str, ...]
    pitch_low: int
    pitches: int
    steps_per_beat: int

    @property
    def pitched(self) -> list[int]:
        """Indices of the parts that are not drums."""
        return [index for index, name in enumerate(self.parts) if name != DRUMS]

    @property
    def bits_per_step(self) -> int:
        """N * K * P."""
        return len(self.parts) * 2 * self.pitches

    @property
    def bytes_per_step(self) -> int:
        """X: bytes of one packed step."""
        return -(-self.bits_per_step // 8)

    def to_json(self) -> str:
        """The layout as the text kept in a shard's metadata."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """The layout in a shard's metadata.

        Raises:
            SchemaError: the text is not a layout.
        """
        try:
            values = json.loads(text)
            return cls(**{**values, "parts": tuple(values["parts"])})
        except (ValueError, TypeError, KeyError) as error:
            raise SchemaError(f"layout {text!r:.80} is not readable ({error}); rerun stage `ingest`") from error


@dataclass(frozen=True)
class Roll:
    """The piano roll of one piece or sample.

    Attributes:
        planes: bool [T, N, K, P]; a cell of the onset plane is set only where the frame plane is.
        layout: names of the parts, pitches and grid.
    """

    planes: Bool[np.ndarray, "T N K P"]
    layout: Layout

    @property
    def onset(self) -> Bool[np.ndarray, "T N P"]:
        """Where notes start."""
        return self.planes[:, :, ONSET]

    @property
    def frame(self) -> Bool[np.ndarray, "T N P"]:
        """Where notes sound."""
        return self.planes[:, :, FRAME]


def pack(planes: Bool[np.ndarray, "*B T N K P"]) -> UInt8[np.ndarray, "*B T X"]:
    """Planes as packed bits, steps padded to whole bytes."""
    return np.packbits(planes.reshape(*planes.shape[:-3], math.prod(planes.shape[-3:])), axis=-1)


def unpack(packed: UInt8[np.ndarray, "*B T X"], layout: Layout) -> Bool[np.ndarray, "*B T N K P"]:
    """The planes in packed bits: the inverse of `pack`."""
    bits = np.unpackbits(packed, axis=-1, count=layout.bits_per_step)
    return bits.view(bool).reshape(*packed.shape[:-1], len(layout.parts), 2, layout.pitches)


class Raster(NamedTuple):
    """A packed roll, and how many of the notes it was made of it holds.

    Attributes:
        columns: the roll, column by column.
        kept, out_of_range, merged: notes by rules 2 and 3; every note of a part is in one of the three.
    """

    columns: UInt8[np.ndarray, "X T"]
    kept: int
    out_of_range: int
    merged: int


def rasterise(
    pitch: Integer[np.ndarray, " M"],
    part: Int[np.ndarray, " M"],
    onset_step: Int[np.ndarray, " M"],
    offset_step: Int[np.ndarray, " M"],
    n_steps: int,
    layout: Layout,
) -> Raster:
    """The packed roll of one piece.

    Args:
        pitch: MIDI pitch.
        part: index into `layout.parts`; -1 leaves the note out.
        onset_step, offset_step: when it sounds; `0 <= onset_step < offset_step <= n_steps` for notes of a part.
        n_steps: length of the roll.
        layout: where each cell goes.

    Raises:
        ValueError: a note does not lie in the roll.
    """
    from midivae.music import raster  # here, as numba takes long to import, and most commands make no roll

    columns = np.zeros((layout.bytes_per_step, n_steps), np.uint8)
    row = pitch.astype(np.int64) - layout.pitch_low
    counts = raster.fill(columns, row, part, onset_step, offset_step, len(layout.parts), layout.pitches)
    return Raster(columns, *counts)


def sounding(planes: Bool[np.ndarray, "*B T N K P"]) -> Bool[np.ndarray, "*B T N P"]:
    """Where notes sound; an onset without a frame sounds for its step."""
    cells: np.ndarray = planes[..., 0, :] | planes[..., -1, :]  # the frame plane is the last, or the only one
    return cells


def starts(planes: Bool[np.ndarray, "*B T N K P"]) -> Bool[np.ndarray, "*B T N P"]:
    """Where notes start: at onsets, and where sound follows silence; what sounds on the first step starts there."""
    sounds = sounding(planes)
    start = sounds.copy()
    start[..., 1:, :, :] &= ~sounds[..., :-1, :, :]
    if planes.shape[-2] == 2:
        start |= planes[..., ONSET, :]
    return start


def runs(first: Int[np.ndarray, " M"], length: Int[np.ndarray, " M"]) -> Int[np.ndarray, " _"]:
    """first[i], first[i] + 1 ... first[i] + length[i] - 1 for every i, end to end; lengths are 0 or more."""
    if not len(length) or length.min() == 0:
        first, length = first[length > 0], length[length > 0]
    ends = np.cumsum(length)
    runs = np.ones(int(ends[-1]) if len(ends) else 0, first.dtype)
    runs[:1] = first[:1]
    runs[ends[:-1]] = first[1:] - first[:-1] - length[:-1] + 1  # from the end of one run to the start of the next
    return np.cumsum(runs, dtype=first.dtype, out=runs)


def from_notes(notes: Notes, part: Int[np.ndarray, " N"], layout: Layout, n_steps: int | None = None) -> Roll:
    """The roll of one piece.

    Args:
        notes: the piece.
        part: for each note the index of its part in `layout.parts`; -1 leaves it out.
        n_steps: length of the roll; None: up to the last offset of a note that has a part.
    """
    onset, offset = grid.quantise(notes.onset_tick, notes.duration_tick, notes.ticks_per_quarter, layout.steps_per_beat)
    length = int(offset[part >= 0].max(initial=0)) if n_steps is None else n_steps
    columns = rasterise(notes.pitch, part, onset, offset, length, layout).columns
    return Roll(unpack(np.ascontiguousarray(columns.T), layout), layout)


Index = Int[np.ndarray, " M"]


def cell_runs(planes: Bool[np.ndarray, "B T N K P"]) -> tuple[Index, Index, Index, Index, Index]:
    """The notes in a batch of rolls, as runs of cells.

    A note starts where `starts` says; it lasts until the next start or the first silent step.

    Returns:
        `(roll, part, row, onset_step, offset_step)`, sorted in this order; `row` counts pitches from `pitch_low`.
    """
    start, sounds = (np.ascontiguousarray(cells.transpose(0, 2, 3, 1)) for cells in (starts(planes), sounding(planes)))
    stop = np.ones_like(start)  # [B, N, P, T]: a note that sounds on this step ends with it
    stop[..., :-1] = start[..., 1:] | ~sounds[..., 1:]
    begin = np.flatnonzero(start)
    end = np.flatnonzero(stop & sounds)
    steps = planes.shape[1]
    roll, part, row, onset_step = np.unravel_index(begin, start.shape)
    return roll, part, row, onset_step, end % steps + 1


def to_notes(
    roll: Roll,
    tempo_qpm: float = 120.0,
    programs: tuple[int, ...] | None = None,
    time_signatures: tuple[TimeSignature, ...] = (TimeSignature(0, 4, 4),),
) -> Notes:
    """The notes of a roll, one track per part: the inverse of `from_notes` for notes on the grid.

    Args:
        tempo_qpm: the rolls have no tempo of their own.
        programs: General MIDI program per part; None: 0, a piano, for all. The part named "drums" plays percussion.
    """
    return batch_to_notes(roll.planes[None], roll.layout, tempo_qpm, programs, time_signatures)[0]


def batch_to_notes(
    planes: Bool[np.ndarray, "B T N 2 P"],
    layout: Layout,
    tempo_qpm: float = 120.0,
    programs: tuple[int, ...] | None = None,
    time_signatures: tuple[TimeSignature, ...] = (TimeSignature(0, 4, 4),),
) -> list[Notes]:
    """`to_notes` of each roll of a batch."""
    roll, part, row, onset, offset = cell_runs(planes)
    program = np.asarray(programs if programs is not None else [0] * len(layout.parts), np.uint8)
    is_drum = np.array([name == DRUMS for name in layout.parts])
    columns = {
        "pitch": (row + layout.pitch_low).astype(np.uint8),
        "velocity": np.full(len(row), VELOCITY, np.uint8),
        "onset_tick": (onset * TICKS_PER_STEP).astype(np.int32),
        "duration_tick": ((offset - onset) * TICKS_PER_STEP).astype(np.int32),
        "track": part.astype(np.int32),
        "program": program[part],
        "is_drum": is_drum[part],
    }
    bounds = np.searchsorted(roll, np.arange(len(planes) + 1)).tolist()
    return [
        Notes(
            **{name: column[first:last] for name, column in columns.items()},
            track_names=layout.parts,
            ticks_per_quarter=TICKS_PER_STEP * layout.steps_per_beat,
            tempos=(Tempo.from_qpm(tempo_qpm),),
            time_signatures=time_signatures,
        )
        for first, last in pairwise(bounds)
    ]
