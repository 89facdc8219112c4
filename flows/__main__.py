"""`python -m flows`: serve, nightly, batch, watch, rollback.

Prefect is imported where it is needed, so that `--help` and a rollback answer at once.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
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
@click.option("--port", default=4200, type=click.IntRange(1, 65535), show_default=True, help="Its port.")
def serve_command(file: Path, host: str, port: int) -> None:
    """Run Prefect's server, a worker and the deployments on this machine, until interrupted."""
    serve.serve(Settings.load(file), host, port)


def _run(flow: str, file: Path, **parameters: Any) -> None:
    """Runs a flow here and now, and prints how it ended; exit code 1 if it did not complete.

    Prefect's files lie in the place, unless the environment says otherwise.
    """
    settings = Settings.load(file)
    if "PREFECT_HOME" not in os.environ:  # read when Prefect is imported
        os.environ["PREFECT_HOME"] = str(serve.prefect_home(settings))
    function = getattr(import_module(f"flows.{flow}"), flow)
    try:
        state = function(**parameters, settings_file=str(settings.file), return_state=True)
    except RuntimeError as error:  # Prefect's own error where it reaches no server
        raise serve.ServeError(
            f"no server answered ({str(error).rstrip('.')}); run the command again, with "
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=600 on a busy machine, or start `python -m flows serve` "
            "and name it: PREFECT_API_URL=http://127.0.0.1:4200/api"
        ) from None
    click.echo(f"{state.name}: {state.message}" if state.message else state.name)
    if not state.is_completed():
        raise click.exceptions.Exit(1)


@flows.command()
@settings_option
def nightly(file: Path) -> None:
    """Run a night here and now; PREFECT_API_URL names the server that shows it."""
    _run("nightly", file)


@flows.command()
@settings_option
@click.argument("jobs")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; one per core without it.")
def batch(file: Path, jobs: str, workers: int | None) -> None:
    """Draw more samples from the champion: JOBS is a list in JSON, as for `midivae order`."""
    try:
        values = json.loads(jobs)
    except ValueError as error:
        raise click.BadParameter(f"{jobs!r} is not JSON ({error})", param_hint="JOBS") from None
    _run("batch", file, jobs=values, workers=workers)


@flows.command()
@settings_option
@click.option("--before-worker", is_flag=True, help="No worker runs yet: start pending runs again, as `serve` does.")
def watch(file: Path, before_worker: bool) -> None:
    """Find runs of this machine whose process was killed, declare them crashed and alert."""
    _run("watch", file, before_worker=before_worker)


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
