"""Stage `ingest`: from MIDI bytes to piano rolls.

    read    bytes -> Notes (midi.py), every value checked before anything is built from it
    place   notes -> parts and steps, many files at once
    raster  -> packed rolls (pianoroll.py)
    keep    -> shards, one row per accepted piece, and facts, one row per distinct file
    gather  facts of all shards -> duplicates, splits, `pieces.parquet`

A file belongs to the shard that its sha256 names, so a shard's bytes depend only on the files in it and on the params,
never on order, workers or history. Shards are made in crash-isolated child processes and kept in the work directory
with their facts: a run does only the files that are missing there.

Offers: `run` (the stage) and `explain` (one file, in words).
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int
from tqdm import tqdm

from midivae import duplicates, features, grid, midi, parallel, pianoroll, store
from midivae.errors import CorruptError, InputError, MidiError
from midivae.notes import Notes
from midivae.params import Ingest, Params, Split
from midivae.pianoroll import Layout
from midivae.schema import CORPUS, FACTS, PIECES, SHARD

log = logging.getLogger(__name__)

GROUP = 64  # files that go through the vectorised steps together: enough to amortise numpy's calls, little memory
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
    shards = plan(corpus, data / "corpus" / "midi", ingest)
    parsed = _make_shards(shards, params)
    facts = pa.concat_tables([store.read_table(shard.facts, FACTS) for shard in shards])
    pieces = _pieces(corpus, facts, ingest, len(shards))
    _require_some(pieces)
    _forget_other_counts(shards)
    with store.publishing(data / "rolls") as staging:
        for shard in shards:
            store.clone(shard.rolls, staging / shard.rolls.name)
        store.write_table(staging / "pieces.parquet", pieces, PIECES)
    return {**_summary(pieces, len(shards)), "parsed": parsed, "seconds": round(time.monotonic() - begun, 2)}


def _make_shards(shards: list[Shard], params: Params) -> int:
    """Makes what is missing in the work directory; the number of files that were parsed for it."""
    total, limits = sum(len(shard.files) for shard in shards), params.ingest.limits
    parsed = 0
    with tqdm(total=total, unit="file", desc="ingest", disable=None, file=sys.stderr) as bar:
        for index, outcome in parallel.fan_out(
            make_shard,
            shards,
            params.compute,
            time_limit_s=limits.time_s,
            memory_bytes=limits.memory_bytes,
            retry=_blame,
            label="ingest",
        ):
            if outcome.failure is not None:
                raise InputError(f"shard {index}: {outcome.failure.detail}; no single file could be blamed")
            parsed += int(outcome.value or 0)
            bar.update(len(shards[index].files))
    return parsed


def _forget_other_counts(shards: list[Shard]) -> None:
    """Removes tables that an earlier run made with another number of shards: their rows are in these now."""
    current = {path for shard in shards for path in (shard.facts, shard.rolls)}
    for path in shards[0].work.glob("*.parquet"):
        if path not in current:
            path.unlink()


def _blame(shard: Shard, failure: parallel.Failure) -> Shard | None:
    """The shard to try again after a worker died: without the file it was at, or file by file to find it."""
    if failure.item is not None and failure.item < len(shard.files):
        culprit = shard.files[failure.item]
        log.warning("%s: %s (%s)", culprit.path, midi.REASONS[failure.kind], failure.detail)
        return replace(shard, condemned={**shard.condemned, culprit.sha256: failure.kind})
    return None if shard.one_by_one else replace(shard, one_by_one=True)


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
    shard = Shard(0, (file,), path.parent, store.work_dir(), 1, ingest)
    facts, _ = _process([0], shard, lambda _: None)
    (row,) = facts.to_pylist()
    lines = [f"{path.name}: {row['piece_id']}, {len(data)} bytes"]
    if row["reader"] is not None:
        lines.append(f"read by {row['reader']}: {row['notes_found']} notes in {row['tracks']} tracks")
    lines += _tracks_in_words(data, ingest) if row["reader"] is not None else []
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


def _tracks_in_words(data: bytes, ingest: Ingest) -> list[str]:
    """A line per track: its notes, and the part they go to."""
    notes = midi.read(data, ingest.limits)
    part = pianoroll.assign_parts(notes, ingest.parts)
    lines = []
    for index, name in enumerate(notes.track_names):
        mine = np.flatnonzero(notes.track == index)
        if len(mine):
            goes_to = ingest.parts.names[part[mine[0]]] if part[mine[0]] >= 0 else "no part"
            plays = "drums" if notes.is_drum[mine[0]] else f"program {notes.program[mine[0]]}"
            lines.append(f"  track {name[:60]!r}: {len(mine)} notes, {plays}, to {goes_to}")
    return lines


# --- shards -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class File:
    """One distinct content of the corpus, and where to read it."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Shard:
    """The files of one shard, and where its two tables go in the work directory."""

    number: int
    files: tuple[File, ...]  # by sha256
    folder: Path  # that the paths start from
    work: Path
    of: int
    ingest: Ingest
    condemned: dict[str, str] = field(default_factory=dict)  # sha256 -> reason code, of files that broke a worker
    one_by_one: bool = False

    @property
    def rolls(self) -> Path:
        """The table of accepted pieces (schema.SHARD)."""
        return self.work / f"part-{self.number:05d}-of-{self.of:05d}.parquet"

    @property
    def facts(self) -> Path:
        """The table of all files (schema.FACTS)."""
        return self.work / f"facts-{self.number:05d}-of-{self.of:05d}.parquet"


