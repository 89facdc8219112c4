"""docs/generate.md and the notebook: every job that the page shows is made, every command and program in it runs.

The model is tiny and knows nothing, and all attributes count as known, so that it can be asked for anything.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from four_part import piece
from inline import in_this_process
from pieces import as_fetched
from test_project import ROOT, blocks, commands

from midivae.cli import main as cli
from midivae.config.params import Params, parse
from midivae.evaluate import stage as evaluate
from midivae.generate import edit, parts
from midivae.generate import stage as generate
from midivae.generate.edit import STRENGTHS
from midivae.generate.one_key import OUTSIDE
from midivae.ingest import stage as ingest
from midivae.models import coding, controls, fit_controls
from midivae.models.controls import COUPLED, KEY_SD, LEAST_EXPLAINED, REACH
from midivae.models.fit_controls import MOST_WINDOWS
from midivae.music import smf
from midivae.train import stage as train

slow = pytest.mark.slow  # a transformer plays a note at a time

PAGE = ROOT / "docs" / "generate.md"
TINY: dict[str, Any] = {
    "compute": {"workers": 1},
    "train": {
        "compare": ["mlp"],
        "view": {"steps": 32},
        "precision": 32,
        "transformer": {
            "width": 16,
            "channels": 8,
            "layers": 1,
            "heads": 2,
            "cell": 4,
            "coarse": 4,
            "fine": 4,
            "draft": 16,
            "draft_steps": 20,
            "context": 8,
            "batch_size": 8,
            "max_steps": 240,
            "epochs": 20,
            "warmup_steps": 5,
            "anneal_steps": 20,
            "learning_rate": 0.01,  # after a few steps it plays few notes at a time, and so is quick
            "prior_steps": 9,
        },
        "dense": {"hidden": [32], "latent": 4, "max_steps": 9},
    },
    "evaluate": {"repeats": 2, "bootstrap": 0, "training_windows": 64},
}
FEW = {"song": 2, "blend": 8}  # samples of a mode; a path has eight steps
BARS = 8  # of a song: four sections of one window
EXAMPLES: list[dict[str, Any]] = [yaml.safe_load(block) for block in blocks(PAGE, "yaml")]
JOBS: list[dict[str, Any]] = [job for example in EXAMPLES for job in example.get("generate", {}).get("jobs", [])]


def fewer(job: dict[str, Any]) -> dict[str, Any]:
    shorter = {"song": BARS, "infill": [2, 2]}.get(job.get("mode", "sample"))  # windows have two bars here
    less = {"bars": shorter} if "bars" in job else {}
    return {**job, **less, "count": min(job["count"], FEW.get(job.get("mode", "sample"), 5))}


def asking_for(jobs: list[dict[str, Any]]) -> Params:
    return parse({**TINY, "generate": {"jobs": jobs}}, "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tune.mid`, and `data` of a run whose jobs are all of the page."""
    folder = tmp_path_factory.mktemp("manual")
    (folder / "tune.mid").write_bytes(smf.write(piece(99)))
    files = {"bwv1.6.mid": smf.write(piece(50))} | {f"{i:02}.mid": smf.write(piece(i)) for i in range(24)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDIVAE_HOME", str(folder / "work"))
        patch.chdir(folder)
        patch.setattr(controls, "LEAST_EXPLAINED", 0.0)
        patch.setattr(fit_controls, "CALIBRATED_ON", 8)
        patch.setattr(parts, "fan_out", in_this_process)
        patch.setattr(coding, "BLOCK", 8)  # few samples are made here
        patch.setattr(edit, "STRENGTHS", (1.0, 2.0))
        as_fetched(folder / "data", files)
        params = asking_for([fewer(job) for job in JOBS])
        for room in (ingest, train, generate, evaluate):
            room.run(params, folder / "data")
    return folder


@pytest.fixture(scope="module")
def catalog(made: Path) -> pd.DataFrame:
    return pd.read_parquet(made / "data" / "samples" / "catalog")


def test_the_page_shows_every_mode_in_a_section_with_all_that_it_promises() -> None:
    text = PAGE.read_text()
    shown = {job.get("mode", "sample") for job in JOBS}
    default = {job.mode for job in Params().generate.jobs}
    assert shown == default
    for mode in default:
        [section] = [part for part in text.split("\n### ") if part.startswith(f"{mode}: ")]
        for heading in ("*For the musician:*", "*For the engineer:*", "```yaml", "*In the catalog:*"):
            assert heading in section, f"{mode}: {heading}"


def test_the_page_explains_every_setting_of_every_mode() -> None:
    text = PAGE.read_text()
    settings = {name for job in Params().generate.jobs for name in type(job).model_fields}
    assert {name for name in settings if f"`{name}`" not in text and f"`{name}:" not in text} == set()


def test_figures_of_the_page_are_those_of_the_code() -> None:
    text = " ".join(PAGE.read_text().split())
    *low, high = (f"{strength:g}" for strength in sorted(STRENGTHS))
    for said in (
        f"the logit of such a cell counts as lower by {OUTSIDE:g}.",
        f"at strengths {', '.join(low)} and {high},",
        f"at most {MOST_WINDOWS:,} training windows",
        f"at least {LEAST_EXPLAINED:g} of its variance",
        f"a correlation of {COUPLED:g} or more",
        f"up to {REACH:g} standard deviations",
        f"key: up to {REACH * KEY_SD:g} fifths",
        f"the last {generate.KEPT} folders",
    ):
        assert said in text, said


@slow
def test_every_job_of_the_page_is_made(catalog: pd.DataFrame) -> None:
    wanted = {job["name"]: fewer(job)["count"] for job in JOBS}
    assert len(wanted) == len(JOBS)  # no name twice: all go into one run
    assert catalog["job"].value_counts().to_dict() == wanted


@slow
def test_the_catalog_says_what_the_page_says_that_it_does(catalog: pd.DataFrame) -> None:
    of = dict(iter(catalog.groupby("mode")))
    assert not of["sample"]["parents"].map(len).any()
    assert of["reconstruct"]["parents"].map(lambda parents: parents[0].startswith("piece:")).all()
    assert of["vary"]["radius"].between(0, 2).all()
    shares = of["blend"][of["blend"]["method"] == "slerp"]["weights"].map(lambda weights: weights[1])
    assert (shares.iloc[0], shares.iloc[7]) == (0, 1)
    assert of["blend"][of["blend"]["job"] == "three-in-one"]["weights"].map(list).tolist() == [[0.5, 0.25, 0.25]] * 8
    edits = of["edit"][of["edit"]["job"] == "brighter"]["edits"].map(json.loads)
    assert all(set(edit["asked"]) == {"register", "key"} for edit in edits)
    assert all(set(edit["measured"]) > {"register", "key", "density", "balance:bass"} for edit in edits)
    lead = of["continue"].groupby("job")["lead_steps"].unique().map(list).to_dict()
    assert lead == {"my-tune": [32], "go-on": [32], "only-new": [0]}
    assert set(of["song"]["method"].dropna()) == {"AABA"}
    assert set(of["song"]["n_steps"]) == {16 * BARS}
    sizes = of["ensemble"].groupby("job")["z"].first().map(len).to_dict()
    assert sizes == {"quartet": 4, "strangers": 16}  # coarse latents of four dimensions, one for each part
    assert catalog[catalog["job"] == "winds-in-d"]["programs"].map(list).iloc[0] == [73, 68, 71, 70]


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with the same data, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))
    monkeypatch.setattr(controls, "LEAST_EXPLAINED", 0.0)
    monkeypatch.setattr(parts, "fan_out", in_this_process)
    monkeypatch.setattr(coding, "BLOCK", 8)
    (tmp_path / "data").mkdir()
    for name in ("rolls", "model", "evaluation", "samples"):
        (tmp_path / "data" / name).symlink_to(made / "data" / name)
    return tmp_path


