"""The stages of dvc.yaml as tasks of Prefect, in topological order.

DVC decides what is stale; a task says which of the three it was: the stage ran, was cached, or was restored from an
earlier run. Lines of the stage's log appear in the run's as they come. A task is tried again only where DVC was locked
by another process.

Offers: the flow `pipeline`, and `run_stages` for flows that do more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from flows import dvc, process
from flows.board import Board, logger
from flows.dvc import StageRun


class Patience(NamedTuple):
    """How often and how long a stage waits for DVC's lock."""

    attempts: int = 60
    wait_s: float = 60.0


async def is_locked(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task failed only because DVC was locked: nothing else is worth trying again."""
    found = await state.aresult(raise_on_failure=False)
    return isinstance(found, dvc.Locked)


@task(name="stage", task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(stage: str, folder: str, force: bool) -> StageRun:
    """Brings one stage up to date; its lines go to the log."""
    log = logger()
    done = dvc.repro(Path(folder), stage, log.info, force)
    log.info("stage %s: %s, %.1f s", done.stage, done.outcome, done.seconds)
    return done


def run_stages(
    folder: Path,
    names: Sequence[str],
    board: Board,
    force: Collection[str] = (),
    patience: Patience = Patience(),  # noqa: B008 - immutable
) -> None:
    """Runs stages one after another, inside a flow.

    Raises:
        dvc.StageFailed: one failed; those after it are not reached.
        dvc.Locked: DVC stayed locked, however patiently we waited.
    """
    one = run_stage.with_options(
        retries=patience.attempts, retry_delay_seconds=patience.wait_s, retry_condition_fn=is_locked
    )
    for name in names:
        try:
            board.done(one(name, str(folder), name in force))
        except Exception as error:
            board.failed(name, str(error))
            board.table()
            raise


def metrics(folder: Path) -> str:
    """The metrics beside those of the last commit, as Markdown."""
    ended = process.run(["dvc", "metrics", "diff", "--all", "--md"], folder, lambda _: None, check=False)
    return ended.stdout if ended.code == 0 else "Nothing to compare with: " + " ".join(ended.last)


def show_results(folder: Path, board: Board) -> None:
    """Publishes the table of stages, the metrics and the report."""
    board.table()
    board.metrics(metrics(folder))
    board.report(folder / "data" / "report" / "index.html")


@flow(name="pipeline")
def pipeline(project: str = ".", force: list[str] | None = None) -> list[str]:
    """Brings every stage of a project up to date.

    Args:
        project: its folder, with dvc.yaml.
        force: stages that run although nothing changed, such as `fetch` for a source that may have.

    Returns:
        "stage: outcome" of each.
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
