"""Writing samples as .mid files, with a table of them.

Offers: `to_folder`, `to_csv`.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from midivae.catalog.files import catalog_of
from midivae.catalog.read import SAMPLE_ID
from midivae.errors import CorruptError, ParamsError
from midivae.storage import tables
from midivae.storage.files import make_folder, write_bytes, writing
from midivae.storage.schema import CATALOG


def to_folder(folder: Path, rows: pd.DataFrame, target: Path) -> int:
    """Writes the samples in `rows` (from `read.samples`) as `<sample_id>.mid`, and the rows as `catalog.csv`.

    File names come from `sample_id`, whose form is checked: nothing is written outside `target`.

    Returns:
        The number of .mid files that were written.

    Raises:
        ParamsError: `rows` has no `sample_id`, or `target` is a file.
        FolderError: `target` cannot be written, or the disk is full; it stays as it was.
        CorruptError: a `sample_id` has another form than those of jobs, or is not in the catalog.
    """
    if "sample_id" not in rows:
        raise ParamsError(f"rows without the column `sample_id` (there are {list(rows.columns)}); query them with it")
    if target.exists() and not target.is_dir():
        raise ParamsError(f"{target}: is a file; name a folder to export to")
    ids = list({_checked_id(str(name)) for name in rows["sample_id"]})
    make_folder(target)
    written = 0
    with writing(target), TemporaryDirectory(prefix=".export-", dir=target) as staging:
        for file in catalog_of(folder):  # one at a time, so that not all MIDI bytes are in memory
            in_file = tables.scan(
                [file], CATALOG, ["sample_id", "midi"], pc.field("sample_id").isin(pa.array(ids, pa.string()))
            )
            for row in in_file.to_pylist():
                write_bytes(Path(staging) / f"{row['sample_id']}.mid", row["midi"]["bytes"])
            written += len(in_file)
        if written != len(ids):
            raise CorruptError(f"{folder}: {len(ids) - written} of {len(ids)} samples are not in the catalog")
        write_bytes(Path(staging) / "catalog.csv", to_csv(rows))
        for path in Path(staging).iterdir():
            path.replace(target / path.name)
    return written


def _checked_id(name: str) -> str:
    if SAMPLE_ID.fullmatch(name) is None:
        raise CorruptError(f"sample_id {name!r:.80}: not of the form <job>-<index>; rerun stage `generate`")
    return name


def to_csv(rows: pd.DataFrame) -> bytes:
    """The rows as CSV: lists as JSON, and no text that a spreadsheet would take for a formula."""
    plain = rows.drop(columns="midi", errors="ignore")
    for name in plain.columns:
        if not pd.api.types.is_numeric_dtype(plain[name]):
            plain[name] = pd.Series(map(_cell, plain[name]), plain.index, dtype=object)
    data: bytes = plain.to_csv(index=False, lineterminator="\n").encode()
    return data


def _cell(value: Any) -> Any:
    if isinstance(value, np.ndarray | list):
        return json.dumps(np.asarray(value).tolist())
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
