"""Controls of a decoder whose attributes are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midivae import models
from midivae.measures import features
from midivae.models import coding
from midivae.models.chance import Chance
from midivae.models.controls import Controls, measure_changes
from midivae.models.fit_controls import fit_controls
from midivae.music.roll import Layout, pack
from midivae.windows.corpus import Corpus

pytestmark = pytest.mark.numerical


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


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

    def cells(self, z, chance, uniform=None, batch=None, fidelity=None):  # type: ignore[no-untyped-def]
        cells = torch.zeros(len(z), *self.config.window_shape, dtype=torch.bool)
        count = (16 + 4 * z[:, 0]).round().long().clamp(1, 32)
        row = (24 + 4 * z[:, 1]).round().long().clamp(0, 47)
        for i in range(len(z)):
            cells[i, : count[i], 0, :, row[i]] = True
        return cells

    def nats(self, batch, z, fidelity=None): ...  # type: ignore[no-untyped-def]
    def elbo(self, batch, generator): ...  # type: ignore[no-untyped-def]


@pytest.fixture(scope="module")
def controls() -> tuple[Linear, Controls]:
    """A model and its controls, from windows in which the count and the height of notes vary independently."""
    from generate.test_stage import VALUES, params

    values = params([{"name": "a", "count": 1}], train={**VALUES["train"], "view": {"steps": 32}})
    layout = Layout(("merged",), 36, 48, 4)
    network = values.train.dense.model_copy(update={"latent": 3})
    model = Linear(models.Config("linear", layout, values.train.view, network, 16, 90.0, (0,), "0" * 64)).eval()
    model.register_parameter("nothing", torch.nn.Parameter(torch.zeros(1)))
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400, 3)).astype(np.float32)
    planes = coding.decode(model, z)
    corpus = Corpus(
        pack(planes.reshape(-1, 1, 2, 48)),
        np.arange(401) * 32,
        tuple(map(str, range(400))),
        tuple(np.zeros(1, np.int64) for _ in range(400)),
        np.full(400, 90.0),
        np.zeros((400, 1), np.int32),
        layout,
    )
    return model, fit_controls(model, corpus, None, 0, "none", Chance())


def test_attributes_that_vary_are_offered(controls: tuple[Linear, Controls]) -> None:
    _, fitted = controls
    assert {"density", "register"} <= set(fitted.offered)
    assert "polyphony" not in fitted.offered  # there is never more than one pitch
    assert "register" not in fitted.coupled("density")
    assert {"polyphony", "note_length"} <= set(fitted.coupled("density"))  # in every corpus


def test_music_changes_as_requested(controls: tuple[Linear, Controls]) -> None:
    model, fitted = controls
    z = (0.5 * normal(60, 3, seed=5)).astype(np.float32)
    before = features.attributes(coding.decode(model, z), model.config.layout)
    for name, change in (("density", 0.25), ("register", 3.0)):
        moved = fitted.move(z, {name: np.full(60, change)})
        after = features.attributes(coding.decode(model, moved), model.config.layout)
        got = measure_changes(before, after)
        assert np.median(got[name]) == pytest.approx(change, rel=0.25)
        other = "register" if name == "density" else "density"
        assert abs(np.median(got[other])) < 0.15 * {"register": 4.0, "density": 0.25}[other]


def test_predictions_agree_with_decoded_music(controls: tuple[Linear, Controls]) -> None:
    model, fitted = controls
    z = (0.5 * normal(60, 3, seed=6)).astype(np.float32)
    real = features.attributes(coding.decode(model, z), model.config.layout)
    assert np.allclose(fitted.predict(z)["register"], real["register"], atol=0.8)
