"""Files from the web, kept in the work directory from one run to the next, and checked by their hash.

A file is kept under its URL and hash. While it is incomplete its name is `.part`; it gets its own name when it is
complete and its hash is right. If no hash is known, the hash of the first download is noted, and later downloads are
compared with it.

Offers: `fetch` and `Fetched`; `check` compares a file that is already here with a hash.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from midivae.config.fetch import Download
from midivae.errors import CorruptError, InputError
from midivae.fetch.transfer import Transfer, shown
from midivae.storage.files import file_sha256, folder_error, make_folder, read_json, write_json
from midivae.storage.workdir import work_dir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """A file that was downloaded, in this run or an earlier one."""

    path: Path
    sha256: str


def fetch(url: str, limits: Download, *, expected: str | None = None, size: int | None = None) -> Fetched:
    """Downloads a file, unless the work directory has it.

    Args:
        url: http or https.
        limits: number of attempts, timeout, and largest size.
        expected: the hash of the file: a sha256 in hex, or `md5:` and an md5 in hex; None: not known.
        size: in bytes; None: not known.

    Raises:
        InputError: the download failed, or the file is larger than `limits.max_bytes`.
        CorruptError: it is another file than the expected one.
    """
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise InputError(f"{shown(url)}: neither http nor https; for a file of yours set fetch.path")
    key = hashlib.sha256(f"{url}\n{expected or ''}\n".encode()).hexdigest()[:16]
    folder = (work_dir() / "downloads" / key).absolute()
    make_folder(folder)
    path, noted = folder / file_name(url), folder / "seen.json"
    with FileLock(folder / ".lock"):  # a second run waits, and uses the file
        note = read_json(noted) if noted.is_file() else {}
        expected = expected or note.get("sha256")
        if not path.is_file() or _hash(path, expected) != expected:
            _download(url, path, expected, limits, size)
        if not note:
            note = {"url": shown(url), "sha256": file_sha256(path), "bytes": path.stat().st_size}
            write_json(noted, note)
            if expected is None:
                log.info("%s: sha256 %s, noted: later downloads are compared with it", shown(url), note["sha256"])
    return Fetched(path, note["sha256"])


def check(path: Path, expected: str | None) -> None:
    """Compares a file that is already here with an expected hash, in the form that `fetch` takes.

    Raises:
        InputError: it cannot be read.
        CorruptError: it is another file.
    """
    try:
        found = _hash(path, expected)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch.path must name the archive") from error
    if found != expected:
        raise CorruptError(
            f"{path}: hash {found} where the corpus has {expected}: damaged, or another version; download it again, or "
            "set fetch.source to `archive` to take it as it is"
        )


def file_name(url: str) -> str:
    """A safe name for the file of a URL: the last part of its path."""
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".")[-100:] or "download"


def _hash(path: Path, expected: str | None) -> str | None:
    """The hash of a file, of the kind and in the form of the expected one; None if none is expected."""
    if expected is None or not expected.startswith("md5:"):
        return expected and file_sha256(path)
    with path.open("rb") as file:
        return f"md5:{hashlib.file_digest(file, 'md5').hexdigest()}"


def _download(url: str, path: Path, expected: str | None, limits: Download, size: int | None) -> None:
    """Downloads a file, and gives it its name if its hash is right."""
    part = path.with_name(".part")
    transfer = Transfer(url, part, limits, size, has_hash=expected is not None)
    try:
        resumed = transfer.run()
        while (found := _hash(part, expected)) != expected:
            part.unlink()
            if not resumed:
                raise CorruptError(
                    f"{shown(url)}: hash {found} where {expected} was expected: damaged on the way, or changed on the "
                    "server; if its publisher says that it changed, name it with fetch.source `url` and its new "
                    f"sha256; if the old hash is that of your own first download, delete {path.parent}"
                )
            log.warning("%s: put together from parts, it is not the expected file; downloading all of it", shown(url))
            resumed = transfer.run()
        part.replace(path)
    except OSError as error:
        raise folder_error(error, path) from error
