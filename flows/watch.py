"""Finds runs whose process has ended without a report: it was killed, or its machine went down.

Prefect emits a heartbeat of each run every three minutes. A trigger of the deployment (prefect.yaml) starts this flow
when the heartbeats of a night or a batch stop. `flows.serve` also starts it, before each start of the worker: a run
that was cut off still occupies the one slot of its deployment, and one that had not begun never had a heartbeat.

Offers: the flow `watch`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.states import Completed, Crashed, Scheduled

from flows.settings import Settings
from flows.unattended import UNATTENDED, alert, has_process

_UNDER_WAY = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}})


@flow(name="watch", **UNATTENDED)
def watch(resource: str | None = None, settings_file: str = "nightly.yaml", before_worker: bool = False) -> State[Any]:
    """Declares runs crashed whose process has ended, and alerts a person.

    Args:
        resource: a run without heartbeats, as Prefect's events name it, "prefect.flow-run.<id>"; None: all runs that
            are known to be of this machine.
        settings_file: has the command of the alert.
        before_worker: no worker runs on this machine yet, so pending runs were cut off: they start again.
    """
    settings, messages = Settings.load(settings_file), []
    with get_client(sync_client=True) as client:
        if resource is None:
            runs = client.read_flow_runs(flow_run_filter=_UNDER_WAY)
        else:
            runs = [client.read_flow_run(UUID(resource.rpartition(".")[2]))]
        for run in runs:
            process = has_process(run)
            if run.state is None or run.state.is_final() or process:
                continue
            state: State[Any]
            if run.state.is_pending() and before_worker:
                state = Scheduled(message="cut off before it began")
            elif resource is not None:
                state = Crashed(message="no heartbeat")
            elif process is not None:
                state = Crashed(message="its process has ended")
            else:
                continue
            client.set_flow_run_state(run.id, state, force=True)  # frees the slot of the deployment too
            messages.append(f"{run.name}: {state.name}: {state.message}")
            if state.is_crashed():
                alert(settings, messages[-1])
    return Completed(message="; ".join(messages) or "nothing was cut off")
