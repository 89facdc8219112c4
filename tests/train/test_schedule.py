"""The learning rate and the weight of the KL term at each step."""

from __future__ import annotations

import math

import pytest

from midivae.config.train import Dense
from midivae.train.schedule import kl_weight, learning_rate


def test_the_learning_rate_rises_and_falls() -> None:
    settings = Dense(learning_rate=0.5, warmup_steps=4, decay=True)
    # rise 1/4, 2/4, 3/4, 1, ...; fall (1 + cos(pi * done / 8)) / 2 with 0 to 7 steps done
    rise = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    wanted = [0.5 * up * (1 + math.cos(math.pi * done / 8)) / 2 for done, up in enumerate(rise)]
    assert [learning_rate(settings, step, 8) for step in range(1, 9)] == pytest.approx(wanted)


def test_without_warmup_and_decay_the_learning_rate_stays() -> None:
    settings = Dense(learning_rate=0.5)
    assert learning_rate(settings, 1, 1000) == learning_rate(settings, 1000, 1000) == 0.5


def test_the_weight_of_the_kl_rises_to_one_and_stays() -> None:
    settings = Dense(anneal_steps=4)
    assert [kl_weight(settings, step) for step in (1, 2, 3, 4, 5)] == [0.25, 0.5, 0.75, 1, 1]
    assert kl_weight(Dense(anneal_steps=0), 1) == 1
