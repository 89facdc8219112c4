"""Runs commands: passes on their lines as they come, and leaves no process behind.

Offers: `run`, `Ended`, `CommandFailed`, `environment`, `guarded`.
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
_LAST = 30  # lines that an error shows
_END_S = 15.0  # for the guard to end the command


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, all of stdout, the last lines of both pipes, and seconds."""

    code: int
    stdout: str
    last: tuple[str, ...]
    seconds: float


class CommandFailed(RuntimeError):  # noqa: N818 - Prefect shows this name at the start of the state's message
    """A command ended with an exit code other than 0; the message has its last lines."""

    def __init__(self, words: list[str], ended: Ended) -> None:
        self.ended = ended
        lines = "\n".join(ended.last) or "(no output)"
        super().__init__(f"`{' '.join(words)}` ended with exit code {ended.code}; its last lines:\n{lines}")


def environment(code: Path) -> dict[str, str]:
    """The environment of a command: programs of our Python come first, `midivae` is imported from the folder `code`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # Prefect configures its own processes by variables with this prefix; stages must not see them
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    return {**inherited, "PATH": path, "PYTHONPATH": str(code), "PYTHONUNBUFFERED": "1"}


def guarded(
    words: list[str], folder: Path, env: Mapping[str, str], output: int | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command under the guard, which ends it when the pipe to its stdin closes.

    Args:
        words: the command.
        folder: where it runs.
        env: its environment.
        output: for its stdout and stderr, as in `Popen`.
    """
    return subprocess.Popen(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-I", str(_GUARD), *words],
        cwd=folder,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def run(
    words: list[str],
    folder: Path,
    log: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> Ended:
    """Runs a command in a folder and passes each line of its stdout and stderr to `log`.

    If this process ends meanwhile, by an exception or `kill -9`, the command and its child processes end too.

    Raises:
        CommandFailed: its exit code is not 0, and `check` is true.
    """
    start = time.monotonic()
    with guarded(words, folder, env or environment(folder), subprocess.PIPE) as guard:
        try:
            stdout, last = _read(guard, log)
            code = guard.wait()
        except BaseException:
            _end(guard)
            raise
    ended = Ended(code, stdout, last, time.monotonic() - start)
    if check and code:
        raise CommandFailed(words, ended)
    return ended


def _read(guard: subprocess.Popen[bytes], log: Callable[[str], None]) -> tuple[str, tuple[str, ...]]:
    """Reads both pipes until they close; returns stdout and the last lines of both."""
    stdout, last = bytearray(), deque[str](maxlen=_LAST)

    def add(line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            last.append(text)
            log(text)

    with selectors.DefaultSelector() as selector:
        for pipe in (guard.stdout, guard.stderr):
            assert pipe is not None  # noqa: S101 - both are pipes
            selector.register(pipe, selectors.EVENT_READ, bytearray())
        while selector.get_map():
            for key, _ in selector.select():
                data, incomplete = os.read(key.fd, 1 << 16), key.data
                if key.fileobj is guard.stdout:
                    stdout += data
                *lines, rest = (incomplete + data).split(b"\n")
                incomplete[:] = rest
                for line in lines:
                    add(line)
                if not data:
                    add(rest)
                    selector.unregister(key.fileobj)
    return stdout.decode("utf-8", "replace"), tuple(last)


def _end(guard: subprocess.Popen[bytes]) -> None:
    """Closes the pipe, which makes the guard end the command, and waits for it."""
    assert guard.stdin is not None  # noqa: S101 - it is a pipe
    with contextlib.suppress(OSError):
        guard.stdin.close()
    try:
        guard.wait(_END_S)
    except subprocess.TimeoutExpired:
        guard.kill()
