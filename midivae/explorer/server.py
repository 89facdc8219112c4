"""The web server of the explorer, for one person on this machine.

It listens on 127.0.0.1 only. A token is drawn at each start. It is in the fragment of the printed address, which
browsers do not send: another user of this machine gets a page without data. The content security policy lets the page
load files of this server only, and forbids other pages to frame it.

Offers: `Server`.
"""

from __future__ import annotations

import os
import secrets
import socket
from types import TracebackType

import uvicorn

from midivae.errors import InputError
from midivae.explorer.routes import create_app
from midivae.explorer.session import Session

HOST = "127.0.0.1"
_CONNECTIONS = 32  # at the same time
_STOP_S = 5  # how long the server waits for running requests when it stops
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Server:
    """Serves a session; a context manager that frees the port."""

    def __init__(self, session: Session, port: int) -> None:
        """Binds the port; 0: any free port.

        Raises:
            InputError: the port is taken, or this user may not open it.
        """
        try:
            self._socket = socket.create_server((HOST, port))
        except OSError as error:
            reason = f"port {port} of {HOST}: {os.strerror(error.errno or 0)}"
            raise InputError(f"{reason}; name another port with --port") from None
        self.port: int = self._socket.getsockname()[1]
        self.token = secrets.token_urlsafe(24)
        config = uvicorn.Config(
            create_app(session, self.token, (HOST, "localhost"), self.port),
            loop="asyncio",
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            headers=list(_HEADERS.items()),
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_STOP_S,
        )
        self._server = uvicorn.Server(config)

    @property
    def origin(self) -> str:
        """The first part of the page's address."""
        return f"http://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The address to open."""
        return f"{self.origin}/#token={self.token}"

    def serve(self) -> None:
        """Serves until `stop`, or until Ctrl-C, which raises KeyboardInterrupt when the server has ended."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ends `serve`, from another thread."""
        self._server.should_exit = True

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
