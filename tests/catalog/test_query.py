"""SQL over the catalog: conditions against plain Python, errors that name the fault, what a query must not do."""

from __future__ import annotations

import operator
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_rows import ROWS, damage, ids, row, write

from midivae.catalog import query, read
from midivae.errors import CorruptError, InputError, ParamsError, SchemaError
from midivae.storage import tables
from midivae.storage.schema import CATALOG, PIECES, Table


# --- conditions -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("polyphony > 2 AND key = 'G major'", "a0"),
        ("polyphony >= 2 and not key = 'E minor'", "a0 a1"),
        ("polyphony BETWEEN 1.5 AND 2.5", "a0 a1"),
        ("key IN ('E minor', 'C major') OR job = 'b'", "a2 b0"),
        ("key NOT IN ('G major')", "a2"),  # a missing key is neither in nor out
        ("key IS NULL", "a3"),
        ("novelty IS NOT NULL AND index < 2", "a0 a1 b0"),
        ("NOT novelty > 0.4", "a1"),  # a comparison with a missing value is never true
        ("novelty != 0.5", "a0 a1"),
        ("polyphony * 2 - 1 = index + 3", "a2"),  # a0: 4 and 3, a1: 3 and 4, a2: 5 and 5, b0: 1 and 3
        ("index / 2 = 0.5", "a1"),  # not the integer division 1 / 2 = 0
        ("index > 0.5", "a1 a2 a3"),
        ("temperature = 0.9", "a0"),  # stored in 32 bits
        ("temperature IN (0.9, 1)", "a0"),
        ("-novelty < -0.8", "a0"),
        ("notes = 7", "b0"),
        ("'b' = job", "b0"),
        ("novelty < polyphony / 5", "a1 a2"),  # 0.1 < 0.4, 0.5 < 0.6; a0: 0.9 < 0.5 no; b0: 0.5 < 0.2 no
        ("key LIKE '%minor' -- in minor", "a2"),
        ("z[1] = 2", "a2"),
        ("'==' != 'None'", "a0 a1 a2 a3 b0"),
        ("polyphony = (SELECT max(polyphony) FROM samples)", "a2"),
        ("polyphony > 10", ""),
        ("  ", "a0 a1 a2 a3 b0"),
    ],
)
def test_where(data: Path, where: str, names: str) -> None:
    assert ids(read.samples(data, where)) == names.split()


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("key == 'G major'", "conditions are written in SQL; write \"key = 'G major'\""),
        ("key is not None and job == 'a'", "write \"key is not NULL and job = 'a'\""),
        ("1 < polyphony <= 2.5", "use AND to combine comparisons"),
        ('key = "G major"', '"G major" not found'),
        ("polyfony > 2", 'Referenced column "polyfony" not found.*"polyphony"'),
        ("polyphony >", "syntax error"),
        ("polyphony > 'x'", "Could not convert string 'x'"),
        ("key > 3", "Cannot compare values of type VARCHAR"),
        ("z > 1", "Cannot compare values of type FLOAT"),
        ("true) OR (1 = 1", "syntax error"),
        ("true) UNION SELECT 1 --", "syntax error"),
        ("true; DROP VIEW samples", "Parser Error"),
        ("true UNION SELECT 1", "Parser Error"),
        ("true, false", "single expression"),
        ("true ORDER BY 1", "Parser Error"),
        ("count(*) > 1", "aggregates"),
        ("NOT " * 3000 + "notes > 1", "depth"),
        ("(" * 3000 + "notes > 1" + ")" * 3000, "depth"),
        ("notes\0 > 1", "not found"),
        ("1 = (SELECT count(*) FROM read_text('/etc/hostname'))", "file system operations are disabled"),
    ],
)
def test_bad_conditions(data: Path, where: str, reason: str) -> None:
    with pytest.raises(ParamsError, match=f"(?s)^where .*{reason}"):
        read.samples(data, where)


NUMBERS = ("polyphony", "novelty", "index", "notes")
COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
values = st.sampled_from([0, 1, 2, 0.1, 0.5, 0.9, 2.5])
comparison = st.tuples(st.sampled_from(NUMBERS), st.sampled_from(sorted(COMPARE)), values)
trees = st.recursive(
    comparison,
    lambda inner: st.tuples(st.sampled_from(["and", "or"]), inner, inner) | st.tuples(st.just("not"), inner),
    max_leaves=5,
)


def text(tree: Any) -> str:
    if tree[0] == "not":
        return f"not ({text(tree[1])})"
    if tree[0] in ("and", "or"):
        return f"({text(tree[1])}) {tree[0]} ({text(tree[2])})"
    return f"{tree[0]} {tree[1]} {tree[2]}"


