"""docs/tutorial.md from top to bottom, as a shell and Python run it, on a tiny corpus with a tiny model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import four_part
import pytest
import yaml
from limits import WAIT_S
from test_project import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(15 * WAIT_S)]

PAGE = ROOT / "docs" / "tutorial.md"
TINY: dict[str, Any] = {  # what is put over the page's own values, so that it takes a minute
    "compute": {"workers": 2},
    "train": {
        "view": {"steps": 32},
        "transformer": {"width": 16, "channels": 8, "layers": 1, "heads": 2, "cell": 4, "context": 8}
        | {"coarse": 8, "fine": 4, "draft": 16, "draft_steps": 20}
        | {"batch_size": 8, "max_steps": 120, "anneal_steps": 9, "prior_steps": 9, "learning_rate": 0.01},
    },
    "evaluate": {"repeats": 2, "bootstrap": 0, "training_windows": 64},
    "report": {"rolls_per_job": 3},
}


def over(values: dict[str, Any], tiny: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second over the first."""
    both = {name: over(values.get(name, {}), value) for name, value in tiny.items() if isinstance(value, dict)}
    return values | tiny | both


def fewer(values: dict[str, Any]) -> dict[str, Any]:
    jobs = [{**job, "count": min(job["count"], 8)} for job in values.get("generate", {}).get("jobs", [])]
    return values | {"generate": {"jobs": jobs}} if jobs else values


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder after all blocks of the page, in its order, and what each printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    four_part.write_corpus(folder / "tunes", pieces=40)
    (folder / "tunes" / "zz-broken.mid").write_bytes(b"MThd and no more")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("MIDIVAE_HOME", None)
    mine: dict[str, Any] = {}
    said = []
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if language == "yaml":  # a section that comes again takes the place of the one before
            mine |= yaml.safe_load(block)
            (folder / "mine.yaml").write_text(yaml.safe_dump(over(fewer(mine), TINY)))
            continue
        program = {"sh": ["bash", "-euc", block], "python": [sys.executable, "-c", block]}[language]
        done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    return folder, said


def test_the_tutorial_walks_from_files_to_samples(walked: tuple[Path, list[str]]) -> None:
    folder, said = walked
    ingested = json.loads(said[0].splitlines()[-1])
    assert (ingested["found"], ingested["accepted"]) == (41, 40)
    assert "zz-broken.mid" in said[1] and "bad_format" in said[1]
    assert "accepted" in said[2]
    assert (folder / "data-mine" / "report" / "index.html").is_file()
    assert len(list((folder / "chosen").glob("*.mid"))) == 10
    assert (folder / "chosen" / "catalog.csv").is_file()


def test_more_was_asked_for_at_the_end(walked: tuple[Path, list[str]]) -> None:
    folder, said = walked
    last = json.loads(said[-1].splitlines()[-1])
    assert set(last["jobs"]) == {"new", "go-on", "again"}
    assert last["parts_reused"] == 1  # the job `new`, which had been asked for before
    jobs = {path.name for path in (folder / "data-mine" / "samples" / "midi").iterdir()}
    assert jobs == {"new", "go-on", "again"}
