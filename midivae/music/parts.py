"""Which part of a roll a note belongs to.

The parts and the rule that assigns notes to them are params (`config.ingest.Parts`): by the name of the note's track,
by its General MIDI program, or all notes but drums in one part.

Offers: `assign_parts`, and `DRUMS`, the name of the one part that has no pitch.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from midivae.config.ingest import Parts
from midivae.music.notes import Notes

DRUMS = "drums"

# the five families of the Lakh Pianoroll Dataset: piano 0-7, guitar 24-31, bass 32-39, all others strings
# (Dong et al. 2018, "MuseGAN"); synthesiser effects, percussive sounds and sound effects belong to no part
_FAMILY = np.full(128, 4, np.int64)
_FAMILY[0:8], _FAMILY[24:32], _FAMILY[32:40] = 1, 2, 3
_FAMILY[96:104] = _FAMILY[112:128] = -1


def assign_parts(notes: Notes, parts: Parts) -> Int64[np.ndarray, " N"]:
    """For each note the index of its part in `parts.names`; -1: it belongs to none."""
    if parts.rule == "merged":
        return np.where(notes.is_drum, -1, 0)
    if parts.rule == "program":
        return np.where(notes.is_drum, 0, _FAMILY[notes.program])
    patterns, rest = tuple(parts.tracks.values()), parts.names.index(parts.rest) if parts.rest is not None else -1
    of_track = np.array([_part_of_name(name[:256], patterns, rest) for name in notes.track_names], np.int64)
    return np.asarray(of_track[notes.track])


@lru_cache(maxsize=4096)  # files of a corpus share their tracks' names
def _part_of_name(name: str, patterns: tuple[tuple[str, ...], ...], rest: int) -> int:
    """The first part one of whose patterns fits the track's name, else the rest."""
    folded = " ".join(name.split()).casefold()
    for index, wanted in enumerate(patterns):
        if any(fnmatchcase(folded, pattern.casefold()) for pattern in wanted):
            return index
    return rest
