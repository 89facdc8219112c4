"""Windows of a corpus: where they start and stop, and the planes that a view shows of them.

A window is given by the row of the corpus where it starts. Rows after the end of its piece are silent.

Shapes:
    S  steps of all pieces    X  bytes of one packed step    W  windows    B  windows that are cut
    C  chains, C1 = C + 1     N  parts    M  parts that the view shows    P  pitches    H  hashes

Offers: `Windows`, `find_windows`, `Chains`, `find_chains`, `least_steps`, `cut_planes`, `cut_windows`,
`select_planes`, `sample_layout`, `corpus_bar_hashes`, `epoch_order`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64

from midivae.config.streams import Stream
from midivae.config.train import View
from midivae.errors import ParamsError
from midivae.measures import hashes
from midivae.music import roll
from midivae.music.roll import FRAME, Layout, unpack
from midivae.windows.corpus import Corpus

MERGED = "merged"  # the one part of a view that merges parts
_BARS_AT_ONCE = 4096  # bars that are cut and hashed at once


@dataclass(frozen=True)
class Windows:
    """Where windows lie in a corpus.

    Attributes:
        start: row of `packed` at which each window starts.
        stop: row at which its piece ends; this row and all later ones are silent.
        piece: number of its piece.
    """

    start: Int[np.ndarray, " W"]
    stop: Int[np.ndarray, " W"]
    piece: Int[np.ndarray, " W"]

    def __len__(self) -> int:
        return len(self.start)

    def take(self, index: Int[np.ndarray, " B"]) -> Windows:
        """The windows with these numbers."""
        return Windows(self.start[index], self.stop[index], self.piece[index])


def find_windows(corpus: Corpus, view: View) -> Windows:
    """All windows of the view, in the order of pieces: one at every bar line, or every `view.hop` steps.

    A window that extends beyond its piece is kept if at least `view.min_fill` of its steps, rounded up, lie inside it.
    """
    length = np.diff(corpus.starts)
    if view.hop == "bar":
        counts = np.array([len(bars) for bars in corpus.bar_starts], np.int64)
        step = np.concatenate([np.zeros(0, np.int64), *corpus.bar_starts])
    else:
        counts = -(-length // view.hop)
        step = roll.runs(np.zeros(len(length), np.int64), counts) * view.hop
    piece = np.repeat(np.arange(len(length)), counts)
    keep = step + least_steps(view) <= length[piece]
    piece, step = piece[keep], step[keep]
    return Windows(corpus.starts[piece] + step, corpus.starts[piece + 1], piece)


@dataclass(frozen=True)
class Chains:
    """Windows that follow each other without a gap.

    Attributes:
        windows: of all chains, in the order of chains.
        starts: chain i is the windows `starts[i]` to `starts[i + 1] - 1`.
        at_start: whether the first window of a chain is the first of its piece.
    """

    windows: Windows
    starts: Int[np.ndarray, " C1"]
    at_start: Bool[np.ndarray, " C"]

    def __len__(self) -> int:
        return len(self.at_start)


def find_chains(corpus: Corpus, view: View) -> Chains:
    """The chains of the view: one from every window start in the first `view.steps` steps of each piece."""
    windows = find_windows(corpus, view)
    step = windows.start - corpus.starts[windows.piece]
    first = np.flatnonzero(step < view.steps)  # the first window of each chain
    length = np.diff(corpus.starts)[windows.piece[first]]
    counts = (length - least_steps(view) - step[first]) // view.steps + 1
    link = roll.runs(np.zeros(len(first), np.int64), counts)  # 0, 1, ... along each chain
    linked = windows.take(np.repeat(first, counts))
    chained = replace(linked, start=linked.start + link * view.steps)
    return Chains(chained, np.concatenate([[0], np.cumsum(counts)]), step[first] == 0)


def least_steps(view: View) -> int:
    """The minimum steps of a window inside its piece; the small term removes the float error (0.7 * 10 > 7)."""
    return max(1, int(np.ceil(view.min_fill * view.steps - 1e-9)))


def cut_planes(
    corpus: Corpus, windows: Windows, index: Int[np.ndarray, " B"], view: View
) -> Bool[np.ndarray, "B {view.steps} N {view.n_planes} P"]:
    """The windows with these numbers, as the view shows them."""
    return cut_windows(corpus.packed, corpus.layout, windows.start[index], windows.stop[index], view)


def cut_windows(
    packed: UInt8[np.ndarray, "S X"],
    layout: Layout,
    start: Int[np.ndarray, " B"],
    stop: Int[np.ndarray, " B"],
    view: View,
) -> Bool[np.ndarray, "B {view.steps} N {view.n_planes} P"]:
    """The windows that start at these rows of a bit matrix, as the view shows them; silent from row `stop` on."""
    rows = start[:, None] + np.arange(view.steps)  # [B, T]
    inside = rows < stop[:, None]
    steps = np.asarray(packed[np.where(inside, rows, 0)]) * inside[..., None].astype(np.uint8)
    return select_planes(unpack(steps, layout), layout, view)


def sample_layout(layout: Layout, view: View) -> Layout:
    """The layout of a model's windows and samples: one part named "merged" if the view merges parts.

    Raises:
        ParamsError: the view merges parts and the rolls have only drums.
    """
    if not view.merge_parts:
        return layout
    if not layout.pitched:
        raise ParamsError(
            f"train.view.merge_parts excludes drums, and the parts are {list(layout.parts)}: nothing is left; "
            "set it to false, or ingest other parts"
        )
    return replace(layout, parts=(MERGED,))


def select_planes(
    planes: Bool[np.ndarray, "*B N 2 P"], layout: Layout, view: View
) -> Bool[np.ndarray, "*B M {view.n_planes} P"]:
    """The parts and planes that a view shows."""
    if view.merge_parts:
        planes = np.asarray(planes[..., layout.pitched, :, :].any(axis=-3, keepdims=True))
    return planes if view.n_planes == 2 else planes[..., FRAME : FRAME + 1, :]


def corpus_bar_hashes(corpus: Corpus, beats_per_bar: int) -> UInt64[np.ndarray, " H"]:
    """The hashes (`hashes.bar_hashes`) of the bars of all pieces, sorted, each once, without empty bars.

    Every bar has the same length, from its bar line on, also in pieces with another metre.
    """
    steps_per_bar = beats_per_bar * corpus.layout.steps_per_beat
    view = View(steps=steps_per_bar, hop="bar", planes="onset+frame", min_fill=0)
    bars = find_windows(corpus, view)
    unique = [np.zeros(0, np.uint64)]
    for index in np.array_split(np.arange(len(bars)), -(-len(bars) // _BARS_AT_ONCE) or 1):
        block = cut_planes(corpus, bars, index, view)
        unique.append(np.unique(hashes.bar_hashes(block, corpus.layout, steps_per_bar)))
    return np.setdiff1d(np.concatenate(unique), np.zeros(1, np.uint64))


def epoch_order(n_windows: int, seed: int, epoch: int) -> Int[np.ndarray, " W"]:
    """The order of windows in an epoch: a permutation that depends on these three numbers alone."""
    order: np.ndarray = Stream.WINDOW_ORDER.rng(seed, epoch=epoch).permutation(n_windows)
    return order