def holds(tree: Any, of: dict[str, Any]) -> bool | None:
    """The same in Python, with SQL's three values: None where a missing value decides."""
    if tree[0] == "not":
        inner = holds(tree[1], of)
        return None if inner is None else not inner
    if tree[0] in ("and", "or"):
        sides = [holds(side, of) for side in tree[1:]]
        decides = tree[0] == "or"
        return decides if decides in sides else None if None in sides else not decides
    value = of[tree[0]]
    return None if value is None else COMPARE[tree[1]](np.float32(value), np.float32(tree[2]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_conditions_follow_the_logic_of_three_values(data: Path, tree: Any) -> None:
    wanted = [r["sample_id"] for r in ROWS if holds(tree, r)]
    assert list(read.samples(data, text(tree))["sample_id"]) == wanted


# --- queries ----------------------------------------------------------------------------------------------------------
def test_a_query_groups_and_joins(data: Path) -> None:
    result = query.query(data, "SELECT job, avg(polyphony) AS mean FROM samples GROUP BY job ORDER BY job")
    assert result.to_pylist() == [{"job": "a", "mean": 2.5}, {"job": "b", "mean": 1.0}]
    joined = "SELECT count(*) AS n FROM samples a JOIN samples b USING (key) WHERE a.sample_id < b.sample_id"
    assert query.query(data, joined).to_pylist() == [{"n": 3}]  # of the three in G major
    assert query.query(data, "WITH few AS (SELECT * FROM samples LIMIT 2) SELECT * FROM few").num_rows == 2
    assert query.query(data, "SELECT sample_id FROM samples WHERE false").to_pylist() == []
    assert query.query(data, "DESCRIBE samples")["column_name"].to_pylist() == CATALOG.columns.names


def test_pieces_are_a_view_where_there_are_rolls(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    with pytest.raises(ParamsError, match="pieces does not exist"):
        query.query(tmp_path, "SELECT * FROM pieces")
    tables.write(tmp_path / "rolls" / "pieces.parquet", pa.Table.from_pylist([], PIECES.columns), PIECES)
    assert query.query(tmp_path, "SELECT count(*) AS n FROM pieces").to_pylist() == [{"n": 0}]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("", "must be one SELECT"),
        ("SELECT 1; SELECT 2", "must be one SELECT"),
        ("DROP VIEW samples", "must be one SELECT"),
        ("CREATE TABLE t (a INT)", "must be one SELECT"),
        ("SELECT 1; DROP VIEW samples", "must be one SELECT"),
        ("COPY samples TO 'OUT'", "file system operations are disabled|must be one SELECT"),
        ("EXPORT DATABASE 'OUT'", "must be one SELECT"),
        ("ATTACH 'OUT'", "file system operations are disabled|must be one SELECT"),
        ("INSTALL httpfs", "must be one SELECT"),
        ("LOAD 'OUT'", "must be one SELECT"),
        ("SET enable_external_access = true", "must be one SELECT"),
        ("PRAGMA memory_limit = '1TB'", "must be one SELECT"),
        ("SELECT * FROM read_text('SECRET')", "file system operations are disabled"),
        ("SELECT * FROM read_csv('SECRET')", "file system operations are disabled"),
        ("SELECT * FROM 'SECRET'", "does not exist|disabled"),
        ("SELECT * FROM glob('*')", "file system operations are disabled"),
        ("SELECT * FROM 'https://example.org/a.parquet'", "file system operations are disabled"),
        ("SELECT * FROM query('DROP VIEW samples')", "single SELECT"),
        ("SELECT getenv('HOME')", "does not exist"),
        ("SELECT * FROM secret_rows", "does not exist"),  # a variable of this module
        ("SELECT polyfony FROM samples", 'not found.*"polyphony"'),
        ("SELECT * FROM sample", 'Did you mean "samples"'),
        ("SELECT CAST(key AS INT) FROM samples", "Could not convert"),
        ("SELECT", "Parser Error"),
    ],
)
def test_what_a_query_must_not_do(data: Path, tmp_path: Path, sql: str, reason: str) -> None:
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    sql = sql.replace("SECRET", str(tmp_path / "secret.csv")).replace("OUT", str(tmp_path / "out"))
    with pytest.raises(ParamsError, match=f"(?s)^SQL.*({reason})"):
        query.query(data, sql)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


secret_rows = pa.table({"a": [1]})


def test_settings_are_locked(data: Path) -> None:
    settings = {
        row["name"]: row["value"] for row in query.query(data, "SELECT name, value FROM duckdb_settings()").to_pylist()
    }
    assert settings["lock_configuration"] == "true"
    assert settings["enable_external_access"] == "false"
    assert settings["memory_limit"] == "1.8 GiB"  # 2 GB
    assert settings["threads"] == "4"


def test_ctrl_c_ends_a_query(data: Path) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        query.query(data, "SELECT count(*) FROM range(1000000000000) numbers WHERE numbers.range % 7 = 3")


# --- files ------------------------------------------------------------------------------------------------------------
def test_damage_is_named_where_a_query_reads_it(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    damage(tmp_path / "samples" / "catalog" / "a-00000-of-00001.parquet", "polyphony")
    assert query.query(tmp_path, "SELECT avg(notes) FROM samples").num_rows == 1
    for sql in ("SELECT avg(polyphony) FROM samples", "SELECT key FROM samples WHERE polyphony > 2"):
        with pytest.raises(CorruptError, match=r"damaged.*rerun the stage"):
            query.query(tmp_path, sql)
    with pytest.raises(CorruptError, match=r"damaged.*rerun the stage"):
        read.samples(tmp_path, sort="polyphony", columns=["key"])


def test_a_catalog_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run stage `generate`"):
        query.query(tmp_path, "SELECT 1")
    file = write(tmp_path, ROWS[:1]) / "samples" / "catalog" / "a-00000-of-00001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(CorruptError, match="damaged"):
        query.query(tmp_path, "SELECT 1")
    tables.write(file, pa.Table.from_pylist(ROWS[:1], CATALOG.columns), Table("catalog", 99, CATALOG.columns))
    with pytest.raises(SchemaError, match="v99"):
        query.query(tmp_path, "SELECT 1")


def test_the_order_of_files_stays(tmp_path: Path) -> None:
    rows = [row(job, index, polyphony=float(index % 7)) for job in "abcdef" for index in range(3000)]
    write(tmp_path, rows)
    wanted = [r["sample_id"] for r in rows if r["polyphony"] > 3]
    assert read.samples(tmp_path, "polyphony > 3")["sample_id"].tolist() == wanted
    assert read.samples(tmp_path, "polyphony > 3", limit=5)["sample_id"].tolist() == wanted[:5]
