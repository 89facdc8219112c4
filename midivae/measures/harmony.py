"""Harmony of rolls: the probability of a chord after another, and the distance of parts from each other.

Source: Witten & Bell ("The zero-frequency problem", 1991), method C, for the bigram; Harte, Sandler & Gasser
("Detecting harmonic change in musical audio", 2006) for the tonal centroid; MuseGAN (Dong et al. 2018) for the tonal
distance of tracks.

Conventions: drums are left out. A *chord* is the set of pitch classes that sound on the first step of a beat, as 12
bits, C the lowest; an empty set is a chord. Transpositions of a chord, or of a pair of chords,
count as the same.

Shapes:
    B  rolls    T  steps    N  parts    K  planes    P  pitches    Q  whole beats

Offers: `chords`, `Bigram`; `tonal_distance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Int64

from midivae.music.roll import FRAME, Layout

CHORDS = 4096
_EVERY, _BY = np.arange(CHORDS), np.arange(12)[:, None]
_TURNED = (_EVERY << _BY | _EVERY >> (12 - _BY)) & (CHORDS - 1)  # [12, CHORDS]: each chord up by so many semitones
_NORMAL = _TURNED.min(axis=0)  # stands for all transpositions of a chord
_SELF = (_TURNED == _EVERY).sum(axis=0)  # how many transpositions leave a chord as it is: 1, or more

Planes = Bool[np.ndarray, "B T N 2 P"]
Chords = Int64[np.ndarray, "B Q"]


def chords(planes: Planes, layout: Layout) -> Chords:
    """The chord of every whole beat."""
    n_beats = planes.shape[1] // layout.steps_per_beat
    on_beats = planes[:, : n_beats * layout.steps_per_beat : layout.steps_per_beat][:, :, layout.pitched, FRAME]
    sounds = on_beats.any(axis=2)  # [B, Q, P]
    bit = 1 << (layout.pitch_low + np.arange(layout.pitches)) % 12
    found: np.ndarray = np.bitwise_or.reduce(np.where(sounds, bit, 0), axis=2).astype(np.int64)
    return found


# --- how likely a chord is after another ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Bigram:
    """How often chords, and pairs of chords, came in what it was fitted to, transpositions counted together.

    With C for counts of classes of transpositions and U for how many different classes were seen:

        P(t | s) = l(s) C(s t) / (C(s) m(s, t)) + (1 - l(s)) P(t)      l(s) = C(s) / (C(s) + U(s .))
        P(t)     = l C(t) / (N m(t)) + (1 - l) / 4096                  l    = N / (N + U)

    The class of (s t) has m(s, t) different chords t after one s, and that of t has m(t). They share the probability of
    their class equally, so that both sum to 1 over the 4,096 chords.

    Attributes:
        single: how often each class of chords came.
        pairs: how often each class of pairs came.
        first: how often each class of chords had a follower.
        followers: how many kinds of follower it had.
    """

    single: pd.Series
    pairs: pd.Series
    first: pd.Series
    followers: pd.Series

    @classmethod
    def fit(cls, found: Chords) -> Bigram:
        """Counts the chords of some rolls, and what follows what in each."""
        before, after = found[:, :-1].reshape(-1), found[:, 1:].reshape(-1)
        pairs = pd.Series(_class_of_pair(before, after)).value_counts()
        return cls(
            single=pd.Series(_NORMAL[found].reshape(-1)).value_counts(),
            pairs=pairs,
            first=pd.Series(_NORMAL[before]).value_counts(),
            followers=pd.Series(_NORMAL[pairs.index.to_numpy(np.int64) // CHORDS]).value_counts(),
        )

    def probability(self, before: Int[np.ndarray, " M"], after: Int[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
        """P(after | before)."""
        n, kinds = int(self.single.sum()), len(self.single)
        share = n / max(1, n + kinds)
        orbit = 12 / _SELF[after]
        alone = share * _count(self.single, _NORMAL[after]) / (max(1, n) * orbit)
        alone = alone + (1 - share) / CHORDS
        seen = _count(self.first, _NORMAL[before])
        weight = seen / np.maximum(1, seen + _count(self.followers, _NORMAL[before]))
        both = _count(self.pairs, _class_of_pair(before, after))
        ways = _SELF[before] / _self_of_pair(before, after)
        return np.asarray(weight * both / (np.maximum(1, seen) * ways) + (1 - weight) * alone)

    def nats(self, found: Chords) -> Float[np.ndarray, " B"]:
        """-log P of each chord given the one before it, mean over the beats of each roll; NaN with fewer than two.

        From 0 on. Trap: it is low if nothing happens, as in silence or one held chord; a blend without clear chords may
        be likely. Compare it with held-out music, and with the ends of the path.
        """
        before, after = found[:, :-1], found[:, 1:]
        if before.shape[1] == 0:
            return np.full(len(found), np.nan)
        p = self.probability(before.reshape(-1), after.reshape(-1)).reshape(before.shape)
        return np.asarray(-np.log(p).mean(axis=1))


def _class_of_pair(before: Int[np.ndarray, " M"], after: Int[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
    """One number for all transpositions of a pair."""
    if len(before) == 0:
        return np.zeros(0, np.int64)
    return np.asarray((_TURNED[:, before] * CHORDS + _TURNED[:, after]).min(axis=0))


def _self_of_pair(before: Int[np.ndarray, " M"], after: Int[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
    """How many transpositions leave both chords as they are."""
    return np.asarray(((_TURNED[:, before] == before) & (_TURNED[:, after] == after)).sum(axis=0))


def _count(counts: pd.Series, wanted: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
    """How often each was counted; 0 if it was not."""
    return counts.reindex(wanted, fill_value=0).to_numpy(np.int64)


# --- how far parts are from each other --------------------------------------------------------------------------------
def _centroid_matrix() -> Float[np.ndarray, "12 6"]:
    """Harte et al. 2006, equation 1: a pitch class on the circles of fifths, minor and major thirds."""
    pitch_class = np.arange(12)
    circles = ((7 * np.pi / 6, 1.0), (3 * np.pi / 2, 1.0), (2 * np.pi / 3, 0.5))
    return np.stack([r * turn(pitch_class * angle) for angle, r in circles for turn in (np.sin, np.cos)], axis=1)


_CENTROID = _centroid_matrix()


def tonal_distance(planes: Planes, layout: Layout) -> Float[np.ndarray, " B"]:
    """Mean distance between the tonal centroids of two parts in a beat, over all pairs of parts and all beats.

    The centroid of a part in a beat is the mean, over its cells, of the points of their pitch classes in Harte's space
    of six dimensions; 0 if two parts play the same pitch classes, at most 3. Only beats in which both parts sound
    count. NaN if there is no such beat, as with one part. Source: MuseGAN's TD. Traps avoided: a chroma from a
    reshape that groups neighbouring pitches (Pypianoroll's `tonal_distance`); silence as a point at the origin, which
    is near all others.
    """
    parts = layout.pitched
    n_beats = planes.shape[1] // layout.steps_per_beat
    frames = planes[:, : n_beats * layout.steps_per_beat][:, :, parts, FRAME]
    shape = (len(planes), n_beats, layout.steps_per_beat, len(parts), layout.pitches)
    cells = np.count_nonzero(frames.reshape(shape), axis=2)  # [B, Q, N, P]
    space = _CENTROID[(layout.pitch_low + np.arange(layout.pitches)) % 12]
    n = cells.sum(axis=3)
    centroid = (cells @ space) / np.maximum(n, 1)[..., None]  # [B, Q, N, 6]
    total, counted = np.zeros(len(planes)), np.zeros(len(planes), np.int64)
    for a, b in combinations(range(len(parts)), 2):
        both = (n[:, :, a] > 0) & (n[:, :, b] > 0)
        far = np.sqrt(((centroid[:, :, a] - centroid[:, :, b]) ** 2).sum(axis=2))
        total += np.where(both, far, 0).sum(axis=1)
        counted += np.count_nonzero(both, axis=1)
    return np.asarray(np.where(counted > 0, total / np.maximum(counted, 1), np.nan))
