"""What the children of test_parallel run: a module of its own, which imports little, so that they start fast."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import time

from limits import HANG_S

from midivae.errors import MidiError
from midivae.workers.child import Beat


def square(spec: int, beat: Beat) -> int:
    beat(0)
    return spec * spec


def process_id(spec: object, beat: Beat) -> int:
    return os.getpid()


def segfault_at(spec: list[int], beat: Beat) -> int:
    """Adds up items; a negative one crashes in C."""
    total = 0
    for i, item in enumerate(spec):
        beat(i)
        if item < 0:
            ctypes.string_at(0)
        total += item
    return total


def kill_self(spec: int, beat: Beat) -> None:
    os.kill(os.getpid(), spec)


def leave(spec: int, beat: Beat) -> None:
    sys.exit(spec)


def sleep_items(spec: list[float], beat: Beat) -> int:
    for i, item in enumerate(spec):
        beat(i)
        time.sleep(item)
    return len(spec)


def sleep_silently(spec: float, beat: Beat) -> None:
    time.sleep(spec)


def slow_square(spec: int, beat: Beat) -> tuple[int, int]:
    """The square, and the process that owns the child."""
    time.sleep(0.1)
    return spec * spec, os.getppid()


def hang_in_c(spec: object, beat: Beat) -> None:
    """Hangs while it holds the interpreter, as a C library can: no thread of the child runs any more."""
    beat(7)
    ctypes.PyDLL(None).sleep(int(HANG_S))


def allocate(spec: int, beat: Beat) -> int:
    beat(4)
    return len(bytearray(spec))


def raise_midi_error(spec: str, beat: Beat) -> None:
    raise MidiError("no-notes", f"{spec}: no notes")


class UnportableError(Exception):
    """Cannot be unpickled: its constructor wants two arguments and is given one."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")


def raise_unportable(spec: object, beat: Beat) -> None:
    raise UnportableError(1, 2)


def chatter(spec: str, beat: Beat) -> str:
    print("python says", spec, flush=True)
    os.write(1, b"\xff\x00\x00\x00\x00\x00\x00\x00 handle 1 says\n")
    ctypes.CDLL(None).puts(b"C says")
    ctypes.CDLL(None).fflush(None)
    return spec


def pattern(spec: int, beat: Beat) -> bytes:
    return bytes(range(251)) * spec


def digest(spec: bytes, beat: Beat) -> str:
    return hashlib.sha256(spec).hexdigest()


def threads(spec: object, beat: Beat) -> str:
    return os.environ["OMP_NUM_THREADS"]


def read_stdin(spec: object, beat: Beat) -> str:
    return sys.stdin.read()


def convert_or_crash(scores: object, beat: Beat) -> list[bytes | str]:
    """`chorales.convert`, for scores of which some say "crash" or "hang"."""
    from midivae.fetch import chorales

    assert isinstance(scores, chorales.Scores)
    failed = dict(scores.failed)
    for index, path in enumerate(scores.paths):
        beat(index)
        with open(path, "rb") as file:
            start = file.read(5)
        if index not in failed and start == b"crash":
            ctypes.string_at(0)
        if index not in failed and start == b"hang":
            time.sleep(HANG_S)
    return chorales.convert(scores, beat)


def render_or_crash(spec: object, beat: Beat) -> object:
    """`audio._render`, but for a file that is called "crash"."""
    from midivae.render import audio

    assert isinstance(spec, tuple)
    if spec[1].name == "crash":
        ctypes.string_at(0)
    return audio._render(spec, beat)
