"""What people see of a run in Prefect: progress, the stages in a table, metrics in words, a link to the report.

A run is worth more than its picture: where the server cannot be reached for a while, the picture is left out with a
line in the log, and the run goes on.

Offers: `logger`, `Board`, `markdown`, `wait_for_server`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from flows.dvc import StageRun

_LOOK_S = 5.0  # between two looks for the server


def logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """The log of the run; outside of one, an ordinary log."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("flows")


def show(create: Callable[[], Any]) -> Any:
    """Calls what makes an artifact; None where the server cannot be reached."""
    try:
        return create()
    except Exception as error:
        # whatever a client that is cut off may raise; the run does not depend on it
        logger().warning("an artifact is missing: %s: %s", type(error).__name__, error)
        return None


def wait_for_server(seconds: float = 900.0) -> None:
    """Waits for the server, so that a night that is done is not lost for want of somebody to tell it to."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with get_client(sync_client=True) as client:
            if client.api_healthcheck() is None:
                return
        logger().warning("the server is away; the run waits for it")
        time.sleep(_LOOK_S)


class Board:
    """The artifacts of one run over some stages."""

    def __init__(self, stages: Sequence[str]) -> None:
        self.stages = tuple(stages)
        self.runs: list[StageRun] = []
        self._failed: dict[str, str] = {}
        self._progress: UUID | None = show(
            lambda: create_progress_artifact(progress=0.0, key="stages-done", description=f"of {', '.join(stages)}")
        )

    def done(self, run: StageRun) -> None:
        """Notes a stage that is up to date."""
        self.runs.append(run)
        at = self._progress
        if at is not None:
            show(lambda: update_progress_artifact(at, progress=round(100 * len(self.runs) / len(self.stages), 1)))

    def failed(self, stage: str, why: str) -> None:
        """Notes a stage that failed."""
        self._failed[stage] = why

    def table(self) -> None:
        """Publishes the table of stages: what became of each, and its seconds."""
        known = {run.stage: run for run in self.runs}
        rows = [
            {
                "stage": name,
                "outcome": known[name].outcome
                if name in known
                else "failed"
                if name in self._failed
                else "not reached",
                "seconds": known[name].seconds if name in known else None,
            }
            for name in self.stages
        ]
        show(lambda: create_table_artifact(table=rows, key="stages", description="What became of each stage."))

    def metrics(self, markdown: str) -> None:
        """Publishes metrics beside those of the last run."""
        show(lambda: create_markdown_artifact(markdown=markdown, key="metrics", description="Against the last run."))

    def report(self, page: Path) -> None:
        """Publishes a link to the report, if there is one."""
        if page.is_file():
            # browsers follow no link from a server's page to a file: the path is there to be copied
            here = f"`{page.resolve()}`"
            link = page.resolve().as_uri()
            show(lambda: create_link_artifact(link=link, link_text=page.name, key="report", description=here))


def markdown(title: str, text: str, key: str) -> None:
    """Publishes a page."""
    show(lambda: create_markdown_artifact(markdown=f"# {title}\n\n{text}\n", key=key))
