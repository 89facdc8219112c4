"""Tables: other versions are refused, and no flipped bit goes unseen."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from midivae.errors import CorruptError, InputError, SchemaError
from midivae.storage import tables
from midivae.storage.schema import CORPUS, PIECES, Table

ROWS = pa.Table.from_pylist(
    [
        {"path": f"{i}.mid", "sha256": f"{i:064x}", "bytes": i, "source": "test", "origin": "x", "licence": None}
        for i in range(500)
    ],
    CORPUS.columns,
)


def test_write_then_read(tmp_path: Path) -> None:
    tables.write(tmp_path / "a.parquet", ROWS, CORPUS, {"layout": "hello"})
    assert tables.read(tmp_path / "a.parquet", CORPUS).equals(ROWS)
    assert tables.read(tmp_path / "a.parquet", CORPUS, ["bytes"]).column_names == ["bytes"]
    assert tables.read_extra(tmp_path / "a.parquet", CORPUS, "layout") == "hello"
    first = (tmp_path / "a.parquet").read_bytes()
    tables.write(tmp_path / "a.parquet", ROWS, CORPUS, {"layout": "hello"})
    assert (tmp_path / "a.parquet").read_bytes() == first


def test_other_tables_and_versions_are_refused_by_name(tmp_path: Path) -> None:
    tables.write(tmp_path / "a.parquet", ROWS, CORPUS)
    with pytest.raises(SchemaError, match="table corpus v1, this release reads pieces v2; rerun"):
        tables.read(tmp_path / "a.parquet", PIECES)
    with pytest.raises(SchemaError, match="corpus v1, this release reads corpus v2"):
        tables.read(tmp_path / "a.parquet", Table("corpus", 2, CORPUS.columns))
    pq.write_table(ROWS, tmp_path / "bare.parquet")
    with pytest.raises(SchemaError, match=r"table \? v\?"):
        tables.read(tmp_path / "bare.parquet", CORPUS)
    with pytest.raises(InputError, match="run the stage that writes it"):
        tables.read(tmp_path / "none.parquet", CORPUS)


def test_missing_values_are_refused_where_the_schema_has_none(tmp_path: Path) -> None:
    rows = ROWS.set_column(0, "path", pa.nulls(len(ROWS), pa.string()))
    with pytest.raises(SchemaError, match="'path' of table 'corpus' has missing values"):
        tables.write(tmp_path / "a.parquet", rows, CORPUS)
    assert list(tmp_path.iterdir()) == []


def test_one_flipped_bit_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    tables.write(path, ROWS, CORPUS)
    good = path.read_bytes()
    silent = 0
    for position in range(0, len(good), 7):  # 7: every position of a bit in its byte comes up
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bytes(bad))
        with contextlib.suppress(CorruptError, SchemaError):
            silent += not tables.read(path, CORPUS).equals(ROWS)
    assert silent == 0  # a flip in a statistic or a name that nobody reads may pass; wrong data may not
