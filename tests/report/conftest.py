"""One run of all stages with hostile names, and its report, for all tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from reported import Page, build, params

from midivae.report import stage as report


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after all stages but `report`, with hostile names."""
    data = tmp_path_factory.mktemp("data")
    build(data)
    return data


@pytest.fixture(scope="package")
def html(data: Path) -> str:
    report.run(params(), data)
    return (data / "report" / "index.html").read_text()


@pytest.fixture(scope="package")
def page(html: str) -> Page:
    return Page(html)
