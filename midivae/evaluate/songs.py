"""Songs beside whole pieces: longform.csv. Do they keep a key, resemble themselves, and end?

Shapes:
    T  steps    N  parts    K  planes    P  pitches    F  pairs of frames

Offers: `song_rows` and `SONG_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from midivae.evaluate.context import Context
from midivae.evaluate.held_out_distances import mean
from midivae.evaluate.measured_set import Reference
from midivae.evaluate.samples import MeasuredJob
from midivae.evaluate.windows import cut_pieces
from midivae.measures import cadences, distances, longform
from midivae.measures.control import Row
from midivae.music import roll
from midivae.storage.schema import ENDINGS
from midivae.windows.corpus import Corpus

_MEASURES = ("key_stability", "scale_stability", "pitch_overlap", "duration_overlap", *ENDINGS)
SONG_COLUMNS = (
    *("job", "form", "pieces", "bars", "real_pieces"),
    *(f"{prefix}{name}" for name in _MEASURES for prefix in ("", "real_")),
    *("pitch_consistency", "pitch_variance", "duration_consistency", "duration_variance"),
)
_PIECES = 1024  # of which endings are measured, evenly spaced


@dataclass(frozen=True)
class _LongForm:
    """Measures of pieces of many bars."""

    keys: list[longform.KeyStability]
    pitch: Float[np.ndarray, " F"]
    duration: Float[np.ndarray, " F"]

    @classmethod
    def of(cls, pieces: Sequence[Bool[np.ndarray, "T N 2 P"]], context: Context) -> _LongForm:
        bar = context.steps_per_bar
        overlaps = [longform.self_similarity(planes, context.layout, bar) for planes in pieces]
        return cls(
            [longform.key_stability(planes, context.layout, bar) for planes in pieces],
            np.concatenate([np.zeros(0), *(piece.pitch for piece in overlaps)]),
            np.concatenate([np.zeros(0), *(piece.duration for piece in overlaps)]),
        )

    def mean_of(self, share: Callable[[longform.KeyStability], float]) -> float:
        """A mean over the pieces that have a key."""
        return mean(np.array([share(keys) for keys in self.keys if keys.windows]))


def song_rows(job: MeasuredJob, reference: Reference, context: Context) -> list[Row]:
    """A row for each form in the job, beside held-out pieces cut to the length of its longest song.

    Endings are those of whole pieces.
    """
    n_steps, forms = job.of_first("n_steps").astype(np.int64), job.of_first("method")
    longest = int(n_steps.max())
    corpus = reference.held_out.corpus
    pieces = [_cut(corpus, piece, longest, context) for piece in range(len(corpus))]
    least = (longform.FRAME_BARS + longform.HOP_BARS) * context.steps_per_bar  # two frames
    real = _LongForm.of([planes for planes in pieces if len(planes) >= least], context)
    bars = longest // context.steps_per_bar
    rows = []
    for form in sorted(set(forms)):
        of_form = np.flatnonzero(forms == form)
        songs = [roll.unpack(job.rolls[row], context.layout)[: n_steps[row]] for row in of_form]
        row = {"job": job.name, "form": form, "bars": bars, **_long_row(_LongForm.of(songs, context), real)}
        rows.append(row | {name: mean(job.of_first(name)[of_form].astype(float)) for name in ENDINGS})
    real_endings = _endings(corpus, context)
    return [row | real_endings for row in rows]


def _endings(corpus: Corpus, context: Context) -> Row:
    """How held-out pieces end: means over at most `_PIECES` of them."""
    pieces = distances.evenly(len(corpus), _PIECES)
    ends = [cadences.endings(_cut(corpus, piece, None, context)[None], context.layout) for piece in pieces.tolist()]
    return {f"real_{name}": mean(np.concatenate([end[name] for end in ends])) for name in ENDINGS}


def _cut(corpus: Corpus, piece: int, most: int | None, context: Context) -> Bool[np.ndarray, "T N 2 P"]:
    """A whole piece, or its first `most` steps."""
    length = int(corpus.starts[piece + 1] - corpus.starts[piece])
    length = length if most is None else min(most, length)
    planes: np.ndarray = cut_pieces(corpus, np.array([piece]), np.array([0]), context.view, length)[0]
    return planes


def _long_row(songs: _LongForm, real: _LongForm) -> Row:
    pitch = longform.likeness(songs.pitch, real.pitch)
    duration = longform.likeness(songs.duration, real.duration)
    row: Row = {
        "pitch_consistency": pitch.consistency,
        "pitch_variance": pitch.variance,
        "duration_consistency": duration.consistency,
        "duration_variance": duration.variance,
    }
    for prefix, pieces in (("", songs), ("real_", real)):
        row |= {
            f"{prefix}pieces": len(pieces.keys),
            f"{prefix}key_stability": pieces.mean_of(lambda keys: keys.share),
            f"{prefix}scale_stability": pieces.mean_of(lambda keys: keys.scale_share),
            f"{prefix}pitch_overlap": mean(pieces.pitch),
            f"{prefix}duration_overlap": mean(pieces.duration),
        }
    return row
