"""A Dask cluster of real processes on the loopback, for tests of the fan-out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from limits import WAIT_S

Process = subprocess.Popen[bytes]
LOOPBACK = ("--host", "127.0.0.1")


@contextmanager
def two_workers(folder: Path) -> Iterator[tuple[str, Process, Process]]:
    """The address of a scheduler, and its two workers."""
    file = folder / "scheduler.json"
    worker = ("dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", *LOOPBACK)
    with _process("dask_scheduler", *LOOPBACK, "--port", "0", "--scheduler-file", str(file), folder=folder):
        address = _address(file)
        with _process(*worker, folder=folder) as first, _process(*worker, folder=folder) as second:
            yield address, first, second


def kill_when(process: Process, condition: Callable[[], bool]) -> None:
    """Kills a process as soon as a condition holds, and at the latest after `WAIT_S`."""
    deadline = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()


def _address(file: Path) -> str:
    deadline = time.monotonic() + WAIT_S
    while not (file.exists() and file.read_text().endswith("}")):
        assert time.monotonic() < deadline, "the scheduler did not start"
        time.sleep(0.02)
    return str(json.loads(file.read_text())["address"])


@contextmanager
def _process(module: str, *options: str, folder: Path) -> Iterator[Process]:
    """A process of the cluster; the modules of the tests are importable in it."""
    command = [sys.executable, "-m", f"distributed.cli.{module}", *options, "--no-dashboard"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error"}
    with (folder / f"{module}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
