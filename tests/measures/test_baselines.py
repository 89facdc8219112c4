"""Trivial generators: counts by hand, and what is drawn has the shares that were counted."""

from __future__ import annotations

import numpy as np
import pytest
from rolls import LAYOUT, planes_of

from midivae.measures import baselines
from midivae.measures.baselines import HELD, OFF, STRUCK
from midivae.models.coding import complete

pytestmark = pytest.mark.numerical


def cells(*states: int) -> np.ndarray:
    """A roll of one part and one pitch from its states."""
    planes = np.zeros((1, len(states), 1, 2, 1), bool)
    for step, state in enumerate(states):
        planes[0, step, 0, :, 0] = (state == STRUCK, state != OFF)
    return planes


def test_counts_by_hand() -> None:
    counts = baselines.count(cells(STRUCK, HELD, OFF, STRUCK, STRUCK, HELD, HELD, OFF))
    assert counts.first[0, 0].tolist() == [0, 1, 0]
    # off: to struck once; struck: to struck once, to held twice; held: to held once, to off twice
    assert counts.then[0, 0].tolist() == [[0, 1, 0], [0, 1, 2], [2, 0, 1]]
    both = counts + baselines.count(cells(OFF, OFF))
    assert both.first[0, 0].tolist() == [1, 1, 0]
    assert both.then[0, 0].tolist() == [[1, 1, 0], [0, 1, 2], [2, 0, 1]]


def test_a_frame_after_silence_is_struck() -> None:
    held_into = cells(STRUCK, HELD, OFF)
    held_into[:, 0, :, 0] = False
    np.testing.assert_array_equal(baselines.states(held_into), baselines.states(cells(STRUCK, HELD, OFF)))


def drawn(name: baselines.Name, counts: baselines.Counts, n: int, steps: int = 32, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(baselines.draw(name, counts, n, steps, seed)))


@pytest.mark.parametrize("name", baselines.NAMES)
def test_rolls_are_consistent_and_do_not_depend_on_how_many_there_are(name: baselines.Name) -> None:
    rng = np.random.default_rng(0)
    counts = baselines.count(np.stack([planes_of(rng, 32) for _ in range(40)]))
    few, many = drawn(name, counts, 5), drawn(name, counts, 300)
    np.testing.assert_array_equal(few, many[:5])
    np.testing.assert_array_equal(complete(many), many)  # an onset sounds, and sound begins with an onset
    assert many.shape == (300, 32, 2, 2, 12)
    assert not np.array_equal(many[:128], many[128:256])
    assert not np.array_equal(drawn(name, counts, 5, seed=1), few)


def test_markov_has_the_transitions_that_were_counted_and_bernoulli_does_not() -> None:
    rng = np.random.default_rng(0)
    real = np.stack([planes_of(rng, 64) for _ in range(60)])
    wanted = baselines.count(real).then.sum(axis=(0, 1))
    chain, alone = (
        baselines.count(drawn(name, baselines.count(real), 400, 64)).then.sum(axis=(0, 1))
        for name in baselines.NAMES[::-1]
    )
    shares = [counts / counts.sum(axis=1, keepdims=True) for counts in (wanted, chain, alone)]
    np.testing.assert_allclose(shares[1], shares[0], atol=0.02)
    assert abs(shares[2][HELD] - shares[0][HELD]).max() > 0.3  # notes do not last
    assert shares[0][OFF, HELD] == 0


def test_bernoulli_sounds_as_often_as_the_music() -> None:
    rng = np.random.default_rng(0)
    real = np.stack([planes_of(rng, 64) for _ in range(60)])
    made = drawn("bernoulli", baselines.count(real), 400, 64)
    assert made[:, :, :, 1].mean() == pytest.approx(real[:, :, :, 1].mean(), rel=0.03)


def test_what_never_came_stays_off() -> None:
    nothing = np.zeros((3, 8, 2, 2, LAYOUT.pitches), bool)
    for name in baselines.NAMES:
        assert not drawn(name, baselines.count(nothing), 10).any()
        assert not drawn(name, baselines.count(nothing[:0]), 10).any()
