"""Bach's chorales: the scores in music21's wheel, converted to MIDI in child processes, since verovio may crash.

Offers: `convert_all`, `folder`, `LICENCE`, and for the child processes `Scores` and `convert`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from midivae.config.params import Params
from midivae.errors import InputError
from midivae.fetch import musicxml
from midivae.music import smf
from midivae.workers import parallel
from midivae.workers.child import Beat
from midivae.workers.outcome import Failure

LICENCE = (
    "no rights stated in the score; composer in the public domain; distributed with music21 by permission of the "
    "encoders (music21/corpus/license.txt)"
)
SCORES_PER_SPEC = 16
MEMORY_BYTES = 2 << 30  # for the conversion of one batch of scores


@dataclass(frozen=True)
class Scores:
    """A batch of scores to convert.

    Attributes:
        paths: the files.
        failed: (index of a file that ended a child process, what happened); these are not tried again.
    """

    paths: tuple[str, ...]
    failed: tuple[tuple[int, str], ...] = ()


def convert_all(params: Params) -> Iterator[tuple[str, bytes | str]]:
    """The file name of each chorale, with its MIDI bytes or the reason why it could not be converted."""
    paths = [str(path) for path in sorted(folder().glob("*.mxl"))]
    specs = [Scores(tuple(paths[i : i + SCORES_PER_SPEC])) for i in range(0, len(paths), SCORES_PER_SPEC)]
    smf.compile_loops()  # here, so that no child has to under its time limit
    outcomes = parallel.fan_out(
        convert,
        specs,
        params.compute,
        retry=_without_failed,
        label="fetch",
        time_limit_s=params.fetch.time_limit_s,
        memory_bytes=MEMORY_BYTES,
    )
    with tqdm(total=len(paths), unit="score", desc="fetch", disable=None, file=sys.stderr) as bar:
        for index, outcome in outcomes:
            for path, result in zip(specs[index].paths, outcome.get(), strict=True):
                yield Path(path).name, result
            bar.update(len(specs[index].paths))


def folder() -> Path:
    """The folder of music21's Bach scores; music21 itself is slow to import, so it is only located."""
    package = importlib.util.find_spec("music21")
    scores = Path(str(package.origin)).parent / "corpus" / "bach" if package is not None else Path("music21")
    if not any(scores.glob("*.mxl")):
        raise InputError(
            f"{scores}: no Bach chorales there; they come with the package music21 (pip install music21), whose wheel "
            "some systems ship without its corpus"
        )
    return scores


def convert(scores: Scores, beat: Beat) -> list[bytes | str]:
    """The MIDI bytes of each score, or why there are none; runs in a child process."""
    failed = dict(scores.failed)
    results: list[bytes | str] = []
    for index, path in enumerate(scores.paths):
        beat(index)
        try:
            results.append(failed.get(index) or smf.write(musicxml.read(Path(path).read_bytes())))
        except (InputError, OSError) as error:
            results.append(str(error))
    return results


def _without_failed(scores: Scores, failure: Failure) -> Scores | None:
    """The batch to try again after a child process ended: without the score it was working on."""
    if failure.item is None:
        return None
    return replace(scores, failed=(*scores.failed, (failure.item, f"{failure.kind}: {failure.detail}")))
