"""Rolls as pictures: small PNGs, to be shown larger with sharp pixels.

The x axis is time, one pixel per step; the y axis is pitch, `ROWS` pixels per pitch. Each part has a colour: opaque
where a note starts and paler where it continues, so that repeated notes look different from a long one. Parts that play
the same pitch share the height of the cell, the first part on top.

The PNG has a palette. Silent cells are transparent, so that the picture fits a light and a dark page.

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
_CONTINUES, _STARTS = 145, 255  # alpha of a part's two shades
# visible on white and on black, and different for people who do not see red or green
COLOURS = ("#d1495b", "#e0912f", "#2a9d6f", "#3478c9", "#8e5ac8", "#00a3b4", "#a0743c", "#7d8a2e")
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def draw(roll: Roll) -> bytes:
    """A roll as PNG, T pixels wide and P * `ROWS` pixels high; the same roll gives the same bytes."""
    n_steps, _, _, pitches = roll.planes.shape
    cells = _cells(roll)[:, ::-1].transpose(1, 2, 0)  # [P, R, T], the highest pitch first
    return _png(np.ascontiguousarray(cells.reshape(pitches * ROWS, n_steps)))


def part_colours(n_parts: int) -> list[str]:
    """A colour per part, "#rrggbb"; the ninth part gets the first colour again."""
    return [COLOURS[part % len(COLOURS)] for part in range(n_parts)]


def pitch_name(pitch: int) -> str:
    """The name of a MIDI pitch: 60 is "C4"."""
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


def _cells(roll: Roll) -> UInt8[np.ndarray, "T P R"]:
    """The palette index of each row of pixels of a cell; 0 for a silent cell."""
    onset = roll.onset
    sounding = onset | roll.frame  # [T, N, P]
    count = np.count_nonzero(sounding, axis=1)  # [T, P]
    rank = np.cumsum(sounding, axis=1) - 1
    pixels = np.zeros((*count.shape, ROWS), np.uint8)
    for row in range(ROWS):
        shown = sounding & (rank == (row * count // ROWS)[:, None])
        pixels[:, :, row] = np.where(count > 0, _index(shown, onset), 0)
    return pixels


def _index(shown: Bool[np.ndarray, "T N P"], onset: Bool[np.ndarray, "T N P"]) -> UInt8[np.ndarray, "T P"]:
    """The palette index of the part that is shown in each cell: two per colour, continued notes and starts of notes."""
    part = shown.argmax(axis=1)
    starts = np.take_along_axis(onset, part[:, None], axis=1)[:, 0]
    index: np.ndarray = (1 + 2 * (part % len(COLOURS)) + starts).astype(np.uint8)
    return index


def _png(pixels: UInt8[np.ndarray, "H W"]) -> bytes:
    """The pixels as PNG with a palette."""
    colours = [bytes(3)] + [bytes.fromhex(colour[1:]) for colour in COLOURS for _ in (_CONTINUES, _STARTS)]
    image = Image.fromarray(pixels).convert("P")
    image.putpalette(b"".join(colours))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=bytes([0, *([_CONTINUES, _STARTS] * len(COLOURS))]))
    return file.getvalue()
