"""Section "Against held-out music"."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from reported import Page, params

from midivae.errors import CorruptError
from midivae.report import comparison
from midivae.storage import schema


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


def test_harmony_of_every_set(data: Path, page: Page) -> None:
    metrics = json.loads((data / "evaluation" / "metrics.json").read_text())
    jobs = {job.name: f"s{i} d0 j{i}" for i, job in enumerate(params().generate.jobs)}
    harmony = comparison.comparison(data / "evaluation", jobs, metrics)["harmony"]
    assert harmony["sets"] == ["held-out", "bernoulli", "markov", *jobs]
    table = pd.read_csv(data / "evaluation" / "harmony.csv").set_index("set").loc[harmony["sets"]]
    measured = [name for name in (*schema.HARMONY, "chord_nats") if table[name].notna().any()]
    assert [row["name"] for row in harmony["rows"]] == measured  # a measure without a value has no row
    for row in harmony["rows"]:
        assert row["cells"] == pytest.approx(table[row["name"]].tolist(), nan_ok=True)
        assert row["about"] in "".join(page.text)


def test_a_measure_without_values_has_no_row(tmp_path: Path) -> None:
    values = {key: [0.5, 0.25] for key in (*schema.HARMONY, "chord_nats")} | {"crossing_share": [None, None]}
    pd.DataFrame({"set": ["a", "held-out"], **values}).to_csv(tmp_path / "harmony.csv", index=False)
    harmony = comparison._harmony(tmp_path, {"a": "s0"})
    assert harmony["sets"] == ["held-out", "a"]
    assert len(harmony["rows"]) == len(schema.HARMONY)
    assert harmony["rows"][0]["cells"] == [0.25, 0.5]
    assert "crossing_share" not in [row["name"] for row in harmony["rows"]]


def test_a_table_that_is_no_csv(tmp_path: Path) -> None:
    (tmp_path / "distances.csv").write_bytes(b'a,b\n"\xff\n1,2,3\n')
    with pytest.raises(CorruptError, match="rerun stage `evaluate`"):
        comparison.comparison(tmp_path, {}, {})
