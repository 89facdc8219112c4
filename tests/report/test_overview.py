"""The sections "Overview" and "Corpus"."""

from __future__ import annotations

from pathlib import Path

from reported import LICENCE, SOURCE

from midivae.music.reasons import REASONS
from midivae.report.overview import corpus


def test_counts_add_up(data: Path) -> None:
    found = corpus(data)
    assert found["found"] == 25
    assert found["found"] == found["accepted"] + sum(row["files"] for row in found["rejected"])
    assert found["rejected"] == [{"reason": "not_midi", "files": 1, "means": REASONS["not_midi"]}]
    assert sum(len(pieces) for pieces in found["splits"].values()) == 24
    assert found["sources"] == [{"source": SOURCE, "licence": LICENCE, "files": 25}]
    assert found["copies"] == found["near"] == 0
    assert sum(share for _, share in found["keys"]) <= 1 + 1e-9
