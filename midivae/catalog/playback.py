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
    parsed: dict[int, midi.Parsed] = {}
    for index, data in enumerate(files):
        try:
            parsed[index] = midi.parse(data, _LIMITS)
        except MidiError as error:
            if error.code != "no_notes":
                reasons[index] = str(error)
    refused = midi.join(list(parsed.values()))[1] if parsed else {}
    reasons |= {list(parsed)[place]: str(error) for place, error in refused.items()}
    parsed = {index: file for index, file in parsed.items() if index not in reasons}
    found = {index: _notes_of_parts(file, layout) for index, file in parsed.items()}
    wrong = {i: found.get(i, 0) for i in range(len(files)) if i not in reasons and found.get(i, 0) != notes[i]}
    reasons |= {index: f"the file has {n} notes" for index, n in wrong.items()}
    packed = np.zeros((len(files), int(n_steps.max(initial=0)), layout.bytes_per_step), np.uint8)
    if parsed:
        packed[np.array(list(parsed))] = _rolls(list(parsed.values()), n_steps[np.array(list(parsed))], packed, layout)
    return Played(packed, layout, reasons)


def _notes_of_parts(file: midi.Parsed, layout: Layout) -> int:
    """Notes in tracks that are called like a part."""
    return sum(n for n, name in zip(file.counts, file.names, strict=True) if name in layout.parts)


def _rolls(
    parsed: Sequence[midi.Parsed], n_steps: Int[np.ndarray, " M"], room: UInt8[np.ndarray, "B T X"], layout: Layout
) -> UInt8[np.ndarray, "M T X"]:
    """The rolls of files that can be read, each as long as there is room."""
    batch, _ = midi.join(parsed)
    of_track = np.array([layout.parts.index(name) if name in layout.parts else -1 for name in batch.track_names])
    part = np.repeat(of_track, batch.track_notes)
    piece = np.repeat(np.arange(len(parsed)), batch.notes)
    resolution = batch.ticks_per_quarter[piece]
    onset, offset = grid.quantise(batch.onset_tick, batch.duration_tick, resolution, layout.steps_per_beat)
    mine = np.flatnonzero((part >= 0) & (onset < n_steps[piece]))
    offset = np.minimum(offset, n_steps[piece])
    pitch, lengths = batch.pitch.astype(np.int64), np.full(len(parsed), room.shape[1])
    rolls = roll.rasterise(piece[mine], part[mine], pitch[mine], onset[mine], offset[mine], lengths, layout)
    return np.stack([columns.T for columns in rolls])
