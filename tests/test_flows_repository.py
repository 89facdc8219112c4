"""The repositories of the nights: stages under DVC, the clone, its commits and tags, and what a night completes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from champion.test_versions import write_data
from limits import HANG_S
from test_flows import quiet
from test_project import DVC, ROOT

from flows import dvc, nightly, process, repository
from flows.settings import Settings
from midivae.champion import versions

PYTHON = sys.executable


# --- DVC --------------------------------------------------------------------------------------------------------------
def test_stages_are_in_topological_order(tmp_path: Path) -> None:
    assert dvc.stages(ROOT) == list(DVC["stages"])
    mixed = {"stages": {name: DVC["stages"][name] for name in reversed(list(DVC["stages"]))}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(mixed, sort_keys=False))
    order = dvc.stages(tmp_path)
    made: set[str] = set()
    for name in order:
        reads = {dep for dep in DVC["stages"][name]["deps"] if dep.startswith("data/")}
        assert reads <= made
        made |= set(DVC["stages"][name]["outs"])


@pytest.fixture
def little(tmp_path: Path) -> Path:
    """A repository with one stage that copies a file."""
    folder = tmp_path / "little"
    folder.mkdir()
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    stage = {"cmd": "cat in > out && echo line", "deps": ["in"], "outs": ["out"]}
    broken = {"cmd": "echo sorry >&2; exit 7", "outs": ["never"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage, "broken": broken}}))
    (folder / "in").write_text("first")
    return folder


def test_a_stage_runs_is_cached_and_is_restored(little: Path) -> None:
    lines: list[str] = []
    assert dvc.repro(little, "copy", lines.append).outcome == "ran"
    assert "line" in lines
    assert dvc.repro(little, "copy", quiet).outcome == "cached"
    (little / "in").write_text("second")
    assert dvc.repro(little, "copy", quiet).outcome == "ran"
    (little / "in").write_text("first")
    restored = dvc.repro(little, "copy", quiet)
    assert restored.outcome == "restored" and restored.seconds > 0
    assert (little / "out").read_text() == "first"
    assert dvc.repro(little, "copy", quiet, force=True).outcome == "ran"


def test_a_stage_that_fails_says_its_last_lines(little: Path) -> None:
    with pytest.raises(dvc.StageFailed, match="stage broken failed") as caught:
        dvc.repro(little, "broken", quiet)
    assert "sorry" in str(caught.value)


@pytest.mark.parametrize("lock", ["repository", "paths"])
def test_both_locks_of_dvc_are_told_from_failures(little: Path, lock: str) -> None:
    dvc.repro(little, "copy", quiet)
    (little / "in").write_text("other")
    if lock == "paths":
        holder = {"pid": os.getpid(), "cmd": "another"}
        path = str(little / "out")
        (little / ".dvc" / "tmp" / "rwlock").write_text(json.dumps({"read": {}, "write": {path: holder}}))
        with pytest.raises(dvc.Locked, match="is busy, it is being blocked by"):
            dvc.repro(little, "copy", quiet)
        return
    program = "\n".join(
        [
            "import time",
            "from dvc.repo import Repo",
            "with Repo('.').lock:",
            "    print('locked', flush=True)",
            f"    time.sleep({HANG_S})",
        ]
    )
    with subprocess.Popen([PYTHON, "-c", program], cwd=little, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(dvc.Locked, match="Unable to acquire lock"):
            dvc.repro(little, "copy", quiet)
        other.kill()


# --- the clone --------------------------------------------------------------------------------------------------------
@pytest.fixture
def followed(little: Path) -> Settings:
    """Settings for a project that has been committed."""
    (little / "params.yaml").write_text("fetch: {source: chorales}\ntrain: {seed: 0, epochs: 1}\n")
    (little / "nightly.yaml").write_text("params: {train: {epochs: 2}}\n")
    (little / ".gitignore").write_text("/.nightly\n/out\n/.dvc/tmp\n")
    for name, value in (("user.name", "tests"), ("user.email", "tests@localhost")):
        subprocess.run(["git", "config", name, value], cwd=little, check=True)
    commit(little, "first")
    return Settings.load(little / "nightly.yaml")


def commit(folder: Path, message: str) -> None:
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "--quiet", "-m", message], cwd=folder, check=True)


def test_the_clone_follows_the_project_and_keeps_its_own_two_files(followed: Settings) -> None:
    project, clone = followed.project, followed.clone
    repository.prepare(followed)
    repository.write_params(followed, {"train": {"seed": 5}})
    assert yaml.safe_load((clone / "params.yaml").read_text())["train"] == {"seed": 5, "epochs": 2}
    dvc.repro(clone, "copy", quiet)
    repository.commit(clone, "one")
    lock = (clone / "dvc.lock").read_text()

    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (project / "in").write_text("second")
    (project / "params.yaml").write_text("fetch: {source: folder}\ntrain: {seed: 0, epochs: 1, more: 1}\n")
    (project / "new").write_text("new")
    commit(project, "second")
    repository.prepare(followed)
    assert (clone / "in").read_text() == "second" and (clone / "new").exists()
    assert (clone / "dvc.lock").read_text() == lock
    repository.write_params(followed, {})
    assert yaml.safe_load((clone / "params.yaml").read_text()) == {
        "fetch": {"source": "folder"},
        "train": {"seed": 0, "epochs": 2, "more": 1},
    }
    (project / "new").unlink()
    commit(project, "third")
    (clone / "in").write_text("somebody's edit")
    repository.prepare(followed)
    assert not (clone / "new").exists() and (clone / "in").read_text() == "second"
    assert repository.git(clone, "rev-list", "--count", "HEAD", "^origin/main") == "3"  # one night, two take-overs
    repository.prepare(followed)
    assert repository.git(clone, "rev-list", "--count", "HEAD", "^origin/main") == "3"


def test_the_clone_shares_the_projects_cache(followed: Settings) -> None:
    project = followed.project
    dvc.repro(project, "copy", quiet)
    repository.prepare(followed)
    assert process.run(["dvc", "cache", "dir"], followed.clone, quiet).stdout.strip() == str(project / ".dvc" / "cache")
    assert dvc.repro(followed.clone, "copy", quiet).outcome == "restored"


def test_versions_and_champions_are_tags_that_gto_reads(followed: Settings) -> None:
    repository.prepare(followed)
    clone = followed.clone
    assert repository.champion(clone) is None
    repository.write_params(followed, {"train": {"seed": 1}})
    repository.commit(clone, "one")
    assert repository.register(clone) == "v0.0.1"
    assert repository.register(clone) == "v0.0.1"  # a night that was killed here goes on
    repository.assign(clone, "v0.0.1")
    repository.write_params(followed, {"train": {"seed": 2}})
    repository.commit(clone, "two")
    assert repository.register(clone) == "v0.0.2"
    assert repository.champion(clone) == "v0.0.1"
    repository.assign(clone, "v0.0.2")
    repository.assign(clone, "v0.0.2")
    repository.assign(clone, "v0.0.1")  # back
    assert repository.champion(clone) == "v0.0.1"
    tags = repository.git(clone, "tag").splitlines()
    assert tags == ["model#champion#1", "model#champion#2", "model#champion#3", "model@v0.0.1", "model@v0.0.2"]
    assert "v0.0.1" in process.run(["gto", "show", "model#champion"], clone, quiet).stdout
    repository.push(clone)
    assert repository.git(followed.project, "tag").splitlines() == tags


def test_the_clone_neither_signs_nor_runs_hooks(
    followed: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks, template, ran = tmp_path / "hooks", tmp_path / "template", tmp_path / "ran"
    for folder in (hooks, template / "hooks"):
        folder.mkdir(parents=True)
        for name in ("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "post-checkout", "pre-push"):
            (folder / name).write_text(f"#!/bin/sh\necho {name} >> '{ran}'\nexit 1\n")
            (folder / name).chmod(0o755)
    config = f"""
