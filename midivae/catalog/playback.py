"""Catalog -> rolls: the planes of samples, from the MIDI bytes in their rows.

The tracks of these files are named after the parts, and every tick is a whole step. So the planes are exactly those
that were written: this is the inverse of `roll.to_notes` and `smf.write`.

Shapes:
    B  samples    T  steps    N  parts    K  planes    P  pitches    X  bytes of a packed step

Offers: `Played` and `play`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from midivae.config.ingest import IngestLimits
from midivae.errors import MidiError
from midivae.music import grid, roll, smf
from midivae.music.notes import Notes
from midivae.music.roll import Layout

_LIMITS = IngestLimits()


@dataclass(frozen=True)
class Played:
    """The rolls of some samples.

    Attributes:
        packed: all as long as the longest, padded with silence; silence if a file cannot be read.
        reasons: for each sample whose file is not valid, why.
    """

    packed: UInt8[np.ndarray, "B T X"]
    layout: Layout
    reasons: dict[int, str]

    def planes(self, index: Int[np.ndarray, " M"] | slice = slice(None)) -> Bool[np.ndarray, "M T N K P"]:
        """The planes of some of the samples."""
        return roll.unpack(self.packed[index], self.layout)


def play(
    files: Sequence[bytes], notes: Int[np.ndarray, " B"], n_steps: Int[np.ndarray, " B"], layout: Layout
) -> Played:
    """Reads the files of samples.

    A file is valid if it can be read and its parts hold as many notes as its row in the catalog says.

    Args:
        files: MIDI files whose tracks are named after the parts.
        notes: how many notes each should have.
        n_steps: the length of each.
        layout: of the rolls.
    """
    reasons: dict[int, str] = {}
    packed = np.zeros((len(files), int(n_steps.max(initial=0)), layout.bytes_per_step), np.uint8)
    for index, data in enumerate(files):
        try:
            in_parts, rows = _roll(smf.read(data, _LIMITS).notes, int(n_steps[index]), layout)
        except MidiError as error:
            if error.code != "no_notes":
                reasons[index] = str(error)
                continue
            in_parts, rows = 0, packed[index, :0]
        if in_parts != notes[index]:
            reasons[index] = f"the file has {in_parts} notes"
        packed[index, : len(rows)] = rows
    return Played(packed, layout, reasons)


def _roll(notes: Notes, n_steps: int, layout: Layout) -> tuple[int, UInt8[np.ndarray, "T X"]]:
    """The number of notes in tracks that are named after a part, and their roll, cut after `n_steps`."""
    of_track = [layout.parts.index(name) if name in layout.parts else -1 for name in notes.track_names]
    part = np.array(of_track)[notes.track]
    onset, offset = grid.quantise(notes.onset_tick, notes.duration_tick, notes.ticks_per_quarter, layout.steps_per_beat)
    inside = np.where(onset < n_steps, part, -1)
    columns = roll.rasterise(notes.pitch, inside, onset, np.minimum(offset, n_steps), n_steps, layout).columns
    return int(np.count_nonzero(part >= 0)), columns.T
