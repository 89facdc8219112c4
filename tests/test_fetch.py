"""Tests of midivae.fetch: the three sources, hostile names, and what a score that crashes its reader costs."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from guarded import convert_or_crash
from hypothesis import given
from hypothesis import strategies as st
from test_score import BACH

from midivae import archive, fetch, midi, parallel, store
from midivae.errors import CorruptError, InputError, WorkerError
from midivae.params import Params, parse
from midivae.schema import CORPUS
from midivae.store import sha256

SHARED = Path(__file__).parents[2] / "shared" / "corpora"


def params(workers: int = 1, **section: object) -> Params:
    return parse({"fetch": section, "compute": {"workers": workers}}, "test")


def rows(data: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = store.read_table(data / "corpus" / "corpus.parquet", CORPUS).to_pylist()
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_corpus(data: Path) -> None:
    """What holds of every corpus: the table lists the files on disk, sorted, with their hashes and sizes."""
    found, midi_folder = rows(data), data / "corpus" / "midi"
    paths = [str(row["path"]) for row in found]
    assert paths == sorted(paths)
    assert set(paths) == set(tree(midi_folder))
    for row in found:
        path = midi_folder / str(row["path"])
        assert (row["sha256"], row["bytes"]) == (sha256(path), path.stat().st_size)
    assert store.verify(data / "corpus") == []


# --- folder -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A folder with MIDI files, and much else."""
    folder = tmp_path / "my songs"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.mid").write_bytes(b"one")
    (folder / "deep" / "B.MIDI").write_bytes(b"two")
    (folder / "deep" / "er" / "c.Mid").write_bytes(b"three")
    (folder / "deep" / "readme.txt").write_bytes(b"words")
    (folder / "COPYING").write_bytes(b"\n# Free music licence \x1b[31m 1.0\nand so on")
    (tmp_path / "outside.mid").write_bytes(b"secret")
    (folder / "leads-out.mid").symlink_to(tmp_path / "outside.mid")
    (folder / "stays.mid").symlink_to(folder / "a.mid")
    (folder / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(folder / "pipe.mid")
    return folder


def test_folder(songs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    summary = fetch.run(params(source="folder", path=str(songs)), tmp_path / "data")
    check_corpus(tmp_path / "data")
    assert [(row["path"], row["origin"]) for row in rows(tmp_path / "data")] == [
        ("a.mid", "a.mid"),
        ("deep/B.MIDI", "deep/B.MIDI"),
        ("deep/er/c.Mid", "deep/er/c.Mid"),
        ("stays.mid", "stays.mid"),
    ]
    assert {(row["source"], row["licence"]) for row in rows(tmp_path / "data")} == {
        ("my songs", "COPYING: # Free music licence [31m 1.0")
    }
    assert (summary["files"], summary["refused"], summary["other"], summary["bytes"]) == (4, 2, 2, 14)
    assert "leads-out.mid: not used: a link that leads out" in caplog.text
    assert "pipe.mid: not used: not a regular file" in caplog.text
    copy = tmp_path / "data" / "corpus" / "midi" / "a.mid"
    assert copy.stat().st_ino != (songs / "a.mid").stat().st_ino


def test_a_licence_in_the_params_goes_before_the_one_found(songs: Path, tmp_path: Path) -> None:
    fetch.run(params(source="folder", path=str(songs), licence="CC0"), tmp_path / "data")
    assert {row["licence"] for row in rows(tmp_path / "data")} == {"CC0"}


def test_a_relative_path_starts_here_and_our_own_data_is_left_out(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(songs)
    first = fetch.run(params(source="folder", path="."), Path("data"))
    second = fetch.run(params(source="folder", path="."), Path("data"))
    assert first["files"] == second["files"] == 4


def test_a_folder_that_cannot_be_read_is_counted(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scan = os.scandir

    def locked(path: str) -> object:  # a mode would not stop the superuser
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    summary = fetch.run(params(source="folder", path=str(songs)), tmp_path / "data")
    assert (summary["files"], summary["refused"]) == (2, 3)
    assert "a folder that cannot be read (Permission denied)" in caplog.text


def test_folders_that_are_none(songs: Path, tmp_path: Path) -> None:
    for path, match in (("gone", "no such folder"), ("a.mid", r"is a file.*`archive`"), ("elsewhere/none", "no such")):
        with pytest.raises(InputError, match=match):
            fetch.run(params(source="folder", path=str(songs / path)), tmp_path / "data")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "x.txt").touch()
    with pytest.raises(InputError, match=r"empty: no MIDI file.*1 other files, 0 refused"):
        fetch.run(params(source="folder", path=str(empty)), tmp_path / "data")
    assert not (tmp_path / "data" / "corpus").exists()


# --- names ------------------------------------------------------------------------------------------------------------
HOSTILE = [
    b"plain.mid",
    b"caf\xe9.mid",  # Latin-1
    "café.mid".encode(),
    b"new\nline\x1b[31m.mid",
    "\u202egnp.mid".encode(),  # shown from right to left
    b"back\\slash.mid",
    b"100% jazz.mid",
    b"fake%0Aescape.mid",
    b"<img src=x onerror=alert(1)>.mid",
    b"=cmd|' -C calc'!A0.mid",
    b"PLAIN.mid",  # the same as the first, on some file systems
    b"plain~2.mid",
    b".mid",
    b"x" * 251 + b".mid",
    b"x" * 250 + b"y.mid",
]


def test_hostile_names_in_a_folder(tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    for i, name in enumerate(HOSTILE):
        with open(os.path.join(os.fsencode(songs), name), "wb") as file:
            file.write(b"%d" % i)
    summary = fetch.run(params(source="folder", path=str(songs)), tmp_path / "data")
    check_corpus(tmp_path / "data")
    assert summary["files"] == len(HOSTILE)
    assert sorted(unquote_to_bytes(str(row["origin"])) for row in rows(tmp_path / "data")) == sorted(HOSTILE)
    for row in rows(tmp_path / "data"):
        for text in (str(row["path"]), str(row["origin"])):
            assert text.isprintable()
            assert "\\" not in text
    assert len({str(row["path"]).casefold() for row in rows(tmp_path / "data")}) == len(HOSTILE)


@given(st.binary(), st.binary())
def test_printable_names_are_reversible(name: bytes, other: bytes) -> None:
    text = fetch._printable(name)
    assert text.isprintable()
    assert unquote_to_bytes(text) == name
    assert (text == fetch._printable(other)) == (name == other)


NAME_BYTES = st.lists(st.sampled_from([b"a", b"A", b"/", b".", b"..", b"~2", b"%", b"\xff", b".mid", b"x" * 150]))


@given(st.lists(NAME_BYTES.map(lambda parts: b"".join(parts) + b".mid"), max_size=20))
def test_every_name_gets_a_path_of_its_own_below_the_folder(names: list[bytes]) -> None:
    taken: dict[str, int] = {}
    allowed = [name for name in names if archive.refusal(name) is None]
    paths = [fetch._unique(fetch._safe_path(name), taken) for name in allowed]
    assert len({path.casefold() for path in paths}) == len(paths)
    folders = {str(parent).casefold() for path in paths for parent in Path(path).parents}
    for path in paths:
        assert path.endswith(".mid")
        assert len(path.encode()) < 1100
        assert path.casefold() not in folders  # a file cannot be where a folder must be
        assert not any(part in ("", ".", "..") or len(part.encode()) > 255 for part in path.split("/"))


def test_a_million_equal_names_take_linear_time() -> None:
    taken: dict[str, int] = {}
    assert [fetch._unique("a.mid", taken) for _ in range(20_000)][-1] == "a~20000.mid"


# --- archive ----------------------------------------------------------------------------------------------------------
def make_zip(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members:
            file.writestr(name, data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [
        ("x/LICENSE", b"MIT License\n\nCopyright"),
        ("x/a.mid", b"one"),
        ("x/a.mid", b"two"),  # a zip may hold one name twice
        ("x//./a.MID", b"three"),
        ("x/a.mid/b.mid", b"four"),
        ("../../etc/evil.mid", b"five"),
        ("/etc/evil.mid", b"six"),
        ("x/readme.md", b"words"),
    ]
    path = make_zip(tmp_path / "songs.zip", members)
    summary = fetch.run(params(source="archive", path=str(path)), tmp_path / "data")
    check_corpus(tmp_path / "data")
    assert tree(tmp_path / "data" / "corpus" / "midi") == {
        "x/a.mid": b"one",
        "x/a~2.mid": b"two",
        "x/a~3.MID": b"three",
        "x/a.mid_/b.mid": b"four",
    }
    assert {(row["source"], row["licence"]) for row in rows(tmp_path / "data")} == {
        ("songs.zip", "x/LICENSE: MIT License")
    }
    assert (summary["files"], summary["refused"], summary["other"]) == (4, 2, 2)
    assert caplog.text.count("not used") == 2
    assert not (tmp_path / "etc").exists()


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_archives_of_every_kind_give_the_files_of_the_folder(songs: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"songs.{suffix}"
    with tarfile.open(path, f"w:{suffix[4:]}") as file:  # type: ignore[call-overload]
        for name in ("a.mid", "deep", "COPYING"):
            file.add(songs / name, name)
    fetch.run(params(source="archive", path=str(path)), tmp_path / "one")
    assert set(tree(tmp_path / "one" / "corpus" / "midi")) == {"a.mid", "deep/B.MIDI", "deep/er/c.Mid"}
    fetch.run(params(workers=2, source="archive", path=str(path)), tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_damaged_archive_leaves_the_old_corpus(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "songs.zip", [("a.mid", b"one" * 100)])
    fetch.run(params(source="archive", path=str(path)), tmp_path / "data")
    before = tree(tmp_path / "data")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"oneone", b"onfone", 1))
    with pytest.raises(CorruptError, match=r"songs\.zip: damaged \(Bad CRC-32 for file 'a\.mid'\)"):
        fetch.run(params(source="archive", path=str(path)), tmp_path / "data")
    assert tree(tmp_path / "data") == before


def test_a_bomb_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.mid", bytes(5 << 20))
    with pytest.raises(InputError, match="max_ratio"):
        fetch.run(params(source="archive", path=str(path)), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of shared corpora is not beside the project")
@pytest.mark.parametrize(("name", "files", "licence"), [("pop909", 909, "MIT"), ("nottingham", 1034, "GNU GENERAL")])
def test_real_archives(tmp_path: Path, name: str, files: int, licence: str) -> None:
    summary = fetch.run(params(source="archive", path=str(SHARED / f"{name}.zip")), tmp_path / "data")
    check_corpus(tmp_path / "data")
    assert (summary["files"], summary["refused"], summary["other"]) == (files, 0, 1)
    assert licence in str(rows(tmp_path / "data")[0]["licence"])


# --- Bach chorales ----------------------------------------------------------------------------------------------------
NAMES = ("bwv10.7", "bwv1.6", "bwv101.7", "bwv269", "bwv299", "bwv40.6")


@pytest.fixture
def chorales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few chorales, in batches of two."""
    folder = tmp_path / "bach"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(BACH / f"{name}.mxl", folder)
    monkeypatch.setattr(fetch, "_chorale_folder", lambda: folder)
    monkeypatch.setattr(fetch, "SCORES_PER_SPEC", 2)
    return folder


def test_chorales_are_the_same_with_one_and_two_workers(chorales: Path, tmp_path: Path) -> None:
    one = fetch.run(params(workers=1), tmp_path / "one")
    fetch.run(params(workers=2), tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    check_corpus(tmp_path / "one")
    assert (one["files"], one["failed"]) == (6, [])
    row = rows(tmp_path / "one")[0]
    assert (row["path"], row["origin"]) == ("bwv1.6.mid", "music21/corpus/bach/bwv1.6.mxl")
    assert str(row["source"]).startswith("bach-chorales (music21 ")
    assert "public domain" in str(row["licence"])
    notes = midi.read((tmp_path / "one" / "corpus" / "midi" / "bwv269.mid").read_bytes())
    assert notes.track_names == ("Soprano", "Alto", "Tenor", "Bass")


def test_a_score_that_crashes_hangs_or_is_broken_costs_itself(
    chorales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fetch, "convert", convert_or_crash)
    (chorales / "bwv10.7.mxl").write_bytes(b"crash")
    (chorales / "bwv101.7.mxl").write_bytes(b"hang")
    (chorales / "bwv299.mxl").write_bytes(b"nonsense")
    summary = fetch.run(params(time_limit_s=1.0), tmp_path / "data")
    assert summary["files"] == 3
    assert summary["failed"] == ["bwv10.7.mxl", "bwv101.7.mxl", "bwv299.mxl"]
    assert "bwv10.7.mxl: not converted: crashed: killed by SIGSEGV" in caplog.text
    assert "bwv101.7.mxl: not converted: timeout: no sign of life for 1 s" in caplog.text
    assert "bwv299.mxl: not converted: verovio cannot read the score" in caplog.text
    check_corpus(tmp_path / "data")


def test_a_child_that_dies_before_any_score_is_a_worker_error(
    chorales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = parallel.Failure("crashed", None, "killed by SIGKILL")
    assert fetch._condemn(fetch.Scores(("a",)), failure) is None
    monkeypatch.setattr(parallel, "fan_out", lambda *args, **more: iter([(0, parallel.Outcome(None, failure))]))
    with pytest.raises(WorkerError, match="SIGKILL"):
        fetch.run(params(), tmp_path / "data")


def test_chorales_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install music21"):
        fetch.run(params(), tmp_path / "data")


def test_music21_is_not_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = "import sys, midivae.fetch; midivae.fetch._chorale_folder(); assert 'music21' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
