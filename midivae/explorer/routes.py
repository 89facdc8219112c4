"""The explorer's page: what it can ask the explorer for.

Offers: `site`, and `open_`, a server of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from midivae.config.params import Params
from midivae.errors import ParamsError
from midivae.explorer import explore
from midivae.explorer.explore import Explorer, Find
from midivae.explorer.server import Asset, Server, Site

_ASSETS = {
    "/": ("explorer", "explorer.html", "text/html; charset=utf-8"),
    "/explorer.css": ("explorer", "explorer.css", "text/css; charset=utf-8"),
    "/explorer.js": ("explorer", "explorer.js", "text/javascript; charset=utf-8"),
    "/synth.js": ("render", "synth.js", "text/javascript; charset=utf-8"),
    "/loop.js": ("explorer", "loop.js", "text/javascript; charset=utf-8"),
    "/explorer.svg": ("explorer", "explorer.svg", "image/svg+xml"),
}


@contextmanager
def open_(params: Params, data: Path, kept: Path | None, port: int) -> Iterator[Server]:
    """A server of the explorer of a data folder, that listens already.

    Raises:
        InputError, SchemaError, CorruptError: as `Explorer`, or the port is taken.
    """
    explorer = Explorer(params, data, kept)
    try:
        with Server(site(explorer), port) as server:
            yield server
    finally:
        explorer.close()


def site(explorer: Explorer) -> Site:
    """All that the page can ask for."""
    assets = {
        path: Asset(kind, (files("midivae") / package / "templates" / name).read_bytes())
        for path, (package, name, kind) in _ASSETS.items()
    }
    return Site(
        assets,
        {
            "about": lambda told: explorer.about(_text(told, "model") or None),
            "pieces": lambda told: explorer.pieces(_text(told, "text"), _text(told, "split")),
            "random": lambda told: explorer.any_pieces(_number(told, "count", 4), _number(told, "seed", 2**31)),
            "samples": lambda told: explorer.samples(_text(told, "where")),
            "names": lambda told: explorer.named(_texts(told, "parents")),
            "make": lambda told: explore.shown(explorer.make(Find.parse(told))),
            "midi": lambda told: explorer.make(Find.parse(told)).file,
            "keep": lambda told: explorer.keep(Find.parse(told)),
            "kept": lambda _: explorer.all_kept(),
            "open": lambda told: explorer.reopened(_text(told, "sample_id")),
        },
        explorer.upload,
        explore.MAX_UPLOAD,
    )


def _text(told: dict[str, Any], name: str) -> str:
    """A text that the page told, "" where it did not.

    Raises:
        ParamsError: it is none.
    """
    value = told.get(name) or ""
    if not isinstance(value, str):
        raise ParamsError(f"{name} {value!r:.40}: should be a text")
    return value


def _texts(told: dict[str, Any], name: str) -> list[str]:
    """A few texts, likewise."""
    value = told.get(name)
    if not isinstance(value, list) or len(value) > 64 or not all(isinstance(each, str) for each in value):
        raise ParamsError(f"{name} {value!r:.40}: should be a list of texts")
    return value


def _number(told: dict[str, Any], name: str, most: int) -> int:
    """A whole number from 0 to `most`, likewise."""
    value = told.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ParamsError(f"{name} {value!r:.40}: should be a whole number from 0 to {most}")
    return value
