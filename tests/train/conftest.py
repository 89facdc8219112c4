"""Rolls to train on, in a folder and a work directory of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rolls import made_up, write_rolls

SPLITS = ["train"] * 9 + ["valid"] * 2 + ["test"] * 3


@pytest.fixture(autouse=True)
def _own_work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_rolls(tmp_path / "data" / "rolls", made_up(len(SPLITS)), SPLITS, programs=[5, -1])
    return tmp_path / "data"
