"""The fitted prior: an invertible map with the volume it says, and a fit that finds what there is to find."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from floats import ATOL, RTOL, close
from hypothesis import given, settings
from hypothesis import strategies as st

from midivae import models
from midivae.config.train import Transformer, View
from midivae.models import Config, coding
from midivae.models.flow import Prior, normal_nats
from midivae.music.roll import Layout, pack
from midivae.train import fit_prior
from midivae.train.fit_prior import Encoded
from midivae.windows.corpus import Corpus
from midivae.windows.device import BitMatrix
from midivae.windows.windows import find_chains

pytestmark = pytest.mark.numerical

LAYOUT = Layout(("a", "b"), 60, 12, 4)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prior_of(coarse: int, seed: int = 0, fine: int = 0) -> Prior:
    """One whose couplings do something, with latents far from a standard normal."""
    made = Prior(coarse, fine)
    made.initialise(rng(seed))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if ".last." in name:
                weight.normal_(std=0.1, generator=rng(seed + 1))
        made.center.normal_(generator=rng(2))
        made.spread.uniform_(0.5, 3, generator=rng(3))
        made.fine_center.normal_(generator=rng(4))
        made.fine_spread.uniform_(0.5, 3, generator=rng(5))
    return made.requires_grad_(False)


# --- the map ----------------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(0, 5), st.integers(0, 1000))
def test_latents_become_noise_and_noise_the_same_latents(coarse: int, fine: int, seed: int) -> None:
    made = prior_of(coarse, seed, fine)
    z = 2 * torch.randn(5, coarse + fine, generator=rng(seed))
    state = made.after(made.state(5, at_start=True), z.flip(0))
    noise = made.to_noise(z, state)
    assert close(made.to_latent(noise, state), z)
    assert close(noise[:, coarse:], (z[:, coarse:] - made.fine_center) / made.fine_spread)


def test_it_stretches_volumes_by_the_determinant_of_its_jacobian() -> None:
    made = prior_of(4)
    z = torch.randn(3, 4, generator=rng(7))
    state = made.state(3)
    stretch = normal_nats(made.to_noise(z, state)) - made.nats(z, state)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda x: made.to_noise(x[None], state[:1])[0], z[i])
        assert stretch[i].item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), rel=RTOL, abs=ATOL)


def test_its_density_adds_up_to_one() -> None:
    made = prior_of(2)
    axis = torch.linspace(-18, 18, 151)
    z = torch.cartesian_prod(axis, axis)
    density = torch.exp(-made.nats(z, made.state(1).expand(len(z), -1)))
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1, abs=1e-2)


def test_it_takes_no_notice_of_the_fine_latent_where_windows_follow_each_other() -> None:
    made = prior_of(3, fine=2)
    z, other = torch.randn(2, 4, 5, generator=rng(8))
    other = torch.cat([z[:, :3], other[:, 3:]], 1)
    state = made.state(4)
    assert torch.equal(made.after(state, z), made.after(state, other))
    assert torch.equal(made.nats(z, state), made.nats(other, state))


def test_it_begins_as_a_standard_normal_whatever_came_before() -> None:
    made = Prior(3, 0)
    made.initialise(rng())
    z = torch.randn(4, 3, generator=rng(1))
    for state in (made.state(4), made.after(made.state(4, at_start=True), z)):
        assert close(made.nats(z, state), normal_nats(z))
    assert normal_nats(torch.zeros(1, 3)).item() == pytest.approx(1.5 * math.log(2 * math.pi))


def test_the_nats_of_a_chain_are_those_of_each_link_given_the_ones_before() -> None:
    made = prior_of(3)
    z = torch.randn(2, 3, 3, generator=rng(5))
    found = made.nats_of_chains(z, torch.tensor([1.0, 0.0]))
    for i, at_start in enumerate((True, False)):
        state = made.state(1, at_start)
        for w in range(3):
            assert found[i, w].item() == pytest.approx(made.nats(z[i, w : w + 1], state).item(), rel=RTOL, abs=ATOL)
            state = made.after(state, z[i, w : w + 1])
    assert found[0, 0] != made.nats(z[:1, 0], made.state(1))[0]  # a start is told from what is not known


# --- the fit ----------------------------------------------------------------------------------------------------------
def walks(n: int, links: int, seed: int) -> Encoded:
    """Chains in which each latent is the one before, turned by a quarter, plus a little noise; starts lie at (3, 0)."""
    gen = np.random.default_rng(seed)
    z = np.empty((n, links, 2))
    z[:, 0] = [3, 0] + 0.3 * gen.normal(size=(n, 2))
    for w in range(1, links):
        z[:, w] = z[:, w - 1] @ [[0, 1], [-1, 0]] + 0.1 * gen.normal(size=(n, 2))
    mu = torch.from_numpy(z.reshape(-1, 2)).float()
    starts = torch.arange(0, n * links + 1, links)
    nothing = torch.zeros(0)
    return Encoded(mu, torch.full_like(mu, 0.05), nothing, nothing, starts, torch.ones(n, dtype=torch.bool))


def test_the_fit_finds_where_latents_are_and_what_follows_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_prior, "CHAIN", 16)
    monkeypatch.setattr(fit_prior, "SINGLE", 32)
    train, valid = walks(150, 6, 1), walks(30, 6, 2)
    first = Prior(2, 0)
    first.initialise(rng())
    before = torch.get_rng_state()
    fitted, curve = fit_prior.fit(first, train, valid, 250, seed=0)
    found = fit_prior.measure(fitted, valid, seed=0)
    # a standard normal: 1.84 + 9 / 2 = 6.3; four places on a ring of radius 3: some 2; the next one: noise of 0.11 in
    # two dimensions, 2 * (ln(0.11) + 1.42) = -1.6
    assert found["normal"] == pytest.approx(6.3, abs=0.3)
    assert found["anywhere"] < 4
    assert found["sequence"] < 2
    assert min(row["anywhere"] + row["sequence"] for row in curve) == found["anywhere"] + found["sequence"]
    at_start = fitted.to_latent(torch.randn(400, 2, generator=rng(3)), fitted.state(400, at_start=True))
    assert at_start.mean(0).tolist() == pytest.approx([3, 0], abs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_seed_fits_the_same_prior() -> None:
    first = Prior(2, 0)
    first.initialise(rng())
    one, other, unlike = (fit_prior.fit(first, walks(20, 4, 1), None, 20, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["begin"], unlike["begin"])
    untouched = Prior(2, 0)
    untouched.initialise(rng())
    assert all(torch.equal(weight, untouched.state_dict()[name]) for name, weight in first.state_dict().items())


# --- what is encoded --------------------------------------------------------------------------------------------------
def corpus_of(lengths: list[int]) -> Corpus:
    gen = np.random.default_rng(0)
    pieces = []
    for length in lengths:
        frame = gen.random((length, 2, 12)) < 0.2
        frame[:, :, :3] = frame[:, :, -2:] = False  # room to move: 3 semitones down, 2 up
        frame[0, 0, [3, 9]] = True
        pieces.append(coding.complete(frame[None, :, :, None])[0])
    return Corpus(
        packed=np.concatenate([pack(planes) for planes in pieces]),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        piece_ids=tuple(f"{i:016d}" for i in range(len(pieces))),
        bar_starts=tuple(np.arange(0, length, 8) for length in lengths),
        tempo_qpm=np.full(len(pieces), 120.0, np.float32),
        programs=np.zeros((len(pieces), 2), np.int32),
        layout=LAYOUT,
    )


def test_the_latents_of_chains_are_those_of_their_windows() -> None:
    view = View(steps=8, hop="bar")
    network = Transformer(width=16, channels=8, heads=2, cell=4, coarse=3, fine=2, draft=8, layers=1)
    model = models.create(Config("transformer", LAYOUT, view, network, 16, 120.0, (0, 0), "0" * 64), rng()).eval()
    corpus = corpus_of([24, 8])
    found = fit_prior.encode_chains(model, corpus, view, seed=0)
    assert found.starts.tolist() == [0, 3, 4]
    matrix = BitMatrix(corpus, find_chains(corpus, view).windows, view, torch.device("cpu"))
    with torch.inference_mode():
        mu, logvar = model.encode(matrix.batch(torch.arange(4)).x)
    assert close(found.mu, mu[:, :3])
    assert close(found.sigma, (0.5 * logvar[:, :3]).exp())
    # of the fine latents all posteriors together: the variance of their means and the mean of their variances
    variance = mu[:, 3:].var(0, correction=0) + logvar[:, 3:].exp().mean(0)
    assert close(found.fine_mean, mu[:, 3:].mean(0))
    assert close(found.fine_sd, variance.sqrt())


def test_of_a_large_corpus_whole_chains_are_drawn_up_to_a_number_of_windows() -> None:
    corpus = corpus_of([24, 40, 8, 16])
    chains = find_chains(corpus, View(steps=8, hop="bar"))
    some = fit_prior._at_most(chains, 6, np.random.default_rng(0))
    assert 0 < some.starts[-1] <= 6
    whole = {tuple(chains.windows.start[a:b]) for a, b in zip(chains.starts[:-1], chains.starts[1:], strict=True)}
    mine = [tuple(some.windows.start[a:b]) for a, b in zip(some.starts[:-1], some.starts[1:], strict=True)]
    assert set(mine) <= whole
    assert len(set(mine)) == len(some)
    assert fit_prior._at_most(chains, 11, np.random.default_rng(0)) is chains
