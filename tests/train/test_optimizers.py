"""Optimisers: Muon moves matrices as torch's own does, and each weight has one optimiser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from midivae import models
from midivae.config.train import Dense, Transformer, View
from midivae.models import Config
from midivae.music.roll import Layout
from midivae.train import optimizers
from midivae.train.optimizers import Muon

pytestmark = pytest.mark.numerical

BFLOAT16 = 0.02  # relative error of a product of matrices whose entries have 8 bits


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=rng())
    made = optimizers.orthogonalised(matrix)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6
    assert values.max() < 1.3
    # U S V' becomes U S2 V': in the basis of the old singular vectors it is diagonal
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ made @ v.T
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-4


def test_the_zero_matrix_stays_where_it_is() -> None:
    assert not optimizers.orthogonalised(torch.zeros(3, 5)).any()


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5)])
def test_it_moves_as_the_muon_of_torch(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(torch.randn(shape, generator=rng())) for _ in range(2))
    mine = Muon([ours], lr=0.02, weight_decay=0.1)
    judge = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = ours.detach().clone()
    for step in range(4):
        ours.grad = torch.randn(shape, generator=rng(step + 1))
        theirs.grad = ours.grad.clone()
        mine.step()
        judge.step()
    moved, wanted = ours.detach() - start, theirs.detach() - start
    assert (moved - wanted).norm() < BFLOAT16 * wanted.norm()


def test_a_move_has_the_size_of_one_of_adamw() -> None:
    weight = nn.Parameter(torch.zeros(16, 64))
    weight.grad = torch.randn(16, 64, generator=rng())
    Muon([weight], lr=0.5, weight_decay=0.0).step()
    # 16 singular values near 1: the squares of all 16 * 64 entries sum to about 16; times 0.2 * sqrt(64)
    rms = weight.detach().square().mean().sqrt().item()
    assert rms == pytest.approx(0.5 * 0.2 * math.sqrt(64) * math.sqrt(16 / (16 * 64)), rel=0.3)


def test_each_trained_weight_has_one_optimiser() -> None:
    layout, view = Layout(("a", "b"), 60, 12, 4), View(steps=8)
    settings = Transformer(width=16, channels=8, heads=2, cell=4, coarse=3, fine=2, draft=8, layers=1)
    model = models.create(Config("transformer", layout, view, settings, 16, 120.0, (0, 0), "0" * 64), rng())
    adamw, muon = optimizers.build(model, settings)
    names = {id(weight): name for name, weight in model.named_parameters()}
    by_muon, by_adamw = (
        {names[id(weight)] for weight in optimizer.param_groups[0]["params"]} for optimizer in (muon, adamw)
    )
    assert not by_muon & by_adamw
    assert by_muon | by_adamw == {name for name in names.values() if not name.startswith("prior.")}  # fitted afterwards
    assert {"embed.weight", "layers.0.qkv.weight", "head.from_vector.weight", "plan.weight"} <= by_muon
    assert {"embed.bias", "place", "pitch", "layers.0.lag.weight", "layers.0.norm1.weight", "head.now"} <= by_adamw


def test_the_models_of_the_article_are_trained_by_adam_alone() -> None:
    model = nn.Linear(3, 2)
    (optimizer,) = optimizers.build(model, Dense())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["weight_decay"] == 0
