"""Catalog -> rolls: the planes of samples, from the MIDI bytes in their rows.

Tracks of these files are named by part, and their ticks are whole steps: the planes are those that were written
(`roll.to_notes` and `midi.write`, backwards).

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
from midivae.music import grid, midi, roll
from midivae.music.notes import Notes
from midivae.music.roll import Layout

_LIMITS = IngestLimits()


@dataclass(frozen=True)
class Played:
    """The rolls of some samples.

    Attributes:
        packed: as long as the longest; silence behind the end of the others, and where a file cannot be read.
        reasons: by sample, why its file is not valid; those that are valid are not in it.
    """

    packed: UInt8[np.ndarray, "B T X"]
    layout: Layout
    reasons: dict[int, str]

    def planes(self, index: Int[np.ndarray, " M"] | slice = slice(None)) -> Bool[np.ndarray, "M T N K P"]:
        """The planes of some of them."""
        return roll.unpack(self.packed[index], self.layout)


def play(
    files: Sequence[bytes], notes: Int[np.ndarray, " B"], n_steps: Int[np.ndarray, " B"], layout: Layout
) -> Played:
    """Reads the files of samples.

    A file is valid if it can be read and its parts hold as many notes as its row in the catalog says.

    Args:
        files: MIDI files; the tracks are named by part.
        notes: how many notes each should have.
        n_steps: length of each.
        layout: of the rolls.
    """
    reasons: dict[int, str] = {}
    packed = np.zeros((len(files), int(n_steps.max(initial=0)), layout.bytes_per_step), np.uint8)
    for index, data in enumerate(files):
        try:
            in_parts, rows = _roll(midi.read(data, _LIMITS), int(n_steps[index]), layout)
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
    """How many notes are in tracks that are named like a part, and their roll, cut after `n_steps`."""
    of_track = [layout.parts.index(name) if name in layout.parts else -1 for name in notes.track_names]
    part = np.array(of_track)[notes.track]
    onset, offset = grid.quantise(notes.onset_tick, notes.duration_tick, notes.ticks_per_quarter, layout.steps_per_beat)
    inside = np.where(onset < n_steps, part, -1)
    columns = roll.rasterise(notes.pitch, inside, onset, np.minimum(offset, n_steps), n_steps, layout).columns
    return int(np.count_nonzero(part >= 0)), columns.T
