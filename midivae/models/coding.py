"""Rolls -> latents -> rolls, with the same bits for the same row.

Rows go through the network in blocks of `BLOCK`, on one thread; a short block is filled up with copies of its last row.
On a CPU a row of the result thus depends on its inputs and its place in the block alone. With another size or number of
threads, matrix products add in another order, and a cell near the threshold may change.

Shapes:
    B  windows    Z  latent    T  steps    N  parts    K  planes of the model    P  pitches
    L  steps before a window    D  width of a prior's state

Offers: `BLOCK`, `default_chance`; `decode` / `encode`; for a fitted prior `to_noise` / `from_noise`, `start_state` and
`advance`; `complete`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float32

from midivae.models import WindowModel
from midivae.models.chance import Chance
from midivae.models.conditions import Conditions
from midivae.models.flow import Prior
from midivae.music.roll import FRAME, ONSET, sounding, starts

DEFAULT_THRESHOLD, DEFAULT_TOP_P = 0.3, 0.95  # as in the jobs of params
BLOCK = 32  # rows: larger blocks are a tenth faster for many samples, and waste more on a single song


def default_chance(model: WindowModel) -> Chance:
    """How cells are decided where params do not say.

    The transformer's cells are drawn, because they depend on each other. The other models' cells are set above
    probability 0.3, at which the mlp plays as many notes as the chorales have.
    """
    return Chance(DEFAULT_THRESHOLD, 1.0 if model.name == "transformer" else None, DEFAULT_TOP_P)


def decode(
    model: WindowModel,
    z: Float32[np.ndarray, "B Z"],
    chance: Chance = Chance(),  # noqa: B008  frozen
    uniform: Float32[np.ndarray, "B T N K P"] | None = None,
    conditions: Conditions = Conditions(),  # noqa: B008  frozen
    block: int | None = None,
) -> Bool[np.ndarray, "B T N 2 P"]:
    """The planes of each latent, onset and frame, made consistent by `complete`; given cells are as they were.

    Args:
        z: row i has place i modulo `BLOCK` in its block. To get the same row alone and among others, keep its place.
        chance: how cells are decided.
        uniform: numbers in [0, 1), needed if `chance` has a temperature: a cell is set where its number is below its
            probability.
        conditions: what else decides the windows.
        block: rows of a block, for callers that need one sample soon; None: `BLOCK`.

    Raises:
        ValueError: only one of temperature and `uniform` is given.
    """
    if (chance.temperature is None) != (uniform is None):
        raise ValueError("temperature and uniform go together: give both to draw cells, neither to threshold them")
    size = BLOCK if block is None else block

    def cells(z: torch.Tensor, *uniform: torch.Tensor) -> torch.Tensor:
        return model.cells(z, chance, uniform[0] if uniform else None, *next(conditions_of_blocks))

    conditions_of_blocks = (
        conditions.of_rows(slice(first, first + size), size, model) for first in range(0, len(z), size)
    )
    arrays = [z] if uniform is None else [z, uniform]
    planes = np.empty((len(z), *model.config.window_shape), bool)
    _in_blocks(cells, planes, arrays, model.device, block)
    planes = complete(planes, None if conditions.before is None else conditions.before[:, -1:])
    if conditions.given is None or conditions.x is None:
        return planes
    return np.where(conditions.given[:, :, :, None], conditions.x, planes)


def encode(model: WindowModel, planes: Bool[np.ndarray, "B T N 2 P"]) -> Float32[np.ndarray, "B Z"]:
    """The mean of each window's posterior; a row has a place as in `decode`."""
    mu = np.empty((len(planes), model.latent), np.float32)
    return _in_blocks(lambda x: model.encode(x)[0], mu, [_shown(model, planes)], model.device)


def _shown(model: WindowModel, planes: Bool[np.ndarray, "B T N 2 P"]) -> Bool[np.ndarray, "B T N K P"]:
    """The planes that the model has."""
    return planes if model.config.view.n_planes == 2 else planes[:, :, :, FRAME:]


# --- the fitted prior -------------------------------------------------------------------------------------------------
def from_noise(
    prior: Prior, noise: Float32[np.ndarray, "B Z"], state: Float32[np.ndarray, "B D"] | None = None
) -> Float32[np.ndarray, "B Z"]:
    """The latents that the prior maps noise to, given its state; None: nothing is known."""
    return _in_blocks(prior.to_latent, np.empty_like(noise), [noise, _state(prior, state, len(noise))], _device(prior))


def to_noise(prior: Prior, z: Float32[np.ndarray, "B Z"]) -> Float32[np.ndarray, "B Z"]:
    """Inverts `from_noise`, if nothing is known."""
    arrays = [z, _state(prior, None, len(z))]
    return _in_blocks(prior.to_noise, np.empty_like(z), arrays, _device(prior))


def start_state(prior: Prior, n: int) -> Float32[np.ndarray, "{n} D"]:
    """The prior's state at the start of a piece, in n rows."""
    return _state(prior, None, n, at_start=True)


def advance(
    prior: Prior, state: Float32[np.ndarray, "B D"] | None, z: Float32[np.ndarray, "B Z"], at_start: bool = False
) -> Float32[np.ndarray, "B D"]:
    """The prior's state after one more window; `state` None: this window is the first that is known.

    Args:
        at_start: whether the first known window begins a piece.
    """
    state = _state(prior, state, len(z), at_start)
    return _in_blocks(prior.after, np.empty_like(state), [state, z], _device(prior))


def _state(
    prior: Prior, state: Float32[np.ndarray, "B D"] | None, n: int, at_start: bool = False
) -> Float32[np.ndarray, "{n} D"]:
    """`state`; None: the first one, in n rows."""
    return prior.state(n, at_start).detach().cpu().numpy().copy() if state is None else state


def _device(prior: Prior) -> torch.device:
    return prior.center.device


# --- blocks -----------------------------------------------------------------------------------------------------------
def _in_blocks(
    function: Callable[..., torch.Tensor],
    result: np.ndarray,
    arrays: list[np.ndarray],
    device: torch.device,
    size: int | None = None,
) -> np.ndarray:
    """Fills `result` with what `function` returns for the rows of the arrays, `size` at a time; None: `BLOCK`."""
    size = BLOCK if size is None else size
    with _one_thread(), torch.inference_mode():
        for first in range(0, len(result), size):
            rows = np.arange(first, first + size).clip(max=len(result) - 1)
            block = (torch.from_numpy(array[rows]).to(device, torch.float32) for array in arrays)
            result[first : first + size] = function(*block)[: len(result) - first].cpu().numpy()
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def complete(
    cells: Bool[np.ndarray, "B T N K P"], previous: Bool[np.ndarray, "B 1 N 2 P"] | None = None
) -> Bool[np.ndarray, "B T N 2 P"]:
    """Consistent onset and frame planes, from planes that may contradict each other or be frames alone.

    1. A cell with an onset sounds: its frame is set.
    2. A frame after no frame of its pitch is an onset.

    Args:
        previous: the step before the first; None: silence.
    """
    frame, onset = sounding(cells), starts(cells)
    if previous is not None:
        set_onset = cells[:, :1, :, ONSET] if cells.shape[3] == 2 else False
        onset[:, :1] = set_onset | (frame[:, :1] & ~previous[:, :, :, FRAME])
    both = np.empty((*frame.shape[:3], 2, frame.shape[3]), bool)
    both[:, :, :, ONSET], both[:, :, :, FRAME] = onset, frame
    return both
