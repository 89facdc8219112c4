"""The nights' own clone of the project: the branch that it follows, its commits, and the version that is champion.

The nights need a clone because a failed stage has already deleted its outputs, and because nobody's work may be
disturbed. The clone shares DVC's cache with the project. Two files differ from the project's: params.yaml (the
project's, with the values of nightly.yaml on top) and dvc.lock. All other files are taken from the followed branch each
night; the nights' branch merges both, and nothing can conflict.

Versions and the champion are tags in GTO's format: `model@v0.0.2` registers, `model#champion#5` assigns. They need no
network, and `gto show`, `dvc artifacts get` and `git` read them.

Offers: `prepare`, `write_params`, `commit`, `register`, `assign`, `champion`, `push`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows import process
from flows.settings import Settings
from midivae.storage.files import write_bytes

BRANCH = "nightly"
ARTIFACT, STAGE = "model", "champion"
_OURS = ("params.yaml", "dvc.lock")
_UNSIGNED = ("commit.gpgSign", "tag.gpgSign", "tag.forceSignAnnotated", "push.gpgSign")  # nobody can type a passphrase


class RepositoryError(RuntimeError):
    """The clone cannot be made or brought up to date."""


def git(folder: Path, *words: str, check: bool = True) -> str:
    """The output of a git command, which runs no hooks; empty if it fails and `check` is false.

    Raises:
        RepositoryError: it fails, and `check` is true.
    """
    done = subprocess.run(  # noqa: S603 - our own words
        ["git", "-c", f"core.hooksPath={os.devnull}", *words],  # noqa: S607 - PATH decides which git
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
    )
    if check and done.returncode:
        raise RepositoryError(
            f"`git {' '.join(words)}` in {folder} failed: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout.strip() if done.returncode == 0 else ""


# --- following the project --------------------------------------------------------------------------------------------
def prepare(settings: Settings) -> str:
    """Makes the clone if there is none, and merges the followed branch; returns the commit of that branch.

    Raises:
        RepositoryError: the project is no git repository, or has no commit.
    """
    clone = settings.clone
    if not (clone / ".git").exists():
        _clone(settings)
    for name in _UNSIGNED:
        git(clone, "config", name, "false")
    branch = settings.branch or git(clone, "config", "nightly.follows")
    git(clone, "fetch", "--quiet", "--tags", "--force", "origin", f"+refs/heads/{branch}:refs/remotes/origin/{branch}")
    followed = git(clone, "rev-parse", f"origin/{branch}")
    for lock in ("index.lock", "HEAD.lock"):  # left by a killed night: no other process works here
        (clone / ".git" / lock).unlink(missing_ok=True)
    if git(clone, "rev-list", "--max-count=1", followed, "^HEAD"):
        _merge(clone, followed, branch)
    git(clone, "checkout", "--quiet", "HEAD", "--", ".", f":!{_OURS[0]}", f":!{_OURS[1]}")
    return followed


def _clone(settings: Settings) -> None:
    """Clones the project; sets the nights' branch, the committer and the shared cache."""
    project, clone = settings.project, settings.clone
    follows = settings.branch or git(project, "rev-parse", "--abbrev-ref", "HEAD")
    if follows == "HEAD":
        raise RepositoryError(
            f"{project}: no branch is checked out there; name the one to follow in nightly.yaml: branch"
        )
    part = clone.with_name(".clone.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    git(part.parent, "clone", "--quiet", "--template=", "--branch", follows, str(project), str(part))
    earlier = git(part, "rev-parse", "--verify", "--quiet", f"origin/{BRANCH}", check=False)
    git(part, "checkout", "--quiet", "-B", BRANCH, earlier or f"origin/{follows}")
    git(part, "config", "nightly.follows", follows)
    for name, value in (("user.name", "midivae nightly"), ("user.email", "nightly@localhost")):
        if not git(part, "config", name, check=False):
            git(part, "config", name, value)
    cache = _cache(project)
    cache.mkdir(parents=True, exist_ok=True)
    process.run(["dvc", "cache", "dir", "--local", str(cache)], part, lambda _: None)
    part.replace(clone)


def _cache(project: Path) -> Path:
    """The folder of the project's DVC cache."""
    ended = process.run(["dvc", "cache", "dir"], project, lambda _: None)
    return (project / ended.stdout.strip().splitlines()[-1]).resolve()


def _merge(clone: Path, followed: str, branch: str) -> None:
    """Commits all files of the followed branch, but keeps dvc.lock, which describes the data in the clone."""
    lock = clone / "dvc.lock"
    content = lock.read_bytes() if lock.is_file() else None
    git(clone, "read-tree", "-u", "--reset", followed)
    if content is not None:
        lock.write_bytes(content)
        git(clone, "add", "dvc.lock")
    tree, head = git(clone, "write-tree"), git(clone, "rev-parse", "HEAD")
    message = f"Take over {branch} at {followed[:12]}"
    merge = git(clone, "commit-tree", tree, "-p", head, "-p", followed, "-m", message)
    git(clone, "reset", "--quiet", "--soft", merge)


def write_params(settings: Settings, above: Mapping[str, Any]) -> None:
    """Writes params.yaml: that of the followed branch, overridden by nightly.yaml and then by `above`."""
    branch = settings.branch or git(settings.clone, "config", "nightly.follows")
    values = yaml.safe_load(git(settings.clone, "show", f"origin/{branch}:params.yaml"))
    text = yaml.safe_dump(_merged(_merged(values, settings.params), above), sort_keys=False)
    write_bytes(settings.clone / "params.yaml", text.encode())


def _merged(values: Any, above: Any) -> Any:
    """Nested mappings; values of the second override those of the first."""
    if not isinstance(values, dict) or not isinstance(above, Mapping):
        return above
    return {**values, **{name: _merged(values.get(name), value) for name, value in above.items()}}


# --- the record -------------------------------------------------------------------------------------------------------
def commit(clone: Path, message: str) -> str:
    """Commits params.yaml and dvc.lock if they changed; returns the commit that has them."""
    git(clone, "add", "--", *(name for name in _OURS if (clone / name).is_file()))
    if git(clone, "diff", "--cached", "--name-only"):
        git(clone, "commit", "--quiet", "-m", message)
    return git(clone, "rev-parse", "HEAD")


def register(clone: Path) -> str:
    """The version of the current commit; it is registered if it has none."""
    if _version_at(clone, "HEAD") is None:
        _gto(clone, "register", ARTIFACT)
    version = _version_at(clone, "HEAD")
    if version is None:
        raise RepositoryError(f"{clone}: gto registered no version of {ARTIFACT!r}; look at `gto show` there")
    return version


def assign(clone: Path, version: str) -> None:
    """Makes a version champion, unless it is already."""
    if champion(clone) != version:
        _gto(clone, "assign", ARTIFACT, "--version", version, "--stage", STAGE, "--force")


def champion(clone: Path) -> str | None:
    """The version that was made champion last; None: there is no champion."""
    tags = git(clone, "tag", "--list", f"{ARTIFACT}#{STAGE}#*").splitlines()
    if not tags:
        return None
    return _version_at(clone, max(tags, key=lambda tag: int(tag.rpartition("#")[2])))


def _version_at(clone: Path, revision: str) -> str | None:
    """The version that is registered at a commit."""
    tags = git(clone, "tag", "--points-at", f"{revision}^{{commit}}", "--list", f"{ARTIFACT}@v*").splitlines()
    names = [name for tag in tags if re.fullmatch(r"v\d+\.\d+\.\d+", name := tag.rpartition("@")[2])]
    return names[-1] if names else None


def _gto(clone: Path, *words: str) -> None:
    process.run(["gto", *words], clone, lambda _: None)


def push(clone: Path) -> None:
    """Pushes the nights' branch and the tags of versions to the project's repository."""
    tags = (f"refs/tags/{ARTIFACT}@*:refs/tags/{ARTIFACT}@*", f"refs/tags/{ARTIFACT}#*:refs/tags/{ARTIFACT}#*")
    git(clone, "push", "--quiet", "origin", f"+{BRANCH}:{BRANCH}", *tags)
