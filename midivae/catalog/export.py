"""Writing samples as .mid files, with a table of them.

Offers: `to_folder`, `to_csv`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from midivae.catalog.files import catalog_of
from midivae.catalog.read import SAMPLE_ID
from midivae.errors import CorruptError, ParamsError
from midivae.storage import schema, tables
from midivae.storage.files import write_bytes


def to_folder(folder: Path, rows: pd.DataFrame, target: Path) -> int:
    """Writes the samples in `rows` (from `read.samples`) as `<sample_id>.mid`, and the rows as `catalog.csv`.

    Names come from `sample_id` alone, once it has the form of one: nothing is written outside `target`.

    Returns:
        How many .mid files were written.

    Raises:
        ParamsError: `rows` has no `sample_id`, or `target` is a file.
        CorruptError: a sample has an id that no job gives, or is not in the catalog.
    """
    if "sample_id" not in rows:
        raise ParamsError(f"rows without the column `sample_id` (there are {list(rows.columns)}); query them with it")
    if target.exists() and not target.is_dir():
        raise ParamsError(f"{target}: is a file; name a folder to export to")
    wanted = [_checked_id(str(name)) for name in rows["sample_id"]]
    target.mkdir(parents=True, exist_ok=True)
    written = 0
    for file in catalog_of(folder):
        mine = pc.field("sample_id").isin(pa.array(wanted, pa.string()))
        found = tables.scan([file], schema.CATALOG, ["sample_id", "midi"], mine)
        for row in found.to_pylist():
            write_bytes(target / f"{_checked_id(row['sample_id'])}.mid", row["midi"]["bytes"])
        written += len(found)
    if written != len(set(wanted)):
        raise CorruptError(
            f"{folder}: {len(set(wanted)) - written} of {len(set(wanted))} samples are not in the catalog"
        )
    write_bytes(target / "catalog.csv", to_csv(rows))
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
