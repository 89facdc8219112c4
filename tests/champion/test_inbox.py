"""The inbox: each file is taken once, whatever it is called, and none is lost."""

from __future__ import annotations

import os
import time
from pathlib import Path

import four_part
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midivae.champion import inbox
from midivae.errors import InputError, ParamsError
from midivae.storage.files import file_sha256

EMPTY = {"new": 0, "known": 0, "waiting": 0, "other": 0, "stuck": 0}


def test_what_is_new_is_taken_and_what_is_known_is_not(tmp_path: Path) -> None:
    source, corpus = tmp_path / "inbox", tmp_path / "corpus"
    four_part.write_corpus(source, 3)
    bytes_of = {path.read_bytes() for path in source.iterdir()}
    assert inbox.take(source, corpus, "first", 0.0) == {**EMPTY, "new": 3}
    assert {path.read_bytes() for path in (corpus / "first").iterdir()} == bytes_of
    assert list(source.iterdir()) == []

    four_part.write_corpus(source, 4)  # three of them again
    (source / "piece-000.mid").rename(source / "another name.MIDI")
    assert inbox.take(source, corpus, "second", 0.0) == {**EMPTY, "new": 1, "known": 3}
    assert len(list(corpus.rglob("*.mid"))) == 4
    assert list(source.iterdir()) == []


def test_all_suffixes_of_midi_files_are_music(tmp_path: Path) -> None:
    source = tmp_path / "inbox"
    four_part.write_corpus(source, 5)
    for path, suffix in zip(sorted(source.iterdir()), (".mid", ".midi", ".kar", ".RMI", ".smf"), strict=True):
        path.rename(path.with_suffix(suffix))
    assert inbox.take(source, tmp_path / "corpus", "x", 0.0) == {**EMPTY, "new": 5}


def test_names_begin_with_the_piece_id(tmp_path: Path) -> None:
    source = tmp_path / "inbox" / "deep"
    four_part.write_corpus(source, 1)
    digest = file_sha256(source / "piece-000.mid")
    (source / "piece-000.mid").rename(source / "Ünïcode / \\ \n.mid".replace("/", "-"))
    inbox.take(tmp_path / "inbox", tmp_path / "corpus", "x", 0.0)
    [taken] = (tmp_path / "corpus" / "x").iterdir()
    assert taken.name.startswith(f"{digest[:16]}-")
    assert taken.name.isascii() and taken.name.isprintable()


def test_a_file_that_was_just_changed_waits(tmp_path: Path) -> None:
    source = tmp_path / "inbox"
    four_part.write_corpus(source, 2)
    old = time.time() - 3600
    os.utime(source / "piece-000.mid", (old, old))
    assert inbox.take(source, tmp_path / "corpus", "x", 60.0) == {**EMPTY, "new": 1, "waiting": 1}
    assert [path.name for path in source.iterdir()] == ["piece-001.mid"]


def test_what_is_no_midi_file_stays(tmp_path: Path) -> None:
    source = tmp_path / "inbox"
    source.mkdir()
    (source / "notes.txt").write_text("not music")
    (tmp_path / "secret.mid").write_bytes(b"MThd")
    (source / "link.mid").symlink_to(tmp_path / "secret.mid")
    assert inbox.take(source, tmp_path / "corpus", "x", 0.0) == {**EMPTY, "other": 2}
    assert (source / "notes.txt").exists() and (source / "link.mid").is_symlink()
    assert not (tmp_path / "corpus").exists()


def test_two_copies_in_the_inbox_are_one(tmp_path: Path) -> None:
    source = tmp_path / "inbox"
    four_part.write_corpus(source, 1)
    (source / "copy.mid").write_bytes((source / "piece-000.mid").read_bytes())
    assert inbox.take(source, tmp_path / "corpus", "x", 0.0) == {**EMPTY, "new": 1, "known": 1}


def test_a_file_that_the_inbox_does_not_let_go_of_is_known_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "inbox"
    four_part.write_corpus(source, 1)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert inbox.take(source, tmp_path / "corpus", "x", 0.0) == {**EMPTY, "new": 1, "stuck": 1}
    assert inbox.take(source, tmp_path / "corpus", "y", 0.0) == {**EMPTY, "known": 1, "stuck": 1}


def test_a_missing_inbox_and_a_bad_occasion_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        inbox.take(tmp_path / "nothing", tmp_path / "corpus", "x")
    (tmp_path / "inbox").mkdir()
    with pytest.raises(ParamsError, match="plain name"):
        inbox.take(tmp_path / "inbox", tmp_path / "corpus", "../x")


@given(st.text(min_size=1, max_size=60))
def test_any_name_becomes_a_plain_one(name: str) -> None:
    made = inbox._plain(Path(f"{name}.mid"))
    assert made.endswith(".mid") and made.isascii() and "/" not in made and len(made) < 100
