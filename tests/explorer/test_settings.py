"""Settings of the page: weights of parents, rules, and rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explored import some
from hypothesis import given
from hypothesis import strategies as st

from midivae.config.params import parse
from midivae.errors import ParamsError
from midivae.explorer.session import Session
from midivae.explorer.settings import point_of, weights_of

pytestmark = pytest.mark.numerical


def test_weights_by_hand() -> None:
    # a quarter from the left, half way down: (3/4 * 1/2, 1/4 * 1/2, 3/4 * 1/2, 1/4 * 1/2)
    assert weights_of(4, (0.25, 0.5)).tolist() == [0.375, 0.125, 0.375, 0.125]
    assert weights_of(3, (0.25, 0.5)).tolist() == [0.375, 0.125, 0.5]
    assert weights_of(2, (0.25, 0.9)).tolist() == [0.75, 0.25]
    assert weights_of(1, (0.25, 0.9)).tolist() == [1]
    assert weights_of(4, (1.0, 1.0)).tolist() == [0, 0, 0, 1]


@given(st.integers(1, 4), st.integers(0, 256), st.integers(0, 256))
def test_a_point_comes_back_from_the_32_bits_of_its_weights(parents: int, x: int, y: int) -> None:
    weights = weights_of(parents, (x / 256, y / 256))
    assert weights.sum() == 1
    stored = weights.astype(np.float32).astype(float).tolist()
    assert weights_of(parents, point_of(stored)).tolist() == weights.tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parents": []}, "parents"),
        ({"parents": ["piece:0123456789abcdef@1"] * 5}, "parents"),
        ({"parents": ["file:/etc/passwd@1"]}, "must be piece:ID@BAR"),
        ({"parents": ["file:../x-0123456789abcdef.mid@1"]}, "must be piece:ID@BAR"),
        ({"parents": ["split:train"]}, "must be piece:ID@BAR"),
        ({"parents": [7]}, "parents"),
        ({"at": [0.5, 2]}, "at.1"),
        ({"at": [float("nan"), 0]}, "at.0"),
        ({"radius": -1}, "radius"),
        ({"radius": float("inf")}, "radius"),
        ({"seed": -1}, "seed"),
        ({"changes": {"register": 1e9}}, "changes.register"),
        ({"changes": {"loudness": 1}}, "no knob 'loudness'"),
        ({"model": "gpt"}, "model"),
        ({"model": "autoencoder"}, "no model 'autoencoder'"),
        ({"tempo_qpm": 0}, "tempo_qpm"),
        ({"midi_files": False}, "unknown 'midi_files'"),
        ({"model": "mlp", "changes": {"register": 1}}, "no knob 'register'; this model has"),
        ({"parents": ["piece:0123456789abcdef@1"]}, "piece:0123456789abcdef"),
    ],
)
def test_settings_that_break_a_rule(session: Session, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        session.make(some(session, **values))
    assert message in str(caught.value)


def test_no_job_may_be_called_kept() -> None:
    with pytest.raises(ParamsError, match="no job may be named 'kept'"):
        parse({"generate": {"jobs": [{"name": "kept", "count": 1}]}}, "test")
