"""Held-out figures, worked out again another way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from floats import RTOL

from midivae import models
from midivae.models import coding
from midivae.music.roll import FRAME, ONSET
from midivae.train import stage as train
from midivae.train.heldout import latent_statistics
from midivae.windows.corpus import load_corpus
from midivae.windows.windows import cut_planes, find_windows
from train.test_stage import SETTINGS, params

pytestmark = pytest.mark.numerical


def test_held_out_figures_can_be_worked_out_again(data: Path) -> None:
    train.run(params(compare=()), data)
    model = models.load(data / "model")
    figures = json.loads((data / "model" / "metrics.json").read_text())["heldout"]

    corpus = load_corpus(data / "rolls", ["test"])
    found = find_windows(corpus, SETTINGS.view)
    planes = cut_planes(corpus, found, np.arange(len(found)), SETTINGS.view)
    x = torch.from_numpy(planes).float()
    mu, logvar = model.encode(x)
    real = coding.complete(planes)
    made = coding.complete((torch.sigmoid(model.decode(mu)) > 0.5).numpy())

    def f1(plane: int) -> float:
        right = sum(1 for a, b in zip(real[:, :, :, plane].flat, made[:, :, :, plane].flat, strict=True) if a and b)
        precision, recall = right / max(1, made[:, :, :, plane].sum()), right / real[:, :, :, plane].sum()
        return float(2 * precision * recall / max(1e-9, precision + recall))

    assert (figures["windows"], figures["pieces"]) == (len(found), 3)
    # the order of sums may move a cell or two to the other side of one half
    assert figures["frame_f1"] == pytest.approx(f1(FRAME), abs=0.005)
    assert figures["onset_f1"] == pytest.approx(f1(ONSET), abs=0.005)
    exact = [np.array_equal(real[b, t], made[b, t]) for b in range(len(found)) for t in range(16)]
    assert figures["step_accuracy"] == pytest.approx(np.mean(exact), abs=0.005)

    assert figures["active_units"] == int((mu.numpy().var(axis=0) > 0.01).sum())
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    inside = np.minimum(16, found.stop - found.start).sum()  # a window's last steps may lie behind its piece
    assert figures["kl_nats"] == pytest.approx(kl.sum(1).mean().item(), rel=RTOL)
    assert figures["kl_nats_per_step"] == pytest.approx(figures["kl_nats"] * len(found) / inside, rel=RTOL)
    assert figures["elbo_nats"] == pytest.approx(-figures["reconstruction_nats"] - figures["kl_nats"], rel=RTOL)
    at_the_mean = torch.nn.functional.binary_cross_entropy_with_logits(model.decode(mu), x, reduction="sum") / len(x)
    assert figures["reconstruction_nats"] == pytest.approx(at_the_mean.item(), rel=0.1)  # one draw, not the mean


def test_units_are_active_by_the_variance_of_their_mean() -> None:
    # means 0 and 0.4: variance 0.04 > 0.01; 0 and 0.1: 0.0025; always 7: 0
    mu = torch.tensor([[0.0, 0.0, 7.0], [0.4, 0.1, 7.0]])
    figures = latent_statistics(mu, torch.zeros(2, 3))
    assert figures["active_units"] == 1
    assert figures["latent"] == 3
    assert figures["mu_mean_max"] == 7.0
    assert figures["sigma_mean"] == 1.0
    assert figures["aggregate_std_max"] == pytest.approx(1.04**0.5, rel=1e-5)


def test_the_autoencoder_claims_no_bound(data: Path) -> None:
    train.run(params(model="autoencoder", compare=()), data)
    figures = json.loads((data / "model" / "metrics.json").read_text())["heldout"]
    assert not {"elbo_nats", "kl_nats"} & set(figures)
    assert figures["sigma_mean"] == 0.0
    assert figures["reconstruction_nats"] > 0
