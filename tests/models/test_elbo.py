"""The parts of the bound, against hand-worked values and torch's own distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midivae.models import elbo
from midivae.models.elbo import Elbo

pytestmark = pytest.mark.numerical


def test_kl_by_hand() -> None:
    # 1/2 (mu^2 + s^2 - 1 - log s^2): (0, 1) -> 0; (1, 1) -> 1/2; (0, 4) -> (4 - 1 - log 4) / 2
    mu = torch.tensor([[0.0, 1.0, 0.0]])
    logvar = torch.tensor([[0.0, 0.0, math.log(4.0)]])
    wanted = torch.tensor([[0.0, 0.5, (3 - math.log(4.0)) / 2]])
    assert torch.allclose(elbo.kl_per_dimension(mu, logvar), wanted)


@given(st.integers(0, 2**31))
def test_parts_agree_with_torch(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    mu, logvar = torch.randn(2, 5, 3, generator=rng)
    judge = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(elbo.kl_per_dimension(mu, logvar), judge, atol=1e-5)

    logits = 20 * torch.randn(5, 4, 2, 2, 3, generator=rng)
    x = (torch.rand(logits.shape, generator=rng) < 0.3).float()
    terms = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    assert torch.allclose(elbo.bernoulli(logits, x), terms.flatten(1).sum(1), rtol=1e-5, atol=1e-3)


def test_bernoulli_gradient_is_probability_minus_data() -> None:
    logits = torch.tensor([[0.0, 3.0, -200.0, 200.0]], requires_grad=True)
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    elbo.bernoulli(logits, x).sum().backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad, torch.sigmoid(logits.detach()) - x)


def test_reconstruction_by_hand() -> None:
    # logits 0 give probability 1/2: log 2 nats and 1/4 squared error a cell, whatever the data
    x = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(elbo.bernoulli(torch.zeros(2, 3), x), torch.full((2,), 3 * math.log(2)))
    assert torch.allclose(elbo.squared_error(torch.zeros(2, 3), x), torch.full((2,), 0.75))


def test_squared_error_is_a_normal_likelihood_up_to_its_constant() -> None:
    # variance 1/2: -log p = (x - m)^2 + 1/2 log(pi) a cell
    logits, x = torch.tensor([[0.3, -2.0]]), torch.tensor([[1.0, 0.0]])
    normal = torch.distributions.Normal(torch.sigmoid(logits), math.sqrt(0.5))
    wanted = -normal.log_prob(x).sum(1) - 2 * 0.5 * math.log(math.pi)
    assert torch.allclose(elbo.squared_error(logits, x), wanted)


def test_the_loss_is_the_mean_and_the_bound_ignores_beta() -> None:
    parts = Elbo(torch.tensor([10.0, 20.0]), torch.tensor([1.0, 3.0]), 0.5, torch.tensor(2.0))
    assert parts.loss.item() == pytest.approx(16.0)  # (10.5 + 21.5) / 2
    assert parts.bound.tolist() == [-11.0, -23.0]


def test_free_nats_are_charged_whether_a_dimension_uses_them_or_not() -> None:
    kl = torch.tensor([[0.0, 1.0, 3.0], [0.2, 1.0, 5.0]], requires_grad=True)  # means 0.1, 1, 4
    assert elbo.charged(kl).item() == pytest.approx(5.1)
    charged = elbo.charged(kl, free_nats=0.5)
    assert charged.item() == pytest.approx(0.5 + 1 + 4)
    charged.backward()
    assert kl.grad is not None
    assert kl.grad[0].tolist() == [0, 0.5, 0.5]  # nothing pushes the first below what is free


def test_a_draw_has_the_mean_and_variance_asked_for() -> None:
    mu, logvar = torch.full((20_000, 1), 3.0), torch.full((20_000, 1), math.log(0.25))
    z = elbo.reparameterise(mu, logvar, torch.Generator().manual_seed(0))
    # standard errors: 0.5 / sqrt(20,000) = 0.0035 of the mean, 0.0025 of the deviation
    assert z.mean().item() == pytest.approx(3.0, abs=0.015)
    assert z.std().item() == pytest.approx(0.5, abs=0.012)
    assert torch.equal(elbo.reparameterise(mu, logvar, None), mu)


def test_minus_infinity_means_no_noise() -> None:
    mu = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    z = elbo.reparameterise(mu, torch.full_like(mu, -math.inf), torch.Generator().manual_seed(1))
    assert torch.equal(z, mu)
    z.sum().backward()
    assert mu.grad is not None
    assert np.array_equal(mu.grad.numpy(), np.ones((4, 3), np.float32))
