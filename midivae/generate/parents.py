"""The music that samples are made from: windows of the corpus, of MIDI files given by path, of other samples.

A job names its parents by text (`jobs.Parent`). They are looked up and checked before any sample is made, and written
into one *pool*: a bit matrix of all their steps, and a table of the windows that each text stands for. The pool lies in
the work directory. Processes that make samples map it into memory: they share it, and none has to read a corpus.

Shapes:
    B  samples    T  steps of a window    N  parts    P  pitches    S  steps of all parents
    X  bytes of a packed step             Z  latent

Offers: `write_pool`, `Pool` (`open`, `windows`, `places`, `begins`), `ParentSample`; `usable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int, UInt8

from midivae.config.ingest import Ingest
from midivae.config.jobs import Parent
from midivae.config.train import View
from midivae.errors import InputError, MidiError, ParamsError
from midivae.music import grid, smf
from midivae.music.notes import Notes
from midivae.music.parts import assign_parts
from midivae.music.roll import Layout, from_notes, pack
from midivae.storage import schema, tables
from midivae.storage.files import write_file
from midivae.storage.paths import PIECES_TABLE
from midivae.windows.corpus import layout_of, load_corpus
from midivae.windows.place import piece_places
from midivae.windows.windows import cut_windows, find_windows, least_steps

WITH_GIVEN = ("infill", "accompany", "replace")  # modes whose samples keep cells of their parents
STEPS, PLACES, WINDOWS = "steps.npy", "places.npy", "windows.parquet"


@dataclass(frozen=True)
class ParentSample:
    """A sample that another job starts from.

    Attributes:
        z: its latents, one per window; None: its music is to be encoded.
    """

    planes: Bool[np.ndarray, "T N 2 P"]
    z: Float32[np.ndarray, " Z"] | None

    @classmethod
    def of(
        cls,
        planes: Bool[np.ndarray, "T N 2 P"],
        z: Float32[np.ndarray, " Z"] | None,
        mode: str,
        method: str | None,
        moved: bool,
    ) -> ParentSample:
        """A sample as its row in the catalog describes it.

        Latents are used if the first window is the music that the first latent was decoded to. It is not for merged
        parts and for modes that keep cells of a parent.

        Args:
            planes: its music.
            z: its latents; None: they are of another model.
            mode, method: that made it.
            moved: whether it is transposed, or begins with music of its parent.
        """
        return cls(planes, None if moved or method == "merged" or mode in WITH_GIVEN else z)


# --- from texts to a pool ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Windows:
    """The windows that one text stands for, in a bit matrix of their own.

    Attributes:
        place: of each step (`windows.place`).
        start: first step of each window.
        first, stop: first step of its piece, and the step after its last.
    """

    packed: UInt8[np.ndarray, "S X"]
    place: UInt8[np.ndarray, "S 4"]
    start: Int[np.ndarray, " W"]
    first: Int[np.ndarray, " W"]
    stop: Int[np.ndarray, " W"]
    labels: list[str]
    z: Float32[np.ndarray, " Z"] | None = None

    @classmethod
    def one(
        cls,
        packed: UInt8[np.ndarray, "S X"],
        bar_starts: Int[np.ndarray, " R"],
        start: int,
        label: str,
        z: Float32[np.ndarray, " Z"] | None = None,
    ) -> _Windows:
        """One window of a piece."""
        place = piece_places(bar_starts, len(packed))
        return cls(packed, place, np.array([start]), np.array([0]), np.array([len(packed)]), [label], z)


def write_pool(
    texts: Sequence[str],
    folder: Path,
    rolls: Path,
    ingest: Ingest,
    view: View,
    sample: Callable[[str], ParentSample],
) -> None:
    """Looks up parents, and writes the pool of them into `folder`.

    Args:
        texts: the parents of a job, in order.
        folder: the folder of the pool.
        rolls: the corpus.
        ingest: how a MIDI file becomes a roll of that corpus.
        view: how windows are cut.
        sample: gives a sample by its id.

    Raises:
        ParamsError, InputError: no such piece, bar, file or sample, or a file without any of the parts.
    """
    layout = layout_of(rolls)
    by_text: dict[str, _Windows] = {}
    for text in texts:
        parent = Parent.parse(text)
        if text in by_text:
            continue
        match parent.kind:
            case "split":
                by_text[text] = _split(parent, rolls, view)
            case "piece":
                by_text[text] = _at_bar(parent, *_piece(parent, rolls), view)
            case "file":
                by_text[text] = _at_bar(parent, *_file(Path(parent.name), ingest, layout), view)
            case _:
                by_text[text] = _sample(parent, sample(parent.name), layout)
    offsets = np.cumsum([0, *(len(windows.packed) for windows in by_text.values())])
    offset_of = dict(zip(by_text, offsets.tolist(), strict=False))
    rows = [_rows(number, by_text[text], offset_of[text]) for number, text in enumerate(texts)]
    steps = np.concatenate([windows.packed for windows in by_text.values()])
    places = np.concatenate([windows.place for windows in by_text.values()])
    write_file(folder / STEPS, lambda file: np.save(file, steps, allow_pickle=False))
    write_file(folder / PLACES, lambda file: np.save(file, places, allow_pickle=False))
    tables.write(folder / WINDOWS, pa.concat_tables(rows), schema.PARENTS, {"layout": layout.to_json()})


def _rows(parent: int, windows: _Windows, offset: int) -> pa.Table:
    """The windows of a parent as rows of `schema.PARENTS`."""
    return pa.table(
        {
            "parent": pa.array(np.full(len(windows.start), parent), pa.int32()),
            "label": pa.array(windows.labels, pa.string()),
            "start": pa.array(windows.start + offset, pa.int64()),
            "stop": pa.array(windows.stop + offset, pa.int64()),
            "first": pa.array(windows.first + offset, pa.int64()),
            "z": pa.array([windows.z] * len(windows.start), schema.FLOATS),
        }
    )


def _split(parent: Parent, rolls: Path, view: View) -> _Windows:
    """All windows of a split that start at bar lines."""
    corpus = load_corpus(rolls, [parent.name])
    windows = find_windows(corpus, view.model_copy(update={"hop": "bar"}))
    if not len(windows):
        raise InputError(
            f"parent split:{parent.name}: no window of {view.steps} steps in its {len(corpus)} piece(s); name another "
            "split, or change its share or seed (ingest.split)"
        )
    first = corpus.starts[windows.piece]
    labels = [
        f"piece:{corpus.piece_ids[piece]}@{int(np.searchsorted(corpus.bar_starts[piece], step)) + 1}"
        for piece, step in zip(windows.piece.tolist(), (windows.start - first).tolist(), strict=True)
    ]
    lengths = np.diff(corpus.starts).tolist()
    place = np.concatenate([piece_places(bars, n) for bars, n in zip(corpus.bar_starts, lengths, strict=True)])
    return _Windows(corpus.packed, place, windows.start, first, windows.stop, labels)


_Piece = tuple[UInt8[np.ndarray, "S X"], Int[np.ndarray, " R"], str]  # steps, bar lines and name of a piece


def _piece(parent: Parent, rolls: Path) -> _Piece:
    """The piece of this id, or of this path in the corpus."""
    pieces = tables.read(rolls / PIECES_TABLE, schema.PIECES, ["path", "piece_id", "accepted", "reason", "split"])
    named = pieces.filter(pc.or_(pc.equal(pieces["piece_id"], parent.name), pc.equal(pieces["path"], parent.name)))
    accepted = named.filter(named["accepted"])
    if not len(accepted):
        why = f"it was rejected: {named['reason'][0]}" if len(named) else "there is none of this id or path"
        raise ParamsError(f"parent piece:{parent.name}: {why}; data/rolls/pieces.parquet lists all pieces")
    piece_id, split = accepted["piece_id"][0].as_py(), accepted["split"][0].as_py()
    corpus = load_corpus(rolls, [split])
    number = corpus.piece_ids.index(piece_id)
    start, stop = corpus.starts[number : number + 2].tolist()
    return corpus.packed[start:stop], corpus.bar_starts[number], piece_id


def _file(path: Path, ingest: Ingest, layout: Layout) -> _Piece:
    """A MIDI file as a piece, with the parts that the rolls have."""
    try:
        notes = smf.read(path.read_bytes(), ingest.limits).notes
    except (OSError, MidiError) as error:
        raise InputError(f"parent file:{path}: {error}; name a MIDI file that can be read") from error
    try:
        part, _ = usable(notes, ingest)
    except InputError as error:
        raise InputError(f"parent file:{path}: {error}; name another, or train on other parts") from error
    planes = from_notes(notes, part, layout).planes
    bars = grid.bar_starts(notes.time_signatures, notes.ticks_per_quarter, layout.steps_per_beat, len(planes))
    return pack(planes), bars, path.name


def usable(notes: Notes, ingest: Ingest) -> tuple[Int[np.ndarray, " N"], int]:
    """The part of each note of a file that can be a parent, and the length of the file in steps.

    Raises:
        InputError: it is too long, or none of its notes belongs to a part of the rolls.
    """
    steps = notes.end_tick * ingest.steps_per_beat // notes.ticks_per_quarter + 1
    if steps > ingest.limits.max_steps:
        raise InputError(f"it is {steps} steps long, and the most is {ingest.limits.max_steps} (ingest.limits)")
    part = assign_parts(notes, ingest.parts)
    low, high = ingest.pitch_low, ingest.pitch_low + ingest.pitches - 1
    if not np.any((part >= 0) & (notes.pitch >= low) & (notes.pitch <= high)):
        raise InputError(
            f"none of its notes belongs to the parts {list(ingest.parts.names)} (rule `{ingest.parts.rule}`) and the "
            f"pitches {low} to {high} of the models; its tracks are {list(notes.track_names)!r:.200}; rename them"
        )
    return part, steps


def _at_bar(
    parent: Parent, packed: UInt8[np.ndarray, "S X"], bars: Int[np.ndarray, " R"], name: str, view: View
) -> _Windows:
    """The window that starts at the parent's bar of a piece."""
    label = f"{parent.kind}:{Path(parent.name).name if parent.kind == 'file' else parent.name}@{parent.bar}"
    if parent.bar > len(bars):
        raise ParamsError(f"parent {label}: it has {len(bars)} bars; name one of them")
    start = int(bars[parent.bar - 1])
    least = least_steps(view)
    if len(packed) - start < least:
        raise ParamsError(
            f"parent {label}: {len(packed) - start} steps are left from there, and a window of {view.steps} needs "
            f"{least} (train.view.min_fill); name an earlier bar"
        )
    return _Windows.one(packed, bars, start, f"{parent.kind}:{name}@{parent.bar}")


