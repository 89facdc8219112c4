"""Charts as SVG, to be put into a page: no script, no request, the same values give the same text.

A chart has no colours of its own: its shapes carry classes, which the page's style sheet colours for light and for dark
(`real` for held-out music, `s0`, `s1` ... for what is compared with it). Every text is escaped, and every chart has a
sentence for people who do not see it.

Offers: `Curve`, `curves` (lines over x), `Outline`, `histogram` (shares in bins) and `Dots`, `dots` (values beside a
band, a row each); `ticks` and `number`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Real = float | int
WIDTH, HEIGHT = 340, 190  # of a chart, in units that scale with the page
WIDE = 480  # of a chart that stands in a wide card
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34  # margins for the axes
_ROW = 26  # height of a row of dots
_NAMES = 150  # width of the names beside them
_THIN = "\u202f"  # a narrow space that no line breaks at


@dataclass(frozen=True)
class Curve:
    """A line through points; `kind` are its CSS classes, `mark` the index of a point to mark."""

    name: str
    x: Sequence[Real]
    y: Sequence[Real]
    kind: str
    mark: int | None = None


@dataclass(frozen=True)
class Outline:
    """A histogram: the share of values in each bin."""

    name: str
    share: Sequence[Real]
    kind: str


@dataclass(frozen=True)
class Dots:
    """A row of dots: values of what is compared, each with its CSS classes, beside a band of what is usual."""

    name: str
    values: Sequence[tuple[str, Real]]
    low: Real
    high: Real


# --- numbers and axes -------------------------------------------------------------------------------------------------
def number(value: Real | None) -> str:
    """A number as people read it: three significant digits, whole numbers in full; a dash where there is none."""
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
    """Round numbers, 1, 2 or 5 times a power of ten apart, from `low` to `high`; at most `most` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Axes:
    """From values to places on the chart."""

    x: tuple[Real, Real]
    y: tuple[Real, Real]
    left: Real = _LEFT
    width: Real = WIDTH
    height: Real = HEIGHT

    def across(self, value: Real) -> Real:
        """The place of a value of x."""
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1) * (self.width - self.left - _RIGHT)

    def up(self, value: Real) -> Real:
        """The place of a value of y."""
        low, high = self.y
        return self.height - _BOTTOM - (value - low) / ((high - low) or 1) * (self.height - _TOP - _BOTTOM)


def _place(value: Real) -> str:
    """A coordinate in tenths."""
    return f"{value:.1f}".removesuffix(".0")


def _path(points: Sequence[tuple[Real, Real]]) -> str:
    return "M" + "L".join(f"{_place(x)},{_place(y)}" for x, y in points)


def _frame(axes: _Axes, x_name: str, y_ticks: bool) -> list[Markup]:
    """Lines and numbers of the axes."""
    bottom = axes.height - _BOTTOM
    shapes = []
    for value in ticks(*axes.x):
        at = _place(axes.across(value))
        shapes.append(Markup('<text class="tick" x="{}" y="{}">{}</text>').format(at, bottom + 14, _short(value)))
    for value in ticks(*axes.y, most=4) if y_ticks else ():
        at = _place(axes.up(value))
        shapes.append(
            Markup('<path class="grid" d="M{},{}H{}"/><text class="tick y" x="{}" y="{}">{}</text>').format(
                _place(axes.left), at, _place(axes.width - _RIGHT), _place(axes.left - 6), at, _short(value)
            )
        )
    line = Markup('<path class="axis" d="M{},{}H{}"/>').format(_place(axes.left), bottom, _place(axes.width - _RIGHT))
    middle = _place((axes.left + axes.width - _RIGHT) / 2)
    name = Markup('<text class="name" x="{}" y="{}">{}</text>').format(middle, axes.height - 4, x_name)
    return [*shapes, line, name]


def _short(value: Real) -> str:
    """A tick's number, thousands as k."""
    if abs(value) >= 10_000:
        return f"{number(value / 1000)}k"
    return _signed(f"{value:g}")


def _svg(shapes: Sequence[Markup], says: str, axes: _Axes) -> Markup:
    return Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        says, _place(axes.width), _place(axes.height), Markup().join(shapes)
    )


