"""Charts as SVG for a page: no script, no request; the same values give the same text.

A chart has no colours of its own: its shapes have CSS classes, which the page's style sheet colours for light and for
dark mode (`real` for held-out music, `s0`, `s1` ... for what is compared with it). Every text is escaped, and every
chart has a sentence for people who do not see it.

Offers: `Curve`, `curves` (lines over x); `histogram`, `histogram_of` (shares in bins); `Dots`, `dots` (rows of values
beside a band); `ticks` and `number`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

Real = float | int
Point = tuple[Real, Real]
WIDTH, HEIGHT = 340, 190  # of a chart, in units that scale with the page
WIDE = 480  # width of a chart in a wide card
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34  # margins for the axes
_ROW = 26  # height of a row of dots
_NAMES = 150  # width of the names beside them
_THIN = "\u202f"  # a narrow space without a line break


@dataclass(frozen=True)
class Curve:
    """A line through points; `kind` are its CSS classes, `mark` is the index of a point to mark."""

    kind: str
    x: Sequence[Real]
    y: Sequence[Real]
    mark: int | None = None


@dataclass(frozen=True)
class Dots:
    """A row of dots, each with its CSS classes, beside a band of usual values from `low` to `high`."""

    name: str
    values: Sequence[tuple[str, Real]]
    low: Real
    high: Real


# --- numbers and axes -------------------------------------------------------------------------------------------------
def number(value: Real | None) -> str:
    """A number for people: three significant digits, whole numbers in full; a dash for a missing value."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000 or float(value).is_integer():
        return _signed(f"{round(value):,}".replace(",", _THIN))
    digits = 2 - math.floor(math.log10(abs(value)))
    return _signed(f"{value:.{digits}f}" if digits <= 5 else f"{value:.2e}")


def _signed(text: str) -> str:
    """With a minus sign as wide as a plus."""
    return text.replace("-", "−")


