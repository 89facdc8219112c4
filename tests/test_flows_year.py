"""A dry year: 365 nights of a toy pipeline through the nights' own steps; nothing grows that should not.

`MIDIVAE_NIGHTS=30` makes it shorter, for a look.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_project import ROOT

from flows import dvc, nightly, repository
from flows.settings import Settings
from midivae.champion import versions

NIGHTS = int(os.environ.get("MIDIVAE_NIGHTS", "365"))
PROMOTED = 3  # every third night is
MAKE = """
import sys, yaml
sys.path.insert(0, "tests")
from pathlib import Path
from champion.test_versions import write_data
night = yaml.safe_load(Path("params.yaml").read_text())["night"]
write_data(Path("data"), f"{night:04d}" * 200)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * 3600)]


@pytest.fixture
def toy(tmp_path: Path) -> Settings:
    """Settings of a project whose one stage leaves what six would."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    shutil.copytree(ROOT / "midivae", folder / "midivae", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("limits.py", "champion/__init__.py", "champion/test_versions.py"):
        (folder / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "tests" / name, folder / "tests" / name)
    outs = [f"data/{name}" for name in versions.FOLDERS]
    stage = {"cmd": f"{sys.executable} make.py", "params": ["night"], "outs": outs}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"all": stage}}))
    (folder / "make.py").write_text(MAKE)
    (folder / "params.yaml").write_text("night: 0\n")
    (folder / "nightly.yaml").write_text("keep_versions: 3\nkeep_days: 0\nkeep_commits: 2\n")
    (folder / ".gitignore").write_text("/.nightly\n/data\n__pycache__\n")
    for words in (["init", "-q", "-b", "main"], ["config", "user.name", "t"], ["config", "user.email", "t@localhost"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "toy"], cwd=folder, check=True)
    return Settings.load(folder / "nightly.yaml")


def size(folder: Path) -> int:
    """Bytes below a folder, of each file once."""
    seen = {(s.st_ino, s.st_size) for path in folder.rglob("*") if path.is_file() and (s := path.lstat())}
    return sum(length for _, length in seen)


def test_a_year_of_nights_grows_neither_memory_nor_disk(toy: Settings) -> None:
    cache = toy.project / ".dvc" / "cache" / "files"
    verdict = {"why": "promoted: a toy", "challenger": {"nats_per_step": 1.0}, "champion": None}
    marks: list[tuple[int, int, int]] = []  # bytes of memory, of what is published, of DVC's cache
    for night in range(1, NIGHTS + 1):
        repository.prepare(toy)
        repository.write_params(toy, {"night": night})
        assert dvc.repro(toy.clone, "all", lambda _: None).outcome == "ran"
        (toy.under("gate.json")).write_text("{}")
        if night % PROMOTED == 1:
            nightly.promote.fn(toy, verdict)
        nightly.clean_up.fn(toy)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        marks.append((memory, size(toy.published_folder), size(cache)))

    warm = marks[min(NIGHTS // 2, 20)]
    memory, published, cached = (max(each) for each in zip(*marks[NIGHTS // 2 :], strict=True))
    assert memory < warm[0] + 32 * 2**20
    assert published < 1.5 * warm[1]
    assert cached < 1.5 * warm[2]
    # what is kept: three newest, of which one is current and one was before it
    assert len(versions.names(toy.published_folder)) == 3
    assert not [path for path in (toy.published_folder / "versions").iterdir() if "staging" in path.name]
    # and DVC's cache still has what it must: the last night's data, and the last promoted before
    assert dvc.repro(toy.clone, "all", lambda _: None).outcome == "cached"
    subprocess.run(["git", "checkout", "-q", "-f", "HEAD"], cwd=toy.clone, check=True)
    shutil.rmtree(toy.clone / "data")
    done = subprocess.run(
        [Path(sys.executable).parent / "dvc", "checkout"], cwd=toy.clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    here = versions.current(toy.published_folder)
    assert here is not None
    assert (toy.clone / "data" / "rolls" / "file").read_bytes() == (here / "rolls" / "file").read_bytes()
