"""From MIDI bytes to shards and pieces: nothing lost, nothing depends on order, workers or history."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster import kill_when, two_workers
from limits import WAIT_S
from pieces import as_fetched, events_of, hand_made, notes_of

from midivae.config.compute import Compute
from midivae.config.ingest import Ingest, Parts, Split
from midivae.config.params import Params
from midivae.errors import CorruptError, InputError
from midivae.ingest import stage as ingest
from midivae.ingest.pieces import split_of
from midivae.music import roll, smf
from midivae.music.notes import Notes, Tempo
from midivae.music.roll import Layout
from midivae.storage import folders, tables
from midivae.storage.schema import FACTS, PIECES, SHARD
from midivae.windows.corpus import load_corpus

SHARED = Path(__file__).parents[3] / "shared" / "corpora"


def tune(seed: int, n_notes: int = 40) -> Notes:
    """A made-up piece for soprano and bass: eighths and quarters of C major."""
    rng = np.random.default_rng(seed)
    tracks = []
    for low in (60, 41):
        lengths = rng.choice([2, 4], n_notes)
        onsets = np.cumsum(lengths) - lengths
        pitches = low + rng.choice([0, 2, 4, 5, 7, 9, 11, 12], n_notes)
        tracks.append([(int(o) * 120, int(d) * 120, int(p)) for o, d, p in zip(onsets, lengths, pitches, strict=True)])
    return notes_of(*tracks, names=("Soprano", "Bass"))


def tunes(*seeds: int) -> dict[str, bytes]:
    return {f"tune-{seed:03d}.mid": smf.write(tune(seed)) for seed in seeds}


def params(workers: int = 1, **changes: object) -> Params:
    return Params(compute=Compute(workers=workers), ingest=Ingest(**{"pieces_per_shard": 8, **changes}))  # type: ignore[arg-type]


def pieces(data: Path) -> pd.DataFrame:
    return pd.read_parquet(data / "rolls" / "pieces.parquet").set_index("path")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def own_work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))
    return tmp_path / "work"


BROKEN = {
    "empty.mid": (b"", "empty"),
    "page.mid": (b"<html>", "not_midi"),
    "cut.mid": (hand_made()[:13], "unreadable"),
    "torn.mid": (hand_made()[:60], "no_notes"),
    "piano.mid": (smf.write(notes_of([(i * 120, 120, 60) for i in range(40)], names=("Piano",))), "no_part"),
    "few.mid": (smf.write(notes_of([(0, 480, 60), (4000, 480, 60)], names=("Alto",))), "few_notes"),
    "short.mid": (smf.write(notes_of([(0, 120, 40 + i) for i in range(20)], names=("Bass",))), "short"),
    "long.mid": (smf.write(notes_of([(i * 12_000_000, 120, 60) for i in range(20)], names=("Tenor",))), "too_long"),
}


def test_every_file_is_accepted_or_rejected_with_a_reason(tmp_path: Path) -> None:
    as_fetched(tmp_path, tunes(*range(20)) | {name: data for name, (data, _) in BROKEN.items()})
    summary = ingest.run(params(), tmp_path)
    table = pieces(tmp_path)
    assert summary["found"] == len(table) == 28
    assert summary["accepted"] == table.accepted.sum() == 20
    assert {name: table.reason[name] for name in BROKEN} == {name: code for name, (_, code) in BROKEN.items()}
    assert table.detail[list(BROKEN)].str.len().gt(10).all()
    assert table[table.accepted].reason.isna().all()
    done = table[table.accepted | (table.reason == "few_notes")]
    parts = done.notes_kept + done.notes_unassigned + done.notes_out_of_range + done.notes_merged
    assert (done.notes_found == parts).all()
    tables.read(tmp_path / "rolls" / "pieces.parquet", PIECES)
    assert folders.verify(tmp_path / "rolls") == []


def test_rolls_hold_the_notes_of_their_files(tmp_path: Path) -> None:
    files = tunes(*range(20))
    as_fetched(tmp_path, files)
    assert ingest.run(params(), tmp_path)["shards"] == 4
    by_id = pieces(tmp_path).reset_index().set_index("piece_id")
    seen = 0
    for path in sorted((tmp_path / "rolls").glob("part-*.parquet")):
        layout = Layout.from_json(tables.read_extra(path, SHARD, "layout"))
        assert layout == Layout(("soprano", "alto", "tenor", "bass"), 36, 48, 4)
        rows = tables.read(path, SHARD).to_pylist()
        assert [row["piece_id"] for row in rows] == sorted(row["piece_id"] for row in rows)
        for row in rows:
            data = pa.decompress(row["planes"], row["n_steps"] * layout.bytes_per_step, codec="zstd", asbytes=True)
            packed = np.frombuffer(data, np.uint8).reshape(layout.bytes_per_step, row["n_steps"]).T
            back = roll.to_notes(roll.Roll(roll.unpack(packed, layout), layout))
            original = smf.read(files[by_id.path[row["piece_id"]]]).notes
            assert [e[1:] for e in events_of(back)] == [e[1:] for e in events_of(original)]
            assert row["bar_starts"] == list(range(0, row["n_steps"], 16))
            assert row["programs"] == [0, -1, -1, 0]
            assert path.name == f"part-{by_id.shard[row['piece_id']]:05d}-of-00004.parquet"
            seen += 1
    assert seen == 20


def test_same_bytes_with_any_workers_and_after_any_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tunes(*range(30)) | {"empty.mid": b""}

    def fresh(name: str, workers: int, *histories: dict[str, bytes]) -> tuple[dict[str, bytes], list[object]]:
        monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / name / "work"))
        parsed = []
        for files in (*histories, wanted):
            as_fetched(tmp_path / name, files)
            parsed.append(ingest.run(params(workers), tmp_path / name)["parsed"])
        return contents(tmp_path / name / "rolls"), parsed

    alone, parsed = fresh("alone", 1)
    assert parsed == [31]
    assert fresh("two", 2) == (alone, [31])
    # five files come, three others go: only the five are parsed
    assert fresh("grown", 1, {**tunes(*range(26)), "empty.mid": b"", **tunes(90, 91, 92)}) == (alone, [30, 4])
    # from 2 shards of pieces to 4: all are made again
    assert fresh("outgrown", 1, tunes(*range(12))) == (alone, [12, 31])
    assert fresh("again", 1, wanted) == (alone, [31, 0])


def test_damaged_work_is_made_again(tmp_path: Path, own_work_dir: Path) -> None:
    as_fetched(tmp_path, tunes(*range(5)))
    ingest.run(params(), tmp_path)
    before = contents(tmp_path / "rolls")
    victims = sorted(own_work_dir.rglob("*.parquet"))
    assert len(victims) == 2
    for victim in victims:
        good = victim.read_bytes()
        half = len(good) // 2  # a value: nobody reads the statistics of pages, which no checksum covers
        for bad in (good[:half], b"", good[:half] + bytes([good[half] ^ 1]) + good[half + 1 :]):
            victim.write_bytes(bad)
            ingest.run(params(), tmp_path)
            assert contents(tmp_path / "rolls") == before
            assert victim.read_bytes() == good


def test_work_holds_what_the_corpus_has(tmp_path: Path, own_work_dir: Path) -> None:
    for last in range(8, 15):  # a file more each time: the rows of the others are used again
        as_fetched(tmp_path, tunes(*range(last)))
        assert ingest.run(params(pieces_per_shard=16), tmp_path)["parsed"] == (8 if last == 8 else 1)
    grown = contents(tmp_path / "rolls")
    as_fetched(tmp_path, tunes(3))
    assert ingest.run(params(pieces_per_shard=16), tmp_path)["parsed"] == 0
    (facts,) = own_work_dir.rglob("facts.parquet")
    assert tables.read(facts, FACTS).num_rows == 1
    as_fetched(tmp_path, tunes(*range(14)))
    assert ingest.run(params(pieces_per_shard=16), tmp_path)["parsed"] == 13
    assert contents(tmp_path / "rolls") == grown


def test_duplicates_share_a_cluster_and_a_split(tmp_path: Path) -> None:
    original = tune(1)
    higher = replace(original, pitch=original.pitch + np.uint8(3), tempos=(Tempo(0, 300_000),))
    later = replace(original, onset_tick=original.onset_tick + np.int32(1920))
    files = tunes(*range(12)) | {
        "copy.mid": smf.write(original),
        "higher.mid": smf.write(higher),
        "later.mid": smf.write(later),
    }
    as_fetched(tmp_path, files)
    summary = ingest.run(params(), tmp_path)
    table = pieces(tmp_path)
    family = ["tune-001.mid", "copy.mid", "higher.mid", "later.mid"]
    assert len(set(table.cluster[family])) == 1
    assert len(set(table.split[family])) == 1
    assert table.copy_of.dropna().to_dict() == {"tune-001.mid": "copy.mid"}
    assert (summary["found"], summary["accepted"], summary["pieces"], summary["clusters"]) == (15, 15, 14, 12)
    assert table.cluster.nunique() == 12


def test_near_duplicates_share_a_cluster_unless_that_is_switched_off(tmp_path: Path) -> None:
    original = tune(1, n_notes=160)
    changed = original.pitch.copy()
    changed[::40] += 2  # 8 of 320 notes
    near = replace(original, pitch=changed)
    as_fetched(tmp_path, tunes(*range(2, 8)) | {"tune.mid": smf.write(original), "near.mid": smf.write(near)})
    assert ingest.run(params(), tmp_path)["clusters"] == 7
    table = pieces(tmp_path)
    assert len(set(table.cluster[["tune.mid", "near.mid"]])) == 1
    summary = ingest.run(params(duplicates={"likeness": None}), tmp_path)
    assert (summary["clusters"], summary["parsed"]) == (8, 0)


def test_a_corpus_may_bring_its_own_split(tmp_path: Path) -> None:
    higher = smf.write(replace(tune(1), pitch=tune(1).pitch + np.uint8(3)))
    files = tunes(*range(6)) | {"higher.mid": higher, "same.mid": smf.write(tune(2)), "empty.mid": b""}
    said = {f"tune-{i:03d}.mid": split for i, split in enumerate(["train", "train", "valid", "test", "train"])}
    # higher is the music of tune 1, same has the bytes of tune 2; nothing is said of tune 5
    as_fetched(tmp_path, files, said | {"higher.mid": "test", "same.mid": "train", "empty.mid": "train"})
    ingest.run(params(split={"own": True}), tmp_path)
    table = pieces(tmp_path)
    assert table.split[[f"tune-{i:03d}.mid" for i in range(5)]].tolist() == ["train", "test", "valid", "test", "train"]
    assert table.split[["higher.mid", "same.mid"]].tolist() == ["test", "valid"]
    assert table.split["tune-005.mid"] == split_of(table.cluster["tune-005.mid"], Split())
    assert pd.isna(table.split["empty.mid"])
    assert table.groupby("cluster").split.agg(set).map(len).eq(1).all()
    ingest.run(params(), tmp_path)  # unless it is asked for, what the corpus says does not count
    by_hash = pieces(tmp_path).split
    as_fetched(tmp_path, files)
    ingest.run(params(), tmp_path)
    assert pieces(tmp_path).split.equals(by_hash)
    with pytest.raises(InputError, match=r"ingest\.split\.own is set, and no file .* has a split of its own"):
        ingest.run(params(split={"own": True}), tmp_path)


def test_what_fetch_listed_must_be_there_undamaged(tmp_path: Path) -> None:
    as_fetched(tmp_path, tunes(0, 1, 2))
    victim = tmp_path / "corpus" / "midi" / "tune-001.mid"
    good = victim.read_bytes()
    victim.write_bytes(good[:-1] + b"\x01")
    with pytest.raises(CorruptError, match=r"tune-001\.mid: sha256 differs .* rerun stage `fetch`"):
        ingest.run(params(), tmp_path)
    victim.unlink()
    with pytest.raises(InputError, match=r"tune-001\.mid: listed in corpus\.parquet but not readable"):
        ingest.run(params(), tmp_path)
    assert not (tmp_path / "rolls").exists()


def test_a_corpus_of_which_nothing_is_accepted_is_an_error(tmp_path: Path) -> None:
    as_fetched(tmp_path, {name: data for name, (data, _) in BROKEN.items()})
    with pytest.raises(InputError, match=r"none of 8 files was accepted .*few_notes: 1"):
        ingest.run(params(), tmp_path)
    as_fetched(tmp_path, {})
    with pytest.raises(InputError, match="no MIDI file in the corpus"):
        ingest.run(params(), tmp_path)


FACTS_KEPT = "ingest/*/[0-9]*/facts.parquet"  # below the work directory, of shards that are done

RUN = """
import sys
from pathlib import Path
from midivae.ingest import stage as ingest
from midivae.config.compute import Compute
from midivae.config.ingest import Ingest
from midivae.config.params import Params
ingest.run(Params(compute=Compute(workers=1), ingest=Ingest(pieces_per_shard=8)), Path(sys.argv[1]))
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, own_work_dir: Path) -> None:
    as_fetched(tmp_path, tunes(*range(120)))
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT_S
    while len(list(own_work_dir.glob(FACTS_KEPT))) < 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(list(own_work_dir.glob(FACTS_KEPT)))
    summary = ingest.run(params(), tmp_path)
    assert summary["found"] == summary["accepted"] == 120
    if finished < 16:  # else it was too fast to be killed in the middle
        assert 0 < summary["parsed"] < 120  # type: ignore[operator]
    resumed = contents(tmp_path / "rolls")
    shutil.rmtree(own_work_dir)
    ingest.run(params(), tmp_path)
    assert contents(tmp_path / "rolls") == resumed


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes in /proc")
def test_a_killed_worker_costs_nothing(tmp_path: Path, own_work_dir: Path) -> None:
    files = tunes(*range(200)) | {name: data for name, (data, _) in BROKEN.items()}
    as_fetched(tmp_path, files)
    process = subprocess.Popen([sys.executable, "-c", RUN.replace("workers=1", "workers=2"), str(tmp_path)])
    deadline = time.monotonic() + WAIT_S
    killed = 0
    for enough in (3, 8, 13):  # shards of 32
        while len(list(own_work_dir.glob(FACTS_KEPT))) < enough and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        for child in _children_of(process.pid)[:1]:
            os.kill(child, signal.SIGKILL)
            killed += 1
    assert process.wait(WAIT_S) == 0
    assert killed >= 1
    disturbed = contents(tmp_path / "rolls")
    assert "crashed" not in set(pieces(tmp_path).reason)
    shutil.rmtree(own_work_dir)
    assert ingest.run(params(), tmp_path)["parsed"] == len(files)
    assert contents(tmp_path / "rolls") == disturbed


