"""A batch: more samples of the champion, added to what people read.

Offers: the flow `batch`.
"""

from __future__ import annotations

import json
from typing import Any

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows import board, process
from flows.nightly import run_midivae
from flows.settings import Settings
from flows.unattended import UNATTENDED


@task(cache_policy=NO_CACHE, persist_result=False)
def add_samples(settings: Settings, jobs: list[dict[str, Any]], workers: int | None) -> dict[str, Any]:
    """Generates the samples and publishes them together with the earlier ones."""
    words = ["order", json.dumps(jobs), "--published", str(settings.published_folder)]
    words += ["--workers", str(workers)] if workers is not None else []
    # with a work directory of its own: a night at the same time would delete its files
    env = {**process.environment(settings.project), "MIDIVAE_HOME": str(settings.under("orders"))}
    return run_midivae(settings.project, *words, env=env)


@flow(name="batch", **UNATTENDED)
def batch(jobs: list[dict[str, Any]], workers: int | None = None, settings_file: str = "nightly.yaml") -> State[Any]:
    """Adds samples to the published catalog.

    Args:
        jobs: as in params.yaml, each with at least `name` and `count`, the number of additional samples.
        workers: processes; None: one per core.
        settings_file: has the folder of what is published.
    """
    settings = Settings.load(settings_file)
    result = add_samples(settings, jobs, workers)
    added = ", ".join(f"{count} of {name}" for name, count in result["added"].items())
    summary = f"{result['version']}: {added} added, {result['samples']} samples in all"
    board.page(summary, f"In `{settings.published_folder}/current/samples/catalog`.", "order")
    return Completed(message=summary)
