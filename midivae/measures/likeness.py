"""How alike two rolls are: cell by cell, and beat by beat in any transposition; how much the rolls of a set differ.

Shapes:
    B  rolls    W  rolls to compare with    T  steps    N  parts    K  planes    P  pitches    Q  whole beats

Offers: `matched` and `Match` (F1 and exact steps), `apart` (share of cells that differ),
`pairwise_apart`; `beat_chroma` and `nearest` (the nearest of many rolls, transposition aside).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from midivae.music.roll import FRAME, ONSET, Layout

_QUERIES_AT_ONCE, _REFERENCES_AT_ONCE = 256, 4096

Planes = Bool[np.ndarray, "B T N 2 P"]


# --- cell by cell -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Match:
    """How well rolls agree with those they should equal; the one rule of F1 for training, evaluation and report.

    Attributes:
        onset_f1, frame_f1: harmonic mean of precision and recall over all cells of all rolls together. 0 / 0, where
            neither has a cell, is NaN: no value.
        exact_steps: share of the steps on which every cell of every part is right, onsets and frames.
    """

    onset_f1: float
    frame_f1: float
    exact_steps: float

    @classmethod
    def of(cls, counts: Int64[np.ndarray, " 6"]) -> Match:
        """From the counts of `matched`.

        The F1 of frames is that of `mir_eval.multipitch` on the grid. That of onsets requires the exact step, where
        `mir_eval.transcription` allows 50 ms. Cells are summed over rolls before the quotient is taken: a mean of
        quotients would let short quiet rolls weigh as much as full ones.
        """
        right_onsets, both_onsets, right_frames, both_frames, exact, steps = counts.tolist()
        return cls(
            2 * right_onsets / both_onsets if both_onsets else np.nan,
            2 * right_frames / both_frames if both_frames else np.nan,
            exact / steps if steps else np.nan,
        )


def matched(rolls: Planes, wanted: Planes) -> Int64[np.ndarray, " 6"]:
    """Counts for `Match.of`; they add up over blocks of rolls."""
    right = np.count_nonzero(rolls & wanted, axis=(0, 1, 2, 4))  # [K]
    both = np.count_nonzero(rolls, axis=(0, 1, 2, 4)) + np.count_nonzero(wanted, axis=(0, 1, 2, 4))
    exact = (rolls == wanted).all(axis=(2, 3, 4))
    counts = (right[ONSET], both[ONSET], right[FRAME], both[FRAME], np.count_nonzero(exact), exact.size)
    return np.array(counts, np.int64)


def apart(x: Planes, y: Planes) -> Float[np.ndarray, " B"]:
    """The share of cells that sound in only one of two rolls, among those that sound in either.

    Jaccard's distance of the frame planes: from 0, the same cells, to 1, none in common; 0 for two silent rolls. It
    is a metric: the triangle inequality holds. Trap: counting all cells (Hamming), most of which are silent.
    """
    a, b = x[:, :, :, FRAME], y[:, :, :, FRAME]
    differ, either = np.count_nonzero(a ^ b, axis=(1, 2, 3)), np.count_nonzero(a | b, axis=(1, 2, 3))
    return np.asarray(differ / np.maximum(either, 1))


def pairwise_apart(planes: Planes) -> Float[np.ndarray, " _"]:
    """`apart` of all pairs of rolls, each pair once."""
    cells = planes[:, :, :, FRAME].reshape(len(planes), -1).astype(np.float32)
    shared = cells @ cells.T  # whole numbers below 2**24: exact
    n = np.diag(shared)
    either = n[:, None] + n - shared
    first, second = np.triu_indices(len(planes), 1)
    return np.asarray(1 - np.where(either > 0, shared / np.maximum(either, 1), 1)[first, second]).astype(np.float64)


# --- beat by beat, in any transposition -------------------------------------------------------------------------------
def beat_chroma(planes: Planes, layout: Layout) -> Bool[np.ndarray, "B Q 12"]:
    """Which pitch classes sound during each whole beat, C first; drums left out."""
    pitched = layout.pitched
    n_beats = planes.shape[1] // layout.steps_per_beat
    frames = planes[:, : n_beats * layout.steps_per_beat][:, :, pitched, FRAME]
    beats = np.asarray(
        frames.reshape(len(planes), n_beats, layout.steps_per_beat * len(pitched), layout.pitches).any(axis=2)
    )  # [B, Q, P]
    chroma = np.zeros((len(planes), n_beats, 12), bool)
    for pitch_class in range(12):
        chroma[:, :, pitch_class] = beats[:, :, (pitch_class - layout.pitch_low) % 12 :: 12].any(axis=2)
    return chroma


def nearest(
    queries: Bool[np.ndarray, "B Q 12"], references: Bool[np.ndarray, "W Q 12"]
) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """The nearest reference of each query, over all twelve transpositions.

    The distance is Jaccard's of the cells (beat, pitch class): cells in only one, among those in either. It ignores
    octaves, parts, and rhythm below the beat. So a copy has distance 0, and so has the same harmony in another texture.
    All references are compared, by products of matrices of zeros and ones.

    Returns:
        `(index, semitones, distance)`: the number of the reference (the first of those that tie), by how many semitones
        it is moved up (0 to 11), and its distance. -1, 0 and NaN for a query without music, or without references.
    """
    index = np.full(len(queries), -1, np.int64)
    semitones, distance = np.zeros(len(queries), np.int64), np.full(len(queries), np.nan)
    for first in range(0, len(queries) if len(references) else 0, _QUERIES_AT_ONCE):
        block = np.arange(first, min(first + _QUERIES_AT_ONCE, len(queries)))
        index[block], likeness = _likeliest(queries[block], references)
        nearest_of = references[index[block]]
        turned = np.stack([np.roll(nearest_of, by, axis=2) for by in range(12)], axis=1)  # [B, 12, Q, 12]
        shared = np.count_nonzero(turned & queries[block][:, None], axis=(2, 3))
        semitones[block], distance[block] = shared.argmax(axis=1), 1 - likeness
    silent = np.flatnonzero(np.count_nonzero(queries, axis=(1, 2)) == 0)
    index[silent], semitones[silent], distance[silent] = -1, 0, np.nan
    return index, semitones, distance


def _likeliest(
    queries: Bool[np.ndarray, "B Q 12"], references: Bool[np.ndarray, "W Q 12"]
) -> tuple[Int64[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """The reference with the greatest share of cells in common, in its best transposition, and that share."""
    turned = [_rows(np.roll(queries, -by, axis=2)) for by in range(12)]
    n_queries = turned[0].sum(axis=1)
    best, at = np.full(len(queries), -1.0), np.full(len(queries), -1, np.int64)
    for first in range(0, len(references), _REFERENCES_AT_ONCE):
        rows = _rows(references[first : first + _REFERENCES_AT_ONCE])
        shared = turned[0] @ rows.T
        for transposed in turned[1:]:
            np.maximum(shared, transposed @ rows.T, out=shared)
        share = shared.astype(np.float64) / np.maximum(n_queries[:, None] + rows.sum(axis=1) - shared, 1)
        place = share.argmax(axis=1)
        value = share[np.arange(len(queries)), place]
        better = value > best
        best, at = np.where(better, value, best), np.where(better, first + place, at)
    return at, best


def _rows(chroma: Bool[np.ndarray, "B Q 12"]) -> Float32[np.ndarray, "B C"]:
    return chroma.reshape(len(chroma), -1).astype(np.float32)
