"""The stages of dvc.yaml: their order, and what `dvc repro` did for each.

`dvc repro --single-item` runs one stage and ignores the others, so the stages must be run in topological order. DVC has
two locks: that of the repository, which it waits for, and that of the paths that stages read and write, which it does
not wait for. Only an error that names one of them is worth another attempt: another process works on the same files.

Offers: `stages`, `repro`, `is_working`, `StageRun`, `Locked`, `StageFailed`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal

import psutil
import yaml

from flows import process

LOCKED = ("is busy, it is being blocked by", "Unable to acquire lock")
Outcome = Literal["ran", "cached", "restored"]


class Locked(RuntimeError):  # noqa: N818 - people read this name
    """Another process of DVC works on the same files."""


class StageFailed(RuntimeError):  # noqa: N818
    """A stage ended with an error; the message has its last lines."""


@dataclass(frozen=True)
class StageRun:
    """The result of a stage.

    Attributes:
        outcome: `ran`; `cached`: nothing had changed; `restored`: the outputs came from an earlier run.
    """

    stage: str
    outcome: Outcome
    seconds: float


def stages(folder: Path) -> list[str]:
    """The stages of dvc.yaml, each after those whose outputs it reads."""
    written = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    writer = {out: name for name, stage in written.items() for out in stage.get("outs", ())}
    needs = {name: [writer[dep] for dep in stage.get("deps", ()) if dep in writer] for name, stage in written.items()}
    return list(TopologicalSorter(needs).static_order())


def repro(folder: Path, stage: str, log: Callable[[str], None], force: bool = False) -> StageRun:
    """Brings one stage up to date.

    Raises:
        Locked: another process of DVC works on the same files.
        StageFailed: the stage failed.
    """
    words = ["dvc", "repro", "--single-item", *(["--force"] if force else []), stage]
    ended = process.run(words, folder, log, check=False)
    last = "\n".join(ended.last)
    if ended.code:
        if any(message in last for message in LOCKED):
            raise Locked(f"stage {stage}: DVC is locked by another process:\n{last}")
        raise StageFailed(f"stage {stage} failed (exit code {ended.code}); its last lines:\n{last}")
    return StageRun(stage, _outcome(stage, f"{ended.stdout}\n{last}"), round(ended.seconds, 1))


def _outcome(stage: str, output: str) -> Outcome:
    """The outcome as DVC's output tells it."""
    if f"Running stage '{stage}'" in output:
        return "ran"
    return "restored" if f"Stage '{stage}' is cached" in output else "cached"


def is_working(folder: Path) -> bool:
    """Whether a stage runs in a project: `dvc gc` does not wait for it, and would delete its outputs."""
    try:
        text = (folder / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8").strip()
        holders = [holder for paths in json.loads(text or "{}").values() for holder in paths.values()]
        # a path has one writer or a list of readers
        processes = [one for holder in holders for one in (holder if isinstance(holder, list) else [holder])]
        return any(psutil.pid_exists(int(one["pid"])) for one in processes)
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, AttributeError, TypeError):
        return True  # DVC is writing the file, or another version of DVC wrote it: assume the worse
