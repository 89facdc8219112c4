"""The help texts of all commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from program import invoke

from midivae import __version__
from midivae.cli.main import midivae
from midivae.cli.stages import STAGES, Stage

NAMES = [stage.name for stage in STAGES]


# commands that work on no folder of stages: on what is published, or on what they are given
ELSEWHERE = {"inbox", "spread", "switch", "versions", "order"}


# --- help -------------------------------------------------------------------------------------------------------------
def test_version() -> None:
    assert invoke("--version").stdout == f"midivae {__version__}\n"


def test_help_lists_the_stages_in_order() -> None:
    text = invoke("--help").stdout
    commands = text[text.index("Commands:") :].splitlines()[1 : 1 + len(NAMES)]
    assert [line.split()[0] for line in commands] == NAMES


@pytest.mark.parametrize("name", list(midivae.commands))
def test_every_command_has_a_sentence_an_example_and_exit_codes(name: str) -> None:
    text = invoke(name, "--help").stdout
    first_paragraph = text.split("\n\n")[1]
    assert first_paragraph.endswith(".")
    assert f"\n    midivae {name}" in text
    assert ("--data DIR" in text) != (name in ELSEWHERE)
    assert "0  Done." in text
    assert "130  Interrupted" in text


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_a_stage_says_what_it_reads_and_writes(stage: Stage) -> None:
    text = invoke(stage.name, "--help").stdout
    assert stage.summary in text
    assert f"Writes:  data/{stage.writes}" in text
    assert all(f"data/{folder}" in text for folder in stage.reads)


def test_help_loads_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys; from midivae.cli.main import main; main(['train', '--help']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "pyarrow", "pydantic", "yaml", "tqdm"} & set(done.stderr.split())


def test_fetch_does_not_load_torch() -> None:
    program = "import sys, midivae.fetch.stage; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()


def test_a_python_without_our_packages_is_told_what_to_do() -> None:
    words = [sys.executable, "-S", "-m", "midivae", "ingest"]  # -S: without installed packages
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "has no package 'click'; use the Python in which midivae is installed" in done.stderr
