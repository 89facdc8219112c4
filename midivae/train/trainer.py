"""The training engine: fits one model to windows of rolls.

Packed bits lie on the training device, and a batch is gathered and unpacked there (`BitMatrix`), so that no
Python touches a single window between shard and step. The order of windows follows from the seed and the number of the
epoch; the last windows, that fill no batch, sit out that epoch. After each epoch the loss on the `valid` pieces says
whether the weights are the best so far, and when to stop.

A batch is taken in one or more *slices*, one after another (`accumulate`) or by several processes at once
(`devices.py`), and gradients are averaged over them. All noise of a slice (latent, transposition, dropout) is drawn
from the seed and the numbers of epoch, step and slice. So nothing but the number of slices decides the result, and two
processes give what one process gives that takes both slices in turn, but for the rounding of sums. Checkpoints
(`checkpoint.py`) can be taken after any step for the same reason: a run that is killed and started again ends, on a CPU
with as many threads, with the same bits.

Products of matrices in training may be done in bfloat16; sums, weights, validation and all that is reported are fp32 or
more.

Of a model the engine knows `elbo` alone. What it validates and keeps may be an average of the weights over the last
steps (`average`), the exponential form of Polyak & Juditsky 1992: it evens out the noise of the last steps.

Shapes:
    B  windows of a batch    T  steps    N  parts    K  planes    P  pitches

Offers: `Trainer`, `torch_rng`, `in_order`, `csv_bytes` and the columns of the curves, `CURVES` and `TRACE`.
"""

from __future__ import annotations

import csv
import ctypes
import io
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from midivae.config.streams import Stream
from midivae.config.train import Fit
from midivae.errors import ParamsError, TrainingError
from midivae.models.base import WindowModel
from midivae.storage.files import write_bytes
from midivae.train import checkpoint, devices, optimizers
from midivae.train.checkpoint import Checkpoints, Pace, Progress, Row
from midivae.train.devices import Machine
from midivae.windows.device import BitMatrix
from midivae.windows.windows import epoch_order

log = logging.getLogger(__name__)

