"""Section "What modes do"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reported import Page

from midivae.report import modes


def test_tables_of_modes(data: Path, page: Page) -> None:
    tables = {table["name"]: table for table in modes.modes(data / "evaluation")["tables"]}
    assert set(tables) == {"paths", "parents", "ensemble"}
    paths = pd.read_csv(data / "evaluation" / "paths.csv")
    assert len(tables["paths"]["rows"]) == len(paths) == 2
    assert paths["spearman"][0] in tables["paths"]["rows"][0]
    assert "How music changes along a blend" in "".join(page.text)


def test_many_rows_are_gathered() -> None:
    rows = pd.DataFrame(
        {"job": "v", "mode": "vary", "radius": np.arange(20) / 10, "rows": 1, "distance": np.arange(20) / 20}
    )
    short = modes._by_radius(rows)
    # 0, 0.1 and 0.2 lie in the first quarter, 0.3 and 0.4 in the second
    assert short["radius"].tolist()[:2] == [0.125, 0.375]
    assert short["rows"].tolist()[:2] == [3, 2]
    assert short["distance"].tolist()[:2] == pytest.approx([0.05, 0.175])
    assert short["rows"].sum() == 20


def test_a_control_matrix_by_hand() -> None:
    drifts = {("density", "density"): 1.0, ("density", "key"): 0.25, ("key", "density"): 0.05, ("key", "key"): 1.0}
    rows = pd.DataFrame(
        [
            {"job": "e", "asked": a, "measured": b, "rows": 5, "spearman": 0.9, "slope": 1.1, "drift": drift}
            for (a, b), drift in drifts.items()
        ]
    )
    [matrix] = modes._control(rows)
    assert matrix["measured"] == ["density", "key"]
    assert [row["cells"] for row in matrix["rows"]] == [
        [("density", 1.0, 4), ("key", 0.25, 2)],
        [("density", 0.05, 0), ("key", 1.0, 4)],
    ]
    assert modes._control(rows.iloc[:0]) == []
