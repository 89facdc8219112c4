"""The key that music stays in."""

from __future__ import annotations

import numpy as np
import pytest

from midivae.generate.one_key import Key
from midivae.measures.keys import fifths
from midivae.music.roll import Layout

pytestmark = pytest.mark.numerical


def test_a_key_by_hand() -> None:
    # a C major scale, C4 to C5, and one F#4 (66); the drums play what is row 30 to others
    layout = Layout(("drums", "piano"), 36, 48, 4)
    planes = np.zeros((2, 16, 2, 2, 48), bool)  # the second is silent
    planes[0, ::2, 0, :, 30] = True
    for step, pitch in enumerate((60, 62, 64, 65, 66, 67, 69, 71, 72)):
        planes[0, step, 1, :, pitch - 36] = True
    key = Key.of(planes, layout)
    assert sorted({(row + 36) % 12 for row in np.flatnonzero(key.outside[0, 1])}) == [1, 3, 6, 8, 10]
    assert not key.outside[0, 0].any()  # drums have no key
    assert not key.outside[1].any()
    counts = np.array([[2, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1]])  # without the F#
    assert np.array_equal(key.centroid[0], fifths(counts)[0])
    assert np.isnan(key.centroid[1]).all()
