"""Stage `ingest`: from MIDI bytes to piano rolls.

    read     bytes -> what a reader makes of them (midi.py), file by file; all that follows, for many files at once
    place    notes -> parts and steps, every value checked before anything is built from it
    raster   -> packed rolls (music/roll.py)
    keep     -> a *piece of work*: rolls of accepted files, and facts, one row per distinct file
    gather   facts -> duplicates, splits, `pieces.parquet`; rolls -> shards

Work is done in crash-isolated child processes and kept in the work directory: a run does only the files that are
missing there. A roll then goes to the shard that its file's sha256 names, and rows are ordered by it, so that a shard's
bytes depend only on the files in it and on the params, never on order, workers or history.

Offers: `run` (the stage) and `explain` (one file, in words).
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int, Int64, UInt64
from tqdm import tqdm

from midivae.config.ingest import Ingest, Split
from midivae.config.params import Params
from midivae.errors import CorruptError, InputError, MidiError, SchemaError
from midivae.ingest import duplicates
from midivae.measures.keys import KEYS, best_scale
from midivae.music import grid, kernels, midi, native
from midivae.music.notes import Batch
from midivae.music.parts import parts_of_tracks
from midivae.music.roll import Layout
from midivae.storage import folders, tables
from midivae.storage.code import code_version
from midivae.storage.files import copy_file
from midivae.storage.paths import CORPUS_FILES, CORPUS_TABLE, PIECES_TABLE, roll_shard
from midivae.storage.schema import CORPUS, FACTS, PIECES, SHARD, Table
from midivae.storage.workdir import work_dir
from midivae.workers import parallel

log = logging.getLogger(__name__)

NOTES_AT_ONCE = 800_000  # notes that go through the vectorised steps together: many to a call of numpy, little memory
NOTES_PER_FILE = 500  # what a file counts for beside its notes, so that many small ones do not go together
READ_AT_ONCE = 1 << 16  # bytes: most MIDI files whole
LEAST_CHUNK = 2048  # files that are worth the start of another worker process
CHUNKS_PER_WORKER = 4  # tasks of a worker: so many that workers end together, and a killed run has lost little
LEAST_TIDY = 16  # tables in the work directory that are no burden
ROLLS_AT_ONCE = 3 << 19  # bytes of rolls that are made together: what a core's cache holds
WRITERS = 2  # threads that write shards: one computes while the disk keeps the other
SPLITS = ("train", "valid", "test")
ROWS_PER_GROUP = 1024  # Parquet row group of a shard: what a reader must take at least


# --- the stage --------------------------------------------------------------------------------------------------------
def run(params: Params, data: Path) -> dict[str, object]:
    """Ingests `data/corpus` into `data/rolls`.

    Returns:
        Counts: files found, accepted, rejected (by reason), distinct pieces, shards, files parsed in this run; seconds.

    Raises:
        InputError: there is no corpus, or no file of it is accepted.
        CorruptError: a file is not the one that `fetch` listed.
    """
    begun = time.monotonic()
    parallel.keep_memory()
    ingest = params.ingest
    corpus = Corpus.read(data / "corpus")
    parsed = 0
    with folders.publishing(data / "rolls") as staging, ThreadPoolExecutor(1) as aside:
        while True:
            try:
                missing = plan(corpus, params, ids_made(ingest))
                before = aside.submit(what_is_made, corpus, ingest, {})  # while workers start
                parsed += _make(missing, params)
                work = Work.of(what_is_made(corpus, ingest, before.result()))
                if not _contains(work.ids, corpus.ids).all():
                    continue  # something was damaged
                n_shards = shards_for(work.facts.num_rows, ingest)
                shards = aside.submit(_write_shards, work, staging, ingest, n_shards)
                pieces = _pieces(corpus, work, ingest, n_shards)
                shards.result()
            except _DamagedError as damaged:
                log.warning("%s: made again", damaged)
                damaged.facts.unlink(missing_ok=True)
                continue  # with what is there now
            break
        _require_some(pieces)
        tables.write(staging / PIECES_TABLE, pieces, PIECES)
    _tidy(work, data / "rolls", ingest, n_shards)
    return {**_summary(pieces, n_shards), "parsed": parsed, "seconds": round(time.monotonic() - begun, 2)}


def _make(missing: list[Chunk], params: Params) -> int:
    """Makes what is missing in the work directory; the number of files that were parsed for it."""
    limits = params.ingest.limits
    native.prepare(kernels.__name__)  # here, so that no worker has to
    parsed = 0
    with tqdm(
        total=sum(len(chunk.files) for chunk in missing), unit="file", desc="ingest", disable=None, file=sys.stderr
    ) as bar:
        for index, outcome in parallel.fan_out(
            make_chunk,
            missing,
            params.compute,
            time_limit_s=limits.time_s,
            memory_bytes=limits.memory_bytes,
            retry=_blame,
            label="ingest",
        ):
            if outcome.failure is not None:
                raise InputError(f"chunk {index}: {outcome.failure.detail}; no single file could be blamed")
            parsed += int(outcome.value or 0)
            bar.update(len(missing[index].files))
    return parsed


def _blame(chunk: Chunk, failure: parallel.Failure) -> Chunk | None:
    """The chunk to try again after a worker died: without the file it was at, or file by file to find it.

    A file is condemned when workers died at it twice, for the first may have been killed by somebody else; one at which
    a worker hung, at once.
    """
    if failure.item is None or failure.item >= len(chunk.files):
        return None if chunk.one_by_one else replace(chunk, one_by_one=True)
    culprit = chunk.files[failure.item]
    if failure.kind != "timeout" and culprit.sha256 not in chunk.suspects:
        return replace(chunk, suspects=chunk.suspects | {culprit.sha256})
    log.warning("%s: %s (%s)", culprit.path, midi.REASONS[failure.kind], failure.detail)
    return replace(chunk, condemned={**chunk.condemned, culprit.sha256: failure.kind})


def _require_some(pieces: pa.Table) -> None:
    import pyarrow.compute as pc  # here and below, as it takes a tenth of a second and no worker needs it

    if not pc.any(pieces["accepted"]).as_py():
        reasons = pc.value_counts(pieces["reason"]).to_pylist()
        listed = ", ".join(f"{r['values']}: {r['counts']}" for r in sorted(reasons, key=lambda r: -r["counts"]))
        raise InputError(
            f"none of {pieces.num_rows} files was accepted ({listed}); see docs/ingest.md for the reasons, or ask "
            "`midivae ingest --explain FILE` about one of them"
        )


def _summary(pieces: pa.Table, n_shards: int) -> dict[str, object]:
    import pyarrow.compute as pc

    rejected = pieces.filter(pc.invert(pieces["accepted"]))
    reasons = {r["values"]: r["counts"] for r in pc.value_counts(rejected["reason"]).to_pylist()}
    splits = pieces.filter(pc.is_null(pieces["copy_of"]))["split"].drop_null()
    return {
        "stage": "ingest",
        "found": pieces.num_rows,
        "accepted": pieces.num_rows - rejected.num_rows,
        "rejected": dict(sorted(reasons.items())),
        "pieces": len(splits),
        "splits": {r["values"]: r["counts"] for r in sorted(pc.value_counts(splits).to_pylist(), key=str)},
        "clusters": pc.count_distinct(pieces["cluster"].drop_null()).as_py(),
        "notes": pc.sum(pieces["notes_kept"]).as_py() or 0,
        "shards": n_shards,
    }


def explain(path: Path, ingest: Ingest) -> str:
    """What ingest makes of one MIDI file, in words: how it is read, what becomes of its notes, or why it is rejected.

    Raises:
        InputError: no such file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error})") from error
    file = File(path.name, hashlib.sha256(data).hexdigest())
    chunk = Chunk((file,), path.parent, work_dir(), ingest)
    reads, rejected, _ = _read_some(0, chunk, lambda _: None)
    placed, unfit = _place(reads, ingest)
    facts, _ = _rasterise(placed, ingest)
    rows: list[Row] = [*rejected, *unfit, *facts.to_pylist()]
    row = dict.fromkeys(FACTS.columns.names) | rows[0]
    lines = [f"{path.name}: {row['piece_id']}, {len(data)} bytes"]
    if row["reader"] is not None:
        lines.append(f"read by {row['reader']}: {row['notes_found']} notes in {row['tracks']} tracks")
        lines += _tracks_in_words(reads[0].parsed, ingest)
    if row["notes_kept"] is not None:
        lines.append(
            f"of its notes {row['notes_kept']} are in the roll, {row['notes_unassigned']} belong to no part, "
            f"{row['notes_out_of_range']} lie outside its pitches, {row['notes_merged']} start where another does"
        )
        lines.append(
            f"{row['steps']} steps, {row['bars']} bars, {row['duration_s']:.1f} s, {row['tempo_qpm']:.1f} BPM, "
            f"{row['time_signature']}, {row['key'] or 'no key'}"
        )
    verdict = "accepted" if row["accepted"] else f"rejected as {row['reason']}: {row['detail']}"
    return "\n".join([*lines, verdict])


