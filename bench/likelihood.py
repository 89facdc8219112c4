"""How well does the transformer predict polyphonic music, in nats per step, on four data sets of the field?

    python bench/likelihood.py --set jsb ../shared/benchmarks/polyphonic
    python bench/likelihood.py --set jsb FOLDER --steps 3000 --work runs/jsb      # continues after an interruption

The sets are those of Boulanger-Lewandowski et al. 2012 with their published splits: 88 pitches, on or off. FOLDER
holds a file for each set, `jsb_chorales.npz`, `nottingham.npz`, `piano_midi.npz`, `musedata.npz`, each with the arrays
{train,valid,test}_lengths, int32 [sequences], and {train,valid,test}_frames, uint8 [steps, 11]: the pitches from A0 up,
bit-packed by `numpy.packbits(axis=1)`.

Windows partition each sequence of the test split, each window sees the steps before it, and every step is scored once.
The results are nats per step; lower is better:

    b        the sum of the negative bounds over the number of steps, one draw of each latent
    a        the same with the importance-weighted estimate of K draws (Burda et al. 2016), a tighter bound
    c        the mean over sequences of the negative bound per step
    kl       the part of b that is the KL divergence of the posterior from the prior

Two baselines without a network check the scoring: each pitch has a fixed probability (`marginal`), or one that depends
on whether it sounded on the step before (`markov`), both with add-one counts.

Ceiling: none is known. Peers: the published figures in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch.nn import functional as F  # noqa: N812  its usual name
from tqdm import tqdm

from midivae import models
from midivae.config.streams import Stream
from midivae.config.train import Transformer, View
from midivae.models import Config, WindowModel, elbo
from midivae.music.roll import Layout, pack
from midivae.train import devices
from midivae.train.checkpoint import Checkpoints
from midivae.train.devices import torch_rng
from midivae.train.heldout import ACTIVE
from midivae.train.trainer import Trainer
from midivae.windows.corpus import Corpus
from midivae.windows.device import BitMatrix
from midivae.windows.windows import Windows, find_windows

FILES = {"jsb": "jsb_chorales", "nottingham": "nottingham", "piano": "piano_midi", "muse": "musedata"}
LAYOUT = Layout(("merged",), 21, 88, 4)


@dataclass(frozen=True)
class Recipe:
    """The settings that differ between sets.

    Attributes:
        window: steps of a window; a window has one latent.
        hop: steps from the start of one training window to the next.
        context: steps before a window that the decoder sees.
        batch_size: windows per optimiser step.
        dropout, drop_steps, drop_notes: against memorising; greater for smaller sets.
        beta: weight of the KL term in training; it is 1 in scoring. Below 1 the model uses its latent, which a decoder
            that sees all earlier steps hardly needs.
    """

    window: int
    hop: int
    context: int
    batch_size: int
    dropout: float
    drop_steps: float
    drop_notes: float
    beta: float

    def network(self, steps: int) -> Transformer:
        """The layers, and how they are fitted. No whole window is hidden, because that would worsen the bound."""
        return Transformer(
            channels=24,
            cell=24,
            coarse=16,
            fine=1,  # the fine latent is not used
            draft=1,
            no_latent=0.0,
            both_latents=0.0,
            given=0.0,
            context=self.context,
            drop_context=0.0,
            dropout=self.dropout,
            drop_window=0.0,
            drop_steps=self.drop_steps,
            drop_notes=self.drop_notes,
            beta=self.beta,
            epochs=1_000_000,
            max_steps=steps,
            batch_size=self.batch_size,
            optimizer="adamw",  # the figures in docs/benchmarks.md were measured with it
            learning_rate=2e-3,
            warmup_steps=200,
            average=0.998,
            anneal_steps=1000,
            patience=None,
        )


# chorales have about 60 steps; tunes of Nottingham repeat after 64, so windows of 128 see 128 steps before them
RECIPES = {
    "jsb": Recipe(64, 32, 32, 16, 0.1, 0.15, 0.1, 1.0),
    "nottingham": Recipe(128, 64, 128, 8, 0.05, 0.1, 0.05, 1.0),
    "piano": Recipe(96, 48, 64, 12, 0.1, 0.1, 0.1, 1.0),
    "muse": Recipe(96, 96, 96, 12, 0.05, 0.1, 0.05, 0.5),
}


# --- the sets ---------------------------------------------------------------------------------------------------------
def sequences(file: Path, split: str) -> list[Bool[np.ndarray, "S 88"]]:
    """The sequences of a split."""
    with np.load(file, allow_pickle=False) as arrays:
        frames, lengths = arrays[f"{split}_frames"], arrays[f"{split}_lengths"]
    cells = np.unpackbits(frames, axis=1)[:, :88].astype(bool)
    return np.split(cells, np.cumsum(lengths)[:-1])


def corpus(pieces: list[Bool[np.ndarray, "S 88"]]) -> Corpus:
    """The sequences as a corpus of one part, without onsets."""
    frames = np.concatenate(pieces)
    planes = np.zeros((len(frames), 1, 2, 88), bool)
    planes[:, 0, 1] = frames
    starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    bars = tuple(np.zeros(1, np.int64) for _ in pieces)
    ids = tuple(f"{i:05d}" for i in range(len(pieces)))
    return Corpus(pack(planes), starts, ids, bars, np.full(len(ids), 120.0), np.zeros((len(ids), 1), np.int32), LAYOUT)


def matrix(
    whole: Corpus, steps: int, hop: int, context: int, device: torch.device, min_fill: float = 0.0
) -> tuple[BitMatrix, Windows]:
    """The windows of a split; with `hop` = `steps` they partition each sequence."""
    view = View(steps=steps, hop=hop, planes="frame", min_fill=min_fill)
    windows = find_windows(whole, view)
    return BitMatrix(whole, windows, view, device, context), windows


# --- baselines --------------------------------------------------------------------------------------------------------
def marginal(train: list[np.ndarray], test: list[np.ndarray]) -> float:
    """Nats per step if each pitch has a fixed probability, its share of the training steps."""
    x = np.concatenate(train)
    p = (x.sum(0) + 1) / (len(x) + 2)
    y = np.concatenate(test)
    return float(-np.where(y, np.log(p), np.log1p(-p)).sum() / len(y))


def markov(train: list[np.ndarray], test: list[np.ndarray]) -> float:
    """Nats per step if each pitch depends on whether it sounded on the step before; the first step is marginal."""
    before, now = (np.concatenate([piece[part] for piece in train]) for part in (slice(-1), slice(1, None)))
    p = np.stack([((now & was).sum(0) + 1) / (was.sum(0) + 2) for was in (~before, before)])  # [was it on, 88]
    first = np.stack([piece[0] for piece in test])
    total = marginal(train, [first]) * len(first)
    for piece in test:
        given = p[piece[:-1].astype(int), np.arange(88)]
        total -= np.where(piece[1:], np.log(given), np.log1p(-given)).sum()
    return float(total / sum(map(len, test)))


# --- scoring ----------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def score(model: WindowModel, data: BitMatrix, windows: Windows, draws: int, seed: int) -> dict[str, float | int]:
    """The bound, its parts and the importance-weighted estimate."""
    model.eval()
    noise = torch_rng(data.device, Stream.TEST.seeds(seed))
    rows = [_score_batch(model, data, index, draws, noise) for index in tqdm(list(torch.arange(len(data)).split(64)))]
    nats, kl, weighted, mu = (torch.cat(column).double().cpu().numpy() for column in zip(*rows, strict=True))
    steps = np.minimum(data.shape[0], windows.stop - windows.start)
    bounds = np.bincount(windows.piece, nats + kl.sum(1))
    return {
        "b": float((nats.sum() + kl.sum()) / steps.sum()),
        "a": float(-weighted.sum() / steps.sum()),
        "c": float((bounds / np.bincount(windows.piece, steps)).mean()),
        "kl_per_step": float(kl.sum() / steps.sum()),
        "kl_per_window": float(kl.sum() / len(kl)),
        "active_units": int((mu.var(0) > ACTIVE).sum()),
        "steps": int(steps.sum()),
        "windows": len(kl),
    }


def _score_batch(
    model: WindowModel, data: BitMatrix, index: Int[torch.Tensor, " B"], draws: int, noise: torch.Generator
) -> tuple[Float[torch.Tensor, " B"], ...]:
    batch = data.batch(index)
    coarse_only = torch.zeros(len(index), device=batch.x.device)
    mu, logvar = (values[:, : model.coarse] for values in model.encode(batch.x))
    log_weights, first = [], None
    for _ in range(draws):
        z = elbo.reparameterise(mu, logvar, noise)
        nats = model.nats(batch, F.pad(z, (0, model.latent - model.coarse)), coarse_only)
        first = nats if first is None else first
        log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        log_posterior = -0.5 * ((z - mu).square() / logvar.exp() + logvar + math.log(2 * math.pi)).sum(1)
        log_weights.append(log_prior - log_posterior - nats)
    weighted = torch.logsumexp(torch.stack(log_weights), 0) - math.log(draws)
    assert first is not None
    return first, elbo.kl_per_dimension(mu, logvar), weighted, mu


# --- the run ----------------------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", choices=FILES, default="jsb")
    parser.add_argument("--steps", type=int, default=3000, help="of the optimiser")
    parser.add_argument(
        "--beta", type=float, default=None, help="weight of the KL term in training; default: the set's"
    )
    parser.add_argument("--draws", type=int, default=16, help="K of the importance-weighted estimate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--score-only", action="store_true", help="score the run in --work without training it further")
    parser.add_argument("--work", type=Path, default=None, help="folder of the checkpoints; default: runs/SET-SEED")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = devices.connect()
    device = machine.device

    file = args.folder / f"{FILES[args.set]}.npz"
    splits = {split: sequences(file, split) for split in ("train", "valid", "test")}
    baselines = {
        "marginal": marginal(splits["train"], splits["test"]),
        "markov": markov(splits["train"], splits["test"]),
    }
    print(", ".join(f"{name} {value:.2f}" for name, value in baselines.items()), flush=True)

    recipe = RECIPES[args.set]
    if args.beta is not None:
        recipe = replace(recipe, beta=args.beta)
    network, window, context = recipe.network(args.steps), recipe.window, recipe.context
    train, _ = matrix(corpus(splits["train"]), window, recipe.hop, context, device, min_fill=0.25)
    valid, _ = matrix(corpus(splits["valid"]), window, window, context, device)
    test, test_windows = matrix(corpus(splits["test"]), window, window, context, device)
    config = Config("transformer", LAYOUT, View(steps=window, planes="frame"), network, 16, 120.0, (0,), "0" * 64)
    model = models.create(config, torch_rng(torch.device("cpu"), Stream.WEIGHTS.seeds(args.seed))).to(device)
    work = args.work or Path("runs") / f"{args.set}-{args.seed}"
    start = time.monotonic()
    trainer = Trainer(model, train, valid, network, args.seed, Checkpoints(work), machine)
    first = trainer.progress.step
    if not args.score_only:
        trainer.fit()
    seconds = time.monotonic() - start
    model.load_state_dict(trainer.best)
    result = {
        "set": args.set,
        **{name: round(value, 4) for name, value in score(model, test, test_windows, args.draws, args.seed).items()},
        "draws": args.draws,
        "beta": recipe.beta,
        "baselines": {name: round(value, 4) for name, value in baselines.items()},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "optimiser_steps": trainer.progress.step,
        "best_step": trainer.progress.curves[trainer.progress.best_epoch - 1]["step"],
        "train_seconds": round(seconds),
        "steps_in_these_seconds": trainer.progress.step - first,
        "precision": machine.precision,
        "threads": torch.get_num_threads(),
        "seed": args.seed,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    for name, value in result.items():
        print(f"{name:>24}  {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
