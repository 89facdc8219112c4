"""The registry of corpora that have names, from `corpora.yaml`.

An entry has the address, hash and size of a corpus, its licence, its contents, and its own split if it has one. A new
corpus needs an entry, and no code.

Offers: `load` (all entries), `find` (one, or an error with similar names), `listing` (a table for people), `chosen`
(the parameters of a run whose source is named on the command line).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from midivae.config import params
from midivae.config.base import Positive, Section
from midivae.config.fetch import BUILT_IN
from midivae.config.ingest import Parts
from midivae.config.params import Params
from midivae.errors import ParamsError

REGISTRY = Path(__file__).with_name("corpora.yaml")
CHORALES = (
    "bach-chorales",
    "408",
    "",
    "none stated",
    "Bach's chorales, the default: installed with the package music21",
)
_MARK = "*"  # in the listing: the licence must be accepted

Web = Annotated[str, Field(pattern=r"^https?://")]


class Licence(Section):
    """The licence of a corpus."""

    id: str | None  # of the SPDX list; None: none is stated
    sentence: str  # what it requires, for people
    link: Web

    def __str__(self) -> str:
        """In one line."""
        return f"{self.id or 'no licence stated'} ({self.link})"


class OwnSplit(Section):
    """Where a corpus states its own split: in a table in the archive, or by folders named after the splits."""

    table: str | None = None  # path of a CSV file in the archive
    file: str | None = None  # its column with the MIDI files, as paths from the folder of the table
    column: str | None = None  # its column with the splits
    folders: tuple[str, ...] = ()  # names of folders that hold MIDI files

    @model_validator(mode="after")
    def _one_way(self) -> OwnSplit:
        columns = (self.table, self.file, self.column)
        if (None in columns) != (columns == (None, None, None)) or (self.table is None) != bool(self.folders):
            raise ValueError("a split is either `table`, `file` and `column`, or `folders`")
        return self


class Corpus(Section):
    """One entry of the registry."""

    title: str
    homepage: Web
    url: Web  # of the archive
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None  # of the archive; None: not known
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None  # the same; for hosts that publish no sha256
    bytes: Positive | None  # size of the archive; None: not known
    files: Positive | None  # number of MIDI files; None: not known
    licence: Licence
    restricted: bool = False  # no commercial use, an agreement, or no licence stated: must be accepted
    inside: str  # kind of music, and tracks
    include: tuple[str, ...] = ()  # paths in the archive, shell-style, `*` within one folder; empty: every MIDI file
    parts: Parts  # the rule for `ingest.parts` that fits it
    split: OwnSplit | None = None
    citation: str

    @property
    def hash(self) -> str | None:
        """The hash of the archive as `download` takes it."""
        return self.sha256 or (f"md5:{self.md5}" if self.md5 else None)


@cache
def load() -> dict[str, Corpus]:
    """All corpora, in the order of the registry."""
    entries: dict[str, Any] = yaml.safe_load(REGISTRY.read_text(encoding="utf-8"))
    return {name: Corpus.model_validate(entry) for name, entry in entries.items()}


def find(name: str) -> Corpus:
    """The corpus of this name.

    Raises:
        ParamsError: there is none; the message has similar names.
    """
    known = load()
    if name in known:
        return known[name]
    near = _near(name, [*BUILT_IN, *known])
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    raise ParamsError(
        f"fetch.source {name!r} is neither {', '.join(BUILT_IN)}, nor the name of a corpus; {guess}"
        "`midivae fetch --list` names all corpora; for a file or folder of yours see docs/corpora.md"
    )


def _near(name: str, known: list[str]) -> list[str]:
    """Names similar to `name`, the most similar first."""
    inside = [other for other in known if name.lower() in other or other in name.lower()]
    return list(dict.fromkeys(difflib.get_close_matches(name.lower(), known, 3, 0.6) + inside))[:4]


# --- for people -------------------------------------------------------------------------------------------------------
def listing() -> Iterator[str]:
    """The registry as a table: name, files, size, licence, title."""
    rows = [("name", "files", "size", "licence", "title"), CHORALES]
    for name, corpus in load().items():
        mark = _MARK if corpus.restricted else ""
        licence = (corpus.licence.id or "none stated") + mark
        files = "?" if corpus.files is None else f"{corpus.files:,}"
        rows.append((name, files, size_in_words(corpus.bytes), licence, corpus.title))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, files, size, licence, title in rows:
        yield f"{name:<{widths[0]}}  {files:>{widths[1]}}  {size:<{widths[2]}}  {licence:<{widths[3]}}  {title}"
    yield ""
    yield f"{_MARK} accept its licence: midivae fetch --source NAME --accept-licence"


def size_in_words(size: int | None) -> str:
    """A number of bytes for people, in powers of ten: 58.4 MB."""
    if size is None:
        return "?"
    power = min((len(str(size)) - 1) // 3, 3)
    return f"{size / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB')[power]}"


# --- named on the command line ----------------------------------------------------------------------------------------
def chosen(given: Params, source: str | None, accept_licence: bool) -> Params:
    """The parameters with another source for `fetch`, whose licence is accepted if asked.

    Args:
        given: the parameters as read.
        source: a name of the registry, one of `BUILT_IN`, a URL, or the path of a folder or file; None: the source of
            the parameters.
        accept_licence: whether the licence of a restricted corpus is accepted.

    Raises:
        ParamsError: there is no such corpus, folder or file.
    """
    fetch = given.fetch.model_dump(mode="json")
    if source is not None and source != given.fetch.source:
        fetch |= {"path": None, "url": None, "sha256": None, "licence": None} | _located(source)
    if accept_licence:
        fetch["accept_licence"] = fetch["source"]
    return params.parse(given.model_dump(mode="json") | {"fetch": fetch}, "--source" if source else "params")


def _located(source: str) -> dict[str, str]:
    """The params for a source on the command line; a name takes precedence over a path."""
    if source in BUILT_IN or source in load():
        return {"source": source}
    if "://" in source:
        return {"source": "url", "url": source}
    if Path(source).is_dir():
        return {"source": "folder", "path": source}
    if "/" in source or Path(source).exists():
        return {"source": "archive", "path": source}
    find(source)  # raises
    return {"source": source}
