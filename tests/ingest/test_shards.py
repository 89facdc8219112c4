"""The unit of work: a file that breaks its worker costs one file, and no worker waits for the compiler."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pieces import as_fetched, notes_of

from midivae.config.ingest import Ingest, Parts
from midivae.ingest import shards
from midivae.ingest.facts import compile_loops
from midivae.ingest.shards import Shard
from midivae.music import smf
from midivae.storage import tables
from midivae.storage.schema import CORPUS
from midivae.workers.child import NO_ITEM
from midivae.workers.outcome import Failure


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shard:
    """One of five files."""
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))
    tracks = [[(i * 120, 120, 60 + (i * step) % 12) for i in range(40)] for step in range(5)]
    as_fetched(tmp_path, {f"{step}.mid": smf.write(notes_of(track)) for step, track in enumerate(tracks)})
    corpus = tables.read(tmp_path / "corpus" / "corpus.parquet", CORPUS)
    (only,) = shards.plan(corpus, tmp_path / "corpus" / "midi", Ingest(parts=Parts(rule="merged")))
    return only


def test_a_file_that_breaks_its_worker_costs_one_file(shard: Shard) -> None:
    once = shards.blame(shard, Failure("crashed", 2, "signal 9"))
    assert once is not None
    assert once.condemned == {}  # somebody may have killed the worker
    other = shards.blame(once, Failure("crashed", 3, "signal 9"))
    assert other is not None
    assert other.condemned == {}
    hung = shards.blame(shard, Failure("timeout", 2, "no heartbeat"))
    assert hung is not None
    assert hung.condemned == {shard.files[2].sha256: "timeout"}
    again = shards.blame(once, Failure("crashed", 2, "signal 11"))
    assert again is not None
    assert again.condemned == {shard.files[2].sha256: "crashed"}
    # a failure before the first file or after the last is no file's: the shard is tried once more
    for item in (NO_ITEM, None):
        retried = shards.blame(shard, Failure("memory", item, "no memory"))
        assert retried is not None
        assert retried.condemned == {}
        assert shards.blame(retried, Failure("memory", item, "no memory")) is None
    beats: list[int] = []
    assert shards.make_shard(again, beats.append) == 5
    assert beats == [0, 1, 2, 3, 4, NO_ITEM]
    assert [row["reason"] for row in again.facts().to_pylist()].count("crashed") == 1
    assert again.is_done()
    assert not replace(again, files=again.files[:4]).is_done()


def test_files_go_to_shards_by_their_hash() -> None:
    hashes = [f"{i * 0x10000000:08x}{'0' * 56}" for i in range(16)]
    rows = [{"path": f"{h[:2]}.mid", "sha256": h, "bytes": 1, "source": "", "origin": ""} for h in reversed(hashes)]
    copy = rows[0] | {"path": "zz.mid"}
    corpus = pa.Table.from_pylist([*rows, copy], CORPUS.columns)
    planned = shards.plan(corpus, Path(), Ingest(pieces_per_shard=5))  # 16 files: 4 shards of 4
    assert [[file.sha256 for file in shard.files] for shard in planned] == [hashes[i : i + 4] for i in (0, 4, 8, 12)]
    assert [shard.folder.name for shard in planned] == [f"{i:05d}-of-00004" for i in range(4)]
    assert {file.path for shard in planned for file in shard.files} == {row["path"] for row in rows}


WORKER = """
import pickle, sys
from midivae.ingest import sketches
from midivae.music import raster
fn, shard = pickle.load(sys.stdin.buffer)
fn(shard, lambda _: None)
loops = [raster.fill, sketches._shingles, sketches._sketch, sketches._music_hash]
print([[sum(counts.values()) for counts in (loop.stats.cache_misses, loop.stats.cache_hits)] for loop in loops])
"""


def test_a_worker_loads_what_its_parent_compiled(shard: Shard) -> None:
    compile_loops()
    job = pickle.dumps((shards.make_shard, shard))
    process = subprocess.run([sys.executable, "-c", WORKER], input=job, check=True, capture_output=True)
    assert process.stdout == b"[[0, 1], [0, 1], [0, 1], [0, 1]]\n"
