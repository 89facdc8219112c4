"""The transformer: its probabilities sum to one, no step depends on later ones, and samples are drawn from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from floats import certain, close

from midivae import models
from midivae.config.train import Transformer as Settings
from midivae.config.train import View
from midivae.models import Config, coding
from midivae.models.base import Chance
from midivae.models.transformer import RECENT, Transformer
from midivae.music.roll import Layout
from midivae.windows.batch import Batch

pytestmark = pytest.mark.numerical

CONTEXT = 6


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(
    parts: int = 2, planes: str = "onset+frame", steps: int = 8, pitches: int = 12, draft: int = 0
) -> Transformer:
    """A small model with weights so large that each has an effect."""
    names = tuple("abcdef"[:parts])
    network = Settings(width=16, channels=8, layers=2, heads=2, cell=6, latent=5, context=CONTEXT, draft=draft)
    view = View.model_validate({"steps": steps, "planes": planes})
    config = Config("transformer", Layout(names, 60, pitches, 4), view, network, 120.0, (0,) * parts, "0" * 64)
    model = models.create(config, rng())
    assert isinstance(model, Transformer)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(3)
        if model.encoder is not None:
            model.encoder.posterior.weight.mul_(0.03)  # otherwise the plan's tanh is saturated
        model.head.bias.fill_(-0.5)
        model.head.now.normal_(std=0.5, generator=rng(5))
        model.head.begun.normal_(std=0.5, generator=rng(6))
    return model.eval()


def music(n: int, model: Transformer, seed: int = 0, steps: int | None = None, density: float = 0.2) -> torch.Tensor:
    """Random windows whose notes all have an onset."""
    t, parts, k, p = model.config.window_shape
    cells = np.random.default_rng(seed).random((n, steps or t, parts, k, p)) < density
    both = coding.complete(cells)
    return torch.from_numpy(both[:, :, :, -k:]).float()


def batch_of(model: Transformer, n: int = 3) -> Batch:
    """Three windows, after all the steps of the context, none, and two; the last one ends early."""
    x, before = music(n, model), music(n, model, 1, CONTEXT)
    n_before = torch.tensor([CONTEXT, 0, 2])[:n]
    known = torch.arange(CONTEXT) >= CONTEXT - n_before[:, None]
    before = before * known[:, :, None, None, None]
    inside = torch.tensor([8, 8, 5])[:n]
    return Batch(x, before, n_before, inside)


def latents(model: Transformer, n: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(n, model.latent, generator=rng(seed))


# --- likelihood -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("draft", [0, 7])
@pytest.mark.parametrize(("parts", "planes", "steps"), [(1, "frame", 2), (2, "frame", 1), (1, "onset+frame", 3)])
@torch.inference_mode()
def test_the_probabilities_of_all_windows_sum_to_one(parts: int, planes: str, steps: int, draft: int) -> None:
    model = model_of(parts, planes, steps, pitches=2, draft=draft)
    k = model.config.window_shape[2]
    every = itertools.product([False, True], repeat=steps * parts * k * 2)
    cells = np.array(list(every)).reshape(-1, steps, parts, k, 2)
    if k == 2:  # windows with the same notes count once
        cells = np.unique(coding.complete(cells), axis=0)
        assert len(cells) > 100
    x = torch.from_numpy(cells).float()
    z = latents(model, 1).expand(len(x), -1)
    assert torch.exp(-model.nats(Batch.of(x), z)).sum().item() == pytest.approx(1, rel=1e-4)


@torch.inference_mode()
def test_a_step_does_not_depend_on_later_steps() -> None:
    model = model_of()
    batch = batch_of(model)
    z = latents(model, 3)
    later = music(3, model, seed=9)
    for n in (0, 3, 7):
        first = torch.full((3,), n)
        changed = torch.cat([batch.x[:, :n], later[:, n:]], 1)
        one, other = (model.nats(batch._replace(x=x, n_inside=first), z) for x in (batch.x, changed))
        assert torch.equal(one, other), n
    assert not close(model.nats(batch, z), model.nats(batch._replace(x=later), z))


@torch.inference_mode()
def test_unknown_steps_before_the_window_are_ignored() -> None:
    model = model_of()
    batch = batch_of(model)
    z = latents(model, 3)
    noise = music(3, model, 7, CONTEXT)
    known = (torch.arange(CONTEXT) >= CONTEXT - batch.n_before[:, None])[:, :, None, None, None]
    hidden = batch._replace(before=torch.where(known, batch.before, noise))
    nats = model.nats(batch, z)
    # the first known step does see the step before it, which is silence if unknown; here it is noise, but for row 0
    assert close(model.nats(hidden, z)[0], nats[0])
    unlike = batch._replace(before=torch.where(known, noise, batch.before))
    assert (model.nats(unlike, z) != nats).tolist() == [True, False, True]


@torch.inference_mode()
def test_a_window_alone_is_one_after_unknown_steps() -> None:
    model = model_of()
    x, z = music(3, model), latents(model, 3)
    empty = Batch(x, torch.zeros(3, CONTEXT, *x.shape[2:]), torch.zeros(3, dtype=torch.long), torch.full((3,), 8))
    assert close(model.nats(Batch.of(x), z), model.nats(empty, z))


@pytest.mark.parametrize("draft", [0, 7])
def test_every_weight_but_the_priors_gets_a_gradient(draft: int) -> None:
    model = model_of(draft=draft)
    model.train()
    parts = model.elbo(batch_of(model), rng(1))
    parts.loss.backward()
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert [name for name, weight in learned.items() if weight.grad is None or not weight.grad.any()] == []
    others = {name.partition(".")[0] for name, _ in model.named_parameters() if name not in learned}
    assert others == {"prior"}  # it is fitted afterwards
    assert parts.charged >= 5 * model.settings.free_nats - 1e-6


# --- the draft --------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def test_a_beat_is_encoded_to_its_own_dimensions_and_decoded_from_them_alone() -> None:
    draft = model_of(draft=7).draft
    assert draft is not None
    assert (draft.beats, draft.own, draft.latent) == (2, 3, 5)  # two beats of four steps: three dimensions, and two
    one = music(1, model_of())
    other = torch.cat([one[:, :4], 1 - one[:, 4:]], 1)  # the second beat changes
    for a, b in zip(draft.encode(one), draft.encode(other), strict=True):
        assert (a != b).tolist() == [[False, False, False, True, True]]
    z = latents(model_of(), 1)
    moved = z.clone()
    moved[:, :3] += 1  # the first beat's
    changed = (draft.decode(z) != draft.decode(moved)).flatten(2).any(2)
    assert changed.tolist() == [[True] * 4 + [False] * 4]


@torch.inference_mode()
def test_the_last_beat_of_a_window_may_be_cut() -> None:
    model = model_of(steps=6, draft=7)
    x = music(2, model)
    assert model.draft is not None
    assert model.draft.decode(model.encode(x)[0]).shape == x.shape


@torch.inference_mode()
def test_the_head_sees_the_draft() -> None:
    """The draft of a step changes the probabilities of that step, and of no other."""
    model = model_of(draft=7)
    z = latents(model, 1)
    plan = model._plan(z, 0)
    assert plan.draft.abs().max() <= 1
    x = music(1, model)
    nats = model._nats(Batch.of(x), plan, x)
    other = plan._replace(draft=plan.draft.flip(3))
    assert not close(nats, model._nats(Batch.of(x), other, x))
    last = plan._replace(draft=torch.cat([plan.draft[:, :-1], plan.draft[:, -1:].flip(3)], 1))
    cut = Batch.of(x)._replace(n_inside=torch.tensor([7]))
    assert torch.equal(model._nats(cut, plan, x), model._nats(cut, last, x))


# --- samples ----------------------------------------------------------------------------------------------------------
def probabilities(
    model: Transformer, z: torch.Tensor, samples: torch.Tensor, batch: Batch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The probabilities of frames and onsets of finished windows, and the step before each step."""
    everything = torch.cat([batch.before, samples], 1)
    plan = model._plan(z, CONTEXT)
    seen = torch.nn.functional.pad(everything[:, :-1], (0, 0, 0, 0, 0, 0, RECENT, 0))
    vector, field = (states[:, CONTEXT:] for states in model._states(seen, plan, batch.n_before))
    previous = everything[:, CONTEXT - 1 : -1]
    rows = torch.cat([previous.flatten(2, 3), plan.draft], 2)
    onset = samples[..., 0, :] if samples.shape[3] == 2 else None
    logits = model.head(vector, field, rows, samples[..., -1, :], onset)
    frame_p, onset_p = torch.sigmoid(logits / temperature).unbind(2)
    return frame_p, onset_p, previous


