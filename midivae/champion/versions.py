"""Published versions, and `current`, the one that people read.

    published/
      versions/v0.0.1/     model, rolls, samples, evaluation and report as the stages wrote them, with manifests;
                           params.yaml and gate.json; version.json: its name, its champion, the version before
      current              a symbolic link to a version

A version is written under another name, synced, then renamed; `current` changes by one rename of a link. A reader
resolves the link once (`os.path.realpath("published/current")`) and reads below the result: so it reads one version,
whatever happens meanwhile. Reading through the link itself is not safe even for one file: pandas opens it twice.

A version never changes. Samples are added by writing another version, which shares the unchanged files of the first by
hard links (all files are read-only, and nothing writes to a file in place).

Offers: `publish`, `append`, `switch`, `rollback`, `prune`, `history`, `current`, `read_current` and `locked`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from midivae.errors import CorruptError, InputError, ParamsError
from midivae.storage import folders, tables
from midivae.storage.files import copy_file, file_sha256, make_folder, read_json, write_json, writing
from midivae.storage.paths import WEIGHTS, catalog_files, job_of
from midivae.storage.schema import CATALOG

FOLDERS = ("model", "rolls", "samples", "evaluation", "report")
FACTS = "version.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")


@dataclass(frozen=True)
class Version:
    """The content of version.json.

    Attributes:
        name: of its folder.
        champion: name of the version that brought its model; its own name unless samples were added.
        before: name of the version that was current before the champion; None: there was none.
        samples: rows of its catalog.
        model_sha256: of the model's weights.
    """

    name: str
    champion: str
    before: str | None
    samples: int
    model_sha256: str


# --- reading ----------------------------------------------------------------------------------------------------------
def current(published: Path) -> Path | None:
    """The folder of the current version; None: nothing is published."""
    link = published / "current"
    return link.resolve() if link.is_symlink() and link.exists() else None


def read(folder: Path) -> Version:
    """The facts of the version in a folder.

    Raises:
        InputError: the folder holds no version.
        CorruptError: its version.json is damaged.
    """
    values = read_json(folder / FACTS)
    try:
        return Version(**values)
    except TypeError as error:
        raise CorruptError(f"{folder / FACTS}: not what this release writes ({error}); publish it again") from error


def read_current(published: Path) -> Version | None:
    """The facts of the current version; None: nothing is published."""
    folder = current(published)
    return None if folder is None else read(folder)


def names(published: Path) -> list[str]:
    """The names of all versions, sorted."""
    folder = published / "versions"
    return sorted(path.parent.name for path in folder.glob(f"*/{FACTS}") if _NAME.fullmatch(path.parent.name))


# --- writing ----------------------------------------------------------------------------------------------------------
def locked(published: Path) -> FileLock:
    """A lock for processes that change what is published: one at a time, others wait."""
    make_folder(published)
    return FileLock(published / ".lock")


def publish(data: Path, published: Path, name: str, notes: Mapping[str, Path] | None = None) -> Version:
    """Writes the results of all stages in `data` as the version `name`; `current` stays as it is.

    A version of that name that is not current, such as one that a killed run left, is replaced.

    Args:
        data: the folder of all stages; the copies are compared with the manifests.
        published: the folder of versions.
        name: of the version.
        notes: further files of the version, by name.

    Raises:
        ParamsError: `name` is no plain name, or the name of the current version.
        InputError, CorruptError: a stage's folder is missing or damaged.
        FolderError: the folder cannot be written, or the disk is full. What was published stays as it was.
    """
    if not _NAME.fullmatch(name):
        raise ParamsError(f"version {name!r}: must be a plain name of letters, digits, '.', '_', '+' and '-'")
    before = read_current(published)
    if before is not None and before.name == name:
        raise ParamsError(f"version {name!r} is the current one; publish under another name")

    with _writing(published, name, notes or {}) as staging:
        for folder in FOLDERS:
            _copy(data / folder, staging / folder)
        _describe(staging, name, name, before.name if before else None)
    return read(published / "versions" / name)


def append(published: Path, samples: Path, base: Version, notes: Mapping[str, Path] | None = None) -> Version:
    """Writes a copy of the version `base` whose jobs are replaced by those of the same name in `samples`.

    Other jobs stay, and so does `current`. The new name is that of the champion with a number.

    Args:
        published: the folder of versions.
        samples: a folder that stage `generate` wrote.
        base: the version to copy.
        notes: files that replace those of the same name.

    Raises:
        InputError, CorruptError: something is missing or damaged.
        FolderError: the folder cannot be written, or the disk is full. What was published stays as it was.
    """
    old = published / "versions" / base.name
    numbers = [int(n.rpartition("+")[2]) for n in names(published) if n.startswith(f"{base.champion}+")]
    name = f"{base.champion}+{max(numbers, default=0) + 1}"
    jobs = {job_of(path) for path in catalog_files(samples / "catalog")}

    with _writing(published, name, notes or {}) as staging:
        for path in old.rglob("*"):
            relative = path.relative_to(old)
            if path.is_file() and relative.parts[0] not in ("samples", FACTS, *(notes or {})):
                _link(path, staging / relative)
        with folders.publishing(staging / "samples") as folder:
            for relative in _files(old / "samples"):
                if _job(relative) not in jobs:
                    _link(old / "samples" / relative, folder / relative)
            for relative in _files(samples):
                copy_file(samples / relative, folder / relative)
        _describe(staging, name, base.champion, base.before)
    return read(published / "versions" / name)


@contextmanager
def _writing(published: Path, name: str, notes: Mapping[str, Path]) -> Iterator[Path]:
    """A folder to write a version into; it gets the notes, becomes read-only, is synced, and then gets its name."""
    target = published / "versions" / name
    staging = target.parent / f".{name}.staging-{os.getpid()}"
    with writing(target):
        for left in target.parent.glob(".*.staging-*"):
            shutil.rmtree(left)  # left by a killed process: the caller holds the lock
        staging.mkdir(parents=True)
        try:
            yield staging
            for note, path in notes.items():
                copy_file(path, staging / note)
            for path in staging.rglob("*"):
                if path.is_file():
                    path.chmod(0o444)
                _sync(path)
            if target.exists():
                shutil.rmtree(target)
            staging.replace(target)
            _sync(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    """The files of a stage's folder without the manifest, as relative paths."""
    return [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != folders.MANIFEST]


