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

Conventions: notes of many pieces end to end, `piece` ascending; every piece below `n_pieces` has a note. No result
depends on the order of a piece's notes, of the pieces, or on the machine.

Offers: `music_hash` and `signatures`, or both at once from `describe`; `likeness` (the estimate) and `clusters`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int, Int16, Int32, Int64, UInt16, UInt32, UInt64

from midivae import features

log = logging.getLogger(__name__)

HASHES = 256  # values of a signature; half of them sketch the tracks, half the texture
SHINGLE = 6  # pitches
LEAST_FILLED = 16  # bins with a shingle of their own; below, the lines are too short to tell pieces apart
EMPTY = np.uint16(0xFFFF)  # value of a sketch without enough shingles; equals nothing

_FAMILIES = 2  # sketches in a signature: tracks, texture
_ONSET_BITS = 26  # steps that a sort key can tell apart: 97 days of sixteenths at 120 BPM
_PITCH_BITS = 7
_DRUM = 1 << (_ONSET_BITS + _PITCH_BITS)  # the bit of a key that tells drums
_PIECE = _ONSET_BITS + _PITCH_BITS + 1  # where the piece begins in a key
_BAND = (0, 1, 3)  # columns of a band, from each column on in turn: a Golomb ruler, so no two bands share two columns
_NEXT_COLUMN = 31  # orders the rows within a bucket, so that the most alike are neighbours
_PAIRS_AT_ONCE = 1 << 14  # 16 MB of signatures, about the size of a cache
_ROWS_AT_ONCE = 1 << 11
_STEP, _STRICTEST = 0.1, 0.9  # by how much the threshold rises for a crowded cluster, and how far


# --- one order for both -----------------------------------------------------------------------------------------------
def describe(
    piece: Int64[np.ndarray, " M"],
    track: Int64[np.ndarray, " M"],
    pitch: Int64[np.ndarray, " M"],
    onset_step: Int64[np.ndarray, " M"],
    is_drum: Bool[np.ndarray, " M"],
    n_pieces: int,
) -> tuple[UInt64[np.ndarray, " Q"], UInt16[np.ndarray, "Q H"]]:
    """The `music_hash` and the `signatures` of pieces, whose notes are sorted once for both."""
    whole = _whole(piece, pitch, onset_step, is_drum)
    return _music(whole, n_pieces), _signatures(whole, piece, track, pitch, onset_step, is_drum, n_pieces, HASHES)


def _whole(
    piece: Int64[np.ndarray, " M"],
    pitch: Int64[np.ndarray, " M"],
    onset_step: Int64[np.ndarray, " M"],
    is_drum: Bool[np.ndarray, " M"],
) -> Int64[np.ndarray, " M"]:
    """Sorted keys (piece, is_drum, onset, pitch) of all notes."""
    key = _placed(onset_step, pitch)
    key |= piece << _PIECE
    if is_drum.any():
        key |= is_drum * _DRUM
    key.sort()
    return np.asarray(key)


