"""The jobs of a catalog as sets to be measured: their rows, their rolls, and windows of these.

A sample as long as the model's windows is one. A longer one is cut into windows, one after the other from its start;
of a continuation (mode `continue`) only what is new, from `lead_steps` on. Where less than a window is new, the last
window of the sample stands for it, and shows some of the lead.

Offers: `Job` and `read`; `sample_planes`.
"""

from __future__ import annotations

import logging
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt8
from tqdm import tqdm

from midivae.catalog import playback
from midivae.errors import InputError
from midivae.evaluate import set_measures
from midivae.evaluate.set_distances import Measured
from midivae.evaluate.set_measures import Gathered, World
from midivae.models import WindowModel
from midivae.music import roll
from midivae.storage import tables
from midivae.storage.paths import catalog_files
from midivae.storage.schema import CATALOG, FEATURES

log = logging.getLogger(__name__)

_COLUMNS = (
    *("job", "index", "sample_id", "mode", "model", "temperature", "method", "parents", "weights", "radius", "edits"),
    *("transpose", "lead_steps", "parts", "n_steps", "steps_per_beat", "novelty"),
)
_ROWS_AT_ONCE = 512

Index = Int[np.ndarray, " _"]


@dataclass(frozen=True)
class Job:
    """A job of the catalog.

    Attributes:
        rows: of the catalog, in the order of `index`, without MIDI.
        measured: its windows, for distances; `piece` says of which row each is.
        gathered: what else is known of the windows.
        start: the step on which each window starts.
        rolls: of the first samples, packed; silence behind the end of shorter ones.
        refused: the samples whose MIDI file is not as it should be, for refused.csv.
    """

    rows: pd.DataFrame
    measured: Measured
    gathered: Gathered
    start: Index
    rolls: UInt8[np.ndarray, "M S X"]
    refused: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Its name."""
        return self.measured.name

    @property
    def mode(self) -> str:
        """How its samples were made."""
        return str(self.rows["mode"].iloc[0])


def read(folder: Path, world: World, model: WindowModel) -> list[Job]:
    """The jobs of the catalog in a folder, in the order of their names.

    Raises:
        InputError: there is no catalog, or its samples do not fit the model's windows.
        SchemaError, CorruptError: it is of another version, or damaged.
    """
    files = catalog_files(folder)
    if not files:
        raise InputError(f"{folder}: no catalog of samples; run stage `generate`")
    heads = tables.scan(files, CATALOG, ["job", "index", "n_steps", "steps_per_beat", "parts"]).to_pandas()
    _check_alike(heads, world)
    per_job: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        per_job[str(tables.read(path, CATALOG, ["job"]).column("job")[0].as_py())].append(path)
    bar = tqdm(sorted(per_job), desc="evaluate: jobs", unit="job", disable=None, file=sys.stderr)
    return [_job(name, per_job[name], world, model) for name in bar]


def _check_alike(rows: pd.DataFrame, world: World) -> None:
    """Samples must be at least as long as the windows that they are compared with, and of the same parts."""
    shapes = zip(rows["job"], rows["n_steps"], rows["steps_per_beat"], rows["parts"].map(tuple), strict=True)
    steps, beat, parts = world.view.steps, world.layout.steps_per_beat, world.layout.parts
    for job, n_steps, steps_per_beat, names in dict.fromkeys(shapes):
        if n_steps < steps or (steps_per_beat, names) != (beat, parts):
            raise InputError(
                f"job {job!r}: samples of {n_steps} steps, {steps_per_beat} to a beat, parts {list(names)}; the "
                f"model's windows have {steps}, {beat}, {list(parts)}; rerun stage `generate`"
            )


class _Reader:
    """Reads a job once, block by block, and remembers what is kept of it."""

    def __init__(self, files: Sequence[Path], world: World) -> None:
        self._files, self._world = files, world
        self.frames: list[pd.DataFrame] = []
        self.rolls: list[UInt8[np.ndarray, "B S X"]] = []
        self.sample: list[Index] = [np.zeros(0, np.int64)]
        self.start: list[Index] = [np.zeros(0, np.int64)]
        self.refused: list[dict[str, Any]] = []
        self._rows = 0
        self._room = set_measures.MOST * world.view.steps  # steps of rolls that are kept

    def windows(self) -> Iterator[Bool[np.ndarray, "B T N 2 P"]]:
        """The windows of all samples, in order."""
        for path in self._files:
            table = tables.read(path, CATALOG, [*_COLUMNS, *FEATURES, "midi"])
            for first in range(0, len(table), _ROWS_AT_ONCE):
                block = table.slice(first, _ROWS_AT_ONCE)
                midi_bytes = block.column("midi").combine_chunks().field("bytes").to_pylist()
                yield from self._block(block.drop_columns(["midi"]).to_pandas(), midi_bytes)

    def _block(self, rows: pd.DataFrame, files: Sequence[bytes]) -> Iterator[Bool[np.ndarray, "B T N 2 P"]]:
        n_steps = rows["n_steps"].to_numpy(np.int64)
        played = playback.play(files, rows["notes"].to_numpy(np.float64).astype(np.int64), n_steps, self._world.layout)
        names, notes = rows["sample_id"].tolist(), rows["notes"].tolist()
        self.refused += [
            {"sample_id": names[i], "notes": int(notes[i]), "reason": reason}
            for i, reason in sorted(played.reasons.items())
        ]
        sample, start = _windows_of(n_steps, rows["lead_steps"].to_numpy(np.int64), self._world.view.steps)
        self.frames.append(rows)
        self.sample.append(sample + self._rows)
        self.start.append(start)
        self._rows += len(rows)
        keep = min(len(rows), self._room // max(1, played.packed.shape[1]))
        self._room = self._room - keep * played.packed.shape[1] if keep == len(rows) else 0
        self.rolls.append(played.packed[:keep])
        yield from set_measures.windows_at(played.packed, sample, start, self._world)


def _windows_of(n_steps: Index, lead_steps: Index, steps: int) -> tuple[Index, Index]:
    """The windows of some samples: of which each is, and the step on which it starts."""
    counts = np.maximum((n_steps - lead_steps) // steps, 1)
    sample = np.repeat(np.arange(len(counts)), counts)
    number = roll.runs(np.zeros(len(counts), np.int64), counts)
    start = np.minimum(lead_steps[sample] + number * steps, n_steps[sample] - steps)
    return sample, start


def _job(name: str, files: Sequence[Path], world: World, model: WindowModel) -> Job:
    reader = _Reader(files, world)
    gathered = set_measures.gather(reader.windows(), world, model)
    rows = pd.concat(reader.frames, ignore_index=True)
    longest = max(rolls.shape[1] for rolls in reader.rolls)
    kept = np.concatenate([np.pad(rolls, ((0, 0), (0, longest - rolls.shape[1]), (0, 0))) for rolls in reader.rolls])
    sample, start = np.concatenate(reader.sample), np.concatenate(reader.start)
    whole = len(sample) == len(rows) and bool((rows["n_steps"] == world.view.steps).all())
    valid = ~rows["sample_id"].isin([row["sample_id"] for row in reader.refused]).to_numpy()
    measured = Measured(
        name=name,
        # of samples that are one window, what the catalog says, also where the file cannot be read
        measures=rows[list(FEATURES)].to_numpy(np.float64) if whole else gathered.measures,
        novelty=(rows["novelty"].to_numpy(np.float64) if whole else gathered.phrases[1].astype(np.float64)),
        model=str(rows["model"].iloc[0]),
        temperature=float(rows["temperature"].astype(float).iloc[0]),
        valid=valid[sample],
        piece=sample,
        vectors=gathered.vectors,
    )
    return Job(rows, measured, gathered, start, kept, reader.refused)


def sample_planes(folder: Path, names: Sequence[str], world: World) -> dict[str, Bool[np.ndarray, "T N 2 P"]]:
    """The rolls of these samples of the catalog, wherever in it they are; those that are not there are left out."""
    files = catalog_files(folder)
    wanted = pc.field("sample_id").isin(list(names))
    table = tables.scan(files, CATALOG, ["sample_id", "notes", "n_steps", "midi"], wanted)
    if len(table) == 0:
        return {}
    n_steps = table.column("n_steps").to_numpy().astype(np.int64)
    notes = table.column("notes").to_numpy().astype(np.int64)
    played = playback.play(
        table.column("midi").combine_chunks().field("bytes").to_pylist(), notes, n_steps, world.layout
    )
    return {
        name: played.planes(slice(i, i + 1))[0, : n_steps[i]]
        for i, name in enumerate(table.column("sample_id").to_pylist())
    }
