"""Two trivial generators that a model must beat, fitted to training windows by counting.

    bernoulli   every cell independently: a pitch of a part is off, struck or held with the shares it has in training
    markov      every pitch of a part independently: a chain over steps between these three states, with the shares of
                the transitions in training; it models the length of notes, but neither harmony nor bars

Boulanger-Lewandowski et al. 2012 and others compare likelihoods with such models; here samples are drawn from them. A
model whose distance to music is no smaller than theirs has learned nothing.

Shapes:
    B  rolls    T  steps    N  parts    K  planes    P  pitches    S  the states off, onset, hold

Conventions: a frame that follows no frame is an onset, as in `roll.starts`; so a window that begins inside a note
begins with its onset. A cell that is drawn as held after silence is struck.

Offers: `NAMES`, `Counts` (`count`, and they add), `draw`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from midivae.config.streams import Stream
from midivae.music.roll import FRAME, ONSET, sounding, starts

Name = Literal["bernoulli", "markov"]
NAMES: tuple[Name, ...] = ("bernoulli", "markov")
OFF, STRUCK, HELD = 0, 1, 2
_ROLLS_AT_ONCE = 128


@dataclass(frozen=True)
class Counts:
    """Counts of cells in windows.

    Attributes:
        first: how often a pitch of a part is in each state on the first step.
        then: how often it goes from one state (second last axis) to another (last axis).
    """

    first: Int64[np.ndarray, "N P 3"]
    then: Int64[np.ndarray, "N P 3 3"]

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.first + other.first, self.then + other.then)


def states(planes: Bool[np.ndarray, "B T N 2 P"]) -> UInt8[np.ndarray, "B T N P"]:
    """The state of every cell."""
    return np.where(starts(planes), STRUCK, np.where(sounding(planes), HELD, OFF)).astype(np.uint8)


def count(planes: Bool[np.ndarray, "B T N 2 P"]) -> Counts:
    """The counts of some windows."""
    cells = states(planes)
    first = [np.count_nonzero(cells[:, 0] == state, axis=0) for state in range(3)]
    pairs = 3 * cells[:, :-1] + cells[:, 1:]
    then = [np.count_nonzero(pairs == pair, axis=(0, 1)) for pair in range(9)]
    parts, pitches = cells.shape[2:]
    return Counts(
        np.stack(first, axis=-1).astype(np.int64),
        np.stack(then, axis=-1).reshape(parts, pitches, 3, 3).astype(np.int64),
    )


def draw(name: Name, counts: Counts, n: int, steps: int, seed: int) -> Iterator[Bool[np.ndarray, "B {steps} N 2 P"]]:
    """`n` rolls of a generator, a block at a time; roll i does not depend on n."""
    first, then = _chances(name, counts)
    for block, done in enumerate(range(0, n, _ROLLS_AT_ONCE)):
        block_rng = Stream.BASELINE.rng(seed, generator=NAMES.index(name), block=block)
        yield _block(first, then, steps, block_rng)[: n - done]


def _chances(name: Name, counts: Counts) -> tuple[Float[np.ndarray, "N P 3"], Float[np.ndarray, "N P 3 3"]]:
    """How likely each state is on the first step, and after each state."""
    if name == "markov":
        return _shares(counts.first), _shares(counts.then)
    every = _shares(counts.first + counts.then.sum(axis=2))  # on any step: the first step, and all transitions to it
    return every, np.repeat(every[:, :, None], 3, axis=2)


def _shares(counts: Int64[np.ndarray, "*A 3"]) -> Float[np.ndarray, "*A 3"]:
    """Counts as shares; after a state without counts comes off."""
    total = counts.sum(axis=-1, keepdims=True)
    off = np.array([1.0, 0.0, 0.0])
    return np.asarray(np.where(total > 0, counts / np.maximum(total, 1), off))


def _block(
    first: Float[np.ndarray, "N P 3"], then: Float[np.ndarray, "N P 3 3"], steps: int, rng: np.random.Generator
) -> Bool[np.ndarray, "B {steps} N 2 P"]:
    parts, pitches = first.shape[:2]
    planes = np.empty((_ROLLS_AT_ONCE, steps, parts, 2, pitches), bool)
    part, pitch = np.ix_(np.arange(parts), np.arange(pitches))
    state = np.zeros((_ROLLS_AT_ONCE, parts, pitches), np.intp)
    for step in range(steps):
        chance = first if step == 0 else then[part, pitch, state]  # [(B) N P S]
        uniform = rng.random(state.shape)
        drawn = (uniform >= chance[..., 0]).astype(np.intp) + (uniform >= chance[..., 0] + chance[..., 1])
        state = np.where((drawn == HELD) & (state == OFF), STRUCK, drawn)
        planes[:, step, :, FRAME] = state != OFF
        planes[:, step, :, ONSET] = state == STRUCK
    return planes
