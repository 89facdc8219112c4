"""The model card."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from midivae.storage import tables
from midivae.storage.files import file_sha256
from midivae.storage.schema import CORPUS
from midivae.train import devices
from midivae.train import stage as train
from train.test_stage import params

pytestmark = pytest.mark.numerical


def test_the_card_names_lineage_licence_and_figures_and_no_markup_gets_in(data: Path) -> None:
    row = {"path": "a.mid", "sha256": "0" * 64, "bytes": 1, "source": "set", "origin": "a"}
    rows = [{**row, "licence": "<script>|x"}, {**row, "licence": "<script>|x"}, {**row, "licence": None}]
    tables.write(data / "corpus" / "corpus.parquet", pa.Table.from_pylist(rows, CORPUS.columns), CORPUS)
    train.run(params(compare=()), data)
    card = (data / "model" / "README.md").read_text()
    assert "| 2 file(s) of set | licence: &lt;script&gt;/x |" in card
    assert "| 1 file(s) of set | licence: not stated |" in card
    assert "<script>" not in card
    assert file_sha256(data / "rolls" / "manifest.json") in card
    assert '"learning_rate": 0.001' in card
    assert f'"precision": "{devices.connect("auto").precision}"' in card
    assert "768 inputs" in card  # 16 steps * 2 parts * 2 planes * 12 pitches
