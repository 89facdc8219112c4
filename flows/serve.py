"""One machine that does it all: Prefect's server on SQLite, a worker, and the deployments of prefect.yaml.

What is started here ends with us. What falls over is started again. Prefect's files lie in the place (`nightly.yaml`),
not in the home of a user, and nothing is sent anywhere.

Offers: `serve`, `environment`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from flows import OFFLINE, process
from flows.settings import Settings

POOL = "midivae"
_GUARD = Path(__file__).with_name("guard.py")
_START_S = 180.0  # for the server to answer, on a busy machine
_AGAIN_S = 5.0  # before what fell over is started again


class ServeError(RuntimeError):
    """The server or the worker cannot be started."""


def environment(chosen: Settings, host: str, port: int) -> dict[str, str]:
    """The environment of Prefect's programs."""
    home = chosen.under("prefect")
    home.mkdir(parents=True, exist_ok=True)
    return {
        **process.environment(chosen.project),
        **OFFLINE,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://{host}:{port}/api",
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
    }


class Part:
    """A program that runs as long as we do."""

    def __init__(self, words: list[str], folder: Path, env: dict[str, str]) -> None:
        self.words, self.folder, self.env = words, folder, env
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own words
            [sys.executable, "-I", str(_GUARD), *self.words],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def keep_up(self) -> None:
        """Starts it again if it fell over."""
        if self.process.poll() is not None:
            say(f"`{' '.join(self.words[:3])}` ended with exit code {self.process.returncode}; it is started again")
            time.sleep(_AGAIN_S)
            self.process = self._start()

    def end(self) -> None:
        """Ends it, and waits."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def say(line: str) -> None:
    """Tells the person at the terminal, or the journal."""
    print(line, file=sys.stderr, flush=True)


def wait_for_server(env: dict[str, str], server: Part, seconds: float = _START_S) -> None:
    """Waits until the server answers.

    Raises:
        ServeError: it ended, or did not answer in time.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{env['PREFECT_API_URL']}/health", timeout=5):  # noqa: S310 - http, loopback
                return
        except (urllib.error.URLError, OSError):
            if server.process.poll() is not None:
                raise ServeError(
                    f"the server ended at once (exit code {server.process.returncode}); is the port taken by another? "
                    "Name one with --port"
                ) from None
            time.sleep(0.5)
    raise ServeError(f"the server did not answer within {seconds:.0f} s; its lines above say why")


def deploy(chosen: Settings, env: dict[str, str]) -> None:
    """Makes the work pool, and the deployments as prefect.yaml has them."""
    pool = ["prefect", "--no-prompt", "work-pool", "create", POOL, "--type", "process", "--overwrite"]
    process.run(pool, chosen.project, say, env)
    process.run(["prefect", "--no-prompt", "deploy", "--all"], chosen.project, say, env)


def serve(chosen: Settings, host: str = "127.0.0.1", port: int = 4200) -> None:
    """Runs server and worker until we are told to end (SIGINT, SIGTERM)."""
    env = environment(chosen, host, port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts = [Part(["prefect", "server", "start", "--host", host, "--port", str(port)], chosen.project, env)]
    try:
        wait_for_server(env, parts[0])
        deploy(chosen, env)
        parts.append(Part(["prefect", "worker", "start", "--pool", POOL, "--type", "process"], chosen.project, env))
        say(
            f"\nPrefect's page: http://{host}:{port}\nDrop music into {chosen.inbox_folder}, read "
            f"{chosen.published_folder / 'current'}\n"
        )
        while True:
            for part in parts:
                part.keep_up()
            time.sleep(1)
    except KeyboardInterrupt:
        say("ending")
    finally:
        for part in reversed(parts):
            part.end()