def _tracks_in_words(parsed: midi.Parsed, ingest: Ingest) -> list[str]:
    """A line per track: its notes, and the part they go to."""
    batch, _ = midi.join([parsed])
    parts = parts_of_tracks(batch.program, batch.is_drum, batch.track_names, ingest.parts)
    lines = []
    for name, notes, program, is_drum, part in zip(
        batch.track_names, batch.track_notes, batch.program, batch.is_drum, parts, strict=True
    ):
        goes_to = ingest.parts.names[part] if part >= 0 else "no part"
        lines.append(
            f"  track {name[:60]!r}: {notes} notes, {'drums' if is_drum else f'program {program}'}, to {goes_to}"
        )
    return lines


# --- the work directory -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class File:
    """One distinct content of the corpus, and where to read it."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Chunk:
    """Files to be read by one worker, and where its two tables go in the work directory."""

    files: tuple[File, ...]  # by sha256
    folder: Path  # that the paths start from
    work: Path
    ingest: Ingest
    condemned: dict[str, str] = field(default_factory=dict)  # sha256 -> reason code, of files that broke a worker
    suspects: frozenset[str] = frozenset()  # sha256 of files at which a worker died once
    one_by_one: bool = False

    @property
    def facts(self) -> Path:
        """The table of all its files (schema.FACTS)."""
        return self.work / f"facts-{_name_of(file.sha256 for file in self.files)}.parquet"


def _name_of(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def rolls_beside(facts: Path) -> Path:
    """The table of the accepted files (schema.SHARD) that goes with a table of facts."""
    return facts.with_name(facts.name.replace("facts-", "rolls-"))


def folder_of(ingest: Ingest) -> Path:
    """The folder of the work directory that holds what was made with these params, formats and code."""
    code = code_version(__name__)
    made_of = f"{ingest.digest(exclude={'split', 'duplicates', 'pieces_per_shard'})} {code} {midi.READER_VERSION}"
    return work_dir().absolute() / "ingest" / hashlib.sha256(made_of.encode()).hexdigest()[:16]


Ids = UInt64[np.ndarray, " _"]  # of pieces: the number that a piece_id writes in hex


def ids_of(column: pa.ChunkedArray) -> Ids:
    """The ids of pieces, from their `piece_id` or `sha256`."""
    parts = [np.zeros(0, np.uint64)]
    for chunk in column.chunks:  # strings of one length, without nulls
        size = len(chunk[0].as_py()) if len(chunk) else 0
        text = np.frombuffer(chunk.buffers()[2] or b"", np.uint8)[chunk.offset * size :]
        parts.append(np.empty(len(chunk), np.uint64))
        kernels.hex_numbers(len(chunk), size, text, parts[-1])
    return np.concatenate(parts)


@dataclass(frozen=True)
class Corpus:
    """The files to ingest.

    Attributes:
        table: one row per file: the columns of schema.CORPUS that count here.
        ids: of each row.
        folder: that the paths start from.
    """

    table: pa.Table
    ids: Ids
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Corpus:
        """The corpus in a folder that `fetch` wrote.

        Raises:
            InputError: there is none, or it has no files.
        """
        table = tables.read(folder / CORPUS_TABLE, CORPUS, ["path", "sha256", "bytes", "split"])
        if table.num_rows == 0:
            raise InputError(f"{folder}: no MIDI file in the corpus; see `fetch` in the params")
        return cls(table, ids_of(table["sha256"]), folder / CORPUS_FILES)


class Made(NamedTuple):
    """What a table of facts in the work directory says of a corpus."""

    facts: pa.Table  # of pieces of the corpus
    ids: Ids  # of these
    accepted: Ids  # of all its accepted pieces, which are those of the table of rolls beside it
    rows: int  # in the table


@dataclass(frozen=True)
class Work:
    """What the work directory holds of a corpus.

    Attributes:
        facts: one row per distinct content of the corpus that is done, in the order of their ids.
        ids: of each row of facts.
        rolls: for each table of facts the ids of its accepted pieces, in order; some may have left the corpus.
        rows: rows in all tables of facts.
    """

    facts: pa.Table
    ids: Ids
    rolls: dict[Path, Ids]
    rows: int

    @classmethod
    def of(cls, made: dict[Path, Made]) -> Work:
        """All tables as one; a run that was killed while it tidied left some rows twice."""
        facts, ids = _in_order(
            [FACTS.columns.empty_table(), *(one.facts for one in made.values())],
            [np.zeros(0, np.uint64), *(one.ids for one in made.values())],
        )
        rolls = {path: one.accepted for path, one in made.items()}
        return cls(facts, ids, rolls, sum(one.rows for one in made.values()))


def ids_made(ingest: Ingest) -> Ids:
    """The pieces in the work directory, sorted; a table that cannot be read counts as absent, and is deleted."""
    made = [np.zeros(0, np.uint64)]
    for path in folder_of(ingest).glob("facts-*.parquet"):
        with _deleted_if_damaged(path):
            made.append(ids_of(tables.read(path, FACTS, ["piece_id"], mapped=True)["piece_id"]))
    return np.sort(np.concatenate(made))


@contextmanager
def _deleted_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (CorruptError, SchemaError) as error:
        log.warning("%s: made again (%s)", path.name, error)
        path.unlink(missing_ok=True)


def what_is_made(corpus: Corpus, ingest: Ingest, known: dict[Path, Made]) -> dict[Path, Made]:
    """What the tables of facts in the work directory say of a corpus; only those that are not known are read."""
    made, wanted = dict(known), np.sort(corpus.ids)
    for path in sorted(set(folder_of(ingest).glob("facts-*.parquet")) - set(known)):
        with _deleted_if_damaged(path):
            table = tables.read(path, FACTS, mapped=True).replace_schema_metadata(None)
            ids = ids_of(table["piece_id"])
            accepted, used = ids[_truths(table["accepted"])], _contains(wanted, ids)
            facts = table if used.all() else table.filter(pa.array(used, pa.bool_()))
            made[path] = Made(facts.combine_chunks(), ids[used], accepted, len(ids))
    return made


def _truths(column: pa.ChunkedArray) -> Bool[np.ndarray, " Q"]:
    return np.concatenate([np.zeros(0, bool), *(chunk.to_numpy(zero_copy_only=False) for chunk in column.chunks)])


def _contains(ascending: Ids, ids: Ids) -> Bool[np.ndarray, " Q"]:
    """Whether each id is among those of the first list."""
    at = np.searchsorted(ascending, ids)
    return np.append(ascending, 0)[at] == ids if len(ascending) else np.zeros(len(ids), bool)


def _in_order(tables: list[pa.Table], ids: list[Ids]) -> tuple[pa.Table, Ids]:
    """The rows of tables that are in the order of their ids, all in that order, each id once.

    Whole stretches of rows are copied: between two that are new lie many that are not.
    """
    found = np.concatenate(ids)
    order = np.argsort(found, kind="stable")
    order = order[np.append(True, np.diff(found[order]) > 0)[: len(order)]]
    first = np.cumsum([0, *map(len, ids)])  # row of all tables together at which each begins
    table = np.searchsorted(first, order, side="right") - 1
    opens = np.flatnonzero(np.append(True, (np.diff(order) != 1) | (np.diff(table) != 0))[: len(order)])
    stretches = zip(
        table[opens].tolist(),
        (order - first[table])[opens].tolist(),
        np.diff(opens, append=len(order)).tolist(),
        strict=True,
    )
    slices = [tables[index].slice(begin, length) for index, begin, length in stretches]
    return pa.concat_tables(slices or tables[:1]).combine_chunks(), found[order]


def plan(corpus: Corpus, params: Params, made: Ids) -> list[Chunk]:
    """The files of a corpus that are not among those made, divided among workers; each distinct content once."""
    ingest = params.ingest
    rows = np.flatnonzero(~_contains(made, corpus.ids))
    rows = rows[np.unique(corpus.ids[rows], return_index=True)[1]]  # in the order of their ids; the first of copies
    missing = corpus.table.select(["path", "sha256"]).take(pa.array(rows, pa.int64())) if len(rows) else None
    files = (
        [File(*pair) for pair in zip(*(missing[c].to_pylist() for c in ("path", "sha256")), strict=True)]
        if missing
        else []
    )
    share = -(-len(files) // (CHUNKS_PER_WORKER * parallel.local_workers(params.compute)))
    size = min(ingest.pieces_per_shard, max(LEAST_CHUNK, share))
    folder = folder_of(ingest)
    return [Chunk(tuple(files[i : i + size]), corpus.folder, folder, ingest) for i in range(0, len(files), size)]


def make_chunk(chunk: Chunk, beat: Callable[[int], None]) -> int:
    """Reads the files of a chunk and writes its two tables; returns how many files that were.

    The facts are written last: rolls without their facts do not count. Neither waits for the disk: what a crash of the
    machine damages is found by its checksums, and made again.
    """
    native.prepare(kernels.__name__, lambda: beat(parallel.NO_ITEM))
    made: list[tuple[pa.Table, pa.Table]] = []
    rejections: list[Row] = []
    start = 0
    while start < len(chunk.files):
        reads, rejected, start = _read_some(start, chunk, beat)
        beat(start - 1 if chunk.one_by_one else len(chunk.files))  # what follows is about no file in particular
        placed, unfit = _place(reads, chunk.ingest)
        made.append(_rasterise(placed, chunk.ingest))
        rejections.extend([*rejected, *unfit])
    facts = [facts for facts, _ in made]
    if rejections:
        by_id = sorted(rejections, key=lambda row: str(row["sha256"]))
        columns = [pa.array([row.get(f.name) for row in by_id], f.type) for f in FACTS.columns]
        facts.append(pa.Table.from_arrays(columns, schema=FACTS.columns))
    ordered, _ = _in_order(facts, [ids_of(table["piece_id"]) for table in facts])
    rolls = pa.concat_tables([rolls for _, rolls in made]).combine_chunks()
    layout = {"layout": layout_of(chunk.ingest).to_json()}
    tables.write(rolls_beside(chunk.facts), rolls, SHARD, layout, durable=False)
    tables.write(chunk.facts, ordered, FACTS, durable=False)
    return len(chunk.files)


def layout_of(ingest: Ingest) -> Layout:
    """How the rolls of these params are laid out."""
    return Layout(ingest.parts.names, ingest.pitch_low, ingest.pitches, ingest.steps_per_beat)


# --- files -> rows ----------------------------------------------------------------------------------------------------
class Read(NamedTuple):
    """A file that some reader could read."""

    sha256: str
    parsed: midi.Parsed


Row = dict[str, Any]  # of facts, about a file that is not used


def _read_some(start: int, chunk: Chunk, beat: Callable[[int], None]) -> tuple[list[Read], list[Row], int]:
    """Reads files from the `start`-th on, as many as go through the vectorised steps together.

    Returns:
        `(reads, rejected, stop)`: what could be read, rows about the others, and the first file left for later.
    """
    reads: list[Read] = []
    rejected: list[Row] = []
    notes, stop = 0, start
    while stop < len(chunk.files) and notes < NOTES_AT_ONCE and not (chunk.one_by_one and stop > start):
        beat(stop)
        file = chunk.files[stop]
        try:
            reads.append(Read(file.sha256, _parse(file, chunk)))
            notes += sum(reads[-1].parsed.counts)
        except MidiError as error:
            rejected.append(_rejection(file.sha256, error))
        notes += NOTES_PER_FILE
        stop += 1
    return reads, rejected, stop


def _parse(file: File, chunk: Chunk) -> midi.Parsed:
    if file.sha256 in chunk.condemned:
        code = chunk.condemned[file.sha256]
        raise MidiError(code, midi.REASONS[code])
    path = f"{chunk.folder}/{file.path}"
    try:
        data = _bytes_of(path)
    except OSError as error:
        raise InputError(f"{path}: listed in corpus.parquet but not readable ({error}); rerun stage `fetch`") from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise CorruptError(f"{path}: sha256 differs from corpus.parquet's: damaged or edited; rerun stage `fetch`")
    return midi.parse(data, chunk.ingest.limits)


def _bytes_of(path: str) -> bytes:
    """The bytes of a file, by system calls: a file object takes longer than the read."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(handle, READ_AT_ONCE)
        if len(data) < READ_AT_ONCE:
            return data
        with open(handle, "rb", closefd=False) as rest:
            return data + rest.read()
    finally:
        os.close(handle)


