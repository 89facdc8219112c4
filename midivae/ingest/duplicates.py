"""Which pieces are the same music, and which nearly: hashes, sketches and clusters.

Two grades, for files whose bytes differ:

    same    `music_hash`: equal notes on the grid; tempo, names, programs, tracks, transposition, a late start aside
    near    `signatures`: sketches of the melodic lines; some notes changed, a track or a section more or less

A *line* is the highest pitch of each onset, drums left out; a pitch that is struck again at once counts once. A
*shingle* is six successive pitches of a line: their intervals, and whether the times between them get shorter, stay
alike or get longer. Where it starts, in which key and how fast do not matter. A piece has two sets of shingles, those
of the lines of its tracks and those of the one line of all tracks together: a track that is dropped, doubled or added
leaves most of the first as it is, tracks that are merged or split leave all of the second. How alike two pieces are is
the larger of the two Jaccard indices.

Each set is kept as a sketch of `HASHES` / 2 values by one-permutation MinHash (Li, Owen & Zhang 2012): the share of
equal values estimates the Jaccard index. `clusters` finds likely pairs by locality-sensitive hashing, checks each by
that estimate, and follows the links.

Why six pitches, with rhythm: among the 1,034 tunes of the Nottingham database, pairs that are not variants of one tune
and yet share more than 0.15 of their shingles number 3 with these, 18 with five pitches, 69 without rhythm.

Conventions: notes of many pieces end to end, track by track: a `Batch`, and the step of each note's onset. Every track
has notes, and every piece has tracks. No result depends on the order of a track's notes, of a piece's tracks, of the
pieces, or on the machine. The loops over notes and pairs are in `music/kernels.py`.

Offers: `music_hash` and `signatures`, or both at once from `describe`; `likeness` (the estimate) and `clusters`.
"""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, UInt8, UInt16, UInt32, UInt64

from midivae.music import kernels
from midivae.music.kernels import SHINGLE

__all__ = ["EMPTY", "HASHES", "SHINGLE", "Lines", "clusters", "describe", "likeness", "music_hash", "signatures"]

log = logging.getLogger(__name__)

EMPTY = np.uint16(kernels.EMPTY)  # value of a sketch without enough shingles; equals nothing
HASHES = 256  # values of a signature; half of them sketch the tracks, half the texture

_FAMILIES = 2  # sketches in a signature: tracks, texture
# columns of a band, from each column on in turn: a Golomb ruler, so no two bands share two columns; and behind them one
# that orders the rows within a bucket, so that the most alike are neighbours
_BAND = np.array([0, 1, 3, 31])
_KEYS_AT_ONCE = 1 << 17  # 1 MB: bands of few pieces go together, those of many one by one
_ROWS_AT_ONCE = 1 << 11  # signatures that are turned together: what a core's cache holds
_STEP, _STRICTEST = 0.1, 0.9  # by how much the threshold rises for a crowded cluster, and how far


# --- notes ------------------------------------------------------------------------------------------------------------
class Lines(NamedTuple):
    """The notes of many pieces, as far as they count here."""

    track_at: Int64[np.ndarray, " Q1"]  # first track of each piece, and behind them the number of tracks
    note_at: Int64[np.ndarray, " K1"]  # first note of each track, and behind them the number of notes
    is_drum: Bool[np.ndarray, " K"]
    pitch: UInt8[np.ndarray, " M"]
    onset_step: Int64[np.ndarray, " M"]


class _Sorted(NamedTuple):
    """Keys of notes as their lines run (`kernels.keys`)."""

    whole: Int64[np.ndarray, " M"]
    by_track: Int64[np.ndarray, " P"]


def describe(lines: Lines) -> tuple[UInt64[np.ndarray, " Q"], UInt16[np.ndarray, "Q H"]]:
    """The `music_hash` and the `signatures` of pieces, whose notes are sorted once for both."""
    ordered = _sorted(lines)
    return _music(ordered, len(lines.track_at) - 1), _signatures(ordered, lines.track_at, HASHES)


def music_hash(lines: Lines) -> UInt64[np.ndarray, " Q"]:
    """A hash of each piece's notes that tempo, names, programs, transposition and a late start leave as it is.

    The sum over the piece's distinct (onset_step, pitch) pairs, both counted from the piece's least, of a 64-bit mix
    of the pair; drums keep their pitches, which name instruments.
    """
    return _music(_sorted(lines), len(lines.track_at) - 1)


def signatures(lines: Lines, hashes: int = HASHES) -> UInt16[np.ndarray, "Q H"]:
    """A sketch of each piece's lines, track by track, and behind it one of the line of all tracks together.

    Args:
        lines: below 2**30 tracks, and 2**29 pieces.
        hashes: length of a signature, a power of two from 64 to 2048.

    Returns:
        Values of which two alike pieces share many; all `EMPTY` where a piece's lines are too short to tell, or where
        it has only drums.
    """
    return _signatures(_sorted(lines), lines.track_at, hashes)


