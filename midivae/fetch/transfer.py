"""One file over HTTP: a download that continues after a cut, and is retried after a temporary fault.

The server is not trusted. A file that is larger than registered, or than allowed, is cut off. A web page is refused:
hosts send one if they ask for a login or limit downloads. Only http and https are followed, redirects included.

A download continues where it stopped if the server can send parts of files (`Range`), and if a mixture of two versions
of the file cannot pass: the server compares the `ETag` or the date of change (`If-Range`), or the hash is known.

Offers: `Transfer`; `shown` is a URL without its password. Only this module uses requests.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm

from midivae.config.fetch import Download
from midivae.errors import CorruptError, InputError
from midivae.storage.files import read_json, write_json

BACKOFF_S = 1.0  # before the second attempt; doubled before each one after it
_MAX_WAIT_S = 60.0  # even if the server asks for more
_PROGRESS = 1 << 20  # bytes; after that many new ones, attempts are counted from one again
_CHUNK = 1 << 16  # bytes read at a time; at most that many are lost when the connection ends
_TEMPORARY_STATUS = (408, 425, 429, *range(500, 600))
_TEMPORARY = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)
_REMEDY = "check the address and the network, or get the file by other means and name it in fetch.path"

log = logging.getLogger(__name__)


def shown(url: str) -> str:
    """The URL as it may be logged: without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@dataclass(frozen=True)
class Transfer:
    """A download that continues where it stopped, in this run or an earlier one.

    Attributes:
        url: what to download.
        part: the file for the bytes so far; beside it, a `.json` file notes the version of the file on the server.
        limits: number of attempts, timeout, and largest size.
        size: of the whole file, in bytes; None: not known.
        has_hash: whether the caller will compare the whole with a hash, which shows a mixture of two versions.
    """

    url: str
    part: Path
    limits: Download
    size: int | None
    has_hash: bool

    def run(self) -> bool:
        """Downloads to `part`, with as many requests as needed; returns whether several requests made it."""
        log.info("downloading %s", shown(self.url))
        failures, most = 0, 0
        while True:
            try:
                return self._request()
            except _TEMPORARY as fault:
                failures, most = 1 if self._have() >= most + _PROGRESS else failures + 1, max(most, self._have())
                if failures >= self.limits.attempts:
                    raise self._failed(f"{_cause(fault)}; tried {failures} times in a row") from fault
                wait_s = min(max(_retry_after_s(fault), BACKOFF_S * 2 ** (failures - 1)), _MAX_WAIT_S)
                log.warning("%s: %s; again in %.0f s", shown(self.url), _cause(fault), wait_s)
                time.sleep(wait_s)
            except requests.RequestException as error:
                raise self._failed(_cause(error)) from error

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _failed(self, cause: str) -> InputError:
        return InputError(f"{shown(self.url)}: cannot be downloaded: {cause}; {_REMEDY}")

    def _request(self) -> bool:
        """One request, for the bytes that are missing; returns whether earlier bytes were kept."""
        version_note = self.part.with_name(f"{self.part.name}.json")
        have = self._have()
        version = read_json(version_note)["validator"] if have and version_note.is_file() else None
        # if the server compressed the file, it would have another size, and ranges would count other bytes
        headers = {"Accept-Encoding": "identity", "User-Agent": "midivae"}
        if have and (version or self.has_hash):
            headers["Range"] = f"bytes={have - 1}-"  # the last byte again: servers refuse a range that is empty
            headers |= {"If-Range": version} if version else {}
        with requests.get(self.url, headers=headers, stream=True, timeout=self.limits.timeout_s) as response:
            start = self._start(response, have - 1)
            span = response.headers.get("Content-Range", "")  # such as "bytes 5-9/10"
            announced = span.rpartition("/")[2] if start else response.headers.get("Content-Length", "")
            total = int(announced) if announced.isdecimal() else self.size
            if total is not None:
                self._check_size(total, is_total=True)
            with self.part.open("ab") as file:
                file.truncate(start)  # before the note: old bytes must never lie beside the note of a new version
                if start == 0:
                    write_json(version_note, {"validator": _version(response)})
                self._append(file, response, start, total)
                file.flush()
                os.fsync(file.fileno())
        if total is not None and self._have() < total:
            raise requests.ConnectionError(f"cut off after {self._have():,} of {total:,} bytes")
        return start > 0

    def _start(self, response: requests.Response, asked: int) -> int:
        """The byte of the file at which the response begins."""
        code, span = response.status_code, response.headers.get("Content-Range", "")
        if code == requests.codes.ok:
            return 0
        if code == requests.codes.partial_content and span.startswith(f"bytes {asked}-"):
            return asked
        if code in (requests.codes.partial_content, requests.codes.requested_range_not_satisfiable):
            self.part.unlink(missing_ok=True)
            raise requests.ConnectionError(f"the part that is here does not fit the file on the server ({code} {span})")
        cause = f"the server answers {code} {response.reason}".rstrip()
        if code in _TEMPORARY_STATUS:
            raise requests.ConnectionError(cause, response=response)
        raise self._failed(cause)

    def _check_size(self, count: int, *, is_total: bool) -> None:
        """Ends the download if the file has another size than registered, or is larger than allowed."""
        error: CorruptError | InputError
        if self.size is not None and (count > self.size or (is_total and count < self.size)):
            error = CorruptError(
                f"{shown(self.url)}: the server sends {count:,} bytes{'' if is_total else ' or more'}, not "
                f"{self.size:,}: the file has changed, or the host asks for a login or limits downloads; see the page "
                "of the corpus"
            )
        elif self.size is None and count > self.limits.max_bytes:
            error = InputError(
                f"{shown(self.url)}: the server sends more than {self.limits.max_bytes:,} bytes, "
                "fetch.download.max_bytes: cut off; raise it if you want the whole file"
            )
        else:
            return
        self.part.unlink(missing_ok=True)
        raise error

    def _append(self, file: IO[bytes], response: requests.Response, start: int, total: int | None) -> None:
        """Appends the body of the response, as it was sent: a .tar.gz is not decompressed."""
        count = start
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc="download", disable=None) as bar:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                if count == 0 and chunk[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
                    self.part.unlink()
                    raise self._failed("a web page, not a file; hosts send one to ask for a login or limit downloads")
                count += len(chunk)
                self._check_size(count, is_total=False)
                file.write(chunk)
                bar.update(len(chunk))


def _version(response: requests.Response) -> str | None:
    """What identifies this version of the file on the server; a weak tag does not identify bytes."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _retry_after_s(fault: Exception) -> float:
    """How long the server asks to wait, in seconds; 0: it does not."""
    headers = getattr(getattr(fault, "response", None), "headers", {})
    said = headers.get("Retry-After", "")
    return float(said) if said.isdecimal() else 0.0


def _cause(error: BaseException) -> str:
    """The first cause of an error, in words."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
