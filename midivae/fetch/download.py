"""Files from the web: downloads continue after a cut, are tried again after a fault, and are checked by their hash.

A file is kept in the work directory, under its URL and hash, from one run to the next. It grows under the name `.part`
and gets its own only when it is whole and its hash is right. Where no hash is known, that of the first download is
noted, and every later one is compared with it.

Statements of the server are checked: a file larger than registered, or than allowed, is cut off, and a web page is
refused, which hosts send that ask for a login or limit downloads. Only http and https are followed, redirects included.

A download continues where it stopped if the server sends parts of files (`Range`), and only if the file is still the
same: by its `ETag` or date of change (`If-Range`), or because its hash is known.

Offers: `fetch` and `Fetched`, `check` (a file that is already here), `shown` (a URL without its password); the only
module that uses requests.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from filelock import FileLock
from tqdm import tqdm

from midivae.config.fetch import Download
from midivae.errors import CorruptError, InputError, MidivaeError
from midivae.storage.files import file_sha256, read_json, write_json
from midivae.storage.workdir import work_dir

BACKOFF_S = 1.0  # before the second try; twice as long before each one after it
_MAX_WAIT_S = 60.0  # whatever the server asks for
_PROGRESS = 1 << 20  # bytes gained that make the count of tries begin anew
_CHUNK = 1 << 16  # so much is lost at most when nothing more comes
_PASSING = (408, 425, 429)  # answers besides 5xx that may be better the next time
_FINAL = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.TooManyRedirects,
    requests.exceptions.SSLError,
)
_REMEDY = "check the address and the network, or get the file by other means and name it in fetch.path"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """A file that was downloaded, in this run or an earlier one."""

    path: Path
    sha256: str
    bytes: int


def fetch(
    url: str, limits: Download, *, sha256: str | None = None, md5: str | None = None, size: int | None = None
) -> Fetched:
    """The file that a URL names, from the work directory where it is already there.

    Args:
        url: http or https.
        limits: how long to try, and how much to take.
        sha256: the hash that the file must have, in hex; None: not known.
        md5: likewise, asked where there is no sha256.
        size: in bytes; None: not known.

    Raises:
        InputError: it cannot be had, or is larger than `limits.max_bytes`.
        CorruptError: it is not the file that was meant.
    """
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise InputError(f"{shown(url)}: neither http nor https; for a file of yours set fetch.path")
    key = hashlib.sha256("\n".join([url, sha256 or "", md5 or ""]).encode()).hexdigest()[:16]
    folder = (work_dir() / "downloads" / key).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path, noted = folder / file_name(url), folder / "seen.json"
    with FileLock(folder / ".lock"):  # a second run waits, and uses the file
        note = read_json(noted) if noted.is_file() else {}
        known = sha256 or note.get("sha256") or (f"md5:{md5}" if md5 else None)
        if not path.is_file() or _hash(path, known) != known:
            _download(url, path, known, limits, size)
        if not note:
            note = {"url": shown(url), "sha256": sha256 or file_sha256(path), "bytes": path.stat().st_size}
            write_json(noted, note)
            if sha256 is None:
                log.info("%s: sha256 %s, noted: later downloads are compared with it", shown(url), note["sha256"])
    return Fetched(path, note["sha256"], note["bytes"])


def check(path: Path, *, sha256: str | None, md5: str | None) -> None:
    """Makes sure that a file that is already here is the one that was meant, where a hash is known.

    Raises:
        InputError: it cannot be read.
        CorruptError: it is another file.
    """
    wanted = sha256 or (f"md5:{md5}" if md5 else None)
    try:
        found = _hash(path, wanted)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch.path must name the archive") from error
    if found != wanted:
        raise CorruptError(
            f"{path}: hash {found} where the corpus has {wanted}: damaged, or another version; download it again, or "
            "set fetch.source to `archive` to take it as it is"
        )


def shown(url: str) -> str:
    """The URL as it may be logged: without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def file_name(url: str) -> str:
    """A safe name for what a URL gives: the last part of its path."""
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".")[-100:] or "download"


def _hash(path: Path, like: str | None) -> str | None:
    """The hash of a file, of the kind and in the form of another: sha256 in hex, or `md5:` and hex; None of None."""
    if like is None:
        return None
    if not like.startswith("md5:"):
        return file_sha256(path)
    with path.open("rb") as file:
        return f"md5:{hashlib.file_digest(file, 'md5').hexdigest()}"


