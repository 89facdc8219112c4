"""Shards -> a corpus in memory: one long bit matrix.

Shapes:
    S  steps of all pieces    X  bytes of one packed step    Q  pieces, Q1 = Q + 1    N  parts

Offers: `Corpus`, `load_corpus`, `layout_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int, UInt8

from midivae.errors import CorruptError, SchemaError
from midivae.music.roll import Layout
from midivae.storage import tables
from midivae.storage.paths import PIECES_TABLE, roll_shards
from midivae.storage.schema import PIECES, SHARD


@dataclass(frozen=True)
class Corpus:
    """Pieces as one bit matrix, in the order of their `piece_id`.

    Attributes:
        packed: the rolls of all pieces end to end, one row per step.
        starts: the row at which each piece starts, and the end: piece i is `packed[starts[i]:starts[i + 1]]`.
        piece_ids: of the pieces, ascending.
        bar_starts: the steps of each piece at which bars start.
        tempo_qpm: quarter notes a minute.
        programs: General MIDI program per piece and part; -1 for a part without notes.
        layout: of the rolls.
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

    Shards are read twice, first without rolls and then with them, so that memory holds the matrix and one shard.

    Raises:
        InputError: the folder, or one of its shards, is missing.
        SchemaError: a table has another version, or shards have different layouts.
        CorruptError: bytes are damaged, or shards and table of pieces contradict each other.
    """
    shards, layout = roll_shards(rolls), layout_of(rolls)
    accepted = _accepted(rolls, splits)
    columns = [name for name in SHARD.columns.names if name != "planes"]
    pieces = pa.concat_tables([_read_rows(path, accepted, columns) for path in shards]).sort_by("piece_id")
    ids = pieces.column("piece_id").to_numpy()
    _check_complete(rolls, ids, accepted)
    length = pieces.column("n_steps").to_numpy().astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(length)])
    packed = np.zeros((int(starts[-1]), layout.bytes_per_step), np.uint8)
    for path in shards:
        table = _read_rows(path, accepted, ["piece_id", "planes"])
        places = np.searchsorted(ids, table.column("piece_id").to_numpy())  # of the rows of the shard in the corpus
        for place, frame in zip(places.tolist(), table.column("planes").to_pylist(), strict=True):
            shape = (layout.bytes_per_step, int(length[place]))
            rows = np.frombuffer(tables.decompress(frame, shape[0] * shape[1]), np.uint8).reshape(shape)
            packed[starts[place] : starts[place + 1]] = rows.T
    return Corpus(
        packed,
        starts,
        tuple(ids),
        tuple(bars.astype(np.int64) for bars in pieces.column("bar_starts").to_numpy()),
        pieces.column("tempo_qpm").to_numpy(),
        np.array(pieces.column("programs").to_pylist(), np.int32).reshape(len(ids), len(layout.parts)),
        layout,
    )


def layout_of(rolls: Path) -> Layout:
    """The layout that all shards of a folder share.

    Raises:
        SchemaError: they have different layouts.
    """
    layouts = {tables.read_extra(path, SHARD, "layout") for path in roll_shards(rolls)}
    if len(layouts) != 1:
        raise SchemaError(f"{rolls}: shards have {len(layouts)} different layouts; rerun stage `ingest`")
    return Layout.from_json(layouts.pop())


def _accepted(rolls: Path, splits: Sequence[str]) -> pa.Array:
    """The ids of the accepted pieces of these splits."""
    pieces = tables.read(rolls / PIECES_TABLE, PIECES, ["piece_id", "accepted", "split"])
    in_splits = pc.field("split").isin(pa.array(list(splits), pa.string()))
    return pieces.filter(pc.field("accepted") & in_splits).column("piece_id").combine_chunks()


def _read_rows(path: Path, piece_ids: pa.Array, columns: Sequence[str]) -> pa.Table:
    """The rows of these pieces in a shard."""
    return tables.read(path, SHARD, columns).filter(pc.field("piece_id").isin(piece_ids))


def _check_complete(rolls: Path, ids: np.ndarray, accepted: pa.Array) -> None:
    """Checks that each accepted piece is in the shards, once."""
    unique = set(ids)
    if len(unique) != len(ids):
        raise CorruptError(f"{rolls}: {len(ids) - len(unique)} piece(s) are in the shards twice; rerun `ingest`")
    missing = sorted(set(accepted.to_pylist()) - unique)
    if missing:
        raise CorruptError(
            f"{rolls}: {len(missing)} accepted piece(s) are in no shard, first {missing[0]}; rerun `ingest`"
        )
