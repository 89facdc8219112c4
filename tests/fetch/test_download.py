"""Tests of midivae.fetch.download, against a web server on this machine that fails in every way it can."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import HANG_S, WAIT_S
from webserver import (
    Answer,
    chunked,
    cut_after,
    good,
    page,
    serving,
    slow,
    status,
    unused_port,
    without_ranges,
)

from midivae.config.fetch import Download
from midivae.errors import CorruptError, InputError
from midivae.fetch import download
from midivae.storage.files import read_json

BODY = random.Random(0).randbytes(3_000_000)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
PATIENT = Download(timeout_s=WAIT_S, attempts=3)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work directory of its own, no waiting between tries, and no proxy in between."""
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF_S", 0.001)
    return tmp_path / "work"


def files(home: Path) -> list[str]:
    """What is in the work directory under a name of its own."""
    return sorted(path.name for path in home.rglob("*") if path.is_file() and not path.name.startswith("."))


def check(fetched: download.Fetched) -> None:
    assert fetched.path.read_bytes() == BODY
    assert (fetched.sha256, fetched.bytes) == (SHA256, len(BODY))


# --- what comes -------------------------------------------------------------------------------------------------------
def test_a_file_comes_once_and_stays(home: Path) -> None:
    with serving(BODY) as web:
        first = download.fetch(f"{web.url}/a/songs.zip?token=1", PATIENT, sha256=SHA256, size=len(BODY))
        check(first)
        assert first.path.name == "songs.zip"
        assert first.path.is_relative_to(home / "downloads")
    again = download.fetch(
        f"{web.url}/a/songs.zip?token=1", PATIENT, sha256=SHA256, size=len(BODY)
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
        check(download.fetch(web.url, PATIENT, md5=MD5))
        with pytest.raises(CorruptError, match=f"hash md5:{MD5} where md5:{'0' * 32}"):
            download.fetch(web.url, PATIENT, md5="0" * 32)


def test_a_wrong_hash_leaves_no_file(home: Path) -> None:
    with serving(BODY) as web, pytest.raises(CorruptError, match=rf"{web.url}/x: hash {SHA256} where 0{{64}}"):
        download.fetch(f"{web.url}/x", PATIENT, sha256="0" * 64)
    assert files(home) == []
    assert web.asked == [""]  # what is wrong as a whole is not asked for again


def test_a_redirect_is_followed() -> None:
    with serving(BODY, status(302, Location="/there.zip"), good) as web:
        check(download.fetch(f"{web.url}/here", PATIENT, sha256=SHA256))


def test_a_file_without_an_announced_size_comes_whole() -> None:
    with serving(BODY, chunked(BODY[:1000], whole=False), chunked(BODY)) as web:
        check(download.fetch(web.url, PATIENT, sha256=SHA256, size=len(BODY)))


def test_what_is_packed_on_the_way_is_not_unpacked() -> None:
    """Servers say of a tar.gz that it is an encoding; its bytes are the file all the same."""

    def packed(handler: object) -> None:
        handler.begin(200, Content_Length=len(BODY), Content_Encoding="x-gzip")  # type: ignore[attr-defined]
        handler.wfile.write(BODY)  # type: ignore[attr-defined]

    with serving(BODY, packed) as web:
        check(download.fetch(web.url, PATIENT, sha256=SHA256))


# --- faults that pass -------------------------------------------------------------------------------------------------
def test_a_cut_download_goes_on_where_it_stopped() -> None:
    with serving(BODY, cut_after(1_000_000), cut_after(700_000), good) as web:
        check(download.fetch(web.url, PATIENT))
    assert web.asked == ["", "bytes=1000000-", "bytes=1700000-"]


def test_the_next_run_goes_on_where_the_last_one_stopped(home: Path) -> None:
    with serving(BODY, cut_after(1_000_000), status(503)) as web:
        with pytest.raises(InputError, match="503"):
            download.fetch(web.url, PATIENT)
        assert files(home) == []
        web.answers = [good]
        web.asked.clear()
        check(download.fetch(web.url, PATIENT))
    assert web.asked == ["bytes=1000000-"]


def test_a_run_that_is_killed_leaves_a_part_and_no_file(home: Path) -> None:
    program = """
import sys
from midivae.config.fetch import Download
from midivae.fetch import download
download.fetch(sys.argv[1], Download())
"""
    with serving(BODY, slow(HANG_S, after=1_000_000), good) as web:
        killed = subprocess.Popen([sys.executable, "-c", program, web.url])
        while not any(part.stat().st_size >= 15 << 16 for part in home.rglob(".part")):
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
        killed.wait()
        assert files(home) == []
        check(download.fetch(web.url, PATIENT))
    assert web.asked[0] == ""
    assert web.asked[1].startswith("bytes=9")
    assert files(home) == ["download", "seen.json"]


def test_everything_was_there_already(home: Path) -> None:
    """A run that is killed between the last byte and the name."""
    with serving(BODY, cut_after(1_000_000), status(503)) as web:
        with pytest.raises(InputError):
            download.fetch(web.url, PATIENT)
        next(home.rglob(".part")).write_bytes(BODY)
        web.answers = [good]
        check(download.fetch(web.url, PATIENT))
    assert web.asked[-1] == f"bytes={len(BODY)}-"


@pytest.mark.parametrize("left", [BODY, bytes(len(BODY))])
def test_a_whole_part_that_a_killed_run_had_not_yet_hashed_is_hashed(left: bytes, home: Path) -> None:
    with serving(BODY, cut_after(1_000_000), status(503)) as web:
        with pytest.raises(InputError):
            download.fetch(web.url, PATIENT, sha256=SHA256)
        next(home.rglob(".part")).write_bytes(left)
        web.answers = [good]
        web.asked.clear()
        check(download.fetch(web.url, PATIENT, sha256=SHA256))
    assert web.asked == [f"bytes={len(BODY)}-"] + [""] * (left != BODY)
    assert files(home) == ["download", "seen.json"]


@pytest.mark.parametrize("known", [SHA256, None])
def test_a_file_that_changed_meanwhile_begins_anew(known: str | None) -> None:
    with serving(bytes(len(BODY)), cut_after(1_000_000), status(503)) as web:
        with pytest.raises(InputError):
            download.fetch(web.url, PATIENT, sha256=known)
        web.body, web.tag, web.answers = BODY, '"two"', [good]
        check(download.fetch(web.url, PATIENT, sha256=known))


def test_without_a_mark_or_hash_nothing_is_put_together() -> None:
    with serving(BODY, cut_after(1_000_000), good) as web:
        web.tag = None
        check(download.fetch(web.url, PATIENT))
    assert web.asked == ["", ""]


def test_parts_of_two_files_are_noticed_by_the_hash_and_fetched_as_one() -> None:
    with serving(bytes(len(BODY)), cut_after(1_000_000), status(503)) as web:
        web.tag = None
        with pytest.raises(InputError):
            download.fetch(web.url, PATIENT, sha256=SHA256)
        web.body, web.answers = BODY, [good]
        web.asked.clear()
        check(download.fetch(web.url, PATIENT, sha256=SHA256))
    assert web.asked == ["bytes=1000000-", ""]


def test_a_server_without_ranges_sends_all_of_it_again() -> None:
    with serving(BODY, without_ranges(1_000_000), without_ranges()) as web:
        check(download.fetch(web.url, PATIENT, sha256=SHA256))
    assert web.asked == ["", "bytes=1000000-"]


@pytest.mark.parametrize("code", [429, 500, 503])
def test_busy_then_good(code: int, caplog: pytest.LogCaptureFixture) -> None:
    with serving(BODY, status(code), status(code), good) as web:
        check(download.fetch(web.url, PATIENT, sha256=SHA256))
    assert len(web.asked) == 3
    assert f"the server answers {code}" in caplog.text


def test_the_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    with serving(BODY, status(503, Retry_After=7), status(503, Retry_After=99999), good) as web:
        check(download.fetch(web.url, PATIENT))
    assert waits == [7, 60]  # a minute at most


def test_slow_then_good(caplog: pytest.LogCaptureFixture) -> None:
    with serving(BODY, slow(HANG_S), slow(HANG_S, after=1_000_000), good) as web:
        check(download.fetch(web.url, Download(timeout_s=2, attempts=3)))
    assert web.asked == ["", "", f"bytes={15 << 16}-"]  # 15 of 15.3 pieces
    assert caplog.text.count("nothing came for 2 s") == 2


def test_a_flaky_server_is_borne_while_there_is_progress() -> None:
    body = random.Random(1).randbytes(8 << 20)
    with serving(body, cut_after(3 << 19)) as web:  # 1.5 of 8 MiB at a time takes six requests
        fetched = download.fetch(web.url, Download(attempts=2))
        assert fetched.path.read_bytes() == body
    assert len(web.asked) == 6


# --- faults that stay -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "message", "requests"),
    [
        (status(404), "the server answers 404 Not Found; check the address", 1),
        (status(403), "403", 1),
        (status(503), "503 .*; tried 3 times in a row", 3),
        (cut_after(1000), r"IncompleteRead\(1000 bytes read, 2997000 more expected", 3),  # a thousand more each time
        (chunked(BODY[:1000], whole=False), "tried 3 times", 3),
        (status(302, Location="file:///etc/passwd"), "No connection adapters", 1),
        (status(302, Location="/round"), "30 redirects", 31),
        (page, "a web page, not a file", 1),
    ],
)
def test_what_does_not_pass_is_told(answer: Answer, message: str, requests: int, home: Path) -> None:
    with serving(BODY, answer) as web, pytest.raises(InputError, match=rf"{web.url}.*({message})"):
        download.fetch(web.url, PATIENT)
    assert len(web.asked) == requests
    assert files(home) == []