def _placed(onset_step: Int64[np.ndarray, " M"], pitch: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
    """The low bits of a key, (onset, pitch); notes of no part may lie beyond any roll."""
    key: np.ndarray = np.minimum(onset_step, (1 << _ONSET_BITS) - 1)
    key <<= _PITCH_BITS
    key |= pitch
    return key


# --- the same music ---------------------------------------------------------------------------------------------------
def music_hash(
    piece: Int64[np.ndarray, " M"],
    pitch: Int64[np.ndarray, " M"],
    onset_step: Int64[np.ndarray, " M"],
    is_drum: Bool[np.ndarray, " M"],
    n_pieces: int,
) -> UInt64[np.ndarray, " Q"]:
    """A hash of each piece's notes that tempo, names, programs, transposition and a late start leave as it is.

    The sum over the piece's distinct (onset_step, pitch) pairs, both counted from the piece's least, of a 64-bit mix
    of the pair; drums keep their pitches, which name instruments.
    """
    return _music(_whole(piece, pitch, onset_step, is_drum), n_pieces)


def _music(whole: Int64[np.ndarray, " M"], n_pieces: int) -> UInt64[np.ndarray, " Q"]:
    if n_pieces == 0:
        return np.zeros(0, np.uint64)
    distinct = np.compress(np.append(True, whole[1:] != whole[:-1]), whole)
    bounds = np.searchsorted(distinct, np.arange(n_pieces + 1) << _PIECE)
    counts = np.diff(bounds)
    onset = distinct >> _PITCH_BITS & ((1 << _ONSET_BITS) - 1)
    height = distinct & ((1 << _PITCH_BITS) - 1)
    drum = np.flatnonzero(distinct & _DRUM)
    height[drum] += 256
    lowest = np.minimum(np.minimum.reduceat(height, bounds[:-1]), 128)
    height[drum] += np.repeat(lowest, counts)[drum]  # which the next line takes away again
    height -= np.repeat(lowest, counts)
    onset -= np.repeat(np.minimum.reduceat(onset, bounds[:-1]), counts)
    mixed = mix((onset << 10 | height).view(np.uint64))
    hashes: np.ndarray = np.add.reduceat(mixed, bounds[:-1])  # wraps around, as it should
    return hashes


def mix(x: UInt64[np.ndarray, " M"]) -> UInt64[np.ndarray, " M"]:
    """One step of SplitMix64 from each state."""
    return features.mix(x + np.uint64(0x9E3779B97F4A7C15))


# --- nearly the same: sketches ----------------------------------------------------------------------------------------
def signatures(
    piece: Int64[np.ndarray, " M"],
    track: Int64[np.ndarray, " M"],
    pitch: Int64[np.ndarray, " M"],
    onset_step: Int64[np.ndarray, " M"],
    is_drum: Bool[np.ndarray, " M"],
    n_pieces: int,
    hashes: int = HASHES,
) -> UInt16[np.ndarray, "Q H"]:
    """A sketch of each piece's lines, track by track, and behind it one of the line of all tracks together.

    Args:
        track: which notes form a line; counted anew in each piece. Tracks times `n_pieces` stay below 2**30.
        hashes: length of a signature, a power of two from 64 to 2048.

    Returns:
        Values of which two alike pieces share many; all `EMPTY` where a piece's lines are too short to tell, or where
        it has only drums.
    """
    whole = _whole(piece, pitch, onset_step, is_drum)
    return _signatures(whole, piece, track, pitch, onset_step, is_drum, n_pieces, hashes)


def _signatures(
    whole: Int64[np.ndarray, " M"],
    piece: Int64[np.ndarray, " M"],
    track: Int64[np.ndarray, " M"],
    pitch: Int64[np.ndarray, " M"],
    onset_step: Int64[np.ndarray, " M"],
    is_drum: Bool[np.ndarray, " M"],
    n_pieces: int,
    hashes: int,
) -> UInt16[np.ndarray, "Q H"]:
    if is_drum.any():
        pitched = ~is_drum
        piece, track, pitch, onset_step = piece[pitched], track[pitched], pitch[pitched], onset_step[pitched]
        whole = whole[whole & _DRUM == 0]
    track_bits = int(track.max(initial=0)).bit_length()
    by_track = _placed(onset_step, pitch)
    by_track |= (piece << track_bits | track) << (_ONSET_BITS + _PITCH_BITS)
    by_track.sort()
    sketches = [
        _sketch(*_shingles(key, bits), n_pieces, hashes // _FAMILIES)
        for key, bits in ((by_track, track_bits), (whole, 1))
    ]
    return np.concatenate(sketches, axis=1)


def _shingles(
    key: Int64[np.ndarray, " N"], track_bits: int
) -> tuple[Int64[np.ndarray, " L"], UInt32[np.ndarray, " L"]]:
    """Each shingle of the lines in a sorted (piece, track, onset, pitch) key: its piece, and a number for it.

    Shingles come as often as the lines repeat them.
    """
    pitches, onsets = (1 << _PITCH_BITS) - 1, (1 << _ONSET_BITS) - 1
    highest = np.append((key[1:] ^ key[:-1]) > pitches, True)[: len(key)]
    key = np.compress(highest, key)
    moved = np.append(True, (key[1:] ^ key[:-1]) & ~(onsets << _PITCH_BITS) != 0)[: len(key)]
    key = np.compress(moved, key)
    line = key >> (_ONSET_BITS + _PITCH_BITS)
    within = np.flatnonzero(line[SHINGLE - 1 :] == line[: max(0, len(line) - SHINGLE + 1)])
    number = _intervals((key & pitches).astype(np.int16))
    number += _rhythm((key >> _PITCH_BITS & onsets).astype(np.int32)) * np.uint32(0x9E3779B1)
    return line.take(within) >> track_bits, number.take(within)


def _intervals(pitch: Int16[np.ndarray, " K"]) -> UInt32[np.ndarray, " L"]:
    """The five intervals from each pitch on, side by side in 30 bits; from -32 to 31 semitones, wider ones as these."""
    one = (np.clip(np.diff(pitch), -32, 31) + 32).astype(np.uint32)
    two = one[:-1] << np.uint32(6) | one[1:]
    four = two[:-2] << np.uint32(12) | two[2:]
    five: np.ndarray = four[:-1] << np.uint32(6) | one[4:]
    return five


def _rhythm(onset: Int32[np.ndarray, " K"]) -> UInt32[np.ndarray, " L"]:
    """How the five times between six onsets go on: four digits to base 3, each shorter, alike or longer.

    Alike are times of a ratio up to 3 : 2, so that rounding seldom counts, and doubling all times never.
    """
    time = np.diff(onset)
    longer, not_shorter = 2 * time[1:] > 3 * time[:-1], 3 * time[1:] >= 2 * time[:-1]
    one = np.add(longer, not_shorter, dtype=np.uint32)
    pair = one[:-1] * np.uint32(3) + one[1:]
    four: np.ndarray = pair[:-2] * np.uint32(9) + pair[2:]
    return four


def _sketch(
    piece: Int64[np.ndarray, " L"], shingle: UInt32[np.ndarray, " L"], n_pieces: int, bins: int
) -> UInt16[np.ndarray, "Q B"]:
    """One-permutation MinHash: the high bits of a shingle's hash name its bin, of a bin's least rest 16 bits are kept.

    References: Li, Owen & Zhang, One permutation hashing, NeurIPS 2012; Li & König, b-bit minwise hashing, WWW 2010:
    unlike values have equal bits once in 65536.
    """
    hashed = _mix32(shingle)
    rest_bits = np.uint32(32 - (bins.bit_length() - 1))
    rests = np.uint32((1 << int(rest_bits)) - 1)
    least_rest = np.full(n_pieces * bins, np.uint32(0xFFFFFFFF))
    np.minimum.at(least_rest, piece * bins + (hashed >> rest_bits), hashed & rests)
    kept = np.minimum(least_rest & np.uint32(0xFFFF), np.uint32(EMPTY - 1)).astype(np.uint16)
    sketch: np.ndarray = np.where(least_rest <= rests, kept, EMPTY).reshape(n_pieces, bins)
    sketch[(sketch != EMPTY).sum(axis=1) < LEAST_FILLED] = EMPTY
    return _densified(sketch)


def _densified(sketch: UInt16[np.ndarray, "Q B"]) -> UInt16[np.ndarray, "Q B"]:
    """Empty bins filled from others, each from the first full one of its own fixed order, so that equal means alike.

    Reference: Shrivastava, Optimal densification for fast and accurate minwise hashing, ICML 2017. There a bin tries
    others at random, with repetition; here it tries each once.
    """
    dense, bins = sketch.copy(), sketch.shape[1]
    empty = sketch == EMPTY
    empty[empty.all(axis=1)] = False
    at = np.flatnonzero(empty)  # places in the flat sketch
    for donor in _donors(bins):
        column = at & (bins - 1)
        value = sketch.take(at - column + donor.take(column))
        dense.ravel()[at] = value
        at = at.take(np.flatnonzero(value == EMPTY))
        if len(at) == 0:
            break
    return dense


@cache
def _donors(bins: int) -> Int64[np.ndarray, "B B"]:
    """Row by row, the bin that each bin looks into next; a column holds every bin once."""
    order = _mix32(np.arange(bins * bins, dtype=np.uint32)).reshape(bins, bins).argsort(axis=1)
    return np.ascontiguousarray(order.T)


def _mix32(x: UInt32[np.ndarray, " L"]) -> UInt32[np.ndarray, " L"]:
    """The finaliser of MurmurHash3 (Appleby 2011), a permutation of the 32-bit numbers."""
    x = x ^ (x >> np.uint32(16))
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return np.asarray(x)


def likeness(one: UInt16[np.ndarray, "L H"], other: UInt16[np.ndarray, "L H"]) -> Float[np.ndarray, " L"]:
    """How alike the pieces of two lists of signatures are, pair by pair, from 0 to 1.

    The share of equal values in the sketches of the tracks or in those of the texture, whichever is larger. It
    estimates the Jaccard index J with a standard deviation of sqrt(J (1 - J) / 128) for 256 hashes: 0.035 at 0.2.
    """
    bins = one.shape[1] // _FAMILIES
    equal = np.bitwise_count(np.packbits(one == other, axis=1)).reshape(len(one), _FAMILIES, -1).sum(axis=2)
    share: np.ndarray = (equal * (one[:, ::bins] != EMPTY)).max(axis=1) / bins
    return share


# --- clusters ---------------------------------------------------------------------------------------------------------
def clusters(
    piece_id: Sequence[str],
    music: UInt64[np.ndarray, " Q"],
    signatures: UInt16[np.ndarray, "Q H"],
    threshold: float | None,
    max_cluster: int = 512,
) -> list[str]:
    """For each piece the least `piece_id` of the pieces that are, link by link, the same music or nearly.

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
        piece_id: distinct names.
        threshold: the least `likeness` that links two pieces, 0 to 1; None: only pieces of one music are linked.
        max_cluster: pieces of distinct music in a cluster beyond which it is taken apart.
    """
    order = np.array(sorted(range(len(piece_id)), key=piece_id.__getitem__), np.int64)
    _, group = np.unique(music[order], return_inverse=True)
    label = _first_of_group(group)
    if threshold is not None:
        rows, which = _unlike(label, signatures[order])
        music_of_row = _first_of_group(np.unique(label[rows], return_inverse=True)[1])
        label = rows[_linked(music_of_row, signatures[order[rows]], threshold, max_cluster)[which]]
    names = [""] * len(piece_id)
    for row, first in zip(order.tolist(), order[label].tolist(), strict=True):
        names[row] = piece_id[first]
    return names


def _unlike(
    music: Int[np.ndarray, " Q"], signatures: UInt16[np.ndarray, "Q H"]
) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " Q"]]:
    """The first row of each music and signature, in order, and for each row which of these stands for it.

    Rows of one music and one signature have the same links: of a crowd of copies one is looked at.
    """
    words = np.ascontiguousarray(signatures).view(np.uint64)
    hashed = features.mix(music.astype(np.uint64))
    for column in range(words.shape[1]):
        hashed = mix(hashed ^ words[:, column])
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
    label = music.copy()
    for one, other in _candidates(signatures):
        apart = label[one] != label[other]
        one, other = one[apart], other[apart]
        close = _are_alike(signatures, one, other, threshold)
        label = _joined(label, one[close], other[close])
    distinct = np.bincount(label[np.unique(music)], minlength=len(label))  # [Q] by first row: pieces of distinct music
    crowded = np.flatnonzero(distinct[label] > max_cluster)
    if len(crowded) and threshold < _STRICTEST:
        stricter = threshold + _STEP
        log.warning("%d pieces in clusters of over %d: linked anew from %.2f up", len(crowded), max_cluster, stricter)
        again = _first_of_group(np.unique(music[crowded], return_inverse=True)[1])
        label[crowded] = crowded[_linked(again, signatures[crowded], stricter, max_cluster)]
    return label


