"""How stages use the machine."""

from __future__ import annotations

from midivae.config.base import Positive, Section


class Compute(Section):
    """How stages use the machine. It changes their time, never their results, so DVC ignores it."""

    workers: Positive | None = None  # None: one per core
    scheduler: str | None = None  # address of a Dask scheduler ("tcp://host:8786"); None: processes on this machine
