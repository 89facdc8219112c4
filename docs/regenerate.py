"""Writes the pages of docs/ that are made from the code: `make docs`. A test holds them to it."""

from __future__ import annotations

from pathlib import Path

import click

from midivae.cli import main as cli

OPENING = """# The command line

Each stage is a command; other commands read the catalog, render, explore and compare models. `make docs` writes this
page from `--help`.

Results go to stdout: one line of JSON per stage. Logs, progress and errors go to stderr. Every stage has `--params`
and `--data`, `-v` for a longer log and `-q` for a shorter one; progress bars appear only on a terminal.
"""


def cli_page() -> str:
    """The text of docs/cli.md."""
    pages = [
        ("midivae", cli.midivae),
        *((f"midivae {name}", command) for name, command in cli.midivae.commands.items()),
    ]
    return OPENING + "".join(f"\n## {name}\n```text\n{_help(name, command)}\n```\n" for name, command in pages)


def _help(name: str, command: click.Command) -> str:
    """What `name --help` prints on a wide terminal."""
    context = click.Context(command, info_name=name, terminal_width=cli.WIDTH)
    return command.get_help(context)


if __name__ == "__main__":
    (Path(__file__).parent / "cli.md").write_text(cli_page(), encoding="utf-8")
