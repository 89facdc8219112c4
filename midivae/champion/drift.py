"""Whether new pieces are unlike those that the champion was trained on, and whether they can be used at all.

New is a piece that the champion's rolls do not have. Its windows are measured as samples are (`features`), and each
feature's values are compared with those of the champion's training windows: by how much values must move, in standard
deviations there (`distances.wasserstein`). Far is worth a warning, not a stop: another style may be what was wanted.
Rolls of another layout or version are a stop: a model cannot go on from them, and nothing can be compared.

Offers: `run`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float

from midivae import models
from midivae.config.champion import Drift
from midivae.config.params import Params
from midivae.config.train import View
from midivae.errors import SchemaError
from midivae.measures import distances, features
from midivae.storage import tables
from midivae.storage.paths import PIECES_TABLE
from midivae.storage.schema import FEATURES, PIECES
from midivae.windows import loader

_WINDOWS_AT_ONCE = 1024
_QUANTILES = (np.arange(500) + 0.5) / 500  # stand for the values of either side, which are not equally many


def run(params: Params, data: Path, champion: Path, rules: Drift) -> dict[str, Any]:
    """Compares what is new in `data/rolls` with the training pieces in `champion/rolls`.

    Args:
        params: of the run; its beats per bar.
        data: the folder of all stages.
        champion: likewise, of the champion.
        rules: when to warn.

    Returns:
        The content of drift.json: counts of new files, `shift_sd` per feature, and warnings in sentences.

    Raises:
        InputError, CorruptError: rolls or the champion's model are missing or damaged.
        SchemaError: the rolls are of another version, or of another layout than the champion's.
    """
    new, rejected = _new_pieces(data / "rolls", champion / "rolls")
    known = loader.load(champion / "rolls", ["train"])
    now = loader.load(data / "rolls", ["train", "valid", "test"])
    if now.layout != known.layout:
        raise SchemaError(
            f"{data / 'rolls'}: layout {now.layout}, but the champion's rolls have {known.layout}: no model of one can "
            "be compared with one of the other; undo the change of ingest, or delete the hold-out to begin a new "
            "line of champions"
        )
    view = models.base.read_config(champion / "model").view
    mine = _measured(now, new, view, params, rules)
    theirs = _measured(known, set(known.piece_ids), view, params, rules)
    shift = _shift(mine, theirs) if len(mine) >= rules.min_windows else {}
    found = {"new_files": len(new) + rejected, "new_pieces": len(new), "rejected": rejected, "new_windows": len(mine)}
    return {**found, "shift_sd": shift, "warnings": _warnings(found, shift, rules)}


def _new_pieces(rolls: Path, earlier: Path) -> tuple[set[str], int]:
    """Ids of the accepted pieces that were not there before, and how many new files were rejected."""
    columns = ["piece_id", "accepted"]
    now, before = (tables.read(folder / PIECES_TABLE, PIECES, columns) for folder in (rolls, earlier))
    known = set(before.column("piece_id").to_pylist())
    accepted = set(now.filter(now.column("accepted")).column("piece_id").to_pylist())
    rejected = set(now.filter(pc.invert(now.column("accepted"))).column("piece_id").to_pylist()) - accepted
    return accepted - known, len(rejected - known)


def _measured(
    corpus: loader.Corpus, pieces: set[str], view: View, params: Params, rules: Drift
) -> Float[np.ndarray, "M F"]:
    """The features of windows of these pieces, a row each; NaN where there is no value."""
    view = view.model_copy(update={"planes": "onset+frame"})
    windows = loader.windows(corpus, view)
    index = np.flatnonzero(np.isin(np.array(corpus.piece_ids), sorted(pieces))[windows.piece])
    index = index[distances.evenly(len(index), rules.max_windows)]
    layout = loader.sample_layout(corpus.layout, view)
    blocks = [np.empty((0, len(FEATURES)))]
    for first in range(0, len(index), _WINDOWS_AT_ONCE):
        planes = loader.planes(corpus, windows, index[first : first + _WINDOWS_AT_ONCE], view)
        columns = features.measure(planes, layout, params.evaluate.beats_per_bar)
        blocks.append(np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float64))
    return np.concatenate(blocks)


def _shift(mine: Float[np.ndarray, "M F"], theirs: Float[np.ndarray, "K F"]) -> dict[str, float]:
    """Per feature that varies in the champion's music: how far the new values are, in its standard deviations."""
    found = {}
    for column, name in enumerate(FEATURES):
        x, y = (values[:, column][~np.isnan(values[:, column])] for values in (mine, theirs))
        if len(x) and len(y) and y.std() > 0:
            apart = float(distances.wasserstein(*(np.quantile(v, _QUANTILES) for v in (x, y))))
            found[name] = round(apart / float(y.std()), 4)
    return found


def _warnings(found: dict[str, int], shift: dict[str, float], rules: Drift) -> list[str]:
    far = {name: value for name, value in shift.items() if value > rules.max_shift_sd}
    said = [
        f"{name} of the new music is {value:.2f} standard deviations from the champion's training music, more than "
        f"{rules.max_shift_sd:g}"
        for name, value in sorted(far.items(), key=lambda item: -item[1])
    ]
    if found["new_files"] and found["rejected"] > rules.max_rejected_share * found["new_files"]:
        said.append(
            f"{found['rejected']} of {found['new_files']} new files were rejected; data/rolls/pieces.parquet says why"
        )
    return said
