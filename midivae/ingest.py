"""Stage `ingest`: from MIDI bytes to piano rolls.

    read     bytes -> what a reader makes of them (midi.py), file by file; all that follows, for many files at once
    place    notes -> parts and steps, every value checked before anything is built from it
    raster   -> packed rolls (pianoroll.py)
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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, Int64
from tqdm import tqdm

from midivae import duplicates, features, grid, kernels, midi, native, parallel, pianoroll, store
from midivae.errors import CorruptError, InputError, MidiError, SchemaError
from midivae.notes import Batch
from midivae.params import Ingest, Params, Split
from midivae.pianoroll import Layout
from midivae.schema import CORPUS, FACTS, PIECES, SHARD, Table

log = logging.getLogger(__name__)

NOTES_AT_ONCE = 800_000  # notes that go through the vectorised steps together: many to a call of numpy, little memory
NOTES_PER_FILE = 500  # what a file counts for beside its notes, so that many small ones do not go together
READ_AT_ONCE = 1 << 16  # bytes: most MIDI files whole
LEAST_CHUNK = 1024  # files that are worth the start of another worker process
CHUNKS_PER_WORKER = 4  # tasks of a worker: so many that workers end together, and a killed run has lost little
LEAST_TIDY = 16  # tables in the work directory that are no burden
ROLLS_AT_ONCE = 3 << 19  # bytes of rolls that are made together: what a core's cache holds
ROWS_PER_GROUP = 256  # Parquet row group of a shard: what a reader must decompress at least


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
    ingest = params.ingest
    corpus = store.read_table(data / "corpus" / "corpus.parquet", CORPUS)
    if corpus.num_rows == 0:
        raise InputError(f"{data / 'corpus'}: no MIDI file in the corpus; see `fetch` in the params")
    parsed = 0
    with store.publishing(data / "rolls") as staging:
        while True:
            work = what_is_made(corpus, ingest)
            missing = plan(corpus, data / "corpus" / "midi", params, work)
            parsed += _make(missing, params)
            work = what_is_made(corpus, ingest, work) if missing else work
            n_shards = shards_for(work.facts.num_rows, ingest)
            try:
                with ThreadPoolExecutor(1) as aside:
                    shards = aside.submit(_write_shards, work, staging, ingest, n_shards)
                    pieces = _pieces(corpus, work.facts, ingest, n_shards)
                    shards.result()
            except _DamagedError as damaged:
                log.warning("%s: made again", damaged)
                damaged.facts.unlink(missing_ok=True)
                continue  # with what is there now
            break
        _require_some(pieces)
        store.write_table(staging / "pieces.parquet", pieces, PIECES)
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
    if not pc.any(pieces["accepted"]).as_py():
        reasons = pc.value_counts(pieces["reason"]).to_pylist()
        listed = ", ".join(f"{r['values']}: {r['counts']}" for r in sorted(reasons, key=lambda r: -r["counts"]))
        raise InputError(
            f"none of {pieces.num_rows} files was accepted ({listed}); see docs/ingest.md for the reasons, or ask "
            "`midivae ingest --explain FILE` about one of them"
        )


def _summary(pieces: pa.Table, n_shards: int) -> dict[str, object]:
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
    chunk = Chunk((file,), path.parent, store.work_dir(), ingest)
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
    parts = pianoroll.parts_of_tracks(batch.program, batch.is_drum, batch.track_names, ingest.parts)
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
    code = store.code_version(
        *(
            f"midivae.{name}"
            for name in ("ingest", "midi", "notes", "grid", "pianoroll", "features", "duplicates", "kernels", "schema")
        )
    )
    made_of = f"{ingest.digest(exclude={'split', 'duplicates', 'pieces_per_shard'})} {code} {midi.READER_VERSION}"
    return store.work_dir().absolute() / "ingest" / hashlib.sha256(made_of.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Work:
    """What the work directory holds of a corpus.

    Attributes:
        facts: one row per distinct content of the corpus that is done, by sha256.
        rolls: for each table of facts the ids of its accepted pieces, in order; some may have left the corpus.
        rows: rows in all tables of facts.
    """

    facts: pa.Table
    rolls: dict[Path, Bytes]
    rows: int


Bytes = np.ndarray  # of fixed-size strings: piece ids as numpy's S16, which compares them fast


def what_is_made(corpus: pa.Table, ingest: Ingest, known: Work | None = None) -> Work:
    """Reads the facts in the work directory; a damaged table counts as absent.

    Args:
        known: what was there before; only what is new is read.
    """
    tables, rolls, rows = [FACTS.columns.empty_table()], {}, 0
    if known is not None:
        tables, rolls, rows = [known.facts], dict(known.rolls), known.rows
    for path in sorted(set(folder_of(ingest).glob("facts-*.parquet")) - set(rolls)):
        try:
            table = store.read_table(path, FACTS).replace_schema_metadata(None)
        except (CorruptError, SchemaError) as error:
            log.warning("%s: made again (%s)", path.name, error)
            continue
        rolls[path] = _fixed(table.filter(table["accepted"])["piece_id"])
        rows += table.num_rows
        tables.append(table.filter(pc.is_in(table["sha256"], corpus["sha256"].combine_chunks())))
    facts = pa.concat_tables(tables).combine_chunks()
    hashes = _fixed(facts["sha256"])
    _, first = np.unique(hashes, return_index=True)  # sorted; a run that was killed while it tidied left some twice
    in_order = len(first) == len(hashes) and bool((first[1:] > first[:-1]).all())
    return Work(facts if in_order else facts.take(first), rolls, rows)


def _fixed(column: pa.ChunkedArray) -> Bytes:
    """A column of strings of one length without nulls, as numpy's fixed-size bytes."""
    strings = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(strings) == 0:
        return np.zeros(0, "S16")
    size = len(strings[0].as_py())
    return np.frombuffer(strings.buffers()[2], f"S{size}")[: strings.offset + len(strings)][strings.offset :]


