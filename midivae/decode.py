"""Latents -> rolls: the planes that a model makes of latents.

Deterministic on a CPU: latents are decoded in blocks of `BLOCK` rows on one thread, a short block filled up with zeros,
so that a row of the result depends on its latent and its place in the block alone. Matrix products sum in another order
for other sizes and thread counts, and a cell near the threshold would fall to the other side.

Shapes:
    B  latents    Z  latent    T  steps    N  parts    K  planes of the model    P  pitches

Offers: `BLOCK`, `latents`, `decode`, `complete`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float32

from midivae.models import WindowModel
from midivae.models.base import Chance
from midivae.models.prior import Prior
from midivae.pianoroll import FRAME, ONSET

BLOCK = 64  # latents decoded at once: a few MB of logits


def decode(
    model: WindowModel,
    z: Float32[np.ndarray, "B Z"],
    chance: Chance = Chance(),  # noqa: B008  frozen
    uniform: Float32[np.ndarray, "B T N K P"] | None = None,
) -> Bool[np.ndarray, "B T N 2 P"]:
    """The planes of each latent, onset and frame, made consistent by `complete`.

    Args:
        z: row i is decoded in place i modulo `BLOCK` of its block; callers that want a row to be the same alone and
            among others put it in the same place.
        chance: how cells are decided.
        uniform: numbers in [0, 1), needed where `chance` has a temperature: a cell is set where its number is below its
            probability.

    Raises:
        ValueError: only one of temperature and `uniform` is given.
    """
    if (chance.temperature is None) != (uniform is None):
        raise ValueError("temperature and uniform go together: give both to draw cells, neither to threshold them")
    made = np.empty((len(z), *model.config.window_shape), bool)
    with _one_thread(), torch.inference_mode():
        for at in range(0, len(z), BLOCK):
            mine = slice(at, at + BLOCK)
            latents, numbers = _block(z[mine]), None if uniform is None else _block(uniform[mine]).to(model.device)
            made[mine] = model.cells(latents.to(model.device), chance, numbers)[: len(z[mine])].cpu().numpy()
    return complete(made)


def latents(prior: Prior, noise: Float32[np.ndarray, "B Z"]) -> Float32[np.ndarray, "B Z"]:
    """The latents that a fitted prior makes of standard normal noise, each with nothing known before it."""
    made = np.empty_like(noise)
    with _one_thread(), torch.inference_mode():
        for at in range(0, len(noise), BLOCK):
            mine = slice(at, at + BLOCK)
            block = _block(noise[mine]).to(prior.center.device)
            made[mine] = prior.to_latent(block, prior.state(BLOCK))[: len(noise[mine])].cpu().numpy()
    return made


def _block(rows: Float32[np.ndarray, B * shape]) -> Float32[torch.Tensor, R * shape]:
    """At most `BLOCK` rows as a full block, the last ones zeros."""
    block = torch.zeros((BLOCK, *rows.shape[1:]))
    block[: len(rows)] = torch.from_numpy(rows)
    return block


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def complete(cells: Bool[np.ndarray, "B T N K P"]) -> Bool[np.ndarray, "B T N 2 P"]:
    """Both planes, consistent, of planes that may be one or may contradict each other.

    1. Where a note starts it sounds: an onset sets the frame.
    2. A frame that follows no frame of its pitch is an onset; so a model of frames alone has onsets where they begin.
    """
    frame = cells[:, :, :, -1].copy()  # [B, T, N, P]; the frame plane is the last, or the only one
    onset = np.zeros_like(frame)
    if cells.shape[3] == 2:
        onset |= cells[:, :, :, ONSET]
    frame |= onset
    onset[:, :1] |= frame[:, :1]
    onset[:, 1:] |= frame[:, 1:] & ~frame[:, :-1]
    both = np.empty((*frame.shape[:3], 2, frame.shape[3]), bool)
    both[:, :, :, ONSET], both[:, :, :, FRAME] = onset, frame
    return both
