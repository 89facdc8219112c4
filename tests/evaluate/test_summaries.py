"""Tables that summarise sets."""

from __future__ import annotations

import numpy as np

from midivae.evaluate.summaries import _edges


def test_whole_numbers_have_bins_of_equal_worth() -> None:
    real = np.array([3.0, 5.0, 9.0])
    assert _edges(real, real, whole=True).tolist() == [2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]
    # 3 ... 102 are 100 numbers: 34 bins of 3 hold them; a bad model's 5,000 notes do not stretch the bins
    wide = np.arange(3.0, 103.0)
    edges = _edges(wide, wide, whole=True)
    assert set(np.diff(edges)) == {3}
    assert (edges[0], len(edges)) == (2.5, 35)
    assert _edges(real, np.append(real, 5000.0), whole=True)[-1] == 15.5  # 9 + the range of 6, and a half
