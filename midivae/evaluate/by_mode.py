"""What each mode of generation promises, measured beside real music: a table per question.

    control.csv    edit: what was requested, and what changed (`control.control`)
    paths.csv      blend: what lies between two parents (`control.path_row`)
    parents.csv    reconstruct, vary, edit: how far samples are from their parent, and from the parents of others
    longform.csv   song: key, and how alike neighbouring frames are, beside real pieces of that length (`longform`)
    seams.csv      continue: what changes where the new music begins, beside the bar lines of real music
    ensemble.csv   ensemble: how far parts are from each other, beside real music, and beside parts of different pieces

A job has no rows in the tables of other modes. Parents are found by name: pieces in the corpus, samples in the catalog.
A parent that is a file has no roll here, and its samples are left out.

Shapes:
    B  samples    T  steps    N  parts    K  planes    P  pitches    F  pairs of frames

Offers: `mode_tables` and `COLUMNS`; `Reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from midivae.config.streams import Stream
from midivae.evaluate.context import Context, HeldOut
from midivae.evaluate.held_out_distances import mean
from midivae.evaluate.measured_set import MeasuredSet
from midivae.evaluate.samples import MeasuredJob, sample_planes
from midivae.evaluate.windows import cut_pieces, unpacked, windows_of_pieces
from midivae.measures import chords, control, counterpoint, features, likeness, longform
from midivae.measures.control import Row
from midivae.measures.notes import transposed
from midivae.models import coding
from midivae.music import roll
from midivae.storage.schema import FEATURES, HELD_OUT
from midivae.windows.corpus import Corpus
from midivae.windows.windows import find_windows

COLUMNS: dict[str, tuple[str, ...]] = {  # of each table, by its file
    "control.csv": control.CONTROL_COLUMNS,
    "paths.csv": control.PATH_COLUMNS,
    "parents.csv": (
        *("job", "mode", "radius", "rows", "onset_f1", "frame_f1", "exact_steps"),
        *("distance", "distance_sd", "distance_to_others", "distance_to_others_sd"),
    ),
    "longform.csv": (
        *("job", "form", "pieces", "bars", "real_pieces", "key_stability", "real_key_stability"),
        *("scale_stability", "real_scale_stability", "pitch_overlap", "real_pitch_overlap"),
        *("duration_overlap", "real_duration_overlap", "pitch_consistency", "pitch_variance"),
        *("duration_consistency", "duration_variance"),
    ),
    "seams.csv": ("job", "measure", "bars", "rows", "mean", "real_rows", "real_mean", "real_sd"),
    "ensemble.csv": ("set", "method", "rows", "tonal_distance", "sd", "scale_consistency"),
}
MERGED = "held-out, merged"  # parts of different pieces: music that does not cohere
_AT_ONCE = 256

Planes = Bool[np.ndarray, "B T N 2 P"]
Index = Int[np.ndarray, " _"]


@dataclass(frozen=True)
class Reference:
    """Real music: held-out windows, and the training pieces, which may be parents."""

    held_out: HeldOut
    measured: MeasuredSet
    training: Corpus
    seed: int


def mode_tables(
    jobs: Sequence[MeasuredJob], reference: Reference, context: Context, catalog: Path
) -> dict[str, list[Row]]:
    """The rows of each table, by its file; jobs in the order in which they are given."""
    tables: dict[str, list[Row]] = {file: [] for file in COLUMNS}
    sd = _units(reference.measured, context) if any(job.mode == "edit" for job in jobs) else {}
    several_parts = len(context.layout.pitched) > 1
    if several_parts:
        tables["ensemble.csv"] += _real_ensemble(reference, context)
    for job in jobs:
        if job.mode in ("reconstruct", "vary", "edit"):
            tables["parents.csv"] += _parents(job, reference, context, catalog)
        match job.mode:
            case "edit":
                tables["control.csv"] += control.control(job.name, job.rows["edits"].tolist(), sd)
            case "blend":
                tables["paths.csv"] += _paths(job, context)
            case "song":
                tables["longform.csv"] += _longform(job, reference, context)
            case "continue":
                tables["seams.csv"] += _seams(job, reference, context)
            case "ensemble" if several_parts:
                tables["ensemble.csv"] += _ensemble(job)
    return tables


def _units(measured: MeasuredSet, context: Context) -> dict[str, float]:
    """The standard deviation of each attribute over held-out windows."""
    blocks = [
        features.attributes(planes, context.layout) for planes in unpacked(measured.windows.packed, context.layout)
    ]
    return control.units({name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})


# --- blend ------------------------------------------------------------------------------------------------------------
def _paths(job: MeasuredJob, context: Context) -> list[Row]:
    parents, weights = ([value.tolist() for value in job.of_first(name)] for name in ("parents", "weights"))
    rows = []
    for number, path in enumerate(control.paths_of(parents, weights)):
        planes = roll.unpack(job.rolls[path.rows], context.layout)
        from_first = likeness.apart(planes, np.repeat(planes[:1], len(planes), axis=0))
        steps = likeness.apart(planes[:-1], planes[1:])
        nats = context.bigram.nats(chords.chords(planes, context.layout))
        rows.append(control.path_row(path, number, job.name, from_first, steps, nats))
    return rows


# --- reconstruct, vary, edit ------------------------------------------------------------------------------------------
def _parents(job: MeasuredJob, reference: Reference, context: Context, catalog: Path) -> list[Row]:
    """Rows of parents.csv: one for each radius in the job, or one for all samples."""
    names = [parents[0] if len(parents) == 1 else None for parents in map(list, job.of_first("parents"))]
    rolls = _rolls_of(sorted({name for name in names if name is not None}), reference, context, catalog)
    usable = np.array([index for index, name in enumerate(names) if name in rolls], np.int64)
    radius = job.of_first("radius").astype(float)[usable]
    table = []
    for value in np.unique(radius):  # NaN is there once
        rows = usable[(radius == value) | (np.isnan(radius) & np.isnan(value))]
        table.append(_against_parents(job, rows, [str(names[row]) for row in rows], rolls, context, float(value)))
    return table


def _against_parents(
    job: MeasuredJob, rows: Index, names: Sequence[str], rolls: dict[str, np.ndarray], context: Context, radius: float
) -> Row:
    distinct = list(dict.fromkeys(names))
    other = dict(zip(distinct, [*distinct[1:], distinct[0]], strict=True))  # a parent of another sample
    shift = job.of_first("transpose").astype(np.int64)[rows]
    matches, near, far = [], [], []
    for at in range(0, len(rows), _AT_ONCE):
        block = slice(at, at + _AT_ONCE)
        samples = roll.unpack(job.rolls[rows[block]], context.layout)[:, : context.view.steps]
        parents, others = (
            transposed(np.stack([rolls[name] for name in of]), context.layout, shift[block])
            for of in (names[block], [other[name] for name in names[block]])
        )
        matches.append(likeness.matched(samples, parents))
        near.append(likeness.apart(samples, parents))
        far.append(likeness.apart(samples, others))
    match, distance, to_others = likeness.Match.of(np.sum(matches, axis=0)), np.concatenate(near), np.concatenate(far)
    if len(distinct) < 2:
        to_others = np.full(1, np.nan)
    return {
        "job": job.name,
        "mode": job.mode,
        "radius": radius,
        "rows": len(rows),
        "onset_f1": match.onset_f1,
        "frame_f1": match.frame_f1,
        "exact_steps": match.exact_steps,
        "distance": float(distance.mean()),
        "distance_sd": float(distance.std()),
        "distance_to_others": float(to_others.mean()),
        "distance_to_others_sd": float(to_others.std()),
    }


def _rolls_of(
    names: Sequence[str], reference: Reference, context: Context, catalog: Path
) -> dict[str, Bool[np.ndarray, "T N 2 P"]]:
    """The first window of each parent that can be found, by its name in the catalog.

    A note that is held into a window starts there, as in every sample: none has the music before it.
    """
    rolls: dict[str, np.ndarray] = {}
    for corpus in (reference.held_out.corpus, reference.training):
        number = {piece_id: index for index, piece_id in enumerate(corpus.piece_ids)}
        places = [(name, *_place(name)) for name in names if name.startswith("piece:")]
        here = [
            (name, number[piece_id], corpus.bar_starts[number[piece_id]][bar - 1])
            for name, piece_id, bar in places
            if piece_id in number and 0 < bar <= len(corpus.bar_starts[number[piece_id]])
        ]
        if here:
            known_names, piece, start = zip(*here, strict=True)
            planes = cut_pieces(corpus, np.array(piece), np.array(start), context.view, context.view.steps)
            rolls |= dict(zip(known_names, coding.complete(planes), strict=True))
    samples = [name.removeprefix("sample:") for name in names if name.startswith("sample:")]
    planes_of = sample_planes(catalog, samples, context) if samples else {}
    return rolls | {f"sample:{name}": planes[: context.view.steps] for name, planes in planes_of.items()}


def _place(name: str) -> tuple[str, int]:
    """The id and the bar in "piece:<piece_id>@<bar>"."""
    piece_id, _, bar = name.removeprefix("piece:").partition("@")
    return piece_id, int(bar) if bar.isdecimal() else 1


# --- song -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _LongForm:
    """Measures of pieces of many bars."""

    keys: list[longform.KeyStability]
    pitch: Float[np.ndarray, " F"]
    duration: Float[np.ndarray, " F"]

    @classmethod
    def of(cls, pieces: Sequence[Bool[np.ndarray, "T N 2 P"]], context: Context) -> _LongForm:
        bar = context.steps_per_bar
        overlaps = [longform.self_similarity(planes, context.layout, bar) for planes in pieces]
        return cls(
            [longform.key_stability(planes, context.layout, bar) for planes in pieces],
            np.concatenate([np.zeros(0), *(piece.pitch for piece in overlaps)]),
            np.concatenate([np.zeros(0), *(piece.duration for piece in overlaps)]),
        )

    def mean_of(self, share: Callable[[longform.KeyStability], float]) -> float:
        """A mean over the pieces that have a key."""
        return mean(np.array([share(keys) for keys in self.keys if keys.windows]))


def _longform(job: MeasuredJob, reference: Reference, context: Context) -> list[Row]:
    """A row for each form in the job, beside held-out pieces cut to the length of its longest song."""
    n_steps, forms = job.of_first("n_steps").astype(np.int64), job.of_first("method")
    longest = int(n_steps.max())
    corpus = reference.held_out.corpus
    pieces = [_cut(corpus, piece, longest, context) for piece in range(len(corpus))]
    least = (longform.FRAME_BARS + longform.HOP_BARS) * context.steps_per_bar  # two frames
    real = _LongForm.of([planes for planes in pieces if len(planes) >= least], context)
    rows = []
    for form in sorted(set(forms)):
        songs = [roll.unpack(job.rolls[row], context.layout)[: n_steps[row]] for row in np.flatnonzero(forms == form)]
        bars = longest // context.steps_per_bar
        rows.append({"job": job.name, "form": form, "bars": bars, **_long_row(_LongForm.of(songs, context), real)})
    return rows


def _cut(corpus: Corpus, piece: int, most: int, context: Context) -> Bool[np.ndarray, "T N 2 P"]:
    """A whole piece, or its first `most` steps."""
    length = min(most, int(corpus.starts[piece + 1] - corpus.starts[piece]))
    planes: np.ndarray = cut_pieces(corpus, np.array([piece]), np.array([0]), context.view, length)[0]
    return planes


def _long_row(songs: _LongForm, real: _LongForm) -> Row:
    pitch = longform.likeness(songs.pitch, real.pitch)
    duration = longform.likeness(songs.duration, real.duration)
    row: Row = {
        "pitch_consistency": pitch.consistency,
        "pitch_variance": pitch.variance,
        "duration_consistency": duration.consistency,
        "duration_variance": duration.variance,
    }
    for prefix, pieces in (("", songs), ("real_", real)):
        row |= {
            f"{prefix}pieces": len(pieces.keys),
            f"{prefix}key_stability": pieces.mean_of(lambda keys: keys.share),
            f"{prefix}scale_stability": pieces.mean_of(lambda keys: keys.scale_share),
            f"{prefix}pitch_overlap": mean(pieces.pitch),
            f"{prefix}duration_overlap": mean(pieces.duration),
        }
    return row


# --- continue ---------------------------------------------------------------------------------------------------------
_SEAM_BARS = 2  # on each side, if there are as many


def _seams(job: MeasuredJob, reference: Reference, context: Context) -> list[Row]:
    """The seam where the lead ends, beside every bar line of held-out music with as many bars on both sides."""
    bar, layout = context.steps_per_bar, context.layout
    lead = job.of_first("lead_steps").astype(np.int64)
    new = job.of_first("n_steps").astype(np.int64) - lead
    room = np.minimum(lead, new) // bar
    rows = np.flatnonzero(room > 0)
    if len(rows) == 0:
        return []
    bars = int(min(_SEAM_BARS, room[rows].min()))
    side = bars * bar
    steps = np.arange(-side, side)
    around = (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE))
    samples = (roll.unpack(job.rolls[block[:, None], lead[block][:, None] + steps], layout) for block in around)
    view = context.view.model_copy(update={"steps": 2 * side, "hop": "bar", "min_fill": 1.0})
    corpus = reference.held_out.corpus
    real = windows_of_pieces(corpus, find_windows(corpus, view), view)
    seams, real_seams = (
        [longform.seams(planes[:, :side], planes[:, side:], layout) for planes in blocks] for blocks in (samples, real)
    )
    table = []
    for measure in ("density", "fifths", "same_key"):
        values, real_values = (
            np.concatenate([np.zeros(0), *(getattr(block, measure) for block in blocks)])
            for blocks in (seams, real_seams)
        )
        present = real_values[~np.isnan(real_values)]
        table.append(
            {
                "job": job.name,
                "measure": measure,
                "bars": bars,
                "rows": int((~np.isnan(values)).sum()),
                "mean": mean(values),
                "real_rows": len(present),
                "real_mean": mean(real_values),
                "real_sd": float(present.std()) if len(present) else np.nan,
            }
        )
    return table


# --- ensemble ---------------------------------------------------------------------------------------------------------
_SCALE = FEATURES.index("scale_consistency")


def _ensemble(job: MeasuredJob) -> list[Row]:
    """A row for each method in the job."""
    tonal, measures = job.windows.tonal, job.windows.measures
    methods = job.rows["method"].fillna("").to_numpy()[job.features.piece[: len(tonal)]]
    return [
        _ensemble_row(job.name, method, tonal[methods == method], measures[: len(methods)][methods == method])
        for method in sorted(set(methods))
    ]


def _ensemble_row(name: str, method: str, tonal: np.ndarray, measures: np.ndarray) -> Row:
    present = tonal[~np.isnan(tonal)]
    return {
        "set": name,
        "method": method,
        "rows": len(present),
        "tonal_distance": mean(tonal),
        "sd": float(present.std()) if len(present) else np.nan,
        "scale_consistency": mean(measures[:, _SCALE]),
    }


def _real_ensemble(reference: Reference, context: Context) -> list[Row]:
    """Held-out windows, and the same with each part from a window of another piece, in whatever key it is in."""
    windows, layout = reference.measured.windows, context.layout
    n, n_parts = len(windows.packed), len(layout.parts)
    rows = [_ensemble_row(HELD_OUT, "", windows.tonal, windows.measures[:n])]
    piece = reference.held_out.windows.piece[:n]
    if len(np.unique(piece)) < n_parts:
        return rows
    merge_rng = Stream.MERGED_PARTS.rng(reference.seed)
    others = [_of_another(piece, merge_rng) for _ in range(n_parts - 1)]
    tonal, measures = [], []
    for at in range(0, n, _AT_ONCE):
        block = slice(at, at + _AT_ONCE)
        planes = roll.unpack(windows.packed[block], layout)
        for part, other in enumerate(others, start=1):
            planes[:, :, part] = roll.unpack(windows.packed[other[block]], layout)[:, :, part]
        tonal.append(counterpoint.tonal_distance(planes, layout))
        measures.append(np.stack(list(features.measure(planes, layout, context.beats_per_bar).values()), axis=1))
    return [*rows, _ensemble_row(MERGED, "", np.concatenate(tonal), np.concatenate(measures))]


def _of_another(piece: Index, rng: np.random.Generator) -> Index:
    """For each window one of another piece, drawn at random."""
    n = len(piece)
    drawn: np.ndarray = rng.integers(n, size=n)
    while (same := piece[drawn] == piece).any():
        drawn[same] = rng.integers(n, size=int(same.sum()))
    return drawn
