"""Moves in latent space: worked by hand, and controls of a decoder whose attributes are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from floats import close
from hypothesis import given
from hypothesis import strategies as st

from midivae import models
from midivae.errors import CorruptError, InputError
from midivae.measures import features
from midivae.models import coding, latent
from midivae.models.base import Chance
from midivae.models.flow import Prior
from midivae.models.latent import Controls, Space
from midivae.storage.files import file_sha256
from midivae.windows import loader

pytestmark = pytest.mark.numerical

NAMES = ("density", "polyphony", "note_length", "syncopation", "register", "fifths_x", "fifths_y")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- near a point, between points -------------------------------------------------------------------------------------
def test_vary_by_hand() -> None:
    # (3, 4) with radius 1 and other (1, 0): (4, 4) / sqrt(2); with radius 0 itself
    point, other = np.array([[3, 4], [3, 4]], np.float32), np.array([[1, 0], [1, 0]], np.float32)
    moved = latent.vary(point, np.array([1.0, 0.0]), other)
    assert np.allclose(moved, [[4 / 2**0.5, 4 / 2**0.5], [3, 4]])


def test_vary_keeps_the_spread_of_a_standard_normal() -> None:
    moved = latent.vary(normal(4000, 8), np.full(4000, 0.7), normal(4000, 8, seed=1))
    assert abs(moved.std() - 1) < 0.02  # standard error 0.004


def test_slerp_by_hand() -> None:
    # a third of the way from east to north is 30 degrees north of east; lengths 1 and 4 give 2
    start, end = np.array([[1, 0]], np.float32), np.array([[0, 4]], np.float32)
    third = latent.slerp(start, end, np.array([1 / 3]))
    assert np.allclose(third, [[2 * np.cos(np.pi / 6), 2 * np.sin(np.pi / 6)]])


@given(st.integers(0, 2**31))
def test_slerp_ends_at_its_ends_and_never_gets_shorter_than_both(seed: int) -> None:
    a, b = normal(1, 16, seed=seed), normal(1, 16, seed=seed + 1)
    share = np.linspace(0, 1, 7)
    path = latent.slerp(np.repeat(a, 7, 0), np.repeat(b, 7, 0), share)
    assert np.allclose(path[[0, -1]], np.concatenate([a, b]), atol=1e-5)
    assert (np.linalg.norm(path, axis=1) > min(np.linalg.norm(a), np.linalg.norm(b)) - 1e-4).all()


def test_slerp_between_points_in_one_direction_is_straight() -> None:
    a = normal(1, 4)
    assert np.allclose(latent.slerp(a, 3 * a, np.array([0.5])), 2 * a, atol=1e-5)


def test_barycentre_by_hand() -> None:
    # (1, 0) and (0, 1) with equal weights: (.5, .5) / sqrt(.5) has length 1, as each of them has
    parents = np.array([[[1, 0], [0, 1]]], np.float32)
    assert np.allclose(latent.barycentre(parents, np.array([[0.5, 0.5]])), [[0.5**0.5, 0.5**0.5]])
    assert np.allclose(latent.barycentre(parents, np.array([[0.0, 1.0]])), [[0, 1]])


def test_a_space_is_the_noise_of_the_prior_and_back() -> None:
    prior = Prior(6)
    prior.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, weight in prior.named_parameters():
            if ".last." in name:
                weight.normal_(std=0.2, generator=torch.Generator().manual_seed(2))
        prior.center.fill_(2.0)
        prior.spread.fill_(0.5)
    z = normal(40, 6)
    space = Space(prior)
    assert close(space.latent(space.noise(z)), z)
    assert not np.allclose(space.noise(z), z, atol=0.5)
    assert Space(None).noise(z) is z


# --- attributes -------------------------------------------------------------------------------------------------------
def test_measured_by_hand() -> None:
    before = {name: np.array([2.0]) for name in NAMES} | {"balance:bass": np.array([0.25])}
    after = {name: np.array([3.0]) for name in NAMES} | {"balance:bass": np.array([0.30])}
    before |= {"fifths_x": np.array([1.0]), "fifths_y": np.array([0.0])}
    after |= {"fifths_x": np.array([0.0]), "fifths_y": np.array([1.0])}  # a quarter of the circle: three fifths up
    found = latent.measured(before, after)
    assert list(found) == ["density", "polyphony", "note_length", "syncopation", "register", "key", "balance:bass"]
    expected = {"density": 0.5, "syncopation": 1.0, "register": 1.0, "key": 3.0, "balance:bass": 0.05}
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value)
    silent = latent.measured(before | {"density": np.array([0.0])}, after)
    assert np.isnan(silent["density"][0])


def test_a_step_on_the_circle_of_fifths_is_one_more_sharp() -> None:
    # the notes of C major, then of G major
    layout = loader.Layout(("a", "b"), 60, 24, 4)
    planes = np.zeros((2, 32, 2, 2, 24), bool)
    for roll, tonic in enumerate((0, 7)):
        for i, tone in enumerate((0, 2, 4, 5, 7, 9, 11)):
            planes[roll, 4 * i, 0, :, (tone + tonic) % 12] = True
    each = [features.attributes(planes[i : i + 1], layout) for i in range(2)]
    assert latent.measured(*each)["key"][0] == pytest.approx(1.0)


class Linear(models.WindowModel):
    """A decoder of one part: how many of 8 notes sound follows z[0], how high they are z[1]."""

    name = "linear"

    def initialise(self, generator: torch.Generator) -> None: ...
    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frame = x[:, :, 0, 1]
        count = frame.amax(-1).sum(1)
        row = (frame * torch.arange(48)).sum((1, 2)) / count.clamp(min=1)
        z = torch.stack([(count - 16) / 4, (row - 24) / 4, torch.zeros(len(x))], 1)
        return z, torch.full_like(z, -9.0)

    def cells(self, z, chance, uniform=None, before=None):  # type: ignore[no-untyped-def]
        made = torch.zeros(len(z), *self.config.window_shape, dtype=torch.bool)
        count = (16 + 4 * z[:, 0]).round().long().clamp(1, 32)
        row = (24 + 4 * z[:, 1]).round().long().clamp(0, 47)
        for i in range(len(z)):
            made[i, : count[i], 0, :, row[i]] = True
        return made

    def nats(self, batch, z): ...  # type: ignore[no-untyped-def]
    def elbo(self, batch, generator): ...  # type: ignore[no-untyped-def]


@pytest.fixture(scope="module")
def controls() -> tuple[Linear, Controls]:
    """A model and its controls, from windows in which the count and the height of notes vary independently."""
    from generate.test_stage import VALUES, params

    values = params([{"name": "a", "count": 1}], train={**VALUES["train"], "view": {"steps": 32}})
    layout = loader.Layout(("merged",), 36, 48, 4)
    network = values.train.dense.model_copy(update={"latent": 3})
    model = Linear(models.Config("linear", layout, values.train.view, network, 90.0, (0,), "0" * 64)).eval()
    model.register_parameter("nothing", torch.nn.Parameter(torch.zeros(1)))
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400, 3)).astype(np.float32)
    planes = coding.decode(model, z)
    corpus = loader.Corpus(
        loader.pack(planes.reshape(-1, 1, 2, 48)),
        np.arange(401) * 32,
        tuple(map(str, range(400))),
        tuple(np.zeros(1, np.int64) for _ in range(400)),
        np.full(400, 90.0),
        np.zeros((400, 1), np.int32),
        layout,
    )
    return model, Controls.fit(model, corpus, None, 0, "none", Chance())


def test_controls_know_what_can_be_changed(controls: tuple[Linear, Controls]) -> None:
    _, found = controls
    assert {"density", "register"} <= set(found.offered)
    assert "polyphony" not in found.offered  # there is never more than one pitch
    assert "register" not in found.tied("density")
    assert {"polyphony", "note_length"} <= set(found.tied("density"))  # by what they are, whatever the corpus


def test_what_is_asked_is_what_comes(controls: tuple[Linear, Controls]) -> None:
    model, found = controls
    z = (0.5 * normal(60, 3, seed=5)).astype(np.float32)
    before = features.attributes(coding.decode(model, z), model.config.layout)
    for name, change in (("density", 0.25), ("register", 3.0)):
        moved = found.moved(z, {name: np.full(60, change)})
        after = features.attributes(coding.decode(model, moved), model.config.layout)
        got = latent.measured(before, after)
        assert np.median(got[name]) == pytest.approx(change, rel=0.25)
        other = "register" if name == "density" else "density"
        assert abs(np.median(got[other])) < 0.15 * {"register": 4.0, "density": 0.25}[other]


def test_foretold_is_what_is_decoded(controls: tuple[Linear, Controls]) -> None:
    model, found = controls
    z = (0.5 * normal(60, 3, seed=6)).astype(np.float32)
    real = features.attributes(coding.decode(model, z), model.config.layout)
    assert np.allclose(found.foretold(z)["register"], real["register"], atol=0.8)


def test_misses_by_hand(controls: tuple[Linear, Controls]) -> None:
    _, found = controls
    sd = found.sd[found.names.index("register")]
    none = {name: np.zeros(2) for name in latent.asked_names(found.names)}
    asked = {"register": np.array([2.0, 2.0])}
    on_target = none | {"register": np.array([2.0, 2.0 + sd])}
    misses = found.misses(asked, {"register": np.array([True, True])}, on_target)
    assert misses == pytest.approx([0.0, 1.0])
    lost = found.misses(asked, {"register": np.array([True, True])}, none | {"register": np.array([np.nan, 2.0])})
    assert lost.tolist() == [np.inf, 0.0]
    # what was not asked for counts a third, shared by all that is offered
    aside = none | {"register": np.array([2.0, 2.0]), "key": np.array([latent.KEY_SD, 0.0])}
    if "key" in found.offered:
        expected = latent.LEAK / len(found.offered)
        assert found.misses(asked, {"register": np.array([True, True])}, aside) == pytest.approx([expected, 0])


def test_controls_on_disk(controls: tuple[Linear, Controls], tmp_path: Path) -> None:
    _, found = controls
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    mine = replace(found, model_sha256=file_sha256(tmp_path / "model.safetensors"))
    mine.write(tmp_path)
    read = Controls.read(tmp_path)
    assert read.names == mine.names
    assert np.allclose(read.directions, mine.directions, rtol=1e-6)
    first = (tmp_path / latent.FILE).read_bytes()
    read.write(tmp_path)
    assert (tmp_path / latent.FILE).read_bytes() == first
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(CorruptError, match="belongs to other weights"):
        Controls.read(tmp_path)
    values = json.loads(first) | {"version": 99}
    (tmp_path / latent.FILE).write_text(json.dumps(values))
    with pytest.raises(CorruptError, match="version 99"):
        Controls.read(tmp_path)
    (tmp_path / latent.FILE).unlink()
    with pytest.raises(InputError, match="rerun stage `train`"):
        Controls.read(tmp_path)
