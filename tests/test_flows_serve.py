"""What `python -m flows` says when it cannot start, each in one sentence, and what a slow start is allowed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from test_project import ROOT

from flows import OFFLINE, exclude_from_proxy


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "nightly.yaml").write_text("{}\n")
    return tmp_path


def error_of(project: Path, *words: str, **variables: str) -> str:
    """What a command that must fail writes to stderr: the log of Prefect left out."""
    env = {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT), "PREFECT_LOGGING_LEVEL": "CRITICAL", **variables}
    command = [sys.executable, "-m", "flows", *words]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(f"python -m flows {words[0]}: "), done.stderr
    return done.stderr.removeprefix(f"python -m flows {words[0]}: ").strip()


def test_a_port_that_is_taken(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = error_of(project, "serve", "--port", str(port))
    assert error == (
        f"127.0.0.1:{port}: cannot listen there (Address already in use); end the program that uses it, or "
        f"name another port: python -m flows serve --port {port + 1}"
    )


@pytest.mark.parametrize("command", ["serve", "nightly", "watch"])
@pytest.mark.parametrize("place", ["file", "/proc/nightly"])
def test_a_folder_where_nothing_can_be_written(project: Path, place: str, command: str) -> None:
    (project / "file").touch()
    (project / "nightly.yaml").write_text(f"place: {place}\n")
    error = error_of(project, command)
    reason = {"file": "Not a directory", "/proc/nightly": "No such file or directory"}[place]
    assert error == (
        f"{project / place / 'prefect'}: Prefect's files cannot be written there ({reason}); make the folder writable, "
        f"or name another one in {project / 'nightly.yaml'}: place"
    )


def test_two_servers_on_the_same_files(project: Path) -> None:
    home = project / ".nightly" / "prefect"
    home.mkdir(parents=True)
    with FileLock(home / "serve.lock"):
        assert error_of(project, "serve", "--port", "1") == (
            f"{home}: another `python -m flows serve` uses Prefect's files there; end it first"
        )


def test_a_server_that_does_not_start_in_time(project: Path) -> None:
    error = error_of(project, "watch", PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="0")
    assert error.startswith("no server answered (Timed out while attempting to connect to ephemeral Prefect")
    assert "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=600" in error


def test_a_server_that_is_not_there(project: Path) -> None:
    error = error_of(project, "watch", PREFECT_API_URL="http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES="0")
    assert error.startswith("no server answered (Failed to reach API at http://127.0.0.1:1/api/)")
    assert "python -m flows serve" in error


@pytest.mark.parametrize(("variable", "seconds"), [(None, "180"), ("5", "5")])
def test_a_server_may_take_minutes_to_start_on_a_slow_machine(variable: str | None, seconds: str) -> None:
    name = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
    env = {key: value for key, value in os.environ.items() if key != name}
    env |= {} if variable is None else {name: variable}
    program = f"import flows\nfrom prefect.settings import {name} as setting\nprint(setting.value())"
    words = [sys.executable, "-c", program]
    assert subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True).stdout.strip() == seconds


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1"),
        ({"NO_PROXY": "a.org, b.org"}, "a.org,b.org,127.0.0.1"),
        ({"NO_PROXY": "a.org", "no_proxy": "b.org"}, "b.org,127.0.0.1"),  # programs read the lower-case name
        ({"no_proxy": "*"}, None),  # everything is excluded already
    ],
)
def test_hosts_are_added_to_those_without_proxy(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: str | None
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    exclude_from_proxy("127.0.0.1")
    exclude_from_proxy("127.0.0.1")
    if after is None:
        assert {name: os.environ.get(name) for name in before} == before
    else:
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == after
