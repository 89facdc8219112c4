"""Comparison of floats that were computed with sums in another order.

A matrix product adds its terms in an order that depends on the size of the batch, the number of threads, the memory
layout and the instructions of the processor (AVX2, AVX-512 or neither). Each order rounds differently. In float32 one
addition rounds by 6e-8 of its value, and the small networks of the tests add a few hundred terms in a few layers, so
that results differ by 1e-6 to 1e-5. The tolerances are ten times that, and far below any difference that a test looks
for.

The same computation, done twice in the same process, gives the same bits: such tests compare exactly. So do tests of
what `midivae.models.coding` promises, which computes in blocks of one size on one thread.

Offers: `ATOL`, `RTOL`, `close`; `certain` for cells that are decided by a float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

ATOL = 1e-4
RTOL = 1e-4


def close(found: Any, wanted: Any) -> bool:
    """Whether two arrays or tensors of one shape are equal up to the order of sums."""
    found, wanted = _array(found), _array(wanted)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return bool(np.allclose(found, wanted, rtol=RTOL, atol=ATOL))


def certain(values: Any, threshold: Any) -> np.ndarray:
    """Where values are so far from a threshold that the order of sums cannot move them to the other side.

    Nearly all cells must be certain, or a comparison of the certain ones would say nothing.
    """
    far: np.ndarray = np.abs(_array(values) - _array(threshold)) > ATOL
    assert far.mean() > 0.99, f"{1 - far.mean():.1%} of the cells lie at their threshold"
    return far


def _array(values: Any) -> np.ndarray:
    return values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
