"""Reading the catalog of samples: all rows or some, latents, layouts, MIDI bytes.

Offers: `samples`, `latents` (as a 2-D array), `layout` (of a job's rolls), `midi_bytes` (of samples by name).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32

from midivae.catalog.files import catalog_of
from midivae.catalog.query import check_column, select
from midivae.errors import InputError, ParamsError
from midivae.music.roll import Layout
from midivae.storage import tables
from midivae.storage.paths import job_of
from midivae.storage.schema import CATALOG

_HEAVY = ("z", "midi")  # columns that are read only when asked for: most of the catalog's bytes
SAMPLE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}-\d{7,18}")


def samples(
    folder: Path,
    where: str | None = None,
    sort: str | None = None,
    columns: Sequence[str] | None = None,
    latents: bool = False,
    limit: int | None = None,
) -> pd.DataFrame:
    """The samples, one row each, in the order of job files and index unless `sort` says otherwise.

    Args:
        folder: the data folder, its `samples`, or the catalog itself.
        where: only the samples for which this SQL condition is true (`query.select`).
        sort: the columns to sort by, `key,-novelty` (`query.select`).
        columns: which to read; None: all but `z` and `midi`.
        latents: also read `z`; `latents(rows)` gives it as one array.
        limit: at most so many samples.

    Raises:
        InputError: there is no catalog.
        ParamsError: `where` or `sort` cannot be understood, or names an unknown column.
        SchemaError, CorruptError: the files are of another version, or damaged.
    """
    if columns is None:
        columns = [name for name in CATALOG.columns.names if name not in _HEAVY]
    for name in columns:
        check_column(name)
    names = [*columns, "z"] if latents and "z" not in columns else columns
    rows: pd.DataFrame = select(folder, names, where, sort, limit).to_pandas()
    return rows


def latents(rows: pd.DataFrame) -> Float32[np.ndarray, "B Z"]:
    """The latents of rows that were read with `latents=True`, as one array.

    Raises:
        ParamsError: they were not read, or are of models whose latents have different sizes.
    """
    if "z" not in rows:
        raise ParamsError("these rows were read without `z`; read them with latents=True")
    if rows.empty:
        return np.zeros((0, 0), np.float32)
    sizes = sorted(set(rows["z"].map(len)))
    if len(sizes) > 1:
        raise ParamsError(f"these rows have latents of different sizes, {sizes}; choose rows of one model")
    return np.stack(list(rows["z"])).astype(np.float32, copy=False)


def layout(folder: Path, job: str) -> Layout:
    """How the rolls of a job's samples are laid out.

    Raises:
        InputError: the catalog has no such job.
    """
    for file in catalog_of(folder):
        if job_of(file) == job:
            return Layout.from_json(tables.read_extra(file, CATALOG, "layout"))
    raise InputError(f"{folder}: no job {job!r} in the catalog; rerun stage `generate` with it")


def midi_bytes(folder: Path, sample_ids: Sequence[str]) -> dict[str, bytes]:
    """The MIDI files of some samples.

    Raises:
        ParamsError: one of them is no `sample_id`.
        InputError: there is no catalog, or it has no such sample.
    """
    for name in sample_ids:
        if SAMPLE_ID.fullmatch(name) is None:
            raise ParamsError(
                f"{name!r:.80}: neither a MIDI file (.mid) nor a sample_id such as sample-0000012; `midivae catalog` "
                "lists them"
            )
    named = pc.field("sample_id").isin(pa.array(list(sample_ids), pa.string()))
    rows = tables.scan(catalog_of(folder), CATALOG, ["sample_id", "midi"], named).to_pylist()
    files = {row["sample_id"]: row["midi"]["bytes"] for row in rows}
    missing = [name for name in sample_ids if name not in files]
    if missing:
        raise InputError(f"{folder}: no sample {missing[0]!r} in the catalog; `midivae catalog` lists them")
    return files
