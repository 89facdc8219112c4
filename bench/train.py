"""How fast is training? Beside the article's loop as it stands.

    python bench/train.py [ROLLS] [--repeats 5] [--steps 40] [--precision auto] [--threads N]

ROLLS is a folder that stage `ingest` wrote, data/rolls by default; the windows are those of params.yaml's `train.view`.

    article       the article's loop: TensorDataset and DataLoader of float tensors, dense layers 256-128-64, latent 16,
                  summed cross-entropy on sigmoids plus KL, the encoder called twice, Adam 1e-3, batch 64
    trainer       ours: the same layers, loss, rate and batch, in the article's fp32
    trainer auto  the same in the precision that this machine chooses (only where that is not fp32)
    trainer best  the same at the batch, a power of two, and the precision that give the most windows a second
    transformer   the default transformer at its default batch, with all that its training does

Each is warmed up, then all take turns, `--repeats` rounds of `--steps` steps each, fewer where they would take over two
seconds; median and spread are given, and every ratio is taken within its round. What the input pipeline takes (gather,
unpack, transpose) is measured alone, on the same windows in the same rounds. Peak memory is that of a process of its
own, on a GPU that of the device. On a GPU, products per second are set beside the most that the chip can do.

Ceiling: the products of matrices alone, on this machine, in this precision: the share of their rate that a step
reaches is given as `of the matrix rate`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import numpy as np
import torch
from hardware import hardware
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from midivae import models
from midivae.config.streams import Stream
from midivae.config.train import Dense, Fit, Train
from midivae.models import Config
from midivae.train import devices
from midivae.train.checkpoint import Checkpoints
from midivae.train.devices import Machine, keep_freed_memory, torch_rng
from midivae.train.trainer import _STEPS_BETWEEN_CHECKS, Trainer
from midivae.windows.corpus import load_corpus
from midivae.windows.device import BitMatrix
from midivae.windows.windows import find_windows, sample_layout

ENDLESS = {"epochs": 1_000_000, "patience": None}
# dense products a second of the chip at its best, from its maker's data sheet; bf16 with fp32 sums, without sparsity
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


# --- the article's loop -----------------------------------------------------------------------------------------------
class Article(nn.Module):
    """The article's variational autoencoder, with the sigmoid at the end, as it is written there."""

    def __init__(self, inputs: int, hidden: tuple[int, ...] = (256, 128, 64), latent: int = 16) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.encoder = nn.Sequential(*self._stack(sizes))
        self.mu, self.logvar = nn.Linear(sizes[-1], latent), nn.Linear(sizes[-1], latent)
        back = [latent, *reversed(hidden)]
        self.decoder = nn.Sequential(*self._stack(back), nn.Linear(back[-1], inputs), nn.Sigmoid())

    @staticmethod
    def _stack(sizes: list[int]) -> Iterator[nn.Module]:
        for wide, narrow in pairwise(sizes):
            yield nn.Linear(wide, narrow)
            yield nn.ReLU()

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.encoder(x)
        return self.mu(hidden), self.logvar(hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mu, logvar = self.encode(x)
        return self.decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))


class ArticleLoop:
    """Some steps at a time of the article's loop; epoch follows on epoch."""

    def __init__(self, windows: torch.Tensor, device: torch.device) -> None:
        self.device = device
        self.model = Article(windows.shape[1]).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.loader = DataLoader(TensorDataset(windows), batch_size=64, shuffle=True, drop_last=True)
        self.batches = iter(self.loader)

    def _batch(self) -> torch.Tensor:
        try:
            return next(self.batches)[0]
        except StopIteration:
            self.batches = iter(self.loader)
            return next(self.batches)[0]

    def __call__(self, steps: int) -> int:
        self.model.train()
        for _ in range(steps):
            x = self._batch().to(self.device)
            self.optimizer.zero_grad()
            reconstruction = self.model(x)
            mu, logvar = self.model.encode(x)
            error = nn.functional.binary_cross_entropy(reconstruction, x, reduction="sum")
            kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            loss = error + kl
            loss.backward()
            self.optimizer.step()
            loss.item()
        return 64 * steps

    def input_alone(self, steps: int) -> None:
        for _ in range(steps):
            self._batch().to(self.device)


