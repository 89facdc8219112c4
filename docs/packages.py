"""Draws docs/images/packages.svg, the packages of midivae and the direction of their imports: `make docs`.

The layers come from `tool.importlinter` in pyproject.toml and the captions from the docstring of each package, so that
the figure shows what `make lint` enforces. A test compares the file with what this module draws.
"""

from __future__ import annotations

import ast
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
FIGURE = ROOT / "docs" / "images" / "packages.svg"
WIDTH, ROW, GAP, MARGIN = 960, 44, 10, 20  # pixels: of the figure, of a layer, between layers, at the edges
CAPTION_X = 300  # pixels from the left: where the captions begin
COLOURS = {"stages": "#fdeed9", "above": "#e5f5e8", "below": "#e6eefb"}  # of boxes, by their place beside the stages


def layers() -> list[list[str]]:
    """The packages of each layer, from the top down."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    [contract] = [item for item in contracts if item["type"] == "layers" and item["containers"] == ["midivae"]]
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"] if "__main__" not in layer]


def caption(package: str) -> str:
    """The first sentence of the docstring of a package or module."""
    folder = ROOT / "midivae" / package
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0].split(". ")[0].rstrip(".")


def draw() -> str:
    """The figure as SVG: one row a layer, one box a package, an arrow that says which way imports go."""
    rows = layers()
    stages = next(i for i, row in enumerate(rows) if len(row) > 1)
    height = MARGIN * 2 + len(rows) * (ROW + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-size="14" role="img" '
        'font-family="Helvetica, Arial, sans-serif" aria-label="Each package imports only those below it">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#5b6470"/></marker></defs>',
        f'<path d="M{MARGIN + 4} {MARGIN}V{height - MARGIN}" stroke="#5b6470" stroke-width="2" marker-end="url(#a)"/>',
        f'<text transform="translate({MARGIN - 4} {height / 2}) rotate(-90)" text-anchor="middle" fill="#5b6470">'
        "imports</text>",
    ]
    for i, row in enumerate(rows):
        place = "stages" if i == stages else "above" if i < stages else "below"
        parts += _row(row, MARGIN + i * (ROW + GAP), COLOURS[place])
    return "\n".join([*parts, "</svg>", ""])


def _row(packages: list[str], top: int, colour: str) -> list[str]:
    """The boxes of one layer, and beside a single one its caption."""
    left, right = MARGIN * 2 + 8, CAPTION_X - MARGIN if len(packages) == 1 else WIDTH - MARGIN
    width = (right - left + GAP) / len(packages) - GAP
    parts = []
    for j, name in enumerate(packages):
        x = left + j * (width + GAP)
        parts.append(f'<rect x="{x:.0f}" y="{top}" width="{width:.0f}" height="{ROW}" rx="6" fill="{colour}"/>')
        parts.append(
            f'<text x="{x + width / 2:.0f}" y="{top + ROW / 2 + 5:.0f}" text-anchor="middle" font-weight="bold" '
            f'fill="#1d2430">{escape(name)}</text>'
        )
    if len(packages) == 1:
        text = escape(caption(packages[0]))
        parts.append(f'<text x="{CAPTION_X}" y="{top + ROW / 2 + 5:.0f}" fill="#5b6470">{text}</text>')
    return parts


if __name__ == "__main__":
    FIGURE.write_text(draw(), encoding="utf-8")
