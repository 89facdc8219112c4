"""Drift: new music like the old is quiet, other music is named, other rolls are a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import four_part
import numpy as np
import pytest

from midivae.champion import drift
from midivae.config.champion import Drift
from midivae.config.params import Params, parse
from midivae.errors import SchemaError
from midivae.fetch import stage as fetch
from midivae.ingest import stage as ingest
from midivae.music import smf
from midivae.train import stage as train

pytestmark = pytest.mark.numerical


def tiny(folder: Path, pitches: int = 48) -> Params:
    return parse(
        {
            "compute": {"workers": 1},
            "fetch": {"source": "folder", "path": str(folder)},
            "ingest": {"pitches": pitches},
            "train": {
                "model": "mlp",
                "compare": [],
                "dense": {"hidden": [8], "latent": 2, "epochs": 1, "batch_size": 16},
                "view": {"steps": 32},
            },
            "generate": {"jobs": [{"name": "sample", "count": 1}]},
        },
        "tiny",
    )


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stages, with a model."""
    folder = tmp_path_factory.mktemp("champion")
    four_part.write_corpus(folder / "tunes", 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDIVAE_HOME", str(folder / "work"))
        for stage in (fetch, ingest, train):
            stage.run(tiny(folder / "tunes"), folder / "data")
    return folder / "data"


def ingested(folder: Path, monkeypatch: pytest.MonkeyPatch, pitches: int = 48) -> tuple[Params, Path]:
    monkeypatch.setenv("MIDIVAE_HOME", str(folder / "work"))
    params = tiny(folder / "tunes", pitches)
    for stage in (fetch, ingest):
        stage.run(params, folder / "data")
    return params, folder / "data"


def write_high(folder: Path, first: int, count: int) -> None:
    """Pieces an octave higher, of which only half the notes are left."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        notes = four_part.piece(number)
        high = replace(notes, pitch=(np.minimum(notes.pitch.astype(int) + 12, 83)).astype(np.uint8))
        (folder / f"high-{number}.mid").write_bytes(smf.write(high))


def test_nothing_new_is_quiet(champion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four_part.write_corpus(tmp_path / "tunes", 16)
    params, data = ingested(tmp_path, monkeypatch)
    found = drift.run(params, data, champion, Drift())
    assert found == {
        "new_files": 0,
        "new_pieces": 0,
        "rejected": 0,
        "new_windows": 0,
        "shift_sd": {},
        "warnings": [],
    }


def test_new_music_like_the_old_is_quiet(champion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four_part.write_corpus(tmp_path / "tunes", 30)
    params, data = ingested(tmp_path, monkeypatch)
    found = drift.run(params, data, champion, Drift())
    assert (found["new_files"], found["new_pieces"], found["rejected"]) == (14, 14, 0)
    assert found["new_windows"] > 32
    assert max(found["shift_sd"].values()) < 0.5
    assert found["warnings"] == []


def test_other_music_is_named_by_what_differs(champion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four_part.write_corpus(tmp_path / "tunes", 16)
    write_high(tmp_path / "tunes", 40, 12)
    params, data = ingested(tmp_path, monkeypatch)
    found = drift.run(params, data, champion, Drift())
    assert found["shift_sd"]["pitch_low"] > 3 > 0.5 > found["shift_sd"]["density"]
    assert found["warnings"][0].startswith("register of the new music is ")
    few = drift.run(params, data, champion, Drift(min_windows=100_000))
    assert few["shift_sd"] == {} and few["warnings"] == []


def test_many_rejected_files_are_told(champion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four_part.write_corpus(tmp_path / "tunes", 17)
    for number in range(3):
        (tmp_path / "tunes" / f"broken-{number}.mid").write_bytes(b"MThd" + bytes([number]))
    params, data = ingested(tmp_path, monkeypatch)
    found = drift.run(params, data, champion, Drift())
    assert (found["new_files"], found["new_pieces"], found["rejected"]) == (4, 1, 3)
    assert found["warnings"] == ["3 of 4 new files were rejected; data/rolls/pieces.parquet says why"]


def test_rolls_of_another_layout_are_a_stop(champion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four_part.write_corpus(tmp_path / "tunes", 17)
    params, data = ingested(tmp_path, monkeypatch, pitches=40)
    with pytest.raises(SchemaError, match="the champion's rolls have"):
        drift.run(params, data, champion, Drift())


def test_the_shift_is_in_standard_deviations_of_the_champions_music() -> None:
    theirs = np.tile(np.array([[0.0], [2.0]]), (50, len(drift.FEATURES)))  # standard deviation 1
    mine = theirs[:30] + 3.0  # another number of values, all moved by 3
    assert set(drift._shift(mine, theirs).values()) == {3.0}
    constant = np.zeros_like(theirs)
    assert drift._shift(mine, constant) == {}
