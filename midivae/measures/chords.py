"""The chords of rolls: what kind of chord sounds on each beat, and how probable a chord is after another.

Source: Witten & Bell ("The zero-frequency problem", 1991), method C, for the bigram.

Conventions: drums are left out. A *chord* is the set of pitch classes that sound on the first step of a beat, as 12
bits, C the lowest; an empty set is a chord. For the bigram, transpositions of a chord, or of a pair of chords, count as
the same.

Shapes:
    B  rolls    T  steps    N  parts    K  planes    P  pitches    Q  whole beats

Offers: `chords`, `chord_of`; `TRIADS`, `THIRDS` and `kinds`; `Bigram`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Int64

from midivae.measures.notes import any_along, ratio
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
    return chord_of(any_along(on_beats, 2), layout)


def chord_of(heard: Bool[np.ndarray, "*B P"], layout: Layout) -> Int64[np.ndarray, "*B"]:
    """The pitch classes of pitches that sound together, as bits."""
    bit = 1 << (layout.pitch_low + np.arange(layout.pitches)) % 12
    found: np.ndarray = np.bitwise_or.reduce(np.where(heard, bit, 0), axis=-1).astype(np.int64)
    return found


# --- what kind of chord -----------------------------------------------------------------------------------------------
def _all_of(*shapes: tuple[int, ...]) -> Bool[np.ndarray, 4096]:
    """Which chords have one of these shapes: semitones above a root, which may be any pitch class."""
    among = np.zeros(CHORDS, bool)
    among[_TURNED[:, [sum(1 << tone for tone in shape) for shape in shapes]]] = True
    return among


TRIADS = _all_of((0, 4, 7), (0, 3, 7), (0, 3, 6), (0, 4, 8))
THIRDS = _all_of((0, 3), (0, 4))  # a triad without its fifth, or without its root
_SEVENTHS = _all_of(
    *((0, 4, 7, 10), (0, 4, 7, 11), (0, 3, 7, 10), (0, 3, 7, 11), (0, 3, 6, 10), (0, 3, 6, 9), (0, 4, 8, 11)),
    *((0, 4, 10), (0, 4, 11), (0, 3, 10), (0, 3, 11)),  # without their fifth
)
_SEVERAL = np.bitwise_count(_EVERY) > 1


def kinds(found: Chords) -> dict[str, Float[np.ndarray, " B"]]:
    """The kinds of chords, as shares of the beats on which two or more pitch classes sound; NaN without such a beat.

    `triad_share`: major, minor, diminished and augmented triads, in any inversion and spacing. `seventh_share`: seventh
    chords; they may lack their fifth. `no_tertian_share`: chords that are not built of thirds, such as suspensions,
    clusters and bare fifths; a third alone is in none of the three. Trap: passing notes and suspensions on the beat are
    music; compare with held-out music.
    """
    n = np.count_nonzero(_SEVERAL[found], axis=1)
    tables = {
        "triad_share": TRIADS,
        "seventh_share": _SEVENTHS,
        "no_tertian_share": _SEVERAL & ~(TRIADS | _SEVENTHS | THIRDS),
    }
    return {name: ratio(np.count_nonzero(table[found], axis=1), n) for name, table in tables.items()}


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