def plan(corpus: pa.Table, folder: Path, ingest: Ingest) -> list[Shard]:
    """The shards of a corpus: each distinct content goes to the one that its sha256 names."""
    paths = dict(zip(reversed(corpus["sha256"].to_pylist()), reversed(corpus["path"].to_pylist()), strict=True))
    n_shards = 1
    while n_shards * ingest.pieces_per_shard < len(paths):
        n_shards *= 2
    members: list[list[File]] = [[] for _ in range(n_shards)]
    for sha256 in sorted(paths):
        members[int(sha256[:8], 16) * n_shards >> 32].append(File(paths[sha256], sha256))
    work = store.work_dir().absolute() / "ingest" / _key(ingest)
    return [Shard(i, tuple(files), folder, work, n_shards, ingest) for i, files in enumerate(members)]


def _key(ingest: Ingest) -> str:
    """What made the tables in the work directory: params that shape a roll, formats, code."""
    code = store.code_version(
        *(
            f"midivae.{name}"
            for name in ("ingest", "midi", "notes", "grid", "pianoroll", "features", "duplicates", "schema")
        )
    )
    made_of = f"{ingest.digest(exclude={'split', 'duplicates', 'pieces_per_shard'})} {code} {midi.READER_VERSION}"
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def make_shard(shard: Shard, beat: Callable[[int], None]) -> int:
    """Brings the two tables of a shard up to date; returns how many files it had to parse.

    Rows of files that left the corpus go, rows of new files come, the others stay as they are. The facts are written
    last: rolls without their facts are made again.
    """
    if _is_complete(shard):
        return 0
    facts, rolls = _kept(shard)
    known = set(facts["sha256"].to_pylist())
    missing = [index for index, file in enumerate(shard.files) if file.sha256 not in known]
    size = 1 if shard.one_by_one else GROUP
    made = [_process(missing[i : i + size], shard, beat) for i in range(0, len(missing), size)]
    facts = pa.concat_tables([facts, *(new_facts for new_facts, _ in made)]).sort_by("piece_id")
    rolls = pa.concat_tables([rolls, *(new_rolls for _, new_rolls in made)]).sort_by("piece_id")
    layout = {"layout": layout_of(shard.ingest).to_json()}
    store.write_table(shard.rolls, rolls, SHARD, layout, row_group_size=ROWS_PER_GROUP)
    store.write_table(shard.facts, facts, FACTS, {"rolls": store.sha256(shard.rolls)})
    return len(missing)


