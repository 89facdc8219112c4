"""Sets of music as blocks of windows, so that thousands of windows need the memory of one block.

Shapes:
    B  windows    M  rolls    S  steps of a roll    T  steps of a window    N  parts    P  pitches
    X  bytes of a packed step

Offers: `slices`; `windows_of_pieces`, `windows_of_rolls`, `unpacked`; `cut_pieces`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int, UInt8

from midivae.config.train import View
from midivae.music import roll
from midivae.music.roll import Layout
from midivae.windows.corpus import Corpus
from midivae.windows.windows import Windows, cut_planes

AT_ONCE = 512  # windows of a block

Planes = Bool[np.ndarray, "B T N 2 P"]
Index = Int[np.ndarray, " _"]


def slices(index: Index) -> Iterator[Index]:
    """Numbers of windows, a block at a time."""
    return (index[first : first + AT_ONCE] for first in range(0, len(index), AT_ONCE))


def windows_of_pieces(corpus: Corpus, windows: Windows, view: View) -> Iterator[Planes]:
    """Windows of pieces."""
    return (cut_planes(corpus, windows, index, view) for index in slices(np.arange(len(windows))))


def windows_of_rolls(
    rolls: UInt8[np.ndarray, "M S X"], sample: Index, start: Index, steps: int, layout: Layout
) -> Iterator[Planes]:
    """Windows of packed rolls: the number of the roll of each, and the step on which it starts."""
    for block in slices(np.arange(len(sample))):
        yield roll.unpack(rolls[sample[block, None], start[block, None] + np.arange(steps)], layout)


def unpacked(packed: UInt8[np.ndarray, "M S X"], layout: Layout) -> Iterator[Planes]:
    """Packed rolls, unpacked a block at a time."""
    return (roll.unpack(packed[index], layout) for index in slices(np.arange(len(packed))))


def cut_pieces(
    corpus: Corpus, piece: Index, start: Index, view: View, steps: int
) -> Bool[np.ndarray, "M {steps} N 2 P"]:
    """`steps` steps of pieces from the given ones on, in the layout of samples; silence beyond their end."""
    first = corpus.starts[piece] + start
    places = Windows(first, corpus.starts[piece + 1], piece)
    longer = view.model_copy(update={"steps": steps, "planes": "onset+frame"})
    return cut_planes(corpus, places, np.arange(len(piece)), longer)
