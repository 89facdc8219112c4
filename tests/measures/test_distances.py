"""Distances between sets of values: by hand, by an independent formula, and how they behave."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from midivae.measures import distances

pytestmark = pytest.mark.numerical


def density(values: np.ndarray, on: distances.Grid) -> np.ndarray:
    """The density of one set."""
    row: np.ndarray = distances.densities(values[None], on)[0]
    return row


values = hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(-100, 100, width=32))


def pair(n: int = 12) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Two sets of n values."""
    one = hnp.arrays(np.float64, (n,), elements=st.floats(-100, 100, width=32))
    return st.tuples(one, one)


@pytest.mark.parametrize(("n", "most", "places"), [(0, 3, []), (2, 3, [0, 1]), (3, 3, [0, 1, 2]), (10, 3, [0, 4, 9])])
def test_evenly_by_hand(n: int, most: int, places: list[int]) -> None:
    assert distances.evenly(n, most).tolist() == places  # of 10, the middle is 4.5


def test_wasserstein_by_hand() -> None:
    # sorted: (0, 1, 5) and (1, 2, 3): |0 - 1| + |1 - 2| + |5 - 3| = 4 over three values
    assert distances.wasserstein(np.array([5.0, 0.0, 1.0]), np.array([3.0, 1.0, 2.0])) == pytest.approx(4 / 3)


def test_frechet_by_hand() -> None:
    # four corners (+-a, +-b): mean 0, variances 4/3 a**2 and 4/3 b**2, no covariance. Corners of (3, 1) against
    # corners of (1, 2), shifted by (5, 0): 25 + 4/3 ((3 - 1)**2 + (1 - 2)**2) = 25 + 20/3
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    moved = corners * [1, 2] + [5, 0]
    assert distances.frechet(corners * [3, 1], moved) == pytest.approx(25 + 20 / 3)


def test_frechet_agrees_with_the_formula_of_the_paper() -> None:
    # tr (C_X C_Y)**(1/2) is the sum of the roots of the eigenvalues of C_X C_Y, which is not symmetric
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4))
    y = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)) + 1
    c_x, c_y = np.cov(x.T), np.cov(y.T)
    shared = np.sqrt(np.linalg.eigvals(c_x @ c_y).real).sum()
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c_x) + np.trace(c_y) - 2 * shared
    assert distances.frechet(x, y) == pytest.approx(wanted)


def test_frechet_of_collinear_features_is_finite_and_of_a_set_with_itself_zero() -> None:
    x = np.arange(20.0)[:, None] @ np.array([[1.0, 2.0, 0.0]])  # rank 1, and one column of zeros
    assert distances.frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert distances.frechet(x, x + np.array([0, 0, 3])) == pytest.approx(9)


def test_density_is_the_sum_of_kernels() -> None:
    # the kernel density by its definition, on the same points, with Scott's bandwidth of the reference
    rng = np.random.default_rng(1)
    reference = rng.normal(10, 3, 200)
    mine = rng.normal(12, 2, 80)
    on = distances.grid(reference, 80)
    assert on.bandwidth == pytest.approx(reference.std() * 80**-0.2)
    points = on.low + on.spacing * np.arange(512)
    kernels = np.exp(-0.5 * ((points[:, None] - mine) / on.bandwidth) ** 2).sum(axis=1)
    wanted = (80 * kernels / kernels.sum() + 1 / 512) / 81
    found = density(mine, on)
    assert found.sum() == pytest.approx(1)
    assert np.abs(found - wanted).sum() < 0.01  # values went to the nearest point


def test_known_overlap_and_divergence_of_two_normals() -> None:
    # normals of standard deviation 1 whose means are 2 apart overlap by 2 Phi(-1) = 0.317; KLD = 2**2 / 2 = 2 nats.
    # Smoothing by h widens both to sqrt(1 + h**2); with 20,000 values h = 0.14 and the effect is 1 %.
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    normal = np.sort(np.random.default_rng(2).normal(size=200_000))[(quantiles * 200_000).astype(int)]
    on = distances.grid(np.concatenate([normal, normal + 2]), 20_000)
    x, y = density(normal, on), density(normal + 2, on)
    assert distances.overlapping_area(x, y) == pytest.approx(math.erfc(1 / math.sqrt(2)), abs=0.02)
    assert distances.kld_nats(x, y) == pytest.approx(2, rel=0.1)


def test_divergence_asks_what_the_reference_has_and_the_set_misses() -> None:
    # a reference of two kinds, a set of one of them: p = 1 against q = 1/2 and 1/2, up to the smoothing.
    # KLD(Y || X) pays for the half of the reference that X never makes; KLD(X || Y) would be ln 2 = 0.69.
    both, one = np.repeat([0.0, 10.0], 100), np.zeros(200)
    on = distances.grid(both, 200)
    missing = distances.kld_nats(density(one, on), density(both, on))
    extra = distances.kld_nats(density(both, on), density(one, on))
    assert extra == pytest.approx(math.log(2), abs=0.05)
    assert missing > 2


def test_sets_that_are_nearly_one_value_overlap() -> None:
    # 99 zeros and a one, against 100 zeros: with a bandwidth for each set, they would overlap by a tenth
    nearly, zeros = np.append(np.zeros(99), 1.0), np.zeros(100)
    on = distances.grid(nearly, 100)
    assert distances.overlapping_area(density(zeros, on), density(nearly, on)) > 0.95