# --- ours -------------------------------------------------------------------------------------------------------------
class TrainerLoop:
    """Some steps of `Trainer` at a time: its own step, its own checks."""

    def __init__(self, name: str, settings: Fit, data: BitMatrix, config: Config, machine: Machine) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        model = models.create(config, torch_rng(torch.device("cpu"), Stream.WEIGHTS.seeds(0))).to(data.device)
        checkpoints = Checkpoints(Path(self.scratch.name))
        self.trainer = Trainer(model, data, data, settings, 0, checkpoints, machine)
        self.settings, self.position, self.epoch = settings, 0, 1
        self._begin()

    def _begin(self) -> None:
        self.seeds = self.trainer._seeds(self.epoch)
        self.batches = self.trainer._batches(self.epoch, self.trainer.batches_per_epoch)

    def _next(self) -> int:
        if self.position == len(self.batches):
            self.epoch, self.position = self.epoch + 1, 0
            self._begin()
        self.position += 1
        return self.position - 1

    def __call__(self, steps: int) -> int:
        trainer = self.trainer
        trainer.model.train()
        for done in range(1, steps + 1):
            at = self._next()
            checked = done % _STEPS_BETWEEN_CHECKS == 0 or done == steps
            trainer._step(self.batches[at], self.seeds[at], trainer.progress.step + 1, checked)
            if checked:
                trainer._check_finite(trainer.sums[0])
        return self.settings.batch_size * steps

    def input_alone(self, steps: int) -> None:
        data, most = self.trainer.train, self.settings.transpose
        for _ in range(steps):
            at = self._next()
            for index in self.batches[at]:
                batch = data.batch(index)
                if most:
                    data.transposed(batch, most, self.trainer.shift)

    def flops(self) -> int:
        """Of the products of matrices in one step, forwards and backwards."""
        with FlopCounterMode(display=False) as counter:
            self(1)
        return counter.get_total_flops()


# --- measuring --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Contestant:
    loop: ArticleLoop | TrainerLoop
    steps: int
    batch: int


