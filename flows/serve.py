"""Runs Prefect's server on SQLite, a worker and the deployments of prefect.yaml on one machine.

The server and the worker end with this process, and are restarted if they end earlier. Prefect's files lie in the place
(`nightly.yaml`), not in the home of a user, and nothing is sent anywhere.

Offers: `serve`, `ServeError`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request

from flows import OFFLINE, process
from flows.settings import Settings

POOL = "midivae"
_START_S = 180.0  # for the server to answer on a busy machine
_RESTART_S = 5.0  # before a program that ended is restarted


class ServeError(RuntimeError):
    """The server or the worker cannot be started."""


class Program:
    """A program that is restarted whenever it ends."""

    def __init__(self, words: list[str], settings: Settings, env: dict[str, str]) -> None:
        self._words, self._settings, self._env = words, settings, env
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return process.guarded(self._words, self._settings.project, self._env)

    def keep_running(self) -> None:
        """Restarts the program if it has ended."""
        if self.process.poll() is not None:
            log(f"`{' '.join(self._words[:3])}` ended with exit code {self.process.returncode}; it is restarted")
            time.sleep(_RESTART_S)
            self.process = self._start()

    def end(self) -> None:
        """Ends the program, and waits for it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def log(line: str) -> None:
    """Writes a line to the terminal or the journal."""
    print(line, file=sys.stderr, flush=True)


def _wait_for_server(api: str, server: Program) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):  # noqa: S310 - http, loopback
                return
        except OSError:
            if server.process.poll() is not None:
                raise ServeError(
                    f"the server ended at once (exit code {server.process.returncode}); is the port taken by another "
                    "program? Name another one with --port"
                ) from None
            time.sleep(0.5)
    raise ServeError(f"the server did not answer within {_START_S:.0f} s; its lines above say why")


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 4200) -> None:
    """Runs server and worker until SIGINT or SIGTERM.

    Raises:
        ServeError: the server cannot be started.
    """
    api = f"http://{host}:{port}/api"
    home = settings.under("prefect")
    home.mkdir(parents=True, exist_ok=True)
    env = {**process.environment(settings.project), **OFFLINE, "PREFECT_HOME": str(home), "PREFECT_API_URL": api}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    programs = [Program(["prefect", "server", "start", "--host", host, "--port", str(port)], settings, env)]
    try:
        _wait_for_server(api, programs[0])
        for words in (f"work-pool create {POOL} --type process --overwrite", "deploy --all"):
            process.run(["prefect", "--no-prompt", *words.split()], settings.project, log, env)
        programs.append(Program(["prefect", "worker", "start", "--pool", POOL, "--type", "process"], settings, env))
        log(
            f"\nPrefect's page: http://{host}:{port}\nDrop music into {settings.inbox_folder}, read "
            f"{settings.published_folder / 'current'}\n"
        )
        while True:
            for program in programs:
                program.keep_running()
            time.sleep(1)
    except KeyboardInterrupt:
        log("ending")
    finally:
        for program in reversed(programs):
            program.end()
