"""The stages of dvc.yaml as tasks of Prefect, in topological order.

DVC decides which stages are stale; the task reports whether its stage ran, was cached, or was restored from an earlier
run. The log of the run shows the lines of the stage as they come. A task is retried only if DVC was locked by another
process.

Offers: the flow `pipeline`; `run_stages` and `show_results` for flows that do more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from flows import dvc, process
from flows.board import Board, logger
from flows.dvc import StageRun


async def is_locked(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task failed because DVC was locked."""
    return isinstance(await state.aresult(raise_on_failure=False), dvc.Locked)


@task(name="stage", task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(stage: str, folder: str, force: bool) -> StageRun:
    """Brings one stage up to date."""
    log = logger()
    run = dvc.repro(Path(folder), stage, log.info, force)
    log.info("stage %s: %s, %.1f s", run.stage, run.outcome, run.seconds)
    return run


def run_stages(
    folder: Path,
    names: Sequence[str],
    board: Board,
    force: Collection[str] = (),
    retries: int = 60,
    retry_s: float = 60.0,
) -> None:
    """Runs stages one after another, inside a flow.

    Args:
        folder: of the project.
        names: of the stages.
        board: shows the results.
        force: the stages that run even if nothing changed.
        retries: how often a stage waits for DVC's lock.
        retry_s: how long each time, seconds.

    Raises:
        dvc.StageFailed: a stage failed; the stages after it do not run.
        dvc.Locked: DVC was locked at every attempt.
    """
    stage_task = run_stage.with_options(retries=retries, retry_delay_seconds=retry_s, retry_condition_fn=is_locked)
    for name in names:
        try:
            board.done(stage_task(name, str(folder), name in force))
        except Exception:
            board.failed = name
            board.table()
            raise


def show_results(folder: Path, board: Board) -> None:
    """Publishes the table of stages, the metrics beside those of the last commit, and the report."""
    board.table()
    words = ["dvc", "metrics", "diff", "--all", "--md"]
    ended = process.run(words, folder, lambda _: None, check=False)
    board.metrics("Nothing to compare with: " + " ".join(ended.last) if ended.code else ended.stdout)
    board.report(folder / "data" / "report" / "index.html")


@flow(name="pipeline")
def pipeline(project: str = ".", force: list[str] | None = None) -> list[str]:
    """Brings every stage of a project up to date.

    Args:
        project: its folder, with dvc.yaml.
        force: stages that run even if nothing changed, such as `fetch` for a source that may have changed.

    Returns:
        "stage: outcome" of each stage.
    """
    folder = Path(project).resolve()
    names = dvc.stages(folder)
    unknown = sorted(set(force or ()) - set(names))
    if unknown:
        raise ValueError(f"force names stage {unknown[0]!r}, but dvc.yaml has {names}; name one of these")
    board = Board(names)
    run_stages(folder, names, board, force or ())
    show_results(folder, board)
    return [f"{run.stage}: {run.outcome}" for run in board.runs]