def test_a_server_that_is_down() -> None:
    url = f"http://user:secret@127.0.0.1:{unused_port()}/x.zip"
    with pytest.raises(
        InputError, match=r"x\.zip: cannot be downloaded: Connection refused; tried 3.*fetch\.path"
    ) as e:
        download.fetch(url, PATIENT)
    assert "secret" not in str(e.value)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x.zip", "x.zip", "javascript:alert(1)"])
def test_only_the_web_is_asked(url: str, home: Path) -> None:
    with pytest.raises(InputError, match="neither http nor https"):
        download.fetch(url, PATIENT)
    assert not home.exists()


# --- sizes ------------------------------------------------------------------------------------------------------------
def test_a_server_that_announces_another_size_is_not_listened_to() -> None:
    for size in (len(BODY) - 1, len(BODY) + 1):
        with serving(BODY) as web, pytest.raises(CorruptError, match=f"announces 3,000,000 bytes.*not {size:,}"):
            download.fetch(web.url, PATIENT, sha256=SHA256, size=size)


def test_a_server_that_sends_more_is_cut_off(home: Path) -> None:
    with serving(BODY, chunked(BODY)) as web:
        with pytest.raises(
            CorruptError, match="more than 2,999,999 bytes, the size of the file that is meant: cut off"
        ):
            download.fetch(web.url, PATIENT, sha256=SHA256, size=len(BODY) - 1)
        with pytest.raises(InputError, match=r"more than 1,000 bytes, fetch\.download\.max_bytes: cut off; raise it"):
            download.fetch(web.url, Download(max_bytes=1000))
        web.answers = [good]
        with pytest.raises(InputError, match="max_bytes"):
            download.fetch(web.url, Download(max_bytes=1000))
    assert not any(path.stat().st_size > 1000 for path in home.rglob("*") if path.is_file())


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with serving(BODY) as web, pytest.raises(InputError, match="No space left on device; set MIDIVAE_HOME"):
        download.fetch(web.url, PATIENT, sha256=SHA256)


