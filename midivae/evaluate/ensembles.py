"""How far parts are from each other: ensemble.csv, beside real music, and beside parts of different pieces.

Offers: `ensemble_rows`, `real_ensemble_rows` and `ENSEMBLE_COLUMNS`.
"""

from __future__ import annotations

import numpy as np

from midivae.config.streams import Stream
from midivae.evaluate.context import Context
from midivae.evaluate.held_out_distances import mean
from midivae.evaluate.measured_set import Reference
from midivae.evaluate.samples import MeasuredJob
from midivae.evaluate.windows import Index, slices
from midivae.measures import counterpoint
from midivae.measures.control import Row
from midivae.measures.keys import best_scale
from midivae.measures.notes import chroma
from midivae.music import roll
from midivae.storage.schema import HELD_OUT

ENSEMBLE_COLUMNS = ("set", "method", "rows", "tonal_distance", "sd", "scale_consistency")
MERGED = "held-out, merged"  # parts of different pieces: music that does not cohere


def ensemble_rows(job: MeasuredJob) -> list[Row]:
    """A row for each method in the job."""
    tonal = job.windows.tonal
    in_scale = job.features["scale_consistency"][: len(tonal)]
    methods = job.rows["method"].fillna("").to_numpy()[job.features.piece[: len(tonal)]]
    return [
        _ensemble_row(job.name, method, tonal[methods == method], in_scale[methods == method])
        for method in sorted(set(methods))
    ]


def _ensemble_row(name: str, method: str, tonal: np.ndarray, in_scale: np.ndarray) -> Row:
    present = tonal[~np.isnan(tonal)]
    return {
        "set": name,
        "method": method,
        "rows": len(present),
        "tonal_distance": mean(tonal),
        "sd": float(present.std()) if len(present) else np.nan,
        "scale_consistency": mean(in_scale),
    }


def real_ensemble_rows(reference: Reference, context: Context) -> list[Row]:
    """Held-out windows, and the same with each part from a window of another piece, not transposed."""
    windows, layout = reference.measured.windows, context.layout
    n, n_parts = len(windows.packed), len(layout.parts)
    rows = [_ensemble_row(HELD_OUT, "", windows.tonal, reference.measured.features["scale_consistency"][:n])]
    piece = reference.held_out.windows.piece[:n]
    if len(np.unique(piece)) < n_parts:
        return rows
    merge_rng = Stream.MERGED_PARTS.rng(reference.seed)
    others = [_of_another(piece, merge_rng) for _ in range(n_parts - 1)]
    tonal, in_scale = [], []
    for block in slices(np.arange(n)):
        planes = roll.unpack(windows.packed[block], layout)
        for part, other in enumerate(others, start=1):
            planes[:, :, part] = roll.unpack(windows.packed[other[block]], layout)[:, :, part]
        tonal.append(counterpoint.tonal_distance(planes, layout))
        in_scale.append(best_scale(chroma(planes, layout))[1])
    return [*rows, _ensemble_row(MERGED, "", np.concatenate(tonal), np.concatenate(in_scale))]


def _of_another(piece: Index, rng: np.random.Generator) -> Index:
    """For each window one of another piece, drawn at random."""
    n = len(piece)
    drawn: np.ndarray = rng.integers(n, size=n)
    while (same := piece[drawn] == piece).any():
        drawn[same] = rng.integers(n, size=int(same.sum()))
    return drawn
