"""A web server for one person on this machine: a page, its files, and functions that it calls.

Safe by default:
    * It listens on 127.0.0.1 alone.
    * A request whose `Host` is another name is refused: no page elsewhere can reach it under a name of its own (DNS
      rebinding). So is one whose `Origin`, or `Sec-Fetch-Site`, is another page's.
    * Functions are called by POST with a token that is drawn at each start and never sent to anybody: it stands behind
      the `#` of the address that is printed. Another user of this machine gets the empty page and no more.
    * Bodies have to say their length and have a limit; a connection that stays silent is closed; so many at a time.
    * What can be asked for is a table: no path of a request names a file.
    * The page may load what comes from here, and nothing else (content security policy); it may not be framed.

Errors of ours are answers of status 422 with their message, for people. Others are 500 without a word of what went
wrong, which is in the log.

Offers: `Asset`, `Site` and `Server`.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from midivae.errors import InputError, MidivaeError, ParamsError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MAX_JSON = 64 * 1024  # bytes of what a function is told
SILENT_S = 20.0  # a connection without a byte is closed after that
CONNECTIONS = 32  # at a time
TOKEN, NAME = "X-Midivae-Token", "X-File-Name"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    kind: str  # its media type
    data: bytes


@dataclass(frozen=True)
class Site:
    """All that can be asked for.

    Attributes:
        assets: by path.
        calls: functions by name, asked for as /api/NAME: from an object of JSON to a value of JSON, or to bytes.
        upload: takes a file's name and bytes, asked for as /api/upload.
        max_upload: bytes of such a file.
    """

    assets: Mapping[str, Asset]
    calls: Mapping[str, Callable[[dict[str, Any]], Any]]
    upload: Callable[[str, bytes], Any]
    max_upload: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))


class Server(ThreadingHTTPServer):
    """Serves a site until `shutdown`."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = CONNECTIONS

    def __init__(self, site: Site, port: int) -> None:
        """Binds the port; 0: any that is free.

        Raises:
            InputError: it is taken, or not allowed.
        """
        self.site = site
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise InputError(
                f"port {port} of {HOST}: {error.strerror or error}; name another one with --port"
            ) from None

    @property
    def origin(self) -> str:
        """What the page's address begins with."""
        return f"http://{HOST}:{self.server_port}"

    @property
    def url(self) -> str:
        """The address to open."""
        return f"{self.origin}/#token={self.site.token}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives a connection a thread, where there is room for one more."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no news."""
        log.debug("a connection broke", exc_info=True)


class _Refused(Exception):  # noqa: N818 - an answer
    """A request that breaks a rule of the door."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = SILENT_S
    server_version, sys_version = "midivae", ""

    # --- what is asked
    def do_GET(self) -> None:
        """A file of the page."""
        self._answer(self._asset)

    def do_HEAD(self) -> None:
        """The same without its content."""
        self._answer(self._asset)

    def do_POST(self) -> None:
        """A function."""
        self._answer(self._called)

    def _asset(self) -> Asset:
        path = self.path.partition("?")[0]
        if path not in self.server.site.assets:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        return self.server.site.assets[path]

    def _called(self) -> Asset:
        site = self.server.site
        if not hmac.compare_digest(self.headers.get(TOKEN, "").encode(), site.token.encode()):
            raise _Refused(
                HTTPStatus.FORBIDDEN, "the token is missing: open the address that `midivae explore` printed"
            )
        name = self.path.removeprefix("/api/")
        if name == "upload":
            return _as_json(site.upload(unquote(self.headers.get(NAME, ""))[:1000], self._body(site.max_upload)))
        if f"/api/{name}" != self.path or name not in site.calls:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such function")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a function is told application/json")
        try:
            told = json.loads(self._body(MAX_JSON))
        except (ValueError, RecursionError):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
        if not isinstance(told, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body is not an object of JSON")
        value = site.calls[name](told)
        return Asset("audio/midi", value) if isinstance(value, bytes) else _as_json(value)

    def _body(self, most: int) -> bytes:
        said = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not said.isascii() or not said.isdigit():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "a body has to say its length")
        if len(said) > 12 or int(said) > most:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{said[:12]} bytes, and the most is {most}")
        data = self.rfile.read(int(said))
        if len(data) != int(said):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body is shorter than it says")
        return data

    # --- who asks
    def _check_sender(self) -> None:
        port = self.server.server_port
        hosts = (f"{HOST}:{port}", f"localhost:{port}")
        if self.headers.get("Host") not in hosts:
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, f"this is {HOST}:{port} and answers to no other name")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in [f"http://{host}" for host in hosts]:
            raise _Refused(HTTPStatus.FORBIDDEN, "another page asks, and only this one may")
        # a link from elsewhere may open the page, which has nothing in it
        link = self.command == "GET" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        if not link and self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise _Refused(HTTPStatus.FORBIDDEN, "another page asks, and only this one may")

    # --- the answer
    def _answer(self, find: Callable[[], Asset]) -> None:
        status = HTTPStatus.OK
        try:
            self._check_sender()
            answer = find()
        except _Refused as refused:
            status, answer = refused.status, _as_json({"error": refused.reason})
            self.close_connection = True  # what is left of its body is not read
        except (ParamsError, InputError) as error:
            status, answer = HTTPStatus.UNPROCESSABLE_ENTITY, _as_json({"error": str(error)})
        except MidivaeError as error:
            log.warning("%s", error)
            status, answer = HTTPStatus.UNPROCESSABLE_ENTITY, _as_json({"error": str(error)})
        except (TimeoutError, ConnectionError):
            self.close_connection = True
            return
        except Exception:
            log.exception("%s %s", self.command, self.path)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            answer = _as_json({"error": "something went wrong that nobody foresaw; the terminal says what"})
        self._send(status, answer)

    def _send(self, status: HTTPStatus, answer: Asset) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Requests are for who debugs."""
        log.debug(format, *args)


def _as_json(value: Any) -> Asset:
    return Asset("application/json", json.dumps(value, allow_nan=False).encode())
