"""How does ingest grow? From a thousand files to as many as Lakh has (176,581), and then one file in a hundred more.

    python bench/scale.py FOLDER_OR_ZIP [...] [--counts 1000 10000 176581] [--workers 2]

The files given are multiplied: each copy is transposed and starts some steps later, so that no two have the same bytes.
For every count the corpus is written, ingested from nothing (seconds, milliseconds a file, the most memory that any
process of ours took), then 1 % of other files is added and ingested again (as a share of the whole, by the wall clock
and in processor time). The ceiling of an increment is its share of files; what is above it is bookkeeping.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from hardware import hardware
from tqdm import tqdm

from midivae.config.compute import Compute
from midivae.config.ingest import Ingest, Parts
from midivae.config.params import Params
from midivae.ingest import stage as ingest
from midivae.music import smf
from midivae.music.notes import Notes
from midivae.storage import tables
from midivae.storage.schema import CORPUS

LAKH = 176_581


def main() -> None:
    """Writes, ingests and grows a corpus of each size; prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", help="folders or zips of MIDI files")
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, LAKH])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    originals = [smf.read(data).notes for source in args.sources for data in _files(source)]
    print(
        f"{len(originals)} files to begin with, {sum(map(len, originals)) / len(originals):.0f} notes each on average\n"
    )
    rows = [_one(originals, count, args.workers) for count in args.counts]
    for row in rows:
        print(
            f"{row['files']:7} files: {row['seconds']:8.1f} s, {row['ms_per_file']:.3f} ms a file; most memory of a "
            f"process {row['peak_mib']} MiB; 1 % more in {row['increment_s']:.2f} s, "
            f"{100 * row['increment_share']:.1f} % of the whole, by processor time {row['increment_cpu_s']:.2f} of "
            f"{row['cpu_s']:.1f} s, {100 * row['increment_cpu_share']:.1f} %; {row['accepted']} accepted"
        )
    print(json.dumps({"bench": "scale", "workers": args.workers, "rows": rows, **hardware("pyarrow", "symusic")}))


def _files(source: Path) -> Iterator[bytes]:
    if source.is_dir():
        yield from (path.read_bytes() for path in sorted(source.rglob("*.mid")))
        return
    with zipfile.ZipFile(source) as archive:
        yield from (archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".mid"))


def _copy(original: Notes, number: int) -> bytes:
    """Copy `number` of a piece: elsewhere in pitch and time; number 0 is the piece itself."""
    shift = (number * 5) % 12 - 5 if number else 0
    pitch = np.clip(original.pitch.astype(np.int64) + shift, 0, 127).astype(np.uint8)
    later = original.onset_tick + np.int32(number * original.ticks_per_quarter // 4)
    return smf.write(replace(original, pitch=pitch, onset_tick=later))


def _one(originals: list[Notes], count: int, workers: int) -> dict[str, float]:
    more = max(1, count // 100)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        os.environ["MIDIVAE_HOME"] = str(Path(scratch) / "work")
        rows = list(_write(originals, data / "corpus" / "midi", count + more))
        random.Random(0).shuffle(rows)  # so that what comes later comes from everywhere
        params = Params(
            compute=Compute(workers=workers), ingest=Ingest(parts=Parts(rule="merged"), pitch_low=21, pitches=88)
        )
        seconds, cpu_s, summary = _ingest(rows[:count], data, params)
        increment_s, increment_cpu_s, _ = _ingest(rows, data, params)
        shutil.rmtree(data)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "files": count,
        "seconds": round(seconds, 2),
        "ms_per_file": round(seconds / count * 1e3, 4),
        "peak_mib": peak // 1024,
        "increment_s": round(increment_s, 2),
        "increment_share": round(increment_s / seconds, 4),
        "cpu_s": round(cpu_s, 2),
        "increment_cpu_s": round(increment_cpu_s, 2),
        "increment_cpu_share": round(increment_cpu_s / cpu_s, 4),
        "accepted": summary["accepted"],  # type: ignore[dict-item]
    }


def _write(originals: list[Notes], folder: Path, count: int) -> Iterator[dict[str, object]]:
    """Writes `count` files, and yields their rows of the corpus table."""
    for number in tqdm(range(count), desc=f"write {count}", unit="file", disable=None):
        data = _copy(originals[number % len(originals)], number // len(originals))
        path = f"{number // 1000:03d}/{number:06d}.mid"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        yield {"path": path, "sha256": sha256, "bytes": len(data), "source": "scale", "origin": path}


def _ingest(rows: list[dict[str, object]], data: Path, params: Params) -> tuple[float, float, dict[str, object]]:
    """Seconds by the wall clock and of processor time, ours and that of the workers; and what ingest says."""
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["path"])), CORPUS.columns)
    tables.write(data / "corpus" / "corpus.parquet", table, CORPUS)
    start, cpu = time.perf_counter(), _processor_s()
    summary = ingest.run(params, data)
    return time.perf_counter() - start, _processor_s() - cpu, summary


def _processor_s() -> float:
    """Processor time of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    main()