def _is_complete(shard: Shard) -> bool:
    """Whether the work directory holds, undamaged, exactly the files of this shard."""
    if not shard.facts.exists():
        return False
    try:
        _check_pair(shard.facts)
        stored = store.read_table(shard.facts, FACTS, ["sha256"])["sha256"].to_pylist()
    except (CorruptError, InputError):
        return False
    return bool(stored == [file.sha256 for file in shard.files])


def _check_pair(facts: Path) -> Path:
    """The table of rolls that goes with a table of facts, once its bytes are known to be those that were written."""
    rolls = facts.with_name(facts.name.replace("facts-", "part-"))
    if not rolls.exists() or store.sha256(rolls) != store.read_extra(facts, FACTS, "rolls"):
        raise CorruptError(f"{rolls}: not the bytes that were written")
    return rolls


def _kept(shard: Shard) -> tuple[pa.Table, pa.Table]:
    """The rows of the work directory that this shard can use; a damaged pair of tables counts as absent.

    When the corpus has outgrown its number of shards, the rows are in pairs of another number.
    """
    pairs = [shard.facts] if shard.facts.exists() else _overlapping(shard)
    facts, rolls = [FACTS.columns.empty_table()], [SHARD.columns.empty_table()]
    known: set[str] = set()
    for path in pairs:
        try:
            new_facts, new_rolls = _rows_of(path, {file.sha256 for file in shard.files} - known)
        except (CorruptError, InputError) as error:
            log.warning("%s: made again (%s)", path.name, error)
            continue
        known.update(new_facts["sha256"].to_pylist())
        facts.append(new_facts)
        rolls.append(new_rolls)
    return pa.concat_tables(facts), pa.concat_tables(rolls)


def _overlapping(shard: Shard) -> list[Path]:
    """The facts of shards of another number that share hashes with this one."""
    found = []
    for path in sorted(shard.work.glob("facts-*-of-*.parquet")):
        number, count = int(path.stem.split("-")[1]), int(path.stem.split("-")[3])
        begins_before = number * shard.of < (shard.number + 1) * count
        ends_after = (number + 1) * shard.of > shard.number * count
        if count != shard.of and begins_before and ends_after:
            found.append(path)
    return found


def _rows_of(path: Path, wanted: set[str]) -> tuple[pa.Table, pa.Table]:
    """The rows about the wanted files in a pair of tables."""
    rolls_path = _check_pair(path)
    facts = store.read_table(path, FACTS)
    facts = facts.filter(pc.is_in(facts["sha256"], pa.array(sorted(wanted), pa.string())))
    rolls = store.read_table(rolls_path, SHARD) if facts.num_rows else SHARD.columns.empty_table()
    rolls = rolls.filter(pc.is_in(rolls["piece_id"], facts["piece_id"]))
    return facts.replace_schema_metadata(None), rolls.replace_schema_metadata(None)


def layout_of(ingest: Ingest) -> Layout:
    """How the rolls of these params are laid out."""
    return Layout(ingest.parts.names, ingest.pitch_low, ingest.pitches, ingest.steps_per_beat)


# --- files -> rows ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Read:
    """A file that could be read."""

    file: File
    notes: Notes
    reader: str


def _process(indices: Sequence[int], shard: Shard, beat: Callable[[int], None]) -> tuple[pa.Table, pa.Table]:
    """Facts and rolls of some files of a shard: read one by one, all else done for all at once."""
    readable: list[Read] = []
    rejected: list[dict[str, Any]] = []
    for index in indices:
        beat(index)
        file = shard.files[index]
        try:
            readable.append(Read(file, *_read(file, shard)))
        except MidiError as error:
            rejected.append(_rejection(file.sha256, error))
    beat(indices[0] if shard.one_by_one else len(shard.files))  # what follows is about no file in particular
    placed = _place(readable, shard.ingest)
    facts, rolls = _rasterise(placed, shard.ingest)
    return pa.concat_tables([facts, pa.Table.from_pylist([*rejected, *placed.rejected], FACTS.columns)]), rolls


