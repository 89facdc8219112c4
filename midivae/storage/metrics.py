"""Names of the metrics in `data/evaluation/metrics.json`: a set, and what is measured of it.

Look up a metric by its whole name. A prefix would take the job `song-2` for the job `song`.

Offers: `metric_name`.
"""

from __future__ import annotations

_JOINED = str.maketrans({"-": "_", ":": "_"})


def metric_name(*parts: str) -> str:
    """The name of a metric: the set, and then the measure with its details, such as `song_2_frechet`."""
    return "_".join(part.replace(", ", "_").translate(_JOINED) for part in parts)
