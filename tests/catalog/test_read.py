"""Reading the catalog: order, columns, latents, layouts, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sample_rows import ROWS, TABLE, damage, ids, row, write

from midivae.catalog import export, read
from midivae.errors import CorruptError, InputError, ParamsError, SchemaError
from midivae.music.roll import Layout
from midivae.storage import schema, tables


def test_sort(data: Path) -> None:
    assert ids(read.samples(data, sort="novelty")) == ["a1", "a2", "b0", "a0", "a3"]  # ties by sample_id
    assert ids(read.samples(data, sort="-novelty", limit=3)) == ["a0", "a2", "b0"]  # missing values last, too
    assert ids(read.samples(data, sort="key, -polyphony")) == ["a2", "a0", "a1", "b0", "a3"]


def test_bad_sorts(data: Path) -> None:
    with pytest.raises(ParamsError, match="nearest: novelty"):
        read.samples(data, sort="-novelti")


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
    # pages of `midi` are damaged: queries do not see it, since they do not read them; an export does
    write(tmp_path, ROWS[:1])
    damage(tmp_path / "samples" / "catalog" / "a-00000-of-00001.parquet", "midi.bytes")
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
    with pytest.raises(SchemaError, match=rf"v99.*v{TABLE.version}"):
        read.samples(tmp_path)
