"""`python -m flows`: serve, nightly, batch, rollback.

Prefect is imported where it is needed, so that `--help` and a rollback answer at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from flows import process, repository, serve
from flows.settings import Settings
from midivae.errors import MidivaeError

ERRORS = (repository.RepositoryError, serve.ServeError, process.CommandFailed, MidivaeError)

settings_option = click.option(
    "--settings",
    "file",
    type=click.Path(path_type=Path),
    default=Path("nightly.yaml"),
    show_default=True,
    help="The folders of the nights, what is kept, when a model is promoted.",
)


class Command(click.Command):
    """A command that reports our errors as one message, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except ERRORS as error:
            click.echo(f"{ctx.command_path}: {error}", err=True)
            raise click.exceptions.Exit(1) from None


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
    serve.serve(Settings.load(file), host, port)


def _set_home(file: Path) -> None:
    """Keeps Prefect's files in the place, unless the environment says otherwise; before Prefect is imported."""
    os.environ.setdefault("PREFECT_HOME", str(Settings.load(file).under("prefect")))


@flows.command()
@settings_option
def nightly(file: Path) -> None:
    """Run a night here and now; PREFECT_API_URL names the server that shows it."""
    _set_home(file)
    from flows.nightly import nightly as flow

    _finish(flow(str(file.absolute()), return_state=True))


@flows.command()
@settings_option
@click.argument("jobs")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; one per core without it.")
def batch(file: Path, jobs: str, workers: int | None) -> None:
    """Draw more samples from the champion: JOBS is a list in JSON, as for `midivae order`."""
    _set_home(file)
    from flows.batch import batch as flow

    _finish(flow(json.loads(jobs), workers, str(file.absolute()), return_state=True))


def _finish(state: Any) -> None:
    """Prints how a flow ended; exit code 1 if it did not complete."""
    click.echo(f"{state.name}: {state.message}" if state.message else state.name)
    if not state.is_completed():
        raise click.exceptions.Exit(1)


@flows.command()
@settings_option
@click.argument("name", required=False)
def rollback(file: Path, name: str | None) -> None:
    """Return to the last champion, or to the version NAME: what people read, and its tag."""
    from midivae.champion import versions

    settings = Settings.load(file)
    version = versions.rollback(settings.published_folder, name)
    repository.assign(settings.clone, version.champion)
    if settings.push:
        repository.push(settings.clone)
    click.echo(f"{version.name} is current; its model is {version.champion}")


if __name__ == "__main__":
    flows(prog_name="python -m flows")
