"""Params of stage `report`: the page."""

from __future__ import annotations

from midivae.config.base import Positive, Section, Seed


class Report(Section):
    """Stage `report`: the page."""

    samples: Positive = 4096  # maximum in the page; of a larger catalog the first of each job
    rolls_per_job: Positive = 6  # that the gallery shows of each job at first; also the number of reconstructed windows
    seed: Seed = 0  # of the choice of reconstructed windows
