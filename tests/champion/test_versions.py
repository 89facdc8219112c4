"""What is published: whole or not at all, one step from version to version, nothing lost that somebody may read."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from limits import WAIT_S

from midivae.catalog import read
from midivae.champion import versions
from midivae.errors import CorruptError, FolderError, InputError, ParamsError
from midivae.storage import folders, schema, tables
from midivae.storage.files import copy_file, file_sha256, write_bytes


def rows(job: str, count: int, marker: str) -> pa.Table:
    """Made-up samples of a job; `marker` stands where a model's hash would."""
    plain = {pa.string(): "x", pa.int64(): 1, pa.int32(): 4, pa.float32(): 0.5}
    columns = {f.name: [None if f.nullable else plain.get(f.type, [])] * count for f in schema.CATALOG.columns}
    columns |= {
        "sample_id": [f"{job}-{i:07d}" for i in range(count)],
        "job": [job] * count,
        "index": list(range(count)),
        "model_sha256": [marker] * count,
        "midi": [{"bytes": b"MThd", "path": f"../midi/{job}/{i}.mid"} for i in range(count)],
    }
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema.CATALOG.columns})


def write_samples(folder: Path, jobs: dict[str, int], marker: str) -> None:
    """What stage `generate` leaves."""
    with folders.publishing(folder) as staging:
        for job, count in jobs.items():
            tables.write(
                staging / "catalog" / f"{job}-00000-of-00001.parquet", rows(job, count, marker), schema.CATALOG
            )
            for i in range(count):
                write_bytes(staging / "midi" / job / f"{i}.mid", b"MThd")


def write_data(folder: Path, marker: str, jobs: dict[str, int] | None = None) -> Path:
    """What the stages leave, in little."""
    for name in ("model", "rolls", "evaluation", "report"):
        with folders.publishing(folder / name) as staging:
            write_bytes(staging / ("model.safetensors" if name == "model" else "file"), marker.encode() * 1000)
    write_samples(folder / "samples", jobs or {"sample": 3}, marker)
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return tmp_path / "published"


def promoted(data: Path, published: Path, name: str) -> versions.Version:
    versions.publish(data, published, name)
    return versions.switch(published, name)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- publishing -------------------------------------------------------------------------------------------------------
def test_a_version_holds_what_the_stages_wrote(tmp_path: Path, published: Path) -> None:
    data = write_data(tmp_path / "data", "a", {"sample": 3, "mlp": 2})
    note = tmp_path / "gate.json"
    note.write_text("{}")
    version = versions.publish(data, published, "v0.0.1", {"gate.json": note})
    assert versions.current(published) is None  # nobody sees it yet
    assert versions.switch(published, "v0.0.1") == version
    here = versions.current(published)
    assert here == (published / "versions" / "v0.0.1").resolve()
    for name in versions.FOLDERS:
        assert everything(here / name) == everything(data / name)
        assert folders.verify(here / name) == []
    assert (here / "gate.json").read_text() == "{}"
    assert version == versions.Version("v0.0.1", "v0.0.1", None, 5, file_sha256(data / "model" / "model.safetensors"))
    assert not [path for path in here.rglob("*") if path.is_file() and path.stat().st_mode & 0o222]


def test_damaged_stages_are_not_published(tmp_path: Path, published: Path) -> None:
    data = write_data(tmp_path / "data", "a")
    promoted(data, published, "v1")
    (data / "rolls" / "file").write_bytes(b"other")
    with pytest.raises(CorruptError, match="file: sha256 differs"):
        versions.publish(data, published, "v2")
    (data / "rolls" / "manifest.json").unlink()
    with pytest.raises(InputError, match="no manifest"):
        versions.publish(data, published, "v2")
    assert versions.names(published) == ["v1"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 80])
def test_a_version_has_a_plain_name(tmp_path: Path, published: Path, name: str) -> None:
    with pytest.raises(ParamsError, match="plain name"):
        versions.publish(write_data(tmp_path / "data", "a"), published, name)


def test_the_version_that_counts_is_not_written_anew(tmp_path: Path, published: Path) -> None:
    data = write_data(tmp_path / "data", "a")
    promoted(data, published, "v1")
    with pytest.raises(ParamsError, match="is the current one"):
        versions.publish(data, published, "v1")


def test_a_version_that_a_killed_run_left_is_written_anew(tmp_path: Path, published: Path) -> None:
    versions.publish(write_data(tmp_path / "one", "a"), published, "v1")
    (published / "versions" / ".v9.staging-1").mkdir()
    versions.publish(write_data(tmp_path / "two", "b"), published, "v1")
    assert (published / "versions" / "v1" / "rolls" / "file").read_bytes()[:1] == b"b"
    assert [path.name for path in (published / "versions").iterdir()] == ["v1"]


# --- no room ----------------------------------------------------------------------------------------------------------
def test_no_room_at_any_file_leaves_what_was_published(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(write_data(tmp_path / "one", "a"), published, "v1")
    data, before = write_data(tmp_path / "two", "b"), everything(published)
    clone, calls = copy_file, [0]

    def until(limit: int) -> None:
        def fill(source: Path, target: Path) -> None:
            calls[0] += 1
            if calls[0] == limit:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes()[:10])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            clone(source, target)

        monkeypatch.setattr(versions, "copy_file", fill)

    files = len([path for path in data.rglob("*") if path.is_file()])
    for limit in range(1, files + 1):
        calls[0] = 0
        until(limit)
        with pytest.raises(FolderError, match="No space left"):
            versions.publish(data, published, "v2")
        assert everything(published) == before
    monkeypatch.setattr(versions, "copy_file", clone)
    assert promoted(data, published, "v2").name == "v2"