def test_what_the_reference_never_does_is_far_and_finite() -> None:
    reference = np.linspace(0, 1, 50)
    on = distances.grid(reference, 50)
    q = density(reference, on)
    for far in (np.full(50, 30.0), np.full(50, 1e9)):
        p = density(far, on)
        assert distances.overlapping_area(p, q) < 0.1
        assert 2 < distances.kld_nats(p, q) < 20


def test_one_value_everywhere() -> None:
    same = np.full(10, 7.0)
    on = distances.grid(same, 10)
    p = density(same, on)
    assert distances.overlapping_area(p, p) == pytest.approx(1)
    assert distances.kld_nats(p, p) == pytest.approx(0)
    assert distances.overlapping_area(density(same + 0.01, on), p) < 0.2  # in whatever unit


@given(values)
def test_a_set_is_at_no_distance_from_itself(x: np.ndarray) -> None:
    p = density(x, distances.grid(x, len(x)))
    assert p.min() > 0
    assert p.sum() == pytest.approx(1)
    assert distances.overlapping_area(p, p) == pytest.approx(1)
    assert distances.kld_nats(p, p) == pytest.approx(0, abs=1e-9)
    assert distances.wasserstein(x, x[::-1].copy()) == 0


@given(pair())
def test_ranges_and_symmetry(sets: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = sets
    on = distances.grid(y, len(y))
    p, q = density(x, on), density(y, on)
    assert 0 <= distances.overlapping_area(p, q) <= 1 + 1e-9
    assert distances.overlapping_area(p, q) == distances.overlapping_area(q, p)
    assert distances.kld_nats(p, q) >= -1e-9
    assert distances.wasserstein(x, y) == distances.wasserstein(y, x)
    rows = np.stack([x, y], axis=1)
    assert distances.frechet(rows, rows[:, ::-1]) == pytest.approx(
        distances.frechet(rows[:, ::-1], rows), rel=1e-6, abs=1e-4
    )


@given(pair(), st.floats(-50, 50), st.floats(0.5, 4))
def test_units_do_not_change_overlap(sets: tuple[np.ndarray, np.ndarray], shift: float, stretch: float) -> None:
    x, y = sets
    moved = distances.wasserstein(x * stretch + shift, y * stretch + shift)
    assert moved == pytest.approx(stretch * distances.wasserstein(x, y), abs=1e-6)
    if y.std() > 1e-3:
        here, there = distances.grid(y, len(y)), distances.grid(y * stretch + shift, len(y))
        overlap = distances.overlapping_area(density(x, here), density(y, here))
        again = distances.overlapping_area(density(x * stretch + shift, there), density(y * stretch + shift, there))
        assert again == pytest.approx(overlap, abs=0.05)  # a value may fall to another point


# --- pairs of samples, ranks, intervals -------------------------------------------------------------------------------
def test_intra_and_inter_by_hand() -> None:
    # points (0, 0), (3, 4), (0, 4): sides 5, 4 and 3; to (0, 1): 1, sqrt(18) and 3
    corners = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]])
    np.testing.assert_allclose(sorted(distances.intra(corners)), [3, 4, 5])
    np.testing.assert_allclose(distances.inter(corners, np.array([[0.0, 1.0]])), [1, math.sqrt(18), 3])
    assert distances.intra(corners[:1]).size == 0
    np.testing.assert_array_equal(distances.intra(np.array([[1e8], [1e8 + 1]])), [1])  # one column: no cancellation


@given(hnp.arrays(np.float64, (6, 3), elements=st.floats(-10, 10, width=32)))
def test_intra_is_the_part_of_inter_beside_the_diagonal(x: np.ndarray) -> None:
    every = distances.inter(x, x).reshape(6, 6)
    np.testing.assert_allclose(distances.intra(x), every[np.triu_indices(6, 1)])
    wanted = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.testing.assert_allclose(every, wanted, atol=1e-4)


@given(hnp.arrays(np.float64, (3, 10), elements=st.floats(-100, 100, width=32)))
def test_many_sets_at_once_are_each_alone(sets: np.ndarray) -> None:
    on = distances.grid(sets[0], 10)
    together = distances.densities(sets, on)
    for row, values in zip(together, sets, strict=True):
        np.testing.assert_allclose(row, density(values, on))
    apart = distances.wasserstein(sets, sets[[1, 2, 0]])
    assert apart[0] == pytest.approx(float(distances.wasserstein(sets[0], sets[1])))


@given(
    hnp.arrays(np.float64, (9,), elements=st.integers(-3, 3).map(float)),
    hnp.arrays(np.float64, (9,), elements=st.integers(-3, 3).map(float)),
)
def test_spearman_agrees_with_scipy(x: np.ndarray, y: np.ndarray) -> None:
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(distances.spearman(x, y))
    else:
        assert distances.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_spearman_by_hand() -> None:
    # ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = 0.8
    assert distances.spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 30.0, 20.0, 99.0])) == pytest.approx(0.8)
    assert math.isnan(distances.spearman(np.array([1.0]), np.array([1.0])))


def test_an_interval_is_about_the_value_and_as_wide_as_its_resamples() -> None:
    resampled = np.arange(101.0)  # mean 50, 95 % between 2.5 and 97.5
    assert distances.interval(7.0, resampled) == pytest.approx((7 - 47.5, 7 + 47.5))
    assert all(math.isnan(end) for end in distances.interval(7.0, np.empty(0)))
