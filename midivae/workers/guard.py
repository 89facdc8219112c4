"""One child process, as its parent sees it: starts it, sends it calls, and ends it if it hangs.

Conventions: times in seconds, sizes in bytes.

Offers: `GuardedProcess`, `Call`, `ENVIRONMENT`.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from midivae.errors import WorkerError
from midivae.workers.child import LENGTH, NO_ITEM, Page, send
from midivae.workers.outcome import Failure, FailureKind, FunctionError, Outcome

START_S = 120.0  # added to the time limit until the first beat: the child starts and imports the function's modules
_POLL_S = 0.25  # how often a waiting parent compares the last beat with the clock
_CHUNK = 1 << 20  # bytes read from a child at a time
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# glibc keeps freed memory for the next arrays instead of returning it to the system, which takes a third of the time of
# rasterising rolls; names as in mallopt(3), values in bytes
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": 32 * 2**20, "MALLOC_TRIM_THRESHOLD_": 2**30}
ENVIRONMENT = {  # added to the environment of a child; one thread for each library, as a child is one of several
    **dict.fromkeys(_THREADS, "1"),
    **{name: str(size) for name, size in _MALLOC.items()},
}
_PROGRAM = "import sys; sys.path[:] = {path!r}; from midivae.workers.child import main; main({page}, {parent})"


class Call(NamedTuple):
    """What a child is sent, and its limits; `request` is a pickle of (function, spec, memory_bytes)."""

    request: bytes
    time_limit_s: float | None
    memory_bytes: int | None


class _LateError(Exception):
    """The last beat is too long ago."""


class GuardedProcess:
    """A child process that runs one call at a time, for the thread that owns it."""

    def __init__(self) -> None:
        handle = _shared_memory()
        try:
            self._page = Page(handle)
            self._process = _start(handle)
        finally:
            os.close(handle)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Ends the process; any thread may call this, more than once."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends the process and frees its pipes and memory; only for the thread that owns it."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()  # type: ignore[union-attr]
        self._page.close()

    def run(self, call: Call) -> Outcome | FunctionError:
        """Runs a call; after a failure the process is closed."""
        self._page.beat(NO_ITEM, START_S)
        kills_before = _oom_kills()
        try:
            send(self._process.stdin.fileno(), call.request)  # type: ignore[union-attr]
            (length,) = LENGTH.unpack(self._read(LENGTH.size, call.time_limit_s))
            kind, *rest = pickle.loads(self._read(length, call.time_limit_s))  # noqa: S301 - from our own child
        except _LateError:
            return self._failed("timeout", f"no heartbeat for {call.time_limit_s:g} s")
        except (EOFError, BrokenPipeError):
            return self._died(kills_before)
        if kind == "memory":
            limit = "" if call.memory_bytes is None else f"more than {call.memory_bytes / 2**20:g} MiB needed"
            return self._failed("memory", ": ".join(filter(None, (limit, *rest))))
        return Outcome(rest[0]) if kind == "value" else FunctionError(*rest)

    def _failed(self, kind: FailureKind, detail: str) -> Outcome:
        item, _ = self._page.read()
        self.close()
        return Outcome(None, Failure(kind, None if item == NO_ITEM else item, detail))

    def _died(self, kills_before: int) -> Outcome:
        """Distinguishes a crash from a kill by the system for lack of memory, which the system counts."""
        code = self._process.wait()
        if code == -signal.SIGKILL and _oom_kills() > kills_before:
            return self._failed("memory", "killed by the system, which was out of memory")
        return self._failed("crashed", f"exited with code {code}" if code >= 0 else f"killed by {_signal_name(-code)}")

    def _read(self, length: int, time_limit_s: float | None) -> bytes:
        """Exactly `length` bytes from the child."""
        handle = self._process.stdout.fileno()  # type: ignore[union-attr]
        data = bytearray()
        while len(data) < length:
            self._wait_for_output(handle, time_limit_s)
            part = os.read(handle, min(_CHUNK, length - len(data)))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def _wait_for_output(self, handle: int, time_limit_s: float | None) -> None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if time_limit_s is None:
            poll.poll()
            return
        while not poll.poll(1000 * min(_POLL_S, max(0.0, self._remaining_s(time_limit_s)))):
            if self._remaining_s(time_limit_s) <= 0:
                raise _LateError

    def _remaining_s(self, time_limit_s: float) -> float:
        _, beat_s = self._page.read()
        return beat_s + time_limit_s - time.monotonic()


def _start(page_handle: int) -> subprocess.Popen[bytes]:
    """Starts a child with the module path of this process."""
    program = _PROGRAM.format(path=sys.path, page=page_handle, parent=os.getpid())
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-c", program],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(page_handle,),
            env={**os.environ, **ENVIRONMENT},
        )
    except OSError as error:
        raise WorkerError(f"cannot start a worker process: {error}; lower compute.workers") from error


def _shared_memory() -> int:
    """The handle of a page of memory that parent and child share."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("midivae-beat")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.write(handle, bytes(Page.SIZE))  # written, not truncated to its size, so that a full disk fails here
    return handle


def _oom_kills() -> int:
    """How many processes the system has killed for lack of memory; 0 where it does not count them."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
