"""Stages under DVC: in which order, and what became of each.

`dvc repro --single-item` runs one stage and looks at no other, so it needs them in topological order. DVC has two
locks: the repository's, which it may be told to wait for, and the one of paths that stages read and write, for which it
does not wait. An error that names one of them means that somebody else is at work, and is the only one worth trying
again.

Offers: `stages`, `repro`, `is_working`, `StageRun`, `Locked`, `StageFailed`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal

import yaml

from flows import process

LOCKED = ("is busy, it is being blocked by", "Unable to acquire lock")
Outcome = Literal["ran", "cached", "restored"]


class Locked(RuntimeError):  # noqa: N818 - the name is what people read
    """Another process of DVC works on the same files."""


class StageFailed(RuntimeError):  # noqa: N818
    """A stage ended with an error; the message has its last lines."""


@dataclass(frozen=True)
class StageRun:
    """What became of a stage.

    Attributes:
        outcome: it ran; it was cached, as nothing had changed; or its outputs were restored from an earlier run.
    """

    stage: str
    outcome: Outcome
    seconds: float


def stages(folder: Path) -> list[str]:
    """The stages of dvc.yaml, each after those whose outputs it reads; as written where that leaves a choice."""
    written = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    makes = {out: name for name, stage in written.items() for out in stage.get("outs", ())}
    needs = {name: [makes[dep] for dep in stage.get("deps", ()) if dep in makes] for name, stage in written.items()}
    sorter, place = TopologicalSorter(needs), list(written).index
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=place)
        order += ready
        sorter.done(*ready)
    return order


def repro(folder: Path, stage: str, tell: Callable[[str], None], force: bool = False) -> StageRun:
    """Brings one stage up to date.

    Raises:
        Locked: somebody else is at work.
        StageFailed: the stage failed.
    """
    words = ["dvc", "repro", "--single-item", *(["--force"] if force else []), stage]
    ended = process.run(words, folder, tell, check=False)
    if ended.code:
        said = "\n".join(ended.last)
        if any(sign in said for sign in LOCKED):
            raise Locked(f"stage {stage}: DVC is locked by another process:\n{said}")
        raise StageFailed(f"stage {stage} failed (exit code {ended.code}); its last lines:\n{said}")
    return StageRun(stage, _outcome(stage, ended.stdout, ended.last), round(ended.seconds, 1))


def is_working(folder: Path) -> bool:
    """Whether a stage runs in a project: `dvc gc` does not wait for it, and would take its outputs away."""
    try:
        text = (folder / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8").strip()
        holders = [each for paths in json.loads(text or "{}").values() for each in paths.values()]
        flat = [one for each in holders for one in (each if isinstance(each, list) else [each])]
        return any(_lives(int(one["pid"])) for one in flat)
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, AttributeError, TypeError):
        return True  # it is being written, or another DVC writes it in another way: better safe


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _outcome(stage: str, stdout: str, last: tuple[str, ...]) -> Outcome:
    """What DVC says it did."""
    said = f"{stdout}\n" + "\n".join(last)
    if f"Running stage '{stage}'" in said:
        return "ran"
    return "restored" if f"Stage '{stage}' is cached" in said else "cached"
