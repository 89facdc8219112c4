"""The training loop: fits one model to windows of rolls.

The corpus lies on the training device as packed bits, and each batch is gathered and unpacked there (`BitMatrix`): no
Python code handles single windows. The seed and the number of the epoch decide the order of windows. Windows that fill
no whole batch are left out of that epoch. After each epoch the loss on the `valid` pieces decides whether the weights
are the best so far, and when to stop.

A batch is divided into *slices*. One process computes them in turn (`accumulate`), or several processes share them
(`devices.py`); gradients are averaged over all slices. The noise of a slice (latent, transposition, dropout) follows
from the seed and the numbers of epoch, step and slice. Therefore only the number of slices decides the result: two
processes give the same weights as one process with the same slices, except for rounding of sums. For the same reason a
checkpoint can be written after any step: on a CPU with the same number of threads, a run that was killed and restarted
ends with the same bits.

Matrix products in training may use bfloat16. Sums, weights, validation and all reported numbers use fp32 or more.

The trainer uses only the method `elbo` of a model. It can validate and keep a moving average of the weights
(`average`), the exponential form of Polyak & Juditsky 1992, which reduces the noise of the last steps.

Shapes:
    B  windows of a slice    T  steps    N  parts    K  planes    P  pitches

Offers: `Trainer`, `slices`.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor
from torch.optim.swa_utils import PARAM_LIST, AveragedModel
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from midivae.config.streams import Stream
from midivae.config.train import Fit
from midivae.errors import ParamsError, TrainingError
from midivae.models.base import WindowModel
from midivae.train import checkpoint, devices, optimizers, schedule
from midivae.train.checkpoint import Checkpoints, Pace, Progress
from midivae.train.curves import Row, loss_columns, write_curves
from midivae.train.devices import Machine, torch_rng
from midivae.windows.device import BitMatrix
from midivae.windows.windows import epoch_order

log = logging.getLogger(__name__)

_STEPS_BETWEEN_CHECKS = 20  # of the loss: to read it, the process must wait for the device
_VALIDATED_AT_ONCE = 256
_ROWS = 1000  # maximum rows of the step curve, however long the run is
_EXPLODED, _ROWS_EXPLODED = 3.0, 5  # training has diverged if so many rows in succession exceed the first row so often
_SECONDS_BETWEEN_CURVES = 5.0  # written to the work directory


class Trainer:
    """Fits one model; holds the state that changes from step to step.

    Attributes:
        progress: how far the run is.
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
        """A run, which continues from its checkpoint if there is one.

        Args:
            model: the model to fit, on the device of `train`.
            train: the windows that it is fitted to.
            valid: the windows that choose the best weights.
            settings: how it is fitted.
            seed: of all random numbers.
            checkpoints: where the run is saved.
            machine: None: the device of `train`, in fp32, in this process alone.

        Raises:
            ParamsError: the batch cannot be divided into equal slices.
            SchemaError, CorruptError, TrainingError: the checkpoint has another version, is damaged, or belongs to
                another run.
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
        self.average = AveragedModel(model, multi_avg_fn=self._average) if settings.average else None
        if self.average is not None:
            self.average.update_parameters(model)  # the initial weights count as one step
        # sums of reconstruction and kl, nats: row 0 of the current epoch, row 1 since the last row of the step curve
        self.sums = torch.zeros(2, 2, dtype=torch.float64, device=train.device)
        self.noise, self.shift = (torch.Generator(train.device) for _ in range(2))
        # dropout draws from torch's default generators; torch.manual_seed sets those of all devices, 70 times as slow
        on_gpu = self.machine.device.type == "cuda"
        self.dropout = torch.cuda.default_generators[self.machine.device.index] if on_gpu else torch.default_generator
        self._resume()
        self.wrapped = self.machine.prepare(model)
        self._pace, self._curves_written = Pace(), -math.inf

    def facts(self) -> dict[str, Any]:
        """What decides the resulting weights, as far as the trainer knows it."""
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
        """Trains until the budget is used up or the loss stops falling; saves checkpoints during and after it."""
        if self.progress.finished:
            return
        devices.keep_freed_memory()
        self._pace = Pace()
        splits = ("train", "valid") if len(self.valid) else ("train",)
        gpus = [self.train.device] if self.train.device.type == "cuda" else []
        bar = tqdm(
            total=self.max_steps,
            initial=self.progress.step,
            desc=self.model.name,
            unit="step",
            disable=True if self.machine.rank else None,  # None: where stderr is no terminal
            file=sys.stderr,
        )
        with logging_redirect_tqdm(), bar, torch.random.fork_rng(gpus):
            while not self._is_over():
                row = self._epoch(bar)
                self._record(row)
                losses = ", ".join(f"{split} loss {row[f'{split}_loss']:.2f}" for split in splits)
                log.info("%s: epoch %d, %s", self.model.name, self.progress.epoch, losses)
                self._save_if_due()
        self.progress = replace(self.progress, finished=True)
        if self.machine.rank == 0:
            self._write_curves()
            self.checkpoints.save(self.progress, checkpoint.best_alone(self.best), self.facts())

    def _save_if_due(self) -> None:
        """Writes the curves and a checkpoint, each if it is time."""
        if self.machine.rank:
            return
        if time.monotonic() - self._curves_written >= _SECONDS_BETWEEN_CURVES:
            self._write_curves()
        if self._pace.is_due():
            with self._pace.writing():
                average = None if self.average is None else self.average.state_dict()
                state = checkpoint.state_of(self.model, self.optimizers, self.best, average, self.sums)
                self.checkpoints.save(self.progress, state, self.facts())

    def _write_curves(self) -> None:
        """Writes the curves so far beside the checkpoint, where people can watch them."""
        write_curves(self.checkpoints.folder, self.progress.curves, self.progress.trace)
        self._curves_written = time.monotonic()

    def _resume(self) -> None:
        state = self.checkpoints.load(self.facts())
        self.machine.check_same("step", 0 if state is None else state.progress.step)
        if state is None:
            return
        self.progress = state.progress
        if state.progress.finished:
            self.best = checkpoint.best_of(state.tensors)
            log.info("%s: trained in an earlier run, %d epochs", self.model.name, state.progress.epoch)
        else:
            self.best, average, sums = checkpoint.restore(state.tensors, self.model, self.optimizers)
            if self.average is not None:
                self.average.load_state_dict(average)
            self.sums = sums.to(self.train.device)
            log.info("%s: resumes after epoch %d, step %d", self.model.name, self.progress.epoch, self.progress.step)

    def _is_over(self) -> bool:
        progress, patience = self.progress, self.settings.patience
        waited = progress.epoch - progress.best_epoch
        stale = patience is not None and len(self.valid) > 0 and waited >= patience
        return progress.step >= self.max_steps or stale

    # --- an epoch
    def _epoch(self, bar: tqdm[Any]) -> Row:
        """Trains on the remaining batches of the epoch, then validates."""
        self.model.train()
        epoch, first = self.progress.epoch + 1, self.progress.batches
        n_batches = min(self.batches_per_epoch, self.max_steps - self.progress.step + first)
        seeds = self._seeds(epoch)
        batches = self._batches(epoch, n_batches)[first:]
        for done, (index, batch_seeds) in enumerate(zip(batches, seeds[first:], strict=False), start=first + 1):
            checked = done % _STEPS_BETWEEN_CHECKS == 0 or done == n_batches
            norm = self._step(index, batch_seeds, self.progress.step + 1, checked)
            self.progress = replace(self.progress, step=self.progress.step + 1, batches=done)
            if checked:
                self._check(norm)
                bar.set_postfix(loss=f"{self._train_columns(done)['train_loss']:.2f}", epoch=epoch, refresh=False)
                if done < n_batches:
                    self._save_if_due()
            bar.update()
        return {"epoch": epoch, "step": self.progress.step, **self._train_columns(n_batches), **self._validate()}

    def _train_columns(self, n_batches: int) -> Row:
        return loss_columns("train", self.sums[0] / n_batches, self.model.beta)

    def _batches(self, epoch: int, n_batches: int) -> list[Int[Tensor, "slices B"]]:
        """Numbers of the windows of each batch, by slice."""
        order = epoch_order(len(self.train), self.seed, epoch)[: n_batches * self.settings.batch_size]
        return list(torch.from_numpy(order).to(self.train.device).view(n_batches, self.slices, -1))

    def _seeds(self, epoch: int) -> UInt64[np.ndarray, "batches slices 3"]:
        """Seeds of the latent noise, the transposition and the dropout, for every slice of every batch."""
        shape = (self.batches_per_epoch, self.slices)
        streams = [
            stream.seeds(self.seed, epoch=epoch).generate_state(math.prod(shape), np.uint64)
            for stream in (Stream.NOISE, Stream.TRANSPOSITION, Stream.DROPOUT)
        ]
        return np.stack([stream.reshape(shape) for stream in streams], -1)

    def _step(
        self, index: Int[Tensor, "slices B"], seeds: UInt64[np.ndarray, "slices 3"], step: int, wants_norm: bool
    ) -> Float[Tensor, ""] | None:
        """Optimiser step number `step`, from 1; returns the norm of the gradient if it was computed."""
        settings = self.settings
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = schedule.learning_rate(settings, step, self.max_steps)
        self.model.zero_grad(set_to_none=True)  # also of fixed weights: the gradient's norm counts every gradient
        kl_weight = schedule.kl_weight(settings, step)
        share = self.slices // self.machine.processes
        own = range(self.machine.rank * share, (self.machine.rank + 1) * share)
        for number in own:
            noise, shift, dropout = seeds[number].tolist()
            self.dropout.manual_seed(dropout)
            batch = self.train.batch(index[number])
            if settings.transpose:
                batch = self.train.transposed(batch, settings.transpose, self.shift.manual_seed(shift))
            with self.machine.delayed_sync(self.wrapped, is_last=number == own[-1]):
                parts = self.wrapped(batch, self.noise.manual_seed(noise))
                loss = parts._replace(beta=parts.beta * kl_weight).loss / batch.x.shape[1]  # nats a step of music
                self.machine.backward(loss / share)
            self.sums += torch.stack([parts.reconstruction.detach().mean(), parts.kl.detach().mean()]) / share
        norm = self._gradient_norm(wants_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return norm

    def _average(self, averages: PARAM_LIST, weights: PARAM_LIST, _: object) -> None:
        """Moves the averages towards the weights of a step; at the start, they are those of all steps so far."""
        step = self.progress.step + 1
        torch._foreach_lerp_(averages, weights, 1 - min(self.settings.average, step / (step + 9)))

    def _gradient_norm(self, wanted: bool) -> Float[Tensor, ""] | None:
        """The norm of the gradient before it is clipped; clips it if params say so."""
        maximum = self.settings.clip_norm
        if maximum is not None:
            return torch.nn.utils.clip_grad_norm_(self.model.parameters(), maximum)
        if not wanted:
            return None  # computing it reads all gradients once more
        return torch.nn.utils.get_total_norm([w.grad for w in self.model.parameters() if w.grad is not None])

    # --- checks of the loss
    def _check(self, norm: Float[Tensor, ""] | None) -> None:
        """Averages the sums over processes, checks for divergence, and adds a row to the step curve if it is time."""
        self.sums = self.machine.reduce(self.sums, "mean")
        self._check_finite(self.sums[0])
        progress = self.progress
        last = int(progress.trace[-1]["step"] or 0) if progress.trace else 0
        if progress.step - last < self.max_steps // _ROWS:
            return
        reconstruction, kl = (self.sums[1] / (progress.step - last)).tolist()
        row: Row = {
            "step": progress.step,
            "epoch": progress.epoch + 1,
            "loss": reconstruction + self.model.beta * kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "learning_rate": schedule.learning_rate(self.settings, progress.step, self.max_steps),
            "gradient_norm": None if norm is None else norm.item(),
        }
        self.sums[1] = 0
        self.progress = replace(progress, trace=(*progress.trace, row))
        self._check_exploded()

    def _check_finite(self, sums: Float[Tensor, " 2"]) -> None:
        reconstruction, kl = sums.tolist()
        if not math.isfinite(reconstruction + kl):
            raise self._diverged(f"the loss is not finite (reconstruction {reconstruction}, kl {kl})")

    def _check_exploded(self) -> None:
        """A loss that stays far above its first value does not fall again."""
        losses = [float(row["loss"] or 0.0) for row in self.progress.trace]
        if len(losses) > _ROWS_EXPLODED and min(losses[-_ROWS_EXPLODED:]) > _EXPLODED * losses[0]:
            raise self._diverged(
                f"the loss is {losses[-1]:.6g} nats a window, and was above {_EXPLODED:g} times its first value, "
                f"{losses[0]:.6g}, in {_ROWS_EXPLODED} checks in succession"
            )

    def _diverged(self, symptom: str) -> TrainingError:
        return TrainingError(
            f"model {self.model.name!r}: at step {self.progress.step} (epoch {self.progress.epoch + 1}) {symptom}: "
            f"training has diverged; lower its learning_rate, which is {self.settings.learning_rate}, or set clip_norm "
            "and warmup_steps"
        )

    # --- validation
    @torch.inference_mode()
    def _validate(self) -> Row:
        """The parts of the loss on the validation windows, in fp32; the noise is the same in every epoch."""
        if not len(self.valid):
            return loss_columns("valid", None, 0.0)
        model = self._averaged_model().eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.valid.device)
        for number, index in enumerate(self.valid.in_order(_VALIDATED_AT_ONCE)):
            if number % self.machine.processes == self.machine.rank:
                noise = torch_rng(self.valid.device, Stream.VALIDATION.seeds(self.seed, batch=number))
                parts = model.elbo(self.valid.batch(index), noise)
                sums += torch.stack([parts.reconstruction.sum(), parts.kl.sum()])
        sums = self.machine.reduce(sums, "sum")
        self._check_finite(sums)
        return loss_columns("valid", sums / len(self.valid), self.model.beta)

    def _averaged_model(self) -> WindowModel:
        """The model that is validated and kept: with the averaged weights, if there are any."""
        return self.model if self.average is None else cast(WindowModel, self.average.module)

    def _record(self, row: Row) -> None:
        """Adds an epoch to the progress, and keeps its weights if they are the best so far."""
        progress = replace(self.progress, epoch=self.progress.epoch + 1, batches=0, curves=(*self.progress.curves, row))
        self.sums[0] = 0
        loss = row["valid_loss"] if row["valid_loss"] is not None else row["train_loss"]
        if loss is not None and loss < progress.best_loss:
            progress = replace(progress, best_epoch=progress.epoch, best_loss=loss)
            self.best = _copy(self._averaged_model())
        self.progress = progress


def slices(settings: Fit, processes: int) -> int:
    """The number of slices of a batch: the least common multiple of `accumulate` and the number of processes.

    Raises:
        ParamsError: slices cannot have equal sizes.
    """
    number = math.lcm(settings.accumulate, processes)
    if settings.batch_size % number:
        raise ParamsError(
            f"batch_size {settings.batch_size} is no multiple of {number} slices (accumulate {settings.accumulate}, "
            f"{processes} process(es)): all slices must have the same number of windows; change one of them"
        )
    return number


def _copy(model: WindowModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