def ticks(low: Real, high: Real, most: int = 5) -> list[Real]:
    """Round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart; at most `most` intervals."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Axes:
    """From values to places on the chart."""

    x: Point
    y: Point
    left: Real = _LEFT
    width: Real = WIDTH
    height: Real = HEIGHT

    @property
    def bottom(self) -> Real:
        return self.height - _BOTTOM

    @property
    def right(self) -> Real:
        return self.width - _RIGHT

    def across(self, value: Real) -> Real:
        """The place of a value of x."""
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1) * (self.right - self.left)

    def up(self, value: Real) -> Real:
        """The place of a value of y."""
        low, high = self.y
        return self.bottom - (value - low) / ((high - low) or 1) * (self.bottom - _TOP)


def _place(value: Real) -> str:
    """A coordinate in tenths."""
    return f"{value:.1f}".removesuffix(".0")


def _path(kind: str, *points: Point) -> Markup:
    line = "L".join(f"{_place(x)},{_place(y)}" for x, y in points)
    return Markup('<path class="{}" d="M{}"/>').format(kind, line)


def _text(kind: str, x: Real, y: Real, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, _place(x), _place(y), text)


def _dot(kind: str, x: Real, y: Real, radius: Real) -> Markup:
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"/>').format(kind, _place(x), _place(y), radius)


def _svg(axes: _Axes, x_name: str, says: str, shapes: Sequence[Markup], y_ticks: bool = False) -> Markup:
    """A chart: shapes behind its axes, with lines and numbers."""
    left, right, bottom = axes.left, axes.right, axes.bottom
    frame = [_text("tick", axes.across(value), bottom + 14, _short(value)) for value in ticks(*axes.x)]
    for value in ticks(*axes.y, most=4) if y_ticks else ():
        frame.append(_path("grid", (left, axes.up(value)), (right, axes.up(value))))
        frame.append(_text("tick y", left - 6, axes.up(value), _short(value)))
    frame.append(_path("axis", (left, bottom), (right, bottom)))
    frame.append(_text("name", (left + right) / 2, axes.height - 4, x_name))
    return Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        says, _place(axes.width), _place(axes.height), Markup().join([*frame, *shapes])
    )


def _short(value: Real) -> str:
    """The number of a tick, thousands as k."""
    return f"{number(value / 1000)}k" if abs(value) >= 10_000 else _signed(f"{value:g}")


# --- charts -----------------------------------------------------------------------------------------------------------
def curves(lines: Sequence[Curve], x_name: str, says: str, top: Real | None = None) -> Markup:
    """Lines over a common x, on axes that fit them; values above `top` leave the chart. Missing values are left out."""
    points = [[(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x + y)] for line in lines]
    x, y = zip(*([point for several in points for point in several] or [(0.0, 0.0)]), strict=True)
    highest = max(y) if top is None else min(top, max(y))
    axes = _Axes((min(x), max(x)), (min(y), highest), width=WIDE)
    shapes = []
    for line, own in zip(lines, points, strict=True):
        if own:
            shapes.append(_path(f"line {line.kind}", *((axes.across(x), axes.up(y)) for x, y in own)))
        if line.mark is not None and math.isfinite(line.y[line.mark]):
            shapes.append(_dot(line.kind, axes.across(line.x[line.mark]), axes.up(line.y[line.mark]), 4))
    return _svg(axes, x_name, says, shapes, y_ticks=True)


def histogram_of(values: Mapping[str, np.ndarray], edges: np.ndarray, x_name: str, says: str) -> Markup:
    """A histogram of some values, by their CSS classes."""
    shares = {kind: (np.histogram(v, edges)[0] / max(1, len(v))).tolist() for kind, v in values.items()}
    return histogram(((edges[1:] + edges[:-1]) / 2).tolist(), shares, x_name, says)


def histogram(middles: Sequence[Real], shares: Mapping[str, Sequence[Real]], x_name: str, says: str) -> Markup:
    """Shares in bins of equal width, by their CSS classes: the first set is a filled shape, the others are outlines."""
    width = middles[1] - middles[0] if len(middles) > 1 else 1.0
    edges = [middle - width / 2 for middle in middles] + [middles[-1] + width / 2]
    top = max((share for several in shares.values() for share in several), default=0) or 1.0
    axes = _Axes((edges[0], edges[-1]), (0.0, top), left=_RIGHT)
    shapes = []
    for index, (kind, several) in enumerate(shares.items()):
        points = [(edges[0], 0.0)]
        for left, right, share in zip(edges[:-1], edges[1:], several, strict=True):
            points += [(left, share), (right, share)]
        points.append((edges[-1], 0.0))
        shape = "line" if index else "area"
        shapes.append(_path(f"{shape} {kind}", *((axes.across(x), axes.up(y)) for x, y in points)))
    return _svg(axes, x_name, says, shapes)


def dots(rows: Sequence[Dots], x_name: str, says: str, top: Real | None = None) -> Markup:
    """A row per name: a band from `low` to `high`, and a dot per value, or an arrow if the value is above `top`."""
    values = [value for row in rows for value in (row.high, *(v for _, v in row.values)) if math.isfinite(value)]
    most = max(values, default=1.0) or 1.0
    most = most if top is None else min(most, top)
    axes = _Axes((0.0, most), (0.0, 1.0), left=_NAMES, width=WIDE, height=_TOP + _ROW * len(rows) + _BOTTOM)
    shapes = []
    for index, row in enumerate(rows):
        y = _TOP + _ROW * (index + 0.5)
        shapes += [_text("row", _NAMES - 8, y, row.name), _path("grid", (_NAMES, y), (axes.right, y))]
        if math.isfinite(row.low) and math.isfinite(row.high):
            left = axes.across(max(0.0, row.low))
            width = max(2.0, min(axes.across(row.high), axes.right) - left)
            bar = Markup('<rect class="band" x="{}" y="{}" width="{}" height="14" rx="3"/>')
            shapes.append(bar.format(_place(left), _place(y - 7), _place(width)))
        for kind, value in row.values:
            x = axes.across(min(value, most))
            if value <= most:
                shapes.append(_dot(kind, x, y, 4.5))
            elif math.isfinite(value):
                shapes.append(_path(f"dot {kind}", (x + 7, y), (x - 2, y - 5), (x - 2, y + 5)))
    return _svg(axes, x_name, says, shapes)
