"""Layers of the transformer: distances in pitch and in time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midivae.models.layers import distance_matrix, lag_bucket

pytestmark = pytest.mark.numerical


def test_matrices_distance_matrix_hold_what_lies_between_the_two_pitches() -> None:
    matrix = distance_matrix(torch.arange(-2.0, 3.0))  # the weight of distance d is d
    assert matrix.tolist() == [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]]


@settings(deadline=None)
@given(st.integers(0, 2000))
def test_buckets_of_distances_are_exact_nearby_and_never_fall(lag: int) -> None:
    bucket, following = lag_bucket(torch.tensor([lag, lag + 1])).tolist()
    assert 0 <= bucket <= following < 32
    assert bucket == lag or lag >= 16