def _download(url: str, path: Path, known: str | None, limits: Download, size: int | None) -> None:
    """Downloads a file, and gives it its name when its hash is right."""
    part = path.with_name(".part")
    download = _Resumable(url, part, limits, size, trusted=known is not None)
    try:
        download.run()
        if download.continued and _hash(part, known) != known:
            log.warning("%s: put together from parts, it is not the expected file; downloading all of it", shown(url))
            part.unlink()
            download.run()
        if (found := _hash(part, known)) != known:
            part.unlink()
            raise CorruptError(
                f"{shown(url)}: hash {found} where {known} was expected: damaged on the way, or changed on the server; "
                "if its publisher says that it changed, name it with fetch.source `url` and its new sha256, or, if the "
                f"old hash is that of your own first download, delete {path.parent}"
            )
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path.parent}: {error.strerror or error}; set MIDIVAE_HOME to a folder with room") from error


# --- one download -----------------------------------------------------------------------------------------------------
class _TemporaryError(Exception):
    """A fault that may be gone at the next try."""

    def __init__(self, cause: str, wait_s: float = 0.0) -> None:
        super().__init__(cause)
        self.wait_s = wait_s  # as the server asks


@dataclass
class _Resumable:
    """A download that continues where it stopped, in this run or an earlier one.

    Attributes:
        url: what to download.
        part: the bytes so far; its `.json` notes the state of the file on the server.
        limits: how long to try, and how much to take.
        size: of the whole, where known beforehand.
        trusted: whether a hash will show if parts of two files were put together.
        continued: whether some bytes are from an earlier request.
        is_page: whether the bytes begin like a web page.
    """

    url: str
    part: Path
    limits: Download
    size: int | None
    trusted: bool
    continued: bool = False
    is_page: bool = False
    _most: int = field(default=0, init=False)  # bytes, at the best of times

    def run(self) -> None:
        """Downloads to `part`, with as many requests as it takes."""
        url = self.url
        log.info("downloading %s%s", shown(url), f", {self.size:,} bytes" if self.size else "")
        tries = 0
        while True:
            try:
                self._request()
                break
            except _TemporaryError as fault:
                tries = 1 if self._gained() else tries + 1
                if tries >= self.limits.attempts:
                    raise InputError(
                        f"{shown(url)}: cannot be downloaded: {fault}; tried {tries} times in a row; {_REMEDY}"
                    ) from fault
                wait = min(max(fault.wait_s, BACKOFF_S * 2 ** (tries - 1)), _MAX_WAIT_S)
                log.warning("%s: %s; again in %.0f s", shown(url), fault, wait)
                time.sleep(wait)
        if self.is_page:
            self.part.unlink()
            raise InputError(
                f"{shown(url)}: a web page, not a file, as hosts send it that ask for a login or limit downloads; "
                f"{_REMEDY}"
            )

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _gained(self) -> bool:
        """Whether there are `_PROGRESS` more bytes than ever before."""
        have, before = self._have(), self._most
        self._most = max(have, before)
        return have >= before + _PROGRESS

    def _request(self) -> None:
        """One request, for the bytes that are missing."""
        have, headers = self._request_headers()
        with _translated(self.url, self.limits.timeout_s):
            waits = (self.limits.timeout_s, self.limits.timeout_s)
            with requests.get(self.url, headers=headers, stream=True, timeout=waits) as response:
                start = self._start(response, have)
                if start is None:
                    self.continued = True
                    return
                total = self._total(response, start)
                self._check_size(response, total)
                self._begin(response, start)
                self._copy(response, start, total)
        self._require_whole(total)

    def _begin(self, response: requests.Response, start: int) -> None:
        """Prepares to append; the part is deleted first, so that it never lies beside the validator of another file."""
        self.continued |= start > 0
        if not start:
            self.part.unlink(missing_ok=True)
            write_json(self._state, {"validator": _validator(response)})

    @property
    def _state(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    def _request_headers(self) -> tuple[int, dict[str, str]]:
        """How much there is, and what to ask for."""
        # packed again on the way, it would have another size, and ranges would count other bytes
        headers = {"Accept-Encoding": "identity", "User-Agent": "midivae"}
        have = self._have()
        validator = read_json(self._state)["validator"] if have and self._state.is_file() else None
        if have and (validator or self.trusted):
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator
            return have, headers
        return 0, headers

    def _start(self, response: requests.Response, have: int) -> int | None:
        """The byte at which the answer begins; None: everything was there."""
        status = response.status_code
        if status == requests.codes.ok:
            return 0
        if status == requests.codes.partial_content:
            if (begin := _range(response)[0]) == have:
                return have
            raise self._from_the_start(f"asked for bytes from {have} on, got them from {begin} on")
        if status == requests.codes.requested_range_not_satisfiable:
            if have and _range(response)[1] == have:
                return None
            raise self._from_the_start("the part that is here does not fit the file on the server")
        cause = f"the server answers {status} {response.reason}".rstrip()
        if status in _PASSING or status >= 500:
            raise _TemporaryError(cause, _retry_after(response))
        raise InputError(f"{shown(response.url)}: cannot be downloaded: {cause}; {_REMEDY}")

    def _from_the_start(self, cause: str) -> _TemporaryError:
        self.part.unlink(missing_ok=True)
        return _TemporaryError(cause)

    def _total(self, response: requests.Response, start: int) -> int | None:
        """The size of the whole file, as the server says; None: it does not."""
        if start:
            return _range(response)[1]
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isascii() and length.isdigit() else None

    def _check_size(self, response: requests.Response, total: int | None) -> None:
        """Stops before the first byte where the server announces another file than the one that is meant."""
        if total is None:
            return
        if self.size is not None and total != self.size:
            self.part.unlink(missing_ok=True)
            kind = response.headers.get("Content-Type", "unknown")
            raise CorruptError(
                f"{shown(response.url)}: the server announces {total:,} bytes ({kind}) and not {self.size:,}: the "
                "file has changed, or the host asks for a login or limits downloads; see the page of the corpus"
            )
        if total > self.limits.max_bytes and self.size is None:
            raise self._too_large(response, self.limits.max_bytes)

    def _too_large(self, response: requests.Response, most: int) -> MidivaeError:
        """The error for more bytes than announced or allowed."""
        here = f"{shown(response.url)}: the server sends more than {most:,} bytes"
        if self.size is not None:
            return CorruptError(f"{here}, the size of the file that is meant: cut off; see the page of the corpus")
        return InputError(f"{here}, fetch.download.max_bytes: cut off; raise it if you want them all")

    def _copy(self, response: requests.Response, start: int, total: int | None) -> None:
        """Appends the answer to the part."""
        most = self.size if self.size is not None else self.limits.max_bytes
        bar = tqdm(
            total=total or self.size,
            initial=start,
            unit="B",
            unit_scale=True,
            desc="download",
            disable=None,
            file=sys.stderr,
        )
        with self.part.open("ab" if start else "wb") as file, bar:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                if file.tell() == 0:
                    self.is_page = chunk[:256].lstrip().lower().startswith((b"<!doctype html", b"<html"))
                if file.tell() + len(chunk) > most:
                    self.part.unlink()
                    raise self._too_large(response, most)
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())

    def _require_whole(self, total: int | None) -> None:
        """Checks that no byte is missing at the end, where the size is known."""
        wanted = total if total is not None else self.size
        if wanted is not None and self._have() < wanted:
            raise _TemporaryError(f"cut off after {self._have():,} of {wanted:,} bytes")