def _sample(parent: Parent, sample: ParentSample, layout: Layout) -> _Windows:
    parts = sample.planes.shape[1]
    if parts != len(layout.parts):
        raise ParamsError(
            f"parent sample:{parent.name}: its music has {parts} part(s), the corpus {len(layout.parts)}; samples of a "
            "model that merges parts cannot be parents"
        )
    bars = np.arange(0, len(sample.planes), 4 * layout.steps_per_beat)
    return _Windows.one(pack(sample.planes), bars, 0, f"sample:{parent.name}", sample.z)


# --- the pool ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pool:
    """All windows that a job may come from, the ones of each parent together.

    Attributes:
        packed, place: steps of all pieces and their places, mapped into memory.
        of_parent: per parent the windows that its text stands for.
        labels: of each window: which piece and bar, which file, which sample.
        z: the latent of each window that has one of its own.
    """

    packed: UInt8[np.ndarray, "S X"]
    place: UInt8[np.ndarray, "S 4"]
    layout: Layout
    start: Int[np.ndarray, " W"]
    stop: Int[np.ndarray, " W"]
    first: Int[np.ndarray, " W"]
    of_parent: tuple[Int[np.ndarray, " _"], ...]
    labels: tuple[str, ...]
    z: Mapping[int, Float32[np.ndarray, " Z"]]

    @classmethod
    @lru_cache(maxsize=4)
    def open(cls, folder: Path) -> Pool:
        """The pool in a folder, opened once per process.

        Raises:
            CorruptError: the table is damaged.
        """
        table = tables.read(folder / WINDOWS, schema.PARENTS)
        parent = table["parent"].to_numpy()
        start, stop, first = (table[name].to_numpy() for name in ("start", "stop", "first"))
        return cls(
            packed=np.load(folder / STEPS, mmap_mode="r", allow_pickle=False),
            place=np.load(folder / PLACES, mmap_mode="r", allow_pickle=False),
            layout=Layout.from_json(tables.read_extra(folder / WINDOWS, schema.PARENTS, "layout")),
            start=start,
            stop=stop,
            first=first,
            of_parent=tuple(np.flatnonzero(parent == i) for i in range(int(parent.max()) + 1)),
            labels=tuple(table["label"].to_pylist()),
            z={i: np.array(z, np.float32) for i, z in enumerate(table["z"].to_pylist()) if z is not None},
        )

    def windows(self, index: Int[np.ndarray, " B"], view: View) -> Bool[np.ndarray, "B {view.steps} N 2 P"]:
        """Windows as a model of this view sees them, with both planes; silence behind the end of a piece."""
        both = view.model_copy(update={"planes": "onset+frame"})
        return cut_windows(self.packed, self.layout, self.start[index], self.stop[index], both)

    def places(self, index: Int[np.ndarray, " B"], n_steps: int) -> UInt8[np.ndarray, "B {n_steps} 4"]:
        """The places of the steps of windows; 0 behind the end of a piece."""
        rows = self.start[index, None] + np.arange(n_steps)
        inside = rows < self.stop[index, None]
        return np.asarray(self.place[np.where(inside, rows, 0)]) * inside[..., None].astype(np.uint8)

    def any_window(self, parent: int, rng: np.random.Generator) -> int:
        """One of the windows that a parent stands for."""
        windows = self.of_parent[parent]
        return int(windows[rng.integers(len(windows))])

    def begins(self, index: Int[np.ndarray, " B"]) -> Bool[np.ndarray, " B"]:
        """Whether a window is the first of its piece."""
        found: np.ndarray = self.start[index] == self.first[index]
        return found