def _children_of(pid: int) -> list[int]:
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for line in lists for child in line.split()]


def test_a_truncated_part_is_named_and_healed(tmp_path: Path) -> None:
    as_fetched(tmp_path, tunes(*range(20)))
    ingest.run(params(), tmp_path)
    whole = contents(tmp_path / "rolls")
    part = sorted((tmp_path / "rolls").glob("part-*.parquet"))[1]
    part.write_bytes(whole[part.name][:-100])
    assert [part.name in line for line in folders.verify(tmp_path / "rolls")] == [True]
    with pytest.raises(CorruptError, match=part.name):
        load_corpus(tmp_path / "rolls", ["train", "valid", "test"])
    assert ingest.run(params(), tmp_path)["parsed"] == 0
    assert contents(tmp_path / "rolls") == whole


@pytest.mark.server
def test_a_cluster_makes_the_same_bytes_though_a_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    files = tunes(*range(300)) | {name: data for name, (data, _) in BROKEN.items()}
    as_fetched(tmp_path / "here", files)
    ingest.run(params(), tmp_path / "here")
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "shared"))
    as_fetched(tmp_path / "there", files)
    with two_workers(tmp_path) as (address, first, _):
        kept = tmp_path / "shared"
        killer = threading.Thread(target=kill_when, args=(first, lambda: len(list(kept.glob(FACTS_KEPT))) >= 4))
        killer.start()
        settings = params().model_copy(update={"compute": Compute(scheduler=address)})
        assert ingest.run(settings, tmp_path / "there")["found"] == len(files)
        killer.join()
        assert first.poll() is not None
    assert contents(tmp_path / "there" / "rolls") == contents(tmp_path / "here" / "rolls")


