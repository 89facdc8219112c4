"""The transformer: a distribution that adds up to one, that sees no future, and whose samples are drawn from it."""

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
from midivae.models.chance import Chance
from midivae.models.conditions import Conditions
from midivae.models.given import random_given
from midivae.models.transformer import BOTH, RECENT, Transformer
from midivae.music.roll import Layout
from midivae.windows.batch import Batch
from midivae.windows.device import BitMatrix
from midivae.windows.place import grid_places

pytestmark = pytest.mark.numerical

CONTEXT = 6


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(parts: int = 2, planes: str = "onset+frame", steps: int = 8, pitches: int = 12) -> Transformer:
    """A small model whose first weights are so large that everything matters."""
    names = tuple("abcdef"[:parts])
    network = Settings(width=16, channels=8, layers=2, heads=2, cell=6, coarse=5, fine=3, draft=7, context=CONTEXT)
    view = View.model_validate({"steps": steps, "planes": planes})
    config = Config("transformer", Layout(names, 60, pitches, 4), view, network, 16, 120.0, (0,) * parts, "0" * 64)
    model = models.create(config, rng())
    assert isinstance(model, Transformer)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(3)
        model.encoder.posterior.weight.mul_(0.03)  # or the plan, a tanh, is at its ends
        model.head.bias.fill_(-0.5)
        model.head.now.normal_(std=0.5, generator=rng(5))
        model.head.begun.normal_(std=0.5, generator=rng(6))
    return model.eval()


def music(n: int, model: Transformer, seed: int = 0, steps: int | None = None, density: float = 0.2) -> torch.Tensor:
    """Random windows that say of every note where it begins."""
    t, parts, k, p = model.config.window_shape
    cells = np.random.default_rng(seed).random((n, steps or t, parts, k, p)) < density
    both = coding.complete(cells)
    return torch.from_numpy(both[:, :, :, -k:]).float()


def batch_of(model: Transformer, n: int = 3) -> Batch:
    """Windows that follow as many steps as there can be, none, and some; the last one ends early."""
    x, before = music(n, model), music(n, model, 1, CONTEXT)
    n_before = torch.tensor([CONTEXT, 0, 2])[:n]
    known = torch.arange(CONTEXT) >= CONTEXT - n_before[:, None]
    before = before * known[:, :, None, None, None]
    inside = torch.tensor([8, 8, 5])[:n]
    place = np.stack([grid_places(4 * i - CONTEXT, CONTEXT + x.shape[1], 4, i, 9) for i in range(n)])
    return Batch(x, before, n_before, inside, torch.from_numpy(place).long(), torch.zeros(n, dtype=torch.long))


