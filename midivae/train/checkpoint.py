"""Checkpoints of a training run: weights, optimiser state, best weights so far, and the progress.

A checkpoint is a folder with two files: `state-<step>.safetensors` has all tensors; `progress.json` names it, has a
sha256 of both, and is written last. If a run is killed while it writes, the previous checkpoint stays. A checkpoint has
no random generators: the seed and the number of the epoch decide the order of windows, and the seed and the numbers of
epoch and step decide all noise.

The facts that decide the result of a run (params, hash of the data, ...) are saved with it. A run with other facts does
not continue from the checkpoint. A finished run keeps its best weights and curves, so that a later call with the same
inputs trains nothing.

Offers: `Progress`, `Checkpoints`, `Pace`, `state_of` / `restore`, `prune`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from midivae.errors import CorruptError, SchemaError, TrainingError
from midivae.storage.files import read_json, write_bytes, write_json
from midivae.train.curves import Row

FORMAT, VERSION = "midivae-checkpoint", 4
PROGRESS = "progress.json"
SECONDS_BETWEEN = 30.0  # minimum time between checkpoints
MOST_SHARE = 0.02  # maximum share of the time that is spent on writing them
_REMEDY = "delete the folder to train from the start"


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        epoch: finished epochs.
        step: finished optimiser steps.
        batches: finished batches of the current epoch.
        best_epoch: the epoch, from 1, with the best weights so far.
        best_loss: its loss, nats a window.
        curves: one row per epoch.
        trace: one row every some steps.
        finished: whether training has ended.
    """

    epoch: int = 0
    step: int = 0
    batches: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    curves: tuple[Row, ...] = ()
    trace: tuple[Row, ...] = ()
    finished: bool = False


class State(NamedTuple):
    """A checkpoint in memory."""

    progress: Progress
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoint of one run, in one folder; a new one replaces the previous one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, progress: Progress, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint; the previous one stays until this one is complete.

        Args:
            progress: how far the run is.
            tensors: its tensors, by name.
            facts: what decides the result of the run, as values that JSON can represent.
        """
        data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        name = f"state-{progress.step:09d}.safetensors"
        write_bytes(self.folder / name, data)
        body = {"progress": asdict(progress), "made_of": dict(facts or {})}
        header = {"format": FORMAT, "version": VERSION, "state": name, "sha256": _sha256(data, body)}
        write_json(self.folder / PROGRESS, {**header, **body})
        for old in self.folder.glob("state-*"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def load(self, facts: Mapping[str, Any] | None = None) -> State | None:
        """The checkpoint; None: there is none.

        Raises:
            SchemaError: it has another format or version.
            CorruptError: its bytes are not those that were written.
            TrainingError: it belongs to a run with other facts.
        """
        if not (self.folder / PROGRESS).is_file():
            return None
        header = read_json(self.folder / PROGRESS)
        found = (header.get("format"), header.get("version")) if isinstance(header, dict) else (None, None)
        if found != (FORMAT, VERSION):
            raise SchemaError(
                f"{self.folder}: format {found[0]} v{found[1]}, this release reads {FORMAT} v{VERSION}; {_REMEDY}"
            )
        try:
            data = (self.folder / header["state"]).read_bytes()
            body = {name: header[name] for name in ("progress", "made_of")}
            if _sha256(data, body) != header["sha256"]:
                raise CorruptError(f"{self.folder}: sha256 differs from the one in {PROGRESS}: damaged; {_REMEDY}")
            state = State(_progress(header["progress"]), safetensors.torch.load(data))
        except (OSError, KeyError, TypeError, SafetensorError) as error:
            raise CorruptError(f"{self.folder}: damaged ({error!r}); {_REMEDY}") from error
        self._check_same(body["made_of"], dict(facts or {}))
        return state

    def _check_same(self, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Compares the facts of the run in the folder with those of this run."""
        there, here = _leaves(saved), _leaves(json.loads(json.dumps(wanted)))
        differ = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
        if differ:
            first = differ[0]
            raise TrainingError(
                f"{self.folder}: the run in it differs in {', '.join(differ[:5])} ({first} is {there.get(first)!r} "
                f"there and {here.get(first)!r} here), so this run cannot continue from it; name another folder, or "
                f"{_REMEDY}"
            )


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The values in nested dictionaries, by dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    inside = (_leaves(each, f"{name}.{key}".strip(".")) for key, each in value.items())
    return {path: leaf for leaves in inside for path, leaf in leaves.items()}


class Pace:
    """Decides when the next checkpoint is due, so that writing checkpoints takes a small share of the time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock() + SECONDS_BETWEEN

    def is_due(self) -> bool:
        """Whether it is time to write one."""
        return self._clock() >= self._next

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Measures the time that writing takes: the longer, the later the next checkpoint."""
        start = self._clock()
        yield
        end = self._clock()
        self._next = end + max(SECONDS_BETWEEN, (end - start) / MOST_SHARE)


def _sha256(data: bytes, body: dict[str, Any]) -> str:
    """The hash of both files' content."""
    digest = hashlib.sha256(data)
    digest.update(json.dumps(body, sort_keys=True).encode())
    return digest.hexdigest()


def _progress(values: dict[str, Any]) -> Progress:
    return Progress(**{**values, "curves": tuple(values["curves"]), "trace": tuple(values["trace"])})


# --- tensors of a run -------------------------------------------------------------------------------------------------
def state_of(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    best: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
    sums: Tensor,
) -> dict[str, Tensor]:
    """All tensors of a run, by name; `sums`: of the losses of the current epoch."""
    moments = {
        f"optimizer.{number}.{index}.{name}": torch.as_tensor(value)
        for number, optimizer in enumerate(optimizers)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    weights = {"model": model.state_dict(), "best": best, "average": average or {}}
    return {name: tensor for prefix, each in weights.items() for name, tensor in _prefixed(prefix, each).items()} | {
        **moments,
        "sums": sums,
    }


def restore(
    tensors: Mapping[str, Tensor], model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Loads a run's tensors into model and optimisers; returns the best weights, the averaged weights, and the sums.

    Inverts `state_of`.
    """
    model.load_state_dict(_under("model", tensors))
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(f"optimizer.{number}", tensors).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        # options such as the learning rate come from the params, which are part of the run's key
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return best_of(tensors), _under("average", tensors), tensors["sums"]


def best_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The best weights in a checkpoint."""
    return _under("best", tensors)


def best_alone(best: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a finished run."""
    return _prefixed("best", best)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


# --- housekeeping -----------------------------------------------------------------------------------------------------
def prune(folder: Path, keep: int) -> None:
    """Removes all runs in `folder` except the `keep` that were written to last."""
    runs = [run for run in folder.iterdir() if run.is_dir()] if folder.is_dir() else []
    written = {run: max((path.stat().st_mtime for path in run.iterdir()), default=0.0) for run in runs}
    for old in sorted(written, key=lambda run: written[run], reverse=True)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
