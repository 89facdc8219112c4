"""The catalog: the filter language against plain Python, errors that name what was meant, and safe exports."""

from __future__ import annotations

import csv
import math
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from midivae.catalog import export, read
from midivae.errors import CorruptError, InputError, ParamsError, SchemaError
from midivae.music.roll import Layout
from midivae.storage import schema, tables
from midivae.storage.schema import FEATURES

TABLE = schema.CATALOG


def row(job: str, index: int, **values: Any) -> dict[str, Any]:
    """A row of the catalog."""
    sample_id = values.get("sample_id", f"{job}-{index:07d}")
    return {
        "sample_id": sample_id, "job": job, "mode": "sample", "index": index, "seed": 0, "model": "mlp",
        "model_sha256": "ab", "params_sha256": "cd", "temperature": None, "prior": "normal",
        "method": None, "radius": None, "transpose": 0, "lead_steps": 0,
        "z": [index, 0.5, -1.0], "parents": [], "weights": [], "edits": None, "tempo_qpm": 90.0,
        "parts": ["soprano", "bass"], "programs": [0, 32],
        "n_steps": 64, "steps_per_beat": 4, "duration_s": 12.8, **dict.fromkeys(FEATURES, 1.0), "key": "C major",
        "novelty": None, "midi": {"bytes": b"MThd" + sample_id.encode(), "path": None}, **values,
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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"), ROWS)


def ids(frame: pd.DataFrame) -> list[str]:
    return [name.replace("-000000", "") for name in frame["sample_id"]]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("polyphony > 2 and key == 'G major'", "a0"),
        ("polyphony >= 2 and not key == 'E minor'", "a0 a1"),
        ("1 < polyphony <= 2.5", "a0 a1"),
        ("key in ('E minor', 'C major') or job == 'b'", "a2 b0"),
        ("key not in ['G major']", "a2"),  # a missing key is neither in nor out
        ("key is None", "a3"),
        ("novelty is not None and index < 2", "a0 a1 b0"),
        ("not novelty > 0.4", "a1"),  # a missing value makes every comparison false
        ("novelty != 0.5", "a0 a1"),
        ("polyphony * 2 - 1 == index + 3", "a2"),  # a0: 4 and 3, a1: 3 and 4, a2: 5 and 5, b0: 1 and 3
        ("index / 2 == 0.5", "a1"),  # not the integer division 1 / 2 == 0
        ("index > 0.5", "a1 a2 a3"),
        ("temperature == 0.9", "a0"),  # stored in 32 bits
        ("temperature in (0.9, 1)", "a0"),
        ("-novelty < -0.8", "a0"),
        ("notes == 7", "b0"),
        ("'b' == job", "b0"),
        ("novelty < polyphony / 5", "a1 a2"),  # 0.1 < 0.4, 0.5 < 0.6; a0: 0.9 < 0.5 no; b0: 0.5 < 0.2 no
        ("  ", "a0 a1 a2 a3 b0"),
    ],
)
def test_where(data: Path, where: str, found: str) -> None:
    assert ids(read.samples(data, where)) == found.split()


def test_sort(data: Path) -> None:
    assert ids(read.samples(data, sort="novelty")) == ["a1", "a2", "b0", "a0", "a3"]  # ties by sample_id
    assert ids(read.samples(data, sort="-novelty", limit=3)) == ["a0", "a2", "b0"]  # missing values last, too
    assert ids(read.samples(data, sort="key, -polyphony")) == ["a2", "a0", "a1", "b0", "a3"]


def test_columns_and_latents(data: Path) -> None:
    frame = read.samples(data)
    assert "z" not in frame
    assert "midi" not in frame
    assert len(frame.columns) == len(TABLE.columns) - 2
    assert list(read.samples(data, sort="novelty", columns=["key", "job"]).columns) == ["key", "job"]
    chosen = read.samples(data, columns=["job"], latents=True)
    assert list(chosen.columns) == ["job", "z"]
    assert read.latents(chosen).dtype == np.float32
    assert read.latents(chosen).tolist() == [[i, 0.5, -1] for i in (0, 1, 2, 3, 0)]
    assert read.latents(read.samples(data, "index > 99", latents=True)).shape[0] == 0
    with pytest.raises(ParamsError, match="latents=True"):
        read.latents(frame)
    with pytest.raises(ParamsError, match=r"no column 'polyfony'.*nearest: polyphony"):
        read.samples(data, columns=["polyfony"])


def test_bytes_are_not_read_unless_asked_for(tmp_path: Path) -> None:
    # the pages of `midi` are damaged: queries do not see it, since they do not read them; an export does
    write(tmp_path, ROWS[:1])
    file = tmp_path / "samples" / "catalog" / "a-00000-of-00001.parquet"
    group = pq.ParquetFile(file).metadata.row_group(0)
    at = next(c for i in range(group.num_columns) if (c := group.column(i)).path_in_schema == "midi.bytes")
    damaged = bytearray(file.read_bytes())
    damaged[at.data_page_offset + at.total_compressed_size - 3] ^= 1
    file.write_bytes(damaged)
    assert len(read.samples(tmp_path, "polyphony > 2", sort="novelty")) == 1
    with pytest.raises(CorruptError, match="damaged"):
        export.to_folder(tmp_path, read.samples(tmp_path), tmp_path / "out")


@pytest.mark.parametrize("place", ["", "samples", "samples/catalog"])
def test_any_of_three_folders(data: Path, place: str) -> None:
    assert len(read.samples(data / place)) == 5


