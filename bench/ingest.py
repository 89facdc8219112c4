"""How fast is ingest? Beside bare file reading, a bare parse, and the ways others go from MIDI files to piano rolls.

    python bench/ingest.py FOLDER_OR_ZIP [--repeats 5] [--peer-files 100]

All in one process on one core, in turn, several rounds of all; the median and the spread of the rounds are given, and
every ratio is taken within its round. The ceiling is the bare parse: symusic on bytes in memory. Slow peers see a
sample of the files (`--peer-files`), the same for all of them, and so do the figures that they are compared with.

    read        the bytes of every file
    parse       symusic.Score.from_midi of those bytes, and nothing more
    ingest      ours: read, sha256, parse, check, quantise, two planes per part, pack, facts, Parquet with checksums
    pretty_midi pretty_midi.PrettyMIDI(file).get_piano_roll(fs = steps a second at the file's tempo)
    muspy       muspy.read_midi(file).adjust_resolution(4).to_pianoroll_representation()
    pypianoroll pypianoroll.read(file, resolution=4)
    miditok     miditok.REMI()(symusic.Score(file)): tokens, no roll, a modern peer of the same reader
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import symusic

from midivae import ingest
from midivae.params import Ingest, Parts
from midivae.schema import CORPUS, FACTS
from midivae.store import read_table

STEPS_PER_BEAT = 4


def main() -> None:
    """Runs every contestant in turn, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder or a zip of MIDI files")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of all contestants")
    parser.add_argument("--peer-files", type=int, default=100, help="files that the slow peers see")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder = _folder(args.source, Path(scratch) / "midi")
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".mid", ".midi"))
        few = random.Random(0).sample(paths, min(args.peer_files, len(paths)))
        report(measure(paths, folder, args.repeats, Path(scratch)), measure_peers(few, folder, args.repeats, scratch))


def _folder(source: Path, target: Path) -> Path:
    if source.is_dir():
        return source
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            if name.lower().endswith((".mid", ".midi")):
                (target / Path(name).name).parent.mkdir(parents=True, exist_ok=True)
                (target / Path(name).name).write_bytes(archive.read(name))
    return target


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _ours(paths: list[Path], folder: Path, scratch: Path) -> Callable[[], int]:
    """The whole ingest of these files, from nothing, in this process; the corpus table is made beforehand."""
    rows = [
        {
            "path": path.relative_to(folder).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
            "source": "bench",
            "origin": path.name,
        }
        for path in paths
    ]
    corpus = pa.Table.from_pylist(rows, CORPUS.columns)
    params = Ingest(pitch_low=0, pitches=128, parts=Parts(rule="program"))

    def work() -> int:
        os.environ["MIDIVAE_HOME"] = tempfile.mkdtemp(dir=scratch)
        shards = ingest.plan(corpus, folder, params)
        for shard in shards:
            ingest.make_shard(shard, lambda _: None)
        return sum(read_table(shard.facts, FACTS).num_rows for shard in shards)

    return work


def measure(paths: list[Path], folder: Path, repeats: int, scratch: Path) -> dict[str, object]:
    """Seconds of each round over all files: read, parse, ingest."""
    data = [path.read_bytes() for path in paths]
    contestants = {
        "read": lambda: [path.read_bytes() for path in paths],
        "parse": lambda: [symusic.Score.from_midi(one) for one in data],
        "ingest": _ours(paths, folder, scratch),
    }
    notes = sum(symusic.Score.from_midi(one).note_num() for one in data)
    for work in contestants.values():
        work()  # warm up: caches of files, code and memory
    rounds = [{name: _timed(work) for name, work in contestants.items()} for _ in range(repeats)]
    return {"files": len(paths), "notes": notes, "rounds": rounds}


def measure_peers(paths: list[Path], folder: Path, repeats: int, scratch: str) -> dict[str, object]:
    """Seconds of each round over a sample of the files: ours and the peers."""
    import miditok
    import muspy
    import pretty_midi
    import pypianoroll

    tokenizer = miditok.REMI()

    def roll_of_pretty_midi(path: Path) -> np.ndarray:
        midi = pretty_midi.PrettyMIDI(str(path))
        steps_per_second = STEPS_PER_BEAT * midi.get_tempo_changes()[1][0] / 60
        return midi.get_piano_roll(fs=steps_per_second)

    each: dict[str, Callable[[Path], object]] = {
        "pretty_midi": roll_of_pretty_midi,
        "muspy": lambda p: muspy.read_midi(p).adjust_resolution(STEPS_PER_BEAT).to_pianoroll_representation(),
        "pypianoroll": lambda p: pypianoroll.read(p, resolution=STEPS_PER_BEAT),
        "miditok": lambda p: tokenizer(symusic.Score(p)),
    }
    contestants: dict[str, Callable[[], object]] = {"ingest": _ours(paths, folder, Path(scratch))}
    for name, work in each.items():
        contestants[name] = lambda work=work: [_or_none(work, path) for path in paths]  # type: ignore[misc]
    contestants["ingest"]()
    rounds = [{name: _timed(work) for name, work in contestants.items()} for _ in range(repeats)]
    return {"files": len(paths), "rounds": rounds}


def _or_none(work: Callable[[Path], object], path: Path) -> object:
    """A peer that refuses a file is not stopped by it."""
    try:
        return work(path)
    except Exception:
        return None


def report(ours: dict, peers: dict) -> None:
    """A table for people; the last line is JSON."""
    n, rounds = ours["files"], ours["rounds"]
    print(f"{n} files, {ours['notes']} notes; {len(rounds)} rounds; median (least to most)\n")
    for name in rounds[0]:
        times = sorted(r[name] for r in rounds)
        ms = [t / n * 1e3 for t in times]
        rate = f"{n / median(times):9.0f} files/s {ours['notes'] / median(times):11.0f} notes/s"
        print(f"{name:12} {median(ms):8.3f} ms a file ({ms[0]:.3f} to {ms[-1]:.3f}) {rate}")
    over_parse = sorted(r["ingest"] / r["parse"] for r in rounds)
    print(
        f"\ningest takes {median(over_parse):.2f} ({over_parse[0]:.2f} to {over_parse[-1]:.2f}) times the bare parse\n"
    )
    print(f"beside peers, on {peers['files']} of the files:")
    ratios = {}
    for name in peers["rounds"][0]:
        times = sorted(r[name] for r in peers["rounds"])
        ratio = sorted(r[name] / r["ingest"] for r in peers["rounds"])
        ratios[name] = [round(x, 2) for x in (median(ratio), ratio[0], ratio[-1])]
        took = f"{median(times) / peers['files'] * 1e3:9.3f} ms a file"
        print(f"{name:12} {took}, {ratios[name][0]:8.1f} ({ratio[0]:.1f} to {ratio[-1]:.1f}) times as long as ingest")
    facts = {
        "bench": "ingest",
        "files": n,
        "notes": ours["notes"],
        "ms_per_file": {name: round(median(r[name] for r in rounds) / n * 1e3, 4) for name in rounds[0]},
        "ingest_over_parse": [round(x, 3) for x in (median(over_parse), over_parse[0], over_parse[-1])],
        "peers_over_ingest": ratios,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **hardware(),
    }
    print(json.dumps(facts))


def hardware() -> dict[str, object]:
    """Where and with what this was measured."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    packages = ("numpy", "pyarrow", "symusic", "pretty_midi")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": commit.stdout.strip() or None,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
