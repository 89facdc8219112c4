"""The corpus's own split: a table in its archive, or its folders.

Offers: `OwnSplit`, `SPLITS`.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field

from midivae.errors import InputError
from midivae.fetch import corpora
from midivae.fetch.names import printable

# names that corpora use -> ours
SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}


@dataclass
class OwnSplit:
    """The split of a corpus.

    Attributes:
        rule: where the corpus states it.
        labels: origin of a file -> its label in the table, once the table was read.
    """

    rule: corpora.OwnSplit
    labels: dict[str, str] = field(default_factory=dict)

    def is_table(self, name: bytes) -> bool:
        """Whether a member of an archive is the table."""
        return self.rule.table is not None and name == self.rule.table.encode()

    def read(self, name: bytes, data: bytes) -> None:
        """Reads the table; its paths are relative to the folder that it is in."""
        folder, slash, _ = name.rpartition(b"/")
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig", "surrogateescape"), newline=""))
        if missing := {self.rule.file, self.rule.column} - set(rows.fieldnames or ()):
            raise InputError(f"{printable(name)}: no column {' or '.join(sorted(map(str, missing)))} in it")
        for row in rows:
            file, label = row[str(self.rule.file)] or "", row[str(self.rule.column)] or ""
            self.labels[printable(folder + slash + file.encode("utf-8", "surrogateescape"))] = label

    def of(self, origin: str) -> str | None:
        """The split of a file: train, valid or test; None: the corpus states none."""
        if self.rule.table is not None:
            return SPLITS.get(self.labels.get(origin, ""))
        folder = origin.rpartition("/")[0].rpartition("/")[2]
        return SPLITS.get(folder) if folder in self.rule.folders else None
