"""Params of stage `evaluate`: measures and distances."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from midivae.config.base import Positive, Section, Seed


class Evaluate(Section):
    """Stage `evaluate`: measures and distances."""

    seed: Seed = 0
    repeats: Positive = 20  # random halves of the held-out pieces: how far real music is from real music
    # rounds of the bootstrap for the intervals of distances; 0: no intervals
    bootstrap: Annotated[int, Field(ge=0)] = 200
    training_windows: Positive = 8192  # maximum, evenly spaced; for nearest neighbours and the trivial generators
    beats_per_bar: Positive = 4  # for measures that need bars; the same for samples and held-out windows