def _rejection(sha256: str, error: MidiError, parsed: midi.Parsed | None = None) -> Row:
    row = {"piece_id": sha256[:16], "sha256": sha256, "accepted": False, "reason": error.code, "detail": error.detail}
    if parsed is not None:
        row |= {"reader": parsed.reader, "tracks": len(parsed.counts), "notes_found": sum(parsed.counts)}
    return row


@dataclass(frozen=True)
class Placed:
    """Notes of many files end to end, on the grid; every file can become a roll.

    Attributes:
        reads: the files.
        batch: their notes as they were read.
        part: of each track; -1: none.
        track_at, note_at: first track of each file and first note of each track, and behind them how many there are.
        onset_step, offset_step: of each note.
        n_steps: length of each roll.
        end_tick: the last tick at which a note of each file ends.
        chroma: notes of each pitch class, of tracks that have a part and are no drums.
    """

    reads: list[Read]
    batch: Batch
    part: Int64[np.ndarray, " K"]
    track_at: Int64[np.ndarray, " Q1"]
    note_at: Int64[np.ndarray, " K1"]
    onset_step: Int64[np.ndarray, " M"]
    offset_step: Int64[np.ndarray, " M"]
    n_steps: Int64[np.ndarray, " Q"]
    end_tick: Int64[np.ndarray, " Q"]
    chroma: Int64[np.ndarray, "Q 12"]


