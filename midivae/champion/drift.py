"""Compares new pieces with the music that the champion was trained on.

A piece is new if the champion's rolls do not have it. Its windows are measured like samples (`measures.features`), and
each feature is compared with the champion's training windows: the Wasserstein distance, in standard deviations of the
champion's values. A large distance gives a warning and no error: another style may be intended. Rolls of another layout
or version are an error: no model can continue from them, and nothing can be compared.

Offers: `run`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import wasserstein_distance

from midivae import models
from midivae.config.champion import Drift
from midivae.config.params import Params
from midivae.config.train import View
from midivae.errors import SchemaError
from midivae.measures import distances, features
from midivae.storage import tables
from midivae.storage.paths import PIECES_TABLE
from midivae.storage.schema import FEATURES, PIECES
from midivae.windows.corpus import Corpus, load_corpus
from midivae.windows.windows import cut_planes, find_windows, sample_layout

_WINDOWS_AT_ONCE = 1024


def run(params: Params, data: Path, champion: Path, rules: Drift) -> dict[str, Any]:
    """Compares the new pieces of `data/rolls` with the training pieces of `champion/rolls`.

    Args:
        params: of the run; its beats per bar.
        data: the folder of all stages.
        champion: the same, of the champion.
        rules: when to warn.

    Returns:
        The content of drift.json: counts of new files, `shift_sd` per feature, and warnings in sentences.

    Raises:
        InputError, CorruptError: rolls or the champion's model are missing or damaged.
        SchemaError: the rolls are of another version, or of another layout than the champion's.
    """
    new, rejected = _new_pieces(data / "rolls", champion / "rolls")
    before = load_corpus(champion / "rolls", ["train"])
    now = load_corpus(data / "rolls", ["train", "valid", "test"])
    if now.layout != before.layout:
        raise SchemaError(
            f"{data / 'rolls'}: layout {now.layout}, but the champion's rolls have {before.layout}: models of "
            "the two cannot be compared; undo the change of ingest, or delete the hold-out to begin a new "
            "line of champions"
        )
    view = models.base.read_config(champion / "model").view
    new_values = _measured(now, new, view, params, rules)
    shift = {}
    if len(new_values) >= rules.min_windows:
        shift = _shift(new_values, _measured(before, set(before.piece_ids), view, params, rules))
    counts = {
        "new_files": len(new) + rejected,
        "new_pieces": len(new),
        "rejected": rejected,
        "new_windows": len(new_values),
    }
    return {**counts, "shift_sd": shift, "warnings": _warnings(counts, shift, rules)}


def _new_pieces(rolls: Path, earlier: Path) -> tuple[set[str], int]:
    """Ids of the accepted pieces that `earlier` does not have, and the number of new files that were rejected."""
    columns = ["piece_id", "accepted"]
    now, before = (tables.read(folder / PIECES_TABLE, PIECES, columns) for folder in (rolls, earlier))
    known = set(before.column("piece_id").to_pylist())
    accepted = set(now.filter(now.column("accepted")).column("piece_id").to_pylist())
    rejected = set(now.column("piece_id").to_pylist()) - accepted
    return accepted - known, len(rejected - known)


def _measured(corpus: Corpus, pieces: set[str], view: View, params: Params, rules: Drift) -> Float[np.ndarray, "M F"]:
    """The features of windows of these pieces, one row per window; NaN: no value."""
    view = view.model_copy(update={"planes": "onset+frame"})
    windows = find_windows(corpus, view)
    index = np.flatnonzero(np.isin(np.array(corpus.piece_ids), sorted(pieces))[windows.piece])
    index = index[distances.evenly(len(index), rules.max_windows)]
    layout = sample_layout(corpus.layout, view)
    blocks = [np.empty((0, len(FEATURES)))]
    for first in range(0, len(index), _WINDOWS_AT_ONCE):
        planes = cut_planes(corpus, windows, index[first : first + _WINDOWS_AT_ONCE], view)
        columns = features.measure(planes, layout, params.evaluate.beats_per_bar)
        blocks.append(np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float64))
    return np.concatenate(blocks)


def _shift(new: Float[np.ndarray, "M F"], champion: Float[np.ndarray, "K F"]) -> dict[str, float]:
    """The Wasserstein distance of each feature, in standard deviations of the champion's values.

    Features without a value on one side, and those that do not vary in the champion's music, are left out.
    """
    shift = {}
    for column, name in enumerate(FEATURES):
        x, y = (values[:, column][~np.isnan(values[:, column])] for values in (new, champion))
        if len(x) and len(y) and y.std() > 0:
            shift[name] = round(float(wasserstein_distance(x, y) / y.std()), 4)
    return shift


def _warnings(counts: dict[str, int], shift: dict[str, float], rules: Drift) -> list[str]:
    warnings = [
        f"{name} of the new music is {value:.2f} standard deviations from the champion's training music, more than "
        f"{rules.max_shift_sd:g}"
        for name, value in sorted(shift.items(), key=lambda item: -item[1])
        if value > rules.max_shift_sd
    ]
    if counts["new_files"] and counts["rejected"] > rules.max_rejected_share * counts["new_files"]:
        warnings.append(
            f"{counts['rejected']} of {counts['new_files']} new files were rejected; data/rolls/pieces.parquet says why"
        )
    return warnings