def plan(corpus: pa.Table, folder: Path, params: Params, work: Work) -> list[Chunk]:
    """The files of a corpus that are not in the work directory, divided among workers; each distinct content once."""
    ingest = params.ingest
    missing = corpus.filter(pc.invert(pc.is_in(corpus["sha256"], work.facts["sha256"].combine_chunks())))
    paths = dict(zip(reversed(missing["sha256"].to_pylist()), reversed(missing["path"].to_pylist()), strict=True))
    files = [File(paths[sha256], sha256) for sha256 in sorted(paths)]
    share = -(-len(files) // (CHUNKS_PER_WORKER * parallel.local_workers(params.compute)))
    size = min(ingest.pieces_per_shard, max(LEAST_CHUNK, share))
    made = folder_of(ingest)
    return [Chunk(tuple(files[i : i + size]), folder, made, ingest) for i in range(0, len(files), size)]


def make_chunk(chunk: Chunk, beat: Callable[[int], None]) -> int:
    """Reads the files of a chunk and writes its two tables; returns how many files that were.

    The facts are written last: rolls without their facts do not count. Neither waits for the disk: what a crash of the
    machine damages is found by its checksums, and made again.
    """
    native.prepare(kernels.__name__, lambda: beat(parallel.NO_ITEM))
    made, start = [], 0
    while start < len(chunk.files):
        reads, rejected, start = _read_some(start, chunk, beat)
        beat(start - 1 if chunk.one_by_one else len(chunk.files))  # what follows is about no file in particular
        placed, unfit = _place(reads, chunk.ingest)
        facts, rolls = _rasterise(placed, chunk.ingest)
        made.append((pa.concat_tables([facts, pa.Table.from_pylist([*rejected, *unfit], FACTS.columns)]), rolls))
    facts = pa.concat_tables([facts for facts, _ in made]).sort_by("sha256")
    _write_rolls(rolls_beside(chunk.facts), pa.concat_tables([rolls for _, rolls in made]), chunk.ingest)
    store.write_table(chunk.facts, facts, FACTS, durable=False)
    return len(chunk.files)


def _write_rolls(path: Path, rolls: pa.Table, ingest: Ingest) -> None:
    layout = {"layout": layout_of(ingest).to_json()}
    store.write_table(path, rolls.sort_by("piece_id"), SHARD, layout, row_group_size=ROWS_PER_GROUP, durable=False)


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
        pianoroll.parts_of_tracks(batch.program, batch.is_drum, batch.track_names, ingest.parts),
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
        "parts": _lists(
            pa.array(layout.parts).take(np.tile(np.arange(len(layout.parts)), n_pieces)), n_parts, SHARD, "parts"
        ),
        "n_steps": placed.n_steps.astype(np.int32),
        "planes": rolls.frames,
        "bar_starts": _lists(bars, n_bars, SHARD, "bar_starts"),
        "tempo_qpm": facts["tempo_qpm"].astype(np.float32),
        "programs": _lists(_programs(placed, layout).reshape(-1), n_parts, SHARD, "programs"),
    }
    rows = pa.table([_column(shard[f.name], f) for f in SHARD.columns], SHARD.columns)
    kept = rows if accepted.all() else rows.filter(pa.array(accepted))
    return pa.table([_column(facts[f.name], f) for f in FACTS.columns], FACTS.columns), kept


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
        frames += [store.compress(columns[begin:end]) for begin, end in pairwise(ends)]
    return Rolls(frames, *counts.T)


