"""The curves of a training run: one row per epoch, and one row every some steps. Losses are in nats a window.

Offers: `Row`, `EPOCH_COLUMNS`, `STEP_COLUMNS`, `loss_columns`, `csv_bytes`, `write_curves`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from midivae.storage.files import write_bytes
from midivae.storage.paths import CURVES

Row = dict[str, int | float | None]
_PARTS = ("loss", "reconstruction", "kl")
EPOCH_COLUMNS = ("epoch", "step", *(f"{split}_{part}" for split in ("train", "valid") for part in _PARTS))
STEP_COLUMNS = ("step", "epoch", *_PARTS, "learning_rate", "gradient_norm")


def loss_columns(split: str, parts: Float[Tensor, " 2"] | None, beta: float) -> Row:
    """The columns of one split in a row of an epoch; `parts`: reconstruction and KL, None: the split has no windows."""
    names = [f"{split}_{part}" for part in _PARTS]
    if parts is None:
        return dict.fromkeys(names)
    reconstruction, kl = parts.tolist()
    return dict(zip(names, [reconstruction + beta * kl, reconstruction, kl], strict=True))


def csv_bytes(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """Rows of a curve as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def write_curves(folder: Path, epochs: Sequence[Row], steps: Sequence[Row]) -> None:
    """Writes both curves of a run as CSV files."""
    write_bytes(folder / CURVES, csv_bytes(epochs, EPOCH_COLUMNS))
    write_bytes(folder / "steps.csv", csv_bytes(steps, STEP_COLUMNS))
