"""Declares a run crashed when its heartbeats stop: a worker that was killed, or its machine, reports nothing.

Prefect emits a heartbeat of each run every three minutes. A trigger of the deployment (prefect.yaml) starts this flow
when the heartbeats of a night or a batch stop.

Offers: the flow `watch`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.states import Completed, Crashed

from flows.nightly import alert
from flows.settings import Settings


@flow(name="watch", validate_parameters=False)
def watch(resource: str, settings_file: str = "nightly.yaml") -> State[Any]:
    """Declares a run crashed and alerts a person, unless the run has ended.

    Args:
        resource: the run as Prefect's events name it, "prefect.flow-run.<id>".
        settings_file: has the command of the alert.
    """
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(resource.rpartition(".")[2]))
        if run.state is not None and run.state.is_final():  # a short run ends before its heartbeat arrives
            return Completed(message=f"{run.name} has ended")
        client.set_flow_run_state(run.id, Crashed(message="no heartbeat"), force=True)
    alert(Settings.load(settings_file), f"{run.name}: Crashed: no heartbeat")
    return Completed(message=f"{run.name} has crashed")