def _place(reads: list[Read], ingest: Ingest) -> tuple[Placed, list[Row]]:
    """Parts and steps of all notes, and rows about files that cannot become a roll."""
    batch, refused = midi.join([read.parsed for read in reads])
    rows = [_rejection(reads[i].sha256, error) for i, error in refused.items()]
    if not refused:
        placed = _on_grid(reads, batch, ingest)
        refused = _unfit(placed.n_steps, ingest)
        if not refused:
            return placed, []
        rows = [_rejection(reads[i].sha256, error, reads[i].parsed) for i, error in refused.items()]
    placed, more = _place([read for i, read in enumerate(reads) if i not in refused], ingest)
    return placed, [*rows, *more]


def _on_grid(reads: list[Read], batch: Batch, ingest: Ingest) -> Placed:
    n_pieces = len(batch)
    onset_step, offset_step = np.empty((2, len(batch.pitch)), np.int64)
    n_steps, end_tick = np.empty((2, n_pieces), np.int64)
    placed = Placed(
        reads,
        batch,
        parts_of_tracks(batch.program, batch.is_drum, batch.track_names, ingest.parts),
        np.append(0, np.cumsum(batch.tracks)),
        np.append(0, np.cumsum(batch.track_notes)),
        onset_step,
        offset_step,
        n_steps,
        end_tick,
        np.zeros((n_pieces, 12), np.int64),
    )
    kernels.place(
        n_pieces,
        placed.track_at,
        placed.note_at,
        placed.part,
        batch.is_drum.view(np.uint8),
        batch.pitch,
        batch.onset_tick,
        batch.duration_tick,
        batch.ticks_per_quarter,
        ingest.steps_per_beat,
        onset_step,
        offset_step,
        n_steps,
        end_tick,
        placed.chroma,
    )
    return placed


