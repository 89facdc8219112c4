"""Long form: does music of many bars stay in its key, stay like itself, and continue without a break?

Source: Mittal, Engel, Hawthorne & Simon ("Symbolic music generation with diffusion models", ISMIR 2021), section 4:
framewise self-similarity, consistency and variance.

Where we differ from Mittal et al.:
    1. The overlapping area of two normal distributions is exact. Their code uses one point at which the densities
       cross, the one between the means. There is a second one if the variances differ. If they are equal, its fraction
       is 0 / 0, kept finite by a small term, and the area is 0.5.
    2. A distribution is at least as wide as the error of the grid (uniform, one semitone or one step): a repeated pitch
       would have a width of 0.
    3. A note belongs to the frame in which it starts, and keeps its length; their code cuts it at the frame's ends.
    4. Frames without a note are left out, with both their pairs; in their code such frames have a mean of 0.

Shapes:
    B  rolls    T  steps    N  parts    K  planes    P  pitches    F  frames

Offers: `KeyStability` and `key_stability`; `Overlaps` and `self_similarity`, `Likeness` and `likeness`; `Seams` and
`seams`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int

from midivae.measures import features
from midivae.measures.keys import best_scale, major_of
from midivae.measures.notes import chroma
from midivae.music.roll import Layout, cell_runs

FRAME_BARS, HOP_BARS = 4, 2  # of Mittal et al.
_UNIFORM_SD = 1 / math.sqrt(12)  # standard deviation of the rounding error of whole numbers

Planes = Bool[np.ndarray, "B T N 2 P"]


# --- key --------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class KeyStability:
    """How many windows of a piece are in its key.

    Attributes:
        windows: windows that have a key.
        same: windows whose best key is that of the piece.
        same_scale: the same, with relative major and minor keys counted as one.
    """

    windows: int
    same: int
    same_scale: int

    @property
    def share(self) -> float:
        """The key stability; NaN without a window."""
        return self.same / self.windows if self.windows else np.nan

    @property
    def scale_share(self) -> float:
        """The same, with relative keys counted as one."""
        return self.same_scale / self.windows if self.windows else np.nan


def key_stability(planes: Bool[np.ndarray, "T N 2 P"], layout: Layout, steps_per_bar: int) -> KeyStability:
    """The share of 4-bar windows, one after the other, whose best key (`keys.best_scale`) is the whole's.

    Traps: music in one key and its relative minor moves between two names of one scale (`same_scale`); a short piece
    has few windows, so compare pieces of one length; drums, and windows without pitches, have no key.
    """
    steps = FRAME_BARS * steps_per_bar
    n = len(planes) // steps
    windows = planes[: n * steps].reshape(n, steps, *planes.shape[1:])
    whole = int(best_scale(chroma(planes[None], layout))[0][0])
    keys, _ = best_scale(chroma(windows, layout))
    keys = keys[keys >= 0]
    return KeyStability(
        len(keys),
        int((keys == whole).sum()),
        int((major_of(keys) == major_of(np.array([whole]))).sum()),
    )


# --- self-similarity --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Overlaps:
    """Overlapping areas of neighbouring frames, from 0 (nothing in common) to 1 (alike)."""

    pitch: Float[np.ndarray, " F"]
    duration: Float[np.ndarray, " F"]


def self_similarity(planes: Bool[np.ndarray, "T N 2 P"], layout: Layout, steps_per_bar: int) -> Overlaps:
    """How alike the notes of neighbouring frames are; a frame has 4 bars, and one begins every 2 bars.

    A normal distribution is fitted to the pitches, in semitones, and to the lengths, in steps, of the notes that start
    in each frame; drums left out.
    """
    steps, hop = FRAME_BARS * steps_per_bar, HOP_BARS * steps_per_bar
    _, _, row, onset, offset = cell_runs(planes[None][:, :, layout.pitched])
    frames = [(onset >= start) & (onset < start + steps) for start in range(0, len(planes) - steps + 1, hop)]
    pairs = [(a, b) for a, b in pairwise(frames) if a.any() and b.any()]
    return Overlaps(
        *(
            np.array([_normal(values[a]).overlap(_normal(values[b])) for a, b in pairs])
            for values in (row, offset - onset)
        )
    )


def _normal(values: Int[np.ndarray, " M"]) -> NormalDist:
    """The normal distribution fitted to values, at least as wide as the grid makes it."""
    return NormalDist(float(values.mean()), max(float(values.std()), _UNIFORM_SD))


@dataclass(frozen=True)
class Likeness:
    """How near the overlaps of a set are to those of real music (Mittal et al. 2021, equations 5 and 6).

    Attributes:
        consistency: 1 - |mean - real mean| / real mean, and at least 0.
        variance: the same of the variances.
    """

    consistency: float
    variance: float


def likeness(mine: Float[np.ndarray, " F"], real: Float[np.ndarray, " G"]) -> Likeness:
    """Compares the overlaps of a set with those of real music; NaN with fewer than two of either.

    Trap: a loop has overlaps of 1, which is not better. Both measures are nearness to real music.
    """
    if len(mine) < 2 or len(real) < 2:
        return Likeness(np.nan, np.nan)
    pairs = ((mine.mean(), real.mean()), (mine.var(), real.var()))
    near = [max(0.0, 1 - abs(float(a) - float(b)) / float(b)) if b > 0 else np.nan for a, b in pairs]
    return Likeness(*near)


# --- seams ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seams:
    """What changes from the bars before a line to the bars after it, in each roll.

    Attributes:
        density: absolute difference of the notes per beat.
        fifths: distance of the notes' centroids on the circle of fifths (`keys.fifths`), 0 to 2; NaN if either
            side has no pitches.
        same_key: whether the best key is the same; NaN likewise.
    """

    density: Float[np.ndarray, " B"]
    fifths: Float[np.ndarray, " B"]
    same_key: Float[np.ndarray, " B"]


def seams(before: Planes, after: Planes, layout: Layout) -> Seams:
    """The seam at a line in each roll, from as many steps before it as after it.

    Compare it with the same measure at the bar lines of real music, where music changes as well.
    """
    a, b = features.attributes(before, layout), features.attributes(after, layout)
    apart = np.hypot(a["fifths_x"] - b["fifths_x"], a["fifths_y"] - b["fifths_y"])
    keys = [best_scale(chroma(side, layout))[0] for side in (before, after)]
    both = (keys[0] >= 0) & (keys[1] >= 0)
    return Seams(np.abs(a["density"] - b["density"]), apart, np.where(both, keys[0] == keys[1], np.nan))
