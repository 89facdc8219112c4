"""Parts: some samples of one job, made by one call in a child process and kept in the work directory.

A finished part is stored under the hash of everything that decides its samples. A run that was killed, or that asks for
more samples, makes only the missing parts. A network's result may depend, in its last bits, on a row's place in the
batch. Therefore parts begin at multiples of `coding.BLOCK`: a sample has the same place in its block wherever parts are
cut.

Offers: `Part`, `parts`, `make`; `write_pools`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from midivae.config.params import Params
from midivae.errors import FolderError, InputError, ParamsError
from midivae.generate import modes
from midivae.generate.parents import WINDOWS, ParentSample, write_pool
from midivae.generate.requests import Request, work_folder
from midivae.generate.rows import method_of, read_bars, rows
from midivae.models import coding
from midivae.storage import schema, tables
from midivae.storage.files import make_folder
from midivae.workers.child import Beat
from midivae.workers.parallel import fan_out

BLOCK_LIMIT_S = 600.0  # a block that takes longer hangs


@dataclass(frozen=True)
class Part:
    """Samples `first` to `last` - 1 of a request.

    Attributes:
        bars: table of the bars in training pieces.
        target: the file of the part.
    """

    request: Request
    first: int
    last: int
    bars: Path
    target: Path


def parts(request: Request, samples_per_part: int, bars: Path) -> Iterator[Part]:
    """The parts of a job, each of whole blocks."""
    step = -(-samples_per_part // coding.BLOCK) * coding.BLOCK
    folder = work_folder() / request.key
    for first in range(0, request.job.count, step):
        last = min(first + step, request.job.count)
        yield Part(request, first, last, bars, folder / f"{first:07d}-{last:07d}.parquet")


def make(missing: Sequence[Part], params: Params) -> None:
    """Makes parts in child processes, with a progress bar.

    Raises:
        WorkerError: a child process crashed, hung or ran out of memory; finished parts are kept.
    """
    total = sum(part.last - part.first for part in missing)
    with tqdm(total=total, unit="sample", desc="generate", disable=None, file=sys.stderr) as bar:
        for index, outcome in fan_out(
            _make_part, missing, params.compute, time_limit_s=BLOCK_LIMIT_S, label="generate: part"
        ):
            outcome.get()
            bar.update(missing[index].last - missing[index].first)


def _make_part(part: Part, beat: Beat) -> None:
    """Makes one part, in a child process."""
    context, bars = part.request.context(), read_bars(part.bars)
    blocks = []
    for first in range(part.first, part.last, coding.BLOCK):
        beat(first)
        numbers = range(first, min(first + coding.BLOCK, part.last))
        samples = modes.generate(replace(context, heartbeat=partial(beat, first)), numbers)
        blocks.append(rows(part.request, numbers, samples, bars))
    extra = {"layout": part.request.layout.to_json()}
    tables.write(part.target, pa.concat_tables(blocks), schema.CATALOG, extra)


def write_pools(requests: Mapping[str, Request], params: Params, rolls: Path) -> None:
    """Writes the pool of each job, the windows that its parents stand for, if it is not there.

    Raises:
        ParamsError, InputError: a parent does not exist.
    """

    def sample(sample_id: str, model_sha256: str) -> ParentSample:
        """A sample of an earlier job; its block is made up to it."""
        name, _, index = sample_id.rpartition("-")
        request, first = requests[name], int(index) // coding.BLOCK * coding.BLOCK
        context = request.context()
        samples = modes.generate(context, range(first, int(index) + 1))
        z = samples.z[-1][: context.n_kept] if request.model_sha256 == model_sha256 else None
        lead_steps = samples.origin.get("lead_steps", [0])[-1]
        job, moved = request.job, bool(request.job.transpose or lead_steps)
        return ParentSample.of(samples.planes[-1], z, job.mode, method_of(job), moved)

    for job, request in requests.items():
        if request.pool is None or tables.is_whole(request.pool / WINDOWS, schema.PARENTS):
            continue
        make_folder(request.pool)
        try:
            read_sample = partial(sample, model_sha256=request.model_sha256)
            write_pool(request.parents, request.pool, rolls, params.ingest, request.view, read_sample)
        except FolderError:
            raise
        except (InputError, ParamsError) as error:
            raise type(error)(f"generate job {job!r}: {error}") from error
