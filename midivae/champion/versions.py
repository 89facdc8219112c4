"""What people read: a folder of versions, and `current`, the one that counts.

    published/
      versions/v0.0.1/     model, rolls, samples, evaluation and report as the stages wrote them, with manifests;
                           params.yaml and gate.json that made it; version.json: what it is and what was there before
      current              a symbolic link to a version

A version is written whole under another name, synced, then renamed; `current` moves by one rename of a link. A reader
says `os.path.realpath("published/current")` once and reads below that: so it stays in one version, whatever happens
meanwhile. Through the link itself even one file is not safe: pandas opens it twice.

A version never changes: samples are added by writing another, which shares the unchanged files of the first by hard
links (nothing writes to a file in place, and all are read-only).

Offers: `publish`, `append`, `switch`, `rollback`, `prune`, `history`, `current`, `read_current` and `locked`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from midivae.errors import CorruptError, InputError, ParamsError
from midivae.storage import folders, tables
from midivae.storage.files import copy_file, file_sha256, read_json, write_json
from midivae.storage.paths import WEIGHTS, catalog_files, job_of
from midivae.storage.schema import CATALOG

log = logging.getLogger(__name__)

FOLDERS = ("model", "rolls", "samples", "evaluation", "report")
FACTS = "version.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")


@dataclass(frozen=True)
class Version:
    """What is known of a published version.

    Attributes:
        name: of its folder.
        champion: name of the version that brought its model; its own unless samples were added to it.
        before: what was current before the champion came; None: nothing.
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
    """The folder of the version that counts; None: nothing is published."""
    link = published / "current"
    return link.resolve() if link.is_symlink() and link.exists() else None


def read(folder: Path) -> Version:
    """What a version's folder says of itself.

    Raises:
        InputError: it is no version.
        CorruptError: damaged.
    """
    values = read_json(folder / FACTS)
    try:
        return Version(**values)
    except TypeError as error:
        raise CorruptError(f"{folder / FACTS}: not what this release writes ({error}); publish it again") from error


def read_current(published: Path) -> Version | None:
    """What is known of the version that counts."""
    folder = current(published)
    return None if folder is None else read(folder)


def names(published: Path) -> list[str]:
    """The versions that are there, by name."""
    folder = published / "versions"
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else iter(())
    return sorted(path.name for path in found if (path / FACTS).is_file())


