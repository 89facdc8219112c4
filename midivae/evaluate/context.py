"""What sets of music are measured against: facts of the training pieces, the held-out windows, the encoder.

Shapes:
    W  training windows    Q  beats    T  steps    N  parts    P  pitches

Offers: `Context` and `context_of`; `HeldOut` and `held_out_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt64

from midivae.config.evaluate import Evaluate
from midivae.config.train import View
from midivae.errors import InputError
from midivae.evaluate.windows import slices
from midivae.measures import baselines, chords, distances, likeness
from midivae.measures.baselines import Counts
from midivae.measures.chords import Bigram
from midivae.models import WindowModel
from midivae.music.roll import Layout
from midivae.windows.corpus import Corpus, load_corpus
from midivae.windows.windows import Windows, corpus_bar_hashes, cut_planes, find_windows, sample_layout

PHRASES = (1, 2, 4)  # lengths, in bars, of the phrases that are looked up in the training pieces


@dataclass(frozen=True)
class Context:
    """What sets are measured against.

    Attributes:
        view: of the model's windows, but with both planes.
        layout: of the samples: one part if the model merges parts.
        phrases: by length in bars, the hashes of all phrases in training pieces.
        chroma, piece_ids, starts: the training windows in which neighbours are searched.
        counts: for the trivial generators.
        bigram: of chords.
        encoder: the model whose encoder gives latents.
    """

    view: View
    layout: Layout
    beats_per_bar: int
    phrases: dict[int, UInt64[np.ndarray, " _"]]
    chroma: Bool[np.ndarray, "W Q 12"]
    piece_ids: np.ndarray
    starts: Int[np.ndarray, " W"]
    counts: Counts
    bigram: Bigram
    encoder: WindowModel

    @property
    def steps_per_bar(self) -> int:
        """Steps of a bar."""
        return self.beats_per_bar * self.layout.steps_per_beat


def context_of(training: Corpus, encoder: WindowModel, settings: Evaluate) -> Context:
    """Collects the facts of the training pieces."""
    view = encoder.config.view.model_copy(update={"planes": "onset+frame"})
    layout = sample_layout(training.layout, view)
    windows = find_windows(training, view)
    index = distances.evenly(len(windows), settings.training_windows)
    chroma = [np.zeros((0, view.steps // layout.steps_per_beat, 12), bool)]
    counts = baselines.count(np.zeros((0, view.steps, len(layout.parts), 2, layout.pitches), bool))
    for block in slices(index):
        planes = cut_planes(training, windows, block, view)
        chroma.append(likeness.beat_chroma(planes, layout))
        counts += baselines.count(planes)
    return Context(
        view=view,
        layout=layout,
        beats_per_bar=settings.beats_per_bar,
        phrases={bars: corpus_bar_hashes(training, bars * settings.beats_per_bar) for bars in PHRASES},
        chroma=np.concatenate(chroma),
        piece_ids=np.array(training.piece_ids)[windows.piece[index]],
        starts=windows.start[index] - training.starts[windows.piece[index]],
        counts=counts,
        bigram=_bigram(training, view, layout, settings.training_windows),
        encoder=encoder,
    )


def _bigram(training: Corpus, view: View, layout: Layout, most: int) -> Bigram:
    """Fitted to windows without overlap and without silence beyond a piece's end, so that each chord counts once."""
    apart = view.model_copy(update={"hop": view.steps, "min_fill": 1.0})
    windows = find_windows(training, apart)
    found = [np.zeros((0, view.steps // layout.steps_per_beat), np.int64)]
    blocks = slices(distances.evenly(len(windows), most))
    found += [chords.chords(cut_planes(training, windows, index, apart), layout) for index in blocks]
    return Bigram.fit(np.concatenate(found))


@dataclass(frozen=True)
class HeldOut:
    """The pieces of splits valid and test, and their windows."""

    corpus: Corpus
    windows: Windows

    @property
    def starts(self) -> Int[np.ndarray, " B"]:
        """The step of its piece on which each window starts."""
        starts: np.ndarray = self.windows.start - self.corpus.starts[self.windows.piece]
        return starts

    @property
    def piece_ids(self) -> list[str]:
        """The piece of each window."""
        return [self.corpus.piece_ids[piece] for piece in self.windows.piece.tolist()]


def held_out_of(rolls: Path, view: View) -> HeldOut:
    """The held-out windows.

    Raises:
        InputError: there are none.
    """
    corpus = load_corpus(rolls, ["valid", "test"])
    windows = find_windows(corpus, view)
    if len(windows) == 0:
        raise InputError(
            f"no window of {view.steps} steps in the {len(corpus)} pieces of splits valid and test; hold out more "
            "pieces (ingest.split), or shorten train.view.steps"
        )
    return HeldOut(corpus, windows)
