"""Pictures of rolls: every pixel of small rolls by hand, and whatever was drawn can be read off again."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from midivae.models import coding
from midivae.music.roll import FRAME, ONSET, Layout, Roll
from midivae.render import pictures


def pixels(png: bytes) -> np.ndarray:
    """The palette indices [P, R, T] in the PNG, the lowest pitch first."""
    found = np.asarray(Image.open(io.BytesIO(png)))
    return found.reshape(-1, pictures.ROWS, found.shape[1])[::-1]


def roll_of(*notes: tuple[int, int, int, int], n_steps: int = 5, pitches: int = 3) -> Roll:
    """Notes as (part, row, first step, length), in a roll of two parts."""
    planes = np.zeros((n_steps, 2, 2, pitches), bool)
    for part, row, step, length in notes:
        planes[step, part, ONSET, row] = True
        planes[step : step + length, part, FRAME, row] = True
    return Roll(planes, Layout(("high", "low"), 60, pitches, steps_per_beat=4))


def test_a_roll_by_hand() -> None:
    # part 0: pitch 62 on steps 1 and 2, struck again on 3; part 1: pitch 60 on steps 1 and 2
    found = pixels(pictures.draw(roll_of((0, 2, 1, 2), (0, 2, 3, 1), (1, 0, 1, 2))))
    goes_on, starts, low_goes_on, low_starts = 1, 2, 3, 4
    wanted = [[0, low_starts, low_goes_on, 0, 0], [0] * 5, [0, starts, goes_on, starts, 0]]
    assert (found == np.array(wanted)[:, None]).all()


def test_parts_share_a_cell() -> None:
    # both parts start pitch 60 on step 0, the second holds it on step 1: half of the rows each, then all
    (found,) = pixels(pictures.draw(roll_of((0, 0, 0, 1), (1, 0, 0, 2), pitches=1)))
    assert found[:, 0].tolist() == [2, 2, 2, 4, 4, 4]
    assert found[:, 1].tolist() == [3] * 6


def test_a_start_is_stronger_than_what_goes_on() -> None:
    png = pictures.draw(roll_of((0, 2, 0, 2)))
    rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    start, goes_on, nothing = rgba[0, 0], rgba[0, 1], rgba[0, 2]
    assert start[:3].tolist() == goes_on[:3].tolist() == list(bytes.fromhex(pictures.part_colours(1)[0][1:]))
    assert start[3] == 255 > goes_on[3] > 0 == nothing[3]


def test_colours_differ_and_come_round() -> None:
    colours = pictures.part_colours(9)
    assert len(set(colours[:8])) == 8
    assert colours[8] == colours[0]
    many = np.ones((4, 300, 2, 1), bool)
    assert pixels(pictures.draw(Roll(many, Layout(tuple(f"part {i}" for i in range(300)), 0, 1, 4)))).max() <= 16


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_notes_can_be_read_off(seed: int, n_parts: int) -> None:
    rng = np.random.default_rng(seed)
    planes = coding.complete(rng.random((1, 16, n_parts, 2, 12)) < 0.1)[0]
    found = pixels(pictures.draw(Roll(planes, Layout(tuple("abc"[:n_parts]), 40, 12, 4))))
    for part in range(n_parts):
        goes_on, starts = ((found == 1 + 2 * part + shade).any(axis=1).T for shade in (0, 1))  # [T, P]
        assert np.array_equal(starts, planes[:, part, ONSET])
        assert np.array_equal(starts | goes_on, planes[:, part, FRAME])


def test_same_roll_same_bytes_and_few_of_them() -> None:
    rng = np.random.default_rng(1)
    planes = coding.complete(rng.random((1, 64, 4, 2, 48)) < 0.005)[0]
    roll = Roll(planes, Layout(("s", "a", "t", "b"), 36, 48, 4))
    assert pictures.draw(roll) == pictures.draw(roll)
    assert len(pictures.draw(roll)) < 1500


def test_pitch_names() -> None:
    assert [pictures.pitch_name(p) for p in (0, 59, 60, 61, 127)] == ["C-1", "B3", "C4", "C#4", "G9"]
