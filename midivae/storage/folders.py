"""Publishes whole folders, with a manifest by which they can be verified.

A stage writes into a staging folder beside its target, which replaces the target at the end: a reader sees the old
folder or the new one. Every folder has a `manifest.json` with the sha256 of each of its files.

Offers: `publishing`, `verify`, `MANIFEST`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

from midivae.errors import InputError
from midivae.storage.files import file_sha256, make_folder, read_json, write_json, writing

MANIFEST = "manifest.json"


@contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """A fresh folder to write into; it replaces `target` when the block ends without an error.

    The folder gets its manifest first. On an error the old folder stays. Staging folders that a killed run left are
    removed. If `target` is a link, the folder that it points to is replaced, and the link stays.

    Raises:
        FolderError: the folder cannot be written, or the disk is full.
    """
    target = target.resolve() if target.is_symlink() else target.absolute()
    make_folder(target.parent)
    with writing(target):
        _restore(target)
        prefix = f".{target.name}.staging-"
        for left in target.parent.glob(f"{prefix}*"):
            if not _is_alive(left.name.removeprefix(prefix)):
                shutil.rmtree(left, ignore_errors=True)
        staging = target.parent / f"{prefix}{os.getpid()}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
            write_json(staging / MANIFEST, _hashes(staging))
            _swap(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    """Whether another process, which owns a staging folder, still runs."""
    return pid.isdigit() and int(pid) != os.getpid() and psutil.pid_exists(int(pid))


def _swap(staging: Path, target: Path) -> None:
    """Puts `staging` where `target` is, in one step where the system can exchange two names."""
    old = target.parent / f".{target.name}.old-{os.getpid()}"
    if not target.exists():
        staging.replace(target)
    elif _exchange(staging, target):
        staging.replace(old)
    else:
        target.replace(old)
        staging.replace(target)
    for left in target.parent.glob(f".{target.name}.old-*"):
        shutil.rmtree(left, ignore_errors=True)


def _restore(target: Path) -> None:
    """Puts back a folder that a run left under its temporary name when it was killed between two renames."""
    for left in sorted(target.parent.glob(f".{target.name}.old-*")):
        if not target.exists():
            left.replace(target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names atomically (Linux's renameat2 with RENAME_EXCHANGE); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file below `folder` but its manifest, by its relative path with forward slashes."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST]
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(file_sha256, paths)
        return {path.relative_to(folder).as_posix(): sha256 for path, sha256 in zip(paths, hashes, strict=True)}


def verify(folder: Path) -> list[str]:
    """Compares a folder that `publishing` wrote with its manifest: one sentence for each file that is wrong.

    Raises:
        InputError: the folder has no manifest.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{folder}: no {MANIFEST}, so not a folder that midivae wrote; name one of data/*")
    listed: dict[str, str] = read_json(manifest)
    present = _hashes(folder)
    edited = {name for name in listed.keys() & present.keys() if listed[name] != present[name]}
    return [
        *(f"{folder / name}: missing" for name in sorted(listed.keys() - present.keys())),
        *(f"{folder / name}: not in the manifest" for name in sorted(present.keys() - listed.keys())),
        *(f"{folder / name}: sha256 differs from the manifest's: damaged or edited" for name in sorted(edited)),
    ]
