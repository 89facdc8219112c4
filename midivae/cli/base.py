"""What all commands share: errors as exit codes, the end of a help text, what is printed where, and common options.

Conventions: stdout carries results only. Logs, progress and errors go to stderr. An error of ours is one message and
its exit code (the tree in `errors`); any other exception is a traceback and exit code 1. The packages that do the work
are imported inside the commands, so that `--help` answers at once and `midivae fetch` does not load torch.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from midivae import errors

log = logging.getLogger(__name__)

INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141  # exit codes: 128 + signal, as shells report them


# --- commands ---------------------------------------------------------------------------------------------------------
class Command(click.Command):
    """A command that ends with one message and an exit code when an error of ours is raised."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; the options of `log_options` are used here and not passed to it."""
        if "verbose" in ctx.params:
            _log_to_stderr(ctx.params.pop("verbose"), ctx.params.pop("quiet"))
        try:
            return super().invoke(ctx)
        except errors.MidivaeError as error:
            end(ctx.command_path, error)
        except OSError as error:
            from midivae.storage.files import UNWRITABLE, folder_error

            if error.errno not in UNWRITABLE:
                raise
            end(ctx.command_path, folder_error(error, Path.cwd()))
        except RuntimeError as error:
            if "no locator available" not in str(error):  # the words of numba
                raise
            message = "no folder for compiled code can be written, neither that of the package nor the user's cache"
            end(ctx.command_path, errors.InputError(f"{message}; set NUMBA_CACHE_DIR to one that can"))


def end(command: str, error: errors.MidivaeError) -> NoReturn:
    """Ends the program with the message and the exit code of an error."""
    log.debug("traceback:", exc_info=error)
    setting = _setting(error.path) if isinstance(error, errors.FolderError) else None
    click.echo(f"{command}: {error}" + (f" with {setting}" if setting else ""), err=True)
    raise click.exceptions.Exit(error.exit_code)


def _setting(path: Path) -> str | None:
    """The option, argument or variable that names the folder in which `path` lies."""
    from midivae.storage.workdir import work_dir

    ctx = click.get_current_context()
    folders = {"MIDIVAE_HOME": work_dir()}
    for param in ctx.command.params:
        if isinstance(value := ctx.params.get(param.name or ""), Path):
            folders[param.opts[0] if isinstance(param, click.Option) else param.human_readable_name] = value
    place = path.absolute()
    names = {
        name: len(folder.absolute().parts)
        for name, folder in folders.items()
        if place.is_relative_to(folder.absolute()) or place == folder.absolute().parent
    }
    return max(names, key=lambda name: names[name], default=None)


def exit_codes() -> dict[int, str]:
    """What each exit code means."""
    meanings = {0: "Done.", 1: "An unexpected error; its traceback is on stderr."}
    for kind in errors.MidivaeError.__subclasses__():
        meanings[kind.exit_code] = (kind.__doc__ or "").splitlines()[0]
    return meanings | {INTERRUPTED: "Interrupted from the keyboard."}


def epilog(*examples: str) -> str:
    """The end of a command's help: examples and exit codes, not rewrapped."""
    codes = [f"  {code:>3}  {meaning}" for code, meaning in exit_codes().items()]
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples), "", "\b", "Exit codes:", *codes])


F = TypeVar("F", bound=Callable[..., Any])


def command(*examples: str) -> Callable[[Callable[..., None]], Command]:
    """Makes a function a command whose help ends with these examples."""
    return click.command(cls=Command, epilog=epilog(*examples))


# --- output -----------------------------------------------------------------------------------------------------------
def print_line(line: str) -> None:
    """Prints a result; ends quietly if the reader of stdout is gone, as in `midivae catalog | head -1`."""
    try:
        click.echo(line)
    except BrokenPipeError:
        # without this, Python complains again while it shuts down
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise click.exceptions.Exit(BROKEN_PIPE) from None


def print_json(value: Any, file: Path | None = None) -> None:
    """Prints a result as one line of JSON, and writes it to a file if one is named."""
    if file is not None:
        from midivae.storage.files import write_json

        write_json(file, value)
    print_line(json.dumps(value))


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Meanwhile everything that is printed to stdout, also by libraries and worker processes, goes to stderr."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


class _AboveProgressBar(logging.Handler):
    """Writes log lines to stderr, above a progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record."""
        bars = sys.modules.get("tqdm")  # if it is not imported, there is no bar
        write = click.echo if bars is None else bars.tqdm.write
        write(self.format(record), file=sys.stderr)


def _log_to_stderr(verbose: bool, quiet: bool) -> None:
    """Sends the log of midivae to stderr; other libraries keep their own settings."""
    handler = _AboveProgressBar()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    ours = logging.getLogger("midivae")
    ours.handlers = [handler]
    ours.propagate = False  # tqdm's logging_redirect_tqdm adds a handler to the root: every line would appear twice
    ours.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


# --- options ----------------------------------------------------------------------------------------------------------
PATH = click.Path(path_type=Path)


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown in this order."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def path_option(*names: str, default: str, metavar: str, text: str) -> Callable[[F], F]:
    """An option that names a folder (metavar DIR) or a file, and has a default."""
    return click.option(*names, type=PATH, default=Path(default), show_default=True, metavar=metavar, help=text)


data_option = path_option("--data", default="data", metavar="DIR", text="The folder of all stages.")
params_option = path_option(
    "--params", "params_file", default="params.yaml", metavar="FILE", text="The parameters, a section per stage."
)
log_options = options(
    click.option("-v", "--verbose", is_flag=True, help="Log details too."),
    click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors only."),
)
stage_options = options(params_option, data_option, log_options)
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Number of processes; without it, one per core."
)
