"""Which samples of a job to hear first: those that are new and similar to held-out music.

A sample is a candidate if its MIDI file is valid (not in `data/evaluation/refused.csv`), it is not silent and has a
value for every measure. The candidates of a job are ranked twice:

    by novelty: the share of their bars that are in no training piece, the largest first;
    by closeness: the mean distance of their features from the mean of held-out windows, in standard deviations of
    these, the smallest first. `notes` and `pitch_range` are left out: a long sample has more of both.

The two ranks are added, and the lowest sum is best; equal sums are sorted by `sample_id`.

Offers: `best`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from midivae.catalog import read
from midivae.errors import ParamsError
from midivae.storage import schema
from midivae.storage.files import read_csv
from midivae.storage.schema import HELD_OUT

MEASURES = tuple(name for name in schema.FEATURES if name not in ("notes", "pitch_range"))


def best(data: Path, k: int, jobs: tuple[str, ...] = ()) -> list[str]:
    """The ids of the `k` best samples of each job, or of some jobs: job after job, the best first.

    Raises:
        InputError: stage `generate` or `evaluate` has not run.
        ParamsError: the catalog has no such job.
        CorruptError: a table of the evaluation is no table.
    """
    samples = read.samples(data, columns=["sample_id", "job", "novelty", *schema.FEATURES])
    unknown = sorted(set(jobs) - set(samples["job"]))
    if unknown:
        raise ParamsError(f"no job {unknown[0]!r} in the catalog; there are {', '.join(sorted(set(samples['job'])))}")
    summary = read_csv(data / "evaluation" / "features.csv", "evaluate")
    refused = set(read_csv(data / "evaluation" / "refused.csv", "evaluate")["sample_id"])
    valid = samples[~samples["sample_id"].isin(refused) & (samples["notes"] > 0)]
    valid = valid.dropna(subset=[*MEASURES, "novelty"])
    held_out = summary[summary["set"] == HELD_OUT].set_index("feature")
    names: list[str] = []
    for job in dict.fromkeys(samples["job"]):
        if not jobs or job in jobs:
            names += _sorted(valid[valid["job"] == job], held_out)["sample_id"].head(k).tolist()
    return names


def _sorted(rows: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """The rows of a job, the best first; `held_out` has mean and sd of each feature."""
    mean, sd = (held_out.loc[list(MEASURES), name].to_numpy(np.float64) for name in ("mean", "sd"))
    distances = np.abs(rows[list(MEASURES)].to_numpy(np.float64) - mean) / np.where(sd > 0, sd, 1)
    closeness = pd.Series(distances.mean(axis=1).round(9)).rank(method="min")
    novelty = pd.Series(-rows["novelty"].to_numpy(np.float64)).rank(method="min")
    return rows.assign(total=(closeness + novelty).to_numpy()).sort_values(["total", "sample_id"])
