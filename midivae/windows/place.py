"""Where a step lies: in its bar, and how many bars from the start and from the end of its piece.

A model reads four numbers of each step:

    since    steps since the last bar line
    until    steps until the next bar line
    before   bars of the piece before this one: exact below 8, then in classes (8, 10, 12, 16 and 24 up)
    after    bars of the piece after this one, in the same classes; `ENDED` behind the end of the piece

A first bar that is shorter than the most frequent bar of its piece is a pickup: its steps count as the last ones of a
whole bar. `UNKNOWN` stands for `before` and `after` where nobody knows them.

Shapes:
    S  steps    R  bars    B  windows

Offers: `PLACES`, `UNKNOWN`, `ENDED`, `BEHIND`; `piece_places`, `grid_places`, `places_after`, `without_bars`;
`bar_numbers`, `bar_lengths`, `usual_bar`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, UInt8

PLACES = (64, 64, 15, 15)  # how many values each of the four numbers has
SINCE, UNTIL, BEFORE, AFTER = range(4)
ENDED, UNKNOWN = 13, 14
_EXACT = 8
_CLASSES = (8, 10, 12, 16, 24)

BEHIND = np.array([0, 0, 0, ENDED], np.uint8)  # the place of a step behind the end of a piece

Places = UInt8[np.ndarray, "*S 4"]


def piece_places(bar_starts: Int[np.ndarray, " R"], n_steps: int) -> UInt8[np.ndarray, "{n_steps} 4"]:
    """The places of all steps of a piece whose bars start on these steps, the first on step 0."""
    lengths = np.diff([*bar_starts, n_steps])
    usual = _most_frequent(lengths)
    bar = np.searchsorted(bar_starts, np.arange(n_steps), "right") - 1  # [S]
    since = np.arange(n_steps) - bar_starts[bar]
    since[bar == 0] += max(0, usual - lengths[0])  # a pickup
    lengths[-1] = max(lengths[-1], usual)  # the last bar is whole, its end may be silent
    lengths[0] = max(lengths[0], usual)
    return _places(since, lengths[bar] - since, bar, len(bar_starts) - 1 - bar)


def grid_places(
    first: int, n_steps: int, steps_per_bar: int, bar: int | None = None, bars: int | None = None
) -> UInt8[np.ndarray, "{n_steps} 4"]:
    """The places of steps of music that is made on a regular grid of bars.

    Args:
        first: the first step, counted from a bar line; negative before it.
        n_steps: how many steps.
        bar: how many bars of the piece lie before that bar line; None: nobody knows.
        bars: bars of the whole piece; None: nobody knows.
    """
    step = first + np.arange(n_steps)
    since = step % steps_per_bar
    number = step // steps_per_bar + (bar or 0)
    found = _places(since, steps_per_bar - since, number, (bars or 0) - 1 - number)
    if bar is None:
        found[:, BEFORE] = UNKNOWN
    if bar is None or bars is None:
        found[:, AFTER] = UNKNOWN
    return found


def without_bars(places: Places) -> Places:
    """The same places in their bars; the bars before and after are not known."""
    found = places.copy()
    found[..., BEFORE:] = UNKNOWN
    return found


def places_after(last: UInt8[np.ndarray, "B 4"], n_steps: int) -> UInt8[np.ndarray, "B {n_steps} 4"]:
    """The places of the steps that follow these, in bars of the same length; how many bars follow is not known."""
    length = last[:, SINCE].astype(np.int64) + last[:, UNTIL]
    since = (last[:, SINCE, None] + 1 + np.arange(n_steps)) % np.maximum(length, 1)[:, None]
    found = np.full((len(last), n_steps, 4), UNKNOWN, np.uint8)
    found[..., SINCE], found[..., UNTIL] = since, length[:, None] - since
    return found


def bar_numbers(places: UInt8[np.ndarray, "B S 4"]) -> Int[np.ndarray, "B S"]:
    """The bar of each step, counted from 1 at the first step; steps behind the end belong to the last bar."""
    begins = (places[..., SINCE] == 0) & (places[..., AFTER] != ENDED)
    begins[:, 0] = True
    return np.asarray(begins.cumsum(axis=1))


def bar_lengths(places: UInt8[np.ndarray, "B S 4"]) -> Int[np.ndarray, " B"]:
    """Steps of the bar in which the first step lies."""
    return np.asarray(places[:, 0, SINCE].astype(np.int64) + places[:, 0, UNTIL])


def usual_bar(bar_starts: Iterable[Int[np.ndarray, " _"]], default: int) -> int:
    """Steps of the most frequent bar of some pieces; `default` where no piece has two bars."""
    lengths = np.concatenate([np.zeros(0, np.int64), *map(np.diff, bar_starts)])
    return _most_frequent(lengths) if len(lengths) else default


def _most_frequent(lengths: Int[np.ndarray, " R"]) -> int:
    return int(np.bincount(lengths).argmax())


def _places(
    since: Int[np.ndarray, " S"],
    until: Int[np.ndarray, " S"],
    before: Int[np.ndarray, " S"],
    after: Int[np.ndarray, " S"],
) -> UInt8[np.ndarray, "S 4"]:
    longest = PLACES[SINCE] - 1
    columns = (np.minimum(since, longest), np.clip(until, 0, longest), _class(before), _class(after))
    return np.stack(columns, axis=1).astype(np.uint8)


def _class(bars: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
    """The class of a number of bars."""
    wide = _EXACT - 1 + np.searchsorted(_CLASSES, bars, "right")
    return np.where(bars < 0, ENDED, np.where(bars < _EXACT, bars, wide))