@slow
def test_the_commands_of_the_page_run(here: Path) -> None:
    (here / "data" / "samples").unlink()  # the first command makes them
    (here / "more.yaml").write_text(yaml.safe_dump(TINY | EXAMPLES[0]))
    lines = commands(PAGE)
    assert len(lines) >= 3
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        if program == "python":  # the notebook, below
            assert words == NOTEBOOK
            continue
        done = CliRunner().invoke(cli.midivae, words)
        assert program == "midivae" and done.exit_code == 0, f"{line}\n{done.output}"
    assert {path.name[:10] for path in (here / "chosen").glob("*.mid")} == {"near-bwv-1"}


@slow
def test_the_python_of_the_page_runs(here: Path) -> None:
    programs = blocks(PAGE, "python")
    assert len(programs) >= 2
    for program in programs:
        done = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "density" in done.stdout


# --- the notebook -----------------------------------------------------------------------------------------------------
NOTEBOOK = ["notebooks/catalog.py", "--data", "data", "--out", "picked"]


def run_notebook(here: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / NOTEBOOK[0]), *NOTEBOOK[1:]]
    return subprocess.run(program, cwd=here, capture_output=True, text=True)


@slow
def test_the_notebook_runs_from_top_to_bottom(here: Path) -> None:
    done = run_notebook(here)
    assert done.returncode == 0, done.stderr
    picked = here / "picked"
    for name in ("features", "control", "blend"):
        assert (picked / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = pd.read_csv(picked / "catalog.csv")
    assert 1 <= len(rows) <= 10
    assert (rows["scale_consistency"] > 0.9).all()
    assert {path.stem for path in picked.glob("*.mid")} == set(rows["sample_id"])


@slow
def test_the_notebook_says_what_is_missing(here: Path) -> None:
    (here / "data" / "samples").unlink()
    done = run_notebook(here)
    assert done.returncode != 0
    assert "run stage `generate`" in done.stderr
