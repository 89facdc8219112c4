"""What tests of several stages share: work without child processes, and copies of the project and of data folders."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from midivae.workers.outcome import Outcome

ROOT = Path(__file__).parent.parent


def in_this_process(fn: Callable[..., Any], specs: Sequence[Any], *_: Any, **__: Any) -> Iterator[tuple[int, Outcome]]:
    """`fan_out` without children: shapes are checked, and no child has to start."""
    for index, spec in enumerate(specs):
        yield index, Outcome(fn(spec, lambda _: None))


def linked(trained: Path, target: Path) -> Path:
    """A new data folder with the rolls and models of another."""
    target.mkdir()
    for name in ("rolls", "model"):
        (target / name).symlink_to(trained / name)
    return target


def copy_project(folder: Path, wanted: Callable[[str], bool]) -> None:
    """The project's files, those that git tracks or would, as far as their names are wanted."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if wanted(name) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
