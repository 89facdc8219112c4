"""What `kill -9` of the worker, or of all programs of `python -m flows serve`, leaves behind."""

from __future__ import annotations

import http.server
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nights
import psutil
import pytest
from limits import WAIT_S
from nights import Prefect, Project, until

pytestmark = [pytest.mark.server, pytest.mark.timeout(10 * WAIT_S)]

LONG = {"train": {"dense": {"epochs": 100_000, "patience": None}}}
APPEND = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n')"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("killed") / "project"
    folder.mkdir()
    return Project(folder)


@pytest.fixture
def alerts(project: Project) -> Path:
    """The file that alerts are written to."""
    file = project.folder.parent / "alerts"
    file.write_text("")
    return file


def set_params(project: Project, alerts: Path, params: dict[str, object]) -> None:
    project.settings(params=params, alert=[sys.executable, "-c", APPEND, str(alerts)])


def train(project: Project, prefect: Prefect) -> str:
    """Starts a night, and waits until it trains."""
    run = prefect.start("nightly")
    until(lambda: [line for line in nights.processes_under(project.clone) if "midivae train" in line], "training")
    return run


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        nights.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(processes, WAIT_S)


def test_a_killed_worker_is_restarted_and_its_night_declared_crashed(project: Project, alerts: Path) -> None:
    set_params(project, alerts, LONG)
    with nights.serving(project) as prefect:
        run = train(project, prefect)
        pid = prefect.run(run)["infrastructure_pid"]
        assert pid.isdigit()  # Prefect stores no host with it
        worker = psutil.Process(int(pid)).parent()
        assert worker is not None and "worker" in worker.cmdline()
        kill_all([worker, psutil.Process(int(pid))])
        ended = prefect.ended(run)
        assert ended["state"]["type"] == "CRASHED"
        assert ended["state"]["message"] == "its process has ended"
        message = f"{ended['name']}: Crashed: its process has ended"
        until(lambda: message in alerts.read_text().splitlines(), "the alert")
        until(lambda: not nights.processes_under(project.clone), "the stage to end")


def test_a_night_goes_on_without_its_worker(project: Project, alerts: Path) -> None:
    set_params(project, alerts, LONG)
    with nights.serving(project) as prefect:
        run = train(project, prefect)
        night = psutil.Process(int(prefect.run(run)["infrastructure_pid"]))
        worker = night.parent()
        assert worker is not None
        kill_all([worker])
        until(lambda: prefect.log.read_text().count("Worker 'ProcessWorker") >= 2, "another worker")
        assert prefect.run(run)["state"]["type"] == "RUNNING"
        assert night.is_running()
        kill_all([night])


def test_the_next_night_runs_after_all_was_killed_with_watch_pending(project: Project, alerts: Path) -> None:
    set_params(project, alerts, LONG)
    with nights.serving(project) as prefect:
        night = train(project, prefect)
        watch = prefect.start("watch")
        until(lambda: prefect.run(watch)["state"]["type"] == "PENDING", "watch to be pending")
        kill_all([*psutil.Process(prefect.process.pid).children(recursive=True), psutil.Process(prefect.process.pid)])
    set_params(project, alerts, {})
    with nights.serving(project) as prefect:
        ended = prefect.run(night)
        assert ended["state"]["type"] == "CRASHED"
        assert f"{ended['name']}: Crashed: its process has ended" in alerts.read_text().splitlines()
        following = prefect.ended(prefect.start("nightly"))
        assert following["state"]["type"] == "COMPLETED", prefect.logs(following["id"])
        assert prefect.ended(watch)["state"]["type"] == "COMPLETED"


class Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy that counts requests, and answers none."""

    requests: list[str] = []  # noqa: RUF012 - of all instances

    def handle(self) -> None:
        self.requests.append(self.request.recv(1 << 16).decode("latin1").partition("\r")[0])


@pytest.fixture
def proxy() -> Iterator[str]:
    Proxy.requests.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_no_program_asks_a_proxy_for_the_server(project: Project, alerts: Path, proxy: str) -> None:
    set_params(project, alerts, {})
    names = ("http_proxy", "https_proxy", "all_proxy")
    variables = {name: proxy for lower in names for name in (lower, lower.upper())}
    with nights.serving(project, **variables, no_proxy="example.org") as prefect:
        run = prefect.ended(prefect.start("watch"))
        assert run["state"]["type"] == "COMPLETED", prefect.logs(run["id"])
        assert "nothing was cut off" in run["state"]["message"]
        until(lambda: "Finished in state Completed" in prefect.logs(run["id"]), "the log of the run")
    # the server asks GitHub for the list of worker types, and works without it
    assert [line for line in Proxy.requests if "127.0.0.1" in line or "localhost" in line] == []
