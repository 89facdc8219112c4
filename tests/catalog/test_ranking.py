"""Which samples are heard first: by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from midivae.catalog import ranking, read
from midivae.errors import CorruptError, InputError, ParamsError
from midivae.storage import schema

REAL = pd.DataFrame({"set": "held-out", "feature": schema.FEATURES, "mean": 1.0, "sd": 2.0})


def table(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    """Samples as (id, job, value of every measure, novelty)."""
    found = pd.DataFrame([{"sample_id": n, "job": j, "novelty": new} for n, j, _, new in rows])
    for name in schema.FEATURES:
        found[name] = [value for _, _, value, _ in rows]
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = table(
        ("a-0000000", "a", 1.0, 0.5),  # closest, and in the middle of novelty: ranks 1 + 3
        ("a-0000001", "a", 3.0, 1.0),  # one sd away, newest: 3 + 1; a tie with the first
        ("a-0000002", "a", 1.2, 0.9),  # 2 + 2; a tie as well
        ("a-0000003", "a", 9.0, 0.1),  # 4 + 4
        ("a-0000004", "a", 1.0, 1.0),  # perfect, but its file is not valid
        ("a-0000005", "a", np.nan, 1.0),  # no measures
        ("b-0000000", "b", 5.0, 0.2),
    )
    monkeypatch.setattr(read, "samples", lambda data, columns: rows[columns])
    (tmp_path / "evaluation").mkdir()
    REAL.to_csv(tmp_path / "evaluation" / "features.csv", index=False)
    refused = pd.DataFrame({"sample_id": ["a-0000004"], "notes": [1], "reason": ["the file has 2 notes"]})
    refused.to_csv(tmp_path / "evaluation" / "refused.csv", index=False)
    return tmp_path


def test_the_best_by_hand(folder: Path) -> None:
    assert ranking.best(folder, 9, ("a",)) == ["a-0000000", "a-0000001", "a-0000002", "a-0000003"]
    assert ranking.best(folder, 1) == ["a-0000000", "b-0000000"]
    assert ranking.best(folder, 2, ("b",)) == ["b-0000000"]


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(ParamsError, match="there are a, b"):
        ranking.best(folder, 1, ("c",))
    (folder / "evaluation" / "refused.csv").write_bytes(b'a,b\n"\xff\n1,2,3\n')
    with pytest.raises(CorruptError, match="rerun stage `evaluate`"):
        ranking.best(folder, 1)
    (folder / "evaluation" / "features.csv").unlink()
    with pytest.raises(InputError, match="run stage `evaluate`"):
        ranking.best(folder, 1)
