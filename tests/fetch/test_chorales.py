"""Tests of midivae.fetch.chorales: the default corpus, and what a score that crashes its reader costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from guarded import convert_or_crash

from fetch.test_musicxml import BACH
from fetch.test_stage import check_corpus, params, rows, tree
from midivae.errors import InputError, WorkerError
from midivae.fetch import chorales
from midivae.fetch import stage as fetch
from midivae.music import smf
from midivae.workers import parallel
from midivae.workers.outcome import Failure, Outcome

NAMES = ("bwv10.7", "bwv1.6", "bwv101.7", "bwv269", "bwv299", "bwv40.6")


@pytest.fixture
def few_chorales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few chorales, in batches of two."""
    folder = tmp_path / "bach"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(BACH / f"{name}.mxl", folder)
    monkeypatch.setattr(chorales, "folder", lambda: folder)
    monkeypatch.setattr(chorales, "SCORES_PER_SPEC", 2)
    return folder


def test_chorales_are_the_same_with_one_and_two_workers(few_chorales: Path, tmp_path: Path) -> None:
    one = fetch.run(params(workers=1), tmp_path / "one")
    fetch.run(params(workers=2), tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    check_corpus(tmp_path / "one")
    assert (one["files"], one["failed"]) == (6, [])
    row = rows(tmp_path / "one")[0]
    assert (row["path"], row["origin"]) == ("bwv1.6.mid", "music21/corpus/bach/bwv1.6.mxl")
    assert str(row["source"]).startswith("bach-chorales (music21 ")
    assert "public domain" in str(row["licence"])
    notes = smf.read((tmp_path / "one" / "corpus" / "midi" / "bwv269.mid").read_bytes()).notes
    assert notes.track_names == ("Soprano", "Alto", "Tenor", "Bass")


def test_a_score_that_crashes_hangs_or_is_broken_costs_itself(
    few_chorales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chorales, "convert", convert_or_crash)
    (few_chorales / "bwv10.7.mxl").write_bytes(b"crash")
    (few_chorales / "bwv101.7.mxl").write_bytes(b"hang")
    (few_chorales / "bwv299.mxl").write_bytes(b"nonsense")
    summary = fetch.run(params(time_limit_s=8.0), tmp_path / "data")
    assert summary["files"] == 3
    assert summary["failed"] == ["bwv10.7.mxl", "bwv101.7.mxl", "bwv299.mxl"]
    assert "bwv10.7.mxl: not converted: crashed: killed by SIGSEGV" in caplog.text
    assert "bwv101.7.mxl: not converted: timeout: no heartbeat for 8 s" in caplog.text
    assert "bwv299.mxl: not converted: verovio cannot read the score" in caplog.text
    check_corpus(tmp_path / "data")


def test_a_child_that_dies_before_any_score_is_a_worker_error(
    few_chorales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure("crashed", None, "killed by SIGKILL")
    assert chorales._without_failed(chorales.Scores(("a",)), failure) is None
    monkeypatch.setattr(parallel, "fan_out", lambda *args, **more: iter([(0, Outcome(None, failure))]))
    with pytest.raises(WorkerError, match="SIGKILL"):
        fetch.run(params(), tmp_path / "data")


def test_chorales_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install music21"):
        fetch.run(params(), tmp_path / "data")


def test_music21_is_not_imported(tmp_path: Path) -> None:
    program = "import sys, midivae.fetch.chorales; midivae.fetch.chorales.folder(); assert 'music21' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
