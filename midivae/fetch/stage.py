"""Stage `fetch`: a corpus of MIDI files on disk, and a table of their sources.

Sources, by `fetch.source`:
    bach-chorales  the 408 scores of Bach in music21's wheel, converted by verovio in child processes
    a name         a corpus of the registry, corpora.yaml: downloaded, compared with its hash, read as an archive
    url            an archive or a MIDI file from the web
    folder         every MIDI file below a folder, by its suffix (`paths.MIDI_SUFFIXES`), in upper or lower case; links
                   to folders, and links to files outside, are refused
    archive        every MIDI file in a zip or tar, which is read member by member; or a single MIDI file

Output: `midi/` with the files, and `corpus.parquet` with a row for each, sorted by path. The same source gives the same
bytes with any number of workers. names.py describes how files are named.

Offers: `run`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from midivae.config.params import Params
from midivae.errors import InputError, ParamsError
from midivae.fetch import archive, chorales, corpora, download, musicxml, names
from midivae.fetch.collected import Collected
from midivae.fetch.own_split import OwnSplit
from midivae.storage import folders, tables
from midivae.storage.paths import CORPUS_FILES, CORPUS_TABLE, MIDI_SUFFIXES
from midivae.storage.schema import CORPUS
from midivae.storage.workdir import work_dir

_PATTERNS = ", ".join(f"*{suffix}" for suffix in MIDI_SUFFIXES)

log = logging.getLogger(__name__)


def run(params: Params, data: Path) -> dict[str, object]:
    """Fills `data/corpus/` from the source that `params.fetch` names; a relative `path` starts at the current folder.

    Raises:
        ParamsError: there is no corpus of that name, or its licence must be accepted.
        InputError: the source is missing, cannot be used, or has no MIDI file.
        CorruptError: an archive is damaged, or not the expected one.
    """
    begun = time.monotonic()
    built_in = {"bach-chorales": _chorales, "folder": _folder, "archive": _archive, "url": _url}
    fill = built_in.get(params.fetch.source, _named)
    if fill is _named:
        _require_licence(params)
    with folders.publishing(data / "corpus") as staging:
        corpus = Collected(staging / CORPUS_FILES)
        fill(params, data, corpus)
        if not corpus.rows:
            raise InputError(f"{corpus.source}: no MIDI file ({_PATTERNS}) in it; {corpus.counts_in_words()}")
        if fill is not _named:  # `_named` logs the licence itself
            log.info("%s: licence: %s", corpus.source, corpus.licence or "none found; note it in fetch.licence")
        tables.write(staging / CORPUS_TABLE, corpus.table(), CORPUS)
    return {**corpus.summary(), "seconds": round(time.monotonic() - begun, 2)}


# --- folder -----------------------------------------------------------------------------------------------------------
def _folder(params: Params, data: Path, corpus: Collected) -> None:
    """Copies the MIDI files below a folder."""
    root = Path(str(params.fetch.path))
    if not root.is_dir():
        what = "is a file; set fetch.source to `archive`" if root.exists() else "no such folder"
        raise InputError(f"{root}: {what}; fetch.path must name a folder (relative to this folder)")
    corpus.source, corpus.licence = names.printable(os.fsencode(root.resolve().name)), params.fetch.licence
    found = sorted(_files(root, data, corpus), key=os.fsencode)
    for path in tqdm(found, unit="file", desc="fetch", disable=None, file=sys.stderr):
        name = os.fsencode(path.relative_to(root))
        if names.is_midi(name):
            reason = _file_refusal(path, root)
            if reason is None:
                corpus.add(name, path)
            else:
                corpus.refuse(name, reason)
            continue
        corpus.counts["other"] += 1
        if names.is_licence(name) and _file_refusal(path, root) is None:
            with path.open("rb") as file:
                corpus.note_licence(name, file.read(1 << 16))


def _files(root: Path, data: Path, corpus: Collected) -> Iterator[Path]:
    """All files below a folder, except our own data and work directory; links to folders are refused."""
    ours = (data.resolve(), work_dir().resolve())

    def refuse_unreadable(error: OSError) -> None:
        corpus.refuse(os.fsencode(error.filename), f"a folder that cannot be read ({error.strerror})")

    for folder, subfolders, files in os.walk(root, onerror=refuse_unreadable):
        paths = {name: Path(folder) / name for name in subfolders}
        subfolders[:] = [name for name, path in paths.items() if path.resolve() not in ours]
        for path in (paths[name] for name in subfolders):
            if path.is_symlink():
                target = names.printable(os.fsencode(path.resolve()))
                reason = f"a link to the folder {target}; to use its files, set fetch.path to that folder"
                corpus.refuse(os.fsencode(path.relative_to(root)), reason)
        yield from (Path(folder) / name for name in files)


def _file_refusal(path: Path, root: Path) -> str | None:
    """Why a file in a folder must not be used; None: it may."""
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        return "a link that leads out of the folder"
    if not path.is_file():
        return "not a regular file"
    if not os.access(path, os.R_OK):
        return "not readable"
    return None


# --- archives, from here or from the web ------------------------------------------------------------------------------
def _archive(params: Params, data: Path, corpus: Collected) -> None:
    """Reads the MIDI files of an archive."""
    path = Path(str(params.fetch.path))
    corpus.source, corpus.licence = names.printable(os.fsencode(path.name)), params.fetch.licence
    _read(path, params, corpus)


def _url(params: Params, data: Path, corpus: Collected) -> None:
    """Reads the MIDI files of an archive from the web, or one MIDI file."""
    fetched = download.fetch(str(params.fetch.url), params.fetch.download, expected=params.fetch.sha256)
    corpus.source, corpus.licence, corpus.sha256 = fetched.path.name, params.fetch.licence, fetched.sha256
    _read(fetched.path, params, corpus)


def _named(params: Params, data: Path, corpus: Collected) -> None:
    """Reads the MIDI files of a corpus of the registry, from the web or from an archive that is already here."""
    entry = corpora.find(params.fetch.source)
    log.info("%s: licence: %s. %s", params.fetch.source, entry.licence, entry.licence.sentence)
    log.info("%s: please cite: %s", params.fetch.source, entry.citation)
    corpus.source, corpus.licence, corpus.include = params.fetch.source, str(entry.licence), entry.include
    corpus.own = OwnSplit(entry.split) if entry.split is not None else None
    if params.fetch.path is None:
        fetched = download.fetch(entry.url, params.fetch.download, expected=entry.hash, size=entry.bytes)
        path, corpus.sha256 = fetched.path, fetched.sha256
    else:
        path = Path(params.fetch.path)
        download.check(path, entry.hash)
    _read(path, params, corpus)
    _compare(params.fetch.source, entry, corpus)


def _require_licence(params: Params) -> None:
    """Raises if the licence of a corpus must be accepted, and is not."""
    name = params.fetch.source
    entry = corpora.find(name)
    if entry.restricted and params.fetch.accept_licence != name:
        raise ParamsError(
            f"{name}: its licence must be accepted: {entry.licence}. {entry.licence.sentence} If you accept it, "
            f"run `midivae fetch --source {name} --accept-licence`, or set fetch.accept_licence to {name}"
        )


def _compare(name: str, entry: corpora.Corpus, corpus: Collected) -> None:
    """Logs where a corpus differs from its entry."""
    if entry.files is not None and len(corpus.rows) != entry.files:
        log.warning("%s: %d MIDI files, where %d were expected", name, len(corpus.rows), entry.files)
    without = sum(corpus.split(row.origin) is None for row in corpus.rows) if corpus.own else 0
    if without:
        log.warning("%s: its own split does not mention %d files", name, without)


def _read(path: Path, params: Params, corpus: Collected) -> None:
    """Reads the MIDI files of an archive, the table of its split, and its licence."""
    members = _members(path, corpus, params)
    for member in tqdm(members, unit="file", desc="fetch", disable=None, file=sys.stderr):
        if member.refused is not None:
            corpus.refuse(member.name, member.refused)
        elif names.is_midi(member.name):
            if _included(member.name, corpus.include):
                corpus.add(member.name, member.data or b"")
            else:
                corpus.counts["left_out"] += 1
        else:
            corpus.counts["other"] += 1
            if member.data is None:
                continue
            if corpus.own is not None and corpus.own.is_table(member.name):
                corpus.own.read(member.name, member.data)
            else:
                corpus.note_licence(member.name, member.data)


def _members(path: Path, corpus: Collected, params: Params) -> Iterator[archive.Member]:
    """The members of an archive, with the contents that we need; a MIDI file counts as an archive of one member."""

    def wanted(name: bytes) -> bool:
        if names.is_midi(name):
            return _included(name, corpus.include)
        return names.is_licence(name) or (corpus.own is not None and corpus.own.is_table(name))

    name, limits = os.fsencode(path.name), params.fetch.limits
    if not path.is_file() or not (names.is_midi(name) or _starts_like_midi(path)):
        yield from archive.members(path, wanted, limits)
    elif path.stat().st_size > limits.max_member_bytes:
        raise InputError(f"{path}: larger than fetch.limits.max_member_bytes, {limits.max_member_bytes}")
    else:
        yield archive.Member(name if names.is_midi(name) else name + b".mid", path.read_bytes())


def _starts_like_midi(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(12)
    return start.startswith(b"MThd") or (start.startswith(b"RIFF") and start.endswith(b"RMID"))


def _included(name: bytes, patterns: tuple[str, ...]) -> bool:
    """Whether a path matches one of the patterns, component by component; without patterns every path does."""
    parts = name.decode("utf-8", "surrogateescape").split("/")
    return not patterns or any(
        len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
        for wanted in (pattern.split("/") for pattern in patterns)
    )


# --- Bach chorales ----------------------------------------------------------------------------------------------------
def _chorales(params: Params, data: Path, corpus: Collected) -> None:
    """Converts the chorales in music21's wheel."""
    corpus.source = f"bach-chorales (music21 {version('music21')}, {musicxml.READER_VERSION})"
    corpus.licence = chorales.LICENCE
    for name, result in chorales.convert_all(params):
        if isinstance(result, bytes):
            corpus.add(os.fsencode(Path(name).with_suffix(".mid")), result, f"music21/corpus/bach/{name}")
        else:
            corpus.fail(name, result)
