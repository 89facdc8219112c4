"""Latents to rolls: consistent planes, and the same bits for the same latent in the same place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from floats import certain
from hypothesis import given
from hypothesis import strategies as st

from midivae import models
from midivae.config.train import View
from midivae.models import coding
from midivae.models.chance import Chance
from midivae.music.roll import FRAME, ONSET, cell_runs
from models.test_base import SMALL, rng

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def model() -> models.WindowModel:
    model = models.create(SMALL, rng())
    for weight in model.parameters():  # outputs on both sides of the threshold
        weight.data *= 2
    return model.eval()


def latents(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, SMALL.network.latent)).astype(np.float32)


def uniforms(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, *SMALL.window_shape), np.float32)


# --- complete ---------------------------------------------------------------------------------------------------------
def cells(onset: str | None, frame: str) -> np.ndarray:
    """One pitch over time, "x" where a cell is set: [1, T, 1, K, 1]."""
    rows = [frame] if onset is None else [onset, frame]
    return np.array([[c == "x" for c in row] for row in rows]).T[None, :, None, :, None]


@pytest.mark.parametrize(
    ("onset", "frame", "onset_then", "frame_then"),
    [
        ("x...x...", "xx..xx..", "x...x...", "xx..xx.."),  # consistent already
        ("x.x.....", "xxxx....", "x.x.....", "xxxx...."),  # a note struck again while it sounds
        ("..x.....", "........", "..x.....", "..x....."),  # an onset sounds
        ("........", ".xx..xxx", ".x...x..", ".xx..xxx"),  # a frame after no frame begins a note
        ("........", "xxx.....", "x.......", "xxx....."),  # also on the first step
        ("x.......", ".xx.....", "x.......", "xxx....."),  # a frame after an onset alone continues it
        (None, "xx.x..xx", "x..x..x.", "xx.x..xx"),  # frames alone
    ],
)
def test_complete_by_hand(onset: str | None, frame: str, onset_then: str, frame_then: str) -> None:
    assert np.array_equal(coding.complete(cells(onset, frame)), cells(onset_then, frame_then))


@given(st.integers(0, 2**31), st.integers(1, 2), st.floats(0.0, 1.0))
def test_complete_keeps_the_notes_and_is_idempotent(seed: int, n_planes: int, fill: float) -> None:
    planes = np.random.default_rng(seed).random((2, 9, 2, n_planes, 3)) < fill
    both = coding.complete(planes)
    assert not (both[:, :, :, ONSET] & ~both[:, :, :, FRAME]).any()
    assert np.array_equal(coding.complete(both), both)
    # the notes are those that the reading of rolls finds in the cells as they were
    full = planes if n_planes == 2 else np.concatenate([np.zeros_like(planes), planes], axis=3)
    for one, other in zip(cell_runs(full), cell_runs(both), strict=True):
        assert np.array_equal(one, other)
    assert both[:, :, :, ONSET].sum() == len(cell_runs(both)[0])


# --- decode -----------------------------------------------------------------------------------------------------------
def test_thresholding_compares_logits(model: models.WindowModel) -> None:
    z = latents(10)
    logits = model.decode(torch.from_numpy(z)).detach().numpy()
    for threshold in (0.2, 0.5, 0.8):
        logit = np.log(threshold / (1 - threshold))
        sure = certain(logits, logit).reshape(10, -1).all(1)  # a cell changes how the next one is completed
        assert sure.sum() > 5
        assert np.array_equal(coding.decode(model, z, Chance(threshold))[sure], coding.complete(logits > logit)[sure])


@pytest.mark.parametrize("draws", [False, True])
def test_a_row_depends_only_on_its_latent_and_its_place(model: models.WindowModel, draws: bool) -> None:
    n = 2 * coding.BLOCK + 7
    z, u = latents(n), uniforms(n)

    def rows(z: np.ndarray, u: np.ndarray) -> np.ndarray:
        return coding.decode(model, z, Chance(temperature=0.9 if draws else None), u if draws else None)

    whole = rows(z, u)
    block = slice(coding.BLOCK, 2 * coding.BLOCK)
    assert np.array_equal(rows(z[block], u[block]), whole[block])
    assert np.array_equal(rows(z[2 * coding.BLOCK :], u[2 * coding.BLOCK :]), whole[2 * coding.BLOCK :])
    # other neighbours, same place
    mixed_z, mixed_u = latents(coding.BLOCK, 1), uniforms(coding.BLOCK, 1)
    mixed_z[5], mixed_u[5] = z[5], u[5]
    assert np.array_equal(rows(mixed_z, mixed_u)[5], whole[5])


def test_the_network_always_gets_a_full_block(model: models.WindowModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    network = model.decode
    monkeypatch.setattr(model, "decode", lambda z: (shapes.append(tuple(z.shape)), network(z))[1])
    coding.decode(model, latents(coding.BLOCK + 1))
    assert shapes == [(coding.BLOCK, model.latent)] * 2


def test_threads_change_nothing_and_are_restored(model: models.WindowModel) -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(coding.decode(model, latents(9)))
            assert torch.get_num_threads() == threads
        assert np.array_equal(*results)
    finally:
        torch.set_num_threads(before)


def test_draws_follow_the_probabilities(model: models.WindowModel) -> None:
    z = np.repeat(latents(1), 4000, axis=0)
    frame_only = replace(SMALL, view=View(steps=8, planes="frame"))
    network = models.create(frame_only, rng()).eval()
    for temperature in (0.5, 1.0, 2.0):
        u = np.random.default_rng(1).random((4000, *frame_only.window_shape), np.float32)
        drawn = coding.decode(network, z, Chance(temperature=temperature), u)[:, :, :, FRAME].mean(0)
        said = torch.sigmoid(network.decode(torch.from_numpy(z[:1])) / temperature)[0, :, :, 0].detach().numpy()
        # standard error at most 0.5 / sqrt(4000) = 0.008; the largest of 192 cells stays within 4 of them
        assert np.abs(drawn - said).max() < 0.032


def test_a_model_of_frames_has_its_onsets_where_they_begin() -> None:
    network = models.create(replace(SMALL, view=View(steps=8, planes="frame")), rng()).eval()
    planes = coding.decode(network, latents(6))
    frame = planes[:, :, :, FRAME]
    before = np.concatenate([np.zeros_like(frame[:, :1]), frame[:, :-1]], axis=1)
    assert planes.shape == (6, 8, 2, 2, 12)
    assert np.array_equal(planes[:, :, :, ONSET], frame & ~before)


def test_temperature_and_uniform_go_together(model: models.WindowModel) -> None:
    with pytest.raises(ValueError, match="go together"):
        coding.decode(model, latents(2), Chance(temperature=1.0))
    with pytest.raises(ValueError, match="go together"):
        coding.decode(model, latents(2), Chance(), uniforms(2))
    assert coding.decode(model, latents(0)).shape == (0, 8, 2, 2, 12)
