"""Tests of midivae.fetch.transfer, against a web server on this machine that fails in every way it can."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from limits import HANG_S
from webserver import Answer, chunked, cut_after, good, page, serving, slow, status, unused_port, without_ranges

from fetch.downloads import BODY, PATIENT, SHA256, check, files
from midivae.config.fetch import Download
from midivae.errors import CorruptError, InputError
from midivae.fetch import download, transfer

pytestmark = pytest.mark.usefixtures("home")


def test_a_redirect_is_followed() -> None:
    with serving(BODY, status(302, Location="/there.zip"), good) as web:
        check(download.fetch(f"{web.url}/here", PATIENT, expected=SHA256))


def test_a_file_without_an_announced_size_comes_whole() -> None:
    with serving(BODY, chunked(BODY[:1000], whole=False), chunked(BODY)) as web:
        check(download.fetch(web.url, PATIENT, expected=SHA256, size=len(BODY)))


def test_what_is_packed_on_the_way_is_not_unpacked() -> None:
    """Servers say of a tar.gz that it is an encoding; its bytes are the file all the same."""

    def packed(handler: object) -> None:
        handler.begin(200, Content_Length=len(BODY), Content_Encoding="x-gzip")  # type: ignore[attr-defined]
        handler.wfile.write(BODY)  # type: ignore[attr-defined]

    with serving(BODY, packed) as web:
        check(download.fetch(web.url, PATIENT, expected=SHA256))


# --- faults that pass -------------------------------------------------------------------------------------------------
def test_a_cut_download_goes_on_where_it_stopped() -> None:
    with serving(BODY, cut_after(1_000_000), cut_after(700_000), good) as web:
        check(download.fetch(web.url, PATIENT))
    assert web.asked == ["", "bytes=999999-", "bytes=1699998-"]


def test_the_next_run_goes_on_where_the_last_one_stopped(home: Path) -> None:
    with serving(BODY, cut_after(1_000_000), status(503)) as web:
        with pytest.raises(InputError, match="503"):
            download.fetch(web.url, PATIENT)
        assert files(home) == []
        web.answers = [good]
        web.asked.clear()
        check(download.fetch(web.url, PATIENT))
    assert web.asked == ["bytes=999999-"]


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
    assert web.asked[-1] == f"bytes={len(BODY) - 1}-"


@pytest.mark.parametrize("left", [BODY, bytes(len(BODY))])
def test_a_whole_part_that_a_killed_run_had_not_yet_hashed_is_hashed(left: bytes, home: Path) -> None:
    with serving(BODY, cut_after(1_000_000), status(503)) as web:
        with pytest.raises(InputError):
            download.fetch(web.url, PATIENT, expected=SHA256)
        next(home.rglob(".part")).write_bytes(left)
        web.answers = [good]
        web.asked.clear()
        check(download.fetch(web.url, PATIENT, expected=SHA256))
    assert web.asked == [f"bytes={len(BODY) - 1}-"] + [""] * (left != BODY)
    assert files(home) == ["download", "seen.json"]


@pytest.mark.parametrize("known", [SHA256, None])
def test_a_file_that_changed_meanwhile_begins_anew(known: str | None) -> None:
    with serving(bytes(len(BODY)), cut_after(1_000_000), status(503)) as web:
        with pytest.raises(InputError):
            download.fetch(web.url, PATIENT, expected=known)
        web.body, web.tag, web.answers = BODY, '"two"', [good]
        check(download.fetch(web.url, PATIENT, expected=known))


def test_without_a_mark_or_hash_nothing_is_put_together() -> None:
    with serving(BODY, cut_after(1_000_000), good) as web:
        web.tag = None
        check(download.fetch(web.url, PATIENT))
    assert web.asked == ["", ""]


def test_a_server_without_ranges_sends_all_of_it_again() -> None:
    with serving(BODY, without_ranges(1_000_000), without_ranges()) as web:
        check(download.fetch(web.url, PATIENT, expected=SHA256))
    assert web.asked == ["", "bytes=999999-"]


@pytest.mark.parametrize("code", [429, 500, 503])
def test_busy_then_good(code: int, caplog: pytest.LogCaptureFixture) -> None:
    with serving(BODY, status(code), status(code), good) as web:
        check(download.fetch(web.url, PATIENT, expected=SHA256))
    assert len(web.asked) == 3
    assert f"the server answers {code}" in caplog.text


def test_the_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    with serving(BODY, status(503, Retry_After=7), status(503, Retry_After=99999), good) as web:
        check(download.fetch(web.url, PATIENT))
    assert waits == [7, 60]  # a minute at most


def test_slow_then_good(caplog: pytest.LogCaptureFixture) -> None:
    with serving(BODY, slow(HANG_S), slow(HANG_S, after=1_000_000), good) as web:
        check(download.fetch(web.url, Download(timeout_s=2, attempts=3)))
    assert web.asked == ["", "", f"bytes={(15 << 16) - 1}-"]  # 15 of 15.3 pieces
    assert caplog.text.count("timed out") == 2


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
        (cut_after(1000), r"IncompleteRead\(1000 bytes read, \d+ more expected", 3),  # a thousand more each time
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


# --- sizes ------------------------------------------------------------------------------------------------------------
def test_a_server_that_announces_another_size_is_not_listened_to() -> None:
    for size in (len(BODY) - 1, len(BODY) + 1):
        with (
            serving(BODY) as web,
            pytest.raises(CorruptError, match=f"sends 3,000,000 bytes, not {size:,}: the"),
        ):
            download.fetch(web.url, PATIENT, expected=SHA256, size=size)


def test_a_server_that_sends_more_is_cut_off(home: Path) -> None:
    with serving(BODY, chunked(BODY)) as web:
        with pytest.raises(CorruptError, match=r"sends 3,000,000 bytes or more, not 2,999,999: the file has"):
            download.fetch(web.url, PATIENT, expected=SHA256, size=len(BODY) - 1)
        with pytest.raises(InputError, match=r"more than 1,000 bytes, fetch\.download\.max_bytes: cut off; raise it"):
            download.fetch(web.url, Download(max_bytes=1000))
        web.answers = [good]
        with pytest.raises(InputError, match="max_bytes"):
            download.fetch(web.url, Download(max_bytes=1000))
    assert not any(path.stat().st_size > 1000 for path in home.rglob("*") if path.is_file())


def test_a_part_that_is_longer_than_the_file_is_downloaded_again() -> None:
    with serving(BODY + b"more", cut_after(len(BODY) + 2), status(503)) as web:
        web.tag = None
        with pytest.raises(InputError):
            download.fetch(web.url, PATIENT, expected=SHA256)
        web.body, web.answers = BODY, [good]
        web.asked.clear()
        check(download.fetch(web.url, PATIENT, expected=SHA256))
    assert web.asked == [f"bytes={len(BODY) + 1}-", ""]


def test_what_servers_say() -> None:
    def response(**headers: str) -> requests.Response:
        response = requests.Response()
        response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return response

    assert transfer._version(response(ETag='"x"', Last_Modified="then")) == '"x"'
    assert transfer._version(response(ETag='W/"x"', Last_Modified="then")) == "then"
    assert transfer._version(response()) is None
    for said, seconds in {"7": 7, "soon": 0, "Fri, 31 Dec 1999 23:59:59 GMT": 0}.items():
        fault = requests.ConnectionError(response=response(Retry_After=said))
        assert transfer._retry_after_s(fault) == seconds
    assert transfer._retry_after_s(requests.ConnectionError("cut off")) == 0