def latents(model: Transformer, n: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(n, model.latent, generator=rng(seed))


# --- likelihood -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("parts", "planes", "steps"), [(1, "frame", 2), (2, "frame", 1), (1, "onset+frame", 3)])
@torch.inference_mode()
def test_the_probabilities_of_all_windows_add_up_to_one(parts: int, planes: str, steps: int) -> None:
    model = model_of(parts, planes, steps, pitches=2)
    k = model.config.window_shape[2]
    every = itertools.product([False, True], repeat=steps * parts * k * 2)
    cells = np.array(list(every)).reshape(-1, steps, parts, k, 2)
    if k == 2:  # those that say the same of notes are one window
        cells = np.unique(coding.complete(cells), axis=0)
        assert len(cells) > 100
    x = torch.from_numpy(cells).float()
    z = latents(model, 1).expand(len(x), -1)
    assert torch.exp(-model.nats(Batch.of(x), z)).sum().item() == pytest.approx(1, rel=1e-4)


@torch.inference_mode()
def test_a_step_depends_on_nothing_that_comes_after_it() -> None:
    model = model_of()
    batch = batch_of(model)
    z = latents(model, 3)
    later = music(3, model, seed=9)
    for known in (0, 3, 7):
        first = torch.full((3,), known)
        changed = torch.cat([batch.x[:, :known], later[:, known:]], 1)
        one, other = (model.nats(batch._replace(x=x, n_inside=first), z) for x in (batch.x, changed))
        assert torch.equal(one, other), known
    assert not close(model.nats(batch, z), model.nats(batch._replace(x=later), z))


@torch.inference_mode()
def test_steps_before_the_window_count_only_as_far_as_they_are_known() -> None:
    model = model_of()
    batch = batch_of(model)
    z = latents(model, 3)
    noise = music(3, model, 7, CONTEXT)
    known = (torch.arange(CONTEXT) >= CONTEXT - batch.n_before[:, None])[:, :, None, None, None]
    hidden = batch._replace(before=torch.where(known, batch.before, noise))
    nats = model.nats(batch, z)
    # the last step that is not known is still seen by the first that is, as the silence that it is: here it is noise
    assert close(model.nats(hidden, z)[0], nats[0])
    unlike = batch._replace(before=torch.where(known, noise, batch.before))
    assert (model.nats(unlike, z) != nats).tolist() == [True, False, True]


@torch.inference_mode()
def test_a_window_alone_is_one_without_known_steps_before_it() -> None:
    model = model_of()
    x, z = music(3, model), latents(model, 3)
    alone = Batch.of(x)
    place = torch.cat([torch.full((3, CONTEXT, 4), 7), alone.place], 1)
    empty = alone._replace(before=torch.zeros(3, CONTEXT, *x.shape[2:]), place=place)
    assert close(model.nats(alone, z), model.nats(empty, z))
    assert all(torch.equal(*pair) for pair in zip(empty.alone()[:6], alone[:6], strict=True))


def test_the_bound_holds_and_everything_gets_a_gradient() -> None:
    model = model_of()
    model.train()
    many = Batch(*(torch.cat([part] * 16) for part in batch_of(model)[:6]))  # all shares of the settings occur
    parts = model.elbo(many, rng(1))
    parts.loss.backward()
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    without = {name for name, weight in learned.items() if weight.grad is None or not weight.grad.any()}
    assert {name.partition(".")[0] for name in without} == {"draft"}  # it is fitted before, and fixed
    others = {name.partition(".")[0] for name, _ in model.named_parameters() if name not in learned}
    assert others == {"prior"}  # it is fitted afterwards
    assert parts.charged >= 0.5 * 5 * model.settings.free_nats


def test_a_window_without_a_latent_counts_no_kl() -> None:
    batch = batch_of(model_of())
    for no_latent, both in ((0.99, 0.0), (0.0, 0.0)):
        model = model_of()
        model.settings = model.settings.model_copy(update={"no_latent": no_latent, "both_latents": both})
        model.train()
        parts = model.elbo(batch, rng(1))
        assert bool(parts.kl.any()) == (no_latent == 0)
        assert bool(parts.charged > 0) == (no_latent == 0)


# --- the latents ------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def test_fidelity_0_takes_no_notice_of_the_fine_latent_to_the_bit() -> None:
    model = model_of()
    batch, z = batch_of(model), latents(model, 3)
    other = torch.cat([z[:, : model.coarse], latents(model, 3, 8)[:, model.coarse :]], 1)
    uniform = torch.rand(batch.x.shape, generator=rng(4))
    for fidelity, same in ((torch.zeros(3), True), (torch.full((3,), 0.3), False), (None, False)):
        assert torch.equal(model.nats(batch, z, fidelity), model.nats(batch, other, fidelity)) == same
        drawn = [model.cells(x, Chance(temperature=1.0), uniform, batch, fidelity) for x in (z, other)]
        assert torch.equal(*drawn) == same


@torch.inference_mode()
def test_a_fidelity_uses_the_first_dimensions_of_each_beat() -> None:
    """Three dimensions a beat: a fidelity of 0.3 uses the first one, 0.5 two, 1 all three."""
    model = model_of()
    batch, z = batch_of(model), latents(model, 3)
    for fidelity, used in ((0.3, 1), (0.5, 2), (1.0, 3)):
        nats = model.nats(batch, z, torch.full((3,), fidelity))
        for dimension in range(3):
            moved = z.clone()
            moved[:, model.coarse + 3 + dimension] += 1  # of the second beat
            assert torch.equal(model.nats(batch, moved, torch.full((3,), fidelity)), nats) == (dimension >= used)


@torch.inference_mode()
def test_a_beat_writes_to_its_own_dimensions_and_its_draft_reads_no_others() -> None:
    draft = model_of().draft
    assert (draft.beats, draft.fine, draft.latent) == (2, 3, 6)
    one = music(1, model_of())
    other = torch.cat([one[:, :4], 1 - one[:, 4:]], 1)  # the second beat changes
    for a, b in zip(draft.encode(one), draft.encode(other), strict=True):
        assert (a != b).tolist() == [[False] * 3 + [True] * 3]
    z = torch.randn(1, 6, generator=rng(3))
    moved = z.clone()
    moved[:, :3] += 1  # the first beat's
    changed = (draft.decode(z) != draft.decode(moved)).flatten(2).any(2)
    assert changed.tolist() == [[True] * 4 + [False] * 4]


def test_a_draft_in_training_uses_the_first_dimensions_of_each_beat() -> None:
    draft = model_of().draft
    counts = draft.random_counts(4000, rng())
    shares = np.bincount(counts, minlength=4) / 4000
    # half of the windows use all three, the others one, two or three: 1/6, 1/6, 2/3; standard errors below 0.01
    assert shares == pytest.approx([0, 1 / 6, 1 / 6, 2 / 3], abs=0.03)
    assert draft.first_dimensions(torch.tensor([1, 3])).tolist() == [[1, 0, 0, 1, 0, 0], [1] * 6]


@torch.inference_mode()
def test_the_last_beat_of_a_window_may_be_cut() -> None:
    model = model_of(steps=6)
    x = music(2, model)
    assert model.draft.decode(model.draft.encode(x)[0]).shape == x.shape
    assert model.nats(Batch.of(x), model.encode(x)[0]).shape == (2,)


@torch.inference_mode()
def test_the_decoder_goes_over_the_draft() -> None:
    """The draft of a step says something of that step to every cell, and of no other step."""
    model = model_of()
    x = music(1, model)
    batch, drafted = Batch.of(x), 4  # rows of the draft; those of given cells lie behind them
    plan = model._plan(batch, latents(model, 1), torch.tensor([BOTH]), torch.tensor([3]))
    assert plan.rows[:, :, :drafted].abs().max() <= 1
    assert not plan.rows[:, :, drafted:].any()
    nats = model._nats(batch, plan, x)
    other = plan._replace(rows=plan.rows.flip(3))
    assert not close(nats, model._nats(batch, other, x))
    last = plan._replace(rows=torch.cat([plan.rows[:, :-1], plan.rows[:, -1:].flip(3)], 1))
    cut = batch._replace(n_inside=torch.tensor([7]))
    assert torch.equal(model._nats(cut, plan, x), model._nats(cut, last, x))


# --- places and given cells -------------------------------------------------------------------------------------------
@torch.inference_mode()
def test_every_number_of_a_place_matters() -> None:
    model = model_of()
    batch, z = batch_of(model), latents(model, 3)
    nats = model.nats(batch, z)
    for number in range(4):
        place = batch.place.clone()
        place[:, CONTEXT:, number] += 1
        assert not close(model.nats(batch._replace(place=place), z), nats)


@torch.inference_mode()
def test_the_shift_of_a_window_matters_and_samples_have_none() -> None:
    model = model_of()
    batch, z = batch_of(model), latents(model, 3)
    nats = model.nats(batch, z)
    assert not close(model.nats(batch._replace(shift=torch.tensor([1, -2, 6])), z), nats)
    matrix = BitMatrix.__new__(BitMatrix)
    matrix.context, matrix._pitched = CONTEXT, torch.ones(2, dtype=torch.bool)
    assert matrix.moved(batch, torch.tensor([1, -2, 0])).shift.tolist() == [1, -2, 0]
    block, _ = Conditions().of_rows(slice(0, 3), 3, model)
    assert block.shift.tolist() == [0, 0, 0]


@torch.inference_mode()
def test_given_cells_cost_no_nats_and_are_seen_before_they_come() -> None:
    model = model_of()
    batch, z = batch_of(model), latents(model, 3)
    everything = torch.ones(batch.x[:, :, :, 0].shape, dtype=torch.bool)
    assert model.nats(batch._replace(given=everything), z).tolist() == [0, 0, 0]
    nothing = batch._replace(given=~everything)
    assert torch.equal(model.nats(nothing, z), model.nats(batch, z))
    last = everything.clone()
    last[:, :-1] = False
    first = torch.ones(3, dtype=torch.long)  # only the first step counts: what is given comes later
    changed = torch.cat([batch.x[:, :-1], 1 - batch.x[:, -1:]], 1)
    one, other = (model.nats(batch._replace(x=x, given=last, n_inside=first), z) for x in (batch.x, changed))
    assert not close(one, other)


@pytest.mark.parametrize(("parts", "planes"), [(2, "onset+frame"), (1, "frame")])
@torch.inference_mode()
def test_samples_keep_given_cells(parts: int, planes: str) -> None:
    model = model_of(parts, planes)
    batch, z = batch_of(model), latents(model, 3)
    for share in (0.3, 1.0):
        given = torch.rand(batch.x[:, :, :, 0].shape, generator=rng(2)) < share
        uniform = torch.rand(batch.x.shape, generator=rng(4))
        drawn = model.cells(z, Chance(temperature=1.0), uniform, batch._replace(given=given))
        frame = (drawn == (batch.x > 0))[..., -1, :]
        assert frame[given].all()
        assert share == 1 or not frame.all()


def test_training_windows_have_given_cells_by_the_share_of_the_settings() -> None:
    x = music(2000, model_of(), density=0.3)
    assert not random_given(x, 4, 4, 0.0, rng()).any()
    given = random_given(x, 4, 4, 0.5, rng())
    with_some = given.flatten(1).any(1)
    assert 0.3 < with_some.float().mean() < 0.5  # some kinds may draw none
    whole_parts = given.all(1).all(-1)  # [B, N]
    assert whole_parts.any()
    single = given & (x[..., -1, :] == 0)
    assert (with_some & ~single.flatten(1).any(1)).any()  # notes without the silence around them
    bars = given.view(2000, 2, 4, 2, 12)
    assert (bars.flatten(2).all(2).sum(1) == 1).any()  # one of two bars


# --- samples ----------------------------------------------------------------------------------------------------------
def probabilities(
    model: Transformer, z: torch.Tensor, made: torch.Tensor, batch: Batch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the frame cells and the onset cells of finished windows, and the step before each step."""
    everything = torch.cat([batch.before, made], 1)
    n = len(z)
    plan = model._plan(batch._replace(x=torch.zeros_like(made)), z, torch.full((n,), BOTH), torch.full((n,), 3))
    seen = torch.nn.functional.pad(everything[:, :-1], (0, 0, 0, 0, 0, 0, RECENT, 0))
    vector, field = (states[:, CONTEXT:] for states in model._states(seen, plan, batch.n_before))
    previous = everything[:, CONTEXT - 1 : -1]
    rows = torch.cat([previous.flatten(2, 3), plan.rows], 2)
    onset = made[..., 0, :] if made.shape[3] == 2 else None
    logits = model.head(vector, field, rows, made[..., -1, :], onset)
    frame_p, onset_p = torch.sigmoid(logits / temperature).unbind(2)
    return frame_p, onset_p, previous


@pytest.mark.parametrize(("parts", "planes"), [(3, "onset+frame"), (1, "frame"), (1, "onset+frame")])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@torch.inference_mode()
def test_samples_are_drawn_from_the_probabilities_that_the_likelihood_gives(
    parts: int, planes: str, temperature: float
) -> None:
    """Incremental, several cells a round: it must decide each cell as the probabilities of the finished window say."""
    model = model_of(parts, planes)
    batch = batch_of(model)
    z = latents(model, 3)
    uniform = torch.rand(batch.x.shape, generator=rng(4))
    made = model.cells(z, Chance(temperature=temperature), uniform, batch).float()

    frame_p, onset_p, previous = probabilities(model, z, made, batch, temperature)
    onset = made[..., 0, :] if made.shape[3] == 2 else None
    assert 0.05 < made.mean() < 0.95
    sure = certain(uniform[..., -1, :], frame_p)
    assert torch.equal((made[..., -1, :] > 0)[sure], (uniform[..., -1, :] < frame_p)[sure])
    if onset is not None:
        sure = certain(uniform[..., 0, :], onset_p)
        begins = (uniform[..., 0, :] < onset_p) | (previous[..., 1, :] == 0)
        assert torch.equal((onset > 0)[sure], (begins & (made[..., 1, :] > 0))[sure])


@torch.inference_mode()
def test_a_sample_is_the_same_alone_and_among_others() -> None:
    model = model_of()
    z = latents(model, 4)
    uniform = torch.rand((4, *model.config.window_shape), generator=rng(4))
    together = model.cells(z, Chance(temperature=1.0), uniform)
    place = torch.from_numpy(grid_places(-CONTEXT, CONTEXT + 8, 16)).long().expand(4, -1, -1)
    before = Batch.of(together.float())._replace(before=torch.zeros(4, CONTEXT, *uniform.shape[2:]), place=place)
    frame_p, onset_p, _ = probabilities(model, z, together.float(), before)
    # one cell that falls to the other side of its probability changes all that come after it
    sure = certain(uniform[..., 0, :], onset_p) & certain(uniform[..., 1, :], frame_p)
    rows = np.flatnonzero(sure.reshape(4, -1).all(1))
    assert len(rows) >= 2
    for i in rows.tolist():
        alone = model.cells(z[i : i + 1], Chance(temperature=1.0), uniform[i : i + 1])
        assert torch.equal(alone[0], together[i])
