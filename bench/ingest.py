"""How fast is ingest? Beside bare file reading, a bare parse, and the ways others go from MIDI files to piano rolls.

    python bench/ingest.py FOLDER_OR_ZIP [--repeats 5] [--peer-files 100] [--peers pretty_midi ...]

All in one process, with the settings of a worker process of ours, in turn, several rounds of all; the median and the
spread of the rounds are given, and every ratio is taken within its round. The clock is the processor time of the
process, so that neighbours on a shared machine count as little as may be; the wall clock stands beside it in the last
line. The ceiling is the bare parse: symusic on bytes in memory, each score dropped before the next. Slow peers see a
sample of the files (`--peer-files`); what is compared is the time a file takes, theirs in the sample and ours in all.

    read        the bytes of every file
    parse       symusic.Score.from_midi of those bytes, and nothing more
    work        ours, what a worker does: read, sha256, parse, check, quantise, two planes per part, pack, facts, hashes
                and sketches for duplicates, Parquet with checksums
    ingest      ours, the whole stage from nothing: the same, then duplicates, splits, shards, table of pieces, manifest
    pretty_midi pretty_midi.PrettyMIDI(file).get_piano_roll(fs = steps a second at the file's tempo)
    muspy       muspy.read_midi(file).adjust_resolution(4).to_pianoroll_representation()
    pypianoroll pypianoroll.read(file, resolution=4)
    miditok     miditok.REMI()(symusic.Score(file)): tokens, no roll, a modern peer of the same reader

Ours runs with several layouts: `parts` are the three that POP909 has (MELODY, BRIDGE, PIANO) on the default grid and
pitches (48), `piano` the same on the 88 keys of a piano, `merged` one part of 88 pitches, `program` the five families
of the Lakh Pianoroll Dataset with all 128. Ratios to peers are those of `piano`. A worker's start, half a second a run,
is left out.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
from hardware import hardware, peer

from midivae.config.compute import Compute
from midivae.config.ingest import Ingest, Parts
from midivae.config.params import Params
from midivae.ingest import shards
from midivae.ingest import stage as ingest
from midivae.storage import tables
from midivae.storage.paths import is_midi
from midivae.storage.schema import CORPUS
from midivae.workers import parallel
from midivae.workers.child import Beat
from midivae.workers.guard import ENVIRONMENT
from midivae.workers.outcome import Outcome

symusic = peer("symusic")
STEPS_PER_BEAT = 4
OWN = Parts(rule="track", tracks={"melody": ("melody",), "bridge": ("bridge",), "piano": ("piano",)}, rest="rest")
LAYOUTS = {
    "parts": Ingest(parts=OWN),
    "piano": Ingest(parts=OWN, pitch_low=21, pitches=88),
    "merged": Ingest(parts=Parts(rule="merged"), pitch_low=21, pitches=88),
    "program": Ingest(parts=Parts(rule="program"), pitch_low=0, pitches=128),
}
PEERS = ("pretty_midi", "muspy", "pypianoroll", "miditok")


def main() -> None:
    """Runs every contestant in turn, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder or a zip of MIDI files")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of all contestants")
    parser.add_argument("--peer-files", type=int, default=100, help="files that the slow peers see")
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS, help="peers to run")
    args = parser.parse_args()
    if not ENVIRONMENT.items() <= os.environ.items():  # a C library reads its settings when it starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder = _folder(args.source, Path(scratch) / "midi")
        paths = sorted(p for p in folder.rglob("*") if is_midi(p.name))
        few = random.Random(0).sample(paths, min(args.peer_files, len(paths)))
        report(measure(paths, few, folder, args, Path(scratch)), len(few))


def _folder(source: Path, target: Path) -> Path:
    if source.is_dir():
        return source
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            if is_midi(name):
                (target / Path(name).name).parent.mkdir(parents=True, exist_ok=True)
                (target / Path(name).name).write_bytes(archive.read(name))
    return target


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that it takes, of processor time and by the wall clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def _in_this_process(
    fn: Callable[[Any, Beat], Any], specs: Iterable[Any], *_: object, **__: object
) -> Iterator[tuple[int, Outcome]]:
    """Stands in for `parallel.fan_out`."""
    for index, spec in enumerate(specs):
        yield index, Outcome(fn(spec, lambda _: None))


