"""Commands that leave nothing behind: their lines are passed on as they come, and they end when we do.

Offers: `run`, `Ended`, `CommandFailed`, `environment`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")
_LAST = 30  # lines of stderr that an error shows
_END_S = 15.0  # for the guard to end what it guards


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, all of stdout, the last lines of both, and seconds."""

    code: int
    stdout: str
    last: tuple[str, ...]
    seconds: float


class CommandFailed(RuntimeError):  # noqa: N818 - what Prefect shows as the state's message begins with this name
    """A command ended with another exit code than 0; the message has its last lines."""

    def __init__(self, words: list[str], ended: Ended) -> None:
        self.ended = ended
        lines = "\n".join(ended.last) or "(it said nothing)"
        super().__init__(f"`{' '.join(words)}` ended with exit code {ended.code}; its last lines:\n{lines}")


def environment(code: Path) -> dict[str, str]:
    """The environment of a command: programs of our own Python first, `midivae` as it is in the folder `code`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # Prefect tells its processes of themselves in such variables, which are none of a stage's business
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    return {**ours, "PATH": path, "PYTHONPATH": str(code), "PYTHONUNBUFFERED": "1"}


def run(
    words: list[str],
    folder: Path,
    tell: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> Ended:
    """Runs a command in a folder, and passes each line of its stdout and stderr to `tell` as it comes.

    Whatever ends us meanwhile, an exception or `kill -9`, ends it and all that it started.

    Raises:
        CommandFailed: its exit code is not 0, and `check` is true.
    """
    begun = time.monotonic()
    guard = subprocess.Popen(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-I", str(_GUARD), *words],
        cwd=folder,
        env=dict(env) if env is not None else environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stdout, last = _pass_on(guard, tell)
        code = guard.wait()
    except BaseException:
        _end(guard)
        raise
    finally:
        for pipe in (guard.stdin, guard.stdout, guard.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
    ended = Ended(code, stdout, last, time.monotonic() - begun)
    if check and code:
        raise CommandFailed(words, ended)
    return ended


def _pass_on(guard: subprocess.Popen[bytes], tell: Callable[[str], None]) -> tuple[str, tuple[str, ...]]:
    """Reads both pipes until they close."""
    assert guard.stdout is not None and guard.stderr is not None  # noqa: S101 - they are pipes
    rest = {guard.stdout: b"", guard.stderr: b""}
    stdout, last = bytearray(), deque[str](maxlen=_LAST)

    def line(data: bytes) -> None:
        text = data.decode("utf-8", "replace").rstrip()
        if text:
            last.append(text)
            tell(text)

    with selectors.DefaultSelector() as selector:
        for pipe in rest:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                pipe = next(each for each in rest if each is key.fileobj)
                data = os.read(pipe.fileno(), 1 << 16)
                if pipe is guard.stdout:
                    stdout += data
                *whole, rest[pipe] = (rest[pipe] + data).split(b"\n")
                for each in whole:
                    line(each)
                if not data:
                    line(rest[pipe])
                    selector.unregister(pipe)
    return stdout.decode("utf-8", "replace"), tuple(last)


def _end(guard: subprocess.Popen[bytes]) -> None:
    """Closes the pipe, which ends the command, and waits for that."""
    if guard.stdin is not None:
        with contextlib.suppress(OSError):
            guard.stdin.close()
    try:
        guard.wait(_END_S)
    except subprocess.TimeoutExpired:
        guard.kill()
