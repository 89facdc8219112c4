"""Bytes of every kind get a verdict: no crash, no hang, no unbounded memory.

The default suite tries a few hundred inputs through the real stage, with its worker processes and limits; `-m slow`
tries 20,000 more.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pieces import as_fetched, hand_made, notes_of

from midivae.config.compute import Compute
from midivae.config.ingest import Ingest, IngestLimits, Parts
from midivae.config.params import Params
from midivae.ingest import stage as ingest
from midivae.music import smf
from midivae.music.notes import Notes
from midivae.music.reasons import REASONS

LIMITS = IngestLimits(
    max_bytes=200_000, max_notes=2_000, max_tracks=20, max_steps=4_000, time_s=60.0, memory_bytes=600 * 2**20
)


def params(limits: IngestLimits = LIMITS, workers: int = 2) -> Params:
    settings = Ingest(parts=Parts(rule="merged"), pitch_low=0, pitches=128, limits=limits, pieces_per_shard=128)
    return Params(compute=Compute(workers=workers), ingest=settings)


def header(resolution: int = 480, tracks: int = 1, kind: int = 1) -> bytes:
    return b"MThd" + struct.pack(">IHHH", 6, kind, tracks, resolution)


def track(body: bytes) -> bytes:
    return b"MTrk" + struct.pack(">I", len(body)) + body


def quantity(value: int) -> bytes:
    """A variable-length quantity of the MIDI standard."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(0x80 | value & 0x7F)
    return bytes(reversed(digits))


NOTE = b"\x00\x90\x3c\x40\x60\x80\x3c\x40"
END = b"\x00\xff\x2f\x00"
MUSIC = NOTE * 24  # enough for a roll: 24 notes, 19 steps
FAR = quantity(2**28 - 1)  # the largest delta there is

# hand-made bombs, and what is said of each
BOMBS: dict[str, tuple[bytes, set[str]]] = {
    "notes": (header() + track(NOTE * 20_000 + END), {"too_many_notes"}),
    "bytes": (header() + track(NOTE * 40_000 + END), {"too_large"}),
    "tracks": (header(tracks=200) + track(NOTE + END) * 200, {"too_many_tracks"}),
    "long": (header(1) + track(MUSIC + FAR + NOTE[1:] + END), {"too_long"}),
    "overflow": (header() + track((FAR + NOTE[1:]) * 20 + END), {"bad_time"}),
    "resolution 0": (header(0) + track(MUSIC + END), {"bad_resolution"}),
    "smpte": (header(0xE728) + track(MUSIC + END), {"bad_resolution"}),
    "huge chunk": (header() + b"MTrk" + struct.pack(">I", 2**32 - 1) + MUSIC + END, {""}),
    "many tracks in the header": (header(tracks=65_535) + track(MUSIC + END), {""}),
    "long name": (header() + track(b"\x00\xff\x03" + quantity(150_000) + b"\x00" * 150_000 + MUSIC + END), {""}),
    "name of any bytes": (header() + track(b"\x00\xff\x03\x06\xff\xfe\x00\n\xed\xa0" + MUSIC + END), {""}),
    "tempo 0": (header() + track(b"\x00\xff\x51\x03\x00\x00\x00" + MUSIC + END), {""}),
    "signature 0/4": (header() + track(b"\x00\xff\x58\x04\x00\x02\x18\x08" + MUSIC + END), {""}),
    "signature 4/2^255": (header() + track(b"\x00\xff\x58\x04\x04\xff\x18\x08" + MUSIC + END), {""}),
    "key 127": (header() + track(b"\x00\xff\x59\x02\x7f\x07" + MUSIC + END), {""}),
    "no end": (header() + track(b"\x00\x90\x3c\x40"), {"short"}),
    "only a header": (header(), {"no_notes"}),
    "a million tempi": (header() + track(b"\x01\xff\x51\x03\x07\xa1\x20" * 20_000 + MUSIC + END), {""}),
    "bars of 6 ticks": (header(96) + track(b"\x00\xff\x58\x04\x01\x06\x18\x08" + MUSIC + END), {""}),
}


def broken(count: int, seed: int) -> dict[str, bytes]:
    """Real files with bytes flipped, cut, doubled, dropped or put in, and bytes that never were a file."""
    rng = random.Random(seed)
    sources = [hand_made(), *(data for data, _ in BOMBS.values() if len(data) < 1_000)]
    sources += [smf.write(_music(i)) for i in range(10)]
    files = {}
    for number in range(count):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randint(1, 4)):
            data = rng.choice(MUTATIONS)(data, rng)
        files[f"{number:05d}.mid"] = bytes(data)
    return files


def _music(seed: int) -> Notes:
    rng = np.random.default_rng(seed)
    onsets = np.cumsum(rng.integers(0, 4, 60))
    columns = (onsets * 120, rng.integers(1, 9, 60) * 120, rng.integers(0, 128, 60))
    return notes_of([(int(t), int(d), int(p)) for t, d, p in zip(*columns, strict=True)])


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _poke(data: bytearray, rng: random.Random) -> bytearray:
    if data:
        data[rng.randrange(len(data))] = rng.choice([0x00, 0x7F, 0x80, 0xFF, 0x90, 0xF0, 0xF7, 0x2F, 0x51, 0x58])
    return data


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randint(0, len(data))]


def _double(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randint(0, len(data))
    return data[:start] + data[start : start + rng.randint(0, 64)] * 2 + data[start:]


def _drop(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randint(0, len(data))
    return data[:start] + data[start + rng.randint(0, 16) :]


def _noise(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randint(0, len(data))
    return data[:start] + rng.randbytes(rng.randint(0, 32)) + data[start:]


Mutation = Callable[[bytearray, random.Random], bytearray]
MUTATIONS: list[Mutation] = [_flip, _flip, _poke, _poke, _cut, _double, _drop, _noise]


@pytest.fixture(autouse=True)
def own_work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))


def verdicts(data: Path, files: dict[str, bytes], settings: Params | None = None) -> pd.DataFrame:
    """The table of pieces after ingesting these files, and one sound file, so that something is accepted."""
    as_fetched(data, files | {"sound.mid": smf.write(_music(99))})
    summary = ingest.run(settings or params(), data)
    table = pd.read_parquet(data / "rolls" / "pieces.parquet").set_index("path")
    assert summary["found"] == len(files) + 1 == table.accepted.sum() + table.reason.notna().sum()
    assert set(table.reason.dropna()) <= set(REASONS)
    assert table[~table.accepted].detail.str.len().gt(0).all()
    return table


def test_bombs_are_defused(tmp_path: Path) -> None:
    table = verdicts(tmp_path, {f"{name}.mid".replace("/", " "): data for name, (data, _) in BOMBS.items()})
    for name, (_, expected) in BOMBS.items():
        row = table.loc[f"{name}.mid".replace("/", " ")]
        assert ("" if row.accepted else row.reason) in expected, (name, row.reason, row.detail)


def test_a_few_hundred_broken_files_each_get_a_verdict(tmp_path: Path) -> None:
    table = verdicts(tmp_path, broken(400, seed=1))
    assert not set(table.reason.dropna()) & {"crashed", "timeout", "memory"}
    assert 20 < table.accepted.sum() < 380  # the mutations are neither harmless nor all fatal


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_broken_files_each_get_a_verdict(tmp_path: Path) -> None:
    seed = int(os.environ.get("FUZZ_SEED", "2"))
    table = verdicts(tmp_path, broken(20_000, seed))
    print(table.reason.value_counts(dropna=False).to_string())
