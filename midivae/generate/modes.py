"""The modes of generation by name.

Offers: `generate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replace_
from typing import Any

import numpy as np

from midivae.generate.blend import blend
from midivae.generate.context import Context, Samples
from midivae.generate.edit import edit
from midivae.generate.ensemble import ensemble
from midivae.generate.given import accompany, infill, replace
from midivae.generate.one_window import reconstruct, sample, vary
from midivae.generate.sequences import continue_, song
from midivae.measures.notes import transposed

_MODES: dict[str, Callable[[Context, Any, range], Samples]] = {
    "sample": sample,
    "reconstruct": reconstruct,
    "vary": vary,
    "blend": blend,
    "edit": edit,
    "infill": infill,
    "accompany": accompany,
    "replace": replace,
    "continue": continue_,
    "song": song,
    "ensemble": ensemble,
}


def generate(context: Context, numbers: range) -> Samples:
    """The samples with these numbers: at most `coding.BLOCK`, the first at the start of a block."""
    samples = _MODES[context.job.mode](context, context.job, numbers)
    if context.job.transpose:
        shift = np.full(len(numbers), context.job.transpose)
        samples = replace_(samples, planes=transposed(samples.planes, context.layout, shift))
    return samples
