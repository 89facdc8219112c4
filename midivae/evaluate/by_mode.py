"""What is asked of each mode of generation, beside what real music does: a table per question.

    control.csv    edit: what was asked, and what came of it (`control.control`)
    paths.csv      blend: what lies between two parents (`control.path_row`)
    parents.csv    reconstruct, vary, edit: how far samples are from their parent, and from the parents of others
    longform.csv   song: key, and how alike neighbouring frames are, beside real pieces of that length (`longform`)
    seams.csv      continue: what changes where the new begins, beside the bar lines of real music (`longform.seams`)
    ensemble.csv   ensemble: how far parts are from each other, beside real music, and beside parts of different pieces

A job of another mode has no row in the tables that do not ask about it. Parents are found by name: pieces in the
corpus, samples in the catalog; a parent that is a file of somebody's has no roll here, and its samples are left out.

Offers: `Tables` and `tables`; the columns of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from midivae.config.streams import Stream
from midivae.evaluate import samples as jobs
from midivae.evaluate import set_measures
from midivae.evaluate.samples import Job
from midivae.evaluate.set_distances import mean
from midivae.evaluate.set_measures import Gathered, World
from midivae.measures import control, features, harmony, likeness, longform
from midivae.measures.control import Row
from midivae.measures.notes import transposed
from midivae.models import coding
from midivae.music import roll
from midivae.storage.schema import FEATURES, HELD_OUT
from midivae.windows import loader

PARENT_COLUMNS = (
    *("job", "mode", "radius", "rows", "onset_f1", "frame_f1", "exact_steps"),
    *("distance", "distance_sd", "distance_to_others", "distance_to_others_sd"),
)
LONGFORM_COLUMNS = (
    *("job", "form", "pieces", "bars", "real_pieces", "key_stability", "real_key_stability"),
    *("scale_stability", "real_scale_stability", "pitch_overlap", "real_pitch_overlap"),
    *("duration_overlap", "real_duration_overlap", "pitch_consistency", "pitch_variance"),
    *("duration_consistency", "duration_variance"),
)
SEAM_COLUMNS = ("job", "measure", "bars", "rows", "mean", "real_rows", "real_mean", "real_sd")
ENSEMBLE_COLUMNS = ("set", "method", "rows", "tonal_distance", "sd", "scale_consistency")
MERGED_REAL = "held-out, merged"  # parts of different pieces: what does not cohere
_AT_ONCE = 256

Planes = Bool[np.ndarray, "B T N 2 P"]
Index = Int[np.ndarray, " _"]


@dataclass
class Tables:
    """The rows of each table, and figures for the metrics."""

    control: list[Row] = field(default_factory=list)
    paths: list[Row] = field(default_factory=list)
    parents: list[Row] = field(default_factory=list)
    longform: list[Row] = field(default_factory=list)
    seams: list[Row] = field(default_factory=list)
    ensemble: list[Row] = field(default_factory=list)

    @property
    def files(self) -> dict[str, tuple[list[Row], Sequence[str]]]:
        """Rows and columns of each, by the name of the file."""
        return {
            "control.csv": (self.control, control.CONTROL_COLUMNS),
            "paths.csv": (self.paths, control.PATH_COLUMNS),
            "parents.csv": (self.parents, PARENT_COLUMNS),
            "longform.csv": (self.longform, LONGFORM_COLUMNS),
            "seams.csv": (self.seams, SEAM_COLUMNS),
            "ensemble.csv": (self.ensemble, ENSEMBLE_COLUMNS),
        }


@dataclass(frozen=True)
class Real:
    """Held-out music and the training pieces: where parents and comparisons are found."""

    held_out: loader.Corpus
    windows: loader.Windows
    gathered: Gathered
    training: loader.Corpus
    seed: int


def tables(found: Sequence[Job], real: Real, world: World, catalog: Path) -> Tables:
    """All tables, jobs in the order in which they are given."""
    made = Tables()
    sd = _units(real.gathered, world) if any(job.mode == "edit" for job in found) else {}
    for job in found:
        match job.mode:
            case "edit":
                made.control += control.control(job.name, job.rows["edits"].tolist(), sd)
                made.parents += _parents(job, real, world, catalog)
            case "reconstruct" | "vary":
                made.parents += _parents(job, real, world, catalog)
            case "blend":
                made.paths += _paths(job, world)
            case "song":
                made.longform += _longform(job, real, world)
            case "continue":
                made.seams += _seams(job, real, world)
            case "ensemble":
                made.ensemble += _ensemble(job, world)
    made.ensemble = [*_real_ensemble(real, world), *made.ensemble] if len(world.layout.pitched) > 1 else []
    return made


def _units(gathered: Gathered, world: World) -> dict[str, float]:
    """How much each attribute varies over held-out windows."""
    blocks = [
        features.attributes(planes, world.layout) for planes in set_measures.blocks_of(gathered.packed, world.layout)
    ]
    return control.units({name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})


# --- blend ------------------------------------------------------------------------------------------------------------
def _paths(job: Job, world: World) -> list[Row]:
    n = len(job.rolls)
    parents, weights = ([each.tolist() for each in job.rows[name][:n]] for name in ("parents", "weights"))
    found = control.paths_of(parents, weights)
    rows = []
    for number, path in enumerate(found):
        planes = roll.unpack(job.rolls[path.rows], world.layout)
        from_first = likeness.apart(planes, np.repeat(planes[:1], len(planes), axis=0))
        nats = world.bigram.nats(harmony.chords(planes, world.layout))
        rows.append(control.path_row(path, number, job.name, from_first, likeness.apart(planes[:-1], planes[1:]), nats))
    return rows


# --- reconstruct, vary, edit ------------------------------------------------------------------------------------------
def _parents(job: Job, real: Real, world: World, catalog: Path) -> list[Row]:
    """Rows of parents.csv: one for each radius in the job, or one for all samples."""
    wanted = job.rows.iloc[: len(job.rolls)]
    names = [parents[0] if len(parents) == 1 else None for parents in wanted["parents"].map(list)]
    rolls = _rolls_of(sorted({name for name in names if name is not None}), real, world, catalog)
    mine = np.array([index for index, name in enumerate(names) if name in rolls], np.int64)
    if len(mine) == 0:
        return []
    radius = wanted["radius"].astype(float).to_numpy()[mine]
    made: list[Row] = []
    for each in np.unique(radius):  # NaN once
        rows = mine[(radius == each) | (np.isnan(radius) & np.isnan(each))]
        made.append(_against_parents(job, rows, [str(names[row]) for row in rows], rolls, world, float(each)))
    return made


def _against_parents(
    job: Job, rows: Index, names: Sequence[str], rolls: dict[str, np.ndarray], world: World, radius: float
) -> Row:
    distinct = list(dict.fromkeys(names))
    other = dict(zip(distinct, [*distinct[1:], distinct[0]], strict=True))  # a parent that is another's
    by = job.rows["transpose"].to_numpy(np.int64)[rows]
    matches, near, far = [], [np.zeros(0)], [np.zeros(0)]
    for at in range(0, len(rows), _AT_ONCE):
        block = slice(at, at + _AT_ONCE)
        made = roll.unpack(job.rolls[rows[block]], world.layout)[:, : world.view.steps]
        parents = transposed(np.stack([rolls[name] for name in names[block]]), world.layout, by[block])
        others = transposed(np.stack([rolls[other[name]] for name in names[block]]), world.layout, by[block])
        matches.append(likeness.matched(made, parents))
        near.append(likeness.apart(made, parents))
        far.append(likeness.apart(made, others))
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


def _rolls_of(names: Sequence[str], real: Real, world: World, catalog: Path) -> dict[str, Bool[np.ndarray, "T N 2 P"]]:
    """The first window of each parent that can be found, by its name in the catalog.

    What is held into a window starts there, as it does in every sample: none of them knows what was before.
    """
    found: dict[str, np.ndarray] = {}
    for corpus in (real.held_out, real.training):
        number = {piece_id: index for index, piece_id in enumerate(corpus.piece_ids)}
        here = [(name, *_place(name)) for name in names if name.startswith("piece:")]
        mine = [
            (name, number[piece_id], bar)
            for name, piece_id, bar in here
            if piece_id in number and 0 < bar <= len(corpus.bar_starts[number[piece_id]])
        ]
        if mine:
            piece = np.array([index for _, index, _ in mine])
            start = np.array([corpus.bar_starts[index][bar - 1] for _, index, bar in mine])
            planes = coding.complete(set_measures.pieces_as(corpus, piece, start, world.view, world.view.steps))
            found |= {name: planes[i] for i, (name, _, _) in enumerate(mine)}
    samples = [name.removeprefix("sample:") for name in names if name.startswith("sample:")]
    made = jobs.sample_planes(catalog, samples, world) if samples else {}
    return found | {f"sample:{name}": planes[: world.view.steps] for name, planes in made.items()}


def _place(name: str) -> tuple[str, int]:
    """The id and the bar in "piece:<piece_id>@<bar>"."""
    piece_id, _, bar = name.removeprefix("piece:").partition("@")
    return piece_id, int(bar) if bar.isdecimal() else 1


# --- song -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Long:
    """What was found in pieces of many bars."""

    keys: list[longform.KeyStability]
    pitch: Float[np.ndarray, " F"]
    duration: Float[np.ndarray, " F"]

    def share(self, of: Callable[[longform.KeyStability], float]) -> float:
        """A mean over the pieces that have a key."""
        values = [of(each) for each in self.keys if each.windows]
        return float(np.mean(values)) if values else np.nan


def _long(pieces: Sequence[Bool[np.ndarray, "T N 2 P"]], world: World) -> _Long:
    bar = world.steps_per_bar
    overlaps = [longform.self_similarity(planes, world.layout, bar) for planes in pieces]
    return _Long(
        [longform.key_stability(planes, world.layout, bar) for planes in pieces],
        np.concatenate([np.zeros(0), *(each.pitch for each in overlaps)]),
        np.concatenate([np.zeros(0), *(each.duration for each in overlaps)]),
    )


def _longform(job: Job, real: Real, world: World) -> list[Row]:
    """A row for each form in the job, beside held-out pieces cut to the length of its longest song."""
    n_steps = job.rows["n_steps"].to_numpy(np.int64)[: len(job.rolls)]
    form = job.rows["method"].fillna("").to_numpy()[: len(job.rolls)]
    longest = int(n_steps.max())
    pieces = [_cut(real.held_out, piece, longest, world) for piece in range(len(real.held_out))]
    least = (longform.FRAME_BARS + longform.HOP_BARS) * world.steps_per_bar  # two frames
    beside = _long([planes for planes in pieces if len(planes) >= least], world)
    rows = []
    for each in sorted(set(form)):
        songs = [roll.unpack(job.rolls[row], world.layout)[: n_steps[row]] for row in np.flatnonzero(form == each)]
        rows.append(_long_row(job.name, each, longest // world.steps_per_bar, _long(songs, world), beside))
    return rows


def _cut(corpus: loader.Corpus, piece: int, most: int, world: World) -> Bool[np.ndarray, "T N 2 P"]:
    """A whole piece, or so many steps of it."""
    length = min(most, int(corpus.starts[piece + 1] - corpus.starts[piece]))
    planes: np.ndarray = set_measures.pieces_as(corpus, np.array([piece]), np.array([0]), world.view, length)[0]
    return planes


def _long_row(job: str, form: str, bars: int, mine: _Long, real: _Long) -> Row:
    pitch, duration = longform.likeness(mine.pitch, real.pitch), longform.likeness(mine.duration, real.duration)
    return {
        "job": job,
        "form": form,
        "pieces": len(mine.keys),
        "bars": bars,
        "real_pieces": len(real.keys),
        "key_stability": mine.share(lambda keys: keys.share),
        "real_key_stability": real.share(lambda keys: keys.share),
        "scale_stability": mine.share(lambda keys: keys.scale_share),
        "real_scale_stability": real.share(lambda keys: keys.scale_share),
        "pitch_overlap": mean(mine.pitch),
        "real_pitch_overlap": mean(real.pitch),
        "duration_overlap": mean(mine.duration),
        "real_duration_overlap": mean(real.duration),
        "pitch_consistency": pitch.consistency,
        "pitch_variance": pitch.variance,
        "duration_consistency": duration.consistency,
        "duration_variance": duration.variance,
    }


# --- continue ---------------------------------------------------------------------------------------------------------
_SEAM_BARS = 2  # on each side, where there are as many


def _seams(job: Job, real: Real, world: World) -> list[Row]:
    """The seam where the lead ends, beside every bar line of held-out music with as many bars on both sides."""
    bar = world.steps_per_bar
    lead = job.rows["lead_steps"].to_numpy(np.int64)[: len(job.rolls)]
    new = job.rows["n_steps"].to_numpy(np.int64)[: len(job.rolls)] - lead
    room = np.minimum(lead, new) // bar
    rows = np.flatnonzero(room > 0)
    if len(rows) == 0:
        return []
    bars = int(min(_SEAM_BARS, room[rows].min()))
    steps = np.arange(-bars * bar, bars * bar)
    mine = []
    for at in range(0, len(rows), _AT_ONCE):
        block = rows[at : at + _AT_ONCE]
        planes = roll.unpack(job.rolls[block[:, None], lead[block][:, None] + steps], world.layout)
        mine.append(longform.seams(planes[:, : bars * bar], planes[:, bars * bar :], world.layout))
    lines = world.view.model_copy(update={"steps": 2 * bars * bar, "hop": "bar", "min_fill": 1.0})
    places = loader.windows(real.held_out, lines)
    theirs = [
        longform.seams(planes[:, : bars * bar], planes[:, bars * bar :], world.layout)
        for planes in set_measures.held_out(real.held_out, places, lines)
    ]
    made = []
    for measure in ("density", "fifths", "same_key"):
        here, there = (
            np.concatenate([np.zeros(0), *(getattr(each, measure) for each in side)]) for side in (mine, theirs)
        )
        known = there[~np.isnan(there)]
        made.append(
            {
                "job": job.name,
                "measure": measure,
                "bars": bars,
                "rows": int((~np.isnan(here)).sum()),
                "mean": mean(here),
                "real_rows": len(known),
                "real_mean": mean(there),
                "real_sd": float(known.std()) if len(known) else np.nan,
            }
        )
    return made


# --- ensemble ---------------------------------------------------------------------------------------------------------
_SCALE = FEATURES.index("scale_consistency")


def _ensemble(job: Job, world: World) -> list[Row]:
    """A row for each method in the job."""
    method = job.rows["method"].fillna("").to_numpy()[job.measured.piece[: len(job.gathered.tonal)]]
    return [
        _ensemble_row(
            job.name, each, job.gathered.tonal[method == each], job.gathered.measures[: len(method)][method == each]
        )
        for each in sorted(set(method))
    ]


def _ensemble_row(name: str, method: str, tonal: np.ndarray, measures: np.ndarray) -> Row:
    there = tonal[~np.isnan(tonal)]
    return {
        "set": name,
        "method": method,
        "rows": len(there),
        "tonal_distance": mean(tonal),
        "sd": float(there.std()) if len(there) else np.nan,
        "scale_consistency": mean(measures[:, _SCALE]),
    }


def _real_ensemble(real: Real, world: World) -> list[Row]:
    """Held-out windows, and the same with each part from a window of another piece, in whatever key it is in."""
    n, n_parts = len(real.gathered.packed), len(world.layout.parts)
    rows = [_ensemble_row(HELD_OUT, "", real.gathered.tonal, real.gathered.measures[:n])]
    piece = real.windows.piece[:n]
    if len(np.unique(piece)) < n_parts:
        return rows
    merge_rng = Stream.MERGED_PARTS.rng(real.seed)
    chosen = np.stack([_of_another(piece, merge_rng) for _ in range(n_parts - 1)] or [np.arange(n)], axis=1)
    tonal, measures = [], []
    for at in range(0, n, _AT_ONCE):
        planes = roll.unpack(real.gathered.packed[at : at + _AT_ONCE], world.layout)
        for part in range(1, n_parts):
            others = roll.unpack(real.gathered.packed[chosen[at : at + _AT_ONCE, part - 1]], world.layout)
            planes[:, :, part] = others[:, :, part]
        tonal.append(harmony.tonal_distance(planes, world.layout))
        columns = features.measure(planes, world.layout, world.beats_per_bar)
        measures.append(np.stack(list(columns.values()), axis=1))
    return [*rows, _ensemble_row(MERGED_REAL, "", np.concatenate(tonal), np.concatenate(measures))]


def _of_another(piece: Index, rng: np.random.Generator) -> Index:
    """For each window one of another piece, drawn at random."""
    n = len(piece)
    chosen: np.ndarray = rng.integers(n, size=n)
    while (same := piece[chosen] == piece).any():
        chosen[same] = rng.integers(n, size=int(same.sum()))
    return chosen
