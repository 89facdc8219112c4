"""The likelihood bench scores what it says: baselines worked by hand, every step once, an estimate below the bound."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from floats import RTOL

from midivae import models
from midivae.config.streams import Stream
from midivae.config.train import Transformer, View
from midivae.models import Config
from midivae.train.devices import torch_rng
from midivae.windows.batch import Batch

pytestmark = pytest.mark.numerical

ROOT = Path(__file__).parent.parent
SETS = ROOT.parent / "shared" / "benchmarks" / "polyphonic"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        spec = importlib.util.spec_from_file_location("likelihood", ROOT / "bench" / "likelihood.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["likelihood"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "bench"))
    return module


def piece(*steps: tuple[int, ...]) -> np.ndarray:
    frames = np.zeros((len(steps), 88), bool)
    for step, pitches in enumerate(steps):
        frames[step, list(pitches)] = True
    return frames


def test_the_marginal_baseline(bench: ModuleType) -> None:
    train, test = [piece((0,), (0,), ())], [piece((0,), (1,))]
    # pitch 0 sounds in 2 of 3 steps: (2 + 1) / (3 + 2); all others in none: 1 / 5
    step_1 = math.log(3 / 5) + 87 * math.log(4 / 5)
    step_2 = math.log(2 / 5) + math.log(1 / 5) + 86 * math.log(4 / 5)
    assert bench.marginal(train, test) == pytest.approx(-(step_1 + step_2) / 2)


def test_the_markov_baseline(bench: ModuleType) -> None:
    train, test = [piece((0,), (0,), ()), piece((), (0,))], [piece((0,), (0,))]
    # the first step is marginal: pitch 0 in 3 of 5, the others in none
    first = math.log(4 / 7) + 87 * math.log(6 / 7)
    # pitch 0, from on: on once, off once: 2 / 4; the others, from off: never on in 3: 1 / 5
    second = math.log(2 / 4) + 87 * math.log(4 / 5)
    assert bench.markov(train, test) == pytest.approx(-(first + second) / 2)


@pytest.mark.skipif(not SETS.is_dir(), reason="the four sets are not at hand")
@pytest.mark.parametrize(
    ("name", "marginal", "markov"),
    [("jsb", 11.06, 10.47), ("nottingham", 10.25, 5.16), ("piano", 11.05, 8.26), ("muse", 11.51, 8.56)],
)
def test_baselines_of_the_four_sets(bench: ModuleType, name: str, marginal: float, markov: float) -> None:
    train, test = (bench.sequences(SETS / f"{bench.FILES[name]}.npz", split) for split in ("train", "test"))
    assert (round(bench.marginal(train, test), 2), round(bench.markov(train, test), 2)) == (marginal, markov)


def test_every_step_is_scored_once_and_more_draws_come_nearer_to_the_truth(bench: ModuleType) -> None:
    gen = np.random.default_rng(0)
    pieces = [gen.random((length, 88)) < 0.05 for length in (5, 8, 19)]
    network = Transformer(width=16, channels=8, layers=1, heads=2, cell=4, coarse=3, fine=2, draft=8, context=4)
    view = View(steps=8, planes="frame")
    config = Config("transformer", bench.LAYOUT, view, network, 16, 120.0, (0,), "0" * 64)
    model = models.create(config, torch_rng(torch.device("cpu"), Stream.WEIGHTS.seeds(0))).eval()
    with torch.no_grad():
        model.get_parameter("encoder.posterior.weight").mul_(20)  # a latent far from its prior: the bound is loose
    data, windows = bench.matrix(bench.corpus(pieces), 8, 8, 4, torch.device("cpu"))
    found = bench.score(model, data, windows, draws=30, seed=0)
    assert (found["steps"], found["windows"]) == (32, 1 + 1 + 3)
    assert found["a"] < found["b"]
    assert found["kl_per_step"] * 32 == pytest.approx(found["kl_per_window"] * 5)

    # piece after piece, window after window, by hand
    noise = torch_rng(torch.device("cpu"), Stream.TEST.seeds(0))
    with torch.inference_mode():
        every = data.batch(torch.arange(5))
        mu, logvar = (values[:, :3] for values in model.encode(every.x))
        z = mu + torch.exp(0.5 * logvar) * torch.randn(mu.shape, generator=noise)
        kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
        nats = torch.zeros(5)
        at = 0
        for frames in pieces:
            x = torch.from_numpy(frames).float()[:, None, None]
            for start in range(0, len(x), 8):
                window = torch.zeros(1, 8, 1, 1, 88)
                inside = x[start : start + 8]
                window[0, : len(inside)] = inside
                before = x[None, max(0, start - 4) : start]
                n = torch.tensor([before.shape[1]])
                place = every.place[at : at + 1, 4 - before.shape[1] :]
                batch = Batch(window, before, n, torch.tensor([len(inside)]), place, torch.zeros_like(n))
                both = torch.cat([z[at : at + 1], torch.zeros(1, model.latent - 3)], 1)
                nats[at] = model.nats(batch, both, torch.zeros(1))[0]
                at += 1
    total = nats + kl
    assert found["b"] == pytest.approx(total.sum().item() / 32, rel=RTOL)
    each = [total[0] / 5, total[1] / 8, total[2:].sum() / 19]
    assert found["c"] == pytest.approx(sum(map(float, each)) / 3, rel=RTOL)
