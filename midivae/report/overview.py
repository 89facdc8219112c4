"""Sections "Overview" and "Corpus": the main figures, the files and where they come from.

Offers: `overview`, `corpus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from midivae.music.reasons import REASONS
from midivae.render import charts
from midivae.render.charts import number
from midivae.storage import schema, tables
from midivae.storage.metrics import metric_name
from midivae.storage.paths import CORPUS_TABLE, PIECES_TABLE

_BINS = 24  # of the histogram of durations
_MOST_KEYS = 8  # in the list of the most common keys


def overview(samples: pd.DataFrame, first_job: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Number and duration of the samples, and the distance of the first job to held-out music."""
    return {
        "samples": len(samples),
        "silent": int((samples["notes"] == 0).sum()),
        "minutes": float(samples["duration_s"].sum()) / 60,
        "first_job": first_job,
        "times_floor": metrics.get(metric_name(first_job, "frechet_times_real_to_real")),
        "verdict": metrics.get("article_verdict"),
    }


def corpus(data: Path) -> dict[str, Any]:
    """Sources and licences, accepted and rejected files, splits, keys and durations."""
    columns = ["source", "licence"]
    files = tables.read(data / "corpus" / CORPUS_TABLE, schema.CORPUS, columns).to_pandas()
    names = ["accepted", "reason", "split", "piece_id", "copy_of", "cluster", "notes_kept", "duration_s", "key"]
    pieces = tables.read(data / "rolls" / PIECES_TABLE, schema.PIECES, names).to_pandas()
    sources = files.fillna({"licence": "not stated"}).value_counts(columns, sort=False).reset_index(name="files")
    accepted = pieces[pieces["accepted"]]
    originals = accepted[accepted["copy_of"].isna()]
    return {
        "sources": sources.to_dict("records"),
        "found": len(pieces),
        "accepted": len(accepted),
        "rejected": [
            {"reason": reason, "files": count, "means": REASONS.get(reason, "")}
            for reason, count in _most_common(pieces.loc[~pieces["accepted"], "reason"])
        ],
        "copies": len(accepted) - len(originals),
        "near": int((originals["cluster"] != originals["piece_id"]).sum()),
        "splits": {split: originals[originals["split"] == split] for split in ("train", "valid", "test")},
        "keys": [(key, n / accepted["key"].count()) for key, n in _most_common(accepted["key"])[:_MOST_KEYS]],
        "durations": _durations(accepted["duration_s"].to_numpy(np.float64)),
    }


def _most_common(values: pd.Series[Any]) -> list[tuple[str, int]]:
    """Each value with its number, the most common first; equally common ones in alphabetical order."""
    counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return [(str(value), int(count)) for value, count in counts.items()]


def _durations(seconds: np.ndarray) -> dict[str, Any]:
    """The distribution of the pieces' durations."""
    low, middle, high = (float(q) for q in np.quantile(seconds, (0.05, 0.5, 0.95))) if len(seconds) else (0, 0, 0)
    top = max(1.0, high * 1.25)
    says = f"Median duration: {number(round(middle, 1))} s; nine of ten pieces last {number(low)} to {number(high)} s."
    edges = np.linspace(0, top, _BINS + 1)
    return {"chart": charts.histogram_of({"real": np.minimum(seconds, top)}, edges, "seconds", says), "says": says}
