"""Tests of midivae.fetch.stage: every kind of source, and hostile names."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from webserver import Web, good, serving, status

from midivae.cli import main as cli
from midivae.config.params import Params, parse
from midivae.errors import CorruptError, InputError, ParamsError
from midivae.fetch import corpora, own_split
from midivae.fetch import stage as fetch
from midivae.storage import folders, tables
from midivae.storage.files import file_sha256
from midivae.storage.schema import CORPUS

SHARED = Path(__file__).parents[3] / "shared" / "corpora"


def params(workers: int = 1, **section: object) -> Params:
    return parse({"fetch": section, "compute": {"workers": workers}}, "test")


def rows(data: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = tables.read(data / "corpus" / "corpus.parquet", CORPUS).to_pylist()
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
        assert (row["sha256"], row["bytes"]) == (file_sha256(path), path.stat().st_size)
    assert folders.verify(data / "corpus") == []


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
    assert (summary["files"], summary["refused"], summary["other"], summary["bytes"]) == (4, 3, 2, 14)
    assert "leads-out.mid: not used: a link that leads out" in caplog.text
    assert "pipe.mid: not used: not a regular file" in caplog.text
    assert f"elsewhere: not used: a link to the folder {tmp_path}; to use its files, set fetch.path" in caplog.text
    copy = tmp_path / "data" / "corpus" / "midi" / "a.mid"
    assert copy.stat().st_ino != (songs / "a.mid").stat().st_ino


def test_a_folder_that_is_only_a_link_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tunes").mkdir()
    (tmp_path / "tunes" / "a.mid").write_bytes(b"one")
    (tmp_path / "tunes" / "loop").symlink_to(tmp_path / "tunes", target_is_directory=True)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "tunes", target_is_directory=True)
    with pytest.raises(InputError, match=r"source: no MIDI file.*0 other files, 1 refused"):
        fetch.run(params(source="folder", path=str(tmp_path / "source")), tmp_path / "data")
    assert f"linked: not used: a link to the folder {tmp_path / 'tunes'}" in caplog.text
    summary = fetch.run(params(source="folder", path=str(tmp_path / "source" / "linked")), tmp_path / "data")
    assert (summary["files"], summary["refused"]) == (1, 1)  # the path itself may be a link; the loop is counted


def test_all_suffixes_of_midi_files(tmp_path: Path) -> None:
    names = ["a.mid", "b.MIDI", "c.kar", "d.RMI", "e.smf"]
    (tmp_path / "tunes").mkdir()
    for name in [*names, "f.wav"]:
        (tmp_path / "tunes" / name).write_bytes(name.encode())
    with zipfile.ZipFile(tmp_path / "tunes.zip", "w") as archive:
        for path in (tmp_path / "tunes").iterdir():
            archive.write(path, path.name)
    for source, path in {"folder": "tunes", "archive": "tunes.zip"}.items():
        summary = fetch.run(params(source=source, path=str(tmp_path / path)), tmp_path / source)
        assert (summary["files"], summary["other"]) == (5, 1)
        assert [row["path"] for row in rows(tmp_path / source)] == names
    fetch.run(params(source="archive", path=str(tmp_path / "tunes" / "c.kar")), tmp_path / "single")
    assert [row["path"] for row in rows(tmp_path / "single")] == ["c.kar"]


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
    assert (summary["files"], summary["refused"]) == (2, 4)
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


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_archives_of_every_kind_give_the_files_of_the_folder(songs: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"songs.{suffix}"
    packing = suffix[4:] if suffix != "tar.zst" else ""
    with tarfile.open(path, f"w:{packing}") as file:  # type: ignore[call-overload]
        for name in ("a.mid", "deep", "COPYING"):
            file.add(songs / name, name)
    if suffix == "tar.zst":
        path.write_bytes(pa.compress(path.read_bytes(), codec="zstd", asbytes=True))
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


def test_a_single_midi_file_is_an_archive_of_one(tmp_path: Path) -> None:
    (tmp_path / "tune.mid").write_bytes(b"MThd")
    (tmp_path / "tune").write_bytes(b"MThd one")
    (tmp_path / "old").write_bytes(b"RIFF....RMIDdata")
    (tmp_path / "wave.riff").write_bytes(b"RIFF....WAVEdata")
    for name, path in (("tune.mid", "tune.mid"), ("tune", "tune.mid"), ("old", "old.mid")):
        summary = fetch.run(params(source="archive", path=str(tmp_path / name)), tmp_path / "data")
        assert (summary["files"], summary["source"]) == (1, name)
        check_corpus(tmp_path / "data")
        assert rows(tmp_path / "data")[0]["path"] == path
    with pytest.raises(InputError, match="max_member_bytes"):
        fetch.run(params(source="archive", path=str(tmp_path / "tune"), limits={"max_member_bytes": 7}), tmp_path / "x")
    with pytest.raises(InputError, match="neither zip nor tar"):
        fetch.run(params(source="archive", path=str(tmp_path / "wave.riff")), tmp_path / "x")


# --- the web ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def body(tmp_path: Path) -> bytes:
    """A zip of a corpus that brings a split, a licence, and what does not belong to it."""
    table = (
        "title,split,midi_filename\n"
        '"One, in C",train,2004/a.midi\nTwo,validation,2004/b.midi\nThree,test,2006/é.midi\nGone,test,2006/gone.midi\n'
    )
    members = [
        ("tiny-v1/LICENSE", b"All of it is free"),
        ("tiny-v1/2004/a.midi", b"one"),
        ("tiny-v1/tiny.csv", table.encode()),
        ("tiny-v1/2004/b.midi", b"two"),
        ("tiny-v1/2006/é.midi", b"three"),
        ("tiny-v1/2006/unlisted.midi", b"four"),
        ("tiny-v1/2006/versions/a2.midi", b"five"),
        ("tiny-v1/readme.md", b"words"),
    ]
    return make_zip(tmp_path / "made.zip", members).read_bytes()


@pytest.fixture
def tiny(body: bytes, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """The same, in a registry of its own, on a server of its own."""
    with serving(body) as web:
        entry = corpora.Corpus.model_validate(
            {
                "title": "Tiny",
                "homepage": web.url,
                "url": f"{web.url}/tiny.zip",
                "sha256": hashlib.sha256(body).hexdigest(),
                "bytes": len(body),
                "files": 4,
                "licence": {"id": "CC-BY-4.0", "sentence": "Name us.", "link": "https://example.org/by"},
                "inside": "Four tunes.",
                "include": ["tiny-v1/*/*.midi"],
                "parts": {"rule": "merged"},
                "split": {"table": "tiny-v1/tiny.csv", "file": "midi_filename", "column": "split"},
                "citation": "Nobody. Nothing. 2026.",
            }
        )
        strict = {"restricted": True, "split": None, "include": (), "files": None}
        by_folder = {"split": corpora.OwnSplit(folders=("train", "2004", "test"))}
        entries = {
            "tiny": entry,
            "tiny-strict": entry.model_copy(update=strict),
            "tiny-folders": entry.model_copy(update=by_folder),
        }
        monkeypatch.setattr(corpora, "load", lambda: entries)
        monkeypatch.setattr(own_split, "SPLITS", own_split.SPLITS | {"2004": "train"})
        yield web


def test_url(body: bytes, home: Path, tmp_path: Path) -> None:
    with serving(body) as web:
        given = {"source": "url", "url": f"{web.url}/some%20songs.zip"}
        summary = fetch.run(params(**given), tmp_path / "one")
    fetch.run(params(workers=2, **given), tmp_path / "two")  # from the work directory: nobody listens now
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    check_corpus(tmp_path / "one")
    assert summary["files"] == 5
    assert summary["sha256"] == hashlib.sha256(body).hexdigest()
    assert {(row["source"], row["licence"], row["split"]) for row in rows(tmp_path / "one")} == {
        ("some_songs.zip", "tiny-v1/LICENSE: All of it is free", None)
    }


def test_url_of_a_midi_file(home: Path, tmp_path: Path) -> None:
    with serving(b"MThd tune") as web:
        fetch.run(params(source="url", url=f"{web.url}/get?id=7"), tmp_path / "data")
    assert tree(tmp_path / "data" / "corpus" / "midi") == {"get.mid": b"MThd tune"}


def test_a_failed_download_leaves_the_old_corpus(body: bytes, home: Path, tmp_path: Path) -> None:
    with serving(body) as web:
        fetch.run(params(source="url", url=f"{web.url}/a.zip"), tmp_path / "data")
        before = tree(tmp_path / "data")
        web.answers = [status(404)]
        with pytest.raises(InputError, match=r"b\.zip.*404"):
            fetch.run(params(source="url", url=f"{web.url}/b.zip"), tmp_path / "data")
        web.answers = [good]
        with pytest.raises(CorruptError, match=r"c\.zip: hash"):
            fetch.run(params(source="url", url=f"{web.url}/c.zip", sha256="0" * 64), tmp_path / "data")
    assert tree(tmp_path / "data") == before


def test_what_was_downloaded_is_not_music_of_the_folder_it_is_in(home: Path, tmp_path: Path) -> None:
    (home / "downloads").mkdir(parents=True)
    (home / "downloads" / "x.mid").write_bytes(b"MThd")
    (tmp_path / "y.mid").write_bytes(b"MThd")
    assert fetch.run(params(source="folder", path=str(tmp_path)), tmp_path / "data")["files"] == 1


# --- corpora by name --------------------------------------------------------------------------------------------------
def test_a_corpus_by_name(tiny: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    summary = fetch.run(params(source="tiny"), tmp_path / "one")
    check_corpus(tmp_path / "one")
    assert [(row["path"], row["split"]) for row in rows(tmp_path / "one")] == [
        ("tiny-v1/2004/a.midi", "train"),
        ("tiny-v1/2004/b.midi", "valid"),
        ("tiny-v1/2006/unlisted.midi", None),
        ("tiny-v1/2006/é.midi", "test"),
    ]
    assert {(row["source"], row["licence"]) for row in rows(tmp_path / "one")} == {
        ("tiny", "CC-BY-4.0 (https://example.org/by)")
    }
    assert summary["splits"] == {"none": 1, "test": 1, "train": 1, "valid": 1}
    assert (summary["files"], summary["left_out"], summary["other"]) == (4, 1, 3)
    assert "tiny: licence: CC-BY-4.0 (https://example.org/by). Name us." in caplog.text
    assert "please cite: Nobody. Nothing. 2026." in caplog.text
    assert "its own split does not mention 1 files" in caplog.text
    fetch.run(params(workers=2, source="tiny"), tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert tiny.asked == [""]


def test_a_split_in_folders(tiny: Web, tmp_path: Path) -> None:
    fetch.run(params(source="tiny-folders"), tmp_path / "data")
    assert {str(row["path"]): row["split"] for row in rows(tmp_path / "data")} == {
        "tiny-v1/2004/a.midi": "train",
        "tiny-v1/2004/b.midi": "train",
        "tiny-v1/2006/unlisted.midi": None,
        "tiny-v1/2006/é.midi": None,
    }


def test_a_table_without_its_columns(tiny: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = corpora.OwnSplit(table="tiny-v1/tiny.csv", file="midi", column="split")
    entries = {"tiny": corpora.find("tiny").model_copy(update={"split": wrong})}
    monkeypatch.setattr(corpora, "load", lambda: entries)
    with pytest.raises(InputError, match=r"tiny-v1/tiny\.csv: no column midi in it"):
        fetch.run(params(source="tiny"), tmp_path / "data")


def test_a_strict_licence_needs_a_yes(tiny: Web, tmp_path: Path) -> None:
    for yes in ({}, {"accept_licence": "tiny"}):
        with pytest.raises(
            ParamsError, match=r"tiny-strict: .*CC-BY-4\.0 \(https://example.org/by\).*--accept-licence"
        ):
            fetch.run(params(source="tiny-strict", **yes), tmp_path / "data")
    assert tiny.asked == []
    assert not (tmp_path / "data").exists()
    assert fetch.run(params(source="tiny-strict", accept_licence="tiny-strict"), tmp_path / "data")["files"] == 5


def test_a_corpus_by_name_whose_archive_is_here(tiny: Web, body: bytes, tmp_path: Path) -> None:
    fetch.run(params(source="tiny", path=str(tmp_path / "made.zip")), tmp_path / "one")
    assert tiny.asked == []
    fetch.run(params(source="tiny"), tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    (tmp_path / "made.zip").write_bytes(body + b" ")
    with pytest.raises(CorruptError, match=r"made\.zip: hash \w+ where the corpus has"):
        fetch.run(params(source="tiny", path=str(tmp_path / "made.zip")), tmp_path / "one")


def test_a_corpus_with_fewer_files_than_it_should_have(
    tiny: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = {"tiny": corpora.find("tiny").model_copy(update={"files": 5})}
    monkeypatch.setattr(corpora, "load", lambda: entries)
    fetch.run(params(source="tiny"), tmp_path / "data")
    assert "4 MIDI files, where 5 were expected" in caplog.text


def test_an_unknown_corpus(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"'maestro-3' is neither .*did you mean maestro-v3.*`midivae fetch --list`"):
        fetch.run(params(source="maestro-3"), tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.fixture
def log_as_before() -> Iterator[None]:
    """Commands set the log up for a whole process; other tests want it as it was."""
    ours = logging.getLogger("midivae")
    before = ours.handlers, ours.level, ours.propagate
    yield
    ours.handlers, ours.level, ours.propagate = before


def test_on_the_command_line(tiny: Web, tmp_path: Path, log_as_before: None) -> None:
    (tmp_path / "p.yaml").write_text("fetch: {source: folder, path: nowhere, licence: mine}\n")
    common = ["fetch", "--params", str(tmp_path / "p.yaml"), "--data", str(tmp_path / "data")]
    refused = CliRunner().invoke(cli.midivae, [*common, "--source", "tiny-strict"])
    assert refused.exit_code == ParamsError.exit_code
    assert "tiny-strict: its licence must be accepted" in refused.stderr
    done = CliRunner().invoke(cli.midivae, [*common, "--source", "tiny-strict", "--accept-licence"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["source"] == "tiny-strict"
    tiny.answers = [status(503)]
    failed = CliRunner().invoke(cli.midivae, [*common, "--source", f"{tiny.url}/other.zip"])
    assert failed.exit_code == InputError.exit_code
    assert "other.zip: cannot be downloaded: the server answers 503" in failed.stderr


@given(
    st.lists(st.sampled_from(["a", "b", "c.mid", ""]), max_size=4), st.sampled_from(["*/*.mid", "a/*", "*", "*/*/*"])
)
def test_patterns_fit_part_by_part(parts: list[str], pattern: str) -> None:
    """`*` stays within a folder: the number of slashes is that of the pattern."""
    name = "/".join(parts)
    fits = fetch._included(name.encode(), (pattern,))
    assert not fits or name.count("/") == pattern.count("/")
    assert fetch._included(name.encode(), ())
    if pattern == "*/*.mid" and len(parts) == 2:
        assert fits == (parts[1] == "c.mid")
