"""What benches share: where and with what one ran, and the packages with which it compares."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any


def hardware(*packages: str) -> dict[str, object]:
    """Processor, cores, versions and commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "torch", *packages)},
        "commit": commit.stdout.strip() or None,
    }


def peer(name: str) -> Any:
    """A package that the product does not need; the bench ends with a sentence where it is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        sys.exit(
            f"{Path(sys.argv[0]).name} compares with {name}, which is not installed ({error}); install it with "
            "`pip install -c constraints.txt -e '.[bench]'`, or leave it out where the bench has a list of peers"
        )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
