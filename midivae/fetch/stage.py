"""Stage `fetch`: a corpus of MIDI files on disk, and a table that says where each came from.

Sources, by `fetch.source`:
    bach-chorales  the 408 scores of Bach in music21's wheel, converted by verovio in child processes that may crash
    a name         a corpus of the registry, corpora.yaml: downloaded, compared with its hash, read as an archive
    url            an archive or a MIDI file from the web
    folder         every *.mid and *.midi below a folder, in any case; links that lead out of it are not followed
    archive        the same of a zip or tar, read member by member; or a single MIDI file

What is written: `midi/` with the files, `corpus.parquet` with a row for each, sorted by path. The same source gives
the same bytes, whatever the number of workers.

Names of files found may hold any bytes. In `origin` and in the paths we write, bytes that are not UTF-8, and
characters that do not print (or are a backslash, or a percent sign before two hex digits), stand as %XX; two names
never become one: a clash, also one in upper and lower case only, gets ~2, ~3, ... A component that is too long is
cut and ends in a hash of the whole; a folder named like a MIDI file gets an underscore.

Offers: `run`, `SUFFIXES`.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import logging
import os
import re
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from midivae.config.params import Params
from midivae.errors import InputError, ParamsError
from midivae.fetch import archive, corpora, download, musicxml
from midivae.music import midi
from midivae.storage import folders, tables
from midivae.storage.files import copy_file, file_sha256
from midivae.storage.paths import CORPUS_FILES, CORPUS_TABLE
from midivae.storage.schema import CORPUS
from midivae.storage.workdir import work_dir
from midivae.workers import parallel

SUFFIXES = (b".mid", b".midi")
LICENCE_NAMES = (b"license", b"licence", b"copying")
CHORALE_LICENCE = (
    "no rights stated in the score; composer in the public domain; distributed with music21 by permission of the "
    "encoders (music21/corpus/license.txt)"
)
# what corpora call the parts of their split -> what we do
SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}
SCORES_PER_SPEC = 16
SCORE_MEMORY_BYTES = 2 << 30  # for the conversion of one score
_MAX_NAME = 200  # bytes of a component; file systems take 255
_MAX_PATH = 1000  # bytes of a path below midi/
_MAX_LICENCE = 200  # characters

log = logging.getLogger(__name__)


def run(params: Params, data: Path) -> dict[str, object]:
    """Fills `data/corpus/` from the source that `params.fetch` names; a relative `path` starts at this folder.

    Raises:
        ParamsError: there is no corpus of that name, or its licence asks for a yes that is not given.
        InputError: the source is missing or unfit, or holds no MIDI file.
        CorruptError: an archive is damaged, or not the one that was meant.
    """
    begun = time.monotonic()
    built_in = {"bach-chorales": _chorales, "folder": _folder, "archive": _archive, "url": _url}
    fill = built_in.get(params.fetch.source, _named)
    if fill is _named:
        _require_yes(params)
    with folders.publishing(data / "corpus") as staging:
        corpus = _Corpus(staging / CORPUS_FILES)
        fill(params, data, corpus)
        if not corpus.rows:
            raise InputError(f"{corpus.source}: no MIDI file (*.mid, *.midi) in it; {corpus.counts_in_words()}")
        if fill is not _named:  # which says more
            log.info("%s: licence: %s", corpus.source, corpus.licence or "none found; note it in fetch.licence")
        tables.write(staging / CORPUS_TABLE, corpus.table(), CORPUS)
    return {**corpus.summary(), "seconds": round(time.monotonic() - begun, 2)}


# --- the corpus in the making -----------------------------------------------------------------------------------------
class _Row(NamedTuple):
    """What corpus.parquet says of one file, and not of all."""

    path: str
    sha256: str
    bytes: int
    origin: str


@dataclass
class _Corpus:
    """The files written so far, and what became of the rest."""

    folder: Path
    source: str = ""
    licence: str | None = None
    rows: list[_Row] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)  # see `_unique`
    include: tuple[str, ...] = ()  # see `corpora.Corpus`
    own: _OwnSplit | None = None  # the split that the corpus brings
    sha256: str | None = None  # of the archive that was downloaded

    def add(self, name: bytes, data: bytes | Path, origin: str | None = None) -> None:
        """Writes one MIDI file, from its bytes or a copy of a file, under a safe form of its name."""
        path = _unique(_safe_path(name), self.taken)
        target = self.folder / path
        if isinstance(data, Path):
            copy_file(data, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        self.rows.append(_Row(path, file_sha256(target), target.stat().st_size, origin or _printable(name)))

    def refuse(self, name: bytes, reason: str) -> None:
        """Notes a file that must not be used."""
        self.counts["refused"] += 1
        log.warning("%s: %s: not used: %s", self.source, _printable(name), reason)

    def fail(self, name: str, reason: str) -> None:
        """Notes a file that could not be converted."""
        self.failed.append(name)
        log.warning("%s: %s: not converted: %s", self.source, name, reason)

    def note_licence(self, name: bytes, text: bytes) -> None:
        """Keeps the file name and first line of a licence, unless there is one already."""
        if self.licence is None:
            lines = text.decode("utf-8", "replace").split("\n")
            first = next((line.strip() for line in lines if line.strip(" \t\r#*=-")), "")
            words = "".join(c for c in f"{_printable(name)}: {first}" if c.isprintable())
            self.licence = words[:_MAX_LICENCE]

    def table(self) -> pa.Table:
        """The rows, sorted by path."""
        columns: dict[str, Any] = dict(zip(_Row._fields, zip(*sorted(self.rows), strict=True), strict=True))
        columns["source"] = [self.source] * len(self.rows)
        columns["licence"] = [self.licence] * len(self.rows)
        columns["split"] = [self.split(origin) for origin in columns["origin"]]
        return pa.table({name: columns[name] for name in CORPUS.schema.names}, CORPUS.schema)

    def split(self, origin: str) -> str | None:
        """What the corpus itself says of the split of a file; None: nothing."""
        return None if self.own is None else self.own.of(origin)

    def summary(self) -> dict[str, object]:
        """What the stage reports."""
        splits = Counter(self.split(row.origin) or "none" for row in self.rows) if self.own else Counter[str]()
        return {
            "stage": "fetch",
            "source": self.source,
            "files": len(self.rows),
            "bytes": sum(row.bytes for row in self.rows),
            "failed": sorted(self.failed),
            "refused": self.counts["refused"],
            "left_out": self.counts["left_out"],
            "other": self.counts["other"],
            **({"splits": dict(sorted(splits.items()))} if splits else {}),
            **({"sha256": self.sha256} if self.sha256 else {}),
        }

    def counts_in_words(self) -> str:
        """What was there instead of MIDI files."""
        others = ", ".join(f"{self.counts[kind]} {kind.replace('_', ' ')}" for kind in ("refused", "left_out"))
        return f"{self.counts['other']} other files, {others}, {len(self.failed)} failed"


# --- names ------------------------------------------------------------------------------------------------------------
def _is_midi(name: bytes) -> bool:
    return name.lower().endswith(SUFFIXES)


def _is_licence(name: bytes) -> bool:
    return name.rpartition(b"/")[2].lower().startswith(LICENCE_NAMES)


def _printable(name: bytes) -> str:
    """The name as text that prints; no two names give the same."""
    text = re.sub("%(?=[0-9A-Fa-f]{2})", "%25", name.decode("utf-8", "surrogateescape"))
    return "".join(c if c.isprintable() and c != "\\" else _percent(c) for c in text)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def _safe_path(name: bytes) -> str:
    """A relative path for a name that `archive.refusal` lets pass."""
    *folders, file = (part for part in name.split(b"/") if part not in (b"", b"."))
    safe = [_fit(part) + ("_" if _is_midi(part) else "") for part in folders]
    path = "/".join([*safe, _fit(file)])
    return path if len(path.encode()) <= _MAX_PATH else f"{hashlib.sha256(name).hexdigest()}/{_fit(file)}"


def _fit(part: bytes) -> str:
    """One component in its printable form, cut where it is too long."""
    text = _printable(part)
    if len(text.encode()) <= _MAX_NAME:
        return text
    suffix = next((s.decode() for s in SUFFIXES if part.lower().endswith(s)), "")
    head = text.encode()[: _MAX_NAME // 2].decode("utf-8", "ignore")
    return f"{head}~{hashlib.sha256(part).hexdigest()[:16]}{suffix}"


def _unique(path: str, taken: dict[str, int]) -> str:
    """The path, numbered where it is taken; `taken` has the highest number of each so far.

    Names that differ in upper and lower case or in the composition of accents only are one, as on some file systems.
    """
    stem, dot, suffix = path.rpartition(".")
    candidate, key = path, _key(path)
    while (own := _key(candidate)) in taken:
        taken[key] += 1
        candidate = f"{stem}~{taken[key]}{dot}{suffix}"
    taken[own] = 1
    return candidate


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())


# --- folder -----------------------------------------------------------------------------------------------------------
def _folder(params: Params, data: Path, corpus: _Corpus) -> None:
    """Copies the MIDI files below a folder."""
    root = Path(str(params.fetch.path))
    if not root.is_dir():
        what = "is a file; set fetch.source to `archive`" if root.exists() else "no such folder"
        raise InputError(f"{root}: {what}; fetch.path must name a folder (relative to this folder)")
    corpus.source, corpus.licence = _printable(os.fsencode(root.resolve().name)), params.fetch.licence
    found = sorted(_files(root, data, corpus), key=os.fsencode)
    for path in tqdm(found, unit="file", desc="fetch", disable=None, file=sys.stderr):
        name = os.fsencode(path.relative_to(root))
        if _is_midi(name):
            reason = _file_refusal(path, root)
            if reason is None:
                corpus.add(name, path)
            else:
                corpus.refuse(name, reason)
            continue
        corpus.counts["other"] += 1
        if _is_licence(name) and _file_refusal(path, root) is None:
            with path.open("rb") as file:
                corpus.note_licence(name, file.read(1 << 16))


def _files(root: Path, data: Path, corpus: _Corpus) -> Iterator[Path]:
    """All files below a folder, but for what we wrote ourselves; links to folders are not followed."""
    ours = (data.resolve(), work_dir().resolve())

    def locked(error: OSError) -> None:
        corpus.refuse(os.fsencode(error.filename), f"a folder that cannot be read ({error.strerror})")

    for folder, subfolders, names in os.walk(root, onerror=locked):
        subfolders[:] = [name for name in subfolders if (Path(folder) / name).resolve() not in ours]
        yield from (Path(folder) / name for name in names)


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
def _archive(params: Params, data: Path, corpus: _Corpus) -> None:
    """Takes the MIDI files out of an archive."""
    path = Path(str(params.fetch.path))
    corpus.source, corpus.licence = _printable(os.fsencode(path.name)), params.fetch.licence
    _take(path, params, corpus)


def _url(params: Params, data: Path, corpus: _Corpus) -> None:
    """The same of an archive or MIDI file from the web."""
    fetched = download.fetch(str(params.fetch.url), params.fetch.download, sha256=params.fetch.sha256)
    corpus.source, corpus.licence, corpus.sha256 = fetched.path.name, params.fetch.licence, fetched.sha256
    _take(fetched.path, params, corpus)


def _named(params: Params, data: Path, corpus: _Corpus) -> None:
    """The same of a corpus of the registry, from the web or from an archive that is already here."""
    entry = corpora.find(params.fetch.source)
    log.info("%s: licence: %s. %s", params.fetch.source, entry.licence, entry.licence.sentence)
    log.info("%s: please cite: %s", params.fetch.source, entry.citation)
    corpus.source, corpus.licence, corpus.include = params.fetch.source, str(entry.licence), entry.include
    corpus.own = _OwnSplit(entry.split) if entry.split is not None else None
    if params.fetch.path is None:
        hashes = {"sha256": entry.sha256, "md5": entry.md5}
        fetched = download.fetch(entry.url, params.fetch.download, size=entry.bytes, **hashes)
        path, corpus.sha256 = fetched.path, fetched.sha256
    else:
        path = Path(params.fetch.path)
        download.check(path, sha256=entry.sha256, md5=entry.md5)
    _take(path, params, corpus)
    _compare(params.fetch.source, entry, corpus)


def _require_yes(params: Params) -> None:
    """Makes sure that the licence of a corpus needs no explicit yes, or has it."""
    name = params.fetch.source
    entry = corpora.find(name)
    if entry.restricted and params.fetch.accept_licence != name:
        raise ParamsError(
            f"{name}: its licence needs an explicit yes: {entry.licence}. {entry.licence.sentence} If you accept that, "
            f"say `midivae fetch --source {name} --accept-licence`, or set fetch.accept_licence to {name}"
        )


def _compare(name: str, entry: corpora.Corpus, corpus: _Corpus) -> None:
    """Says where a corpus is not what its entry promises."""
    if entry.files is not None and len(corpus.rows) != entry.files:
        log.warning("%s: %d MIDI files, where %d are known to be in it", name, len(corpus.rows), entry.files)
    without = sum(corpus.split(row.origin) is None for row in corpus.rows) if corpus.own else 0
    if without:
        log.warning("%s: its own split says nothing of %d files", name, without)


def _take(path: Path, params: Params, corpus: _Corpus) -> None:
    """Takes the MIDI files out of an archive, and the table of its split."""
    members = _members(path, corpus, params)
    for member in tqdm(members, unit="file", desc="fetch", disable=None, file=sys.stderr):
        if member.refused is not None:
            corpus.refuse(member.name, member.refused)
        elif _is_midi(member.name):
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


def _members(path: Path, corpus: _Corpus, params: Params) -> Iterator[archive.Member]:
    """The members of an archive whose contents we want, among all; a MIDI file is an archive of one."""

    def wanted(name: bytes) -> bool:
        if _is_midi(name):
            return _included(name, corpus.include)
        return _is_licence(name) or (corpus.own is not None and corpus.own.is_table(name))

    name, limits = os.fsencode(path.name), params.fetch.limits
    if not path.is_file() or not (_is_midi(name) or _starts_like_midi(path)):
        yield from archive.members(path, wanted, limits)
    elif path.stat().st_size > limits.max_member_bytes:
        raise InputError(f"{path}: larger than fetch.limits.max_member_bytes, {limits.max_member_bytes}")
    else:
        yield archive.Member(name if _is_midi(name) else name + SUFFIXES[0], path.read_bytes())


def _starts_like_midi(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(12)
    return start.startswith(b"MThd") or (start.startswith(b"RIFF") and start.endswith(b"RMID"))


def _included(name: bytes, patterns: tuple[str, ...]) -> bool:
    """Whether a path fits one of the patterns, part by part; without patterns every one does."""
    parts = name.decode("utf-8", "surrogateescape").split("/")
    return not patterns or any(
        len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
        for wanted in (pattern.split("/") for pattern in patterns)
    )


# --- the split that a corpus brings -----------------------------------------------------------------------------------
@dataclass
class _OwnSplit:
    """What a corpus says of its own split.

    Attributes:
        rule: where it says it.
        said: origin of a file -> what the table says, once it was read.
    """

    rule: corpora.OwnSplit
    said: dict[str, str] = field(default_factory=dict)

    def is_table(self, name: bytes) -> bool:
        """Whether a member of an archive is the table."""
        return self.rule.table is not None and name == self.rule.table.encode()

    def read(self, name: bytes, data: bytes) -> None:
        """Reads the table; its paths start at the folder that it is in."""
        folder, slash, _ = name.rpartition(b"/")
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig", "surrogateescape"), newline=""))
        if missing := {self.rule.file, self.rule.column} - set(rows.fieldnames or ()):
            raise InputError(f"{_printable(name)}: no column {' or '.join(sorted(map(str, missing)))} in it")
        for row in rows:
            file, split = row[str(self.rule.file)] or "", row[str(self.rule.column)] or ""
            self.said[_printable(folder + slash + file.encode("utf-8", "surrogateescape"))] = split

    def of(self, origin: str) -> str | None:
        """The split of a file: train, valid or test; None: nothing is said of it."""
        if self.rule.table is not None:
            return SPLITS.get(self.said.get(origin, ""))
        folder = origin.rpartition("/")[0].rpartition("/")[2]
        return SPLITS.get(folder) if folder in self.rule.folders else None


# --- Bach chorales ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scores:
    """A batch of scores to convert.

    Attributes:
        paths: the files.
        condemned: index of a file that brought a child down -> what happened; it is not tried again.
    """

    paths: tuple[str, ...]
    condemned: tuple[tuple[int, str], ...] = ()


def _chorales(params: Params, data: Path, corpus: _Corpus) -> None:
    """Converts the chorales in music21's wheel."""
    corpus.source = f"bach-chorales (music21 {version('music21')}, {musicxml.READER_VERSION})"
    corpus.licence = CHORALE_LICENCE
    paths = [str(path) for path in sorted(_chorale_folder().glob("*.mxl"))]
    specs = [Scores(tuple(paths[i : i + SCORES_PER_SPEC])) for i in range(0, len(paths), SCORES_PER_SPEC)]
    limits: dict[str, Any] = {"time_limit_s": params.fetch.time_limit_s, "memory_bytes": SCORE_MEMORY_BYTES}
    with tqdm(total=len(paths), unit="score", desc="fetch", disable=None, file=sys.stderr) as bar:
        for index, outcome in parallel.fan_out(convert, specs, params.compute, retry=_condemn, label="fetch", **limits):
            for path, result in zip(specs[index].paths, outcome.get(), strict=True):
                name = Path(path).name
                if isinstance(result, bytes):
                    corpus.add(os.fsencode(Path(name).with_suffix(".mid")), result, f"music21/corpus/bach/{name}")
                else:
                    corpus.fail(name, result)
            bar.update(len(specs[index].paths))


def _chorale_folder() -> Path:
    """Where music21's wheel keeps its Bach; music21 itself, which is slow to import, is not imported."""
    found = importlib.util.find_spec("music21")
    folder = Path(str(found.origin)).parent / "corpus" / "bach" if found is not None else Path("music21")
    if not any(folder.glob("*.mxl")):
        raise InputError(
            f"{folder}: no Bach chorales there; they come with the package music21 (pip install music21), whose wheel "
            "some systems ship without its corpus"
        )
    return folder


def convert(scores: Scores, beat: parallel.Beat) -> list[bytes | str]:
    """The MIDI bytes of each score, or why there are none; runs in a child."""
    condemned = dict(scores.condemned)
    results: list[bytes | str] = []
    for index, path in enumerate(scores.paths):
        beat(index)
        try:
            results.append(condemned.get(index) or midi.write(musicxml.read(Path(path).read_bytes())))
        except (InputError, OSError) as error:
            results.append(str(error))
    return results


def _condemn(scores: Scores, failure: parallel.Failure) -> Scores | None:
    """The batch to try again after a child died: without the score it was at."""
    if failure.item is None:
        return None
    return replace(scores, condemned=(*scores.condemned, (failure.item, f"{failure.kind}: {failure.detail}")))
