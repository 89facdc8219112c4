"""Everything that restarts a training run: weights, optimiser, best weights so far, and how far it came.

A checkpoint is a folder of two files: `state-<epoch>.safetensors` with all tensors, and `progress.json`, which names
it with a sha256 of both and is written last. A run that is killed while it writes leaves the checkpoint before. There
are no generators to keep: the order of windows and all noise are drawn anew in each epoch, from the seed and its
number.

A finished run keeps its best weights and curves, so that a later call with the same inputs trains nothing.

Offers: `Progress`, `Checkpoints`, `state_of` / `restore`, `prune`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from midivae import store
from midivae.errors import CorruptError, SchemaError

FORMAT, VERSION = "midivae-checkpoint", 1
PROGRESS = "progress.json"
SECONDS_BETWEEN = 30.0  # a checkpoint of the default model is 200 MB: one every epoch would cost as much as training
_REMEDY = "delete the folder to train from the start"
Row = dict[str, int | float | None]


@dataclass(frozen=True)
class Progress:
    """How far a run came.

    Attributes:
        epoch, step: epochs and optimiser steps done.
        best_epoch: the epoch, from 1, whose weights are the best so far.
        best_loss: its loss, nats per window.
        curves: one row per epoch.
        finished: whether there is nothing left to train.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    curves: tuple[Row, ...] = ()
    finished: bool = False


class State(NamedTuple):
    """A checkpoint in memory."""

    progress: Progress
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoint of one run, in one folder; a new one replaces the old."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Writes a checkpoint; the one before stays until this one is whole."""
        data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        name = f"state-{progress.epoch:06d}.safetensors"
        store.write_bytes(self.folder / name, data)
        header = {"format": FORMAT, "version": VERSION, "state": name, "sha256": _sha256(data, asdict(progress))}
        store.write_json(self.folder / PROGRESS, {**header, "progress": asdict(progress)})
        for old in self.folder.iterdir():
            if old.name not in (name, PROGRESS):
                old.unlink(missing_ok=True)

    def load(self) -> State | None:
        """The checkpoint; None where there is none.

        Raises:
            SchemaError: another format or version.
            CorruptError: the bytes are not those that were written.
        """
        if not (self.folder / PROGRESS).is_file():
            return None
        header = store.read_json(self.folder / PROGRESS)
        found = (header.get("format"), header.get("version")) if isinstance(header, dict) else (None, None)
        if found != (FORMAT, VERSION):
            raise SchemaError(
                f"{self.folder}: format {found[0]} v{found[1]}, this release reads {FORMAT} v{VERSION}; {_REMEDY}"
            )
        try:
            data = (self.folder / header["state"]).read_bytes()
            if _sha256(data, header["progress"]) != header["sha256"]:
                raise CorruptError(f"{self.folder}: sha256 differs from the one in {PROGRESS}: damaged; {_REMEDY}")
            return State(_progress(header["progress"]), safetensors.torch.load(data))
        except (OSError, KeyError, TypeError, SafetensorError) as error:
            raise CorruptError(f"{self.folder}: damaged ({error!r}); {_REMEDY}") from error


def _sha256(data: bytes, progress: dict[str, Any]) -> str:
    """The hash of both files' content."""
    digest = hashlib.sha256(data)
    digest.update(json.dumps(progress, sort_keys=True).encode())
    return digest.hexdigest()


def _progress(values: dict[str, Any]) -> Progress:
    return Progress(**{**values, "curves": tuple(values["curves"])})


# --- tensors of a run -------------------------------------------------------------------------------------------------
def state_of(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """All tensors of a run, by name."""
    moments = {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    weights = {"model": model.state_dict(), "best": best, "average": average or {}}
    return {
        name: tensor for prefix, each in weights.items() for name, tensor in _prefixed(prefix, each).items()
    } | moments


def restore(
    tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Puts a run's tensors back where they were, and returns its best and its averaged weights; inverts `state_of`."""
    model.load_state_dict(_under("model", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer", tensors).items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    # learning rate and the like come from the params, which are part of the run's name
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return best_of(tensors), _under("average", tensors) or None


def best_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The best weights in a checkpoint."""
    return _under("best", tensors)


def best_alone(best: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a finished run keeps."""
    return _prefixed("best", best)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


# --- housekeeping -----------------------------------------------------------------------------------------------------
def prune(folder: Path, keep: int) -> None:
    """Removes all but the `keep` checkpoints below `folder` that were written last."""
    written = {path.parent: path.stat().st_mtime for path in folder.glob(f"*/{PROGRESS}")}
    for old in sorted(written, key=lambda path: written[path], reverse=True)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
