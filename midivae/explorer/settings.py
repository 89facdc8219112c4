"""The settings of the page: all that decides one sample.

A sample comes from one to four parents on the corners of a square, a point on the square, a radius with a seed, and
changes of attributes. Coordinates lie on a grid of `GRID` steps, and all other numbers are rounded, so that the columns
of the catalog, which have 32 bits, hold them exactly: a kept sample can be opened again and is the same music.

Offers: `Settings`, `Parent`; `weights_of`, `point_of`; the limits `GRID`, `MOST_PARENTS` and `TEMPO_QPM`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import AfterValidator, Field

from midivae.config.base import validated
from midivae.config.jobs import Job
from midivae.errors import ParamsError
from midivae.storage.files import rounded

GRID = 256  # steps of the square in each direction: products of two coordinates are exact in 32 bits
JOB = "kept"  # the job of kept samples
MOST_PARENTS = 4
TEMPO_QPM = (20, 400)  # lowest and highest tempo
UPLOAD_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}-([0-9a-f]{16})\.mid")  # with the hash of its bytes
_PARENT = re.compile(
    r"piece:[0-9a-f]{16}@[1-9]\d{0,5}"
    rf"|file:{UPLOAD_NAME.pattern}@[1-9]\d{{0,5}}"
    r"|sample:[a-z0-9][a-z0-9-]{0,62}-\d{7,18}"
)


def _valid_parent(text: str) -> str:
    if _PARENT.fullmatch(text) is None:
        raise ValueError("must be piece:ID@BAR, file:NAME@BAR of an uploaded file, or sample:JOB-0000012")
    return text


def _to_grid(value: float) -> float:
    return round(value * GRID) / GRID


_to_cents = partial(round, ndigits=2)
Finite = partial(Field, allow_inf_nan=False)

Parent = Annotated[str, AfterValidator(_valid_parent)]
Coordinate = Annotated[float, Finite(ge=0, le=1), AfterValidator(_to_grid)]
Change = Annotated[float, Finite(gt=-100, lt=100), AfterValidator(rounded)]
Tempo = Annotated[float, Finite(ge=TEMPO_QPM[0], le=TEMPO_QPM[1]), AfterValidator(_to_cents)]


class Settings(Job):
    """All that decides one sample of the explorer."""

    name: str = JOB
    mode: Literal["explore"] = "explore"
    count: Literal[1] = 1
    parents: Annotated[tuple[Parent, ...], Field(min_length=1, max_length=MOST_PARENTS)]
    at: tuple[Coordinate, Coordinate] = (0.5, 0.5)  # the point: from the left, and from the top
    radius: Annotated[float, Finite(ge=0, le=10), AfterValidator(_to_cents)] = 0.0
    fidelity: Annotated[float, Finite(ge=0, le=1), AfterValidator(_to_cents)] = 1.0  # 0: the parents' idea alone
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # of the direction, and of the draws of the cells
    changes: Annotated[dict[str, Change], Field(max_length=32)] = Field(default_factory=dict)
    tempo_qpm: Tempo | None = None

    def __hash__(self) -> int:
        return hash(self.digest())

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Settings:
        """The settings in a request.

        Raises:
            ParamsError: a value breaks a rule.
        """
        unknown = sorted(set(values) - set(_IN_REQUEST))
        if unknown:
            raise ParamsError(f"settings: unknown {unknown[0]!r:.40}; there are {', '.join(_IN_REQUEST)}")
        settings = validated(cls, values, "settings")
        changes = {name: change for name, change in sorted(settings.changes.items()) if change}
        # a coordinate without effect, such as the height on a line, gets its default: the same music has the same hash
        at = point_of(weights_of(len(settings.parents), settings.at).tolist())
        return settings.model_copy(update={"changes": changes, "at": at})


_IN_REQUEST = ("model", "parents", "at", "radius", "fidelity", "seed", "changes", "tempo_qpm")


def weights_of(parents: int, at: tuple[float, float]) -> Float64[np.ndarray, " M"]:
    """The weight of each corner at a point, bilinear; the weights sum to 1.

    Two parents are the left and the right end of a line. Three are the upper corners and the lower edge.
    """
    x, y = at
    weights = {
        1: (1.0,),
        2: (1 - x, x),
        3: ((1 - x) * (1 - y), x * (1 - y), y),
        4: ((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y),
    }
    return np.array(weights[parents], np.float64)


def point_of(weights: Sequence[float]) -> tuple[float, float]:
    """The point that gives these weights: inverts `weights_of`; a coordinate without effect is 1/2."""
    if len(weights) == 1:
        return 0.5, 0.5
    if len(weights) == 2:
        return _to_grid(weights[1]), 0.5
    below = sum(weights[2:])
    right = weights[1] / (1 - below) if below < 1 else 0.5
    if len(weights) == 4:
        right = weights[1] + weights[3]
    return _to_grid(right), _to_grid(below)
