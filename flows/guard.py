"""A process between a flow and its command: when the flow's process ends, even by `kill -9`, the command ends too.

DVC, when killed, leaves the command of its stage running, and a killed process cannot clean up. So each command is
started by this program, which has a session of its own and holds the other end of a pipe. The pipe closes when the
flow's process ends; then the command's process group gets SIGTERM, and after a while SIGKILL.

It imports neither Prefect nor other modules of ours, since it starts once per command:
`python -I guard.py COMMAND...`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0  # to remove staging folders and end workers


def main(words: list[str]) -> int:
    """Runs a command in a session of its own; returns its exit code, or 128 + n if signal n ended it."""
    try:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our caller's
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        return 127
    ending = threading.Event()
    watcher = threading.Thread(target=_end_with_caller, args=(child.pid, ending), daemon=True)
    watcher.start()
    signal.signal(signal.SIGTERM, lambda *_: _end(child.pid, ending))
    code = child.wait()
    if ending.is_set():
        watcher.join(GRACE_S + 1)
    _signal(child.pid, signal.SIGKILL)  # child processes that the command left
    return code if code >= 0 else 128 - code


def _end_with_caller(group: int, ending: threading.Event) -> None:
    """Ends the command when the pipe closes."""
    while os.read(0, 1):
        pass
    _end(group, ending)


def _end(group: int, ending: threading.Event) -> None:
    """Ends the command and its child processes."""
    ending.set()
    _signal(group, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until and _signal(group, 0):
        time.sleep(0.05)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Sends a signal to a process group; False if no process is left in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
