"""The corpus while it is written: its files, its table, and counts of the files that were not taken.

Offers: `Collected`.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from midivae.fetch.names import printable, safe_path, unique
from midivae.fetch.own_split import OwnSplit
from midivae.storage.files import copy_file, file_sha256
from midivae.storage.schema import CORPUS

_MAX_LICENCE = 200  # characters

log = logging.getLogger(__name__)


class _Row(NamedTuple):
    """The columns of corpus.parquet that differ between files."""

    path: str
    sha256: str
    bytes: int
    origin: str


@dataclass
class Collected:
    """The files that are written, and counts of the others."""

    folder: Path
    source: str = ""
    licence: str | None = None
    rows: list[_Row] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)  # see `names.unique`
    include: tuple[str, ...] = ()  # see `corpora.Corpus`
    own: OwnSplit | None = None  # the corpus's own split
    sha256: str | None = None  # of the archive that was downloaded

    def add(self, name: bytes, data: bytes | Path, origin: str | None = None) -> None:
        """Writes one MIDI file, from its bytes or a copy of a file, under a safe form of its name."""
        path = unique(safe_path(name), self.taken)
        target = self.folder / path
        if isinstance(data, Path):
            copy_file(data, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        self.rows.append(_Row(path, file_sha256(target), target.stat().st_size, origin or printable(name)))

    def refuse(self, name: bytes, reason: str) -> None:
        """Counts and logs a file that must not be used."""
        self.counts["refused"] += 1
        log.warning("%s: %s: not used: %s", self.source, printable(name), reason)

    def fail(self, name: str, reason: str) -> None:
        """Counts and logs a file that could not be converted."""
        self.failed.append(name)
        log.warning("%s: %s: not converted: %s", self.source, name, reason)

    def note_licence(self, name: bytes, text: bytes) -> None:
        """Notes the file name and first line of a licence, unless there is one already."""
        if self.licence is None:
            lines = text.decode("utf-8", "replace").split("\n")
            first = next((line.strip() for line in lines if line.strip(" \t\r#*=-")), "")
            words = "".join(c for c in f"{printable(name)}: {first}" if c.isprintable())
            self.licence = words[:_MAX_LICENCE]

    def table(self) -> pa.Table:
        """The rows, sorted by path."""
        common = {"source": self.source, "licence": self.licence}
        rows = [row._asdict() | common | {"split": self.split(row.origin)} for row in sorted(self.rows)]
        return pa.Table.from_pylist(rows, CORPUS.schema)

    def split(self, origin: str) -> str | None:
        """The split that the corpus states for a file; None: it states none."""
        return None if self.own is None else self.own.of(origin)

    def summary(self) -> dict[str, object]:
        """The summary that the stage prints."""
        splits = Counter(self.split(row.origin) or "none" for row in self.rows) if self.own else Counter[str]()
        return {
            "stage": "fetch",
            "source": self.source,
            "files": len(self.rows),
            "bytes": sum(row.bytes for row in self.rows),
            "failed": sorted(self.failed),
            "refused": self.counts["refused"],
            "left_out": self.counts["left_out"],
            "other": self.counts["other"],
            **({"splits": dict(sorted(splits.items()))} if splits else {}),
            **({"sha256": self.sha256} if self.sha256 else {}),
        }

    def counts_in_words(self) -> str:
        """The files that were not used, in words."""
        others = ", ".join(f"{self.counts[kind]} {kind.replace('_', ' ')}" for kind in ("refused", "left_out"))
        return f"{self.counts['other']} other files, {others}, {len(self.failed)} failed"
