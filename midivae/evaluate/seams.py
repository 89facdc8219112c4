"""What changes where new music meets that of its parent, beside the bar lines of real music: seams.csv.

A sample has a seam behind its first `lead_steps` steps, and before its last `tail_steps` steps, if they are not 0.

Shapes:
    B  samples    T  steps    N  parts    K  planes    P  pitches

Offers: `seam_rows` and `SEAM_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from midivae.evaluate.context import Context
from midivae.evaluate.held_out_distances import mean
from midivae.evaluate.measured_set import Reference
from midivae.evaluate.samples import MeasuredJob
from midivae.evaluate.windows import Index, slices, windows_of_pieces
from midivae.measures import longform
from midivae.measures.control import Row
from midivae.music import roll
from midivae.music.roll import Layout
from midivae.windows.windows import find_windows

SEAM_COLUMNS = ("job", "measure", "bars", "rows", "mean", "real_rows", "real_mean", "real_sd")
_SEAM_BARS = 2  # on each side, if there are as many

Seams = dict[str, np.ndarray]  # by the names of `longform.Seams`


def seam_rows(job: MeasuredJob, reference: Reference, context: Context) -> list[Row]:
    """The seams of a job, beside every bar line of held-out music with as many bars on both sides.

    A sample with music of its parent before and after the new music has two seams. `same_key_both` is the share of such
    samples whose key is the same on both sides of both; beside it held-out music with bar lines as far apart as the
    seams of the job's first sample.
    """
    bar, layout = context.steps_per_bar, context.layout
    length, lead, tail = (job.of_first(name).astype(np.int64) for name in ("n_steps", "lead_steps", "tail_steps"))
    gap = length - lead - tail
    before, after = np.where(lead > 0, lead, length), np.where(tail > 0, tail, length)  # no seam, no limit
    room = np.minimum(np.minimum(before, after), gap) // bar
    rows = np.flatnonzero((room > 0) & (lead + tail > 0))
    if len(rows) == 0:
        return []
    bars = int(min(_SEAM_BARS, room[rows].min()))
    side = bars * bar
    first, last = rows[lead[rows] > 0], rows[tail[rows] > 0]
    lines = (first, lead[first]), (last, (lead + gap)[last])
    seams = [_of_samples(job, samples, line, side, layout) for samples, line in lines]
    real = _of_music(reference, context, side, 0)[0]
    table = [
        _row(job, bars, name, np.concatenate([seam[name] for seam in seams]), real[name])
        for name in ("density", "fifths", "same_key")
    ]
    both = np.intersect1d(first, last)
    if len(both):
        same = seams[0]["same_key"][np.isin(first, both)] * seams[1]["same_key"][np.isin(last, both)]
        real_same = np.multiply(*(seam["same_key"] for seam in _of_music(reference, context, side, int(gap[both[0]]))))
        table.append(_row(job, bars, "same_key_both", same, real_same))
    return table


def _of_samples(job: MeasuredJob, rows: Index, line: Index, side: int, layout: Layout) -> Seams:
    """The seams of samples at the given steps."""
    steps = np.arange(-side, side)
    around = (
        roll.unpack(job.rolls[rows[block, None], line[block, None] + steps], layout)
        for block in slices(np.arange(len(rows)))
    )
    return _joined([longform.seams(planes[:, :side], planes[:, side:], layout) for planes in around])


def _of_music(reference: Reference, context: Context, side: int, gap: int) -> tuple[Seams, Seams]:
    """The seams at every bar line of held-out pieces, and those `gap` steps later."""
    view = context.view.model_copy(update={"steps": 2 * side + gap, "hop": "bar", "min_fill": 1.0})
    corpus = reference.held_out.corpus
    found: tuple[list[longform.Seams], list[longform.Seams]] = [], []
    for planes in windows_of_pieces(corpus, find_windows(corpus, view), view):
        for seams, line in zip(found, (side, side + gap), strict=True):
            before, after = planes[:, line - side : line], planes[:, line : line + side]
            seams.append(longform.seams(before, after, context.layout))
    return _joined(found[0]), _joined(found[1])


def _joined(blocks: Sequence[longform.Seams]) -> Seams:
    names = [field.name for field in fields(longform.Seams)]
    return {name: np.concatenate([np.zeros(0), *(getattr(block, name) for block in blocks)]) for name in names}


def _row(job: MeasuredJob, bars: int, measure: str, values: np.ndarray, real: np.ndarray) -> Row:
    present = real[~np.isnan(real)]
    return {
        "job": job.name,
        "measure": measure,
        "bars": bars,
        "rows": int((~np.isnan(values)).sum()),
        "mean": mean(values),
        "real_rows": len(present),
        "real_mean": mean(real),
        "real_sd": float(present.std()) if len(present) else np.nan,
    }
