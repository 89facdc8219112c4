"""The jobs of a catalog, measured: their rows, their rolls, and windows of these.

A sample as long as the model's windows is one window. A longer sample is cut into windows, one after the other from its
start. Of a continuation (mode `continue`) only the new music counts, from `lead_steps` on; if it is shorter than a
window, the last window of the sample is used, which includes some of the lead.

Shapes:
    B  samples    M  first samples    S  steps of a roll    X  bytes of a packed step

Offers: `MeasuredJob` and `read`; `sample_planes`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from jaxtyping import Bool, UInt8
from tqdm import tqdm

from midivae.catalog import playback
from midivae.errors import InputError
from midivae.evaluate.context import Context
from midivae.evaluate.held_out_distances import SetFeatures
from midivae.evaluate.measured_set import MOST, Diversity, MeasuredSet, measure
from midivae.evaluate.windows import Index, Planes, windows_of_rolls
from midivae.music import roll
from midivae.storage import tables
from midivae.storage.paths import catalog_files
from midivae.storage.schema import CATALOG, ENDINGS, FEATURES

_COLUMNS = (
    *("job", "index", "sample_id", "mode", "model", "temperature", "method", "parents", "weights", "radius", "edits"),
    *("transpose", "lead_steps", "tail_steps", "parts", "n_steps", "steps_per_beat", "novelty", *ENDINGS),
)
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class MeasuredJob(MeasuredSet):
    """A job of the catalog.

    Attributes:
        rows: of the catalog, in the order of `index`, without MIDI; `features.piece` is the row of each window.
        rolls: of the first samples, packed; silence behind the end of shorter ones.
        refused: the samples whose MIDI file does not read back as it should, for refused.csv.
    """

    rows: pd.DataFrame
    rolls: UInt8[np.ndarray, "M S X"]
    refused: list[dict[str, Any]]

    @property
    def mode(self) -> str:
        """The mode of the job."""
        return str(self.rows["mode"].iloc[0])

    def of_first(self, column: str) -> np.ndarray:
        """A column of the samples whose rolls are kept; a missing text is empty."""
        values = self.rows[column].iloc[: len(self.rolls)]
        return (values.fillna("") if column == "method" else values).to_numpy()


def read(catalog: Path, context: Context) -> list[MeasuredJob]:
    """The jobs of a catalog, sorted by name.

    Raises:
        InputError: there is no catalog, or its samples do not fit the model's windows.
        SchemaError, CorruptError: it is of another version, or damaged.
    """
    files = catalog_files(catalog)
    if not files:
        raise InputError(f"{catalog}: no catalog of samples; run stage `generate`")
    heads = tables.scan(files, CATALOG, ["job", "index", "n_steps", "steps_per_beat", "parts"]).to_pandas()
    _check_shapes(heads, context)
    per_job: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        per_job[str(tables.read(path, CATALOG, ["job"]).column("job")[0].as_py())].append(path)
    bar = tqdm(sorted(per_job), desc="evaluate: jobs", unit="job", disable=None, file=sys.stderr)
    return [_measured_job(name, per_job[name], context) for name in bar]


def _check_shapes(rows: pd.DataFrame, context: Context) -> None:
    """Samples must be at least as long as the model's windows, and have the same parts."""
    shapes = zip(rows["job"], rows["n_steps"], rows["steps_per_beat"], rows["parts"].map(tuple), strict=True)
    steps, beat, parts = context.view.steps, context.layout.steps_per_beat, context.layout.parts
    for job, n_steps, steps_per_beat, names in dict.fromkeys(shapes):
        if n_steps < steps or (steps_per_beat, names) != (beat, parts):
            raise InputError(
                f"job {job!r}: samples of {n_steps} steps, {steps_per_beat} to a beat, parts {list(names)}; the "
                f"model's windows have {steps}, {beat}, {list(parts)}; rerun stage `generate`"
            )


