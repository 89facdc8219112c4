"""Reads and writes single files: whole or not at all, by a temporary name that is synced and renamed.

Offers: `write_file`, `write_bytes`, `write_json` / `read_json`, `read_csv`, `copy_file`; `make_folder`, `writing` and
`folder_error`, for folders that cannot be written; `file_sha256`, `rounded`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from midivae.errors import CorruptError, FolderError, InputError

_FICLONE = 0x40049409  # linux/fs.h: share the blocks of a file, where the file system can


# what the system says of a folder that cannot be written
UNWRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EBUSY,
)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translates the system's errors while something is written below `path`.

    Raises:
        FolderError: it is read-only or forbidden, or its disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise folder_error(error, path) from error


def folder_error(error: OSError, path: Path) -> FolderError:
    """The error of a write below `path`; a file elsewhere is named itself."""
    name = Path(os.fsdecode(error.filename)) if error.filename is not None else path
    return FolderError(path if name.is_relative_to(path.parent) else name, error.strerror or str(error))


def make_folder(path: Path) -> None:
    """Makes a folder and its parents where there are none.

    Raises:
        FolderError: it cannot be made there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FolderError(path, os.strerror(errno.ENOTDIR)) from None
    except OSError as error:
        raise folder_error(error, path) from error


def write_file(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Writes a file whole or not at all: `fill` gets a binary file to write to.

    Raises:
        FolderError: its folder cannot be written, or the disk is full.
    """
    make_folder(path.parent)
    with writing(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` whole or not at all."""
    write_file(path, lambda file: file.write(data))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON with sorted keys."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        InputError: no such file.
        CorruptError: not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it") from None
    except ValueError as error:
        raise CorruptError(f"{path}: not valid JSON ({error}); delete it and rerun the stage that writes it") from error


def read_csv(path: Path, stage: str) -> Any:
    """A table that a stage wrote as CSV, as a pandas frame; only an empty cell is a missing value.

    Raises:
        InputError: no such file.
        CorruptError: not CSV.
    """
    import pandas as pd  # here, as it takes half a second and few need it

    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run stage `{stage}`") from None
    except ValueError as error:
        raise CorruptError(f"{path}: not readable as CSV ({error}); rerun stage `{stage}`") from error


def rounded(value: float, *, digits: int = 6) -> float:
    """A number with so many significant digits: the others differ between processors."""
    return float(f"{value:.{digits}g}")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, sharing its blocks where the file system can; never a hard link.

    DVC makes the files that it tracks read-only and shares them: a hard link would change files in the work directory.

    Raises:
        FolderError: `target` cannot be written, or the disk is full.
    """
    make_folder(target.parent)
    with source.open("rb") as old, writing(target), target.open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            shutil.copyfileobj(old, new, 1 << 20)
