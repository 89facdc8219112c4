"""A project with a tiny pipeline that nights can run in, and Prefect on the loopback: real server, real worker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import four_part
import yaml
from inline import copy_project
from limits import WAIT_S

from flows import OFFLINE, process
from midivae.config.params import parse

NIGHT_S = 4 * WAIT_S  # the most that a night may take, or Prefect to start
TINY = {
    "compute": {"workers": 1},
    "train": {
        "model": "mlp",
        "compare": [],
        "precision": "32",
        "dense": {"hidden": [32], "latent": 4, "epochs": 3, "batch_size": 16},
        "view": {"steps": 32},
    },
    "generate": {"jobs": [{"name": "sample", "count": 12, "threshold": 0.2}]},
    "evaluate": {"repeats": 2},
    "report": {"rolls_per_job": 2},
}
# so lenient that only the scores decide: a model of three epochs makes no music
RULES = {
    "seed_sd_nats": 0.01,
    "min_active_share": 0,
    "min_kl_nats": 0,
    "max_silent_share": 1,
    "min_density": 0,
    "max_density": 1000,
    "min_novelty": 0,
}
SETTINGS = {"settle_s": 0, "lock_wait_s": 2, "lock_attempts": 30, "gate": RULES, "drift": {"min_windows": 4}}


class Project:
    """A copy of the project with a tiny pipeline, in a git repository of its own."""

    def __init__(self, folder: Path, pieces: int = 24) -> None:
        self.folder, self.place = folder, folder / ".nightly"
        wanted = ("midivae/", "flows/", ".dvc/", "data/", ".git", ".dvcignore", "dvc.yaml", "prefect.yaml", "docs/")
        copy_project(folder, lambda name: name.startswith(wanted))
        (folder / "params.yaml").write_text(yaml.safe_dump(parse(TINY, "tiny").model_dump(mode="json")))
        self.settings()
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("config", "user.name", "tests")
        self.git("config", "user.email", "tests@localhost")
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", "A tiny pipeline")
        self.drop(range(pieces))

    def settings(self, **changed: Any) -> None:
        """Writes nightly.yaml."""
        (self.folder / "nightly.yaml").write_text(yaml.safe_dump({**SETTINGS, **changed}))

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"git {words}: {done.stderr}"
        return done.stdout.strip()

    def drop(self, pieces: range) -> None:
        """Puts pieces into the inbox."""
        inbox = self.place / "inbox"
        inbox.mkdir(parents=True, exist_ok=True)
        made = self.folder.parent / "made"
        four_part.write_corpus(made, pieces.stop)
        for number in pieces:
            shutil.copyfile(made / f"piece-{number:03}.mid", inbox / f"piece-{number:03}.mid")

    @property
    def clone(self) -> Path:
        return self.place / "clone"

    @property
    def current(self) -> Path:
        """The published version that counts."""
        return (self.place / "published" / "current").resolve()

    def gate(self) -> dict[str, Any]:
        """The last verdict."""
        found: dict[str, Any] = json.loads((self.place / "gate.json").read_text())
        return found

    def tags(self) -> list[str]:
        """Versions and champions, as people see them in the project."""
        return sorted(tag for tag in self.git("tag").splitlines() if tag.startswith("model"))

    def call(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {**process.environment(self.folder), **OFFLINE, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, cwd=self.folder, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
        return done


def until(found: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """Waits until there is something, and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


