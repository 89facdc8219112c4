"""The training engine: fits one model to windows of rolls.

Packed bits lie on the training device, and a batch is gathered and unpacked there (`loader.BitMatrix`), so that no
Python touches a single window between shard and step. Each epoch draws the order of windows and the latent's noise anew
from the seed and its number; the last windows, that fill no batch, sit out that epoch. After each epoch the loss on the
`valid` pieces says whether the weights are the best so far, and when to stop. Checkpoints (`checkpoint.py`) are taken
between epochs: a run that is killed and started again ends, on a CPU with as many threads, with the same bits.

Of a model the engine knows `elbo` alone. What it validates and keeps may be an average of the weights over the last
steps (`average`), the exponential form of Polyak & Juditsky 1992: it evens out the noise of the last steps.

Shapes:
    B  windows of a batch    T  steps    N  parts    K  planes    P  pitches

Offers: `Trainer`, `torch_rng`, `in_order`.
"""

from __future__ import annotations

import ctypes
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from midivae import checkpoint, loader
from midivae.checkpoint import Checkpoints, Progress, Row
from midivae.elbo import Elbo
from midivae.errors import TrainingError
from midivae.loader import BitMatrix
from midivae.models import WindowModel
from midivae.models.base import Batch
from midivae.params import Fit

log = logging.getLogger(__name__)

