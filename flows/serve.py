"""Runs Prefect's server on SQLite, a worker and the deployments of prefect.yaml on one machine.

The server and the worker end with this process, and are restarted if they end earlier. Prefect's files lie in the place
(`nightly.yaml`), not in the home of a user, and nothing is sent anywhere.

Offers: `serve`, `prefect_home`, `ServeError`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from filelock import FileLock, Timeout

from flows import exclude_from_proxy, process
from flows.settings import Settings

POOL = "midivae"
_START_S = 180.0  # for the server to answer on a busy machine
_RESTART_S = 5.0  # before a program that ended is restarted


class ServeError(RuntimeError):
    """The server or the worker cannot be started."""


class Program:
    """A program that is restarted whenever it ends.

    Args:
        words: its command.
        settings: have the folder where it runs.
        before: a command that is run before each start; None: none.
    """

    def __init__(self, words: list[str], settings: Settings, before: list[str] | None = None) -> None:
        self._words, self._settings, self._before = words, settings, before
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        project = self._settings.project
        if self._before is not None:
            process.run(self._before, project, log, check=False)
        return process.guarded(self._words, project, process.environment(project))

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


def prefect_home(settings: Settings) -> Path:
    """The folder of Prefect's files, which is made if it does not exist.

    Raises:
        ServeError: nothing can be written there.
    """
    home = settings.under("prefect")
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise ServeError(
            f"{home}: Prefect's files cannot be written there ({error.strerror}); make the folder writable, or name "
            f"another one in {settings.file}: place"
        ) from error
    return home


def _check_port(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ServeError(
            f"{host}:{port}: cannot listen there ({os.strerror(error.errno or 0)}); end the program that uses "
            f"it, or name another port: python -m flows serve --port {port + 1}"
        ) from error


def _wait_for_server(api: str, server: Program) -> None:
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        try:
            without_proxy.open(f"{api}/health", timeout=5).close()
        except OSError:
            if server.process.poll() is not None:
                raise ServeError(
                    f"the server ended (exit code {server.process.returncode}); its lines above say why"
                ) from None
            time.sleep(0.5)
        else:
            return
    raise ServeError(f"the server did not answer within {_START_S:.0f} s; its lines above say why")


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 4200) -> None:
    """Runs server and worker until SIGINT or SIGTERM.

    Raises:
        ServeError: the server cannot be started.
    """
    home = prefect_home(settings)
    try:
        with FileLock(home / "serve.lock", timeout=0):
            _check_port(host, port)
            _serve(settings, home, host, port)
    except Timeout:
        raise ServeError(f"{home}: another `python -m flows serve` uses Prefect's files there; end it first") from None


def _serve(settings: Settings, home: Path, host: str, port: int) -> None:
    api = f"http://{host}:{port}/api"
    os.environ.update(PREFECT_HOME=str(home), PREFECT_API_URL=api)  # for all programs
    exclude_from_proxy(host)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    programs = [Program(["prefect", "server", "start", "--host", host, "--port", str(port)], settings)]
    try:
        _wait_for_server(api, programs[0])
        for words in (f"work-pool create {POOL} --type process --overwrite", "deploy --all"):
            process.run(["prefect", "--no-prompt", *words.split()], settings.project, log)
        # runs that the last worker left hold the slots of their deployments
        watch = [sys.executable, "-m", "flows", "watch", "--before-worker", "--settings", str(settings.file)]
        programs.append(Program(["prefect", "worker", "start", "--pool", POOL, "--type", "process"], settings, watch))
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
