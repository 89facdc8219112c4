"""Names of files and folders that more than one stage knows.

Offers: `model_folder` / `compared_folders`, `roll_shard` / `roll_shards`, `catalog_file` / `catalog_files` / `job_of`,
`MIDI_SUFFIXES` / `is_midi`, and the names of single files.
"""

from __future__ import annotations

import re
from pathlib import Path

from midivae.errors import InputError

CORPUS_TABLE = "corpus.parquet"  # in data/corpus
CORPUS_FILES = "midi"  # in data/corpus: folder of the MIDI files
PIECES_TABLE = "pieces.parquet"  # in data/rolls
CONFIG, WEIGHTS = "config.json", "model.safetensors"  # in the folder of a model
CURVES = "curves.csv"  # likewise
METRICS = "metrics.json"  # in the folder of a model, and in data/evaluation
KEPT = "kept"  # beside data/samples: folder of the samples that people kept in the explorer
PAGE = "index.html"  # in data/report

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi", ".smf")  # of MIDI files, karaoke files and RIFF MIDI files included

_COMPARED = "compare"  # in data/model: folder of the models that are trained for comparison
_SHARD = re.compile(r"part-(\d{5})-of-(\d{5})\.parquet")


def is_midi(name: str) -> bool:
    """Whether a name ends like that of a MIDI file, in upper or lower case."""
    return name.lower().endswith(MIDI_SUFFIXES)


def model_folder(folder: Path, name: str, main: str) -> Path:
    """The folder of a model below `data/model`: that of `main` is the folder itself."""
    return folder if name == main else folder / _COMPARED / name


def compared_folders(folder: Path) -> list[Path]:
    """The folders of the models that were trained for comparison, by name; `folder` is the main model's."""
    return sorted(path.parent for path in (folder / _COMPARED).glob(f"*/{CONFIG}"))


def roll_shard(number: int, count: int) -> str:
    """The name of a shard of rolls."""
    return f"part-{number:05d}-of-{count:05d}.parquet"


def roll_shards(rolls: Path) -> list[Path]:
    """The shards in a folder of rolls, in order.

    Raises:
        InputError: there are none, or one is missing.
    """
    named = {path: match for path in sorted(rolls.glob("part-*")) if (match := _SHARD.fullmatch(path.name))}
    if not named:
        raise InputError(f"{rolls}: no part-*.parquet; run stage `ingest`")
    counts = {int(match[2]) for match in named.values()}
    if len(counts) != 1 or [int(match[1]) for match in named.values()] != list(range(counts.pop())):
        raise InputError(f"{rolls}: {len(named)} shards that are no full set, last {max(named).name}; rerun `ingest`")
    return list(named)


def catalog_file(job: str, number: int, count: int) -> str:
    """The name of a file of the catalog; a file has samples of one job."""
    return f"{job}-{number:05d}-of-{count:05d}.parquet"


def catalog_files(catalog: Path) -> list[Path]:
    """The files of a catalog, by name; `catalog` is the folder `catalog` below `data/samples`."""
    return sorted(catalog.glob("*-of-*.parquet"))


def job_of(file: Path) -> str:
    """The job whose samples a file of the catalog has."""
    return file.name.rpartition("-of-")[0].rpartition("-")[0]
