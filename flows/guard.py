"""The process between us and a command: when we end, by `kill -9` too, the command and all it started end as well.

DVC, killed, leaves the command of its stage running; and nobody who is killed can clean up. So each command is started
by this program, which lives in a session of its own and holds the other end of a pipe. When the pipe closes, whoever
held it is gone: the command's process group is asked to end (SIGTERM), and after a while made to (SIGKILL).

It imports nothing of ours or Prefect's, since it is started once per command: `python -I guard.py COMMAND...`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0  # for staging folders to be removed, workers to be ended


def main(words: list[str]) -> int:
    """Runs a command in a session of its own; returns its exit code, 128 + n where signal n ended it."""
    try:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our caller's
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        return 127
    ending = threading.Event()
    ended = threading.Thread(target=_end_with_caller, args=(child.pid, ending), daemon=True)
    ended.start()
    signal.signal(signal.SIGTERM, lambda *_: _end(child.pid, ending))
    code = child.wait()
    if ending.is_set():
        ended.join(GRACE_S + 1)
    _signal(child.pid, signal.SIGKILL)  # what it left behind
    return code if code >= 0 else 128 - code


def _end_with_caller(group: int, ending: threading.Event) -> None:
    """Waits for the pipe to close."""
    while os.read(0, 1):
        pass
    _end(group, ending)


def _end(group: int, ending: threading.Event) -> None:
    """Ends the command and what it started."""
    ending.set()
    _signal(group, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until and _signal(group, 0):
        time.sleep(0.05)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Sends a signal to a process group; False where nobody is left in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