def _finite(points: Sequence[tuple[Real, Real]]) -> list[tuple[Real, Real]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _span(values: Sequence[Real], top: Real | None = None) -> tuple[Real, Real]:
    return min(values), max(values) if top is None else min(top, max(values))


# --- charts -----------------------------------------------------------------------------------------------------------
def curves(lines: Sequence[Curve], x_name: str, says: str, top: Real | None = None) -> Markup:
    """Lines over a common x, on axes that fit them; what lies above `top` runs out of the chart."""
    points = {line.name: _finite(list(zip(line.x, line.y, strict=True))) for line in lines}
    every = [point for several in points.values() for point in several] or [(0.0, 0.0)]
    axes = _Axes(_span([x for x, _ in every]), _span([y for _, y in every], top), width=WIDE)
    shapes = _frame(axes, x_name, y_ticks=True)
    for line in lines:
        placed = [(axes.across(x), axes.up(y)) for x, y in points[line.name]]
        if placed:
            shapes.append(Markup('<path class="line {}" d="{}"/>').format(line.kind, _path(placed)))
        if line.mark is not None and math.isfinite(line.y[line.mark]):
            x, y = axes.across(line.x[line.mark]), axes.up(line.y[line.mark])
            shapes.append(
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="4"/>').format(line.kind, *map(_place, (x, y)))
            )
    return _svg(shapes, says, axes)


def histogram(middles: Sequence[Real], outlines: Sequence[Outline], x_name: str, says: str) -> Markup:
    """Shares in bins of equal width: the first as a filled shape, the others as outlines over it."""
    width = middles[1] - middles[0] if len(middles) > 1 else 1.0
    edges = [middle - width / 2 for middle in middles] + [middles[-1] + width / 2]
    top = max((share for outline in outlines for share in outline.share), default=0) or 1.0
    axes = _Axes((edges[0], edges[-1]), (0.0, top), left=_RIGHT)
    shapes = []
    for index, outline in enumerate(outlines):
        bottom = axes.up(0)
        points = [(axes.across(edges[0]), bottom)]
        for i, share in enumerate(outline.share):
            points += [(axes.across(edges[i]), axes.up(share)), (axes.across(edges[i + 1]), axes.up(share))]
        points.append((axes.across(edges[-1]), bottom))
        kind = "area" if index == 0 else "line"
        shapes.append(Markup('<path class="{} {}" d="{}"/>').format(kind, outline.kind, _path(points)))
    return _svg([*shapes, *_frame(axes, x_name, y_ticks=False)], says, axes)


def dots(rows: Sequence[Dots], x_name: str, says: str, top: Real | None = None) -> Markup:
    """A row per name: a band from `low` to `high`, and a dot per value, or an arrow where it lies beyond `top`."""
    every = [value for row in rows for value in (row.high, *(v for _, v in row.values)) if math.isfinite(value)]
    height = _TOP + _ROW * len(rows) + _BOTTOM
    most = max(every, default=1.0) or 1.0
    most = most if top is None else min(most, top)
    axes = _Axes((0.0, most), (0.0, 1.0), left=_NAMES, width=WIDE, height=height)
    shapes = _frame(axes, x_name, y_ticks=False)
    for index, row in enumerate(rows):
        y = _TOP + _ROW * (index + 0.5)
        shapes.append(Markup('<text class="row" x="{}" y="{}">{}</text>').format(_NAMES - 8, _place(y), row.name))
        shapes.append(Markup('<path class="grid" d="M{},{}H{}"/>').format(_NAMES, _place(y), WIDE - _RIGHT))
        shapes += _band(axes, row, y)
        for kind, value in row.values:
            if math.isfinite(value):
                shapes.append(
                    _dot(kind, axes.across(value), y) if value <= most else _arrow(kind, axes.across(most), y)
                )
    return _svg(shapes, says, axes)


def _arrow(kind: str, x: Real, y: Real) -> Markup:
    points = f"M{_place(x + 7)},{_place(y)}l-9,-5v10z"
    return Markup('<path class="dot {}" d="{}"/>').format(kind, points)


def _dot(kind: str, x: Real, y: Real) -> Markup:
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="4.5"/>').format(kind, _place(x), _place(y))


def _band(axes: _Axes, row: Dots, y: Real) -> list[Markup]:
    """What is usual, as a bar behind the dots."""
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return []
    left = axes.across(max(0.0, row.low))
    width = max(2.0, min(axes.across(row.high), axes.width - _RIGHT) - left)
    bar = Markup('<rect class="band" x="{}" y="{}" width="{}" height="14" rx="3"/>')
    return [bar.format(_place(left), _place(y - 7), _place(width))]
