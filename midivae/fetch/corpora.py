"""The corpora that can be named instead of located: what `corpora.yaml` says, checked, and found by name.

An entry says where a corpus lies, how to know that what came is what was meant, what its licence asks, what is inside,
and which split it brings. The registry is data: a corpus is added by adding an entry, and no code.

Offers: `load` (all entries), `find` (one, or an error with near matches), `listing` (a table for people), `chosen` (the
parameters of a run whose source is named on the command line).
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
_MARK = "*"  # in the listing: asks for an explicit yes

Web = Annotated[str, Field(pattern=r"^https?://")]


class Licence(Section):
    """What may be done with a corpus."""

    id: str | None  # of the SPDX list; None: none is stated
    sentence: str  # what it asks, for people
    link: Web

    def __str__(self) -> str:
        """In one line."""
        return f"{self.id or 'no licence stated'} ({self.link})"


class OwnSplit(Section):
    """The split that a corpus brings: a table in the archive, or folders named after the splits."""

    table: str | None = None  # the csv, as a path in the archive
    file: str | None = None  # its column of MIDI files, as paths from the folder of the table
    column: str | None = None  # its column of splits
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
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None  # of the archive; None: nobody says
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None  # likewise; for hosts that publish no other
    bytes: Positive | None  # size of the archive; None: nobody says
    files: Positive | None  # MIDI files that it is said to have
    licence: Licence
    restricted: bool = False  # forbids commercial use, asks for an agreement, or is not stated: needs an explicit yes
    inside: str  # what kind of music, which tracks
    include: tuple[str, ...] = ()  # paths in the archive, shell-style, `*` within one folder; empty: every MIDI file
    parts: Parts  # a rule for `ingest.parts` that suits it
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
        ParamsError: there is none; the message has near matches.
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
    """Names that look like `name`, the best first."""
    inside = [other for other in known if name.lower() in other or other in name.lower()]
    return list(dict.fromkeys(difflib.get_close_matches(name.lower(), known, 3, 0.6) + inside))[:4]


# --- for people -------------------------------------------------------------------------------------------------------
def listing() -> Iterator[str]:
    """The registry as a table: name, files, size, licence, title."""
    rows = [("name", "files", "size", "licence", "title"), CHORALES]
    for name, corpus in load().items():
        mark = _MARK if corpus.restricted else ""
        licence = (corpus.licence.id or "none stated") + mark
        rows.append((name, _count(corpus.files), size_in_words(corpus.bytes), licence, corpus.title))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        left, count, rest = row[0].ljust(widths[0]), row[1].rjust(widths[1]), zip(row[2:4], widths[2:], strict=True)
        yield "  ".join([left, count, *(text.ljust(width) for text, width in rest), row[4]]).rstrip()
    yield ""
    yield f"{_MARK} needs an explicit yes: midivae fetch --source NAME --accept-licence"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def size_in_words(size: int | None) -> str:
    """A number of bytes for people, in powers of ten: 58.4 MB."""
    if size is None:
        return "?"
    power = min((len(str(size)) - 1) // 3, 3)
    return f"{size / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB')[power]}"


# --- named on the command line ----------------------------------------------------------------------------------------
def chosen(given: Params, source: str | None, accept_licence: bool) -> Params:
    """The parameters with another source for `fetch`, and with a yes to the licence of the source.

    Args:
        given: the parameters as read.
        source: a name of the registry or a source that `params.Fetch` knows, a URL, or the path of a folder or file;
            None: that of the params.
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
    """What kind of source a word on the command line is; names go before paths."""
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