class _Reader:
    """Reads a job once, block by block, and collects its rows and the rolls of its first samples."""

    def __init__(self, files: Sequence[Path], context: Context) -> None:
        self._files, self._context = files, context
        self.frames: list[pd.DataFrame] = []
        self.rolls: list[UInt8[np.ndarray, "B S X"]] = []
        self.sample: list[Index] = []
        self.start: list[Index] = []
        self.refused: list[dict[str, Any]] = []
        self._rows = 0
        self._room = MOST * context.view.steps  # steps of rolls that may still be kept

    def windows(self) -> Iterator[Planes]:
        """The windows of all samples, in order."""
        for path in self._files:
            table = tables.read(path, CATALOG, [*_COLUMNS, *FEATURES, "midi"])
            for first in range(0, len(table), _ROWS_AT_ONCE):
                block = table.slice(first, _ROWS_AT_ONCE)
                midi_bytes = block.column("midi").combine_chunks().field("bytes").to_pylist()
                yield from self._block(block.drop_columns(["midi"]).to_pandas(), midi_bytes)

    def _block(self, rows: pd.DataFrame, files: Sequence[bytes]) -> Iterator[Planes]:
        n_steps, notes = rows["n_steps"].to_numpy(np.int64), rows["notes"].to_numpy(np.float64).astype(np.int64)
        context = self._context
        played = playback.play(files, notes, n_steps, context.layout)
        names = rows["sample_id"].tolist()
        self.refused += [
            {"sample_id": names[i], "notes": int(notes[i]), "reason": reason}
            for i, reason in sorted(played.reasons.items())
        ]
        sample, start = _windows_of(n_steps, rows["lead_steps"].to_numpy(np.int64), context.view.steps)
        self.frames.append(rows)
        self.sample.append(sample + self._rows)
        self.start.append(start)
        self._rows += len(rows)
        keep = min(len(rows), self._room // max(1, played.packed.shape[1]))
        self._room = self._room - keep * played.packed.shape[1] if keep == len(rows) else 0
        self.rolls.append(played.packed[:keep])
        yield from windows_of_rolls(played.packed, sample, start, context.view.steps, context.layout)


def _windows_of(n_steps: Index, lead_steps: Index, steps: int) -> tuple[Index, Index]:
    """The windows of some samples: the number of the sample of each, and the step on which it starts."""
    counts = np.maximum((n_steps - lead_steps) // steps, 1)
    sample = np.repeat(np.arange(len(counts)), counts)
    number = roll.runs(np.zeros(len(counts), np.int64), counts)
    start = np.minimum(lead_steps[sample] + number * steps, n_steps[sample] - steps)
    return sample, start


def _measured_job(name: str, files: Sequence[Path], context: Context) -> MeasuredJob:
    reader = _Reader(files, context)
    windows = measure(reader.windows(), context)
    rows = pd.concat(reader.frames, ignore_index=True)
    longest = max(rolls.shape[1] for rolls in reader.rolls)
    rolls = np.concatenate([np.pad(rolls, ((0, 0), (0, longest - rolls.shape[1]), (0, 0))) for rolls in reader.rolls])
    sample = np.concatenate(reader.sample)
    # the catalog's measures, if each sample is one window: they are there even if the file cannot be read
    from_catalog = len(sample) == len(rows) and bool((rows["n_steps"] == context.view.steps).all())
    valid = ~rows["sample_id"].isin([row["sample_id"] for row in reader.refused]).to_numpy()
    return MeasuredJob(
        features=SetFeatures(
            name=name,
            measures=rows[list(FEATURES)].to_numpy(np.float64) if from_catalog else windows.measures,
            piece=sample,
            vectors=windows.vectors,
            model=str(rows["model"].iloc[0]),
            temperature=float(rows["temperature"].astype(float).iloc[0]),
        ),
        windows=windows,
        novelty=rows["novelty"].to_numpy(np.float64) if from_catalog else windows.novelty,
        valid=valid[sample],
        diversity=Diversity.of(windows.packed, context),
        ids=rows["sample_id"].to_numpy()[sample].tolist(),
        start=np.concatenate(reader.start),
        rows=rows,
        rolls=rolls,
        refused=reader.refused,
    )


def sample_planes(catalog: Path, names: Sequence[str], context: Context) -> dict[str, Bool[np.ndarray, "T N 2 P"]]:
    """The rolls of samples, by name, from the whole catalog; samples that do not exist are left out."""
    wanted = pc.field("sample_id").isin(list(names))
    table = tables.scan(catalog_files(catalog), CATALOG, ["sample_id", "notes", "n_steps", "midi"], wanted)
    if len(table) == 0:
        return {}
    n_steps, notes = (table.column(name).to_numpy().astype(np.int64) for name in ("n_steps", "notes"))
    midi_bytes = table.column("midi").combine_chunks().field("bytes").to_pylist()
    played = playback.play(midi_bytes, notes, n_steps, context.layout)
    names = table.column("sample_id").to_pylist()
    return {name: played.planes(slice(i, i + 1))[0, : n_steps[i]] for i, name in enumerate(names)}
