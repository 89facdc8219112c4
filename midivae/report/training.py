"""Section "Training": for each model its size, its loss by epoch, and its figures on held-out pieces.

Offers: `Trained`, `read`, `training`.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from midivae.report.labels import words
from midivae.storage.files import read_csv, read_json
from midivae.storage.paths import CURVES, METRICS, model_folder


@dataclass(frozen=True)
class Trained:
    """A model, and the metrics and loss curves of its training."""

    name: str
    model: WindowModel
    metrics: dict[str, Any]
    curves: pd.DataFrame


def read(params: Params, folder: Path) -> list[Trained]:
    """The main model in `folder`, and the models in `folder/compare`."""
    main = params.train.model
    folders = {name: model_folder(folder, name, main) for name in (main, *params.train.compare)}
    return [
        Trained(name, models.load(at), read_json(at / METRICS), read_csv(at / CURVES, "train"))
        for name, at in folders.items()
    ]


def training(trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """One card per model."""
    return [_card(model) for model in trained]


def _card(trained: Trained) -> dict[str, Any]:
    config, metrics = trained.model.config, trained.metrics
    shape = config.window_shape
    return {
        "name": trained.name,
        "facts": {
            "parameters": number(metrics["parameters"]),
            "window": f"{shape[0]} steps × {shape[1]} parts × {shape[2]} planes × {shape[3]} pitches",
            "latent": f"{trained.model.latent} dimensions",
            "training windows": number(metrics["windows"]["train"]),
            "epochs": f"{metrics['epochs']}, the best is {metrics['best_epoch']}",
        },
        "chart": _curves(trained),
        "heldout": {words(name): number(value) for name, value in metrics["heldout"].items()},
    }


def _curves(trained: Trained) -> Markup:
    """Training and validation loss by epoch."""
    curves, best = trained.curves, int(trained.metrics["best_epoch"])
    epochs, train, valid = (curves[name].tolist() for name in ("epoch", "train_loss", "valid_loss"))
    lines = [
        charts.Curve("training", epochs, train, "real"),
        charts.Curve("validation", epochs, valid, "s0", epochs.index(best) if best in epochs else None),
    ]
    says = (
        f"Loss of {trained.name} over {len(curves)} epochs: training ends at {number(train[-1])}, validation at "
        f"{number(valid[-1])}; the best epoch is {best}."
    )
    # the training loss of the first epoch belongs to an untrained model and would flatten the rest of the chart
    top = curves["valid_loss"].max() if len(curves) > 1 else np.nan
    return charts.curves(lines, "epoch", says, None if np.isnan(top) else float(top) * 1.02)