INIT, NOISE, VALID, TEST, SHIFT, DROPOUT, PRIOR = range(7)  # streams of random numbers, beside the order of windows
_STEPS_BETWEEN_CHECKS = 20  # of the loss: reading it waits for the device
_WINDOWS_AT_ONCE = 256  # where nothing is trained
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def torch_rng(device: torch.device, *entropy: int) -> torch.Generator:
    """A generator on the device, seeded by all of these numbers."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


@contextmanager
def _dropout_rng(device: torch.device, *entropy: int) -> Iterator[None]:
    """Torch's own generators, which dropout draws from, seeded by all of these numbers; afterwards as they were."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
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
    ) -> None:
        self.model, self.train, self.valid, self.settings, self.seed = model, train, valid, settings, seed
        self.checkpoints = checkpoints
        self.optimizer = _optimizer(model, settings)
        self.batches_per_epoch = len(train) // settings.batch_size
        self.max_steps = min(settings.max_steps or sys.maxsize, settings.epochs * self.batches_per_epoch)
        self.progress = Progress()
        self.best = _copy(model)
        self.average = _copy(model) if settings.average else None
        self._resume()

    def fit(self) -> None:
        """Trains until the budget is spent or nothing gets better; saves checkpoints on the way and at the end."""
        if self.progress.finished:
            return
        _keep_freed_memory()
        saved = time.monotonic()
        with logging_redirect_tqdm(), self._bar() as bar:
            while not self._is_over():
                with _dropout_rng(self.train.device, self.seed, DROPOUT, self.progress.epoch + 1):
                    row = self._epoch(bar)
                self._take(row)
                log.info("%s: %s", self.model.name, _sentence(row))
                if time.monotonic() - saved >= checkpoint.SECONDS_BETWEEN:
                    self.checkpoints.save(self.progress, self._state())
                    saved = time.monotonic()
        self.progress = replace(self.progress, finished=True)
        self.checkpoints.save(self.progress, checkpoint.best_alone(self.best))

    def _state(self) -> dict[str, Tensor]:
        return checkpoint.state_of(self.model, self.optimizer, self.best, self.average)

    def _resume(self) -> None:
        state = self.checkpoints.load()
        if state is None:
            return
        self.progress = state.progress
        if state.progress.finished:
            self.best = checkpoint.best_of(state.tensors)
            log.info("%s: trained in an earlier run, %d epochs", self.model.name, state.progress.epoch)
        else:
            self.best, self.average = checkpoint.restore(state.tensors, self.model, self.optimizer)
            log.info("%s: resumes after epoch %d", self.model.name, state.progress.epoch)

    def _bar(self) -> tqdm[Any]:
        return tqdm(
            total=self.max_steps,
            initial=self.progress.step,
            desc=self.model.name,
            unit="step",
            disable=None,
            file=sys.stderr,
        )

    def _is_over(self) -> bool:
        done, patience = self.progress, self.settings.patience
        stale = patience is not None and len(self.valid) > 0 and done.epoch - done.best_epoch >= patience
        return done.step >= self.max_steps or stale

    def _epoch(self, bar: tqdm[Any]) -> Row:
        """One pass over the training windows, and one over the validation windows."""
        self.model.train()
        epoch, device = self.progress.epoch + 1, self.train.device
        noise, shift = (torch_rng(device, self.seed, stream, epoch) for stream in (NOISE, SHIFT))
        n_batches = min(self.batches_per_epoch, self.max_steps - self.progress.step)
        sums = torch.zeros(2, device=device)  # reconstruction and kl, nats
        for done, index in enumerate(self._batches(epoch, n_batches), start=1):
            batch = self.train.batch(index)
            if self.settings.transpose:
                batch = self.train.transposed(batch, self.settings.transpose, shift)
            parts = self._step(batch, noise, self.progress.step + done)
            sums += torch.stack([parts.reconstruction.detach().mean(), parts.kl.detach().mean()])
            if done % _STEPS_BETWEEN_CHECKS == 0 or done == n_batches:
                self._check_finite(sums, epoch, self.progress.step + done)
                bar.set_postfix(loss=f"{_loss(sums / done, parts.beta):.2f}", epoch=epoch, refresh=False)
            bar.update()
        row: Row = {"epoch": epoch, "step": self.progress.step + n_batches}
        row |= _columns("train", sums / n_batches, parts.beta)
        return row | self._validate()

    def _batches(self, epoch: int, n_batches: int) -> Iterator[Int[Tensor, " B"]]:
        """Numbers of the windows of each batch."""
        order = loader.epoch_order(len(self.train), self.seed, epoch)
        size = self.settings.batch_size
        yield from torch.split(torch.from_numpy(order[: n_batches * size]).to(self.train.device), size)

    def _step(self, batch: Batch, noise: torch.Generator, step: int) -> Elbo:
        """One step of the optimiser, the `step`-th from 1."""
        self.optimizer.param_groups[0]["lr"] = self._learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.model.elbo(batch, noise)
        anneal = min(1.0, step / self.settings.anneal_steps) if self.settings.anneal_steps else 1.0
        loss = parts._replace(beta=parts.beta * anneal).loss / batch.x.shape[1]  # a step of music, not a window
        loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            keep = min(self.settings.average, step / (step + 9))  # at the start, the average of all steps so far
            weights = self.model.state_dict()
            torch._foreach_lerp_([self.average[name] for name in weights], list(weights.values()), 1 - keep)
        return parts

    def _learning_rate(self, step: int) -> float:
        """Rises in a line, then stays or falls along half a cosine."""
        fit = self.settings
        rise = min(1.0, step / fit.warmup_steps) if fit.warmup_steps else 1.0
        fall = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / self.max_steps) if fit.decay else 1.0
        return fit.learning_rate * rise * fall

    def _check_finite(self, sums: Float[Tensor, " 2"], epoch: int, step: int) -> None:
        reconstruction, kl = sums.tolist()
        if not math.isfinite(reconstruction + kl):
            raise TrainingError(
                f"model {self.model.name!r}: at step {step} (epoch {epoch}) the loss is not finite (reconstruction "
                f"{reconstruction}, kl {kl}): training has diverged; lower its learning_rate, which is "
                f"{self.settings.learning_rate}"
            )

    @torch.inference_mode()
    def _validate(self) -> Row:
        """The parts of the loss on the validation windows; the noise is the same in every epoch."""
        if not len(self.valid):
            return _columns("valid", None, 0.0)
        self.model.eval()
        noise = torch_rng(self.valid.device, self.seed, VALID)
        sums = torch.zeros(2, device=self.valid.device)
        with self._averaged():
            for index in in_order(self.valid):
                parts = self.model.elbo(self.valid.batch(index), noise)
                sums += torch.stack([parts.reconstruction.sum(), parts.kl.sum()])
        self._check_finite(sums, self.progress.epoch + 1, self.progress.step)
        return _columns("valid", sums / len(self.valid), parts.beta)

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
        done = replace(
            self.progress,
            epoch=self.progress.epoch + 1,
            step=int(row["step"] or 0),
            curves=(*self.progress.curves, row),
        )
        loss = row["valid_loss"] if row["valid_loss"] is not None else row["train_loss"]
        if loss is not None and loss < done.best_loss:
            done = replace(done, best_epoch=done.epoch, best_loss=loss)
            with self._averaged():
                self.best = _copy(self.model)
        self.progress = done


def _optimizer(model: WindowModel, settings: Fit) -> torch.optim.Optimizer:
    # one fused pass over parameters and moments: 6 ms a step where the loop over tensors takes 37 (12.6 M parameters)
    return torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


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


def _loss(parts: Float[Tensor, " 2"], beta: float) -> float:
    reconstruction, kl = parts.tolist()
    return float(reconstruction + beta * kl)


def _columns(split: str, parts: Float[Tensor, " 2"] | None, beta: float) -> Row:
    """The columns of the curves for one split."""
    names = [f"{split}_loss", f"{split}_reconstruction", f"{split}_kl"]
    if parts is None:
        return dict.fromkeys(names)
    return dict(zip(names, [_loss(parts, beta), *parts.tolist()], strict=True))


def _sentence(row: Row) -> str:
    said = [f"{name.replace('_', ' ')} {value:.2f}" for name, value in row.items() if value and name.endswith("loss")]
    return f"epoch {row['epoch']}, {', '.join(said)}"