# --- writing ----------------------------------------------------------------------------------------------------------
@contextmanager
def locked(published: Path) -> Iterator[None]:
    """One process at a time changes what is published; others wait."""
    published.mkdir(parents=True, exist_ok=True)
    with (published / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def publish(data: Path, published: Path, name: str, notes: Mapping[str, Path] | None = None) -> Version:
    """Writes what the stages left in `data` as the version `name`; `current` stays where it is.

    A version of that name that does not count, as one that a killed run left, is written anew.

    Args:
        data: the folder of all stages; what they wrote is checked against their manifests on the way.
        published: the folder of versions.
        name: of the version.
        notes: further files to put beside, by the name they get.

    Raises:
        ParamsError: `name` is no plain name, or the version that counts has it.
        InputError, CorruptError: a stage's folder is missing or damaged.
        OSError: no room. What was published stays as it was.
    """
    if not _NAME.fullmatch(name):
        raise ParamsError(f"version {name!r}: must be a plain name of letters, digits, '.', '_', '+' and '-'")
    before = read_current(published)
    if before is not None and before.name == name:
        raise ParamsError(f"version {name!r} is the current one; publish under another name")

    def fill(staging: Path) -> None:
        for folder in FOLDERS:
            _copy(data / folder, staging / folder)
        for note, path in (notes or {}).items():
            copy_file(path, staging / note)
        _describe(staging, name, name, before.name if before else None)

    _write(published, name, fill)
    return read(published / "versions" / name)


def append(published: Path, samples: Path, base: Version, notes: Mapping[str, Path] | None = None) -> Version:
    """Writes a version like `base` in which the jobs of `samples`, a folder of stage `generate`, stand for their own.

    Jobs of other names stay, and so does `current`. The new name is that of the champion and a number. `notes`
    are files that stand for those of the same name.

    Raises:
        InputError, CorruptError: something is missing or damaged.
        OSError: no room. What was published stays as it was.
    """
    here = published / "versions"
    taken = [int(n.rpartition("+")[2]) for n in names(published) if n.startswith(f"{base.champion}+")]
    name = f"{base.champion}+{max(taken, default=0) + 1}"
    jobs = {job_of(path) for path in catalog_files(samples / "catalog")}

    def fill(staging: Path) -> None:
        old = here / base.name
        for path in sorted(old.rglob("*")):
            relative = path.relative_to(old)
            if path.is_file() and relative.parts[0] not in ("samples", FACTS, *(notes or {})):
                _link(path, staging / relative)
        for note, path in (notes or {}).items():
            copy_file(path, staging / note)
        with folders.publishing(staging / "samples") as folder:
            for path in sorted(_files(old / "samples")):
                if _job(path.relative_to(old / "samples")) not in jobs:
                    _link(path, folder / path.relative_to(old / "samples"))
            for path in sorted(_files(samples)):
                copy_file(path, folder / path.relative_to(samples))
        _describe(staging, name, base.champion, base.before)

    _write(published, name, fill)
    return read(here / name)


def _write(published: Path, name: str, fill: Callable[[Path], None]) -> None:
    """Writes a version: under another name first, synced, read-only."""
    target = published / "versions" / name
    staging = target.parent / f".{name}.staging-{os.getpid()}"
    for left in target.parent.glob(".*.staging-*"):
        shutil.rmtree(left)  # whoever wrote it is gone: the caller holds the lock
    staging.mkdir(parents=True)
    try:
        fill(staging)
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


def _files(folder: Path) -> Iterator[Path]:
    """What a stage wrote into its folder, but the manifest."""
    return (path for path in folder.rglob("*") if path.is_file() and path != folder / folders.MANIFEST)


def _job(path: Path) -> str:
    """The job that a file below `samples` belongs to."""
    return path.parts[1] if path.parts[0] == "midi" else job_of(path)


def _copy(source: Path, target: Path) -> None:
    """Copies a stage's folder, and compares the copy with its manifest."""
    if not (source / folders.MANIFEST).is_file():
        raise InputError(f"{source}: no {folders.MANIFEST}; run stage that writes {source.name!r} first")
    for path in source.rglob("*"):
        if path.is_file():
            copy_file(path, target / path.relative_to(source))
    wrong = folders.verify(target)
    if wrong:
        raise CorruptError("\n".join([f"{source}: not as its stage wrote it; rerun the stage:", *wrong]))


def _link(source: Path, target: Path) -> None:
    """Another name for a file of a version, which nobody writes to; a copy where the file system has no links."""
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
    """Makes a file or folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- which one counts -------------------------------------------------------------------------------------------------
def switch(published: Path, name: str) -> Version:
    """Lets `current` point to the version `name`, in one step.

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
    """Lets `current` point to the version before its champion came, or to `name`.

    Raises:
        InputError: nothing was there before, or it was removed since.
    """
    now = read_current(published)
    if name is None:
        if now is None or now.before is None:
            raise InputError(f"{published}: nothing was published before; name a version, one of {names(published)}")
        name = now.before
    return switch(published, name)


def prune(published: Path, keep: int, keep_days: float) -> list[str]:
    """Removes old versions, and returns their names.

    Kept are the current one, what it would roll back to, the `keep` newest, and all that are younger than `keep_days`:
    a reader may still be in one of those.
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
        gone = folder / f".{name}.staging-old"  # out of sight first: half a version is never seen
        (folder / name).replace(gone)
        shutil.rmtree(gone)
    return old


def history(published: Path) -> Sequence[str]:
    """One line of JSON per version that is there, with whether it is the current one."""
    now = read_current(published)
    found = [read(published / "versions" / name) for name in names(published)]
    return [json.dumps({**asdict(v), "current": now is not None and v.name == now.name}) for v in found]
