"""The unit of work of ingest: a shard, that is, the files whose sha256 begins alike.

A task reads the files of one shard and keeps its two tables, facts and rolls, in a folder of the work directory. The
folder is reused while the files, the params and the code are the same. Where files came or went, the rows of the others
are reused. The rows are in the order of the files' sha256, so that the bytes depend on nothing but the files, the
params and the code.

Offers: `plan` (the shards of a corpus), `make` (those that are not done), and the tables of a `Shard`.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from midivae.config.ingest import Ingest
from midivae.config.params import Params
from midivae.errors import CorruptError, InputError, MidiError
from midivae.ingest.facts import Row, compile_loops, describe_file, layout_of, rejection
from midivae.music.reasons import REASONS
from midivae.storage import folders, tables
from midivae.storage.code import code_version
from midivae.storage.schema import FACTS, SHARD
from midivae.storage.workdir import work_dir
from midivae.workers import parallel
from midivae.workers.child import NO_ITEM, Beat
from midivae.workers.outcome import Failure

log = logging.getLogger(__name__)

ROWS_PER_GROUP = 1024  # Parquet row group of a shard: what a reader must take at least


class File(NamedTuple):
    """One distinct content of the corpus, and where to read it."""

    sha256: str
    path: str


NO_FILE = File("", "")  # what a worker was at that died between files


@dataclass(frozen=True)
class Shard:
    """The files of a shard, and where its tables are kept.

    Attributes:
        files: by sha256.
        corpus: the folder that their paths start from.
        folder: of its tables, in the work directory.
        condemned: reason codes by sha256, of files that broke a worker.
        suspects: sha256 of files at which a worker died once.
    """

    files: tuple[File, ...]
    corpus: Path
    folder: Path
    ingest: Ingest
    condemned: dict[str, str] = field(default_factory=dict)
    suspects: frozenset[str] = frozenset()

    @property
    def rolls(self) -> Path:
        """The table of the accepted files (schema.SHARD), as it is published."""
        return self.folder / "rolls.parquet"

    @property
    def _facts(self) -> Path:
        return self.folder / "facts.parquet"

    def facts(self) -> pa.Table:
        """What is known of each file (schema.FACTS)."""
        return tables.read(self._facts, FACTS)

    def is_done(self) -> bool:
        """Whether its tables are there, undamaged, and of these files."""
        if not self._is_sound():
            return False
        done = tables.read(self._facts, FACTS, ["sha256"])["sha256"].to_pylist()
        return bool(done == [file.sha256 for file in self.files])

    def _is_sound(self) -> bool:
        if not self.folder.exists():
            return False
        try:
            damage = folders.verify(self.folder)
        except (InputError, CorruptError) as error:  # of its manifest
            damage = [str(error)]
        if damage:
            log.warning("%s: made again", "; ".join(damage))
        return not damage

    def reusable(self) -> tuple[pa.Table, pa.Table]:
        """The rows of facts and of rolls that are there of these files."""
        if not self._is_sound():
            return FACTS.columns.empty_table(), SHARD.columns.empty_table()
        wanted = pa.array([file.sha256 for file in self.files], pa.string())
        facts = tables.read(self._facts, FACTS)
        facts = facts.filter(pc.is_in(facts["sha256"], wanted))
        rolls = tables.read(self.rolls, SHARD)
        return facts, rolls.filter(pc.is_in(rolls["piece_id"], facts["piece_id"].combine_chunks()))

    def write(self, facts: pa.Table, rolls: pa.Table) -> None:
        """Keeps its tables, both or none."""
        layout = {"layout": layout_of(self.ingest).to_json()}
        with folders.publishing(self.folder) as staging:
            tables.write(staging / self._facts.name, _in_order(facts), FACTS)
            tables.write(staging / self.rolls.name, _in_order(rolls), SHARD, layout, row_group_size=ROWS_PER_GROUP)


def _in_order(rows: pa.Table) -> pa.Table:
    return rows.take(pc.sort_indices(rows["piece_id"])).combine_chunks()


def plan(corpus: pa.Table, folder: Path, ingest: Ingest) -> list[Shard]:
    """The shards of a corpus.

    Their number is the power of two that keeps them at about `pieces_per_shard` files, or fewer. Files with the same
    bytes count once.

    Args:
        corpus: schema.CORPUS.
        folder: that its paths start from.
    """
    paths: dict[str, str] = {}
    for path, sha256 in zip(corpus["path"].to_pylist(), corpus["sha256"].to_pylist(), strict=True):
        paths.setdefault(sha256, path)  # of copies the first
    n_shards = 1 << max(0, -(-len(paths) // ingest.pieces_per_shard) - 1).bit_length()
    files: list[list[File]] = [[] for _ in range(n_shards)]
    for sha256 in sorted(paths):
        files[shard_of(sha256, n_shards)].append(File(sha256, paths[sha256]))
    kept = _folder_of(ingest)
    return [
        Shard(tuple(own), folder, kept / f"{number:05d}-of-{n_shards:05d}", ingest) for number, own in enumerate(files)
    ]


def shard_of(sha256: str, n_shards: int) -> int:
    """The shard of a file, from the first 32 bits of its sha256."""
    return int(sha256[:8], 16) * n_shards >> 32


def _folder_of(ingest: Ingest) -> Path:
    """The folder of the work directory for what these params, formats and this code make."""
    settings = ingest.digest(exclude={"split", "duplicates", "pieces_per_shard"})
    made_by = f"{settings} {code_version(__name__)}"
    return work_dir().absolute() / "ingest" / hashlib.sha256(made_by.encode()).hexdigest()[:16]


def make(shards: Sequence[Shard], params: Params) -> int:
    """Makes the shards that are not done, in worker processes; returns how many files were parsed.

    Raises:
        InputError: a file is missing, or a worker died and no file could be blamed.
        CorruptError: a file is not the one that `fetch` listed.
    """
    limits = params.ingest.limits
    to_do = [shard for shard in shards if not shard.is_done()]
    n_files = sum(len(shard.files) for shard in to_do)
    compile_loops()  # here, so that no worker has to
    parsed = 0
    with tqdm(total=n_files, unit="file", desc="ingest", disable=None, file=sys.stderr) as bar:
        for index, outcome in parallel.fan_out(
            make_shard,
            to_do,
            params.compute,
            time_limit_s=limits.time_s,
            memory_bytes=limits.memory_bytes,
            retry=blame,
            label="ingest",
        ):
            if outcome.failure is not None:
                raise InputError(f"shard {index}: {outcome.failure.detail}; no single file could be blamed")
            parsed += int(outcome.value or 0)
            bar.update(len(to_do[index].files))
    return parsed


def make_shard(shard: Shard, beat: Beat) -> int:
    """Reads the files of a shard that are not done and keeps its tables; returns how many files that were."""
    compile_loops()
    facts, rolls = shard.reusable()
    done = set(facts["sha256"].to_pylist())
    new_facts: list[Row] = []
    new_rolls: list[Row] = []
    for index, file in enumerate(shard.files):
        if file.sha256 in done:
            continue
        beat(index)
        row, roll = _describe(file, shard)
        new_facts.append(row)
        if roll is not None:
            new_rolls.append(roll)
    beat(NO_ITEM)
    shard.write(
        pa.concat_tables([facts, pa.Table.from_pylist(new_facts, FACTS.columns)]),
        pa.concat_tables([rolls, pa.Table.from_pylist(new_rolls, SHARD.columns)]),
    )
    return len(new_facts)


def _describe(file: File, shard: Shard) -> tuple[Row, Row | None]:
    if file.sha256 in shard.condemned:
        code = shard.condemned[file.sha256]
        return rejection(file.sha256, MidiError(code, REASONS[code])), None
    path = shard.corpus / file.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: listed in corpus.parquet but not readable ({error}); rerun stage `fetch`") from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise CorruptError(f"{path}: sha256 differs from corpus.parquet's: damaged or edited; rerun stage `fetch`")
    return describe_file(file.sha256, data, shard.ingest)


def blame(shard: Shard, failure: Failure) -> Shard | None:
    """The shard to try again after a worker died; None: it has died twice, and at no file.

    A file at which workers died twice is condemned: the first may have been killed by somebody else. One at which a
    worker hung is condemned at once.
    """
    at_file = failure.item is not None and failure.item >= 0
    culprit = shard.files[failure.item] if at_file else NO_FILE  # type: ignore[index]
    if culprit.sha256 not in shard.suspects and not (at_file and failure.kind == "timeout"):
        return replace(shard, suspects=shard.suspects | {culprit.sha256})
    if not at_file:
        return None
    log.warning("%s: %s (%s)", culprit.path, REASONS[failure.kind], failure.detail)
    return replace(shard, condemned={**shard.condemned, culprit.sha256: failure.kind})