def _sorted(lines: Lines) -> _Sorted:
    whole, by_track = np.empty((2, len(lines.pitch)), np.int64)
    is_drum = lines.is_drum.view(np.uint8)
    count = kernels.keys(
        len(lines.track_at) - 1, lines.track_at, lines.note_at, is_drum, lines.pitch, lines.onset_step, whole, by_track
    )
    whole.sort()
    if count < 0:  # hardly ever: readers give the notes of a track by onset
        count = -1 - count
        by_track[:count].sort()
    return _Sorted(whole, by_track[:count])


def _music(ordered: _Sorted, n_pieces: int) -> UInt64[np.ndarray, " Q"]:
    hashes = np.zeros(n_pieces, np.uint64)
    kernels.music(len(ordered.whole), ordered.whole, hashes)
    return hashes


def _signatures(ordered: _Sorted, track_at: Int64[np.ndarray, " Q1"], hashes: int) -> UInt16[np.ndarray, "Q H"]:
    n_pieces, bins = len(track_at) - 1, hashes // _FAMILIES
    pieces = np.arange(n_pieces)
    table = np.empty((n_pieces, hashes), np.uint16)
    for column, key, line_bits, piece_of_line in (
        (0, ordered.by_track, 0, np.repeat(pieces, np.diff(track_at))),
        (bins, ordered.whole, 1, pieces),
    ):
        _sketch(*_shingles(key, line_bits, piece_of_line), table, column)
    return table


def _shingles(
    key: Int64[np.ndarray, " N"], line_bits: int, piece_of_line: Int64[np.ndarray, " _"]
) -> tuple[Int64[np.ndarray, " L"], UInt32[np.ndarray, " L"]]:
    """Each shingle of the lines in a key, as often as they repeat it: its piece, and a number for it."""
    piece, number = np.empty(len(key), np.int64), np.empty(len(key), np.uint32)
    found = kernels.shingles(len(key), key, line_bits, piece_of_line, piece, number)
    return piece[:found], number[:found]


def _sketch(
    piece: Int64[np.ndarray, " L"], shingle: UInt32[np.ndarray, " L"], table: UInt16[np.ndarray, "Q H"], column: int
) -> None:
    """Writes a sketch of each piece's shingles into half of the columns of a table, from `column` on."""
    n_pieces, hashes = table.shape
    bins = hashes // _FAMILIES
    least_rest = np.full(n_pieces * bins, 0xFFFFFFFF, np.uint32)
    rest_bits = 32 - (bins.bit_length() - 1)
    kernels.sketch(
        len(piece), piece, shingle, n_pieces, bins, rest_bits, _donors(bins), least_rest, column, hashes, table
    )


@cache
def _donors(bins: int) -> Int64[np.ndarray, "B B"]:
    """Row by row, the bin that each bin looks into next; a column holds every bin once."""
    hashed = np.empty(bins * bins, np.uint32)
    kernels.hashes_of_places(len(hashed), hashed)
    return np.ascontiguousarray(hashed.reshape(bins, bins).argsort(axis=1).T)


def likeness(one: UInt16[np.ndarray, "L H"], other: UInt16[np.ndarray, "L H"]) -> Float[np.ndarray, " L"]:
    """How alike the pieces of two lists of signatures are, pair by pair, from 0 to 1.

    The share of equal values in the sketches of the tracks or in those of the texture, whichever is larger. It
    estimates the Jaccard index J with a standard deviation of sqrt(J (1 - J) / 128) for 256 hashes: 0.035 at 0.2.
    """
    bins, n_pairs = one.shape[1] // _FAMILIES, len(one)
    equal = np.empty(n_pairs, np.int64)
    kernels.likeness(n_pairs, np.concatenate([one, other]), bins, equal)
    return np.asarray(equal / bins)


