"""Params of stage `evaluate`: measures and distances."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from midivae.config.base import Positive, Section, Seed


class Evaluate(Section):
    """Stage `evaluate`: measures and distances."""

    seed: Seed = 0
    repeats: Positive = 20  # random halves of the held-out pieces for the real-vs-real floor
    bootstrap: Annotated[int, Field(ge=0)] = 200  # rounds of the bootstrap that gives distances their intervals
    training_windows: Positive = 8192  # at most, evenly spaced: searched for neighbours, counted by trivial generators
    beats_per_bar: Positive = 4  # for the measures that need bars, alike for samples and real windows