def _candidates(
    signatures: UInt16[np.ndarray, "Q H"],
) -> Iterator[tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"]]]:
    """Pairs of rows that share a bucket, band after band: each row with the one before it and with the first."""
    bins = signatures.shape[1] // _FAMILIES
    for family in range(_FAMILIES):
        sketch = signatures[:, family * bins : (family + 1) * bins]
        rows = np.flatnonzero(sketch[:, 0] != EMPTY)
        columns = _turned(sketch, rows)
        for start in range(bins):
            one, other = _neighbours(columns[(start + np.array(_BAND)) % bins], columns[(start + _NEXT_COLUMN) % bins])
            yield rows[one], rows[other]


def _turned(sketch: UInt16[np.ndarray, "Q B"], rows: Int64[np.ndarray, " R"]) -> UInt16[np.ndarray, "B R"]:
    """The columns of some rows, each in one piece; turned block by block, within the cache."""
    columns = np.empty((sketch.shape[1], len(rows)), np.uint16)
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        columns[:, begin : begin + _ROWS_AT_ONCE] = sketch[rows[begin : begin + _ROWS_AT_ONCE]].T
    return columns


def _neighbours(
    band: UInt16[np.ndarray, "3 Q"], further: UInt16[np.ndarray, " Q"]
) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"]]:
    """Pairs of rows with equal values in all columns of a band; one further column orders the rows of a bucket.

    One sort of one number per row: 32 bits of bucket, as many of the further value as fit, the row. Two buckets that
    share their 32 bits make pairs that fail the check, no more.
    """
    row_bits = max(1, len(further) - 1).bit_length()
    key = band[0].astype(np.uint64)
    for column in band[1:]:  # in place: fresh memory for each step would cost more than the step
        key <<= np.uint64(16)
        key |= column
    key *= np.uint64(0x9E3779B97F4A7C15)  # multiplicative hashing: the high bits depend on all
    key &= np.uint64(0xFFFFFFFF_00000000)
    key |= (further & np.uint64((1 << (32 - row_bits)) - 1)) << np.uint64(row_bits)
    key |= np.arange(len(key), dtype=np.uint64)
    key.sort()
    later = np.flatnonzero((key[1:] ^ key[:-1]) < np.uint64(1 << 32)) + 1  # places that do not open a bucket
    head = later[_run_starts(later)] - 1
    distant = np.flatnonzero(head != later - 1)
    pairs = np.stack([np.r_[later - 1, head[distant]], np.r_[later, later[distant]]])
    one, other = (key[pairs] & np.uint64((1 << row_bits) - 1)).astype(np.int64)
    return one, other


def _run_starts(ascending: Int64[np.ndarray, " L"]) -> Int64[np.ndarray, " L"]:
    """For each number the index of the first of its run of successive numbers."""
    opens = np.diff(ascending, prepend=-2) > 1
    starts: np.ndarray = np.flatnonzero(opens)[np.cumsum(opens) - 1]
    return starts


def _are_alike(
    signatures: UInt16[np.ndarray, "Q H"], one: Int[np.ndarray, " L"], other: Int[np.ndarray, " L"], threshold: float
) -> Bool[np.ndarray, " L"]:
    """Whether each pair of rows is alike by at least the threshold."""
    close = np.zeros(len(one), bool)
    for begin in range(0, len(one), _PAIRS_AT_ONCE):
        part = slice(begin, begin + _PAIRS_AT_ONCE)
        close[part] = likeness(signatures.take(one[part], axis=0), signatures.take(other[part], axis=0)) >= threshold
    return close


def _joined(
    label: Int[np.ndarray, " Q"], one: Int[np.ndarray, " L"], other: Int[np.ndarray, " L"]
) -> Int[np.ndarray, " Q"]:
    """The labels after each pair's clusters are joined; a label is the least row of its cluster.

    Each round hangs every linked root that is not the least around it below another, and then lets every row find its
    root, so that a few rounds do whatever the links.
    """
    while len(one):
        low, high = np.minimum(label[one], label[other]), np.maximum(label[one], label[other])
        apart = low != high
        one, other, low, high = one[apart], other[apart], low[apart], high[apart]
        np.minimum.at(label, high, low)
        while not np.array_equal(above := label[label], label):
            label = above
    return label
