"""The random numbers of samples."""

from __future__ import annotations

import numpy as np
import pytest

from midivae.generate.context import Draws

pytestmark = pytest.mark.numerical


def test_draw_by_hand() -> None:
    # sample 7 of job "a" under seed 3: PCG64 seeded by (3, first 8 bytes of sha256("a"), 7); z, then a number per cell
    draws = Draws(3, "a", range(5, 9), 4, (2, 1, 2, 3))
    z, uniform = draws.noise(), draws.cells()
    name = int.from_bytes(bytes.fromhex("ca978112ca1bbdca"), "little")  # sha256("a") begins ca978112 ca1bbdca
    sample_rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([3, name, 7])))
    assert uniform is not None
    assert np.array_equal(z[2], sample_rng.standard_normal(4, dtype=np.float32))
    assert np.array_equal(uniform[2].reshape(-1), sample_rng.random(12, dtype=np.float32))
    assert Draws(3, "a", range(5, 9), 4, None).cells() is None


def test_latents_are_standard_normal() -> None:
    z = Draws(0, "a", range(20_000), 2, None).noise()
    # standard errors: mean 1/sqrt(40000) = 0.005, standard deviation 1/sqrt(80000) = 0.0035; five of each
    assert abs(z.mean()) < 0.025
    assert abs(z.std() - 1) < 0.018
