"""Names of the metrics in `data/evaluation/metrics.json`: a set, and what is measured of it.

A metric is always looked up by its whole name. A prefix would take the job `song-2` for the job `song`.

Offers: `metric_name` / `metric_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_JOINED = str.maketrans({"-": "_", ":": "_"})


def metric_name(*of: str) -> str:
    """The name of a metric: the set, and then the measure with its details, such as `song_2_frechet`."""
    return "_".join(part.replace(", ", "_").translate(_JOINED) for part in of)


def metric_of(metrics: Mapping[str, Any], *of: str) -> Any:
    """A metric of a set.

    Raises:
        KeyError: there is none of this name.
    """
    return metrics[metric_name(*of)]