def _job(path: Path) -> str:
    """The job of a file; `path` is relative to `samples`."""
    return path.parts[1] if path.parts[0] == "midi" else job_of(path)


def _copy(source: Path, target: Path) -> None:
    """Copies a stage's folder and compares the copy with the manifest."""
    if not (source / folders.MANIFEST).is_file():
        raise InputError(f"{source}: no {folders.MANIFEST}; run the stage that writes {source.name!r} first")
    for path in source.rglob("*"):
        if path.is_file():
            copy_file(path, target / path.relative_to(source))
    wrong = folders.verify(target)
    if wrong:
        raise CorruptError("\n".join([f"{source}: not as its stage wrote it; rerun the stage:", *wrong]))


def _link(source: Path, target: Path) -> None:
    """A hard link to a file of a version; a copy if the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        copy_file(source, target)


def _describe(staging: Path, name: str, champion: str, before: str | None) -> None:
    """Writes version.json."""
    parts = catalog_files(staging / "samples" / "catalog")
    if not parts:
        raise InputError("samples/catalog: no catalog of samples; run stage `generate`")
    rows = sum(tables.read(part, CATALOG, ["index"]).num_rows for part in parts)
    version = Version(name, champion, before, rows, file_sha256(staging / "model" / WEIGHTS))
    write_json(staging / FACTS, asdict(version))


def _sync(path: Path) -> None:
    """Syncs a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- the current version ----------------------------------------------------------------------------------------------
def switch(published: Path, name: str) -> Version:
    """Makes the version `name` current, in one step.

    Raises:
        InputError: there is no such version.
    """
    if name not in names(published):
        raise InputError(f"{published}: no version {name!r}, only {names(published)}; name one of these")
    version = read(published / "versions" / name)
    link = published / f".current-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("versions") / name)
    link.replace(published / "current")
    _sync(published)
    return version


def rollback(published: Path, name: str | None = None) -> Version:
    """Makes the version `name` current; None: the one that was current before the champion.

    Raises:
        InputError: there was none before, or it has been removed.
    """
    now = read_current(published)
    if name is None:
        if now is None or now.before is None:
            raise InputError(f"{published}: nothing was published before; name a version, one of {names(published)}")
        name = now.before
    return switch(published, name)


def prune(published: Path, keep: int, keep_days: float) -> list[str]:
    """Removes old versions and returns their names.

    These stay: the current version, the one before it, the `keep` newest, and all younger than `keep_days`, since a
    reader may still use them.
    """
    now = read_current(published)
    if now is None:
        return []
    folder = published / "versions"
    age = {name: time.time() - (folder / name / FACTS).stat().st_mtime for name in names(published)}
    newest = sorted(age, key=lambda name: age[name])[:keep]
    stay = {now.name, now.champion, now.before, *newest}
    old = [name for name in sorted(age) if name not in stay and age[name] > keep_days * 86400]
    for name in old:
        gone = folder / f".{name}.staging-old"  # renamed first, so that no reader sees half a version
        (folder / name).replace(gone)
        shutil.rmtree(gone)
    return old


def history(published: Path) -> list[str]:
    """One line of JSON for each version; `current` in it says whether it is the current one."""
    now = read_current(published)
    versions = [read(published / "versions" / name) for name in names(published)]
    return [json.dumps({**asdict(version), "current": version == now}) for version in versions]