def _unfit(n_steps: Int[np.ndarray, " Q"], ingest: Ingest) -> dict[int, MidiError]:
    """By index the files that are not used, from the lengths that their rolls would have."""
    limits = ingest.limits
    errors = {}
    for index in np.flatnonzero((n_steps < max(1, limits.min_steps)) | (n_steps > limits.max_steps)).tolist():
        steps = int(n_steps[index])
        if steps == 0:
            wanted = ", ".join(ingest.parts.names)
            error = MidiError("no_part", f"no note belongs to any of the parts {wanted} (rule `{ingest.parts.rule}`)")
        elif steps > limits.max_steps:
            error = MidiError("too_long", f"{steps} steps; ingest.limits.max_steps is {limits.max_steps}")
        else:
            error = MidiError("short", f"{steps} steps; ingest.limits.min_steps is {limits.min_steps}")
        errors[index] = error
    return errors


def _rasterise(placed: Placed, ingest: Ingest) -> tuple[pa.Table, pa.Table]:
    """Facts and rolls of files whose notes are on the grid."""
    layout, batch, n_pieces = layout_of(ingest), placed.batch, len(placed.reads)
    rolls = _rolls(placed, layout)
    accepted = rolls.kept >= ingest.limits.min_notes
    bars, n_bars = grid.batch_bar_starts(
        batch.time_signatures, batch.ticks_per_quarter, ingest.steps_per_beat, placed.n_steps
    )
    facts = _facts(placed, rolls, accepted, n_bars, ingest)
    n_parts = np.full(n_pieces, len(layout.parts))
    shard = {
        "piece_id": facts["piece_id"],
        "parts": _lists(pa.array(list(layout.parts) * n_pieces, pa.string()), n_parts, SHARD, "parts"),
        "n_steps": placed.n_steps.astype(np.int32),
        "planes": rolls.frames,
        "bar_starts": _lists(bars, n_bars, SHARD, "bar_starts"),
        "tempo_qpm": facts["tempo_qpm"].astype(np.float32),
        "programs": _lists(_programs(placed, layout).reshape(-1), n_parts, SHARD, "programs"),
    }
    rows = _table(shard, SHARD)
    return _table(facts, FACTS), rows if accepted.all() else rows.filter(pa.array(accepted, pa.bool_()))


