"""Windows of the samples of a job."""

from __future__ import annotations

import numpy as np
import pytest

from midivae.evaluate.samples import _windows_of


@pytest.mark.parametrize(
    ("n_steps", "lead", "wanted"),
    [
        ([32], [0], [(0, 0)]),
        ([96, 70], [0, 0], [(0, 0), (0, 32), (0, 64), (1, 0), (1, 32)]),  # what is left over is in no window
        ([96], [32], [(0, 32), (0, 64)]),
        ([48], [32], [(0, 16)]),  # half a window is new: the last one stands for it
    ],
)
def test_windows_of_samples(n_steps: list[int], lead: list[int], wanted: list[tuple[int, int]]) -> None:
    sample, start = _windows_of(np.array(n_steps), np.array(lead), 32)
    assert list(zip(sample.tolist(), start.tolist(), strict=True)) == wanted
