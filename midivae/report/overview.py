"""Sections "Overview" and "Corpus": the main figures, the files and where they come from.

Offers: `overview`, `corpus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from midivae.music import midi
from midivae.render import charts
from midivae.render.charts import number
from midivae.report.training import Trained
from midivae.storage import schema, tables
from midivae.storage.paths import CORPUS_TABLE, PIECES_TABLE

_BINS = 24  # of the histogram of durations
_MOST_KEYS = 8  # in the list of the most common keys


def overview(
    data: Path, main: Trained, samples: pd.DataFrame, first_job: str, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """The main figures: sources, model, number of samples, and their distance to held-out music."""
    sources = tables.read(data / "corpus" / CORPUS_TABLE, schema.CORPUS, ["source"]).column("source")
    return {
        "sources": sorted(set(sources.to_pylist())),
        "model": main.name,
        "samples": len(samples),
        "silent": int((samples["notes"] == 0).sum()),
        "minutes": float(samples["duration_s"].sum()) / 60,
        "first_job": first_job,
        "times_floor": metrics.get(f"{first_job.replace('-', '_')}_frechet_times_real_to_real"),
        "frame_f1": main.metrics["heldout"].get("frame_f1"),
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
    return {
        "sources": sources.to_dict("records"),
        "found": len(pieces),
        "accepted": len(accepted),
        "rejected": _rejected(pieces),
        "copies": int(accepted["copy_of"].notna().sum()),
        "near": int((accepted["copy_of"].isna() & (accepted["cluster"] != accepted["piece_id"])).sum()),
        "splits": _splits(accepted[accepted["copy_of"].isna()]),
        "keys": _keys(accepted),
        "durations": _durations(accepted["duration_s"].to_numpy(np.float64)),
    }


def _rejected(pieces: pd.DataFrame) -> list[dict[str, Any]]:
    """Number of rejected files per reason, with the meaning of the reason; the most common reason first."""
    counts = pieces.loc[~pieces["accepted"], "reason"].value_counts()
    return [
        {"reason": reason, "files": int(counts[reason]), "means": midi.REASONS.get(reason, "")}
        for reason in sorted(counts.index, key=lambda reason: (-counts[reason], reason))
    ]


def _splits(pieces: pd.DataFrame) -> list[dict[str, Any]]:
    """Pieces, notes and minutes of each split; copies belong to no split."""
    rows = []
    for split in ("train", "valid", "test"):
        part = pieces[pieces["split"] == split]
        minutes = float(part["duration_s"].sum()) / 60
        rows.append({"split": split, "pieces": len(part), "notes": int(part["notes_kept"].sum()), "minutes": minutes})
    return rows


def _keys(pieces: pd.DataFrame) -> list[tuple[str, float]]:
    """The most common keys, each with its share of the pieces."""
    counts = pieces["key"].dropna().value_counts(normalize=True)
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_KEYS]
    return [(str(key), float(share)) for key, share in common]


def _durations(seconds: np.ndarray) -> dict[str, Any]:
    """The distribution of the pieces' durations."""
    low, middle, high = (float(q) for q in np.quantile(seconds, (0.05, 0.5, 0.95))) if len(seconds) else (0, 0, 0)
    top = max(1.0, high * 1.25)
    counts, edges = np.histogram(np.minimum(seconds, top), _BINS, (0, top))
    outline = charts.Outline("pieces", (counts / max(1, len(seconds))).tolist(), "real")
    says = f"Median duration: {number(round(middle, 1))} s; nine of ten pieces last {number(low)} to {number(high)} s."
    return {
        "chart": charts.histogram(((edges[1:] + edges[:-1]) / 2).tolist(), [outline], "seconds", says),
        "says": says,
    }
