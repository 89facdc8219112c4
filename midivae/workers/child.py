"""The other side of `parallel`: the program of a guarded child process, which runs one function call after another.

Conventions: requests come in on what was stdin, replies leave on what was stdout; each is a length (8 bytes, little
endian) and that many bytes of pickle. Whatever else writes to stdout, C libraries included, reaches stderr instead.
The *page* is memory shared with the parent: the index of the item in work and the time of the last sign of life. It
outlives the child, so that the parent knows what a crashed child was working on.

This module imports nothing but the standard library's small modules: it is most of what a child needs to start.

Offers: `main`, and for the parent `Page`, `send` and `NO_ITEM`.
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

Beat = Callable[[int], None]

NO_ITEM = -1  # no item has been begun
LENGTH = struct.Struct("<Q")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Page:
    """The memory that parent and child share: index of the item in work, time of the last sign of life."""

    SIZE = mmap.PAGESIZE

    def __init__(self, handle: int) -> None:
        self._memory = mmap.mmap(handle, self.SIZE)
        # each written by one store of 8 bytes: what `struct` packs is zeroed first, and a child that is held up there
        # would seem to have shown no sign of life since the machine started
        self._item = memoryview(self._memory).cast("q")[:1]
        self._at_s = memoryview(self._memory).cast("d")[1:2]

    def beat(self, item: int, grace_s: float = 0.0) -> None:
        """Notes that work on `item` begins now, or in `grace_s` seconds."""
        self._item[0] = item
        self._at_s[0] = time.monotonic() + grace_s

    def read(self) -> tuple[int, float]:
        """The item in work and when it began, in seconds of the monotonic clock (one for all processes)."""
        return self._item[0], self._at_s[0]

    def close(self) -> None:
        """Gives the memory back."""
        self._item.release()
        self._at_s.release()
        self._memory.close()


def send(handle: int, message: bytes) -> None:
    """Writes one message with its length in front."""
    for part in (LENGTH.pack(len(message)), message):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(handle, rest) :]


def main(page_handle: int, parent: int) -> None:
    """Answers requests until the parent closes the pipe or dies; a request is (fn, spec, memory_bytes)."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    requests, replies = _take_pipes()
    page = Page(page_handle)
    while (header := requests.read(LENGTH.size)) and len(header) == LENGTH.size:
        send(replies, _answer(requests.read(LENGTH.unpack(header)[0]), page.beat))


def _die_with(parent: int) -> None:
    """Ends this process when its parent ends, by `kill -9` too and while C code holds the interpreter."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _watch(parent: int) -> None:
    """Where the system does not tell us of the parent's death: looks once a second."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _take_pipes() -> tuple[Any, int]:
    """Moves the pipes to handles that no library knows: stdin becomes empty, stdout goes to stderr."""
    requests, replies = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb"), replies


def _answer(request: bytes, beat: Beat) -> bytes:
    """The reply to one request: ("value", value), ("error", error, traceback) or ("memory", words)."""
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
    """Lets this process grow by `memory_bytes` above its size now; what needs more gets a MemoryError.

    The size now is what counts as a base, because a library such as torch reserves gigabytes of addresses by being
    imported. Only Linux tells a process its size; elsewhere there is no limit.
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
    """The error itself where it survives the journey to the parent, else its words in an error of ours."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own object
    except Exception:
        from midivae.errors import WorkerError

        return WorkerError(f"{type(error).__name__}: {error}")
    return error
