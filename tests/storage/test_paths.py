"""The names of files: what writes a name and what reads it agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from midivae.errors import InputError
from midivae.storage.paths import catalog_file, catalog_files, is_midi, job_of, roll_shard, roll_shards


def test_the_files_of_a_catalog_name_their_job(tmp_path: Path) -> None:
    names = [catalog_file(job, number, 2) for job in ("song", "song-2") for number in range(2)]
    for name in (*names, "other.parquet"):
        (tmp_path / name).touch()
    assert [path.name for path in catalog_files(tmp_path)] == sorted(names)
    assert {job_of(path) for path in catalog_files(tmp_path)} == {"song", "song-2"}


def test_shards_of_rolls_are_a_full_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run stage `ingest`"):
        roll_shards(tmp_path)
    for number in (0, 2):
        (tmp_path / roll_shard(number, 3)).touch()
    with pytest.raises(InputError, match="2 shards that are no full set, last part-00002-of-00003"):
        roll_shards(tmp_path)
    (tmp_path / roll_shard(1, 3)).touch()
    assert [path.name for path in roll_shards(tmp_path)] == [roll_shard(number, 3) for number in range(3)]


def test_the_suffixes_of_midi_files() -> None:
    assert all(map(is_midi, ("a.mid", "a.midi", "a.KAR", "a.rmi", "a.smf", "a.b.Mid")))
    assert not any(map(is_midi, ("a.wav", "mid", "a.mid.gz", "kar")))