class Rolls(NamedTuple):
    """Compressed rolls of many files, and what became of their notes."""

    frames: list[bytes]
    kept: Int64[np.ndarray, " Q"]
    out_of_range: Int64[np.ndarray, " Q"]
    merged: Int64[np.ndarray, " Q"]


def _rolls(placed: Placed, layout: Layout) -> Rolls:
    """The rolls, made for a few files at a time."""
    sizes = placed.n_steps * layout.bytes_per_step
    counts = np.zeros((len(sizes), 3), np.int64)
    block = np.cumsum(sizes) // ROLLS_AT_ONCE
    bounds = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(block)]
    frames = []
    for first, last in pairwise(bounds):
        ends = [0, *np.cumsum(sizes[first:last]).tolist()]
        columns = np.zeros(ends[-1], np.uint8)
        kernels.raster(
            first,
            last,
            placed.track_at,
            placed.note_at,
            placed.part,
            placed.batch.pitch,
            placed.onset_step,
            placed.offset_step,
            placed.n_steps,
            layout.pitch_low,
            layout.pitches,
            layout.bytes_per_step,
            columns,
            counts,
        )
        frames += [tables.compress(columns[begin:end]) for begin, end in pairwise(ends)]
    return Rolls(frames, *counts.T)


def _table(columns: dict[str, Any], table: Table) -> pa.Table:
    """A table from its columns: Arrow's, or what `pa.array` takes."""
    arrays = [
        columns[f.name] if isinstance(columns[f.name], pa.Array) else pa.array(columns[f.name], f.type)
        for f in table.columns
    ]
    return pa.Table.from_arrays(arrays, schema=table.columns)


def _lists(values: np.ndarray | pa.Array, lengths: Int[np.ndarray, " Q"], table: Table, column: str) -> pa.Array:
    """A column of lists, from their values end to end and how many each has."""
    kind = table.schema.field(column).type
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
    values = values if isinstance(values, pa.Array) else pa.array(values, kind.value_type)
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def _facts(placed: Placed, rolls: Rolls, accepted: np.ndarray, n_bars: np.ndarray, ingest: Ingest) -> dict[str, Any]:
    """What `schema.FACTS` says of each file, column by column."""
    batch, reads, n_pieces = placed.batch, placed.reads, len(placed.reads)
    end_tick = placed.end_tick
    music, signatures = duplicates.describe(
        duplicates.Lines(placed.track_at, placed.note_at, batch.is_drum, batch.pitch, placed.onset_step)
    )
    ends = np.arange(n_pieces + 1) * signatures[:1].nbytes
    unassigned = (placed.part < 0) * batch.track_notes
    few = [
        None if fine else f"{kept} notes in the roll; ingest.limits.min_notes is {ingest.limits.min_notes}"
        for fine, kept in zip(accepted.tolist(), rolls.kept.tolist(), strict=True)
    ]
    best, _ = best_scale(placed.chroma)
    return {
        "piece_id": [read.sha256[:16] for read in reads],
        "sha256": [read.sha256 for read in reads],
        "music": music,
        "sketch": pa.Array.from_buffers(
            pa.binary(), n_pieces, [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(signatures)]
        ),
        "accepted": accepted,
        "reason": [None if detail is None else "few_notes" for detail in few],
        "detail": few,
        "reader": [read.parsed.reader for read in reads],
        "tracks": batch.tracks,
        "notes_found": batch.notes,
        "notes_kept": rolls.kept,
        "notes_unassigned": np.bincount(batch.piece_of_track, unassigned, n_pieces).astype(np.int64),
        "notes_out_of_range": rolls.out_of_range,
        "notes_merged": rolls.merged,
        "steps": placed.n_steps,
        "bars": n_bars,
        "duration_s": batch.duration_s(end_tick),
        "tempo_qpm": batch.tempo_qpm(end_tick),
        "time_signature": ["{}/{}".format(*row) for row in batch.time_signature(end_tick).tolist()],
        "key": [KEYS[k] if k >= 0 else None for k in best.tolist()],
    }


