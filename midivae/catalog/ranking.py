"""Which samples of a job to hear first: what is new, and most like music.

A sample is a candidate if its MIDI file is valid (not in `data/evaluation/refused.csv`), it is not silent and has a
value for every measure. The candidates of a job are ranked twice:

    by novelty: the share of their bars that are in no training piece, the largest first;
    by closeness: the mean distance of their features from the mean of held-out windows, in standard deviations of
    these, the smallest first. `notes` and `pitch_range` are left out: a long sample has more of both.

Ranks are added, the lowest sum is best, and ties go by `sample_id`. That is one of many good orders, and a simple one:
who wants another asks the catalog (`midivae catalog --sort`).

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
    real = summary[summary["set"] == HELD_OUT].set_index("feature")
    chosen: list[str] = []
    for job in dict.fromkeys(samples["job"]):
        if not jobs or job in jobs:
            mine = valid[valid["job"] == job]
            chosen += mine.iloc[_order(mine, real)]["sample_id"].head(k).tolist()
    return chosen


def _order(rows: pd.DataFrame, real: pd.DataFrame) -> list[int]:
    """The rows of a job, the best first."""
    mean, sd = (real.loc[list(MEASURES), name].to_numpy(np.float64) for name in ("mean", "sd"))
    away = np.abs(rows[list(MEASURES)].to_numpy(np.float64) - mean) / np.where(sd > 0, sd, 1)
    closeness = pd.Series(away.mean(axis=1).round(9)).rank(method="min")
    novelty = pd.Series(-rows["novelty"].to_numpy(np.float64)).rank(method="min")
    total = (closeness + novelty).tolist()
    names = rows["sample_id"].tolist()
    return sorted(range(len(names)), key=lambda i: (total[i], names[i]))
