"""Tables and folders: whole or not at all, and no flipped bit goes unseen."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from midivae.errors import CorruptError, InputError, SchemaError
from midivae.storage import store
from midivae.storage.schema import CORPUS, PIECES, Table

ROWS = pa.Table.from_pylist(
    [
        {"path": f"{i}.mid", "sha256": f"{i:064x}", "bytes": i, "source": "test", "origin": "x", "licence": None}
        for i in range(500)
    ],
    CORPUS.columns,
)


def test_write_then_read(tmp_path: Path) -> None:
    store.write_table(tmp_path / "a.parquet", ROWS, CORPUS, {"layout": "hello"})
    assert store.read_table(tmp_path / "a.parquet", CORPUS).equals(ROWS)
    assert store.read_table(tmp_path / "a.parquet", CORPUS, ["bytes"]).column_names == ["bytes"]
    assert store.read_extra(tmp_path / "a.parquet", CORPUS, "layout") == "hello"
    first = (tmp_path / "a.parquet").read_bytes()
    store.write_table(tmp_path / "a.parquet", ROWS, CORPUS, {"layout": "hello"})
    assert (tmp_path / "a.parquet").read_bytes() == first


def test_other_tables_and_versions_are_refused_by_name(tmp_path: Path) -> None:
    store.write_table(tmp_path / "a.parquet", ROWS, CORPUS)
    with pytest.raises(SchemaError, match="table corpus v1, this release reads pieces v1; rerun"):
        store.read_table(tmp_path / "a.parquet", PIECES)
    with pytest.raises(SchemaError, match="corpus v1, this release reads corpus v2"):
        store.read_table(tmp_path / "a.parquet", Table("corpus", 2, CORPUS.columns))
    pq.write_table(ROWS, tmp_path / "bare.parquet")
    with pytest.raises(SchemaError, match=r"table \? v\?"):
        store.read_table(tmp_path / "bare.parquet", CORPUS)
    with pytest.raises(InputError, match="run the stage that writes it"):
        store.read_table(tmp_path / "none.parquet", CORPUS)


def test_missing_values_are_refused_where_the_schema_has_none(tmp_path: Path) -> None:
    rows = ROWS.set_column(0, "path", pa.nulls(len(ROWS), pa.string()))
    with pytest.raises(SchemaError, match="'path' of table 'corpus' has missing values"):
        store.write_table(tmp_path / "a.parquet", rows, CORPUS)
    assert list(tmp_path.iterdir()) == []


def test_one_flipped_bit_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    store.write_table(path, ROWS, CORPUS)
    good = path.read_bytes()
    silent = 0
    for position in range(0, len(good), 7):  # 7: every position of a bit in its byte comes up
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bytes(bad))
        with contextlib.suppress(CorruptError, SchemaError):
            silent += not store.read_table(path, CORPUS).equals(ROWS)
    assert silent == 0  # a flip in a statistic or a name that nobody reads may pass; wrong data may not


def test_publishing_is_all_or_nothing(tmp_path: Path) -> None:
    with store.publishing(tmp_path / "out") as staging:
        store.write_bytes(staging / "sub" / "a.txt", b"one")
    with pytest.raises(RuntimeError), store.publishing(tmp_path / "out") as staging:
        store.write_bytes(staging / "sub" / "a.txt", b"two")
        raise RuntimeError
    assert (tmp_path / "out/sub/a.txt").read_bytes() == b"one"
    with store.publishing(tmp_path / "out") as staging:
        store.write_bytes(staging / "b.txt", b"three")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.txt", "manifest.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    with store.publishing(tmp_path / "out") as staging:
        for name in "abc":
            store.write_bytes(staging / name, name.encode())
    assert store.verify(tmp_path / "out") == []
    (tmp_path / "out/a").write_bytes(b"A")
    (tmp_path / "out/b").unlink()
    (tmp_path / "out/d").write_bytes(b"d")
    wrong = "\n".join(store.verify(tmp_path / "out"))
    assert "b: missing" in wrong
    assert "d: not in the manifest" in wrong
    assert "a: sha256 differs" in wrong
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no manifest\.json"):
        store.verify(tmp_path / "empty")


PUBLISH_FOREVER = """
import sys
from pathlib import Path
from midivae.storage import store
round = 0
while True:
    with store.publishing(Path(sys.argv[1]) / "out") as staging:
        for name in range(20):
            store.write_bytes(staging / f"{name}.txt", str(round).encode())
    round += 1
    print(round, flush=True)
"""


def test_kill_at_any_moment_leaves_a_whole_folder(tmp_path: Path) -> None:
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", PUBLISH_FOREVER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.011 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert store.verify(tmp_path / "out") == []
        assert len({(tmp_path / f"out/{name}.txt").read_bytes() for name in range(20)}) == 1
    with store.publishing(tmp_path / "out") as staging:
        store.write_bytes(staging / "last.txt", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]  # what the killed runs left is gone


def test_clone_shares_no_inode(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    store.clone(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "a").stat().st_ino != (tmp_path / "b").stat().st_ino


def test_json_errors(tmp_path: Path) -> None:
    store.write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert store.read_json(tmp_path / "a.json") == {"a": "é", "b": 1}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(CorruptError, match="not valid JSON"):
        store.read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="no such file"):
        store.read_json(tmp_path / "b.json")


def test_work_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDIVAE_HOME", "/somewhere")
    assert store.work_dir() == Path("/somewhere")
    monkeypatch.delenv("MIDIVAE_HOME")
    assert store.work_dir() == Path(".midivae")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, 3], pa.int32()),
        ([], pa.float64()),
        ([True, False, None] * 5, pa.bool_()),
        (["a", None, "\u00e9\u00e8", ""], pa.string()),
        ([b"\x00\xff", b"", None], pa.binary()),
        (np.arange(5, dtype=np.int64), pa.int16()),
        (np.array([2.5, np.nan]), pa.float32()),
        (np.arange(20) % 3 == 0, pa.bool_()),
        (np.arange(12)[::3], pa.int64()),
    ],
)
def test_column_is_what_pyarrow_makes(values: Any, kind: pa.DataType) -> None:
    made = store.column(values, kind)
    made.validate(full=True)
    assert str(made) == str(pa.array(values, kind))  # in words, as nan is not equal to itself
    if not isinstance(values, list):
        present = np.arange(len(values)) % 2 == 0
        assert store.column(values, kind, present).is_valid().to_pylist() == present.tolist()
