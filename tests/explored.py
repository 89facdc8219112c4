"""Parameters of a small run for the explorer, and settings that its tests share."""

from __future__ import annotations

from typing import Any

from midivae.config.params import Params, parse
from midivae.explorer.session import Session
from midivae.explorer.settings import Settings

EVIL = "<img src=x onerror=alert(1)>\u202e\"'.mid"
VALUES: dict[str, Any] = {
    "compute": {"workers": 1},
    "train": {
        "compare": ["mlp"],
        "view": {"steps": 32},
        "precision": 32,
        "transformer": {
            **{"width": 32, "channels": 8, "heads": 2, "layers": 1, "cell": 8, "context": 8},
            **{"coarse": 16, "fine": 8, "draft": 32, "draft_steps": 60},
            **{"batch_size": 16, "max_steps": 120, "epochs": 100, "anneal_steps": 40, "prior_steps": 20},
            **{"optimizer": "adamw", "learning_rate": 0.006, "patience": None},
        },
        "dense": {"hidden": [32], "latent": 8, "epochs": 2, "batch_size": 16},
    },
    "generate": {"jobs": [{"name": "a", "count": 3}], "samples_per_part": 64},
}
PARAMS: Params = parse(VALUES, "test")


def some(session: Session, **values: Any) -> Settings:
    """Settings between four pieces."""
    return Settings.parse({"parents": session.random_parents(4, 0), **values})