def test_no_room_on_a_real_file_system(tmp_path: Path, published: Path) -> None:
    """The command itself, under a limit of the system on the size of files."""
    data = write_data(tmp_path / "one", "a", {"sample": 3})
    (tmp_path / "params.yaml").write_text("{}")
    promoted(data, published, "v1")
    before = everything(published / "versions")
    with folders.publishing(data / "samples") as staging:
        write_bytes(staging / "catalog" / "sample-00000-of-00001.parquet", os.urandom(1 << 20))
    largest = 1 << 20

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))

    words = ["publish", "v2", "--switch", "--params", "params.yaml", "--data", str(data), "--published", str(published)]
    done = subprocess.run(
        [sys.executable, "-m", "midivae", *words],
        cwd=tmp_path,
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert everything(published / "versions") == before


# --- adding -----------------------------------------------------------------------------------------------------------
def test_samples_are_added_in_a_version_of_their_own(tmp_path: Path, published: Path) -> None:
    base = promoted(write_data(tmp_path / "data", "a", {"sample": 3, "mlp": 2}), published, "v1")
    before = everything(published / "versions" / "v1")
    write_samples(tmp_path / "more", {"sample": 5, "night": 1}, "a")
    version = versions.append(published, tmp_path / "more", base)
    assert (version.name, version.champion, version.before, version.samples) == ("v1+1", "v1", None, 8)
    assert versions.read_current(published) == base
    versions.switch(published, version.name)
    here = published / "current"
    rows = pd.read_parquet(here / "samples" / "catalog")
    assert rows.groupby("job").size().to_dict() == {"mlp": 2, "night": 1, "sample": 5}
    for name in versions.FOLDERS:
        assert folders.verify(here / name) == []
    assert (here / "rolls" / "file").stat().st_ino == (published / "versions" / "v1" / "rolls" / "file").stat().st_ino
    assert everything(published / "versions" / "v1") == before
    assert versions.append(published, tmp_path / "more", version).name == "v1+2"


# --- which one counts -------------------------------------------------------------------------------------------------
def test_back_is_where_it_was_before_the_champion_came(tmp_path: Path, published: Path) -> None:
    data = write_data(tmp_path / "data", "a")
    first = promoted(data, published, "v1")
    write_samples(tmp_path / "more", {"sample": 5}, "a")
    versions.switch(published, versions.append(published, tmp_path / "more", first).name)
    second = promoted(write_data(tmp_path / "two", "b"), published, "v2")
    versions.switch(published, versions.append(published, tmp_path / "more", second).name)
    assert versions.rollback(published).name == "v1+1"
    with pytest.raises(InputError, match="nothing was published before"):
        versions.rollback(published)
    assert versions.rollback(published, "v2").name == "v2"
    with pytest.raises(InputError, match="no version 'v3'"):
        versions.switch(published, "v3")


def test_a_reader_sees_one_version_at_a_time(tmp_path: Path, published: Path) -> None:
    markers = [f"{number:02d}" for number in range(12)]
    for marker in markers:
        versions.publish(write_data(tmp_path / marker, marker, {"sample": 40, "mlp": 40}), published, f"v{marker}")
    versions.switch(published, "v00")
    seen, errors, ending, reads = set(), list[str](), threading.Event(), 0

    def read_versions() -> None:
        nonlocal reads
        while not ending.is_set():
            reads += 1
            try:
                here = Path(os.path.realpath(published / "current"))
                found = set(pd.read_parquet(here / "samples" / "catalog")["model_sha256"])
                asked = set(read.samples((published / "current").resolve(), columns=["model_sha256"])["model_sha256"])
                assert len(found) == len(asked) == 1, (found, asked)
                seen.update(found)
            except Exception as error:
                errors.append(repr(error))

    readers = [threading.Thread(target=read_versions) for _ in range(2)]
    for reader in readers:
        reader.start()
    end = time.monotonic() + WAIT_S
    while reads < 60 and not errors and time.monotonic() < end:
        for marker in markers:
            versions.switch(published, f"v{marker}")
    ending.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert len(seen) > 1


# --- housekeeping -----------------------------------------------------------------------------------------------------
def test_old_versions_go_but_for_those_that_count(tmp_path: Path, published: Path) -> None:
    data = write_data(tmp_path / "data", "a")
    old = time.time() - 100 * 86400
    for number in range(8):
        promoted(data, published, f"v{number}")
        facts = published / "versions" / f"v{number}" / "version.json"
        os.utime(facts, (old + number, old + number))
    versions.rollback(published)  # to v6, before which was v5
    assert versions.prune(published, keep=2, keep_days=7.0) == ["v0", "v1", "v2", "v3", "v4"]
    assert versions.names(published) == ["v5", "v6", "v7"]
    assert versions.prune(published, keep=1, keep_days=1000.0) == []
    lines = [json.loads(line) for line in versions.history(published)]
    assert [line["name"] for line in lines if line["current"]] == ["v6"]


def test_nothing_is_removed_where_nothing_is_published(published: Path) -> None:
    assert versions.prune(published, 1, 0.0) == []
    assert versions.read_current(published) is None


def test_writers_wait_for_each_other(published: Path) -> None:
    order: list[str] = []

    def late() -> None:
        with versions.locked(published):
            order.append("late")

    with versions.locked(published):
        other = threading.Thread(target=late)
        other.start()
        time.sleep(0.2)
        order.append("early")
    other.join()
    assert order == ["early", "late"]


def test_damaged_facts_are_named(tmp_path: Path, published: Path) -> None:
    promoted(write_data(tmp_path / "data", "a"), published, "v1")
    facts = published / "versions" / "v1" / "version.json"
    facts.chmod(0o644)
    facts.write_text('{"name": "v1"}')
    with pytest.raises(CorruptError, match="publish it again"):
        versions.read_current(published)
