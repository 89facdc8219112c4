"""The program of a child process, which runs one function call after another.

Protocol: requests arrive on the original stdin, replies leave on the original stdout. Each is a length (8 bytes, little
endian) and that many bytes of pickle. Other output to stdout, also that of C libraries, goes to stderr. The *page* is
memory that the child shares with its parent: the index of the current item and the time of the last heartbeat. It still
exists when the child has crashed, so that the parent knows which item the child was working on.

This module imports only small modules of the standard library, so that a child starts fast.

Offers: `main`, `Beat`, and for the parent `Page`, `send`, `LENGTH` and `NO_ITEM`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import resource
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Beat = Callable[[int], None]  # a heartbeat: called with the index of the item that is next

NO_ITEM = -1  # no item has been started
LENGTH = struct.Struct("<Q")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Page:
    """The memory that parent and child share: the index of the current item, and the time of the last heartbeat."""

    SIZE = mmap.PAGESIZE

    def __init__(self, handle: int) -> None:
        self._memory = mmap.mmap(handle, self.SIZE)
        # each is written by one store of 8 bytes; `struct` sets them to zero first, and if the child were interrupted
        # there, its last heartbeat would seem to be as old as the machine
        self._item = memoryview(self._memory).cast("q")[:1]
        self._at_s = memoryview(self._memory).cast("d")[1:2]

    def beat(self, item: int, grace_s: float = 0.0) -> None:
        """Notes that work on `item` starts now, or in `grace_s` seconds."""
        self._item[0] = item
        self._at_s[0] = time.monotonic() + grace_s

    def read(self) -> tuple[int, float]:
        """The current item, and when it started, in seconds of the monotonic clock, which all processes share."""
        return self._item[0], self._at_s[0]

    def close(self) -> None:
        """Frees the memory."""
        self._item.release()
        self._at_s.release()
        self._memory.close()


def send(handle: int, message: bytes) -> None:
    """Writes the length of a message, and the message."""
    for part in (LENGTH.pack(len(message)), message):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(handle, rest) :]


def main(page_handle: int, parent: int) -> None:
    """Answers requests until the parent closes the pipe or dies; a request is (fn, spec, memory_bytes)."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of the terminal; the parent decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    requests, replies = _take_pipes()
    page = Page(page_handle)
    while (header := requests.read(LENGTH.size)) and len(header) == LENGTH.size:
        send(replies, _answer(requests.read(LENGTH.unpack(header)[0]), page.beat))


def _die_with(parent: int) -> None:
    """Ends this process when its parent ends, even by `kill -9`, and even while C code holds the interpreter."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # the parent ended before this call
        os._exit(1)


def _watch_parent(parent: int) -> None:
    """Checks once a second whether the parent runs, on systems that send no signal when it ends."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _take_pipes() -> tuple[Any, int]:
    """Moves the pipes to handles that no library uses; stdin becomes empty, and stdout goes to stderr."""
    requests, replies = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb"), replies


def _answer(request: bytes, beat: Beat) -> bytes:
    """The reply to one request: ("value", value), ("error", error, traceback) or ("memory", cause)."""
    try:
        fn, spec, memory_bytes = pickle.loads(request)  # noqa: S301 - from our own parent, over a private pipe
        beat(NO_ITEM)
        with _memory_limit(memory_bytes):
            value = fn(spec, beat)
        return pickle.dumps(("value", value), pickle.HIGHEST_PROTOCOL)
    except MemoryError as error:
        return pickle.dumps(("memory", str(error)))
    except Exception as error:
        return pickle.dumps(("error", _portable(error), traceback.format_exc()))


@contextmanager
def _memory_limit(memory_bytes: int | None) -> Iterator[None]:
    """Limits the growth of this process to `memory_bytes` above its present size; beyond it, MemoryError is raised.

    The limit counts from the present size, because the import of a library such as torch reserves gigabytes of
    addresses. Only Linux tells a process its size; on other systems there is no limit.
    """
    size = Path("/proc/self/statm")
    if memory_bytes is None or not size.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(size.read_text().split()[0]) * mmap.PAGESIZE + memory_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _portable(error: Exception) -> Exception:
    """The error itself if it can be pickled, else an error of ours with its message."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own object
    except Exception:
        from midivae.errors import WorkerError

        return WorkerError(f"{type(error).__name__}: {error}")
    return error