def _programs(placed: Placed, layout: Layout) -> Int[np.ndarray, "Q N"]:
    """For each piece and part the program that plays most of its notes; -1 without notes."""
    batch, n_pieces, n_parts = placed.batch, len(placed.reads), len(layout.parts)
    mine = placed.part >= 0
    cell = (batch.piece_of_track[mine] * n_parts + placed.part[mine]) * 128 + batch.program[mine]
    counts = np.bincount(cell, batch.track_notes[mine], n_pieces * n_parts * 128).reshape(n_pieces, n_parts, 128)
    return np.where(counts.any(axis=2), counts.argmax(axis=2), -1)


# --- shards -----------------------------------------------------------------------------------------------------------
class _DamagedError(Exception):
    """Rolls in the work directory are not those that their facts promise."""

    def __init__(self, facts: Path, why: str) -> None:
        super().__init__(f"{rolls_beside(facts).name} ({why})")
        self.facts = facts


def shards_for(n_files: int, ingest: Ingest) -> int:
    """How many shards so many distinct files make: the power of two that keeps them below `pieces_per_shard`."""
    return 1 << max(0, -(-n_files // ingest.pieces_per_shard) - 1).bit_length()


def _shard_of(ids: Ids, n_shards: int) -> Int64[np.ndarray, " Q"]:
    """The shard of each piece, from the first 32 bits of its sha256."""
    shard: np.ndarray = (ids >> np.uint64(32)) * np.uint64(n_shards) >> np.uint64(32)
    return shard.astype(np.int64)


def _write_shards(work: Work, folder: Path, ingest: Ingest, n_shards: int) -> None:
    """Writes the shards from the rolls in the work directory.

    Raises:
        _DamagedError: a table of rolls is missing or damaged.
    """
    bounds = np.linspace(0, n_shards, WRITERS + 1).astype(int).tolist()
    with ThreadPoolExecutor(WRITERS) as writers:
        for done in [writers.submit(_write_some, work, folder, ingest, n_shards, *own) for own in pairwise(bounds)]:
            done.result()


def _write_some(work: Work, folder: Path, ingest: Ingest, n_shards: int, begin: int, end: int) -> None:
    """Writes shards `begin` to `end` - 1, in order; a table is in memory while shards need it."""
    accepted = work.ids[_truths(work.facts["accepted"])]
    bounds = np.searchsorted(_shard_of(accepted, n_shards), np.arange(n_shards + 1)).tolist()
    spans = {facts: _shard_of(ids[[0, -1]], n_shards).tolist() for facts, ids in work.rolls.items() if len(ids)}
    rolls: dict[Path, pa.Table] = {}
    for number in range(begin, end):
        wanted = accepted[bounds[number] : bounds[number + 1]]
        for facts, (first, last) in spans.items():
            if first <= number <= last and facts not in rolls:
                rolls[facts] = _rolls_of(facts, work.rolls[facts])
        rows = _merged(rolls, work.rolls, wanted)
        layout = {"layout": layout_of(ingest).to_json()}
        path = folder / roll_shard(number, n_shards)
        tables.write(path, rows, SHARD, layout, row_group_size=ROWS_PER_GROUP)
        for facts in [facts for facts in rolls if spans[facts][1] <= number]:
            del rolls[facts]


def _rolls_of(facts: Path, ids: Ids) -> pa.Table:
    """The rolls beside a table of facts."""
    try:
        table = tables.read(rolls_beside(facts), SHARD, mapped=True).replace_schema_metadata(None).combine_chunks()
    except (CorruptError, InputError, SchemaError) as error:
        raise _DamagedError(facts, str(error)) from error
    if not np.array_equal(ids_of(table["piece_id"]), ids):
        raise _DamagedError(facts, "its rows are not those of its facts")
    return table


def _merged(tables: dict[Path, pa.Table], rolls: dict[Path, Ids], wanted: Ids) -> pa.Table:
    """The rows of these pieces, in order, each once."""
    slices, ids = [SHARD.columns.empty_table()], [np.zeros(0, np.uint64)]
    for facts, table in tables.items():
        begin, end = np.searchsorted(rolls[facts], wanted[[0, -1]]) if len(wanted) else (0, -1)
        part, own = table.slice(begin, end + 1 - begin), rolls[facts][begin : end + 1]
        used = _contains(wanted, own)
        slices.append(part if used.all() else part.filter(pa.array(used, pa.bool_())))
        ids.append(own[used])
    return _in_order(slices, ids)[0]


def _tidy(work: Work, rolls: Path, ingest: Ingest, n_shards: int) -> None:
    """Makes one table of each shard in the work directory, once many small ones or rows of no use have gathered."""
    if len(work.rolls) <= LEAST_TIDY + 2 * n_shards and work.rows <= 2 * work.facts.num_rows:
        return
    bounds = np.searchsorted(_shard_of(work.ids, n_shards), np.arange(n_shards + 1)).tolist()
    made = set()
    for number, (begin, end) in enumerate(pairwise(bounds)):
        facts = work.facts.slice(begin, end - begin)
        path = folder_of(ingest) / f"facts-{_name_of(facts['sha256'].to_pylist())}.parquet"
        copy_file(rolls / roll_shard(number, n_shards), rolls_beside(path))
        tables.write(path, facts, FACTS)
        made.add(path)
    for path in set(work.rolls) - made:
        path.unlink()
        rolls_beside(path).unlink(missing_ok=True)


# --- pieces -----------------------------------------------------------------------------------------------------------
def _pieces(corpus: Corpus, work: Work, ingest: Ingest, n_shards: int) -> pa.Table:
    """One row per file found: what the corpus says of it, what its bytes say, its cluster and its split."""
    table, facts, n_files = corpus.table, work.facts, corpus.table.num_rows
    row = np.searchsorted(work.ids, corpus.ids)  # of facts, for each file
    first = np.empty(len(work.ids), np.int64)  # file with these bytes, for each row of facts
    first[row[::-1]] = np.arange(n_files)[::-1]
    stands_for = first[row]
    stands = clusters(facts, ingest.duplicates.likeness)
    cluster = _taken(facts["piece_id"], stands[row], stands[row] >= 0)
    own = _own_splits(table["split"], cluster) if ingest.split.own else {}
    of_facts = facts.select([name for name in PIECES.columns.names if name in facts.column_names])
    columns = {
        **dict(zip(of_facts.column_names, of_facts.take(pa.array(row, pa.int64())).columns, strict=True)),
        "path": table["path"],
        "bytes": table["bytes"],
        "copy_of": _taken(table["path"], stands_for, stands_for != np.arange(n_files)),
        "cluster": cluster,
        "split": _splits(facts["piece_id"], stands, row, ingest.split, own),
        "shard": pa.array(_shard_of(corpus.ids, n_shards), pa.int32()),
    }
    return pa.table({f.name: columns[f.name] for f in PIECES.columns})


def _taken(column: Any, rows: Int64[np.ndarray, " Q"], present: Bool[np.ndarray, " Q"]) -> Any:
    """Some rows of a column; null where there is none."""
    return column.take(pa.array(rows, pa.int64(), mask=~present))


def clusters(facts: pa.Table, likeness: float | None) -> Int64[np.ndarray, " Q"]:
    """For each row of facts the first row of all duplicates of its music; -1 where it was rejected."""
    accepted = _truths(facts["accepted"])
    used = facts.select(["music", "sketch"])
    used = (used if accepted.all() else used.filter(pa.array(accepted, pa.bool_()))).combine_chunks()
    rows = np.flatnonzero(accepted)
    stands = np.full(len(accepted), -1)
    if len(rows):
        sketch = used["sketch"].chunk(0)
        values = np.frombuffer(sketch.buffers()[2], np.uint16)[sketch.offset * duplicates.HASHES :]
        sketches = values[: len(rows) * duplicates.HASHES].reshape(-1, duplicates.HASHES)
        stands[rows] = rows[duplicates.clusters(used["music"].to_numpy(), sketches, likeness)]
    return stands


def _splits(
    piece_id: pa.ChunkedArray,
    stands: Int64[np.ndarray, " Q"],
    row: Int64[np.ndarray, " F"],
    split: Split,
    own: dict[str, str],
) -> pa.Array:
    """The split of each file: its cluster's own where it has one; null where it has no cluster."""
    named = np.flatnonzero(stands == np.arange(len(stands)))
    names = piece_id.take(pa.array(named, pa.int64())).to_pylist()
    code = np.full(len(stands), -1)
    code[named] = _codes(names, split)
    if own:
        code[named] = [SPLITS.index(own[n]) if n in own else c for n, c in zip(names, code[named], strict=True)]
    code = np.where(stands >= 0, code[stands], -1)[row]
    return _taken(pa.array(list(SPLITS), pa.string()), code, code >= 0)


def _own_splits(said: pa.ChunkedArray, cluster: Any) -> dict[str, str]:
    """What the corpus says of the split of each cluster, file by file of the corpus; a cluster is never divided.

    Where its files are said to be in different splits, test counts before valid and valid before train: what a corpus
    holds out is held out with all that is like it, and nothing like it is trained on.
    """
    if said.null_count == len(said):
        raise InputError(
            "ingest.split.own is set, and no file of data/corpus/corpus.parquet has a split of its own; set it to "
            "false, or fetch a corpus that brings its split (`midivae fetch --list`)"
        )
    pairs = set(zip(cluster.to_pylist(), said.to_pylist(), strict=True))
    splits: dict[str, str] = {}
    for wanted in SPLITS:  # later ones overrule
        splits |= {name: split for name, split in pairs if split == wanted and name is not None}
    return splits


def split_of(cluster: str, split: Split) -> str:
    """The split of a cluster: from a hash of its name, so that it does not depend on any other piece."""
    return SPLITS[int(_codes([cluster], split)[0])]


def _codes(names: list[str], split: Split) -> Int64[np.ndarray, " C"]:
    """`split_of` of clusters, as places in `SPLITS`."""
    digests = [hashlib.sha256(f"{split.seed} {name}".encode()).digest()[:8] for name in names]
    place = np.frombuffer(b"".join(digests), ">u8") / 2.0**64
    return (place < split.test + split.valid).astype(np.int64) + (place < split.test)
