"""Which pieces are the same music, and which nearly: clusters of the hashes and signatures of `sketches.py`.

Likely pairs are found by locality-sensitive hashing and checked by the estimate of their likeness; a cluster is what is
linked, pair by pair. A band is three values of the 128 in a sketch, and there are 128 bands: a Jaccard index J in one
sketch brings two pieces together with a chance of 1 - (1 - J^3)^128, which is 0.64 at 0.2, 0.87 at 0.25, 0.97 at 0.3,
0.9998 at 0.4, and more where they are alike in both.

Offers: `clusters`.
"""

from __future__ import annotations

import logging
import math
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Int64, UInt16, UInt64
from numba import njit

from midivae.ingest.sketches import BINS, EMPTY, equal_values

log = logging.getLogger(__name__)

# columns of a band, the first of them being its number: a Golomb ruler, so that no two bands share two columns; the
# fourth column orders the rows within a bucket, so that the most alike are neighbours
_BAND = (0, 1, 3, 31)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEP, _STRICTEST = 0.1, 0.9  # by how much the threshold rises for a crowded cluster, and how far


def clusters(
    music: UInt64[np.ndarray, " Q"],
    signatures: UInt16[np.ndarray, "Q H"],
    threshold: float | None,
    max_cluster: int = 512,
) -> Int64[np.ndarray, " Q"]:
    """For each piece the first of the pieces that are, link by link, the same music or nearly.

    Pieces of one music are linked. Others are linked when they fall into one bucket of some band, there stand side by
    side or one of them first, and are at least as alike as the threshold. So a bucket of n pieces costs at most 2 n
    comparisons; two alike pieces that a crowd of others keeps apart in one bucket have the other bands to meet in, or
    are linked by way of the crowd.

    Chains of links can connect pieces that are not alike. Where a cluster gets more than `max_cluster` pieces of
    distinct music, its pieces are linked anew with the threshold raised by 0.1, and so on up to 0.9; so pieces of such
    a crowd that are less alike may part.

    Args:
        threshold: the least likeness that links two pieces, 0 to 1; None: only pieces of one music are linked.
        max_cluster: pieces of distinct music in a cluster beyond which it is taken apart.
    """
    same_music = _first_of_equal(music.tolist())
    if threshold is None:
        return same_music
    # of a crowd of copies, with one music and one signature, one is compared
    first = _first_of_equal(list(zip(music.tolist(), map(bytes, signatures), strict=True)))
    rows, place = np.unique(first, return_inverse=True)
    music_of_row = np.searchsorted(rows, same_music[rows])
    return np.asarray(rows[_linked(music_of_row, signatures[rows], threshold, max_cluster)[place]])


def _first_of_equal(values: list[Any]) -> Int64[np.ndarray, " Q"]:
    """For each value the index of the first that equals it."""
    first: dict[Any, int] = {}
    return np.array([first.setdefault(value, index) for index, value in enumerate(values)], np.int64)


def _linked(
    music: Int64[np.ndarray, " Q"], signatures: UInt16[np.ndarray, "Q H"], threshold: float, max_cluster: int
) -> Int64[np.ndarray, " Q"]:
    """For each row the first row of its cluster; `music` gives the first row of the same music."""
    label = music.copy()
    least = math.ceil(threshold * BINS)
    for begin in range(0, signatures.shape[1], BINS):
        rows = np.flatnonzero(signatures[:, begin] != EMPTY)
        columns = np.ascontiguousarray(signatures[rows, begin : begin + BINS].T)
        row_bits = max(1, len(rows) - 1).bit_length()
        for band in range(BINS):
            keys = _bucket_keys(columns, band, row_bits)
            keys.sort()
            _link(keys, row_bits, rows, signatures, least, label)
    label = _first_rows(label)
    distinct = np.bincount(label[np.unique(music)], minlength=len(label))  # [Q] by first row: pieces of distinct music
    crowded = np.flatnonzero(distinct[label] > max_cluster)
    if len(crowded) and threshold < _STRICTEST:
        stricter = threshold + _STEP
        log.warning("%d pieces in clusters of over %d: linked anew from %.2f up", len(crowded), max_cluster, stricter)
        again = _first_of_equal(music[crowded].tolist())
        label[crowded] = crowded[_linked(again, signatures[crowded], stricter, max_cluster)]
    return label


def _first_rows(above: Int64[np.ndarray, " Q"]) -> Int64[np.ndarray, " Q"]:
    """The first row of each row's cluster, from a row of the same cluster that does not come later."""
    while not np.array_equal(further := above[above], above):
        above = further
    return above


def _bucket_keys(columns: UInt16[np.ndarray, "B R"], band: int, row_bits: int) -> UInt64[np.ndarray, " R"]:
    """Numbers that sort rows by their values in a band: 32 bits of bucket, what fits of the fourth column, the row.

    Two buckets that share their 32 bits make pairs that fail the check, no more.
    """
    one, two, three, fourth = (columns[(band + place) % len(columns)].astype(np.uint64) for place in _BAND)
    values = one << np.uint64(32) | two << np.uint64(16) | three
    bucket = values * _GOLDEN >> np.uint64(32)  # multiplicative hashing: the high bits depend on all
    within = fourth << np.uint64(row_bits) & np.uint64(0xFFFFFFFF)
    return np.asarray(bucket << np.uint64(32) | within | np.arange(len(one), dtype=np.uint64))


@njit(cache=True)
@no_type_check
def _root_of(above, row):
    """The first row of a row's cluster; paths are halved on the way."""
    while above[row] != row:
        above[row] = above[above[row]]
        row = above[row]
    return row


@njit(cache=True)
@no_type_check
def _link(keys, row_bits, rows, signatures, least, above):
    """Links rows of a bucket that share at least `least` values: each with the one before it and with the first.

    Args:
        keys: the sorted `_bucket_keys` of a band.
        rows: the row of `signatures` that each row of the band is.
        above: for each row one of the same cluster that does not come later, itself if it is the first; written to.
    """
    mask = np.uint64((1 << row_bits) - 1)
    head = 0
    for i in range(1, len(keys)):
        if keys[i] >> np.uint64(32) != keys[head] >> np.uint64(32):
            head = i
            continue
        for neighbour in (i - 1, head):
            one, other = rows[np.int64(keys[neighbour] & mask)], rows[np.int64(keys[i] & mask)]
            low, high = _root_of(above, one), _root_of(above, other)
            if low != high and equal_values(signatures[one], signatures[other]) >= least:
                above[max(low, high)] = min(low, high)