_STEPS_BETWEEN_CHECKS = 20  # of the loss: reading it waits for the device
_WINDOWS_AT_ONCE = 256  # where nothing is trained
_ROWS = 1000  # of the trace, about: a run of a million steps has no more than one of a thousand
_EXPLODED, _ROWS_EXPLODED = 3.0, 5  # times the first row's loss, in so many rows on end: training has diverged
_SECONDS_BETWEEN_LOOKS = 5.0  # at the curves in the work directory
_PARTS = ("loss", "reconstruction", "kl")
CURVES = ("epoch", "step", *(f"{split}_{part}" for split in ("train", "valid") for part in _PARTS))
TRACE = ("step", "epoch", *_PARTS, "learning_rate", "gradient_norm")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def torch_rng(device: torch.device, seeds: np.random.SeedSequence) -> torch.Generator:
    """A generator on the device, with the key of a random stream."""
    seed = int(seeds.generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


@contextmanager
def _own_dropout(device: torch.device) -> Iterator[None]:
    """Torch's own generators, which dropout draws from, are ours meanwhile; afterwards they are as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


class Trainer:
    """Fits one model; holds what changes from step to step.

    Attributes:
        progress: how far the run came.
        best: the weights of the best epoch.
    """

    def __init__(
        self,
        model: WindowModel,
        train: BitMatrix,
        valid: BitMatrix,
        settings: Fit,
        seed: int,
        checkpoints: Checkpoints,
        machine: Machine | None = None,
    ) -> None:
        """A run, from where its checkpoint is.

        Args:
            model: what is fitted, on the device of `train`.
            train: the windows that it is fitted to.
            valid: those that choose the best weights.
            settings: how.
            seed: of all that is random.
            checkpoints: where the run is kept.
            machine: on what; None: on the device of `train`, in fp32, in this process alone.

        Raises:
            ParamsError: the batch cannot be shared evenly.
            SchemaError, CorruptError, TrainingError: the checkpoint is of another version, damaged, or another run's.
        """
        self.model, self.train, self.valid, self.settings, self.seed = model, train, valid, settings, seed
        self.checkpoints = checkpoints
        self.machine = machine or devices.connect(train.device.type, "32", False)  # type: ignore[arg-type]
        self.slices = slices(settings, self.machine.processes)
        self.optimizers = optimizers.build(model, settings)
        self.batches_per_epoch = len(train) // settings.batch_size
        self.max_steps = min(settings.max_steps or sys.maxsize, settings.epochs * self.batches_per_epoch)
        self.progress = Progress()
        self.best = _copy(model)
        self.average = _copy(model) if settings.average else None
        # reconstruction and kl, nats: sums of the epoch so far, and since the last row of the trace
        self.tally = torch.zeros(2, 2, dtype=torch.float64, device=train.device)
        self.noise, self.shift = (torch.Generator(train.device) for _ in range(2))
        # torch's own: no layer takes another; torch.manual_seed takes 70 times as long, for all kinds of devices
        on_gpu = self.machine.device.type == "cuda"
        self.dropout = torch.cuda.default_generators[self.machine.device.index] if on_gpu else torch.default_generator
        self._resume()
        self.called = self.machine.prepare(model)
        self._pace, self._looked = Pace(), -math.inf

    def made_of(self) -> dict[str, Any]:
        """What decides the weights that come out, as far as it is known here."""
        return {
            "config": self.model.config.to_dict(),
            "fit": self.settings.model_dump(mode="json"),
            "seed": self.seed,
            "slices": self.slices,
            "precision": self.machine.precision,
            "compiled": self.machine.compiles,
            "device": self.train.device.type,
            "windows": {"train": len(self.train), "valid": len(self.valid)},
        }

    # --- the run
    def fit(self) -> None:
        """Trains until the budget is spent or nothing gets better; saves checkpoints on the way and at the end."""
        if self.progress.finished:
            return
        _keep_freed_memory()
        self._pace = Pace()
        with logging_redirect_tqdm(), self._bar() as bar, _own_dropout(self.train.device):
            while not self._is_over():
                row = self._epoch(bar)
                self._take(row)
                log.info("%s: %s", self.model.name, _sentence(row))
                self._keep()
        self.progress = replace(self.progress, finished=True)
        if self.machine.rank == 0:
            self._show()
            self.checkpoints.save(self.progress, checkpoint.best_alone(self.best), self.made_of())

    def _keep(self) -> None:
        """Saves a checkpoint, and curves for people to look at, each if it is time."""
        if self.machine.rank:
            return
        if time.monotonic() - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._show()
        if self._pace.is_due():
            with self._pace.writing():
                state = checkpoint.state_of(self.model, self.optimizers, self.best, self.average, self.tally)
                self.checkpoints.save(self.progress, state, self.made_of())

    def _show(self) -> None:
        """Writes the curves so far beside the checkpoint, where people can watch them."""
        write_bytes(self.checkpoints.folder / "curves.csv", csv_bytes(self.progress.curves, CURVES))
        write_bytes(self.checkpoints.folder / "steps.csv", csv_bytes(self.progress.trace, TRACE))
        self._looked = time.monotonic()

    def _resume(self) -> None:
        state = self.checkpoints.load(self.made_of())
        self.machine.check_same("step", 0 if state is None else state.progress.step)
        if state is None:
            return
        self.progress = state.progress
        if state.progress.finished:
            self.best = checkpoint.best_of(state.tensors)
            log.info("%s: trained in an earlier run, %d epochs", self.model.name, state.progress.epoch)
        else:
            self.best, self.average, tally = checkpoint.restore(state.tensors, self.model, self.optimizers)
            self.tally = tally.to(self.train.device)
            log.info("%s: resumes after epoch %d, step %d", self.model.name, self.progress.epoch, self.progress.step)

    def _bar(self) -> tqdm[Any]:
        return tqdm(
            total=self.max_steps,
            initial=self.progress.step,
            desc=self.model.name,
            unit="step",
            disable=True if self.machine.rank else None,
            file=sys.stderr,
        )

    def _is_over(self) -> bool:
        done, patience = self.progress, self.settings.patience
        stale = patience is not None and len(self.valid) > 0 and done.epoch - done.best_epoch >= patience
        return done.step >= self.max_steps or stale

    # --- an epoch
    def _epoch(self, bar: tqdm[Any]) -> Row:
        """One pass over the training windows, from where it stands, and one over the validation windows."""
        self.model.train()
        epoch, first = self.progress.epoch + 1, self.progress.batches
        n_batches = min(self.batches_per_epoch, self.max_steps - self.progress.step + first)
        seeds = self._seeds(epoch)
        batches = self._batches(epoch, n_batches)[first:]
        for done, (index, each) in enumerate(zip(batches, seeds[first:], strict=False), start=first + 1):
            checked = done % _STEPS_BETWEEN_CHECKS == 0 or done == n_batches
            norm = self._step(index, each, self.progress.step + 1, checked)
            self.progress = replace(self.progress, step=self.progress.step + 1, batches=done)
            if checked:
                self._check(norm)
                bar.set_postfix(loss=f"{self._loss_so_far():.2f}", epoch=epoch, refresh=False)
                if done < n_batches:
                    self._keep()
            bar.update()
        row: Row = {"epoch": epoch, "step": self.progress.step}
        row |= _columns("train", self.tally[0] / n_batches, self.model.beta)
        return row | self._validate()

    def _batches(self, epoch: int, n_batches: int) -> list[Int[Tensor, "slices B"]]:
        """Numbers of the windows of each batch, by slice."""
        order = epoch_order(len(self.train), self.seed, epoch)[: n_batches * self.settings.batch_size]
        return list(torch.from_numpy(order).to(self.train.device).view(n_batches, self.slices, -1))

    def _seeds(self, epoch: int) -> UInt64[np.ndarray, "batches slices 3"]:
        """Of the noise, the transposition and the dropout of every slice of every batch."""
        shape = (self.batches_per_epoch, self.slices)
        streams = [
            stream.seeds(self.seed, epoch=epoch).generate_state(math.prod(shape), np.uint64)
            for stream in (Stream.NOISE, Stream.TRANSPOSITION, Stream.DROPOUT)
        ]
        return np.stack([stream.reshape(shape) for stream in streams], -1)

    def _step(
        self, index: Int[Tensor, "slices B"], seeds: UInt64[np.ndarray, "slices 3"], step: int, wants_norm: bool
    ) -> Float[Tensor, ""] | None:
        """One step of the optimiser, the `step`-th from 1; returns the norm of the gradient where it is at hand."""
        fit = self.settings
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self._learning_rate(step)
        self.model.zero_grad(set_to_none=True)  # of fixed weights too: the gradient's norm counts all that are there
        anneal = min(1.0, step / fit.anneal_steps) if fit.anneal_steps else 1.0
        share = self.slices // self.machine.processes
        mine = range(self.machine.rank * share, (self.machine.rank + 1) * share)
        for number in mine:
            noise, shift, dropout = seeds[number].tolist()
            self.dropout.manual_seed(dropout)
            batch = self.train.batch(index[number])
            if fit.transpose:
                batch = self.train.transposed(batch, fit.transpose, self.shift.manual_seed(shift))
            with self.machine.apart(self.called, is_last=number == mine[-1]):
                parts = self.called(batch, self.noise.manual_seed(noise))
                loss = parts._replace(beta=parts.beta * anneal).loss / batch.x.shape[1]  # a step of music, not a window
                self.machine.backward(loss / share)
            self.tally += torch.stack([parts.reconstruction.detach().mean(), parts.kl.detach().mean()]) / share
        norm = self._norm(wants_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average is not None:
            keep = min(fit.average, step / (step + 9))  # at the start, the average of all steps so far
            weights = self.model.state_dict()
            torch._foreach_lerp_([self.average[name] for name in weights], list(weights.values()), 1 - keep)
        return norm

    def _norm(self, wanted: bool) -> Float[Tensor, ""] | None:
        """The norm of the gradient, which is clipped where params say so."""
        most = self.settings.clip_norm
        if most is not None:
            return torch.nn.utils.clip_grad_norm_(self.model.parameters(), most)
        if not wanted:
            return None  # it would read all gradients once more
        return torch.nn.utils.get_total_norm([w.grad for w in self.model.parameters() if w.grad is not None])

    def _learning_rate(self, step: int) -> float:
        """Rises in a line, then stays or falls along half a cosine."""
        fit = self.settings
        rise = min(1.0, step / fit.warmup_steps) if fit.warmup_steps else 1.0
        fall = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / self.max_steps) if fit.decay else 1.0
        return fit.learning_rate * rise * fall

    # --- watching it
    def _check(self, norm: Float[Tensor, ""] | None) -> None:
        """Brings the processes' sums together, notes a row of the trace if it is time, and looks for divergence."""
        self.tally = self.machine.mean(self.tally)
        self._check_finite(self.tally[0])
        step, last = self.progress.step, int(self.progress.trace[-1]["step"] or 0) if self.progress.trace else 0
        if step - last < self.max_steps // _ROWS:
            return
        reconstruction, kl = (self.tally[1] / (step - last)).tolist()
        row: Row = {
            "step": step,
            "epoch": self.progress.epoch + 1,
            "loss": reconstruction + self.model.beta * kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "learning_rate": self._learning_rate(step),
            "gradient_norm": None if norm is None else norm.item(),
        }
        self.tally[1] = 0
        self.progress = replace(self.progress, trace=(*self.progress.trace, row))
        self._check_exploded()

    def _check_finite(self, sums: Float[Tensor, " 2"]) -> None:
        reconstruction, kl = sums.tolist()
        if not math.isfinite(reconstruction + kl):
            raise TrainingError(
                f"{self._here()} the loss is not finite (reconstruction {reconstruction}, kl {kl}): training has "
                f"diverged; {self._remedy()}"
            )

    def _check_exploded(self) -> None:
        """A loss far above where it began, row after row, comes back no more."""
        losses = [float(row["loss"] or 0.0) for row in self.progress.trace]
        if len(losses) > _ROWS_EXPLODED and min(losses[-_ROWS_EXPLODED:]) > _EXPLODED * losses[0]:
            raise TrainingError(
                f"{self._here()} the loss is {losses[-1]:.6g} nats a window, and has been above {_EXPLODED:g} times "
                f"its first value, {losses[0]:.6g}, in {_ROWS_EXPLODED} checks on end: training has diverged; "
                f"{self._remedy()}"
            )

    def _here(self) -> str:
        return f"model {self.model.name!r}: at step {self.progress.step} (epoch {self.progress.epoch + 1})"

    def _remedy(self) -> str:
        return f"lower its learning_rate, which is {self.settings.learning_rate}, or set clip_norm and warmup_steps"

    def _loss_so_far(self) -> float:
        return float(_columns("train", self.tally[0] / self.progress.batches, self.model.beta)["train_loss"] or 0.0)

    # --- validation
    @torch.inference_mode()
    def _validate(self) -> Row:
        """The parts of the loss on the validation windows, in fp32; the noise is the same in every epoch."""
        if not len(self.valid):
            return _columns("valid", None, 0.0)
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.valid.device)
        with self._averaged():
            for number, index in enumerate(in_order(self.valid)):
                if number % self.machine.processes == self.machine.rank:
                    noise = torch_rng(self.valid.device, Stream.VALIDATION.seeds(self.seed, batch=number))
                    parts = self.model.elbo(self.valid.batch(index), noise)
                    sums += torch.stack([parts.reconstruction.sum(), parts.kl.sum()])
        sums = self.machine.total(sums)
        self._check_finite(sums)
        return _columns("valid", sums / len(self.valid), self.model.beta)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with the averaged weights, if there are any."""
        if self.average is None:
            yield
            return
        own = _copy(self.model)
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def _take(self, row: Row) -> None:
        """Notes an epoch, and keeps its weights if they are the best so far."""
        done = replace(self.progress, epoch=self.progress.epoch + 1, batches=0, curves=(*self.progress.curves, row))
        self.tally[0] = 0
        loss = row["valid_loss"] if row["valid_loss"] is not None else row["train_loss"]
        if loss is not None and loss < done.best_loss:
            done = replace(done, best_epoch=done.epoch, best_loss=loss)
            with self._averaged():
                self.best = _copy(self.model)
        self.progress = done


def slices(settings: Fit, processes: int) -> int:
    """How many slices a batch is taken in: the least number that `accumulate` and the processes both divide.

    Raises:
        ParamsError: they cannot be of one size.
    """
    number = math.lcm(settings.accumulate, processes)
    if settings.batch_size % number:
        raise ParamsError(
            f"batch_size {settings.batch_size} is no multiple of {number} slices (accumulate {settings.accumulate}, "
            f"{processes} process(es)): all must have as many windows; change one of them"
        )
    return number


def _keep_freed_memory() -> None:
    """Lets glibc keep what a step frees for the next one, instead of giving it back and faulting it in again.

    A step on a CPU allocates and frees gradients and logits of some 100 MB; handing them back and forth took a quarter
    of its time (119 ms of processor time against 88, 12.7 M parameters, batch 64). Without glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most it takes
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)


def _copy(model: WindowModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def in_order(matrix: BitMatrix) -> Iterator[Int[Tensor, " B"]]:
    """Numbers of all windows, in order, in batches."""
    yield from torch.split(torch.arange(len(matrix), device=matrix.device), _WINDOWS_AT_ONCE)


def _columns(split: str, parts: Float[Tensor, " 2"] | None, beta: float) -> Row:
    """The columns of the curves for one split."""
    names = [f"{split}_{part}" for part in _PARTS]
    if parts is None:
        return dict.fromkeys(names)
    reconstruction, kl = parts.tolist()
    return dict(zip(names, [reconstruction + beta * kl, reconstruction, kl], strict=True))


def _sentence(row: Row) -> str:
    said = [f"{name.replace('_', ' ')} {value:.2f}" for name, value in row.items() if value and name.endswith("loss")]
    return f"epoch {row['epoch']}, {', '.join(said)}"


def csv_bytes(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """Rows of a curve as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