def _read(file: File, shard: Shard) -> tuple[Notes, str]:
    if file.sha256 in shard.condemned:
        code = shard.condemned[file.sha256]
        raise MidiError(code, midi.REASONS[code])
    path = f"{shard.folder}/{file.path}"
    try:
        with open(path, "rb", buffering=0) as raw:  # noqa: PTH123 - Path and a buffer take as long as the read
            data = raw.read()
    except OSError as error:
        raise InputError(f"{path}: listed in corpus.parquet but not readable ({error}); rerun stage `fetch`") from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise CorruptError(f"{path}: sha256 differs from corpus.parquet's: damaged or edited; rerun stage `fetch`")
    return midi.read_with_name(data, shard.ingest.limits)


def _rejection(sha256: str, error: MidiError, read: Read | None = None) -> dict[str, Any]:
    """A row of facts for a file that is not used."""
    row = {"piece_id": sha256[:16], "sha256": sha256, "accepted": False, "reason": error.code, "detail": error.detail}
    if read is not None:
        row |= {"reader": read.reader, "tracks": len(read.notes.track_names), "notes_found": len(read.notes)}
    return row


@dataclass(frozen=True)
class Placed:
    """Notes of many files end to end, on the grid, each with its part (-1: none)."""

    reads: list[Read]  # the files that are neither too long nor without any part
    rejected: list[dict[str, Any]]
    piece: Int[np.ndarray, " M"]  # index into reads
    track: Int[np.ndarray, " M"]
    part: Int[np.ndarray, " M"]
    pitch: Int[np.ndarray, " M"]
    onset_step: Int[np.ndarray, " M"]
    offset_step: Int[np.ndarray, " M"]
    program: Int[np.ndarray, " M"]
    is_drum: np.ndarray
    n_steps: Int[np.ndarray, " Q"]


def _place(reads: list[Read], ingest: Ingest) -> Placed:
    """Parts and steps of all notes, with the files that cannot become a roll set aside."""
    lengths = [len(read.notes) for read in reads]
    piece = np.repeat(np.arange(len(reads)), lengths)
    resolution = np.repeat(np.array([read.notes.ticks_per_quarter for read in reads], np.int64), lengths)
    part = _joined([pianoroll.assign_parts(read.notes, ingest.parts) for read in reads])
    column = {name: _joined([getattr(read.notes, name) for read in reads]) for name in NOTE_COLUMNS}
    onset, offset = grid.quantise(column["onset_tick"], column["duration_tick"], resolution, ingest.steps_per_beat)
    n_steps = _most(np.where(part >= 0, offset, 0), lengths)
    fit, rejected = [], []
    for index, (read, steps) in enumerate(zip(reads, n_steps.tolist(), strict=True)):
        error = _unfit(steps, ingest)
        if error is None:
            fit.append(index)
        else:
            rejected.append(_rejection(read.file.sha256, error, read))
    new_index = np.full(len(reads), -1)
    new_index[fit] = np.arange(len(fit))
    mine = new_index[piece] >= 0
    return Placed(
        [reads[index] for index in fit],
        rejected,
        new_index[piece][mine],
        column["track"][mine].astype(np.int64),
        part[mine],
        column["pitch"][mine].astype(np.int64),
        onset[mine],
        offset[mine],
        column["program"][mine].astype(np.int64),
        column["is_drum"][mine].astype(bool),
        n_steps[fit],
    )


