"""Fits the prior over a trained model's latents (`models.flow`) to the training pieces.

The pieces are encoded as chains of windows, one chain from each window start within the first window's length. They are
not transposed: samples have the keys and registers of the corpus. Every step draws new latents from the posteriors, so
the prior is fitted to the aggregate posterior, not to single points. A step uses parts of chains, in which each latent
is predicted from those before it, and single windows, with nothing known before them. The weights that predict the
`valid` pieces best are kept. The numbers of windows and of steps are bounded, so it takes a minute or two for any
corpus.

Shapes:
    C  chains, C1 = C + 1    W  consecutive windows of a chain    E  encoded windows of all chains
    Z  coarse latent    F  fine latent

Offers: `fit_model_prior`, `fit`, `Encoded`, `encode_chains`, `measure`.
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
from midivae.windows.windows import Chains, find_chains

log = logging.getLogger(__name__)

CHAIN, SINGLE = 32, 128  # chains, and single windows, of a step
LINKS = 8  # windows of a chain in a step
KNOWN = 0.75  # share of the chains from a piece's start whose start the prior knows
LEARNING_RATE = 1e-3
CHECKS = 10  # how often the weights are measured on `valid`
MOST_ENCODED = 65_536  # windows
_WINDOWS_AT_ONCE = 64  # so many that the encoder's arrays stay in the cache
CURVE = ("step", "normal", "anywhere", "sequence")


@dataclass(frozen=True)
class Encoded:
    """The posteriors of chains of windows.

    Attributes:
        mu, sigma: of the coarse latents.
        fine_mean, fine_sd: of all fine latents together.
        starts: chain i is the windows `starts[i]` to `starts[i + 1] - 1`.
        at_start: whether the first window of a chain is the first of its piece.
    """

    mu: Float[Tensor, "E Z"]
    sigma: Float[Tensor, "E Z"]
    fine_mean: Float[Tensor, " F"]
    fine_sd: Float[Tensor, " F"]
    starts: Int[Tensor, " C1"]
    at_start: Bool[Tensor, " C"]


@torch.inference_mode()
def encode_chains(model: WindowModel, corpus: Corpus, view: View, seed: int) -> Encoded:
    """The posteriors of the chains of a corpus.

    Args:
        model: the encoder.
        corpus: its pieces.
        view: how windows are cut.
        seed: of the stage.
    """
    rng = Stream.PRIOR.rng(seed)
    chains = _at_most(find_chains(corpus, view), MOST_ENCODED, rng)
    matrix = BitMatrix(corpus, chains.windows, view, model.device)
    device, coarse, posteriors = model.device, model.coarse, []
    moments = torch.zeros(3, model.latent - coarse, device=device)  # sums of fine means, of their squares, of variances
    with tqdm(total=len(matrix), desc=f"{model.name}: latents", unit="window", disable=None, file=sys.stderr) as bar:
        for index in matrix.in_order(_WINDOWS_AT_ONCE):
            mu, logvar = model.encode(matrix.batch(index).x)
            moments += torch.stack([mu, mu.square(), logvar.exp()])[:, :, coarse:].sum(1)
            posteriors.append((mu[:, :coarse], logvar[:, :coarse]))
            bar.update(len(index))
    mu, logvar = (torch.cat(blocks) for blocks in zip(*posteriors, strict=True))
    starts, at_start = (torch.from_numpy(array).to(device) for array in (chains.starts, chains.at_start))
    mean, square, variance = moments / len(matrix)
    fine_sd = (square - mean.square() + variance).clamp(min=1e-6).sqrt()
    return Encoded(mu, (0.5 * logvar).exp(), mean, fine_sd, starts, at_start)


def _at_most(chains: Chains, n: int, rng: np.random.Generator) -> Chains:
    """All chains, or a random choice of them with at most `n` windows together."""
    counts = np.diff(chains.starts)
    if counts.sum() <= n:
        return chains
    order = rng.permutation(len(chains))
    keep = np.zeros(len(chains), bool)
    keep[order[np.cumsum(counts[order]) <= n]] = True
    starts = np.concatenate([[0], np.cumsum(counts[keep])])
    return Chains(chains.windows.take(np.flatnonzero(np.repeat(keep, counts))), starts, chains.at_start[keep])


def fit_model_prior(
    model: WindowModel, key: str, train: Corpus, valid: Corpus | None, settings: Train
) -> tuple[Row, ...]:
    """Fits a model's prior to its latents, or takes it from the work directory; returns the curve.

    Args:
        model: a model with a prior.
        key: of the run that trained it, in the work directory.
        train: the corpus that the prior is fitted to.
        valid: the corpus that the curve is measured on; None: `train`.
        settings: of the stage.
    """
    assert model.prior is not None  # noqa: S101 - the caller checks it
    steps, seed = settings.transformer.prior_steps, settings.seed
    checkpoints = Checkpoints(work_dir() / "train" / f"{key}-prior-{steps}-{code_version(__name__)}")
    state = checkpoints.load()
    if state is None:
        train_latents = encode_chains(model, train, settings.view, seed)
        valid_latents = encode_chains(model, valid, settings.view, seed) if valid is not None else None
        fitted, curve = fit(model.prior, train_latents, valid_latents, steps, seed)
        state = State(Progress(step=steps, curves=tuple(curve), finished=True), fitted.state_dict())
        checkpoints.save(*state)
    model.prior.load_state_dict(state.tensors)
    return state.progress.curves


def fit(first: Prior, train: Encoded, valid: Encoded | None, steps: int, seed: int) -> tuple[Prior, list[Row]]:
    """A prior fitted to the latents of `train`, and its curve: nats a window on `valid`, or on `train` if that is None.

    Args:
        first: the initial prior, which is not changed.
        train: latents that it is fitted to.
        valid: latents that choose the best weights.
        steps: of the optimiser.
        seed: of the stage.

    Raises:
        TrainingError: a loss that is not finite.
    """
    device = train.mu.device
    prior = copy.deepcopy(first).requires_grad_(True).train()  # cuDNN has no backward pass of a GRU in evaluation mode
    prior.next.flatten_parameters()
    with torch.no_grad():
        variance = train.mu.var(0, correction=0) + train.sigma.square().mean(0)
        prior.center.copy_(train.mu.mean(0))
        prior.spread.copy_(variance.sqrt().clamp(min=1e-3))
        prior.fine_center.copy_(train.fine_mean)
        prior.fine_spread.copy_(train.fine_sd)
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
            nats = measure(prior, measured, seed)
            total = nats["anywhere"] + nats["sequence"]
            if not math.isfinite(total):
                raise TrainingError(
                    f"the prior's nats are not finite at step {step} ({nats}): fitting it has diverged; look at the "
                    "model's curves, its latents may have no bounds; raise train.transformer.beta"
                )
            if total < lowest:
                best, lowest = copy.deepcopy(prior), total
            curve.append({"step": step, **nats})
    return best.requires_grad_(False).eval(), curve


def _loss(prior: Prior, train: Encoded, rng: torch.Generator) -> Float[Tensor, ""]:
    """Nats a window: of parts of chains, each latent given those before it, plus those of single windows."""
    device, n = train.mu.device, len(train.mu)

    def below(limit: Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
        """Random integers from 0 to `limit` - 1."""
        draw = torch.rand(limit.shape, generator=rng, device=device)
        return (draw * limit).long().clamp(max=limit - 1)

    chain = below(torch.full((CHAIN,), len(train.at_start), device=device))
    length = train.starts[chain + 1] - train.starts[chain]
    begin = below((length - 1).clamp(min=1)) * (torch.rand(CHAIN, generator=rng, device=device) < 0.5)
    link = begin[:, None] + torch.arange(LINKS, device=device)
    inside = link < length[:, None]
    index = train.starts[chain, None] + link.minimum(length[:, None] - 1)  # [B, W]
    is_known = torch.rand(CHAIN, generator=rng, device=device) < KNOWN
    known_start = (train.at_start[chain] & (begin == 0) & is_known).float()
    chained = prior.nats_of_chains(_draw(train, index, rng), known_start) * inside

    single = below(torch.full((SINGLE,), n, device=device))
    z = _draw(train, single, rng)
    return chained.sum() / inside.sum() + prior.nats(z, prior.state(SINGLE)).mean()


def _draw(encoded: Encoded, index: Int[Tensor, "*B"], rng: torch.Generator) -> Float[Tensor, "*B Z"]:
    """Latents drawn from the posteriors of these windows."""
    mu, sigma = encoded.mu[index], encoded.sigma[index]
    return mu + sigma * torch.randn(mu.shape, generator=rng, device=mu.device)


@torch.no_grad()
def measure(prior: Prior, encoded: Encoded, seed: int) -> dict[str, float]:
    """Nats a window of latents, drawn once.

    Returns:
        normal: under a standard normal.
        anywhere: under the prior, with nothing known.
        sequence: under the prior, given all windows before in the chain.
    """
    n, device = len(encoded.mu), encoded.mu.device
    rng = torch_rng(device, Stream.PRIOR.seeds(seed))
    index = torch.arange(n, device=device)
    z = _draw(encoded, index, rng)
    sequence = torch.empty(n, device=device)
    lengths = encoded.starts.diff()
    for length in torch.unique(lengths).tolist():  # all chains of one length at once: no padding
        chains = torch.nonzero(lengths == length)[:, 0]
        index = encoded.starts[chains, None] + torch.arange(length, device=device)
        sequence[index] = prior.nats_of_chains(z[index], encoded.at_start[chains].float())
    return {
        "normal": normal_nats(z).mean().item(),
        "anywhere": prior.nats(z, prior.state(n)).mean().item(),
        "sequence": sequence.mean().item(),
    }