def settle(device: torch.device) -> None:
    """Waits until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[int], object], steps: int, device: torch.device) -> float:
    """Seconds a step."""
    settle(device)
    start = time.perf_counter()
    work(steps)
    settle(device)
    return (time.perf_counter() - start) / steps


def matrix_rate(precision: str, device: torch.device) -> float:
    """Products (two operations each) a second of large matrices on this machine: what a step could reach at most."""
    size = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))

    def multiply(times: int) -> None:
        for _ in range(times):
            a @ b

    multiply(3)
    return 2 * size**3 / timed(multiply, 10, device)


def windows_of(data: BitMatrix) -> torch.Tensor:
    """All windows as one tensor of floats, as the article keeps them."""
    parts = [data.batch(index).x.flatten(1).cpu() for index in data.in_order(256)]
    return torch.cat(parts)


class Bench:
    """The data, and how to make each contestant."""

    def __init__(self, rolls: Path, precision: str) -> None:
        self.auto = devices.connect("auto", precision)  # type: ignore[arg-type]
        self.exact = Machine(self.auto.fabric, "32", False)
        if self.auto.precision != "32":
            self.exact = devices.connect("auto", "32", False)
        self.device = self.auto.device
        self.params = Train()
        corpus = load_corpus(rolls, ["train"])
        view = self.params.view
        found = find_windows(corpus, view)
        self.layout = sample_layout(corpus.layout, view)
        self.data = {
            context: BitMatrix(corpus, found, view, self.device, context)
            for context in {0, self.params.transformer.context}
        }

    def article(self) -> ArticleLoop:
        torch.manual_seed(0)
        return ArticleLoop(windows_of(self.data[0]), self.device)

    def ours(self, name: str, settings: Fit, machine: Machine) -> TrainerLoop:
        programs = (0,) * len(self.layout.parts)
        config = Config(
            name, self.layout, self.params.view, settings, 4 * self.layout.steps_per_beat, 120.0, programs, "0" * 64
        )  # type: ignore[arg-type]
        data = self.data[self.params.transformer.context if name == "transformer" else 0]
        return TrainerLoop(name, settings, data, config, machine)

    def dense(self, batch: int) -> Dense:
        return self.params.dense.model_copy(update={**ENDLESS, "batch_size": batch})

    def make(self, name: str, batch: int) -> ArticleLoop | TrainerLoop:
        if name == "article":
            return self.article()
        if name == "transformer":
            return self.ours(name, self.params.transformer.model_copy(update=ENDLESS), self.auto)
        return self.ours("mlp", self.dense(batch), self.exact if name == "trainer" else self.auto)

    def best_batch(self) -> int:
        """The power of two that gives the most windows a second; stops two sizes after the best."""
        rates: dict[int, float] = {}
        size, most = 32, len(self.data[0])
        while size <= most and size <= 4 * max(rates, key=rates.__getitem__, default=size):
            loop = self.make("trainer best", size)
            loop(2)
            rates[size] = size / median(timed(loop, max(2, 1024 // size), self.device) for _ in range(3))
            size *= 2
        print("windows/s by batch: " + ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items()))
        return max(rates, key=rates.__getitem__)


def peak_mib(bench: Bench, name: str, batch: int, arguments: argparse.Namespace) -> float:
    """Peak memory of some steps: of the device, or of a process of its own with all that it holds."""
    if bench.device.type == "cuda":
        loop = bench.make(name, batch)
        torch.cuda.reset_peak_memory_stats()
        loop(3)
        return torch.cuda.max_memory_allocated() / 2**20
    words = [str(arguments.rolls), "--precision", arguments.precision, "--only", name, "--batch", str(batch)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["peak_mib"]


def run_only(arguments: argparse.Namespace) -> None:
    """A few steps of one contestant, for its memory."""
    bench = Bench(arguments.rolls, arguments.precision)
    bench.make(arguments.only, arguments.batch)(5)
    # not getrusage's: what the parent held when it started us counts there
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"peak_mib": int(status["VmHWM"].split()[0]) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rolls", type=Path, nargs="?", default=Path("data/rolls"))
    parser.add_argument("--repeats", type=int, default=5, help="rounds of all contestants")
    parser.add_argument("--steps", type=int, default=40, help="of a contestant in a round, at most")
    parser.add_argument("--precision", choices=["auto", "32", "bf16"], default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=64, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the trainer does in every run; it helps the article's loop too
    if arguments.only:
        run_only(arguments)
        return

    bench = Bench(arguments.rolls, arguments.precision)
    best = bench.best_batch()
    batches = {"article": 64, "trainer": 64, "trainer auto": 64, "trainer best": best}
    batches["transformer"] = bench.params.transformer.batch_size
    if bench.auto.precision == "32":
        del batches["trainer auto"]
    contestants = {}
    for name, batch in batches.items():
        loop = bench.make(name, batch)
        loop(3)
        steps = max(2, min(arguments.steps, int(2 / timed(loop, 2, bench.device))))
        contestants[name] = Contestant(loop, steps, batch)
    precisions = sorted({"32", bench.auto.precision})
    rounds, ceilings = [], []
    for _ in range(arguments.repeats):
        ceilings.append({precision: matrix_rate(precision, bench.device) for precision in precisions})
        rounds.append({name: _timed_both(each, bench.device) for name, each in contestants.items()})
    report(bench, contestants, rounds, ceilings, arguments)


def _timed_both(each: Contestant, device: torch.device) -> tuple[float, float]:
    """Seconds of a step, and of its input alone."""
    return timed(each.loop, each.steps, device), timed(each.loop.input_alone, each.steps, device)


def spread(values: list[float], digits: int = 1) -> str:
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def report(
    bench: Bench,
    contestants: dict[str, Contestant],
    rounds: list[dict[str, tuple[float, float]]],
    ceilings: list[dict[str, float]],
    arguments: argparse.Namespace,
) -> None:
    """A table for people; the last line is JSON."""
    shape = "x".join(map(str, bench.data[0].shape))
    print(f"{len(bench.data[0])} windows of {shape} cells; {len(rounds)} rounds; median (least to most)\n")
    facts: dict[str, dict[str, float]] = {}
    for name, each in contestants.items():
        rate = [each.batch / r[name][0] for r in rounds]
        ratio = [each.batch / r[name][0] / (64 / r["article"][0]) for r in rounds]
        share = [100 * r[name][1] / r[name][0] for r in rounds]
        memory = peak_mib(bench, name, each.batch, arguments)
        precision = bench.auto.precision if name not in ("article", "trainer") else "32"
        facts[name] = {
            "batch": each.batch,
            "precision": 32 if precision == "32" else 16,
            "windows_per_s": round(median(rate), 1),
            "windows_per_s_least": round(min(rate), 1),
            "windows_per_s_most": round(max(rate), 1),
            "times_article": round(median(ratio), 2),
            "ms_a_step": round(1e3 * each.batch / median(rate), 2),
            "input_share": round(median(share) / 100, 4),
            "peak_mib": round(memory),
        }
        print(f"{name:12} batch {each.batch:5} {precision:>4}  {spread(rate, 0):>28} windows/s", end="")
        print(f"  {spread(ratio, 2):>20} x article  input {spread(share):>18} %  {memory:7.0f} MiB", end="")
        if isinstance(each.loop, TrainerLoop):
            flops = each.loop.flops()
            products = flops * median(rate) / each.batch
            reached = [flops / r[name][0] / ceiling[precision] for r, ceiling in zip(rounds, ceilings, strict=True)]
            facts[name] |= {"flops": round(products), "of_the_matrix_rate": round(median(reached), 3)}
            print(
                f"  {products / 1e9:9.1f} GFLOP/s, {spread([100 * r for r in reached], 0)} % of the matrix rate", end=""
            )
            device = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "cpu"
            peak = next((p for chip, p in PEAK.items() if chip in device), None)
            if peak is not None and precision == "bf16":
                facts[name]["of_the_peak"] = round(products / peak, 4)
                print(f", {100 * products / peak:4.1f} % of the chip's peak", end="")
        print()
    print(
        json.dumps(
            {
                "bench": "train",
                "windows": len(bench.data[0]),
                "cells": int(np.prod(bench.data[0].shape)),
                "rounds": len(rounds),
                "contestants": facts,
                "matrix_rate": {name: round(median(each[name] for each in ceilings)) for name in ceilings[0]},
                "chip": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else None,
                "threads": torch.get_num_threads(),
                **hardware(),
            }
        )
    )


if __name__ == "__main__":
    main()
