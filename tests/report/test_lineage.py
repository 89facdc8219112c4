"""Section "Lineage"."""

from __future__ import annotations

from pathlib import Path

from reported import Page

from midivae.catalog import read
from midivae.report import lineage
from midivae.storage import folders
from midivae.storage.files import file_sha256


def test_lineage_names_what_it_was_made_from(data: Path, page: Page) -> None:
    text = "".join(page.text)
    for folder in ("corpus", "rolls", "model", "samples", "evaluation"):
        assert file_sha256(data / folder / folders.MANIFEST) in text
    assert "rolls_per_job: 2" in text
    assert lineage.code_sha256() in text
    for model in set(read.samples(data)["model_sha256"]):
        assert model in text
    assert "workers" not in text  # it never changes a result, so it does not change the page