# --- beside the way ---------------------------------------------------------------------------------------------------
def test_two_at_a_time_ask_once() -> None:
    found: list[download.Fetched] = []
    with serving(BODY, slow(0.0, after=len(BODY))) as web:
        both = [
            threading.Thread(target=lambda: found.append(download.fetch(web.url, PATIENT, sha256=SHA256)))
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
    download.check(path, sha256=SHA256, md5=None)
    download.check(path, sha256=None, md5=MD5)
    download.check(path, sha256=None, md5=None)
    with pytest.raises(CorruptError, match=rf"x\.zip: hash {SHA256} where the corpus has 0+: damaged"):
        download.check(path, sha256="0" * 64, md5=MD5)
    with pytest.raises(InputError, match="No such file"):
        download.check(tmp_path / "gone", sha256=SHA256, md5=None)


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


def test_what_servers_say() -> None:
    def said(**headers: str) -> requests.Response:
        response = requests.Response()
        response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return response

    assert download._validator(said(ETag='"x"', Last_Modified="then")) == '"x"'
    assert download._validator(said(ETag='W/"x"', Last_Modified="then")) == "then"  # a weak tag is no mark of bytes
    assert download._validator(said()) is None
    ranges = {"bytes 5-9/10": (5, 10), "bytes 5-9/*": (5, None), "bytes */10": (None, 10), "": (None, None)}
    for text, wanted in ranges.items():
        assert download._range(said(Content_Range=text)) == wanted
    assert download._retry_after(said(Retry_After="7")) == 7
    assert download._retry_after(said(Retry_After="Fri, 31 Dec 1999 23:59:59 GMT")) == 0


def test_the_note_outlives_the_file(home: Path) -> None:
    with serving(BODY) as web:
        fetched = download.fetch(web.url, PATIENT)
    assert read_json(fetched.path.parent / "seen.json") == {
        "url": web.url,
        "sha256": SHA256,
        "bytes": len(BODY),
    }
