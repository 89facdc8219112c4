"""How fast does `midivae.music.smf` parse, and is it right? Beside symusic, and judged by mido.

    python bench/smf.py FOLDER_OR_ZIP ... [--repeats 7] [--no-judge] [--fewest 1]

Speed: all in one process and one thread, bytes in memory. `smf.read` gives `Notes`, with programs and drums in order of
time, names, tempi and time signatures; symusic's `Score.from_midi` gives a score in C++, whose notes are not yet
arrays; `symusic arrays` is the same and a `numpy()` of each track. The contestants take turns, round after round; the
median of the rounds and their spread are given, and every ratio is taken within its round. The clock is the processor
time of the process. Beside it the seconds that the first file took: compiling, or loading what was compiled before.

Judge: mido reads each file, event by event, and `tests/music/smf_files.py` says what these events mean by the rules of
`smf`, slowly and without its code. Onset, end, pitch, velocity, program and drum of every note must be the same, and
so must tempi and time signatures. Files that mido refuses, or `smf.read`, are counted, by reason.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from hardware import hardware, peer
from music.smf_files import as_mido_reads, meaning

from midivae.errors import MidiError
from midivae.music import smf
from midivae.storage.paths import is_midi

symusic = peer("symusic")
core = peer("symusic.core")


def main() -> None:
    """Reads all files, and prints tables and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", help="folders and zips of MIDI files")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of all contestants")
    parser.add_argument("--no-judge", action="store_true", help="speed only")
    parser.add_argument("--fewest", type=int, default=1, help="speed: only sources with so many files")
    args = parser.parse_args()
    result: dict[str, object] = {"hardware": hardware(), "symusic": symusic.__version__, "sources": {}}
    for source in args.sources:
        files = dict(files_of(source))
        print(f"{source.name}: {len(files)} files, {sum(map(len, files.values())) / 1e6:.1f} MB")
        figures: dict[str, object] = {"files": len(files)}
        if len(files) >= args.fewest:
            figures |= speed(list(files.values()), args.repeats)
        if not args.no_judge:
            figures |= judged(files)
        result["sources"][str(source)] = figures  # type: ignore[index]
    print(json.dumps(result))


def files_of(source: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the MIDI files of a folder or a zip."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if is_midi(path.name):
                yield str(path), path.read_bytes()
        return
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            if is_midi(name):
                yield name, archive.read(name)


def _by_smf(data: bytes) -> None:
    try:
        smf.read(data)
    except MidiError:
        return


def _by_symusic(data: bytes) -> None:
    try:
        core.ScoreTick.from_midi(data, False)
    except (RuntimeError, ValueError, UnicodeDecodeError):
        return


def _by_symusic_arrays(data: bytes) -> None:
    try:
        score = core.ScoreTick.from_midi(data, False)
    except (RuntimeError, ValueError, UnicodeDecodeError):
        return
    for track in score.tracks:
        track.notes.numpy()


CONTESTANTS = {"smf.read": _by_smf, "symusic": _by_symusic, "symusic arrays": _by_symusic_arrays}


def speed(files: list[bytes], repeats: int) -> dict[str, object]:
    """Microseconds a file, and how often faster `smf.read` is."""
    first = _seconds(_by_smf, files[:1])
    rounds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(repeats + 1):
        for name, contestant in CONTESTANTS.items():
            seconds = _seconds(contestant, files)
            if number:  # the first round warms up
                rounds[name].append(1e6 * seconds / len(files))
    print(f"  first file {first:.2f} s; then, in microseconds a file, {repeats} rounds:")
    ratios = {}
    for name, mine in rounds.items():
        each = [theirs / own for theirs, own in zip(mine, rounds["smf.read"], strict=True)]
        ratios[name] = round(median(each), 2)
        print(f"  {name:15} {median(mine):7.1f}  ({min(mine):.1f} to {max(mine):.1f})  x {ratios[name]:.2f}")
    return {"us": {name: round(median(mine), 1) for name, mine in rounds.items()}, "ratio": ratios}


def _seconds(contestant: Callable[[bytes], None], files: list[bytes]) -> float:
    gc.collect()
    begun = time.process_time()
    for data in files:
        contestant(data)
    return time.process_time() - begun


def judged(files: dict[str, bytes]) -> dict[str, object]:
    """How many files mean the same to mido's events and to `smf.read`."""
    verdicts: Counter[str] = Counter()
    n_notes = 0
    for name, data in files.items():
        verdict, notes = _verdict(data)
        verdicts[verdict] += 1
        n_notes += notes
        if verdict.startswith("DIFFERS"):
            print(f"  {verdict}: {name}")
    for verdict, count in verdicts.most_common():
        print(f"  {count:6} {verdict}")
    print(f"  {n_notes} notes are the same")
    return {"verdicts": dict(verdicts), "notes": n_notes}


def _verdict(data: bytes) -> tuple[str, int]:
    try:
        file = smf.read(data)
    except MidiError as error:
        return f"rejected as {error.code}", 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tracks = as_mido_reads(data, clip=True)
    except Exception as error:  # mido raises whatever the bytes lead it into
        return f"mido refuses it: {type(error).__name__}", 0
    meant = meaning(tracks)
    notes = file.notes
    end = notes.onset_tick.astype(np.int64) + notes.duration_tick
    columns = (notes.onset_tick, end, notes.pitch, notes.velocity, notes.program, notes.is_drum)
    own = sorted(zip(*(column.tolist() for column in columns), strict=True))
    theirs = sorted((n.onset, n.end, n.pitch, n.velocity, n.program, n.drum) for n in meant.notes)
    if own != theirs:
        return f"DIFFERS in notes ({len(own)}, mido {len(theirs)})", 0
    if [tuple(tempo) for tempo in notes.tempos] != list(meant.tempos.items()):
        return "DIFFERS in tempi", len(own)
    return "the same", len(own)


if __name__ == "__main__":
    main()