[commit]
    gpgSign = true
[tag]
    gpgSign = true
    forceSignAnnotated = true
[push]
    gpgSign = true
[gpg]
    program = false
[init]
    templateDir = {template}
"""
    (tmp_path / "gitconfig").write_text(f"{config}[core]\n    hooksPath = {hooks}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    repository.prepare(followed)
    clone = followed.clone
    assert not list((clone / ".git").glob("hooks/*"))
    repository.write_params(followed, {"train": {"seed": 1}})
    repository.commit(clone, "one")
    repository.assign(clone, repository.register(clone))
    repository.push(clone)
    assert repository.champion(followed.project) == "v0.0.1"
    assert repository.git(clone, "log", "-1", "--format=%s %G?") == "one N"
    assert "SIGNATURE" not in repository.git(clone, "cat-file", "tag", "model@v0.0.1")
    assert not ran.exists()


def test_a_project_without_a_branch_is_refused(followed: Settings) -> None:
    repository.git(followed.project, "checkout", "--quiet", "--detach")
    with pytest.raises(repository.RepositoryError, match="no branch is checked out"):
        repository.prepare(followed)


# --- what a night makes up for ----------------------------------------------------------------------------------------
def test_a_night_cut_off_between_switch_and_tag_is_made_up_for(followed: Settings, tmp_path: Path) -> None:
    repository.prepare(followed)
    repository.write_params(followed, {"train": {"seed": 1}})
    repository.commit(followed.clone, "one")
    version = repository.register(followed.clone)
    versions.publish(write_data(tmp_path / "data", "a"), followed.published_folder, version)
    nightly.recover.fn(followed)
    assert repository.champion(followed.clone) is None  # it is not what people read
    versions.switch(followed.published_folder, version)
    nightly.recover.fn(followed)
    assert repository.champion(followed.clone) == version


def test_the_cache_is_left_alone_while_a_stage_runs(followed: Settings) -> None:
    repository.prepare(followed)
    dvc.repro(followed.clone, "copy", quiet)
    (followed.clone / "in").write_text("second")
    dvc.repro(followed.clone, "copy", quiet)
    cache = followed.project / ".dvc" / "cache" / "files"
    before = sorted(path.name for path in cache.rglob("*") if path.is_file())
    assert len(before) == 2
    lock = followed.project / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(json.dumps({"read": {}, "write": {str(followed.project / "out"): {"pid": 1, "cmd": "x"}}}))
    nightly.clean_up.fn(followed)
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == before
    gone = subprocess.Popen([PYTHON, "-c", ""])
    gone.wait()
    lock.write_text(json.dumps({"read": {"x": [{"pid": gone.pid, "cmd": "was killed"}]}, "write": {}}))
    nightly.clean_up.fn(followed)
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 1  # what is in use
