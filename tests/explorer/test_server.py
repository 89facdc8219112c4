"""The server: its page, its functions, and the requests that it refuses."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from typing import Any

import pandas as pd
import pytest
from explored import some
from limits import WAIT_S

from midivae.catalog import read
from midivae.errors import InputError
from midivae.explorer import routes, uploads
from midivae.explorer.routes import FILE_NAME, TOKEN
from midivae.explorer.server import Server
from midivae.explorer.session import Session
from midivae.music import smf

pytestmark = pytest.mark.numerical


class Connection(http.client.HTTPConnection):
    """Sends headers and body at once.

    A server that refuses the headers closes the connection; a body that arrives later would reset it, and the answer
    would be lost.
    """

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.parts: list[bytes] = []

    def send(self, data: Any) -> None:
        self.parts.append(data)

    def send_parts(self) -> None:
        self.connect()
        self.sock.sendall(b"".join(self.parts))


def request(
    server: Server, method: str, path: str, body: bytes | None = None, **headers: str | None
) -> tuple[int, dict[str, str], bytes]:
    """One request with the right headers, but for those named here; None leaves one out."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    right = {"Host": f"127.0.0.1:{server.port}", "Content-Type": "application/json", TOKEN: server.token}
    connection = Connection("127.0.0.1", server.port, timeout=WAIT_S)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if body is not None and "Content-Length" not in given:
        right["Content-Length"] = str(len(body))
    for name, value in (right | given).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    connection.send_parts()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_and_its_policy(server: Server) -> None:
    for path in ("/", "/explorer.js", "/synth.js", "/loop.js", "/explorer.css", "/explorer.svg"):
        status, headers, body = request(server, "GET", path)
        assert status == 200
        assert len(body) > 100
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert server.token.encode() not in body
    assert request(server, "HEAD", "/")[2] == b""
    assert server.origin.startswith("http://127.0.0.1:")


def test_a_sample_over_http_and_its_file(server: Server, session: Session) -> None:
    settings = some(session)
    body = json.dumps({"parents": settings.parents}).encode()
    status, _, answer = request(server, "POST", "/api/make", body)
    made = json.loads(answer)
    assert status == 200
    status, headers, file = request(server, "POST", "/api/midi", body)
    assert headers["content-type"] == "audio/midi"
    notes = smf.read(file).notes
    heard = [(36 + row, 120 * start, 120 * (end - start)) for _, row, start, end in made["notes"]]
    written = zip(notes.pitch.tolist(), notes.onset_tick.tolist(), notes.duration_tick.tolist(), strict=True)
    assert sorted(heard) == sorted(written)


BODY = b'{"parents": ["piece:0123456789abcdef@1"]}'