def test_range_and_grid_are_params(tmp_path: Path) -> None:
    as_fetched(tmp_path, tunes(*range(3)))
    ingest.run(params(pitch_low=60, pitches=24, steps_per_beat=2, parts=Parts(rule="merged")), tmp_path)
    table = pieces(tmp_path)
    assert (table.notes_out_of_range == 40).all()  # the bass lies below pitch 60
    expected = [sum(int(d) for d in tune(i).duration_tick[:40]) // 240 for i in range(3)]
    bass = [sum(int(d) for d in tune(i).duration_tick[40:]) // 240 for i in range(3)]
    assert table.steps.tolist() == [max(pair) for pair in zip(expected, bass, strict=True)]


@pytest.mark.parametrize(("name", "count"), [("pop909", 909), ("nottingham", 1034)])
def test_real_corpora_are_read_whole(tmp_path: Path, name: str, count: int) -> None:
    archive = SHARED / f"{name}.zip"
    if not archive.exists():
        pytest.skip(f"needs {archive.name} in the folder `shared` beside the project")
    with zipfile.ZipFile(archive) as file:
        members = [member for member in file.namelist() if member.endswith(".mid")]
        assert len(members) == count
        chosen = random.Random(0).sample(members, 60)
        as_fetched(tmp_path, {member: file.read(member) for member in chosen})
    summary = ingest.run(params(parts=Parts(rule="merged"), pitch_low=21, pitches=88), tmp_path)
    assert summary["accepted"] == 60


def test_schema_of_shards_reads_without_midivae(tmp_path: Path) -> None:
    as_fetched(tmp_path, tunes(*range(3)))
    ingest.run(params(), tmp_path)
    (path,) = (tmp_path / "rolls").glob("part-*.parquet")
    table = pq.read_table(path)
    assert table.schema.names == SHARD.schema.names
    assert table.num_rows == 3
