"""What people see of a run in Prefect: its progress, a table of the stages, metrics, and a link to the report.

A run is more important than its artifacts: if the server cannot be reached, the artifact is left out with a warning in
the log, and the run continues.

Offers: `logger`, `Board`, `page`, `wait_for_server`.
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

_RETRY_S = 5.0  # between two attempts to reach the server


def logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """The log of the run; outside of a run, an ordinary log."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("flows")


def show(create: Callable[..., Any], *args: Any, **values: Any) -> Any:
    """Creates an artifact; None if the server cannot be reached."""
    try:
        return create(*args, **values)
    except Exception as error:  # a client without a connection may raise anything
        logger().warning("an artifact is missing: %s: %s", type(error).__name__, error)
        return None


def wait_for_server(seconds: float = 900.0) -> None:
    """Waits for the server, so that the state of a finished night can be reported."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with get_client(sync_client=True) as client:
            if client.api_healthcheck() is None:
                return
        logger().warning("the server cannot be reached; the run waits for it")
        time.sleep(_RETRY_S)


class Board:
    """The artifacts of one run over some stages.

    Attributes:
        runs: the results of the stages that are up to date.
        failed: the stage that failed, if one did.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.stages = tuple(stages)
        self.runs: list[StageRun] = []
        self.failed: str | None = None
        self._progress: UUID | None = show(
            create_progress_artifact, progress=0.0, key="stages-done", description=f"of {', '.join(stages)}"
        )

    def done(self, run: StageRun) -> None:
        """Adds a stage that is up to date."""
        self.runs.append(run)
        if self._progress is not None:
            show(update_progress_artifact, self._progress, round(100 * len(self.runs) / len(self.stages), 1))

    def table(self) -> None:
        """Publishes the table of stages with outcome and seconds."""
        runs = {run.stage: (run.outcome, run.seconds) for run in self.runs}
        rows = []
        for stage in self.stages:
            outcome, seconds = runs.get(stage, ("failed" if stage == self.failed else "not reached", None))
            rows.append({"stage": stage, "outcome": outcome, "seconds": seconds})
        show(create_table_artifact, table=rows, key="stages", description="The outcome of each stage.")

    def metrics(self, markdown: str) -> None:
        """Publishes metrics beside those of the last run."""
        show(create_markdown_artifact, markdown=markdown, key="metrics", description="Compared with the last run.")

    def report(self, page: Path) -> None:
        """Publishes a link to the report if there is one."""
        if page.is_file():
            # browsers do not follow a link from a server's page to a file: the path is there to be copied
            path = page.resolve()
            show(create_link_artifact, link=path.as_uri(), link_text=page.name, key="report", description=f"`{path}`")


def page(title: str, text: str, key: str) -> None:
    """Publishes a page in Markdown."""
    show(create_markdown_artifact, markdown=f"# {title}\n\n{text}\n", key=key)
