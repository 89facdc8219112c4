"""Section "Reconstructions"."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from reported import PIECE, params

from midivae.render import pictures
from midivae.report import reconstructions
from midivae.report.training import read_trained


def shown(section: dict[str, Any]) -> np.ndarray:
    """The palette indices of a picture's cells, [T, P]; of parts that share a cell, the first."""
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(section["data"]))))
    return image[:: pictures.ROWS][::-1].T


def test_a_grid_by_hand() -> None:
    # 8 steps of 4 units, 2 to a beat, 2 beats to a bar; pitches 59 to 61, 3 units each, 61 on top
    grid = reconstructions._grid(8, 59, 3, 2, 2)
    assert (grid["width"], grid["height"], grid["long"]) == (32, 9, False)
    assert grid["black_keys"] == [0]  # C#4
    assert grid["pitches"] == [("C4", 4.5)]
    assert grid["bars"] == [0, 16]
    assert grid["numbers"] == [(1, 0), (2, 16)]
    assert grid["beats"] == []  # 8 units apart: too near to each other
    assert reconstructions._grid(8, 59, 3, 4, 2)["beats"] == [0, 16]


def test_long_rolls_have_narrow_steps_and_lines_of_their_own() -> None:
    # a minute of 480 steps: 2 units each; 2000 steps: 1 unit, and every second bar of 8 units gets a number
    assert (reconstructions._grid(480, 36, 48, 4, 4)["width"], reconstructions._grid(480, 36, 48, 4, 4)["long"]) == (
        960,
        True,
    )
    dense = reconstructions._grid(2000, 36, 48, 4, 2)
    assert (dense["width"], dense["numbers"][:2]) == (2000, [(1, 0), (3, 16)])


def test_the_same_seed_draws_the_same_windows() -> None:
    drawn = reconstructions._draw_windows(1000, 24, 0)
    assert np.array_equal(drawn, reconstructions._draw_windows(1000, 24, 0))
    assert len(set(drawn.tolist())) == 24
    assert not np.array_equal(drawn, reconstructions._draw_windows(1000, 24, 1))
    assert reconstructions._draw_windows(3, 24, 0).tolist() == [0, 1, 2]
    assert reconstructions._draw_windows(0, 24, 0).tolist() == []


def test_reconstructions_stand_beside_the_music(data: Path) -> None:
    trained = read_trained(params(), data / "model")
    section = reconstructions.reconstructions(trained, data / "rolls", params())
    row, _ = section["rows"]
    assert row[0]["name"] in {PIECE, *(f"{i}.mid" for i in range(23))}
    assert [cell["name"] for cell in row[1:]] == ["mlp", "autoencoder"]
    assert shown(section["rows"][0][0]).any()  # held-out music is not silent