def _column(values: Any, field: pa.Field) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, field.type)


def _lists(values: np.ndarray | pa.Array, lengths: Int[np.ndarray, " Q"], table: Table, column: str) -> pa.Array:
    """A column of lists, from their values end to end and how many each has."""
    kind = table.schema.field(column).type
    ends = np.cumsum(lengths, dtype=np.int32)
    offsets = pa.array(np.append(np.int32(0), ends))
    values = values if isinstance(values, pa.Array) else pa.array(values, kind.value_type)
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def _facts(placed: Placed, rolls: Rolls, accepted: np.ndarray, n_bars: np.ndarray, ingest: Ingest) -> dict[str, Any]:
    """What `schema.FACTS` says of each file, column by column."""
    batch, reads, n_pieces = placed.batch, placed.reads, len(placed.reads)
    end_tick = placed.end_tick
    music, signatures = duplicates.describe(
        duplicates.Lines(placed.track_at, placed.note_at, batch.is_drum, batch.pitch, placed.onset_step)
    )
    unassigned = (placed.part < 0) * batch.track_notes
    few = [
        None if fine else f"{kept} notes in the roll; ingest.limits.min_notes is {ingest.limits.min_notes}"
        for fine, kept in zip(accepted.tolist(), rolls.kept.tolist(), strict=True)
    ]
    best, _ = features.best_scale(placed.chroma)
    return {
        "piece_id": [read.sha256[:16] for read in reads],
        "sha256": [read.sha256 for read in reads],
        "music": music,
        "sketch": [signature.tobytes() for signature in signatures],
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
        "key": [features.KEYS[k] if k >= 0 else None for k in best.tolist()],
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


def _shard_of(hashes: Bytes, n_shards: int) -> Int[np.ndarray, " Q"]:
    """The shard of each piece, from the first 32 bits of its sha256."""
    digits = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, hashes.itemsize)[:, :8].astype(np.int64)
    values = np.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0"))
    shard: np.ndarray = (values @ (16 ** np.arange(7, -1, -1))) * n_shards >> 32
    return shard


def _write_shards(work: Work, folder: Path, ingest: Ingest, n_shards: int) -> None:
    """Writes the shards from the rolls in the work directory, in order; a table is in memory while shards need it.

    Raises:
        _DamagedError: a table of rolls is missing or damaged.
    """
    accepted = _fixed(work.facts.filter(work.facts["accepted"])["piece_id"])
    bounds = np.searchsorted(_shard_of(accepted, n_shards), np.arange(n_shards + 1)).tolist()
    spans = {facts: _shard_of(ids[[0, -1]], n_shards).tolist() for facts, ids in work.rolls.items() if len(ids)}
    tables: dict[Path, pa.Table] = {}
    for number in range(n_shards):
        wanted = accepted[bounds[number] : bounds[number + 1]]
        for facts, (first, last) in spans.items():
            if first <= number <= last and facts not in tables:
                tables[facts] = _rolls_of(facts, work.rolls[facts])
        rows = _merged(tables, work.rolls, wanted)
        layout = {"layout": layout_of(ingest).to_json()}
        path = folder / f"part-{number:05d}-of-{n_shards:05d}.parquet"
        store.write_table(path, rows, SHARD, layout, row_group_size=ROWS_PER_GROUP)
        for facts in [facts for facts in tables if spans[facts][1] <= number]:
            del tables[facts]


def _rolls_of(facts: Path, ids: Bytes) -> pa.Table:
    """The rolls beside a table of facts."""
    try:
        table = store.read_table(rolls_beside(facts), SHARD).replace_schema_metadata(None)
    except (CorruptError, InputError, SchemaError) as error:
        raise _DamagedError(facts, str(error)) from error
    if not np.array_equal(_fixed(table["piece_id"]), ids):
        raise _DamagedError(facts, "its rows are not those of its facts")
    return table


