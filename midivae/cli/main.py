"""The command line: `midivae`, the group of all commands, and `main`, the console script."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from midivae import __version__
from midivae.cli import catalog, champion, explorer, render, stages
from midivae.cli.base import INTERRUPTED, TERMINATED

WIDTH = 100  # columns of a help text, if the terminal has them


class _Group(click.Group):
    """A group that lists its commands in the order in which they were added: the stages, then the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return list(self.commands)


@click.group(
    cls=_Group,
    context_settings={"max_content_width": WIDTH},
    epilog="The stages, in order: "
    + ", ".join(stage.name for stage in stages.STAGES)
    + ". `midivae STAGE --help` for each.",
)
@click.version_option(__version__, prog_name="midivae", message="%(prog)s %(version)s")
def midivae() -> None:
    """Train a variational autoencoder on MIDI files, and generate a catalog of samples."""


for _module in (stages, catalog, render, explorer, champion):
    for _command in _module.COMMANDS:
        midivae.add_command(_command)


def _on_terminate(signum: int, frame: object) -> NoReturn:
    """SIGTERM ends the program like an exception, so that staging folders and workers are cleaned up."""
    sys.exit(TERMINATED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    # Threads that wait for each other sleep instead of spinning: on a shared machine a training step takes up to half
    # as long. libgomp reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        code = midivae.main(arguments, prog_name="midivae", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("midivae: interrupted", err=True)
        return INTERRUPTED
