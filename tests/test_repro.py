"""The whole pipeline under DVC, in a copy of the project with a small corpus and tiny budgets: what `.ci/run` adds."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import four_part
import pytest
import yaml
from inline import copy_project
from limits import WAIT_S
from test_project import ROOT, blocks, commands

from midivae.cli import stages
from midivae.config.params import parse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(15 * WAIT_S)]

STAGES = [stage.name for stage in stages.STAGES]
TINY = {
    "compute": {"workers": 2},
    "fetch": {"source": "folder", "path": "tunes", "licence": "none needed: made up"},
    "train": {
        "dense": {"hidden": [32], "latent": 4, "epochs": 2},
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
            "epochs": 1,
            "prior_steps": 9,
        },
        "view": {"steps": 32},
    },
    "generate": {
        "jobs": [
            {"name": "sample", "count": 20},
            {"name": "normal", "count": 5, "prior": "normal"},
            {"name": "mlp", "count": 5, "model": "mlp"},
            {"name": "autoencoder", "count": 10, "model": "autoencoder"},
            {"name": "reconstruct", "mode": "reconstruct", "count": 3},
            {"name": "vary", "mode": "vary", "count": 3},
            {"name": "joint", "mode": "ensemble", "count": 3},
            {"name": "merged", "mode": "ensemble", "method": "merged", "count": 3},
        ]
    },
    "evaluate": {"repeats": 2},
    "report": {"rolls_per_job": 3},
}


class Project:
    """A copy of the project in a git repository of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy_project(folder, lambda name: name != "dvc.lock")
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        self.write(TINY)

    def write(self, params: dict) -> None:
        """Writes params.yaml with every value spelled out: DVC wants those that it tracks to be there."""
        values = parse(params, "tiny").model_dump(mode="json")
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values))

    def call(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command as people do who have activated the environment."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            words, cwd=self.folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
        return done

    def repro(self) -> list[str]:
        """The stages that `dvc repro` ran."""
        done = self.call("dvc", "repro")
        return re.findall(r"Running stage '(\w+)'", done.stdout + done.stderr)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    four_part.write_corpus(project.folder / "tunes", pieces=40)
    (project.folder / "tunes" / "broken.mid").write_bytes(b"MThd and no more")
    assert project.repro() == STAGES
    return project


def test_dvc_leaves_the_project_as_it_was(project: Project) -> None:
    for name in ("data/.gitignore", "dvc.yaml"):
        assert (project.folder / name).read_text() == (ROOT / name).read_text()


def test_a_second_repro_does_nothing(project: Project) -> None:
    assert project.repro() == []


def test_workers_make_nothing_stale(project: Project) -> None:
    project.write({**TINY, "compute": {"workers": 1}})
    assert project.repro() == []
    project.write(TINY)


def test_every_folder_is_as_written(project: Project) -> None:
    lines = project.call("midivae", "verify").stdout.splitlines()
    assert len(lines) == len(STAGES)
    assert all(": 0 of " in line for line in lines)


def pattern(path: str) -> str:
    """A path as docs/data.md writes it, as a regular expression; a folder stands for all that is in it."""
    text = (
        re.escape(path)
        .replace(r"\*\*/", "(.*/)?")
        .replace(r"\*", "[^/]*")
        .replace("00000\\-of\\-00001", "[0-9]+-of-[0-9]+")
    )
    return re.sub(r"<\w+>", "[^/]+", text) + (".*" if path.endswith("/") else "")


def test_every_file_is_explained(project: Project) -> None:
    explained = re.findall(r"`(data/[^`]+)`", (ROOT / "docs" / "data.md").read_text())
    known = re.compile("|".join(map(pattern, explained)))
    data = project.folder / "data"
    files = [path.relative_to(project.folder).as_posix() for path in data.glob("[!.]*/**/*") if path.is_file()]
    assert len(files) > 50
    assert [name for name in files if not name.endswith("/manifest.json") and not known.fullmatch(name)] == []


def test_every_file_found_has_a_row(project: Project) -> None:
    program = """
import pandas
pieces = pandas.read_parquet("data/rolls/pieces.parquet")
rejected = pieces[~pieces.accepted]
print(len(pieces), int(pieces.accepted.sum()), list(rejected.path), list(rejected.reason))
"""
    out = project.call(sys.executable, "-c", program).stdout
    assert out.startswith("41 40 ['broken.mid'] ['bad_format']")


WITHOUT_US = "import sys; sys.modules['midivae'] = None\n"  # as where midivae is not installed


def test_pandas_reads_the_catalog_without_us(project: Project) -> None:
    program = """
import pandas
d = pandas.read_parquet("data/samples/catalog")
print(d.shape[0], d.describe().shape[0])
print(sorted(d.job.value_counts().items()))
"""
    out = project.call(sys.executable, "-c", WITHOUT_US + program).stdout
    assert out.startswith("52 8\n[('autoencoder', 10), ('joint', 3), ('merged', 3), ('mlp', 5), ('normal', 5), ")
    files = sorted((project.folder / "data" / "samples" / "midi").rglob("*.mid"))
    assert len(files) == 52
    assert all(path.read_bytes()[:4] == b"MThd" for path in files)


def test_the_roll_that_the_docs_read_is_the_one_that_we_read(project: Project) -> None:
    program = (
        blocks(ROOT / "docs" / "data.md", "python")[0]
        + """
from pathlib import Path
from midivae.music import roll
from midivae.windows.corpus import load_corpus
corpus = load_corpus(Path("data/rolls"), ["train", "valid", "test"])
piece = corpus.piece_ids.index(row["piece_id"])
ours = roll.unpack(corpus.packed[corpus.starts[piece] : corpus.starts[piece + 1]], corpus.layout)
assert planes.any() and np.array_equal(planes, ours)
"""
    )
    project.call(sys.executable, "-c", program)


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_the_python_of_the_docs_runs(project: Project, page: str) -> None:
    for block in blocks(ROOT / page, "python"):
        project.call(sys.executable, "-c", WITHOUT_US + block)


def test_the_queries_of_the_readme_run(project: Project) -> None:
    lines = [line for line in commands(ROOT / "README.md") if re.match(r"midivae (catalog|export|query) ", line)]
    assert len(lines) >= 2
    for line in lines:
        out = project.call(*shlex.split(line)).stdout
        assert all(json.loads(each) for each in out.splitlines())


def test_dvc_shows_metrics_and_plots(project: Project) -> None:
    metrics = json.loads(project.call("dvc", "metrics", "show", "--json").stdout)
    assert set(metrics[""]["data"]) == {"data/model/metrics.json", "data/evaluation/metrics.json"}
    shown = project.call("dvc", "plots", "show", "--out", "plots-page")
    assert "WARNING" not in shown.stderr, shown.stderr
    assert (project.folder / "plots-page" / "index.html").is_file()


def test_a_change_of_generate_trains_nothing(project: Project) -> None:
    jobs = [{"name": "sample", "count": 24, "threshold": 0.4}]
    project.write({**TINY, "generate": {"jobs": jobs}})
    assert project.repro() == ["generate", "evaluate", "report"]


def test_an_experiment_runs_the_code_that_it_records(project: Project) -> None:
    git = ("git", "-c", "user.name=n", "-c", "user.email=n@localhost", "-c", "commit.gpgsign=false")
    project.call(*git, "add", "--all")
    project.call(*git, "commit", "-q", "-m", "all stages")
    labels = project.folder / "midivae" / "report" / "labels.py"
    before = labels.read_text()
    labels.write_text(before.replace('"different pitches"', '"EDITED pitches"'))
    done = project.call("dvc", "exp", "run", "--temp", "report")
    assert re.findall(r"Running stage '(\w+)'", done.stdout + done.stderr) == ["report"]
    assert project.repro() == []  # the run cache has the page, and it is that of the edited code
    assert "EDITED pitches" in (project.folder / "data" / "report" / "index.html").read_text()
    labels.write_text(before)


def test_a_flipped_bit_is_named(project: Project) -> None:
    shard = next((project.folder / "data" / "rolls").glob("part-*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.unlink()  # DVC's copy in the cache stays whole
    shard.write_bytes(bytes(data))
    done = project.call("midivae", "verify", "data/rolls", check=False)
    assert done.returncode == 4
    assert shard.name in done.stderr
