"""The verdict on the article."""

from __future__ import annotations

import numpy as np
import pytest

from midivae.config.evaluate import Evaluate
from midivae.evaluate.held_out_distances import SetFeatures, floor_of
from midivae.evaluate.verdict import verdict_of
from midivae.storage import schema
from midivae.storage.schema import FEATURES

pytestmark = pytest.mark.numerical


def measured(name: str, model: str, centre: float, n: int, silent: int = 0, temperature: float = np.nan) -> SetFeatures:
    """A set whose measures lie around `centre`; the last `silent` rows are silence."""
    rng = np.random.default_rng(len(name) + n)
    values = rng.normal(centre, 1, (n, len(FEATURES)))
    if silent:
        values[-silent:] = np.nan
        values[-silent:, FEATURES.index("notes")] = 0
    return SetFeatures(name, values, np.arange(n), {}, model, temperature)


@pytest.mark.parametrize(
    ("vae", "plain", "right"),
    [
        (measured("a", "mlp", 0, 90), measured("bb", "autoencoder", 5, 90), True),
        (measured("a", "mlp", 5, 90), measured("bb", "autoencoder", 0, 90), False),
        (measured("a", "mlp", 0, 90), measured("bb", "autoencoder", 0, 90), None),
        (measured("a", "mlp", 3, 90), measured("bb", "autoencoder", 0, 90, silent=90), True),
        (measured("a", "mlp", 3, 90, silent=89), measured("bb", "autoencoder", 0, 90), False),
        (measured("a", "mlp", 3, 90, silent=90), measured("bb", "autoencoder", 0, 90, silent=90), None),
        # drawn at two temperatures: no comparison
        (measured("a", "mlp", 0, 90, temperature=1.0), measured("bb", "autoencoder", 5, 90), None),
    ],
)
def test_verdict(vae: SetFeatures, plain: SetFeatures, right: bool | None) -> None:
    real = measured(schema.HELD_OUT, "", 0, 200)
    floor = floor_of(real, Evaluate())
    verdict = verdict_of([plain, vae], floor)
    assert verdict.right is right
    assert verdict.sentence.endswith(".")
