"""The command line, in this process or in a process of its own; small functions replace the stages."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types

import pytest
from click.testing import CliRunner, Result

from midivae.cli.main import midivae


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(midivae, [str(a) for a in arguments], prog_name="midivae")


def start(*arguments: object, body: str = "", **options: object) -> subprocess.Popen[str]:
    """The real console script in a process of its own; `body` is the code of `ingest.run`."""
    program = f"""
import sys, types
def run(params, data):
{textwrap.indent(body or "return {}", "    ")}
sys.modules["midivae.ingest.stage"] = types.SimpleNamespace(run=run)
from midivae.cli.main import main
sys.exit(main({[str(a) for a in arguments]!r}))
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program], **{**pipes, **options})


def replace_stage(monkeypatch: pytest.MonkeyPatch, name: str, outcome: object) -> list[tuple]:
    """Replaces a stage by a function that returns or raises `outcome`; the list gets the arguments of its calls."""
    calls: list[tuple] = []

    def run(*arguments: object) -> object:
        calls.append(arguments)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setitem(sys.modules, f"midivae.{name}.stage", types.SimpleNamespace(run=run))
    return calls
