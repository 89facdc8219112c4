"""Stage `ingest`: MIDI files to piano rolls.

    plan       files -> shards, by their sha256 (shards.py)
    make       a shard's files -> its rolls and facts, in worker processes (facts.py); kept in the work directory
    publish    rolls -> data/rolls; facts -> duplicates and splits -> pieces.parquet (pieces.py)

Offers: `run`.
"""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from midivae.config.params import Params
from midivae.errors import InputError
from midivae.ingest import shards
from midivae.ingest.pieces import pieces_of
from midivae.storage import folders, tables
from midivae.storage.files import copy_file
from midivae.storage.paths import CORPUS_FILES, CORPUS_TABLE, PIECES_TABLE, roll_shard
from midivae.storage.schema import CORPUS, PIECES


def run(params: Params, data: Path) -> dict[str, object]:
    """Ingests `data/corpus` into `data/rolls`.

    Returns:
        Counts: files found, accepted, rejected (by reason), distinct pieces, shards, files parsed in this run; seconds.

    Raises:
        InputError: there is no corpus, or no file of it is accepted.
        CorruptError: a file is not the one that `fetch` listed.
    """
    begun = time.monotonic()
    folder = data / "corpus"
    corpus = tables.read(folder / CORPUS_TABLE, CORPUS, ["path", "sha256", "bytes", "split"])
    if corpus.num_rows == 0:
        raise InputError(f"{folder}: no MIDI file in the corpus; see `fetch` in the params")
    planned = shards.plan(corpus, folder / CORPUS_FILES, params.ingest)
    with folders.publishing(data / "rolls") as staging:
        parsed = shards.make(planned, params)
        for number, shard in enumerate(planned):
            copy_file(shard.rolls, staging / roll_shard(number, len(planned)))
        facts = pa.concat_tables([shard.facts() for shard in planned])
        pieces = pieces_of(corpus, facts, params.ingest, len(planned))
        _require_some(pieces)
        tables.write(staging / PIECES_TABLE, pieces, PIECES)
    return {**_summary(pieces, len(planned)), "parsed": parsed, "seconds": round(time.monotonic() - begun, 2)}


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
