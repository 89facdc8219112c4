"""Commands configure the log of the whole process; other tests want it as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    ours = logging.getLogger("midivae")
    before = ours.handlers, ours.level, ours.propagate
    yield
    ours.handlers, ours.level, ours.propagate = before


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text("train: {dense: {epochs: 3}}\n")
    return path
