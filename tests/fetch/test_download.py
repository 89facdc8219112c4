"""Tests of midivae.fetch.download, against a web server on this machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webserver import cut_after, good, serving, slow, status

from fetch.downloads import BODY, MD5, PATIENT, SHA256, check, files
from midivae.errors import CorruptError, FolderError, InputError
from midivae.fetch import download, transfer
from midivae.storage.files import read_json

pytestmark = pytest.mark.usefixtures("home")


def test_a_file_comes_once_and_stays(home: Path) -> None:
    with serving(BODY) as web:
        first = download.fetch(f"{web.url}/a/songs.zip?token=1", PATIENT, expected=SHA256, size=len(BODY))
        check(first)
        assert first.path.name == "songs.zip"
        assert first.path.is_relative_to(home / "downloads")
    again = download.fetch(
        f"{web.url}/a/songs.zip?token=1", PATIENT, expected=SHA256, size=len(BODY)
    )  # nobody listens now
    assert again == first
    assert web.asked == [""]
    assert files(home) == ["seen.json", "songs.zip"]


def test_a_hash_that_nobody_told_is_noted_and_compared_afterwards(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with serving(BODY) as web:
        fetched = download.fetch(f"{web.url}/x.zip", PATIENT)
        check(fetched)
        assert SHA256 in caplog.text
        fetched.path.write_bytes(b"damaged")  # a damaged copy is fetched again
        check(download.fetch(f"{web.url}/x.zip", PATIENT))
        fetched.path.unlink()
        web.body, web.tag = BODY[:-1] + b"!", '"two"'
        with pytest.raises(CorruptError, match=rf"x\.zip: hash \w+ where {SHA256} was expected.*delete .*downloads"):
            download.fetch(f"{web.url}/x.zip", PATIENT)
    assert files(home) == ["seen.json"]


def test_an_md5_will_do() -> None:
    with serving(BODY) as web:
        check(download.fetch(web.url, PATIENT, expected=f"md5:{MD5}"))
        with pytest.raises(CorruptError, match=f"hash md5:{MD5} where md5:{'0' * 32}"):
            download.fetch(web.url, PATIENT, expected="md5:" + "0" * 32)


def test_a_wrong_hash_leaves_no_file(home: Path) -> None:
    with serving(BODY) as web, pytest.raises(CorruptError, match=rf"{web.url}/x: hash {SHA256} where 0{{64}}"):
        download.fetch(f"{web.url}/x", PATIENT, expected="0" * 64)
    assert files(home) == []
    assert web.asked == [""]  # what is wrong as a whole is not asked for again


def test_parts_of_two_files_are_noticed_by_the_hash_and_fetched_as_one() -> None:
    with serving(bytes(len(BODY)), cut_after(1_000_000), status(503)) as web:
        web.tag = None
        with pytest.raises(InputError):
            download.fetch(web.url, PATIENT, expected=SHA256)
        web.body, web.answers = BODY, [good]
        web.asked.clear()
        check(download.fetch(web.url, PATIENT, expected=SHA256))
    assert web.asked == ["bytes=999999-", ""]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x.zip", "x.zip", "javascript:alert(1)"])
def test_only_the_web_is_asked(url: str, home: Path) -> None:
    with pytest.raises(InputError, match="neither http nor https"):
        download.fetch(url, PATIENT)
    assert not home.exists()


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.os, "fsync", full)
    with serving(BODY) as web, pytest.raises(FolderError, match="No space left on device; free space"):
        download.fetch(web.url, PATIENT, expected=SHA256)


def test_two_at_a_time_ask_once() -> None:
    found: list[download.Fetched] = []
    with serving(BODY, slow(0.0, after=len(BODY))) as web:
        both = [
            threading.Thread(target=lambda: found.append(download.fetch(web.url, PATIENT, expected=SHA256)))
            for _ in range(2)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    assert len(found) == 2
    assert web.asked == [""]


def test_a_file_that_is_already_here(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(BODY)
    download.check(path, SHA256)
    download.check(path, f"md5:{MD5}")
    download.check(path, None)
    with pytest.raises(CorruptError, match=rf"x\.zip: hash {SHA256} where the corpus has 0+: damaged"):
        download.check(path, "0" * 64)
    with pytest.raises(InputError, match="No such file"):
        download.check(tmp_path / "gone", SHA256)


def test_names_of_files_are_safe() -> None:
    assert download.file_name("https://a.b/c/songs.tar.gz?download=1#x") == "songs.tar.gz"
    assert download.file_name("https://a.b/c/%2e%2e%2fetc%2fpasswd") == "passwd"
    assert download.file_name("https://a.b/") == "download"
    assert download.file_name("https://a.b/..") == "download"


@given(st.text())
@settings(max_examples=200)
def test_no_url_leads_out_of_the_folder(text: str) -> None:
    try:
        name = download.file_name(f"https://a.b/{text}")
    except ValueError:  # of urllib: no URL
        return
    assert 0 < len(name) <= 100
    assert "/" not in name
    assert not name.startswith(".")


def test_the_note_outlives_the_file(home: Path) -> None:
    with serving(BODY) as web:
        fetched = download.fetch(web.url, PATIENT)
    assert read_json(fetched.path.parent / "seen.json") == {
        "url": web.url,
        "sha256": SHA256,
        "bytes": len(BODY),
    }