NOTE_COLUMNS = ("onset_tick", "duration_tick", "track", "pitch", "program", "is_drum")


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays end to end; an empty one of integers if there are none."""
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _most(values: Int[np.ndarray, " M"], lengths: list[int]) -> Int[np.ndarray, " Q"]:
    """The largest of each run of values; every length is positive."""
    first = np.cumsum([0, *lengths[:-1]]) if lengths else np.zeros(0, np.int64)
    most: np.ndarray = np.maximum.reduceat(values, first) if lengths else first
    return most


def _unfit(steps: int, ingest: Ingest) -> MidiError | None:
    """Why a file with a roll of that many steps is not used."""
    if steps == 0:
        wanted = ", ".join(ingest.parts.names)
        return MidiError("no_part", f"no note belongs to any of the parts {wanted} (rule `{ingest.parts.rule}`)")
    if steps > ingest.limits.max_steps:
        return MidiError("too_long", f"{steps} steps; ingest.limits.max_steps is {ingest.limits.max_steps}")
    if steps < ingest.limits.min_steps:
        return MidiError("short", f"{steps} steps; ingest.limits.min_steps is {ingest.limits.min_steps}")
    return None


def _rasterise(placed: Placed, ingest: Ingest) -> tuple[pa.Table, pa.Table]:
    """Facts and rolls of files whose notes are on the grid."""
    layout, n_pieces = layout_of(ingest), len(placed.reads)
    mine = placed.part >= 0
    rolls = pianoroll.rasterise(
        placed.piece[mine],
        placed.part[mine],
        placed.pitch[mine],
        placed.onset_step[mine],
        placed.offset_step[mine],
        placed.n_steps,
        layout,
    )
    accepted = rolls.kept >= ingest.limits.min_notes
    bars = [
        grid.bar_starts(_signatures(read.notes), read.notes.ticks_per_quarter, ingest.steps_per_beat, steps)
        for read, steps in zip(placed.reads, placed.n_steps.tolist(), strict=True)
    ]
    ids = [read.file.sha256[:16] for read in placed.reads]
    tempo = [read.notes.tempo_qpm for read in placed.reads]
    facts = _facts(placed, rolls, accepted, ingest)
    facts |= {"piece_id": ids, "tempo_qpm": tempo, "bars": [len(starts) for starts in bars]}
    shard = {
        "piece_id": ids,
        "parts": [list(layout.parts)] * n_pieces,
        "n_steps": placed.n_steps.astype(np.int32),
        "planes": [store.compress(np.ascontiguousarray(columns)) for columns in rolls],
        "bar_starts": pa.array(bars, SHARD.schema.field("bar_starts").type),
        "tempo_qpm": np.array(tempo, np.float32),
        "programs": pa.array(list(_programs(placed, layout)), SHARD.schema.field("programs").type),
    }
    rows = pa.table([_column(shard[f.name], f) for f in SHARD.columns], SHARD.columns)
    return pa.table([_column(facts[f.name], f) for f in FACTS.columns], FACTS.columns), rows.filter(pa.array(accepted))


def _column(values: Any, field: pa.Field) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, field.type)


def _facts(placed: Placed, rolls: pianoroll.Rasterised, accepted: np.ndarray, ingest: Ingest) -> dict[str, Any]:
    """What `schema.FACTS` says of each file, column by column."""
    n_pieces, notes = len(placed.reads), [read.notes for read in placed.reads]
    pitched = (placed.part >= 0) & ~placed.is_drum
    chroma = np.bincount(placed.piece[pitched] * 12 + placed.pitch[pitched] % 12, minlength=12 * n_pieces)
    best, _ = features.best_scale(chroma.reshape(n_pieces, 12))
    unassigned = np.bincount(placed.piece[placed.part < 0], minlength=n_pieces)
    few = [
        None if fine else f"{kept} notes in the roll; ingest.limits.min_notes is {ingest.limits.min_notes}"
        for fine, kept in zip(accepted.tolist(), rolls.kept.tolist(), strict=True)
    ]
    signatures = [one.time_signature for one in notes]
    return {
        "sha256": [read.file.sha256 for read in placed.reads],
        "music": duplicates.music_hash(placed.piece, placed.pitch, placed.onset_step, placed.is_drum, n_pieces),
        "sketch": _sketches(placed),
        "accepted": accepted,
        "reason": [None if detail is None else "few_notes" for detail in few],
        "detail": few,
        "reader": [read.reader for read in placed.reads],
        "tracks": [len(one.track_names) for one in notes],
        "notes_found": [len(one) for one in notes],
        "notes_kept": rolls.kept,
        "notes_unassigned": unassigned,
        "notes_out_of_range": rolls.out_of_range,
        "notes_merged": rolls.merged,
        "steps": placed.n_steps,
        "duration_s": [one.duration_s for one in notes],
        "time_signature": [f"{s.numerator}/{s.denominator}" for s in signatures],
        "key": [features.KEYS[k] if k >= 0 else None for k in best.tolist()],
    }


def _signatures(notes: Notes) -> Int[np.ndarray, "S 3"]:
    return np.array(notes.time_signatures, np.int64).reshape(-1, 3)


def _programs(placed: Placed, layout: Layout) -> Int[np.ndarray, "Q N"]:
    """For each piece and part the program that plays most of its notes; -1 without notes."""
    n_pieces, n_parts = len(placed.reads), len(layout.parts)
    mine = placed.part >= 0
    cell = (placed.piece[mine] * n_parts + placed.part[mine]) * 128 + placed.program[mine]
    counts = np.bincount(cell, minlength=n_pieces * n_parts * 128).reshape(n_pieces, n_parts, 128)
    return np.where(counts.any(axis=2), counts.argmax(axis=2), -1)


def _sketches(placed: Placed) -> list[bytes]:
    """A signature of each piece, by which near duplicates are found."""
    signatures = duplicates.signatures(
        placed.piece, placed.track, placed.pitch, placed.onset_step, placed.is_drum, len(placed.reads)
    )
    return [signature.tobytes() for signature in signatures]


# --- pieces -----------------------------------------------------------------------------------------------------------
def _pieces(corpus: pa.Table, facts: pa.Table, ingest: Ingest, n_shards: int) -> pa.Table:
    """One row per file found: what the corpus says of it, what its bytes say, its cluster and its split."""
    facts = facts.sort_by("sha256")
    row = pc.index_in(corpus["sha256"], facts["sha256"])
    pieces = facts.take(row)
    cluster = clusters(facts, ingest.duplicates.likeness).take(row)
    splits = {c: split_of(c, ingest.split) for c in cluster.unique().to_pylist() if c is not None}
    first = {
        sha: path for path, sha in zip(*(reversed(corpus[k].to_pylist()) for k in ("path", "sha256")), strict=True)
    }
    copy_of = [
        first[sha] if first[sha] != path else None
        for path, sha in zip(corpus["path"].to_pylist(), corpus["sha256"].to_pylist(), strict=True)
    ]
    columns = {
        **{name: pieces[name] for name in pieces.column_names},
        "path": corpus["path"],
        "bytes": corpus["bytes"],
        "copy_of": pa.array(copy_of, pa.string()),
        "cluster": cluster,
        "split": pa.array([splits.get(c) for c in cluster.to_pylist()], pa.string()),
        "shard": pa.array([int(sha[:8], 16) * n_shards >> 32 for sha in corpus["sha256"].to_pylist()], pa.int32()),
    }
    return pa.table({f.name: columns[f.name] for f in PIECES.columns})


def clusters(facts: pa.Table, likeness: float | None) -> pa.Array:
    """For each row of facts the piece_id that stands for all duplicates of its music; null where it was rejected."""
    used = facts.filter(facts["accepted"])
    sketches = np.frombuffer(b"".join(used["sketch"].to_pylist()), np.uint16).reshape(-1, duplicates.HASHES)
    names = duplicates.clusters(used["piece_id"].to_pylist(), used["music"].to_numpy(), sketches, likeness)
    row = pc.index_in(facts["piece_id"], used["piece_id"])
    return pa.array(names, pa.string()).take(row.combine_chunks() if isinstance(row, pa.ChunkedArray) else row)


def split_of(cluster: str, split: Split) -> str:
    """The split of a cluster: from a hash of its name, so that it does not depend on any other piece."""
    digest = hashlib.sha256(f"{split.seed} {cluster}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if place < split.test else "valid" if place < split.test + split.valid else "train"
