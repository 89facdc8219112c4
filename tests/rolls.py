"""Small rolls for tests, and `data/rolls` written as stage `ingest` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from midivae.music.roll import FRAME, ONSET, Layout, pack
from midivae.storage import folders, tables
from midivae.storage.schema import PIECES, SHARD
from midivae.windows.corpus import Corpus

LAYOUT = Layout(("high", "low"), pitch_low=60, pitches=12, steps_per_beat=4)


def planes_of(rng: np.random.Generator, n_steps: int, layout: Layout = LAYOUT) -> np.ndarray:
    """One voice per part, with notes of 1 to 4 steps and no rests: [T, N, 2, P]."""
    planes = np.zeros((n_steps, len(layout.parts), 2, layout.pitches), bool)
    for part in range(len(layout.parts)):
        step = 0
        while step < n_steps:
            length, pitch = int(rng.integers(1, 5)), int(rng.integers(layout.pitches))
            planes[step, part, ONSET, pitch] = True
            planes[step : step + length, part, FRAME, pitch] = True
            step += length
    return planes


def made_up(n_pieces: int, seed: int = 0, layout: Layout = LAYOUT, least: int = 24, most: int = 64) -> list[np.ndarray]:
    """Pieces of various lengths."""
    rng = np.random.default_rng(seed)
    return [planes_of(rng, int(rng.integers(least, most + 1)), layout) for _ in range(n_pieces)]


def piece_id(number: int) -> str:
    """Ids whose order is not the order of the pieces."""
    return f"{(number * 7919 + 13) % 10007:016x}"


def write_rolls(
    folder: Path,
    pieces: Sequence[np.ndarray],
    splits: Sequence[str],
    layout: Layout = LAYOUT,
    n_shards: int = 2,
    programs: Sequence[int] | None = None,
) -> None:
    """Writes pieces as shards and a table of pieces, bars every 8 steps; piece i has tempo 100 + i."""
    rows = [
        {
            "piece_id": piece_id(i),
            "parts": list(layout.parts),
            "n_steps": len(planes),
            "planes": tables.compress(np.ascontiguousarray(pack(planes).T)),
            "bar_starts": list(range(0, len(planes), 8)),
            "tempo_qpm": 100.0 + i,
            "programs": list(programs or range(len(layout.parts))),
        }
        for i, planes in enumerate(pieces)
    ]
    blank = dict.fromkeys(PIECES.columns.names)
    table = [
        blank
        | {"path": f"{i}.mid", "piece_id": piece_id(i), "sha256": piece_id(i) * 4, "bytes": 1}
        | {"accepted": True, "split": split, "shard": i % n_shards}
        for i, split in enumerate(splits)
    ]
    rejected = blank | {"path": "bad.mid", "piece_id": "f" * 16, "sha256": "f" * 64, "bytes": 1}
    rejected |= {"accepted": False, "reason": "empty", "shard": 0}
    with folders.publishing(folder) as staging:
        for number in range(n_shards):
            tables.write(
                staging / f"part-{number:05d}-of-{n_shards:05d}.parquet",
                pa.Table.from_pylist(rows[number::n_shards], SHARD.columns),
                SHARD,
                {"layout": layout.to_json()},
            )
        tables.write(staging / "pieces.parquet", pa.Table.from_pylist([*table, rejected], PIECES.columns), PIECES)


def corpus_of(pieces: list[np.ndarray], layout: Layout = LAYOUT, bar: int = 8) -> Corpus:
    """Pieces as a corpus in memory, with a bar line every `bar` steps."""
    lengths = [len(planes) for planes in pieces]
    return Corpus(
        packed=np.concatenate([np.zeros((0, layout.bytes_per_step), np.uint8), *map(pack, pieces)]),
        starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        piece_ids=tuple(piece_id(i) for i in range(len(pieces))),
        bar_starts=tuple(np.arange(0, length, bar) for length in lengths),
        tempo_qpm=np.full(len(pieces), 120.0, np.float32),
        programs=np.zeros((len(pieces), len(layout.parts)), np.int32),
        layout=layout,
    )
