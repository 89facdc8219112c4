"""The version of code follows its imports: a change below changes it, prose does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from midivae.storage import code
from midivae.storage.code import closure, code_version

# the work that is kept, by the modules that do it
WORK = {
    "ingest": ("midivae.ingest.shards",),
    "train": ("midivae.train.fit", "midivae.models.transformer"),
    "prior": ("midivae.train.fit_prior",),
    "generate": ("midivae.generate.parts",),
    "known bars": ("midivae.windows.windows",),
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package."""
    folder = tmp_path / "midivae"
    shutil.copytree(code.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def versions(package: Path) -> dict[str, str]:
    """The version of each work, read from the disk again."""
    code_version.cache_clear()
    return {name: code_version(*modules, package=package) for name, modules in WORK.items()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new))


def test_a_changed_leaf_makes_all_kept_work_stale(package: Path) -> None:
    before = versions(package)
    assert before == {name: code_version(*modules) for name, modules in WORK.items()}  # whatever the folder
    with (package / "music" / "grid.py").open("a") as file:
        file.write("\nNEW = 1\n")
    after = versions(package)
    assert all(after[name] != before[name] for name in WORK)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("train/fit.py", "steps // 4", "steps // 2"),  # how the draft is fitted
        ("train/fit.py", "own[name].shape == weight.shape", "own[name].ndim == weight.ndim"),  # the warm start
        ("models/base.py", "model.initialise(generator)", "model.initialise(generator.manual_seed(0))"),
        ("train/optimizers.py", "import torch", "import torch\n\nNEW = 1"),
    ],
)
def test_what_decides_a_model_is_part_of_the_key_of_its_training(package: Path, file: str, old: str, new: str) -> None:
    before = versions(package)
    edit(package / file, old, new)
    after = versions(package)
    assert after["train"] != before["train"]
    assert after["ingest"] == before["ingest"]


def test_prose_makes_nothing_stale(package: Path) -> None:
    before = versions(package)
    for path in package.rglob("*.py"):
        path.write_text("# A comment.\n\n" + path.read_text().replace('"""', '"""Said otherwise. ', 1))
    edit(package / "music" / "grid.py", "def ", "# Why.\ndef ")
    assert versions(package) == before


def test_what_is_not_imported_makes_nothing_stale(package: Path) -> None:
    before = versions(package)
    for name in ("cli/stages.py", "report/stage.py", "models/mlp.py", "music/smf.py"):
        with (package / name).open("a") as file:
            file.write("\nNEW = 1\n")
    after = versions(package)
    assert {name for name in WORK if after[name] != before[name]} == {"ingest", "generate"}


def test_the_rules_of_imports(tmp_path: Path) -> None:
    package = tmp_path / "ours"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("VERSION = 1\n")
    (package / "deep" / "__init__.py").write_text("from ours.deep.one import ONE\n")
    for name in ("one", "two", "three", "four"):
        (package / "deep" / f"{name}.py").write_text(f"{name.upper()} = 1\n")
    (package / "main.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "import numpy\n"
        "from ours.deep import two\n"
        "if TYPE_CHECKING:\n"
        "    from ours.deep import four\n"
        "def later():\n"
        "    try:\n"
        "        import ours.deep.three\n"
        "    except ImportError:\n"
        "        pass\n"
    )

    def found(module: str) -> set[str]:
        return {path.relative_to(package).as_posix() for path in closure(module, package)}

    assert found("ours.main") == {"main.py", "deep/two.py", "deep/three.py"}
    (package / "other.py").write_text("from ours.deep import ONE\nfrom ours import VERSION\n")
    assert found("ours.other") == {"other.py", "__init__.py", "deep/__init__.py", "deep/one.py"}
    with pytest.raises(ModuleNotFoundError, match=r"no module 'ours\.nothing'"):
        closure("ours.nothing", package)
