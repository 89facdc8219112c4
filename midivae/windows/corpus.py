"""Shards -> a corpus in memory: one long bit matrix.

A corpus is `packed`, uint8 [S, X]: the rolls of all pieces end to end, one row per step.

Shapes:
    S  steps of all pieces    X  bytes of one packed step    Q  pieces, Q1 = Q + 1    N  parts

Offers: `Corpus`, `load_corpus`, `layout_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int, UInt8

from midivae.errors import CorruptError, SchemaError
from midivae.music import roll
from midivae.music.roll import Layout
from midivae.storage import tables
from midivae.storage.paths import PIECES_TABLE, roll_shards
from midivae.storage.schema import PIECES, SHARD


@dataclass(frozen=True)
class Corpus:
    """Pieces as one bit matrix, in the order of their `piece_id`.

    Attributes:
        packed: the rolls, one after the other.
        starts: row at which each piece starts, and the end: piece i is `packed[starts[i]:starts[i + 1]]`.
        bar_starts: per piece, the steps in the piece at which bars start.
        tempo_qpm: quarter notes a minute.
        programs: General MIDI program per piece and part; -1 where the part has no notes.
    """

    packed: UInt8[np.ndarray, "S X"]
    starts: Int[np.ndarray, " Q1"]
    piece_ids: tuple[str, ...]
    bar_starts: tuple[Int[np.ndarray, " _"], ...]
    tempo_qpm: Float[np.ndarray, " Q"]
    programs: Int[np.ndarray, "Q N"]
    layout: Layout

    def __len__(self) -> int:
        return len(self.piece_ids)


def load_corpus(rolls: Path, splits: Sequence[str]) -> Corpus:
    """The pieces of these splits ("train", "valid", "test"), in the order of `piece_id`, each once.

    Shards are read twice, first without and then with their rolls, so that memory holds the matrix and one shard.

    Raises:
        InputError: the folder, or one of its shards, is missing.
        SchemaError: a table of another version, or shards of different layouts.
        CorruptError: damaged bytes, or shards and table of pieces that contradict each other.
    """
    shards = roll_shards(rolls)
    layout = _layout(shards)
    wanted = _wanted(rolls, splits)
    tables = [_rows_of(path, wanted, [n for n in SHARD.columns.names if n != "planes"]) for path in shards]
    whole = pa.concat_tables(tables)
    piece_ids = whole.column("piece_id").to_numpy()
    _check_complete(rolls, piece_ids, wanted)

    order = np.argsort(piece_ids)
    length = whole.column("n_steps").to_numpy().astype(np.int64)[order]
    starts = np.concatenate([[0], np.cumsum(length)])
    place = np.empty(len(order), np.int64)  # where row i of the shards goes in the corpus
    place[order] = np.arange(len(order))

    packed = np.zeros((int(starts[-1]), layout.bytes_per_step), np.uint8)
    done = 0
    for path, table in zip(shards, tables, strict=True):
        mine = place[done : done + len(table)]
        done += len(table)
        rows = _packed_rows(_rows_of(path, wanted, ["piece_id", "planes"]), length[mine], layout)
        packed[roll.runs(starts[mine], length[mine])] = rows
    bars = _list_arrays(whole.column("bar_starts"))
    programs = np.array(whole.column("programs").to_pylist(), np.int32).reshape(len(order), len(layout.parts))
    return Corpus(
        packed,
        starts,
        tuple(str(piece_ids[i]) for i in order),
        tuple(bars[i] for i in order),
        whole.column("tempo_qpm").to_numpy()[order],
        programs[order],
        layout,
    )


def layout_of(rolls: Path) -> Layout:
    """How the rolls of a corpus are laid out."""
    return _layout(roll_shards(rolls))


def _layout(shards: Sequence[Path]) -> Layout:
    """The layout all shards share."""
    texts = {tables.read_extra(path, SHARD, "layout") for path in shards}
    if len(texts) != 1:
        raise SchemaError(f"{shards[0].parent}: shards have {len(texts)} different layouts; rerun stage `ingest`")
    return Layout.from_json(texts.pop())


def _wanted(rolls: Path, splits: Sequence[str]) -> set[str]:
    """The ids of the accepted pieces of these splits."""
    pieces = tables.read(rolls / PIECES_TABLE, PIECES, ["piece_id", "accepted", "split"])
    keep = pc.and_(pieces.column("accepted"), pc.is_in(pieces.column("split"), pa.array(list(splits), pa.string())))
    return {str(piece_id) for piece_id in pieces.filter(keep).column("piece_id").to_pylist()}


def _rows_of(path: Path, wanted: set[str], columns: Sequence[str]) -> pa.Table:
    table = tables.read(path, SHARD, columns)
    return table.filter(pc.is_in(table.column("piece_id"), pa.array(sorted(wanted), pa.string())))


def _check_complete(rolls: Path, piece_ids: np.ndarray, wanted: set[str]) -> None:
    found = set(piece_ids)
    if len(found) != len(piece_ids):
        raise CorruptError(f"{rolls}: {len(piece_ids) - len(found)} piece(s) are in the shards twice; rerun `ingest`")
    missing = sorted(wanted - found)
    if missing:
        raise CorruptError(
            f"{rolls}: {len(missing)} accepted piece(s) are in no shard, first {missing[0]}; rerun `ingest`"
        )


def _packed_rows(table: pa.Table, length: Int[np.ndarray, " M"], layout: Layout) -> UInt8[np.ndarray, "R X"]:
    """The rolls in a shard's `planes`, end to end."""
    rows = np.empty((int(length.sum()), layout.bytes_per_step), np.uint8)
    start = 0
    for frame, steps in zip(table.column("planes").to_pylist(), length.tolist(), strict=True):
        columns = np.frombuffer(tables.decompress(frame, steps * layout.bytes_per_step), np.uint8)
        rows[start : start + steps] = columns.reshape(layout.bytes_per_step, steps).T
        start += steps
    return rows


def _list_arrays(column: pa.ChunkedArray[Any]) -> list[Int[np.ndarray, " _"]]:
    """A column of lists as one array per row."""
    flat = pc.list_flatten(column).to_numpy().astype(np.int64)
    lengths = pc.list_value_length(column).to_numpy()
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
