"""The commands `catalog` and `export`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from limits import WAIT_S
from program import invoke, start

from midivae import errors
from midivae.cli import catalog as cli
from midivae.cli.stages import STAGES
from midivae.storage import schema, tables

NAMES = [stage.name for stage in STAGES]


# --- catalog and export -----------------------------------------------------------------------------------------------
KEYS = ["G major", "C major", None]
NOVELTY = [0.9, 0.1, None]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A catalog of three samples; the third is silent."""
    table = schema.CATALOG
    columns: dict[str, list] = {name: [0.5, 1.5, 2.5] for name in table.columns.names}
    columns |= {
        name: ["x", "x", "x"] for name in ("mode", "method", "model", "model_sha256", "params_sha256", "edits", "prior")
    }
    columns |= {name: [1, 2, 3] for name in ("seed", "index", "n_steps", "steps_per_beat", "transpose", "lead_steps")}
    columns |= {
        "sample_id": [f"sample-{i:07}" for i in range(3)],
        "job": ["sample"] * 3,
        "z": [[0.1, 0.2]] * 3,
        "parents": [[], [], []],
        "weights": [[], [], []],
        "parts": [["merged"]] * 3,
        "programs": [[0]] * 3,
        "key": KEYS,
        "novelty": NOVELTY,
        "midi": [{"bytes": bytes([i]), "path": None} for i in range(3)],
    }
    rows = pa.table({name: pa.array(columns[name], table.columns.field(name).type) for name in table.columns.names})
    tables.write(tmp_path / "samples" / "catalog" / "sample-00000-of-00001.parquet", rows, table)
    return tmp_path


def test_catalog_prints_json_lines_with_all_columns_but_the_heavy_ones(samples: Path) -> None:
    result = invoke("catalog", "--data", samples, "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["key"] for row in rows] == KEYS
    assert [row["novelty"] for row in rows] == NOVELTY
    assert set(rows[0]) == set(schema.CATALOG.columns.names) - {"z", "midi"}
    assert result.stderr == "3 samples\n"


def test_catalog_filters_sorts_limits_and_picks_columns(samples: Path) -> None:
    def listed(*options: str) -> list[dict]:
        result = invoke("catalog", "--data", samples, "--json", "--columns", "sample_id,z", *options)
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    assert listed("--where", "key = 'C major'") == [{"sample_id": "sample-0000001", "z": [0.1, 0.2]}]
    order = [row["sample_id"][-1] for row in listed("--sort", "novelty")]
    assert order == ["1", "0", "2"]  # missing values come last, either way
    assert [row["sample_id"][-1] for row in listed("--sort", "novelty", "--descending")] == ["0", "1", "2"]
    assert [row["sample_id"][-1] for row in listed("--sort", "-novelty", "--limit", "1")] == ["0"]


@pytest.mark.parametrize(("value", "shown"), [(2420.0, "2420"), (151.25, "151"), (0.6639, "0.664"), (-1234.5, "-1234")])
def test_numbers_of_the_table_are_short_and_plain(value: float, shown: str) -> None:
    assert cli._short(value) == shown


def test_catalog_prints_a_table(samples: Path) -> None:
    lines = invoke("catalog", "--data", samples).stdout.splitlines()
    assert lines[0].split() == list(cli.OVERVIEW)
    assert lines[1].split()[0] == "sample-0000000"
    assert len(lines) == 4
    assert invoke("catalog", "--data", samples, "--where", "novelty > 1").stdout == ""


def test_catalog_says_what_is_wrong_with_a_filter(samples: Path) -> None:
    result = invoke("catalog", "--data", samples, "--where", "polyfony > 2")
    assert result.exit_code == errors.ParamsError.exit_code
    assert '"polyphony"' in result.stderr


def test_an_old_filter_is_result_the_new_form(samples: Path) -> None:
    result = invoke("catalog", "--data", samples, "--where", "polyphony > 2 and key == 'G major'")
    assert result.exit_code == errors.ParamsError.exit_code
    assert "write \"polyphony > 2 and key = 'G major'\"" in result.stderr


QUERY = "SELECT key, count(*) AS n, sum(index) AS total, max(novelty) AS novelty FROM samples GROUP BY key ORDER BY key"


def test_query_prints_a_table(samples: Path) -> None:
    result = invoke("query", "--data", samples, QUERY)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["key", "n", "total", "novelty"]
    assert lines[1:] == [["C", "major", "1", "2", "0.1"], ["G", "major", "1", "1", "0.9"], ["1", "3"]]
    assert result.stderr == "3 rows\n"
    assert invoke("query", "--data", samples, "SELECT 1 WHERE false").stdout == ""


def test_query_prints_json_and_csv(samples: Path) -> None:
    lines = invoke("query", "--data", samples, QUERY, "--json").stdout.splitlines()
    assert json.loads(lines[0]) == {"key": "C major", "n": 1, "total": 2, "novelty": 0.1}
    assert json.loads(lines[2]) == {"key": None, "n": 1, "total": 3, "novelty": None}
    values = "SELECT DATE '2026-11-27' AS day, {'a': [1, 2]} AS s, NULL AS x, 1.5 AS d"
    [line] = invoke("query", "--data", samples, values, "--json").stdout.splitlines()
    assert json.loads(line) == {"day": "2026-11-27", "s": {"a": [1, 2]}, "x": None, "d": 1.5}
    assert invoke("query", "--data", samples, QUERY, "--csv").stdout.splitlines() == [
        "key,n,total,novelty",
        "C major,1,2,0.1",
        "G major,1,1,0.9",
        ",1,3,",
    ]


def test_query_refuses_what_it_cannot_print_or_must_not_do(samples: Path) -> None:
    result = invoke("query", "--data", samples, "SELECT midi FROM samples")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "`midivae export` writes the files" in result.stderr
    result = invoke("query", "--data", samples, "DELETE FROM samples")
    assert result.exit_code == 2
    assert "midivae query: SQL 'DELETE FROM samples': must be one SELECT" in result.stderr


def test_catalog_is_quiet_when_its_reader_goes(samples: Path) -> None:
    """`midivae catalog | head -1`: no traceback, and the exit code that shells give for a broken pipe."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = start("catalog", "--data", samples, stdout=write_end)
    os.close(write_end)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 141
    assert "Error" not in err


def test_export_writes_the_chosen_samples(samples: Path, tmp_path: Path) -> None:
    result = invoke("export", "--data", samples, "--where", "novelty > 0.5", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"written": 1, "folder": str(tmp_path / "out")}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["catalog.csv", "sample-0000000.mid"]
    assert (tmp_path / "out" / "sample-0000000.mid").read_bytes() == b"\x00"


def test_values_go_to_json_as_they_were_written() -> None:
    # float32(0.9) is 0.899999976...; people wrote 0.9
    assert cli._plain(np.float32(0.9)) == 0.9
    assert cli._plain(np.float32("nan")) is None
    assert cli._plain(np.array([1, 2], np.int32)) == [1, 2]
    assert cli._plain(np.int64(2**60)) == 2**60
    assert cli._plain(None) is None
