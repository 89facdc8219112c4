"""The web application behind the page: its files, and the functions that it calls.

`GET` paths give the files of the page. `POST /api/NAME` calls a function with a JSON object as body; the answer is JSON
or a MIDI file. `POST /api/upload` takes a MIDI file as body. Only these paths exist: no request names a file on disk.

Refused requests:
    * `Host` is not this machine: another site could reach the server under a name of its own (DNS rebinding).
    * `Origin` or `Sec-Fetch-Site` shows that a page of another site sends it. Such a page may link to this one.
    * A function is called without the token, which only the address printed at the start has.
    * A body is larger than its limit.

An error of midivae is an answer of status 422 with the message. Any other error is a 500 without details; the log has
them.

Offers: `create_app`; `TOKEN`, `FILE_NAME`.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

import numpy as np
from pydantic import ConfigDict, ValidationError, validate_call
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from midivae.config.base import broken_rules
from midivae.errors import InputError, MidivaeError, ParamsError
from midivae.explorer.session import Result, Session
from midivae.explorer.settings import Settings
from midivae.explorer.uploads import MOST_BYTES
from midivae.music import roll

log = logging.getLogger(__name__)

Function = Callable[[dict[str, Any]], Any]

TOKEN, FILE_NAME = "X-Midivae-Token", "X-File-Name"  # headers of a request
MOST_JSON = 64 * 1024  # bytes of a JSON body
_FILES = {  # path -> package and media type
    "/": ("explorer", "explorer.html", "text/html"),
    "/explorer.css": ("explorer", "explorer.css", "text/css"),
    "/explorer.js": ("explorer", "explorer.js", "text/javascript"),
    "/loop.js": ("explorer", "loop.js", "text/javascript"),
    "/explorer.svg": ("explorer", "explorer.svg", "image/svg+xml"),
    "/page.js": ("render", "page.js", "text/javascript"),
    "/synth.js": ("render", "synth.js", "text/javascript"),
}


def create_app(session: Session, token: str, hosts: tuple[str, ...], port: int) -> Starlette:
    """The application.

    Args:
        session: computes the answers; it is called in worker threads, so that the event loop stays free.
        token: what a request must have to call a function.
        hosts: names of this machine.
        port: of the server.
    """
    origins = [f"http://{host}:{port}" for host in hosts]
    functions = _functions(session)

    def check_sender(request: Request) -> None:
        link = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        site = request.headers.get("Sec-Fetch-Site", "none")
        if request.headers.get("Origin", origins[0]) not in origins or (
            site not in ("none", "same-origin") and not link
        ):
            raise HTTPException(403, "the request comes from another site; only the explorer's own page may send it")

    def check_token(request: Request) -> None:
        check_sender(request)
        if not hmac.compare_digest(request.headers.get(TOKEN, "").encode(), token.encode()):
            raise HTTPException(403, "the token is missing: open the address that `midivae explore` printed")

    async def file(request: Request) -> Response:
        check_sender(request)
        package, name, kind = _FILES[request.url.path]
        data = (files("midivae") / package / "templates" / name).read_bytes()
        return Response(data, media_type=kind)

    async def upload(request: Request) -> Response:
        check_token(request)
        name, data = unquote(request.headers.get(FILE_NAME, ""))[:1000], await request.body()
        return JSONResponse(await run_in_threadpool(session.upload, name, data))

    async def call(request: Request) -> Response:
        check_token(request)
        name = request.path_params["name"]
        if name not in functions:
            raise HTTPException(404, f"there is no function {name!r:.40}")
        value = await run_in_threadpool(functions[name], await _json_object(request))
        return Response(value, media_type="audio/midi") if isinstance(value, bytes) else JSONResponse(value)

    return Starlette(
        routes=[
            *(Route(path, file) for path in _FILES),
            Route("/api/upload", upload, methods=["POST"], max_body_size=MOST_BYTES),
            Route("/api/{name}", call, methods=["POST"], max_body_size=MOST_JSON),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
        exception_handlers={
            HTTPException: lambda _, error: _error(error.status_code, error.detail),
            ClientDisconnect: lambda *_: Response(status_code=400),  # nobody reads it
            MidivaeError: _midivae_error,
            Exception: lambda *_: _error(500, "an unexpected error; the terminal shows it"),
        },
    )


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def _midivae_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, ParamsError | InputError):
        log.warning("%s", error)
    return _error(422, str(error))


async def _json_object(request: Request) -> dict[str, Any]:
    """The body of a request."""
    if request.headers.get("Content-Type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "the body must be application/json")
    try:
        value = await request.json()
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return value


# --- functions --------------------------------------------------------------------------------------------------------
def _functions(session: Session) -> dict[str, Function]:
    """The functions of the page by name."""
    return {
        "about": _checked(session.about),
        "pieces": _checked(session.pieces),
        "random": _checked(session.random_parents),
        "samples": _checked(session.samples),
        "names": _checked(session.names),
        "kept": _checked(session.kept.list),
        "open": _checked(session.reopen),
        "make": lambda body: _sample(session.make(Settings.parse(body))),
        "midi": lambda body: session.make(Settings.parse(body)).file,
        "keep": lambda body: session.keep(Settings.parse(body)),
    }


def _checked(method: Callable[..., Any]) -> Function:
    """A method that takes its arguments from a JSON object; they must have the annotated types."""
    validated = validate_call(method, config=ConfigDict(strict=True))  # type: ignore[call-overload]

    def function(body: dict[str, Any]) -> Any:
        try:
            return validated(**body)
        except ValidationError as error:
            raise ParamsError("; ".join(broken_rules(error))[:400]) from None

    return function


def _sample(result: Result) -> dict[str, Any]:
    """A sample as the page shows and plays it.

    Notes are rows of part, pitch from `pitch_low` up, first step, and the step after the last.
    """
    row = result.row.slice(0, 1).to_pylist()[0]
    _, part, pitch, onset, offset = roll.cell_runs(result.samples.planes)
    return {
        "notes": np.stack([part, pitch, onset, offset], axis=1).tolist(),
        "steps": row["n_steps"],
        "tempo_qpm": round(float(row["tempo_qpm"]), 2),
        "weights": row["weights"],
        "edits": json.loads(row["edits"]) if row["edits"] else None,
        "key": row["key"],
        "figures": {name: row[name] for name in ("notes", "density", "polyphony", "note_length", "novelty")},
        "params_sha256": row["params_sha256"],
    }