def processes_under(folder: Path) -> list[str]:
    """Command lines of the processes that work in a folder or below."""
    found = []
    for each in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if each.name.isdigit() and (each / "cwd").resolve().is_relative_to(folder):
                state = (each / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found.append(command_line(int(each.name)))
    return found


class Prefect:
    """`make serve` for a project, with a schedule that tests decide on."""

    def __init__(self, project: Project, **variables: str) -> None:
        self.project, self.port = project, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        env = {
            **process.environment(project.folder),
            **OFFLINE,
            "OMP_NUM_THREADS": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_BATCH_SIZE": "100",
            "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_WORKER_PREFETCH_SECONDS": "1",
            **variables,
        }
        self.log = project.folder.parent / f"serve-{project.folder.name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows", "serve", "--port", str(self.port)],
                cwd=project.folder,
                env=env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        until(lambda: self._is_up(), f"Prefect: see {self.log}", NIGHT_S)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "Prefect's page" in self.log.read_text()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Calls the server's interface."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"content-type": "application/json"},
        )
        for _ in range(30):
            try:
                with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code != 503:  # SQLite is busy; Prefect's own client waits and asks again as well
                    raise AssertionError(f"{method} {path}: {error}: {error.read()!r}") from error
                time.sleep(1)
        raise AssertionError(f"{method} {path}: the server stays busy")

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/deployments/name/{name}/{name}")
        return found

    def schedule(self, name: str, in_s: float = 3.0) -> None:
        """Gives a deployment a schedule that fires once, so many seconds from now, and the next day."""
        here = self.deployment(name)
        for old in here["schedules"]:
            self.ask("DELETE", f"/deployments/{here['id']}/schedules/{old['id']}")
        anchor = (datetime.now(UTC) + timedelta(seconds=in_s)).isoformat()
        schedule = {"interval": 86400, "anchor_date": anchor, "timezone": "UTC"}
        self.ask("POST", f"/deployments/{here['id']}/schedules", [{"active": True, "schedule": schedule}])

    def runs(self, name: str) -> list[dict[str, Any]]:
        """The runs of a deployment that began or ended, oldest first."""
        here = self.deployment(name)
        found = self.ask("POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [here["id"]]}}})
        begun = [run for run in found if run["state"] and run["state"]["type"] != "SCHEDULED"]
        return sorted(begun, key=lambda run: run["created"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/flow_runs/{run_id}")
        return found

    def start(self, name: str) -> str:
        """Orders a run now; returns its id."""
        here = self.deployment(name)
        return str(self.ask("POST", f"/deployments/{here['id']}/create_flow_run", {})["id"])

    def ended(self, run_id: str, seconds: float = NIGHT_S) -> dict[str, Any]:
        """Waits for a run to end."""

        def found() -> dict[str, Any] | None:
            with contextlib.suppress(OSError):
                run = self.run(run_id)
                return (
                    run
                    if run["state"] and run["state"]["type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
                    else None
                )
            return None

        run: dict[str, Any] = until(found, f"run {run_id} to end; see {self.log}", seconds)
        return run

    def night(self) -> dict[str, Any]:
        """One scheduled night."""
        before = len(self.runs("nightly"))
        self.schedule("nightly")
        until(lambda: len(self.runs("nightly")) > before, "the schedule to fire")
        return self.ended(self.runs("nightly")[-1]["id"])

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The tasks of a run, by name without number; a task that was only just created has no state yet."""
        body = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 200}
        return {task["name"]: task for task in self.ask("POST", "/task_runs/filter", body) if task["state"]}

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The artifacts of a run, by key."""
        body = {"artifacts": {"flow_run_id": {"any_": [run_id]}}, "sort": "CREATED_DESC"}
        return {each["key"]: each for each in reversed(self.ask("POST", "/artifacts/filter", body))}

    def logs(self, run_id: str) -> str:
        body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return "\n".join(line["message"] for line in self.ask("POST", "/logs/filter", body))

    def kill_server(self) -> None:
        """Ends the server as a lack of memory would; `flows serve` starts it again."""
        found = [pid for pid in children(self.process.pid) if "server" in command_line(pid)]
        for pid in found:
            for each in children(pid):
                kill(each, signal.SIGKILL)
        assert found

    def end(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(WAIT_S)
        self.process.kill()


@contextlib.contextmanager
def serving(project: Project, **variables: str) -> Iterator[Prefect]:
    """`make serve`, with further variables in its environment, until the block ends."""
    prefect = Prefect(project, **variables)
    try:
        yield prefect
    finally:
        prefect.end()


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found = []
    for each in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if each.name.isdigit() and int((each / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(each.name))
    return found


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def warm_start(project: Project) -> Path:
    """Where the last training of the nights began."""
    values = yaml.safe_load((project.clone / "params.yaml").read_text())
    return (project.clone / values["train"]["warm_start"]).resolve()


def outcomes(artifact: dict[str, Any]) -> dict[str, str]:
    """What the table of stages says of each."""
    return {row["stage"]: row["outcome"] for row in json.loads(artifact["data"])}


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
