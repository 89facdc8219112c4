"""Latents -> rolls: the planes that a model makes of latents.

Deterministic on a CPU: latents are decoded in blocks of `BLOCK` rows on one thread, a short block filled up with zeros,
so that a row of the result depends on its latent and its place in the block alone. Matrix products sum in another order
for other sizes and thread counts, and a cell near the threshold would fall to the other side.

Shapes:
    B  latents    Z  latent    T  steps    N  parts    K  planes of the model    P  pitches
    L  steps before a window    D  width of a prior's state

Offers: `BLOCK`, `usual`; `decode` / `encode`; of a fitted prior `latents` / `noise`, `start` and `after`; `complete`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float32

from midivae.models import WindowModel
from midivae.models.base import Chance
from midivae.models.flow import Prior
from midivae.music.roll import FRAME, ONSET, sounding, starts
from midivae.windows.batch import Batch

USUAL_THRESHOLD, USUAL_TOP_P = 0.3, 0.9  # the defaults of jobs
BLOCK = 32  # latents decoded at once: few enough that a song or two are no waste, enough for nine tenths of the speed


def usual(model: WindowModel) -> Chance:
    """How cells are decided where nobody says otherwise.

    Drawn where they depend on each other, as the transformer's do; else what is likelier than 0.3 sounds, with which
    the mlp plays as many notes as the chorales do.
    """
    return Chance(USUAL_THRESHOLD, 1.0 if model.name == "transformer" else None, USUAL_TOP_P)


def decode(
    model: WindowModel,
    z: Float32[np.ndarray, "B Z"],
    chance: Chance = Chance(),  # noqa: B008  frozen
    uniform: Float32[np.ndarray, "B T N K P"] | None = None,
    before: Bool[np.ndarray, "B L N 2 P"] | None = None,
    block: int | None = None,
) -> Bool[np.ndarray, "B T N 2 P"]:
    """The planes of each latent, onset and frame, made consistent by `complete`.

    Args:
        z: row i is decoded in place i modulo `BLOCK` of its block; callers that want a row to be the same alone and
            among others put it in the same place.
        chance: how cells are decided.
        uniform: numbers in [0, 1), needed where `chance` has a temperature: a cell is set where its number is below its
            probability.
        before: the steps that these windows go on from, all of them known; None: they go on from nothing.
        block: rows of a block, for whom one sample soon is worth more than many; None: `BLOCK`.

    Raises:
        ValueError: only one of temperature and `uniform` is given.
    """
    if (chance.temperature is None) != (uniform is None):
        raise ValueError("temperature and uniform go together: give both to draw cells, neither to threshold them")
    size = BLOCK if block is None else block
    before = before if before is not None and before.shape[1] else None

    def cells(mine: slice) -> torch.Tensor:
        # no cell of a row that fills up a block sounds: a round of the transformer's is as long as its fullest row
        numbers = None if uniform is None else _block(uniform[mine], size, 1.0).to(model.device)
        past = None if before is None else _past(model, before[mine], size)
        return model.cells(_block(z[mine], size).to(model.device), chance, numbers, past)

    made = _in_blocks(cells, np.empty((len(z), *model.config.window_shape), bool), size)
    return complete(made, None if before is None else before[:, -1:])


def _past(model: WindowModel, before: Bool[np.ndarray, "B L N 2 P"], size: int) -> Batch:
    """A block of windows of which only the steps before are of use."""
    shown = before if model.config.view.n_planes == 2 else before[:, :, :, FRAME:]
    steps = _block(shown.astype(np.float32), size).to(model.device)
    known = torch.full((size,), before.shape[1], device=model.device)
    return Batch(steps[:, :0], steps, known, torch.zeros_like(known))


def encode(model: WindowModel, planes: Bool[np.ndarray, "B T N 2 P"]) -> Float32[np.ndarray, "B Z"]:
    """The mean of each window's posterior; rows depend on their window and their place, as in `decode`."""
    shown = planes if model.config.view.n_planes == 2 else planes[:, :, :, FRAME:]
    made = np.empty((len(planes), model.latent), np.float32)
    return _in_blocks(lambda mine: model.encode(_block(shown[mine].astype(np.float32)).to(model.device))[0], made)


