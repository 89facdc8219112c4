"""Made-up music for the tests of duplicates: notes of many pieces end to end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from midivae.ingest import sketches
from midivae.ingest.sketches import BINS, HASHES, equal_values
from midivae.measures.hashes import mix
from midivae.music.notes import Notes

SCALE = np.array([0, 2, 4, 5, 7, 9, 11])


@dataclass(frozen=True)
class Music:
    """Notes of many pieces end to end, as ingest has them."""

    piece: np.ndarray
    track: np.ndarray
    pitch: np.ndarray
    onset: np.ndarray
    drum: np.ndarray
    n_pieces: int

    def where(self, mask: np.ndarray) -> Music:
        return Music(*(column[mask] for column in self.columns()), self.n_pieces)

    def columns(self) -> tuple[np.ndarray, ...]:
        return self.piece, self.track, self.pitch, self.onset, self.drum

    def described(self) -> list[tuple[int, np.ndarray]]:
        """Music hash and signature of each piece."""
        return [self._describe(self.where(self.piece == index)) for index in range(self.n_pieces)]

    def hashes(self) -> np.ndarray:
        return np.array([music_hash for music_hash, _ in self.described()], np.uint64)

    def signatures(self) -> np.ndarray:
        return np.array([signature for _, signature in self.described()], np.uint16).reshape(-1, HASHES)

    @staticmethod
    def _describe(piece: Music) -> tuple[int, np.ndarray]:
        zero = np.zeros(len(piece.pitch), np.int32)
        pitch, track, drum = piece.pitch.astype(np.uint8), piece.track.astype(np.int32), piece.drum.astype(bool)
        names = tuple(map(str, range(track.max(initial=-1) + 1)))
        notes = Notes(pitch, pitch, zero, zero, track, zero.astype(np.uint8), drum, names, ticks_per_quarter=480)
        return sketches.describe(notes, piece.onset)


Note = tuple[int, int, int]  # track, onset_step, pitch


def music(*pieces: list[Note], drums: tuple[int, ...] = ()) -> Music:
    """The notes of pieces given as lists; the tracks in `drums` are percussion."""
    notes = np.array([(i, *note) for i, notes in enumerate(pieces) for note in notes], np.int64).reshape(-1, 4)
    piece, track, onset, pitch = notes.T.copy()
    return Music(piece, track, pitch, onset, np.isin(track, drums), len(pieces))


def joined(*parts: Music) -> Music:
    """The pieces of all parts, one part after the other."""
    first = np.cumsum([0, *(part.n_pieces for part in parts)])
    shifted = [replace(part, piece=part.piece + start) for part, start in zip(parts, first[:-1], strict=True)]
    columns = (np.concatenate(column) for column in zip(*(part.columns() for part in shifted), strict=True))
    return Music(*columns, int(first[-1]))


def tunes(count: int, seed: int = 0, notes: int = 120) -> Music:
    """Made-up tunes over chords: a walk in C major, its end repeated from its start as songs do."""
    rng = np.random.default_rng(seed)
    pieces = []
    for _ in range(count):
        walk = 48 - abs(np.cumsum(rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3], notes)) % 28 - 14)  # turns at its bounds
        length = rng.choice([1, 2, 2, 2, 4, 6], notes)
        walk[notes // 2 : notes * 3 // 4], length[notes // 2 : notes * 3 // 4] = (
            walk[: notes // 4],
            length[: notes // 4],
        )
        onset = np.cumsum(length) - length
        melody = [(0, int(o), int(12 * (w // 7) + SCALE[w % 7])) for o, w in zip(onset, walk, strict=True)]
        root = rng.integers(0, 7, int(onset[-1]) // 8 + 1)
        chords = [(1, 8 * bar, int(36 + SCALE[(r + k) % 7])) for bar, r in enumerate(root) for k in (0, 2, 4)]
        pieces.append(melody + chords)
    return music(*pieces)


def mixed(states: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 from each state."""
    return mix(states + np.uint64(0x9E3779B97F4A7C15))


def altered(pieces: Music, share: float, rng: np.random.Generator) -> Music:
    """Another pitch for some of the notes."""
    change = rng.choice([-4, -3, -2, -1, 1, 2, 3, 4], len(pieces.pitch))
    return replace(pieces, pitch=pieces.pitch + change * (rng.random(len(change)) < share))


def without(pieces: Music, share: float, rng: np.random.Generator) -> Music:
    return pieces.where(rng.random(len(pieces.pitch)) >= share)


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How alike the pieces of two lists of signatures are, pair by pair."""
    return np.array([equal_values(a, b) / BINS for a, b in zip(one, other, strict=True)])
