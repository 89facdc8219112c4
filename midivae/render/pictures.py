"""Rolls as pictures: small PNGs that show which part plays what, and when.

Time runs to the right, a pixel per step; pitch upwards, `ROWS` pixels per pitch. To be shown larger, with sharp pixels.
Each part has a colour: strong where a note starts, weaker where it goes on, so that repeated notes can be told from a
long one. Where parts play the same pitch at once, they share the height of the cell, the first part on top.

The PNG has a palette, and nothing where nothing sounds: what lies behind it shows, on a light and on a dark page.

Shapes:
    T  steps    N  parts    P  pitches

Offers: `draw`, `part_colours`, `pitch_name`.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from midivae.music.roll import Roll

ROWS = 6  # pixels per pitch: one, two and three parts share them evenly
BLACK_KEYS = (1, 3, 6, 8, 10)  # pitch classes
_GOING_ON, _STARTS = 145, 255  # alpha of a part's two shades
# of middle lightness, so that they can be seen on white and on black; told apart by people who see no red or no green
COLOURS = ("#d1495b", "#e0912f", "#2a9d6f", "#3478c9", "#8e5ac8", "#00a3b4", "#a0743c", "#7d8a2e")
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def draw(roll: Roll) -> bytes:
    """A roll as PNG, T pixels wide and P * `ROWS` high; the same roll gives the same bytes."""
    n_steps, _, _, pitches = roll.planes.shape
    cells = _cells(roll)[:, ::-1].transpose(1, 2, 0)  # [P, R, T], the highest pitch first
    return _png(np.ascontiguousarray(cells.reshape(pitches * ROWS, n_steps)))


def part_colours(n_parts: int) -> list[str]:
    """A colour per part, "#rrggbb"; the ninth part gets the first colour again."""
    return [COLOURS[part % len(COLOURS)] for part in range(n_parts)]


def pitch_name(pitch: int) -> str:
    """A MIDI pitch in words: 60 is "C4"."""
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


def _cells(roll: Roll) -> UInt8[np.ndarray, "T P R"]:
    """Palette index of each row of pixels of a cell; 0 where nothing sounds."""
    onset = roll.onset
    sounding = onset | roll.frame  # [T, N, P]
    count = np.count_nonzero(sounding, axis=1)  # [T, P]
    rank = np.cumsum(sounding, axis=1) - 1
    pixels = np.zeros((*count.shape, ROWS), np.uint8)
    for row in range(ROWS):
        mine = sounding & (rank == (row * count // ROWS)[:, None])
        pixels[:, :, row] = np.where(count > 0, _index(mine, onset), 0)
    return pixels


def _index(mine: Bool[np.ndarray, "T N P"], onset: Bool[np.ndarray, "T N P"]) -> UInt8[np.ndarray, "T P"]:
    """Palette index of the one part that has each cell: two per colour, a note that goes on and one that starts."""
    part = mine.argmax(axis=1)
    starts = np.take_along_axis(onset, part[:, None], axis=1)[:, 0]
    index: np.ndarray = (1 + 2 * (part % len(COLOURS)) + starts).astype(np.uint8)
    return index


def _png(pixels: UInt8[np.ndarray, "H W"]) -> bytes:
    """The pixels as PNG with a palette."""
    colours = [bytes(3)] + [bytes.fromhex(colour[1:]) for colour in COLOURS for _ in (_GOING_ON, _STARTS)]
    image = Image.fromarray(pixels).convert("P")
    image.putpalette(b"".join(colours))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=bytes([0, *([_GOING_ON, _STARTS] * len(COLOURS))]))
    return file.getvalue()
