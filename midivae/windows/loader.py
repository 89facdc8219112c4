"""Shards -> batches: the corpus as one long bit matrix, and windows as views of it.

A corpus in memory is `packed`, uint8 [S, X]: the rolls of all pieces end to end, one row per step. A window is a row to
start at; rows beyond the end of its piece read as silence. Nothing is copied per window before a batch is asked for.

Shapes:
    S  steps of all pieces    X  bytes of one packed step    Q  pieces, Q1 = Q + 1    W  windows
    B  windows of a batch     T  steps of a window           L  steps before it
    N  parts                  K  planes                      P  pitches

Offers, in numpy: `Corpus`, `load`, `Windows`, `windows`, `Chains`, `chains`, `planes`, `sample_layout`,
`bar_hashes`, `epoch_order`; on the training device: `BitMatrix`, which gathers and unpacks a batch with tensor
operations alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int, UInt8, UInt64

from midivae.config.streams import Stream
from midivae.config.train import View
from midivae.errors import CorruptError, ParamsError, SchemaError
from midivae.measures import hashes
from midivae.music import roll
from midivae.music.parts import DRUMS
from midivae.music.roll import FRAME, Layout, pack, unpack
from midivae.storage import tables
from midivae.storage.paths import PIECES_TABLE, roll_shards
from midivae.storage.schema import PIECES, SHARD
from midivae.windows.batch import Batch

MERGED = "merged"  # the one part of a view that merges parts
_BARS_AT_ONCE = 4096  # when bars are hashed
_ROWS_AT_ONCE = 65_536  # when the whole matrix is converted: keeps the unpacked bits in the cache's reach


# --- the corpus -------------------------------------------------------------------------------------------------------
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


def load(rolls: Path, splits: Sequence[str]) -> Corpus:
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


# --- windows ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Windows:
    """Where windows lie in a corpus.

    Attributes:
        start: row of `packed` at which each window starts.
        stop: end row of its piece: rows from there on read as silence.
        piece: index of its piece.
    """

    start: Int[np.ndarray, " W"]
    stop: Int[np.ndarray, " W"]
    piece: Int[np.ndarray, " W"]

    def __len__(self) -> int:
        return len(self.start)


def windows(corpus: Corpus, view: View) -> Windows:
    """All windows of the view, piece after piece: at every bar line, or every `view.hop` steps.

    A window that reaches beyond its piece is kept if at least `view.min_fill` of its steps, rounded up, lie inside.
    """
    length = np.diff(corpus.starts)
    if view.hop == "bar":
        counts = np.array([len(bars) for bars in corpus.bar_starts], np.int64)
        step = np.concatenate([np.zeros(0, np.int64), *corpus.bar_starts])
    else:
        counts = -(-length // view.hop)
        step = roll.runs(np.zeros(len(length), np.int64), counts) * view.hop
    piece = np.repeat(np.arange(len(length)), counts)
    keep = step + least_steps(view) <= length[piece]
    piece, step = piece[keep], step[keep]
    return Windows(corpus.starts[piece] + step, corpus.starts[piece + 1], piece)


@dataclass(frozen=True)
class Chains:
    """Windows that follow each other without a gap.

    Attributes:
        windows: of all chains, one chain after the other.
        starts: chain i is the windows `starts[i]` to `starts[i + 1] - 1`.
        at_start: whether the first window of each is the first of its piece.
    """

    windows: Windows
    starts: Int[np.ndarray, " C1"]
    at_start: Bool[np.ndarray, " C"]

    def __len__(self) -> int:
        return len(self.at_start)


def chains(corpus: Corpus, view: View) -> Chains:
    """The chains of the view: one from every window start in the first `view.steps` steps of each piece."""
    each = windows(corpus, view)
    step = each.start - corpus.starts[each.piece]
    first = np.flatnonzero(step < view.steps)
    length = np.diff(corpus.starts)[each.piece[first]]
    counts = (length - least_steps(view) - step[first]) // view.steps + 1
    link = roll.runs(np.zeros(len(first), np.int64), counts)  # 0, 1, ... along each chain
    of = np.repeat(first, counts)
    found = Windows(each.start[of] + link * view.steps, each.stop[of], each.piece[of])
    return Chains(found, np.concatenate([[0], np.cumsum(counts)]), step[first] == 0)


def least_steps(view: View) -> int:
    """How many steps of a window must lie inside its piece; the small term undoes float noise (0.7 * 10 > 7)."""
    return max(1, int(np.ceil(view.min_fill * view.steps - 1e-9)))


def planes(
    corpus: Corpus, windows: Windows, index: Int[np.ndarray, " B"], view: View
) -> Bool[np.ndarray, "B {view.steps} N {view.n_planes} P"]:
    """The windows with these numbers, as the view shows them."""
    return cut(corpus.packed, corpus.layout, windows.start[index], windows.stop[index], view)


def cut(
    packed: UInt8[np.ndarray, "S X"],
    layout: Layout,
    start: Int[np.ndarray, " B"],
    stop: Int[np.ndarray, " B"],
    view: View,
) -> Bool[np.ndarray, "B {view.steps} N {view.n_planes} P"]:
    """The windows that start at these rows of a bit matrix, as the view shows them; rows from `stop` on are silent."""
    rows = start[:, None] + np.arange(view.steps)  # [B, T]
    inside = rows < stop[:, None]
    steps = np.asarray(packed[np.where(inside, rows, 0)]) * inside[..., None].astype(np.uint8)
    return select(unpack(steps, layout), layout, view)


def sample_layout(layout: Layout, view: View) -> Layout:
    """The layout of what a model of this view sees and makes: one part named "merged" where the view merges parts.

    Raises:
        ParamsError: the view merges parts and the rolls have nothing but drums.
    """
    if not view.merge_parts:
        return layout
    if not layout.pitched:
        raise ParamsError(
            f"train.view.merge_parts leaves drums out, and the parts are {list(layout.parts)}: nothing is left; "
            "set it to false, or ingest other parts"
        )
    return replace(layout, parts=(MERGED,))


def select(
    planes: Bool[np.ndarray, "*B N 2 P"], layout: Layout, view: View
) -> Bool[np.ndarray, "*B M {view.n_planes} P"]:
    """The parts and planes that a view shows."""
    if view.merge_parts:
        planes = np.asarray(planes[..., layout.pitched, :, :].any(axis=-3, keepdims=True))
    return planes if view.n_planes == 2 else planes[..., FRAME : FRAME + 1, :]


def bar_hashes(corpus: Corpus, beats_per_bar: int) -> UInt64[np.ndarray, " H"]:
    """The hashes (`hashes.bar_hashes`) of the bars of all pieces, sorted, each once, none of an empty bar.

    All bars are cut to the same length: of a piece in another metre, what follows on each of its bar lines.
    """
    steps_per_bar = beats_per_bar * corpus.layout.steps_per_beat
    view = View(steps=steps_per_bar, hop="bar", planes="onset+frame", min_fill=0)
    bars = windows(corpus, view)
    found = [np.zeros(0, np.uint64)]
    for first in range(0, len(bars), _BARS_AT_ONCE):
        index = np.arange(first, min(first + _BARS_AT_ONCE, len(bars)))
        block = planes(corpus, bars, index, view)
        found.append(np.unique(hashes.bar_hashes(block, corpus.layout, steps_per_bar)))
    every = np.unique(np.concatenate(found))
    return np.asarray(every[every != 0])


# --- on the training device -------------------------------------------------------------------------------------------
def epoch_order(n_windows: int, seed: int, epoch: int) -> Int[np.ndarray, " W"]:
    """The order of windows in an epoch: depends on nothing but these three."""
    order: np.ndarray = Stream.WINDOW_ORDER.rng(seed, epoch=epoch).permutation(n_windows)
    return order


class BitMatrix:
    """The windows of a corpus on the training device: packed bits, gathered and unpacked there.

    The matrix holds only the bits that the view shows, merged where it merges. Behind each piece lie as many silent
    rows as a window may reach beyond it, so that every window is one contiguous run of bytes.

    Attributes:
        shape: [T, N, K, P] of a window.
    """

    def __init__(self, corpus: Corpus, windows: Windows, view: View, device: torch.device, context: int = 0) -> None:
        """The windows of a corpus, each with `context` steps before it."""
        layout = sample_layout(corpus.layout, view)
        self.shape = (view.steps, len(layout.parts), view.n_planes, layout.pitches)
        self.context = context
        self._pitched = torch.tensor([name != DRUMS for name in layout.parts], device=device)
        self._bits_per_step = len(layout.parts) * view.n_planes * layout.pitches
        padding = max(context, view.steps - least_steps(view))
        seen = _packed_view(corpus, view)
        padded = np.zeros((context + len(seen) + len(corpus) * padding + view.steps, seen.shape[1]), np.uint8)
        for piece, (first, last) in enumerate(pairwise(corpus.starts.tolist())):
            at = context + first + piece * padding
            padded[at : at + last - first] = seen[first:last]
        self._packed = torch.from_numpy(padded).to(device)  # [S, X]
        self._start = torch.from_numpy(windows.start + windows.piece * padding).to(device)  # of the steps before
        first = windows.start - corpus.starts[windows.piece]
        self._n_before = torch.from_numpy(np.minimum(context, first)).to(device)
        self._n_inside = torch.from_numpy(np.minimum(view.steps, windows.stop - windows.start)).to(device)
        self._table = _bits_of_bytes(device)

    def __len__(self) -> int:
        return len(self._start)

    @property
    def device(self) -> torch.device:
        """Where the bits are."""
        return self._packed.device

    @property
    def nbytes(self) -> int:
        """Memory the bits take."""
        return self._packed.nbytes

    def batch(self, index: Int[torch.Tensor, " B"]) -> Batch:
        """The windows with these numbers, as 0.0 and 1.0."""
        steps = self.context + self.shape[0]
        width = self._packed.shape[1]
        # every row starts a window: rows overlap, and no byte is copied for it
        runs = self._packed.as_strided((len(self._packed) - steps + 1, steps * width), (width, 1))
        packed = runs.index_select(0, self._start[index])  # [B, (L + T) * X]
        bits = self._table.index_select(0, packed.reshape(-1).int()).view(len(index), steps, 8 * width)
        both = bits[..., : self._bits_per_step].reshape(len(index), steps, *self.shape[1:])
        n_before, n_inside = self._n_before[index], self._n_inside[index]
        return Batch(both[:, self.context :], both[:, : self.context], n_before, n_inside)

    def transposed(self, batch: Batch, most: int, generator: torch.Generator) -> Batch:
        """Each window, with what came before it, moved by a random number of semitones, as far as no note falls off.

        Drums stay. Of the shifts from -`most` to `most` that keep every note, all are equally likely.
        """
        down, up = (room.clamp(max=most) for room in self.room(batch))
        draw = torch.rand(len(batch.x), generator=generator, device=self.device)
        return self.moved(batch, (draw * (down + up + 1)).long() - down)

    def room(self, batch: Batch) -> tuple[Int[torch.Tensor, " B"], Int[torch.Tensor, " B"]]:
        """By how many semitones each window, with what came before it, can move down and up before a note falls off."""
        both = torch.cat([batch.before, batch.x], 1)  # [B, L + T, N, K, P]
        pitches = both.shape[-1]
        used = (both.amax((1, 3)) * self._pitched[:, None]).amax(1) > 0  # [B, P]
        place = torch.arange(pitches, device=both.device)
        low = torch.where(used, place, pitches).amin(1)
        high = torch.where(used, place, -1).amax(1)
        return low, pitches - 1 - high

    def moved(self, batch: Batch, shift: Int[torch.Tensor, " B"]) -> Batch:
        """Each window, with what came before it, moved by its number of semitones; drums stay."""
        both = torch.cat([batch.before, batch.x], 1)  # [B, L + T, N, K, P]
        pitches = both.shape[-1]
        place = torch.arange(pitches, device=both.device)
        source = (place - shift[:, None]) % pitches  # what wraps around is silent
        moved = both.gather(-1, source[:, None, None, None].expand_as(both))
        moved = torch.where(self._pitched[:, None, None], moved, both)
        return batch._replace(before=moved[:, : self.context], x=moved[:, self.context :])


def _bits_of_bytes(device: torch.device) -> Float[torch.Tensor, "256 8"]:
    """The bits of every byte, most significant first, as `numpy.unpackbits` gives them."""
    every = np.arange(256, dtype=np.uint8)[:, None]
    return torch.from_numpy(np.unpackbits(every, axis=1).astype(np.float32)).to(device)


def _packed_view(corpus: Corpus, view: View) -> UInt8[np.ndarray, "S Y"]:
    """The bit matrix with only the bits that the view shows."""
    if not view.merge_parts and view.n_planes == 2:
        return corpus.packed
    blocks = [corpus.packed[at : at + _ROWS_AT_ONCE] for at in range(0, max(1, len(corpus.packed)), _ROWS_AT_ONCE)]
    return np.concatenate([pack(select(unpack(block, corpus.layout), corpus.layout, view)) for block in blocks])
