"""Section "Against held-out music"."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from reported import Page, params

from midivae.errors import CorruptError
from midivae.report import comparison


def test_figures_are_those_of_the_evaluation(data: Path, page: Page) -> None:
    metrics = json.loads((data / "evaluation" / "metrics.json").read_text())
    text = "".join(page.text)
    assert metrics["article_verdict"] in text
    distances = pd.read_csv(data / "evaluation" / "distances.csv")
    jobs = {job.name: f"s{i} d0 j{i}" for i, job in enumerate(params().generate.jobs)}
    rows = comparison.comparison(data / "evaluation", jobs, metrics)["table"]
    asked_for = distances[distances["distance"].isin(comparison._DISTANCES) & (distances["job"] == "sample")]
    assert len(rows) == len(asked_for) > 20
    table = comparison.comparison(data / "evaluation", jobs, metrics)["models"]
    assert [row["set"] for row in table] == ["held-out", "bernoulli", "markov", *jobs]
    frechet = next(row for row in rows if row["distance"] == "frechet")
    asked = distances[distances["distance"] == "frechet"].set_index("job")[["mean", "real_mean"]]
    assert frechet["cells"] == pytest.approx(asked.loc[list(jobs)].to_numpy(), nan_ok=True)


def test_a_table_that_is_no_csv(tmp_path: Path) -> None:
    (tmp_path / "distances.csv").write_bytes(b'a,b\n"\xff\n1,2,3\n')
    with pytest.raises(CorruptError, match="rerun stage `evaluate`"):
        comparison.comparison(tmp_path, {}, {})