@pytest.mark.parametrize("draft", [0, 7])
@pytest.mark.parametrize(("parts", "planes"), [(3, "onset+frame"), (1, "frame"), (1, "onset+frame")])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@torch.inference_mode()
def test_samples_are_drawn_from_the_probabilities_that_the_likelihood_gives(
    parts: int, planes: str, temperature: float, draft: int
) -> None:
    """Sampling step by step and in rounds decides each cell by its probability in the finished window."""
    model = model_of(parts, planes, draft=draft)
    batch = batch_of(model)
    z = latents(model, 3)
    uniform = torch.rand(batch.x.shape, generator=rng(4))
    samples = model.cells(z, Chance(temperature=temperature), uniform, batch).float()

    frame_p, onset_p, previous = probabilities(model, z, samples, batch, temperature)
    onset = samples[..., 0, :] if samples.shape[3] == 2 else None
    assert 0.05 < samples.mean() < 0.95
    sure = certain(uniform[..., -1, :], frame_p)
    assert torch.equal((samples[..., -1, :] > 0)[sure], (uniform[..., -1, :] < frame_p)[sure])
    if onset is not None:
        sure = certain(uniform[..., 0, :], onset_p)
        begins = (uniform[..., 0, :] < onset_p) | (previous[..., 1, :] == 0)
        assert torch.equal((onset > 0)[sure], (begins & (samples[..., 1, :] > 0))[sure])


@pytest.mark.parametrize("draft", [0, 7])
@torch.inference_mode()
def test_a_sample_is_the_same_alone_and_among_others(draft: int) -> None:
    model = model_of(draft=draft)
    z = latents(model, 4)
    uniform = torch.rand((4, *model.config.window_shape), generator=rng(4))
    together = model.cells(z, Chance(temperature=1.0), uniform)
    nothing = torch.zeros(4, CONTEXT, *uniform.shape[2:])
    before = Batch(together.float(), nothing, torch.zeros(4, dtype=torch.long), torch.full((4,), 8))
    frame_p, onset_p, _ = probabilities(model, z, together.float(), before)
    # a cell at its probability's limit may be decided differently, and all later cells with it
    sure = certain(uniform[..., 0, :], onset_p) & certain(uniform[..., 1, :], frame_p)
    rows = np.flatnonzero(sure.reshape(4, -1).all(1))
    assert len(rows) >= 2
    for i in rows.tolist():
        alone = model.cells(z[i : i + 1], Chance(temperature=1.0), uniform[i : i + 1])
        assert torch.equal(alone[0], together[i])
