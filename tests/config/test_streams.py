"""Random streams: their numbers are part of what a seed promises."""

from __future__ import annotations

import numpy as np
import pytest

from midivae.config.streams import Stream


@pytest.mark.parametrize(
    ("stream", "numbers", "key"),
    [
        (Stream.WINDOW_ORDER, {"epoch": 5}, [3, 5]),
        (Stream.WEIGHTS, {}, [3, 0]),
        (Stream.DROPOUT, {"epoch": 5}, [3, 5, 5]),
        (Stream.SAMPLE, {"job": 2**60, "sample": 7}, [3, 2**60, 7]),
        (Stream.EXPLORE, {}, 3),
        (Stream.HALVES, {"repeat": 4}, [3, 4]),
        (Stream.DRAWS, {"repeat": 4}, [3, 4, 1]),
        (Stream.BASELINE, {"generator": 1, "block": 2}, [3, 1, 2]),
    ],
)
def test_a_key_is_the_seed_and_the_numbers_of_the_stream(
    stream: Stream, numbers: dict[str, int], key: int | list[int]
) -> None:
    expected = np.random.default_rng(np.random.SeedSequence(key)).integers(2**63, size=4)
    assert (stream.rng(3, **numbers).integers(2**63, size=4) == expected).all()


def test_choices_are_spawned_from_the_key_of_a_sample() -> None:
    parent = Stream.SAMPLE.seeds(3, job=1, sample=2)
    parent.spawn(1)
    [second] = parent.spawn(1)
    found = Stream.CHOICES.seeds(3, job=1, sample=2)
    assert (found.generate_state(4) == second.generate_state(4)).all()


def test_no_two_streams_have_the_same_key() -> None:
    assert len(Stream) == len(Stream.__members__) == 20


def test_a_number_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError, match="epoch"):
        Stream.NOISE.seeds(0)
