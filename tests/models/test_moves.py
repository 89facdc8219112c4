"""Moves in latent space, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from floats import close
from hypothesis import given
from hypothesis import strategies as st

from midivae.models.flow import Prior
from midivae.models.moves import Space, barycentre, slerp, vary

pytestmark = pytest.mark.numerical


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_vary_by_hand() -> None:
    # (3, 4) with radius 1 and other (1, 0): (4, 4) / sqrt(2); with radius 0 itself
    point, other = np.array([[3, 4], [3, 4]], np.float32), np.array([[1, 0], [1, 0]], np.float32)
    moved = vary(point, np.array([1.0, 0.0]), other)
    assert np.allclose(moved, [[4 / 2**0.5, 4 / 2**0.5], [3, 4]])


def test_vary_keeps_the_spread_of_a_standard_normal() -> None:
    moved = vary(normal(4000, 8), np.full(4000, 0.7), normal(4000, 8, seed=1))
    assert abs(moved.std() - 1) < 0.02  # standard error 0.004


def test_slerp_by_hand() -> None:
    # a third of the way from east to north is 30 degrees north of east; lengths 1 and 4 give 2
    start, end = np.array([[1, 0]], np.float32), np.array([[0, 4]], np.float32)
    third = slerp(start, end, np.array([1 / 3]))
    assert np.allclose(third, [[2 * np.cos(np.pi / 6), 2 * np.sin(np.pi / 6)]])


@given(st.integers(0, 2**31))
def test_slerp_ends_at_its_ends_and_never_gets_shorter_than_both(seed: int) -> None:
    a, b = normal(1, 16, seed=seed), normal(1, 16, seed=seed + 1)
    share = np.linspace(0, 1, 7)
    path = slerp(np.repeat(a, 7, 0), np.repeat(b, 7, 0), share)
    assert np.allclose(path[[0, -1]], np.concatenate([a, b]), atol=1e-5)
    assert (np.linalg.norm(path, axis=1) > min(np.linalg.norm(a), np.linalg.norm(b)) - 1e-4).all()


def test_slerp_between_points_in_one_direction_is_straight() -> None:
    a = normal(1, 4)
    assert np.allclose(slerp(a, 3 * a, np.array([0.5])), 2 * a, atol=1e-5)


def test_barycentre_by_hand() -> None:
    # (1, 0) and (0, 1) with equal weights: (.5, .5) / sqrt(.5) has length 1, as each of them has
    parents = np.array([[[1, 0], [0, 1]]], np.float32)
    assert np.allclose(barycentre(parents, np.array([[0.5, 0.5]])), [[0.5**0.5, 0.5**0.5]])
    assert np.allclose(barycentre(parents, np.array([[0.0, 1.0]])), [[0, 1]])


def test_a_space_is_the_noise_of_the_prior_and_back() -> None:
    prior = Prior(4, 2)
    prior.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, weight in prior.named_parameters():
            if ".last." in name:
                weight.normal_(std=0.2, generator=torch.Generator().manual_seed(2))
        prior.center.fill_(2.0)
        prior.spread.fill_(0.5)
        prior.fine_spread.fill_(0.5)
    z = normal(40, 6)
    space = Space(prior)
    assert close(space.latent(space.noise(z)), z)
    assert not np.allclose(space.noise(z), z, atol=0.5)
    assert Space(None).noise(z) is z
