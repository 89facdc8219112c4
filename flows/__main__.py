"""`python -m flows`: serve, nightly, batch, watch, rollback.

Prefect is imported where it is needed, so that `--help` and a rollback answer at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import click

from flows import process, repository, serve, settings
from midivae.errors import MidivaeError

REFUSED = (repository.RepositoryError, serve.ServeError, process.CommandFailed, MidivaeError)

settings_option = click.option(
    "--settings",
    "file",
    type=click.Path(path_type=Path),
    default=Path("nightly.yaml"),
    show_default=True,
    help="Where things lie, what is kept, when a model is promoted.",
)


class Command(click.Command):
    """A command whose errors of ours end as one message and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except REFUSED as error:
            _refuse(ctx, error)


def _refuse(ctx: click.Context, error: Exception) -> NoReturn:
    click.echo(f"{ctx.command_path}: {error}", err=True)
    raise click.exceptions.Exit(1)


@click.group(context_settings={"max_content_width": 100})
def flows() -> None:
    """Retrain every night, compare, promote."""


flows.command_class = Command


@flows.command("serve")
@settings_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the server listens on.")
@click.option("--port", default=4200, show_default=True, help="Its port.")
def serve_command(file: Path, host: str, port: int) -> None:
    """Run Prefect's server, a worker and the deployments on this machine, until interrupted."""
    serve.serve(settings.load(file), host, port)


def _at_home(file: Path) -> None:
    """Prefect's files lie in the place, unless the environment says otherwise; before Prefect is imported."""
    home = settings.load(file).under("prefect")
    os.environ.setdefault("PREFECT_HOME", str(home))


@flows.command()
@settings_option
def nightly(file: Path) -> None:
    """Run a night here and now; PREFECT_API_URL says on which server it is seen."""
    _at_home(file)
    from flows.nightly import nightly as flow

    _finish(flow(str(file.absolute()), return_state=True))


@flows.command()
@settings_option
@click.argument("jobs")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; one per core without it.")
def batch(file: Path, jobs: str, workers: int | None) -> None:
    """Draw more samples from the champion: JOBS is a list in JSON, as for `midivae order`."""
    _at_home(file)
    from flows.batch import batch as flow

    _finish(flow(json.loads(jobs), workers, str(file.absolute()), return_state=True))


@flows.command()
@settings_option
def watch(file: Path) -> None:
    """Declare runs crashed that are said to run and do not."""
    _at_home(file)
    from flows.watch import watch as flow

    _finish(flow(str(file.absolute()), return_state=True))


def _finish(state: Any) -> None:
    """Says how a flow ended; exit code 1 where it did not complete."""
    click.echo(f"{state.name}: {state.message}" if state.message else state.name)
    if not state.is_completed():
        raise click.exceptions.Exit(1)


@flows.command()
@settings_option
@click.argument("name", required=False)
def rollback(file: Path, name: str | None) -> None:
    """Take the last champion back, or the version NAME: what people read, and its tag."""
    from midivae.champion import versions

    chosen = settings.load(file)
    version = versions.rollback(chosen.published_folder, name)
    repository.assign(chosen.clone, version.champion)
    if chosen.push:
        repository.push(chosen.clone)
    click.echo(f"{version.name} is current; its model is {version.champion}")


if __name__ == "__main__":
    flows(prog_name="python -m flows")