# --- what servers say -------------------------------------------------------------------------------------------------
def _validator(response: requests.Response) -> str | None:
    """What tells one state of a file on the server from another; weak tags do not."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole, of `bytes 5-9/10` or `bytes */10`."""
    said = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    begin, total = said.groups() if said else (None, None)
    return int(begin) if begin else None, int(total) if total and total != "*" else None


def _retry_after(response: requests.Response) -> float:
    said = response.headers.get("Retry-After", "")
    return float(said) if re.fullmatch(r"\d{1,6}", said) else 0.0


@contextmanager
def _translated(url: str, timeout_s: float) -> Iterator[None]:
    """Turns exceptions of a request into temporary faults or errors of ours."""
    try:
        yield
    except _FINAL as error:
        raise InputError(f"{shown(url)}: cannot be downloaded: {_cause(error)}; {_REMEDY}") from error
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _TemporaryError(f"nothing came for {timeout_s:g} s") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _TemporaryError(_cause(error)) from error


def _cause(error: BaseException) -> str:
    """The first cause of an error, in words."""
    deepest, seen = error, error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
        if isinstance(seen, OSError) and not isinstance(seen, requests.RequestException):
            deepest = seen
    words = getattr(deepest, "strerror", None) or (deepest.args[0] if deepest.args else "")
    return str(words) or type(deepest).__name__