def _merged(tables: dict[Path, pa.Table], rolls: dict[Path, Bytes], wanted: Bytes) -> pa.Table:
    """The rows of these pieces, in order, each once."""
    slices, ids = [SHARD.columns.empty_table()], [np.zeros(0, "S16")]
    for facts, table in tables.items():
        begin, end = np.searchsorted(rolls[facts], wanted[[0, -1]]) if len(wanted) else (0, -1)
        slices.append(table.slice(begin, end + 1 - begin))
        ids.append(rolls[facts][begin : end + 1])
    rows, found = pa.concat_tables(slices), np.concatenate(ids)
    if np.array_equal(found, wanted):
        return rows
    order = np.argsort(found, kind="stable")
    return rows.take(order[np.searchsorted(found, wanted, sorter=order)])


def _tidy(work: Work, rolls: Path, ingest: Ingest, n_shards: int) -> None:
    """Makes one table of each shard in the work directory, once many small ones or rows of no use have gathered."""
    if len(work.rolls) <= LEAST_TIDY + 2 * n_shards and work.rows <= 2 * work.facts.num_rows:
        return
    bounds = np.searchsorted(_shard_of(_fixed(work.facts["sha256"]), n_shards), np.arange(n_shards + 1)).tolist()
    made = set()
    for number, (begin, end) in enumerate(pairwise(bounds)):
        facts = work.facts.slice(begin, end - begin)
        path = folder_of(ingest) / f"facts-{_name_of(facts['sha256'].to_pylist())}.parquet"
        store.clone(rolls / f"part-{number:05d}-of-{n_shards:05d}.parquet", rolls_beside(path))
        store.write_table(path, facts, FACTS)
        made.add(path)
    for path in set(work.rolls) - made:
        path.unlink()
        rolls_beside(path).unlink(missing_ok=True)


# --- pieces -----------------------------------------------------------------------------------------------------------
def _pieces(corpus: pa.Table, facts: pa.Table, ingest: Ingest, n_shards: int) -> pa.Table:
    """One row per file found: what the corpus says of it, what its bytes say, its cluster and its split."""
    row = pc.index_in(corpus["sha256"], facts["sha256"].combine_chunks())
    pieces = facts.take(row)
    cluster = clusters(facts, ingest.duplicates.likeness)
    own = _own_splits(corpus["split"], cluster.take(row)) if ingest.split.own else {}
    _, first, content = np.unique(row.to_numpy(), return_index=True, return_inverse=True)  # the corpus is in order
    stands_for = first[content]  # row of the corpus: the first with the same bytes
    is_copy = pa.array(stands_for != np.arange(corpus.num_rows))
    columns = {
        **{name: pieces[name] for name in pieces.column_names},
        "path": corpus["path"],
        "bytes": corpus["bytes"],
        "copy_of": pc.if_else(is_copy, corpus["path"].take(pa.array(stands_for)), pa.scalar(None, pa.string())),
        "cluster": cluster.take(row),
        "split": _splits(cluster, ingest.split, own).take(row),
        "shard": pa.array(_shard_of(_fixed(corpus["sha256"]), n_shards), pa.int32()),
    }
    return pa.table({f.name: columns[f.name] for f in PIECES.columns})


def clusters(facts: pa.Table, likeness: float | None) -> pa.Array:
    """For each row of facts the piece_id that stands for all duplicates of its music; null where it was rejected."""
    used = facts.filter(facts["accepted"])
    sketches = _fixed(used["sketch"]).view(np.uint16).reshape(-1, duplicates.HASHES)
    names = duplicates.clusters(used["piece_id"].to_pylist(), used["music"].to_numpy(), sketches, likeness)
    row = pc.index_in(facts["piece_id"], used["piece_id"].combine_chunks())
    return pa.array(names, pa.string()).take(row.combine_chunks() if isinstance(row, pa.ChunkedArray) else row)


def _splits(cluster: pa.Array, split: Split, own: dict[str, str]) -> pa.Array:
    """The split of each cluster, its own where it has one; null where there is no cluster."""
    names = cluster.dictionary_encode()
    splits = [own.get(name) or split_of(name, split) for name in names.dictionary.to_pylist()]
    return pa.array(splits, pa.string()).take(names.indices)


def _own_splits(said: pa.ChunkedArray, cluster: pa.ChunkedArray) -> dict[str, str]:
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
    for wanted in ("train", "valid", "test"):  # later ones overrule
        splits |= {name: split for name, split in pairs if split == wanted and name is not None}
    return splits


def split_of(cluster: str, split: Split) -> str:
    """The split of a cluster: from a hash of its name, so that it does not depend on any other piece."""
    digest = hashlib.sha256(f"{split.seed} {cluster}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if place < split.test else "valid" if place < split.test + split.valid else "train"
