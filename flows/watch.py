"""Runs that are said to run and do not: a worker that was killed for memory, or with its machine, tells nobody.

Such a run would count as the one night that may run at a time, and all later ones would be cancelled. A run is stale if
the process that it names is gone, where that can be seen, or if it is older than any night may be.

Offers: the flow `watch`.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.states import Completed, Crashed

from flows import settings
from flows.board import logger
from flows.nightly import alert

_UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_BOOT = timedelta(minutes=2)  # a run that just began may not have named its process yet


def is_stale(run: FlowRun, now: datetime, most: timedelta, host: str) -> str | None:
    """Why a run that is under way cannot be; None: it may be."""
    begun = run.start_time or (run.state.timestamp if run.state is not None else now)
    if now - begun > most:
        return f"it is under way since {begun.isoformat(timespec='minutes')}, longer than {most}"
    machine, _, pid = (run.infrastructure_pid or "").rpartition(":")
    gone = machine == host and pid.isdigit() and not Path("/proc", pid).exists() and Path("/proc/self").exists()
    return f"its process {pid} on {host} is gone" if gone and now - begun > _BOOT else None


@flow(name="watch", validate_parameters=False)
def watch(settings_file: str = "nightly.yaml") -> State[list[str]]:
    """Declares stale runs crashed, and tells a person of each."""
    chosen = settings.load(Path(settings_file))
    most, found = timedelta(hours=chosen.stale_hours), list[str]()
    context = FlowRunContext.get()
    mine = context.flow_run.id if context is not None and context.flow_run is not None else None
    with get_client(sync_client=True) as client:
        under_way = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)))
        for run in client.read_flow_runs(flow_run_filter=under_way):
            why = is_stale(run, datetime.now(UTC), most, socket.gethostname()) if run.id != mine else None
            if why is None:
                continue
            client.set_flow_run_state(run.id, Crashed(message=f"stale: {why}"), force=True)
            logger().warning("%s: %s", run.name, why)
            alert(chosen, f"{run.name}: stale: {why}")
            found.append(run.name)
    return Completed(message=f"{len(found)} stale", data=found)
