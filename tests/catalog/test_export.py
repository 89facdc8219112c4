"""Exports of samples: only into their folder, and safe for spreadsheets."""

from __future__ import annotations

import csv
import errno
import math
import os
from pathlib import Path

import pytest
from sample_rows import row, write

from midivae.catalog import export, read
from midivae.errors import CorruptError, FolderError, ParamsError


def test_export(data: Path, tmp_path: Path) -> None:
    rows = read.samples(data, "novelty > 0.4", sort="-novelty", latents=True)
    assert export.to_folder(data, rows, tmp_path / "out") == 3
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "a-0000000.mid", "a-0000002.mid", "b-0000000.mid", "catalog.csv",
    }  # fmt: skip
    assert (tmp_path / "out" / "b-0000000.mid").read_bytes() == b"MThdb-0000000"
    with (tmp_path / "out" / "catalog.csv").open() as file:
        exported = list(csv.DictReader(file))
    assert [r["sample_id"] for r in exported] == list(rows["sample_id"])
    assert exported[0]["parts"] == '["soprano", "bass"]'
    assert exported[0]["z"] == "[0.0, 0.5, -1.0]"
    assert math.isclose(float(exported[0]["novelty"]), 0.9, rel_tol=1e-6)
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
        exported = next(csv.DictReader(file))
    assert exported["model"].startswith("'=")
    assert exported["key"] == "'@x"
    assert exported["polyphony"] == "-2.0"


def test_a_disk_that_gets_full_leaves_the_folder_as_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()

    def write(path: Path, content: bytes) -> None:
        if path.name == "catalog.csv":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(content)

    monkeypatch.setattr(export, "write_bytes", write)
    with pytest.raises(FolderError, match="out: No space left"):
        export.to_folder(data, read.samples(data), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="file/out: Not a directory"):
        export.to_folder(data, read.samples(data), tmp_path / "file" / "out")
