"""What the tests of `download` and `transfer` share: a file to download, and what came of it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from limits import WAIT_S

from midivae.config.fetch import Download
from midivae.fetch.download import Fetched

BODY = random.Random(0).randbytes(3_000_000)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
PATIENT = Download(timeout_s=WAIT_S, attempts=3)


def files(home: Path) -> list[str]:
    """The files in the work directory, without hidden ones."""
    return sorted(path.name for path in home.rglob("*") if path.is_file() and not path.name.startswith("."))


def check(fetched: Fetched) -> None:
    """Asserts that the file came whole."""
    assert fetched.path.read_bytes() == BODY
    assert fetched.sha256 == SHA256