def _ours(paths: list[Path], scratch: Path) -> dict[str, Callable[[], object]]:
    """Per layout what a worker does with these files, and the whole stage, from nothing and in this process."""
    data = scratch / "data"
    shutil.rmtree(data, ignore_errors=True)
    rows = []
    for number, path in enumerate(sorted(paths)):
        (data / "corpus" / "midi").mkdir(parents=True, exist_ok=True)
        name = f"{number:06d}.mid"
        shutil.copyfile(path, data / "corpus" / "midi" / name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append(
            {"path": name, "sha256": digest, "bytes": path.stat().st_size, "source": "bench", "origin": path.name}
        )
    tables.write(data / "corpus" / "corpus.parquet", pa.Table.from_pylist(rows, CORPUS.columns), CORPUS)
    parallel.fan_out = _in_this_process  # type: ignore[assignment]

    def fresh() -> None:
        shutil.rmtree(scratch / "work", ignore_errors=True)
        os.environ["MIDIVAE_HOME"] = str(scratch / "work")

    def work(settings: Params) -> None:
        corpus = tables.read(data / "corpus" / "corpus.parquet", CORPUS)
        for shard in shards.plan(corpus, data / "corpus" / "midi", settings.ingest):
            shards.make_shard(shard, lambda _: None)

    contestants: dict[str, Callable[[], object]] = {}
    for name, layout in LAYOUTS.items():
        settings = Params(compute=Compute(workers=1), ingest=layout)
        contestants[f"work {name}"] = lambda settings=settings: (fresh(), work(settings))  # type: ignore[misc]
        contestants[f"ingest {name}"] = lambda settings=settings: (fresh(), ingest.run(settings, data))  # type: ignore[misc]
    return contestants


def _peer(name: str) -> Callable[[Path], object]:
    """What a peer does with a file; only its own package is imported."""
    package = peer(name)
    if name == "pretty_midi":
        return lambda path: _roll_of_pretty_midi(package.PrettyMIDI(str(path)))
    if name == "muspy":
        return lambda path: package.read_midi(path).adjust_resolution(STEPS_PER_BEAT).to_pianoroll_representation()
    if name == "pypianoroll":
        return lambda path: package.read(path, resolution=STEPS_PER_BEAT)
    tokenizer = package.REMI()
    return lambda path: tokenizer(symusic.Score(path))


def _roll_of_pretty_midi(midi: Any) -> np.ndarray:
    roll: np.ndarray = midi.get_piano_roll(fs=STEPS_PER_BEAT * midi.get_tempo_changes()[1][0] / 60)
    return roll


def _parse(data: list[bytes]) -> None:
    for one in data:
        symusic.Score.from_midi(one)


def measure(
    paths: list[Path], few: list[Path], folder: Path, args: argparse.Namespace, scratch: Path
) -> dict[str, object]:
    """Milliseconds a file, by processor time and by the wall clock, of every contestant in every round."""
    peers = {name: _peer(name) for name in args.peers}  # first, as one may be missing
    data = [path.read_bytes() for path in paths]
    everybody: dict[str, tuple[Callable[[], object], int]] = {
        "read": (lambda: [path.read_bytes() for path in paths], len(paths)),
        "parse": (lambda: _parse(data), len(paths)),
        **{name: (work, len(paths)) for name, work in _ours(paths, scratch).items()},
    }
    notes = sum(symusic.Score.from_midi(one).note_num() for one in data)
    for work, _ in everybody.values():
        work()  # warm up: caches of files, code and memory
    for name, work in peers.items():
        everybody[name] = (lambda work=work: [_or_none(work, path) for path in few]), len(few)  # type: ignore[misc]
    gc.collect()
    gc.freeze()  # what the peers' modules keep is looked through in nobody's time
    rounds = []
    for _ in range(args.repeats):
        times = {name: (*_timed(work), count) for name, (work, count) in everybody.items()}
        rounds.append({name: (cpu / n * 1e3, wall / n * 1e3) for name, (cpu, wall, n) in times.items()})
    return {"files": len(paths), "notes": notes, "rounds": rounds}


def _or_none(work: Callable[[Path], object], path: Path) -> object:
    """A peer that refuses a file is not stopped by it."""
    try:
        return work(path)
    except Exception:
        return None


def report(ours: dict, few: int) -> None:
    """A table for people; the last line is JSON."""
    n, rounds = ours["files"], ours["rounds"]
    per_file = ours["notes"] / n
    print(f"{n} files, {ours['notes']} notes; {len(rounds)} rounds; median (least to most); peers see {few} files\n")
    medians, over_parse, over_ingest = {}, {}, {}
    for name in rounds[0]:
        ms = sorted(r[name][0] for r in rounds)
        medians[name] = [round(median(r[name][clock] for r in rounds), 4) for clock in (0, 1)]
        over_parse[name] = _spread([r[name][0] / r["parse"][0] for r in rounds])
        over_ingest[name] = _spread([r[name][0] / r["ingest piano"][0] for r in rounds])
        rate = f"{1e3 / median(ms):8.0f} files/s {1e3 * per_file / median(ms):11.0f} notes/s"
        times = f"{over_parse[name][0]:7.2f} x parse, {over_ingest[name][0]:7.2f} x ingest piano"
        print(f"{name:15} {median(ms):8.3f} ms a file ({ms[0]:.3f} to {ms[-1]:.3f}) {rate} {times}")
    facts = {
        "bench": "ingest",
        "files": n,
        "peer_files": few,
        "notes": ours["notes"],
        "ms_per_file": {name: cpu for name, (cpu, _) in medians.items()},
        "wall_ms_per_file": {name: wall for name, (_, wall) in medians.items()},
        "over_parse": over_parse,
        "over_ingest": over_ingest,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **hardware("pyarrow", "symusic", "pretty_midi"),
    }
    print(json.dumps(facts))


def _spread(values: list[float]) -> list[float]:
    """Median, least and most."""
    return [round(x, 2) for x in (median(values), min(values), max(values))]


if __name__ == "__main__":
    sys.exit(main())
