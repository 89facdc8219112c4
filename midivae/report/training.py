"""Section "Training": for each model its size, its loss by epoch, and its figures on held-out pieces.

Offers: `Trained`, `read_trained`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from midivae import models
from midivae.config.params import Params
from midivae.models import WindowModel
from midivae.render import charts
from midivae.render.charts import number
from midivae.storage.files import read_csv, read_json
from midivae.storage.paths import CURVES, METRICS, model_folder


@dataclass(frozen=True)
class Trained:
    """A model, and the metrics and loss curves of its training."""

    name: str
    model: WindowModel
    metrics: dict[str, Any]
    curves: pd.DataFrame

    @property
    def chart(self) -> Markup:
        """Training and validation loss by epoch."""
        best = int(self.metrics["best_epoch"])
        epochs, train, valid = (self.curves[name].tolist() for name in ("epoch", "train_loss", "valid_loss"))
        lines = [
            charts.Curve("real", epochs, train),
            charts.Curve("s0", epochs, valid, epochs.index(best) if best in epochs else None),
        ]
        says = (
            f"Loss of {self.name} over {len(epochs)} epochs: training ends at {number(train[-1])}, validation at "
            f"{number(valid[-1])}; the best epoch is {best}."
        )
        # the training loss of the first epoch belongs to an untrained model and would flatten the rest of the chart
        top = 1.02 * self.curves["valid_loss"].max() if len(valid) > 1 else np.nan
        return charts.curves(lines, "epoch", says, None if np.isnan(top) else float(top))


def read_trained(params: Params, folder: Path) -> list[Trained]:
    """The main model in `folder`, and the models that were trained for comparison."""
    main = params.train.model
    folders = {name: model_folder(folder, name, main) for name in (main, *params.train.compare)}
    return [
        Trained(name, models.load(at), read_json(at / METRICS), read_csv(at / CURVES, "train"))
        for name, at in folders.items()
    ]