LARGE = str(routes.MOST_JSON + 1)


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "message"),
    [
        ("/api/make", {"Host": "evil.example"}, BODY, 400, "Invalid host"),
        ("/api/make", {"Host": None}, BODY, 400, "Invalid HTTP request"),
        ("/api/make", {"Origin": "http://evil.example"}, BODY, 403, "another site"),
        ("/api/make", {"Origin": "null"}, BODY, 403, "another site"),
        ("/api/make", {"Sec_Fetch_Site": "cross-site"}, BODY, 403, "another site"),
        ("/api/make", {TOKEN: None}, BODY, 403, "the token is missing"),
        ("/api/make", {TOKEN: "x" * 32}, BODY, 403, "the token is missing"),
        ("/api/upload", {TOKEN: None}, BODY, 403, "the token is missing"),
        ("/api/make", {"Content-Type": "text/plain"}, BODY, 415, "application/json"),
        ("/api/make", {"Content-Length": None}, b"", 400, "not JSON"),
        ("/api/make", {"Content-Length": "-1"}, b"", 400, "Invalid HTTP request"),
        ("/api/make", {"Content-Length": "00000000000099999999999"}, b"", 400, "Invalid HTTP request"),
        ("/api/make", {"Content-Length": LARGE}, b"", 413, "Too Large"),
        ("/api/make", {}, b" " * (routes.MOST_JSON + 1), 413, "Too Large"),
        ("/api/upload", {"Content-Length": str(uploads.MOST_BYTES + 1)}, b"", 413, "Too Large"),
        ("/api/make", {}, b"{", 400, "not JSON"),
        ("/api/make", {}, b"[" * 20_000, 400, "not JSON"),
        ("/api/make", {}, b"[]", 400, "not a JSON object"),
        ("/api/nothing", {}, b"{}", 404, "no function 'nothing'"),
        ("/api/../etc/passwd", {}, b"{}", 404, "Not Found"),
        ("/make", {}, b"{}", 404, "Not Found"),
        ("/", {}, b"{}", 405, "Method Not Allowed"),
        ("/api/make", {}, b'{"parents": ["file:/etc/passwd@1"]}', 422, "must be piece:ID@BAR"),
        ("/api/samples", {}, b'{"where": "__import__(1)"}', 422, "where"),
        ("/api/samples", {}, b'{"where": 1}', 422, "where: Input should be a valid string"),
        ("/api/samples", {}, b'{"self": 1}', 422, "self: Unexpected keyword argument"),
        ("/api/random", {}, b'{"count": -1, "seed": 0}', 422, "count: Input should be greater than or equal to 0"),
        ("/api/names", {}, b'{"parents": [1]}', 422, "parents.0: Input should be a valid string"),
        ("/api/upload", {"Content-Type": "audio/midi", FILE_NAME: "a%00b.mid"}, b"MThd", 422, "ends within its header"),
    ],
)
def test_requests_that_are_refused(
    server: Server, path: str, headers: dict[str, str | None], body: bytes, status: int, message: str
) -> None:
    found, answered, answer = request(server, "POST", path, body, **headers)
    assert found == status, answer
    assert message.encode() in answer
    if answered["content-type"] == "application/json":
        assert message in json.loads(answer)["error"]
    else:
        assert status in (400, 413)


def test_a_body_without_a_length_has_the_same_limit(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    headers = {"Content-Type": "application/json", TOKEN: server.token}
    blocks = (b" " * 1024 for _ in range(routes.MOST_JSON // 1024 + 1))
    connection.request("POST", "/api/make", blocks, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_other_pages_of_the_browser_get_nothing(server: Server) -> None:
    assert request(server, "GET", "/", Host="evil.example:80")[0] == 400
    assert request(server, "GET", "/explorer.js", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert request(server, "GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200  # a link
    assert request(server, "GET", "/../pyproject.toml")[0] == 404
    assert request(server, "GET", "/api/about")[0] == 405
    assert request(server, "PUT", "/", b"")[0] == 405


def test_an_unexpected_error_shows_no_details(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "samples", lambda *_, **__: 1 / 0)
    status, headers, answer = request(server, "POST", "/api/samples", b"{}")
    assert status == 500
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unexpected error" in json.loads(answer)["error"]
    assert b"Zero" not in answer
    assert request(server, "POST", "/api/about", b"{}")[0] == 200  # it goes on


def test_the_page_is_served_while_a_sample_is_made(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    started, finish = threading.Event(), threading.Event()

    def query(*_: object, **__: object) -> pd.DataFrame:
        started.set()
        assert finish.wait(WAIT_S)
        return pd.DataFrame()

    monkeypatch.setattr(read, "samples", query)
    slow = threading.Thread(target=request, args=(server, "POST", "/api/samples", b"{}"))
    slow.start()
    assert started.wait(WAIT_S)
    assert request(server, "GET", "/")[0] == 200
    finish.set()
    slow.join()


def test_a_port_that_is_taken_is_an_error_with_a_name(server: Server, session: Session) -> None:
    with pytest.raises(InputError, match=f"port {server.port} of 127.0.0.1.*name another port with --port"):
        Server(session, server.port)


def test_ctrl_c_ends_it(session: Session) -> None:
    with Server(session, 0) as server:

        def interrupt() -> None:
            assert request(server, "GET", "/")[0] == 200
            signal.raise_signal(signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            server.serve()
        thread.join()
    with pytest.raises(ConnectionRefusedError):
        request(server, "GET", "/")