# --- clusters ---------------------------------------------------------------------------------------------------------
def clusters(
    music: UInt64[np.ndarray, " Q"],
    signatures: UInt16[np.ndarray, "Q H"],
    threshold: float | None,
    max_cluster: int = 512,
) -> Int64[np.ndarray, " Q"]:
    """For each piece the first of the pieces that are, link by link, the same music or nearly.

    Pieces of one music are linked; of those that have one signature too, the first stands for all. Others are linked
    when they fall into one bucket of some band, there stand side by side or one of them first, and their `likeness` is
    at least the threshold. So a bucket of n pieces costs at most 2 n
    comparisons; two alike pieces that a crowd of others keeps apart in one bucket have the other bands to meet in, or
    are linked by way of the crowd. A band is three values of 128 in a sketch, and there are 128 bands: a Jaccard index
    J in one sketch brings two pieces together with a chance of 1 - (1 - J^3)^128, which is 0.64 at 0.2, 0.87 at 0.25,
    0.97 at 0.3, 0.9998 at 0.4, and more where they are alike in both.

    Chains of links can connect pieces that are not alike. Where a cluster gets more than `max_cluster` pieces of
    distinct music, its pieces are linked anew with the threshold raised by 0.1, and so on up to 0.9; so pieces of such
    a crowd that are less alike may part.

    Args:
        threshold: the least `likeness` that links two pieces, 0 to 1; None: only pieces of one music are linked.
        max_cluster: pieces of distinct music in a cluster beyond which it is taken apart.
    """
    _, group = np.unique(music, return_inverse=True)
    label = _first_of_group(group)
    if threshold is not None:
        rows, which = _unlike(label, signatures)
        music_of_row = _first_of_group(np.unique(label[rows], return_inverse=True)[1])
        used = signatures if len(rows) == len(signatures) else signatures[rows]
        label = rows[_linked(music_of_row, used, threshold, max_cluster)[which]]
    return label


def _unlike(
    music: Int[np.ndarray, " Q"], signatures: UInt16[np.ndarray, "Q H"]
) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " Q"]]:
    """The first row of each music and signature, in order, and for each row which of these stands for it.

    Rows of one music and one signature have the same links: of a crowd of copies one is looked at.
    """
    words = np.ascontiguousarray(signatures).view(np.uint64)
    hashed = np.empty(len(music), np.uint64)
    kernels.hashes_of_rows(len(music), music.astype(np.int64), words.shape[1], words, hashed)
    _, first, which = np.unique(hashed, return_index=True, return_inverse=True)
    rows = np.sort(first)
    return rows, np.searchsorted(rows, first)[which]


def _first_of_group(group: Int[np.ndarray, " Q"]) -> Int[np.ndarray, " Q"]:
    """For each row the first row of its group; groups are numbered from 0 without a gap."""
    first = np.full(int(group.max(initial=-1)) + 1, len(group))
    np.minimum.at(first, group, np.arange(len(group)))
    firsts: np.ndarray = first[group]
    return firsts


def _linked(
    music: Int[np.ndarray, " Q"], signatures: UInt16[np.ndarray, "Q H"], threshold: float, max_cluster: int
) -> Int[np.ndarray, " Q"]:
    """For each row the first row of its cluster; `music` gives the first row of the same music."""
    label, table = music.astype(np.int64), np.ascontiguousarray(signatures)
    bins = table.shape[1] // _FAMILIES
    least = math.ceil(threshold * bins)
    for family in range(_FAMILIES):
        sketch = table[:, family * bins : (family + 1) * bins]
        rows = np.flatnonzero(sketch[:, 0] != EMPTY)
        columns = _turned(sketch, rows)
        row_bits = max(1, len(rows) - 1).bit_length()
        at_once = min(bins, max(1, _KEYS_AT_ONCE // max(1, len(rows))))
        key = np.empty((at_once, len(rows)), np.uint64)
        for first in range(0, bins, at_once):
            bands = min(at_once, bins - first)
            kernels.buckets(bands, first, bins, len(rows), columns, _BAND, row_bits, key)
            key[:bands].sort(axis=1)
            kernels.link(bands, len(rows), key, row_bits, rows, table, bins, least, label)
    label = _first_rows(label)
    distinct = np.bincount(label[np.unique(music)], minlength=len(label))  # [Q] by first row: pieces of distinct music
    crowded = np.flatnonzero(distinct[label] > max_cluster)
    if len(crowded) and threshold < _STRICTEST:
        stricter = threshold + _STEP
        log.warning("%d pieces in clusters of over %d: linked anew from %.2f up", len(crowded), max_cluster, stricter)
        again = _first_of_group(np.unique(music[crowded], return_inverse=True)[1])
        label[crowded] = crowded[_linked(again, signatures[crowded], stricter, max_cluster)]
    return label


def _turned(sketch: UInt16[np.ndarray, "Q B"], rows: Int64[np.ndarray, " R"]) -> UInt16[np.ndarray, "B R"]:
    """The columns of some rows, each in one piece; turned block by block, within the cache."""
    columns = np.empty((sketch.shape[1], len(rows)), np.uint16)
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        columns[:, begin : begin + _ROWS_AT_ONCE] = sketch[rows[begin : begin + _ROWS_AT_ONCE]].T
    return columns


def _first_rows(above: Int[np.ndarray, " Q"]) -> Int[np.ndarray, " Q"]:
    """The first row of each row's cluster, from a row of the same cluster that is not behind it."""
    while not np.array_equal(further := above[above], above):
        above = further
    return above
