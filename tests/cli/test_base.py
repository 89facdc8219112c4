"""Folders that cannot be written: one sentence with the path and the setting, exit code 3, nothing half-written."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import four_part
import pytest
from limits import WAIT_S
from program import invoke, replace_stage

from midivae import errors

PARAMS = "{fetch: {source: folder, path: tunes}, ingest: {parts: {rule: merged}}}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `tunes`, `params.yaml` and a corpus in `data`; `file` is a file, so nothing can be below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "home"))
    four_part.write_corpus(tmp_path / "tunes", 3)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "file").touch()
    assert invoke("fetch", "--quiet").exit_code == 0
    return tmp_path


def everything(folder: Path) -> dict[str, int]:
    """Every file, and its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


TUNE = "tunes/piece-000.mid"


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (["fetch", "--data", "file/data"], "--data"),
        (["inbox", "tunes", "file/corpus", "--occasion", "one", "--settle", "0"], "CORPUS"),
        (["plot", TUNE, "--output", "file/tune.png"], "--output"),
        (["render", TUNE, "--output", "file/audio"], "--output"),
        (["publish", "v1", "--published", "file/published"], "--published"),
    ],
)
def test_a_folder_below_a_file_is_one_sentence(project: Path, words: list[str], setting: str) -> None:
    before = everything(project)
    result = invoke(*words)
    assert result.exit_code == errors.FolderError.exit_code, result.output
    [line] = [line for line in result.stderr.splitlines() if line.startswith("midivae ")]
    assert re.match(rf"midivae {words[0]}: ({re.escape(str(project))}/)?file\b", line)
    assert line.endswith(
        f"Not a directory; free space or change the permissions, or name another folder with {setting}"
    )
    assert everything(project) == before


def test_a_work_directory_that_cannot_be_made_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDIVAE_HOME", "/proc/home")
    result = invoke("ingest", "--quiet")
    assert result.exit_code == 3
    assert "midivae ingest: /proc/home" in result.stderr
    assert result.stderr.endswith("with MIDIVAE_HOME\n")
    assert not (project / "data" / "rolls").exists()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("name", ["data/rolls/part", None])
def test_other_writes_of_a_stage_are_told_too(
    project: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str | None
) -> None:
    replace_stage(monkeypatch, "ingest", OSError(code, os.strerror(code), name))
    result = invoke("ingest")
    assert result.exit_code == 3
    assert os.strerror(code) in result.stderr
    assert result.stderr.count("\n") == 1
    assert name is None or result.stderr.endswith("with --data\n")


def test_no_folder_for_compiled_code(project: Path) -> None:
    """Numba's locator for zip files finds no folder for the modules of a package on disk."""
    done = subprocess.run(
        [sys.executable, "-m", "midivae", "ingest"],
        env={**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.endswith("set NUMBA_CACHE_DIR to one that can\n")
    assert done.stderr.count("\n") == 1


def test_an_error_that_is_of_no_folder_keeps_its_traceback(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_stage(monkeypatch, "ingest", OSError(errno.EIO, "a bug"))
    assert isinstance(invoke("ingest").exception, OSError)


@pytest.mark.parametrize(
    ("words", "setting", "limit"),
    [
        (["fetch", "--data", "new"], "--data", 100),
        (["ingest"], "MIDIVAE_HOME", 5000),  # enough for the worker processes, not for a table
        (["plot", TUNE, "--output", "tune.png"], "--output", 100),
    ],
)
def test_a_full_disk_leaves_nothing_half_written(project: Path, words: list[str], setting: str, limit: int) -> None:
    """The system refuses files of more than so many bytes."""
    before = everything(project)
    done = subprocess.run(
        [sys.executable, "-m", "midivae", *words],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 3, done.stderr
    assert "File too large; " in done.stderr
    assert f"with {setting}" in done.stderr
    shutil.rmtree(project / "home", ignore_errors=True)
    assert everything(project) == before
