"""What every flow needs that runs while nobody watches: an alert if it fails, a time limit, and a recorded process.

Offers: `UNATTENDED`, the options of these flows; `alert`; `has_process`, whether the process of a run is alive.
"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import Any

import psutil
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun

from flows.board import logger
from flows.settings import Settings

MAX_RUN_S = 20 * 3600.0  # a longer run has failed
_HOST = f"host:{socket.gethostname()}:"  # a tag: the machine and the process id of a run
_PROGRAMS = {"prefect.engine", "flows"}  # a process id may belong to another program after a restart of the machine


def alert(settings: Settings, message: str) -> None:
    """Runs the command that alerts a person; if it fails, only the log says so."""
    if settings.alert is None:
        return
    try:
        subprocess.run([*settings.alert, message], check=True, timeout=60, stdin=subprocess.DEVNULL)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        logger().error("the alert could not be sent: %s", error)


def _alert_on_failure(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Alerts a person of a failed run."""
    file = flow_run.parameters.get("settings_file", "nightly.yaml")
    alert(Settings.load(file), f"{flow.name} {flow_run.name}: {state.name}: {state.message}")


def _record_process(_flow: Any, flow_run: FlowRun, _state: State[Any]) -> None:
    """Records machine and process of a run as a tag: Prefect's worker stores a process id without the machine."""
    others = [tag for tag in flow_run.tags if not tag.startswith(_HOST)]
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=[*others, f"{_HOST}{os.getpid()}"])


def has_process(run: FlowRun) -> bool | None:
    """Whether the process of a run is alive; None: it is not known to be on this machine."""
    recorded = [tag.removeprefix(_HOST) for tag in run.tags if tag.startswith(_HOST)]
    try:
        number = int(recorded[0] if recorded else run.infrastructure_pid or "")
        alive = not _PROGRAMS.isdisjoint(psutil.Process(number).cmdline())
    except (ValueError, psutil.Error):
        alive = False
    return alive if recorded or alive else None


UNATTENDED: dict[str, Any] = {
    "on_running": [_record_process],
    "on_failure": [_alert_on_failure],
    "on_crashed": [_alert_on_failure],
    "timeout_seconds": MAX_RUN_S,
    "validate_parameters": False,
}
