"""Section "Samples": the data for the page's script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reported import unpacked

from midivae.catalog import read
from midivae.report import gallery
from midivae.report.reconstructions import piece_paths
from midivae.storage import schema, tables


def test_the_page_has_every_sample_and_its_file(data: Path, html: str) -> None:
    found, files = unpacked(html)
    rows = pd.read_parquet(data / "samples" / "catalog").set_index("sample_id")
    assert len(found["sizes"]) == len(rows)
    at = 0
    for i, size in enumerate(found["sizes"]):
        columns = {name: column[i] for name, column in found["columns"].items()}
        job = found["jobs"][columns["job"]]
        row = rows.loc[f"{job['name']}-{columns['index']:07}"]
        assert files[at : at + size] == row["midi"]["bytes"]
        at += size
        assert columns["notes"] == row["notes"]
        assert columns["novelty"] == pytest.approx(row["novelty"], rel=1e-3)
        assert columns["key"] == row["key"]
        assert columns["parents"] == [shown_parent(text, data) for text in row["parents"]]
        assert columns["weights"] == pytest.approx(row["weights"], rel=1e-3)
    assert at == len(files)


def shown_parent(text: str, data: Path) -> str:
    paths = {
        row["piece_id"]: row["path"]
        for row in tables.read(data / "rolls" / "pieces.parquet", schema.PIECES).to_pylist()
    }
    place, bar = text.removeprefix("piece:").split("@")
    return f"{paths[place]}, bar {bar}"


def test_neighbours_by_hand(data: Path, html: str) -> None:
    found, _ = unpacked(html)
    z = read.samples(data, columns=["sample_id", "z", "model"]).set_index("sample_id")
    ids = [
        f"{found['jobs'][j]['name']}-{i:07}"
        for j, i in zip(*(found["columns"][c] for c in ("job", "index")), strict=True)
    ]
    mine = z[(z["model"] == "autoencoder")]
    assert len(mine) == 3
    for name in mine.index:
        others = [other for other in mine.index if other != name]
        nearest = min(others, key=lambda other: float(np.linalg.norm(z["z"][other] - z["z"][name])))
        assert ids[found["columns"]["alike"][ids.index(name)]] == nearest
    table = tables.read(data / "evaluation" / "neighbours.parquet", schema.NEIGHBOURS).to_pandas()
    row = table[table["id"] == "sample-0000000"].sort_values("distance").iloc[0]
    piece, beat, semitones, distance = found["columns"]["nearest"][ids.index("sample-0000000")]
    assert (beat, semitones) == (1 + row["piece_start_step"] // 4, row["semitones"])
    assert distance == pytest.approx(row["distance"], rel=1e-3)
    assert piece == piece_paths(data / "rolls")[row["piece_id"]]


def test_of_a_large_catalog_the_first_of_each_job() -> None:
    # 10 + 2 + 5 rows, at most 9: the job of 2 whole, 3 of the others, and one place stays free
    rows = pd.DataFrame({"job": ["a"] * 10 + ["b"] * 2 + ["c"] * 5, "index": [*range(10), *range(2), *range(5)]})
    kept = gallery._first_of_each(rows, 9)
    assert kept.groupby("job").size().to_dict() == {"a": 3, "b": 2, "c": 3}
    assert kept[kept["job"] == "a"]["index"].tolist() == [0, 1, 2]
    assert len(gallery._first_of_each(rows, 100)) == 17
    assert len(gallery._first_of_each(rows, 1)) == 3  # no job is left out


def test_how_cells_were_set(html: str) -> None:
    jobs = {job["name"]: job["about"] for job in unpacked(html)[0]["jobs"]}
    assert jobs["sample"] == "mode sample · model mlp · threshold 0.3, normal prior"
    assert jobs["drawn"] == "mode sample · model autoencoder · temperature 1, normal prior"
    assert jobs["merged"].startswith("mode ensemble, merged · ")