def test_layout_of_a_job(tmp_path: Path) -> None:
    for job, low in (("a", 36), ("a-b", 48)):  # one name begins as the other does
        layout = Layout(("x",), low, 12, 4)
        rows = pa.Table.from_pylist([row(job, 0)], TABLE.columns)
        file = tmp_path / "catalog" / f"{job}-00000-of-00001.parquet"
        tables.write(file, rows, TABLE, extra={"layout": layout.to_json()})
    assert read.layout(tmp_path, "a").pitch_low == 36
    assert read.layout(tmp_path, "a-b").pitch_low == 48
    with pytest.raises(InputError, match="no job 'c'"):
        read.layout(tmp_path, "c")


def test_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run stage `generate`"):
        read.samples(tmp_path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    other = schema.Table("catalog", 99, TABLE.columns)
    file = tmp_path / "samples" / "catalog" / "a-00000-of-00001.parquet"
    tables.write(file, pa.Table.from_pylist(ROWS[:1], TABLE.columns), other)
    with pytest.raises(SchemaError, match=r"v99.*v3"):
        read.samples(tmp_path)


# --- the language refuses what it does not know -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("polyfony > 2", "no column 'polyfony' in the catalog; nearest: polyphony"),
        ("qqqqqq > 2", "there are: sample_id, job"),
        ("polyphony >", "not understood"),
        ("polyphony", "is no comparison"),
        ("polyphony and key == 'x'", "is no comparison"),
        ("polyphony > 'x'", "polyphony is number and 'x' is text"),
        ("key > 3", "key is text and 3 is number"),
        ("key + 'x' == 'y'", "are not both numbers"),
        ("z > 1", "column 'z' holds"),
        ("novelty == None", "is None"),
        ("novelty is 3", "goes with None only"),
        ("novelty == True", "neither a column nor a value"),
        ("job in 'abc'", "needs a list"),
        ("job in ()", "needs a list"),
        ("novelty > 1 / 0", "no such number"),
        ("novelty > 1e200 * 1e200 * notes", None),
        ("__import__('os').system('true') == 0", "neither a column nor a value"),
        ("().__class__ == 1", "neither a column nor a value"),
        ("(lambda: 1)() == 1", "neither a column nor a value"),
        ("[x for x in (1,)] == 1", "neither a column nor a value"),
        ("notes ** 99999999 > 1", "neither a column nor a value"),
        ("index > 99999999999999999999", "neither a column nor a value"),
        ("not " * 300 + "notes > 1", "deep"),
        ("(" * 300 + "notes > 1" + ")" * 300, "not understood"),
        ("notes > " + "-" * 300 + "1", "deep"),
        ("notes\0 > 1", "not understood"),
    ],
)
def test_bad_filters(data: Path, where: str, reason: str | None) -> None:
    if reason is None:
        assert read.samples(data, where).empty
        return
    with pytest.raises(ParamsError) as error:
        read.samples(data, where)
    assert reason in str(error.value)


def test_bad_sorts(data: Path) -> None:
    with pytest.raises(ParamsError, match="nearest: novelty"):
        read.samples(data, sort="-novelti")
    with pytest.raises(ParamsError, match="no order"):
        read.samples(data, sort="parts")


NUMBERS = ("polyphony", "novelty", "index", "notes")
COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
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
def test_filters_mean_what_python_says(data: Path, tree: Any) -> None:
    wanted = [r["sample_id"] for r in ROWS if holds(tree, r)]
    assert list(read.samples(data, text(tree))["sample_id"]) == wanted


# --- export -----------------------------------------------------------------------------------------------------------
def test_export(data: Path, tmp_path: Path) -> None:
    rows = read.samples(data, "novelty > 0.4", sort="-novelty", latents=True)
    assert export.to_folder(data, rows, tmp_path / "out") == 3
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "a-0000000.mid", "a-0000002.mid", "b-0000000.mid", "catalog.csv",
    }  # fmt: skip
    assert (tmp_path / "out" / "b-0000000.mid").read_bytes() == b"MThdb-0000000"
    with (tmp_path / "out" / "catalog.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [r["sample_id"] for r in found] == list(rows["sample_id"])
    assert found[0]["parts"] == '["soprano", "bass"]'
    assert found[0]["z"] == "[0.0, 0.5, -1.0]"
    assert math.isclose(float(found[0]["novelty"]), 0.9, rel_tol=1e-6)
    assert export.to_folder(data, rows.head(0), tmp_path / "none") == 0


@pytest.mark.parametrize(
    "name", ["../x-0000001", "a/b-0000001", "/tmp/x-0000001", "a-1", "A-0000001", "a-0000001\n", ""]
)
def test_export_writes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path, [row("a", 1, sample_id=name)])
    with pytest.raises(CorruptError, match="not of the form"):
        export.to_folder(tmp_path, read.samples(tmp_path), tmp_path / "out" / "deep")
    assert not list(tmp_path.rglob("*.mid"))


def test_export_refuses_what_it_cannot_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="without the column `sample_id`"):
        export.to_folder(data, read.samples(data, columns=["job"]), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ParamsError, match="is a file"):
        export.to_folder(data, read.samples(data), tmp_path / "file")
    rows = read.samples(data)
    rows.loc[0, "sample_id"] = "a-0000099"
    with pytest.raises(CorruptError, match="1 of 5 samples are not in the catalog"):
        export.to_folder(data, rows, tmp_path / "out")


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    write(tmp_path, [row("a", 1, model="=cmd|'/c calc'!A0", key="@x", polyphony=-2.0)])
    export.to_folder(tmp_path, read.samples(tmp_path), tmp_path / "out")
    with (tmp_path / "out" / "catalog.csv").open() as file:
        found = next(csv.DictReader(file))
    assert found["model"].startswith("'=")
    assert found["key"] == "'@x"
    assert found["polyphony"] == "-2.0"
