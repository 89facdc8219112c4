"""The nights' own clone of the project: what it follows, what is committed in it, and which version is champion.

Why a clone: a stage that fails has deleted its outputs already, and nobody's work may be disturbed. It shares DVC's
cache with the project. Two files differ from the project's: params.yaml (the project's, with the values of
nightly.yaml above) and dvc.lock. Everything else is taken over from the followed branch each night; the nights' branch
is a merge of both, in which nothing can conflict.

Versions and the champion are tags in GTO's format: `model@v0.0.2` registers, `model#champion#5` assigns. They work
without a network, and `gto show`, `dvc artifacts get` and `git` read them.

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

BRANCH = "nightly"
ARTIFACT, STAGE = "model", "champion"
_OURS = ("params.yaml", "dvc.lock")


class RepositoryError(RuntimeError):
    """The clone cannot be made or brought up to date."""


def git(folder: Path, *words: str, check: bool = True) -> str:
    """What a git command prints.

    Raises:
        RepositoryError: it fails, and `check` is true.
    """
    done = subprocess.run(  # noqa: S603 - our own words
        ["git", *words],  # noqa: S607 - people choose their git by PATH
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
    """Makes the clone where there is none, and takes over what the followed branch has; returns its commit.

    Raises:
        RepositoryError: the project is no git repository, or has no commit.
    """
    clone = settings.clone
    if not (clone / ".git").exists():
        _make(settings)
    branch = settings.branch or git(clone, "config", "nightly.follows")
    git(clone, "fetch", "--quiet", "--tags", "--force", "origin", f"+refs/heads/{branch}:refs/remotes/origin/{branch}")
    followed = git(clone, "rev-parse", f"origin/{branch}")
    for left in ("index.lock", "HEAD.lock"):  # of a night that was killed: nobody else works here
        (clone / ".git" / left).unlink(missing_ok=True)
    git(clone, "merge", "--abort", check=False)
    if not _contains(clone, followed):
        _take_over(clone, followed, branch)
    git(clone, "checkout", "--quiet", "HEAD", "--", ".", f":!{_OURS[0]}", f":!{_OURS[1]}")
    return followed


def _make(settings: Settings) -> None:
    """Clones the project, with a branch, a cache and a name of its own."""
    project, clone = settings.project, settings.clone
    follows = settings.branch or git(project, "rev-parse", "--abbrev-ref", "HEAD")
    if follows == "HEAD":
        raise RepositoryError(
            f"{project}: no branch is checked out there; name the one to follow in nightly.yaml: branch"
        )
    part = clone.with_name(".clone.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    git(part.parent, "clone", "--quiet", "--branch", follows, str(project), str(part))
    git(part, "checkout", "--quiet", "-B", BRANCH, _start(part, follows))
    git(part, "config", "nightly.follows", follows)
    for name, value in (("user.name", "midivae nightly"), ("user.email", "nightly@localhost")):
        if not git(part, "config", name, check=False):
            git(part, "config", name, value)
    cache = _cache(project)
    cache.mkdir(parents=True, exist_ok=True)
    process.run(["dvc", "cache", "dir", "--local", str(cache)], part, lambda _: None)
    part.replace(clone)


def _start(clone: Path, follows: str) -> str:
    """Where the nights' branch begins: where they left it, if the project has it."""
    earlier = git(clone, "rev-parse", "--verify", "--quiet", f"origin/{BRANCH}", check=False)
    return earlier or f"origin/{follows}"


def _cache(project: Path) -> Path:
    """The folder of the project's DVC cache."""
    ended = process.run(["dvc", "cache", "dir"], project, lambda _: None)
    return (project / ended.stdout.strip().splitlines()[-1]).resolve()


def _contains(clone: Path, commit: str) -> bool:
    return git(clone, "rev-list", "--max-count=1", commit, "^HEAD") == ""


def _take_over(clone: Path, followed: str, branch: str) -> None:
    """Commits all files as the followed branch has them, but for dvc.lock, which says what is here."""
    lock = clone / "dvc.lock"
    kept = lock.read_bytes() if lock.is_file() else None
    git(clone, "read-tree", "-u", "--reset", followed)
    if kept is not None:
        lock.write_bytes(kept)
        git(clone, "add", "dvc.lock")
    tree, head = git(clone, "write-tree"), git(clone, "rev-parse", "HEAD")
    message = f"Take over {branch} at {followed[:12]}"
    made = git(clone, "commit-tree", tree, "-p", head, "-p", followed, "-m", message)
    git(clone, "reset", "--quiet", "--soft", made)


def write_params(settings: Settings, above: Mapping[str, Any]) -> None:
    """Writes params.yaml: the followed branch's, with `above` and the values of nightly.yaml in their places."""
    branch = settings.branch or git(settings.clone, "config", "nightly.follows")
    values = yaml.safe_load(git(settings.clone, "show", f"origin/{branch}:params.yaml"))
    text = yaml.safe_dump(_merged(_merged(values, settings.params), above), sort_keys=False)
    file = settings.clone / "params.yaml"
    new = file.with_name(".params.yaml.new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def _merged(values: Any, above: Any) -> Any:
    """Nested mappings, with the values of the second above those of the first."""
    if not isinstance(values, dict) or not isinstance(above, Mapping):
        return above
    return {**values, **{name: _merged(values.get(name), value) for name, value in above.items()}}


# --- the record -------------------------------------------------------------------------------------------------------
def commit(clone: Path, message: str) -> str:
    """Commits params.yaml and dvc.lock where they changed; returns the commit that has them."""
    git(clone, "add", "--", *(name for name in _OURS if (clone / name).is_file()))
    if git(clone, "diff", "--cached", "--name-only"):
        git(clone, "commit", "--quiet", "-m", message)
    return git(clone, "rev-parse", "HEAD")


def register(clone: Path) -> str:
    """The version of the current commit, newly registered where it has none."""
    found = _version_at(clone, "HEAD")
    if found is None:
        _gto(clone, "register", ARTIFACT)
        found = _version_at(clone, "HEAD")
    if found is None:
        raise RepositoryError(f"{clone}: gto registered no version of {ARTIFACT!r}; look at `gto show` there")
    return found


def assign(clone: Path, version: str) -> None:
    """Makes a version champion, unless it is."""
    if champion(clone) != version:
        _gto(clone, "assign", ARTIFACT, "--version", version, "--stage", STAGE, "--force")


def champion(clone: Path) -> str | None:
    """The version that was made champion last; None: none was."""
    tags = git(clone, "tag", "--list", f"{ARTIFACT}#{STAGE}#*").splitlines()
    if not tags:
        return None
    return _version_at(clone, max(tags, key=lambda tag: int(tag.rpartition("#")[2])))


def _version_at(clone: Path, revision: str) -> str | None:
    """The version that is registered at a commit."""
    tags = git(clone, "tag", "--points-at", f"{revision}^{{commit}}", "--list", f"{ARTIFACT}@v*").splitlines()
    found = [tag.rpartition("@")[2] for tag in tags if re.fullmatch(r"v\d+\.\d+\.\d+", tag.rpartition("@")[2])]
    return found[-1] if found else None


def _gto(clone: Path, *words: str) -> None:
    process.run(["gto", *words], clone, lambda _: None)


def push(clone: Path) -> None:
    """Sends the nights' branch and the tags of versions to the project's repository."""
    tags = (f"refs/tags/{ARTIFACT}@*:refs/tags/{ARTIFACT}@*", f"refs/tags/{ARTIFACT}#*:refs/tags/{ARTIFACT}#*")
    git(clone, "push", "--quiet", "origin", f"+{BRANCH}:{BRANCH}", *tags)
