"""Small catalogs: rows of samples, written as stage `generate` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from midivae.storage import schema, tables
from midivae.storage.schema import FEATURES, HARMONY

TABLE = schema.CATALOG


def row(job: str, index: int, **values: Any) -> dict[str, Any]:
    """A row of the catalog."""
    sample_id = values.get("sample_id", f"{job}-{index:07d}")
    return {
        "sample_id": sample_id, "job": job, "mode": "sample", "index": index, "seed": 0, "model": "mlp",
        "model_sha256": "ab", "params_sha256": "cd", "temperature": None, "prior": "normal",
        "method": None, "radius": None, "fidelity": None, "transpose": 0, "lead_steps": 0, "tail_steps": 0,
        "z": [index, 0.5, -1.0], "parents": [], "weights": [], "edits": None, "tempo_qpm": 90.0,
        "parts": ["soprano", "bass"], "programs": [0, 32],
        "n_steps": 64, "steps_per_beat": 4, "duration_s": 12.8, **dict.fromkeys((*FEATURES, *HARMONY), 1.0),
        "key": "C major", "novelty": None, "midi": {"bytes": b"MThd" + sample_id.encode(), "path": None}, **values,
    }  # fmt: skip


ROWS = [
    row("a", 0, polyphony=2.5, key="G major", novelty=0.9, temperature=0.9),
    row("a", 1, polyphony=2.0, key="G major", novelty=0.1),
    row("a", 2, polyphony=3.0, key="E minor", novelty=0.5),
    row("a", 3, notes=0.0, polyphony=None, key=None, novelty=None),
    row("b", 0, polyphony=1.0, key="G major", novelty=0.5, notes=7.0),
]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A catalog below `folder`, a file per job."""
    for job in sorted({r["job"] for r in rows}):
        mine = pa.Table.from_pylist([r for r in rows if r["job"] == job], TABLE.columns)
        tables.write(folder / "samples" / "catalog" / f"{job}-00000-of-00001.parquet", mine, TABLE)
    return folder


def ids(frame: pd.DataFrame) -> list[str]:
    return [name.replace("-000000", "") for name in frame["sample_id"]]


def damage(file: Path, column: str) -> None:
    """Flips one bit in the last page of a column, named as Parquet does: `midi.bytes`."""
    group = pq.ParquetFile(file).metadata.row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    damaged = bytearray(file.read_bytes())
    damaged[start + chunk.total_compressed_size - 3] ^= 1
    file.write_bytes(damaged)
