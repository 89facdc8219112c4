"""Fits the prior over a trained model's latents (`models.flow`) to the training pieces.

The pieces are encoded as chains of windows, from every window start in the first window's length, several times over,
each chain moved by a random number of semitones. From the posteriors latents are drawn anew in every step, so that what
is fitted is the aggregate posterior, not a cloud of points. A quarter of each batch are windows of which nothing is
known. The weights that explain the `valid` pieces best are kept. It takes a minute or two, whatever the corpus: what is
encoded and how many steps are made is bounded.

Shapes:
    C  chains    W  consecutive windows of a chain    E  encoded windows, of all chains    R  times    Z  latent

Offers: `fit_model`; `fit`, `Encoded`, `encoded`, `nats`.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from midivae.config.streams import Stream
from midivae.config.train import Train, View
from midivae.errors import TrainingError
from midivae.models.base import WindowModel
from midivae.models.flow import Prior, normal_nats
from midivae.storage.code import code_version
from midivae.storage.workdir import work_dir
from midivae.train.checkpoint import Checkpoints, Progress, State
from midivae.train.curves import Row
from midivae.train.devices import torch_rng
from midivae.train.schedule import cosine
from midivae.windows.corpus import Corpus
from midivae.windows.device import BitMatrix
from midivae.windows.windows import Chains, Windows, find_chains

log = logging.getLogger(__name__)

CHAIN, SINGLE = 32, 128  # chains, and windows by themselves, in a step
LINKS = 8  # windows of a chain in a step
KNOWN = 0.75  # share of the chains from a piece's start that are told so
LEARNING_RATE = 1e-3
CHECKS = 10  # how often the weights are compared on `valid`
MOST_ENCODED = 65_536  # windows, times included
MOST_TIMES = 4
_WINDOWS_AT_ONCE = 64  # so many that the encoder's arrays stay in the cache
CURVE = ("step", "normal", "anywhere", "sequence")


@dataclass(frozen=True)
class Encoded:
    """The posteriors of chains of windows.

    Attributes:
        mu, sigma: R times, each time in another key.
        starts: chain i is the windows `starts[i]` to `starts[i + 1] - 1`.
        at_start: whether the first window of each is the first of its piece.
    """

    mu: Float[Tensor, "R E Z"]
    sigma: Float[Tensor, "R E Z"]
    starts: Int[Tensor, " C1"]
    at_start: Bool[Tensor, " C"]


@torch.inference_mode()
def encoded(
    model: WindowModel, corpus: Corpus, view: View, transpose: int, seed: int, times: int | None = None
) -> Encoded:
    """The chains of a corpus under a model.

    Args:
        transpose: semitones, at most, by which a chain is moved in all times but the first.
        times: how many; None: as many as `MOST_TIMES` and `MOST_ENCODED` admit, or one where `transpose` is 0.
    """
    rng = Stream.PRIOR.rng(seed)
    chosen = _at_most(find_chains(corpus, view), MOST_ENCODED, rng)
    matrix = BitMatrix(corpus, chosen.windows, view, model.device)
    n = len(matrix)
    if times is None:
        times = max(1, min(MOST_TIMES, MOST_ENCODED // max(1, n))) if transpose else 1
    chain = torch.from_numpy(np.repeat(np.arange(len(chosen)), np.diff(chosen.starts))).to(model.device)
    batches = matrix.in_order(_WINDOWS_AT_ONCE)
    rng.random(len(chosen), np.float32)  # the first time is not moved, and has a draw all the same
    found = []
    with tqdm(total=times * n, desc="latents", unit="window", disable=None, file=sys.stderr) as bar:
        for index in batches:
            found.append(model.encode(matrix.batch(index).x))
            bar.update(len(index))
        if times > 1:
            down, up = (_least(room, chain, transpose) for room in _rooms(matrix, batches))
        for _ in range(times - 1):
            draw = torch.from_numpy(rng.random(len(chosen), np.float32)).to(model.device)
            shift = ((draw * (down + up + 1)).long() - down)[chain]
            for index in batches:
                found.append(model.encode(matrix.moved(matrix.batch(index), shift[index]).x))
                bar.update(len(index))
    mu, logvar = (torch.cat(each).view(times, n, -1) for each in zip(*found, strict=True))
    starts = torch.from_numpy(chosen.starts).to(model.device)
    return Encoded(mu, (0.5 * logvar).exp(), starts, torch.from_numpy(chosen.at_start).to(model.device))


def _at_most(chains: Chains, n: int, rng: np.random.Generator) -> Chains:
    """All chains, or as many of them, drawn at random, as have `n` windows together."""
    counts = np.diff(chains.starts)
    if counts.sum() <= n:
        return chains
    order = rng.permutation(len(chains))
    keep = np.sort(order[np.cumsum(counts[order]) <= n])
    index = np.concatenate([np.arange(chains.starts[i], chains.starts[i + 1]) for i in keep])
    w = chains.windows
    windows = Windows(w.start[index], w.stop[index], w.piece[index])
    return Chains(windows, np.concatenate([[0], np.cumsum(counts[keep])]), chains.at_start[keep])


def _rooms(matrix: BitMatrix, batches: tuple[Tensor, ...]) -> list[Int[Tensor, " E"]]:
    found = [matrix.room(matrix.batch(index)) for index in batches]
    return [torch.cat(each) for each in zip(*found, strict=True)]


def _least(room: Int[Tensor, " E"], chain: Int[Tensor, " E"], most: int) -> Int[Tensor, " C"]:
    """By how much a chain can move: as little as any of its windows."""
    least = torch.full((int(chain.max()) + 1,), most, dtype=room.dtype, device=room.device)
    return least.scatter_reduce(0, chain, room, "amin")


def fit_model(model: WindowModel, key: str, train: Corpus, valid: Corpus | None, settings: Train) -> tuple[Row, ...]:
    """Fits a model's prior to its latents, or takes it from the work directory; returns the curve.

    Args:
        model: with a prior.
        key: of the run that trained it, in the work directory.
        train, valid: the corpora; the curve is measured on `train` if `valid` is None.
        settings: of the stage.
    """
    assert model.prior is not None  # noqa: S101 - the caller's
    steps, seed = settings.transformer.prior_steps, settings.seed
    checkpoints = Checkpoints(work_dir() / "train" / f"{key}-prior-{steps}-{code_version(__name__)}")
    state = checkpoints.load()
    if state is None:
        train_latents = encoded(model, train, settings.view, settings.transformer.transpose, seed)
        valid_latents = encoded(model, valid, settings.view, 0, seed) if valid is not None else None
        fitted, curve = fit(model.prior, train_latents, valid_latents, steps, seed)
        state = State(Progress(step=steps, curves=tuple(curve), finished=True), fitted.state_dict())
        checkpoints.save(*state)
    model.prior.load_state_dict(state.tensors)
    return state.progress.curves


def fit(first: Prior, train: Encoded, valid: Encoded | None, steps: int, seed: int) -> tuple[Prior, list[Row]]:
    """A prior fitted to the latents of `train`; its curve: nats a window on `valid`, or on `train` where that is None.

    Args:
        first: where it begins; stays as it is.

    Raises:
        TrainingError: a loss that is not finite.
    """
    device = train.mu.device
    prior = copy.deepcopy(first).requires_grad_(True)
    with torch.no_grad():
        variance = train.mu.var((0, 1), correction=0) + train.sigma.square().mean((0, 1))
        prior.center.copy_(train.mu.mean((0, 1)))
        prior.spread.copy_(variance.sqrt().clamp(min=1e-3))
    rng = torch_rng(device, Stream.PRIOR.seeds(seed))
    optimizer = torch.optim.AdamW(prior.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    best, curve, measured, lowest = copy.deepcopy(prior), list[Row](), valid or train, math.inf
    for step in tqdm(range(1, steps + 1), desc="prior", unit="step", disable=None, file=sys.stderr):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * cosine(step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(prior, train, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        if step % max(1, steps // CHECKS) == 0 or step == steps:
            found = nats(prior, measured, seed)
            both = found["anywhere"] + found["sequence"]
            if not math.isfinite(both):
                raise TrainingError(
                    f"the prior's nats are not finite at step {step} ({found}): fitting it has diverged; look at the "
                    "model's curves, its latents may have no bounds; raise train.transformer.beta"
                )
            if both < lowest:
                best, lowest = copy.deepcopy(prior), both
            curve.append({"step": step, **found})
    return best.requires_grad_(False), curve


def _loss(prior: Prior, train: Encoded, rng: torch.Generator) -> Float[Tensor, ""]:
    """Nats a window: of parts of chains, each latent given those before it, and of windows by themselves."""
    device, times = train.mu.device, len(train.mu)

    def below(most: Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
        draw = torch.rand(most.shape, generator=rng, device=device)
        return (draw * most).long().clamp(max=most - 1)

    n_chains, n = len(train.at_start), train.mu.shape[1]
    chain = below(torch.full((CHAIN,), n_chains, device=device))
    length = train.starts[chain + 1] - train.starts[chain]
    begin = below((length - 1).clamp(min=1)) * (torch.rand(CHAIN, generator=rng, device=device) < 0.5)
    link = begin[:, None] + torch.arange(LINKS, device=device)
    inside = link < length[:, None]
    index = train.starts[chain, None] + link.minimum(length[:, None] - 1)  # [B, W]
    time = below(torch.full((CHAIN,), times, device=device))[:, None]
    told = torch.rand(CHAIN, generator=rng, device=device) < KNOWN
    known = (train.at_start[chain] & (begin == 0) & told).float()
    chained = prior.nats_of_chains(_draw(train, time, index, rng), known) * inside

    alone = below(torch.full((SINGLE,), n, device=device))
    z = _draw(train, below(torch.full((SINGLE,), times, device=device)), alone, rng)
    return chained.sum() / inside.sum() + prior.nats(z, prior.state(SINGLE)).mean()


def _draw(
    encoded: Encoded, time: Int[Tensor, "*#B"], index: Int[Tensor, "*#B"], rng: torch.Generator
) -> Float[Tensor, "*#B Z"]:
    """Latents from the posteriors of these windows, each the time with this number."""
    mu, sigma = encoded.mu[time, index], encoded.sigma[time, index]
    return mu + sigma * torch.randn(mu.shape, generator=rng, device=mu.device)


@torch.no_grad()
def nats(prior: Prior, encoded: Encoded, seed: int) -> dict[str, float]:
    """Nats a window of latents, drawn once: under a standard normal, with nothing known, and given those before."""
    rng = torch_rng(encoded.mu.device, Stream.PRIOR.seeds(seed))
    n = encoded.mu.shape[1]
    every = torch.arange(n, device=encoded.mu.device)
    z = _draw(encoded, torch.zeros_like(every), every, rng)  # the first time is not transposed
    sequence = torch.empty(n, device=z.device)
    lengths = encoded.starts.diff()
    for length in torch.unique(lengths).tolist():  # chains of one length at a time: no padding
        mine = torch.nonzero(lengths == length)[:, 0]
        index = encoded.starts[mine, None] + torch.arange(length, device=z.device)
        sequence[index] = prior.nats_of_chains(z[index], encoded.at_start[mine].float())
    return {
        "normal": normal_nats(z).mean().item(),
        "anywhere": prior.nats(z, prior.state(n)).mean().item(),
        "sequence": sequence.mean().item(),
    }
