"""A web server on this machine whose faults are chosen answer by answer."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


@dataclass
class Web:
    """What a server answers, and what it was asked.

    Attributes:
        url: of the server, without a slash at the end.
        body: what `good` sends.
        answers: one for each request, the last one for all later ones.
        asked: the `Range` header of each request, "" without one.
    """

    url: str = ""
    body: bytes = b""
    tag: str | None = '"one"'
    answers: list[Answer] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Answers with what the next in line says."""

    protocol_version = "HTTP/1.1"
    web: Web

    def do_GET(self) -> None:
        web = self.web
        web.asked.append(self.headers.get("Range", ""))
        answer = web.answers.pop(0) if len(web.answers) > 1 else web.answers[0]
        answer(self)
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def begin(self, status: int, **headers: object) -> None:
        """Sends the head of an answer; underscores in names stand for hyphens."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        if self.web.tag:
            self.send_header("ETag", self.web.tag)
        self.end_headers()


@contextmanager
def serving(body: bytes, *answers: Answer) -> Iterator[Web]:
    """A server for the duration of the block."""
    web = Web(body=body, answers=list(answers) or [good])
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"web": web}))
    server.daemon_threads = True
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def unused_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- answers ----------------------------------------------------------------------------------------------------------
def wanted(handler: Handler) -> int | None:
    """The byte from which the rest is asked for, if it is that of this state of the file."""
    said = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    same = handler.headers.get("If-Range") in (None, handler.web.tag)
    return int(said[1]) if said and same else None


def good(handler: Handler) -> None:
    """The body, or the rest of it."""
    send(handler)


def send(handler: Handler, cut: int | None = None) -> None:
    """The body, or the rest of it; with `cut`, the connection ends after so many bytes."""
    body, start = handler.web.body, wanted(handler)
    if start is not None and start >= len(body):
        handler.begin(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
    elif start is not None:
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.begin(206, Content_Length=len(body) - start, Content_Range=span)
        handler.wfile.write(body[start:][:cut])
    else:
        handler.begin(200, Content_Length=len(body))
        handler.wfile.write(body[:cut])


def cut_after(count: int) -> Answer:
    """An answer that announces everything and ends too soon."""
    return lambda handler: send(handler, count)


def without_ranges(cut: int | None = None) -> Answer:
    """A server that always sends the whole file."""

    def answer(handler: Handler) -> None:
        handler.begin(200, Content_Length=len(handler.web.body))
        handler.wfile.write(handler.web.body[:cut])

    return answer


def status(code: int, **headers: object) -> Answer:
    """An answer without a body."""
    return lambda handler: handler.begin(code, Content_Length=0, **headers)


def chunked(body: bytes, whole: bool = True) -> Answer:
    """An answer that does not announce its size."""

    def answer(handler: Handler) -> None:
        handler.begin(200, Transfer_Encoding="chunked")
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body) + (b"0\r\n\r\n" if whole else b""))

    return answer


def slow(seconds: float, after: int = 0) -> Answer:
    """An answer that stops for a while after so many bytes."""

    def answer(handler: Handler) -> None:
        handler.begin(200, Content_Length=len(handler.web.body))
        handler.wfile.write(handler.web.body[:after])
        handler.wfile.flush()
        time.sleep(seconds)

    return answer


def page(handler: Handler) -> None:
    """A web page, as hosts send it in place of a file."""
    text = b"\n<!DOCTYPE html><html>Too many users have downloaded this file</html>"
    handler.begin(200, Content_Length=len(text), Content_Type="text/html")
    handler.wfile.write(text)