def latents(
    prior: Prior, noise: Float32[np.ndarray, "B Z"], state: Float32[np.ndarray, "B D"] | None = None
) -> Float32[np.ndarray, "B Z"]:
    """The latents that a fitted prior makes of noise, given its state; None: nothing is known before."""
    device = prior.center.device
    return _in_blocks(
        lambda mine: prior.to_latent(_block(noise[mine]).to(device), _state(prior, state, mine)), np.empty_like(noise)
    )


def noise(prior: Prior, z: Float32[np.ndarray, "B Z"]) -> Float32[np.ndarray, "B Z"]:
    """The noise of which a fitted prior makes these latents with nothing known before them: inverts `latents`."""
    device = prior.center.device
    return _in_blocks(
        lambda mine: prior.to_noise(_block(z[mine]).to(device), _state(prior, None, mine))[0], np.empty_like(z)
    )


def after(
    prior: Prior, state: Float32[np.ndarray, "B D"] | None, z: Float32[np.ndarray, "B Z"], at_start: bool = False
) -> Float32[np.ndarray, "B D"]:
    """The state of a fitted prior once one more window is known; `state` None: this was the first that is known.

    Args:
        at_start: whether that first one begins a piece.
    """
    device, made = prior.center.device, np.empty((len(z), prior.begin.shape[1]), np.float32)
    return _in_blocks(lambda mine: prior.after(_state(prior, state, mine, at_start), _block(z[mine]).to(device)), made)


def start(prior: Prior, n: int) -> Float32[np.ndarray, "{n} D"]:
    """The state of a fitted prior at the start of a piece."""
    with torch.inference_mode():
        return prior.state(n, at_start=True).cpu().numpy().copy()


def _state(
    prior: Prior, state: Float32[np.ndarray, "B D"] | None, mine: slice, at_start: bool = False
) -> Float32[torch.Tensor, "R D"]:
    return prior.state(BLOCK, at_start) if state is None else _block(state[mine]).to(prior.center.device)


def _in_blocks(of: Callable[[slice], torch.Tensor], made: np.ndarray, size: int | None = None) -> np.ndarray:
    """Fills `made`, a block of rows after the other, with what `of` gives of them; it may give more rows."""
    step = BLOCK if size is None else size
    with _one_thread(), torch.inference_mode():
        for at in range(0, len(made), step):
            mine = slice(at, at + step)
            made[mine] = of(mine)[: len(made[mine])].cpu().numpy()
    return made


def _block(
    rows: Float32[np.ndarray, " B *shape"], size: int | None = None, fill: float = 0.0
) -> Float32[torch.Tensor, " R *shape"]:
    """At most `size` rows, `BLOCK` where it is None, as a full block, the last ones all `fill`."""
    block = torch.full((BLOCK if size is None else size, *rows.shape[1:]), fill)
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


def complete(
    cells: Bool[np.ndarray, "B T N K P"], behind: Bool[np.ndarray, "B 1 N 2 P"] | None = None
) -> Bool[np.ndarray, "B T N 2 P"]:
    """Both planes, consistent, of planes that may be one or may contradict each other.

    1. Where a note starts it sounds: an onset sets the frame.
    2. A frame that follows no frame of its pitch is an onset; so a model of frames alone has onsets where they begin.

    Args:
        behind: the step before the first; None: silence.
    """
    frame, onset = sounding(cells), starts(cells)
    if behind is not None:
        struck = cells[:, :1, :, ONSET] if cells.shape[3] == 2 else False
        onset[:, :1] = struck | (frame[:, :1] & ~behind[:, :, :, FRAME])
    both = np.empty((*frame.shape[:3], 2, frame.shape[3]), bool)
    both[:, :, :, ONSET], both[:, :, :, FRAME] = onset, frame
    return both
