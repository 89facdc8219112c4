"""An order: more samples of the champion, tonight or now, added to what people read.

Offers: the flow `batch`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows import board, process, settings
from flows.board import logger
from flows.nightly import on_trouble
from flows.settings import Settings


@task(cache_policy=NO_CACHE, persist_result=False)
def fill(chosen: Settings, jobs: list[dict[str, Any]], workers: int | None) -> dict[str, Any]:
    """Draws the samples and publishes them with those that are there."""
    words = ["midivae", "order", json.dumps(jobs), "--published", str(chosen.published_folder)]
    more = ["--workers", str(workers)] if workers is not None else []
    # a work directory of its own: a night that runs beside it must not tidy it away
    env = {**process.environment(chosen.project), "MIDIVAE_HOME": str(chosen.under("orders"))}
    ended = process.run([*words, *more], chosen.project, logger().info, env)
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


@flow(name="batch", on_failure=[on_trouble], on_crashed=[on_trouble], validate_parameters=False)
def batch(jobs: list[dict[str, Any]], workers: int | None = None, settings_file: str = "nightly.yaml") -> State[Any]:
    """Adds samples to the published catalog.

    Args:
        jobs: as in params.yaml, each at least with `name` and `count`, how many more.
        workers: processes; None: one per core.
        settings_file: which says where things lie.
    """
    chosen = settings.load(Path(settings_file))
    found = fill(chosen, jobs, workers)
    added = ", ".join(f"{count} of {name}" for name, count in found["added"].items())
    said = f"{found['version']}: {added} added, {found['samples']} samples in all"
    board.markdown(said, f"In `{chosen.published_folder}/current/samples/catalog`.", "order")
    return Completed(message=said)
