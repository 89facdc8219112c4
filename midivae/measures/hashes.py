"""Hashes of bars and phrases, by which the same music is found again, and the novelty of music.

Shapes:
    B  rolls    T  steps    R  whole bars    M  bars    S  steps of a bar    K  planes    P  pitches    H  known hashes

Offers: `bar_hashes`, `phrase_hashes`, `novelty`; `mix`.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt64

from midivae.measures.notes import Planes, any_along, blocks, ratio, without_drums
from midivae.music.roll import Layout, sounding, starts


def bar_hashes(planes: Planes, layout: Layout, steps_per_bar: int) -> UInt64[np.ndarray, "B R"]:
    """A 64-bit hash of the music of each whole bar; equal for equal music on every machine; 0: an empty bar.

    The parts are merged, without drums. The bar is shifted so that its lowest sounding pitch is row 0: transposed bars
    are equal. What sounds on its first step starts there, whether it was struck or held over from the bar before; else
    a bar at the start of a window would differ from the same bar inside one. Among a million distinct bars, two share a
    hash with a probability of 3e-8.

    Each step of each plane is a word of 128 bits; its halves are mixed with a constant of their own (the finaliser of
    splitmix64, Steele et al. 2014) and the results added, modulo 2**64.
    """
    n_bars = planes.shape[1] // steps_per_bar
    hashes = np.zeros((len(planes), n_bars), np.uint64)
    if n_bars == 0:
        return hashes
    for block in blocks(planes):
        whole = any_along(without_drums(planes[block, : n_bars * steps_per_bar], layout), 2)  # [B, R*S, K, P]
        bars = whole.reshape(-1, steps_per_bar, 2, planes.shape[-1])  # [B*R, S, K, P]
        hashes[block] = _hash_bars(bars).reshape(-1, n_bars)
    return hashes


def phrase_hashes(planes: Planes, layout: Layout, steps_per_bar: int, bars: int) -> UInt64[np.ndarray, "B R1"]:
    """`bar_hashes` of phrases of `bars` consecutive bars, one from each bar line with as many bars after it.

    A phrase is shifted as a whole: bars that are equal except for their transpositions are different phrases.
    """
    n_bars = planes.shape[1] // steps_per_bar
    hashes = np.zeros((len(planes), max(0, n_bars - bars + 1)), np.uint64)
    for first in range(min(bars, hashes.shape[1])):
        from_here = bar_hashes(planes[:, first * steps_per_bar :], layout, bars * steps_per_bar)
        hashes[:, first::bars] = from_here
    return hashes


def _hash_bars(bars: Bool[np.ndarray, "M S 2 P"]) -> UInt64[np.ndarray, " M"]:
    one_part = bars[:, :, None]  # [M, S, 1, K, P]
    sounds = sounding(one_part)
    words = _words(np.concatenate([starts(one_part), sounds], axis=2))  # [M, S, K, 2]
    used = any_along(sounds, 1, 2)  # [M, P]
    words = _shift_down(words, used.argmax(axis=1))
    hashes = mix(words ^ _salt(*words.shape[1:])).sum(axis=(1, 2, 3), dtype=np.uint64)
    return np.where(any_along(used, 1), np.maximum(hashes, np.uint64(1)), np.uint64(0))


def _salt(*shape: int) -> UInt64[np.ndarray, "S K 2"]:
    """A constant for each word of a bar: the sequence of splitmix64."""
    index = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    return mix(index * np.uint64(0x9E3779B97F4A7C15)).reshape(shape)


def _words(bits: Bool[np.ndarray, "M S K P"]) -> UInt64[np.ndarray, "M S K 2"]:
    """The pitches of each step as two words of 64 bits, the lowest pitch in the lowest bit of the first."""
    packed = np.zeros((*bits.shape[:3], 16), np.uint8)
    packed[..., : -(-bits.shape[3] // 8)] = np.packbits(bits, axis=3, bitorder="little")
    return packed.view("<u8").astype(np.uint64)


def _shift_down(words: UInt64[np.ndarray, "M S K 2"], rows: Int[np.ndarray, " M"]) -> UInt64[np.ndarray, "M S K 2"]:
    """The words, as one number of 128 bits, shifted down by `rows` bits (0 to 127)."""
    by = rows.astype(np.uint64)[:, None, None]
    high, low = words[..., 1], words[..., 0]
    beyond = by >= 64
    low, high = np.where(beyond, high, low), np.where(beyond, np.uint64(0), high)
    by = by % np.uint64(64)
    # a shift by 64 is undefined in C: two steps, 63 - by and then 1
    carried = (high << (np.uint64(63) - by)) << np.uint64(1)
    return np.stack([(low >> by) | carried, high >> by], axis=-1)


def mix(words: UInt64[np.ndarray, "*W"]) -> UInt64[np.ndarray, "*W"]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): a bijection in which every bit depends on every bit."""
    words = words ^ (words >> np.uint64(30))
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def novelty(hashes: UInt64[np.ndarray, "B R"], known: UInt64[np.ndarray, " H"]) -> Float32[np.ndarray, " B"]:
    """Share of the bars with music whose hash is not among `known` (sorted), from 0 to 1; NaN without music.

    Compare it with the novelty of held-out real music against the same `known`: common bars recur in all music.
    """
    filled = hashes != 0
    if len(known) == 0:
        new = filled
    else:
        place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        new = filled & (known[place] != hashes)
    share = ratio(np.count_nonzero(new, axis=1), np.count_nonzero(filled, axis=1))
    return share.astype(np.float32)
