"""A small catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_rows import ROWS, write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"), ROWS)
