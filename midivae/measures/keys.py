"""The key of music: the scale that holds most of its notes, and its place on the circle of fifths.

Source: Krumhansl & Kessler (1982) for the profiles of keys; Mogren (2016) and MusPy for scale consistency; Chew (2000)
for the centre of effect.

Shapes:
    B  rolls    T  steps    N  parts    P  pitches

Offers: `KEYS` and `key_names`; `best_scale`, `major_of`, `in_scale`, `chromatic_share`; `fifths`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from midivae.measures.notes import Planes, chroma, ratio
from midivae.music.roll import Layout


def _keys() -> tuple[str, ...]:
    major = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
    minor = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
    return (*(f"{tonic} major" for tonic in major), *(f"{tonic} minor" for tonic in minor))


KEYS: tuple[str, ...] = _keys()  # the 24 scales; the tonic's pitch class is the index modulo 12


def _per_key(major: tuple[int, ...], minor: tuple[int, ...]) -> Int64[np.ndarray, "12 24"]:
    """A column per key, from the values of pitch classes counted from its tonic."""
    columns = [np.roll(values, tonic) for values in (major, minor) for tonic in range(12)]
    return np.stack(columns, axis=1).astype(np.int64)


# the 12 major and the 12 natural minor scales, as in MusPy
_SCALES = _per_key((1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1), (1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0))
# Krumhansl & Kessler 1982: how well each pitch class fits a key, in hundredths
_MAJOR_PROFILE = (635, 223, 348, 233, 438, 409, 252, 519, 239, 366, 229, 288)
_MINOR_PROFILE = (633, 268, 352, 538, 260, 353, 254, 475, 398, 269, 334, 317)


def _standardised(profile: tuple[int, ...]) -> tuple[int, ...]:
    """A profile of mean 0 and norm 1, in millionths."""
    values = np.array(profile) - np.mean(profile)
    return tuple(round(1e6 * float(value)) for value in values / np.sqrt((values**2).sum()))


_PROFILES = _per_key(_standardised(_MAJOR_PROFILE), _standardised(_MINOR_PROFILE))


def best_scale(
    counts: Int[np.ndarray, "B 12"],
) -> tuple[Int[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """The scale that holds most notes, of 12 major and 12 natural minor scales, and the share that it holds.

    The share is the scale consistency of Mogren 2016 and `muspy.scale_consistency`: from 7/12 for notes spread evenly
    to 1. Trap avoided: several scales hold equally many notes (always a major scale and its relative minor, which have
    the same pitches), and the first of the list would call all minor music major. Among scales that tie, the key is the
    one whose profile (Krumhansl & Kessler 1982) correlates best with the counts: its tonic, fifth and third are played
    most. Among those that tie again, as for equal counts, it is the first in `KEYS`. All arithmetic is in integers, so
    that ties are the same on every machine.

    Args:
        counts: notes of each pitch class, C first.

    Returns:
        `(index, consistency)`: the index into `KEYS`, -1 without notes, and the share, NaN without notes.
    """
    wide = counts.astype(np.int64)
    inside = wide @ _SCALES  # [B, 24]
    most = inside.max(axis=1)
    total = wide.sum(axis=1)
    fit = np.where(inside == most[:, None], wide @ _PROFILES, np.iinfo(np.int64).min)
    return np.where(total > 0, fit.argmax(axis=1), -1), ratio(most, total)


def major_of(key: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    """The major key with the same tones: of a minor key its relative; -1, no key, stays."""
    return np.where(key < 12, key, (key + 3) % 12)


def in_scale(key: Int[np.ndarray, " B"]) -> Bool[np.ndarray, "B 12"]:
    """Which pitch classes, C first, belong to scales of `KEYS`."""
    inside: np.ndarray = _SCALES.T[key] > 0
    return inside


def chromatic_share(counts: Int[np.ndarray, "B 12"]) -> Float[np.ndarray, " B"]:
    """The share of the notes outside the key (`best_scale`), from 0 on; NaN without notes.

    In minor the raised seventh belongs to the key: it is the leading note of every cadence. So this is less than
    1 - the scale consistency, which takes the natural minor scale.

    Args:
        counts: notes of each pitch class, C first.
    """
    key, _ = best_scale(counts)
    inside = in_scale(key)
    inside[np.arange(len(key)), (key + 11) % 12] |= key >= 12
    return 1 - ratio((counts * inside).sum(axis=1), counts.sum(axis=1))


_FIFTHS = 2 * np.pi * (7 * np.arange(12) % 12) / 12  # the angle of each pitch class on the circle of fifths, C first


def fifths(counts: Int[np.ndarray, "B 12"]) -> Float[np.ndarray, "B 2"]:
    """Where the notes lie on the circle of fifths: the mean of their points (cos, sin) on the unit circle.

    The angle is the key without its mode: C at 0, one sharp more per 30 degrees; a major scale lies two steps beyond
    its tonic. The distance from the origin is the strength of the key: near 0 if all keys fit equally. NaN without
    notes. Source: Chew 2000's centre of effect, on the circle instead of the spiral. Trap: means of angles, which jump
    from 359 to 0 degrees; here points are averaged.
    """
    n = counts.sum(axis=1)
    # row by row, as the sums of a matrix product depend in their last bits on the other rows
    return np.stack([ratio((counts * part(_FIFTHS)).sum(axis=1), n) for part in (np.cos, np.sin)], axis=1)


def key_names(planes: Planes, layout: Layout) -> list[str | None]:
    """The key of each roll, by its best scale ("G major"); None without notes that have pitches."""
    index, _ = best_scale(chroma(planes, layout))
    return [KEYS[i] if i >= 0 else None for i in index.tolist()]
