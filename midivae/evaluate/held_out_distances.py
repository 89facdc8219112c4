"""How far a set of music is from held-out music, beside how far held-out music is from itself.

Every distance of a set stands beside the same distance between real and real, its floor:

    * The held-out *pieces* are divided at random into halves A and B, `evaluate.repeats` times. Windows of one piece
      are alike, so halves of the windows would be too near to each other.
    * n rows each are drawn from A, from B and from the set. KLD and Frechet distance grow as n shrinks, so n is the
      same for all three: the smallest half, or half of the set if that is less. It is never more than half of the set,
      so that the distances vary as much as they would with other samples of it.
    * Set to B is the distance, A to B the floor: mean and standard deviation over the divisions. A set at its floor
      cannot be distinguished from held-out music by that measure.
    * Intervals come from a bootstrap of `evaluate.bootstrap` rounds: a new division, pieces drawn from each half with
      replacement, n rows drawn from their rows, n rows drawn from the set with replacement (`distances.interval`).

The distances (see `distances`), of which the first five are per feature:
    overlapping_area              from 0 (apart) to 1 (the same)
    kld_nats                      how badly the set's density explains the held-out one
    wasserstein_sd                how far values must move, in standard deviations of the held-out windows
    intra_inter_overlapping_area  Yang & Lerch's: of the distances between pairs inside B, and between the set and B
    intra_inter_kld_nats          the same; both also of the distributions in `features.VECTORS`
    frechet                       of the whole vector `VECTOR`, each feature in standard deviations of held-out windows
    frechet_mu                    of the latents into which the model's encoder puts the windows, in their own unit

A row with a missing value (the pitches of a silent sample) is in no distance; the share of silent samples is reported
beside them. A feature without a value in any held-out window, as groove in windows of one bar, is in no distance. A
feature with a single value there has no standard deviation, so it is in neither wasserstein_sd nor frechet.

Shapes:
    M  rows of a set    F  features    V  rows with vectors    n  drawn rows
    R  divisions        S  rounds of the bootstrap

Offers: `SetFeatures`, `Floor` and `floor_of`, `compare`, `frechet_of`, `drawable`, `mean`; `VECTOR`, `PER_FEATURE`,
`DISTANCE_COLUMNS`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from midivae.config.evaluate import Evaluate
from midivae.config.streams import Stream
from midivae.errors import InputError
from midivae.measures import distances
from midivae.storage.schema import FEATURES

log = logging.getLogger(__name__)

# `notes` is `density` times a constant, and `pitch_range` a difference of two: they would count twice
VECTOR = tuple(name for name in FEATURES if name not in ("notes", "pitch_range"))
PER_FEATURE = ("overlapping_area", "kld_nats", "wasserstein_sd")
PAIRED = ("intra_inter_overlapping_area", "intra_inter_kld_nats")
DISTANCE_COLUMNS = (
    *("job", "feature", "distance", "n", "mean", "sd", "low", "high"),
    *("real_mean", "real_sd", "real_low", "real_high"),
)
MU = "mu"  # the vector of latents
_PAIRED_ROWS = 100  # rows of each set whose pairs are compared: 4,950 and 10,000 pairs

Row = dict[str, Any]
Values = Float[np.ndarray, "M F"]
Index = Int[np.ndarray, " _"]


@dataclass(frozen=True)
class SetFeatures:
    """The features of a set: of the samples of a job, held-out windows, or rolls of a trivial generator.

    Attributes:
        name: of the job or the generator, or `HELD_OUT`.
        measures: a row per sample or window, a column per name in `FEATURES`; NaN is a missing value.
        piece: the piece of each window, or the number of its sample.
        vectors: further values of the first rows, by name: distributions, and `MU`.
        model, temperature: what made the samples; "" and NaN for other sets.
    """

    name: str
    measures: Values
    piece: Int[np.ndarray, " M"]
    vectors: Mapping[str, Float[np.ndarray, "V _"]] = field(default_factory=dict)
    model: str = ""
    temperature: float = np.nan

    def __len__(self) -> int:
        return len(self.measures)

    def __getitem__(self, feature: str) -> Float[np.ndarray, " M"]:
        return self.measures[:, FEATURES.index(feature)]

    def columns(self, names: Sequence[str]) -> Values:
        """The columns of some features."""
        return self.measures[:, [FEATURES.index(name) for name in names]]

    @property
    def silent_share(self) -> float:
        """Share of rows without a note."""
        return float((self["notes"] == 0).mean())

    @property
    def with_vectors(self) -> SetFeatures:
        """The rows that have vectors; a row without a value in one, as of an unreadable file, loses its features."""
        n = min((len(rows) for rows in self.vectors.values()), default=0)
        measures = self.measures[:n].copy()
        for rows in self.vectors.values():
            measures[np.isnan(rows).any(axis=1)] = np.nan
        return replace(self, measures=measures, piece=self.piece[:n])


# --- the floor --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Floor:
    """Held-out music, and its divisions into halves.

    Attributes:
        measured: the features that have a value in held-out music.
        scaled: those among them that vary there, and so have a unit.
        usable: rows with a value for every measured feature.
        sd: standard deviation of each feature over the usable rows.
        halves: per division, the usable rows of both halves, each in random order.
        resampled: per round of the bootstrap, rows of pieces drawn from both halves with replacement.
        computed: distances from real to real, which are the same for all sets of one size.
    """

    held_out: SetFeatures
    measured: tuple[str, ...]
    scaled: tuple[str, ...]
    usable: Index
    sd: dict[str, float]
    halves: tuple[tuple[Index, Index], ...]
    resampled: tuple[tuple[Index, Index], ...]
    seed: int
    computed: dict[tuple[str, int], Any] = field(default_factory=dict)

    @property
    def smallest(self) -> int:
        """Rows of the smallest half."""
        return min(len(half) for pair in self.halves for half in pair)


def floor_of(held_out: SetFeatures, settings: Evaluate) -> Floor:
    """The floor under all distances.

    Raises:
        InputError: fewer than two pieces are held out.
    """
    measured = tuple(name for name in FEATURES if not np.isnan(held_out[name]).all())
    usable = _usable(held_out, measured)
    sd = {name: float(held_out[name][usable].std()) for name in measured}
    scaled = tuple(name for name in measured if sd[name] > 1e-9)
    seed = settings.seed
    halves = tuple(
        _halves(held_out.piece[usable], usable, Stream.HALVES.rng(seed, repeat=repeat))
        for repeat in range(settings.repeats)
    )
    resampled = tuple(_resample(held_out.piece, usable, seed, repeat) for repeat in range(settings.bootstrap))
    constant = [name for name in FEATURES if name not in scaled]
    if constant:
        log.info("held-out music has no value, or only one, of %s: not in the Frechet distance", ", ".join(constant))
    return Floor(held_out, measured, scaled, usable, sd, halves, resampled, seed)


def _usable(rows: SetFeatures, names: Sequence[str]) -> Index:
    """The rows that have a value for each of these features."""
    return np.flatnonzero(~np.isnan(rows.columns(names)).any(axis=1))


def _halves(piece: Int[np.ndarray, " M"], rows: Index, rng: np.random.Generator) -> tuple[Index, Index]:
    """The rows of two random halves of the pieces, each in random order."""
    pieces = np.unique(piece)
    if len(pieces) < 2:
        raise InputError(
            f"{len(pieces)} held-out piece(s) with music; two or more are needed to see how far real music is from "
            "real music; raise ingest.split.valid and ingest.split.test"
        )
    first = rng.permutation(pieces)[: len(pieces) // 2]
    in_first = np.isin(piece, first)
    return rng.permutation(rows[in_first]), rng.permutation(rows[~in_first])


def _resample(piece: Int[np.ndarray, " M"], usable: Index, seed: int, repeat: int) -> tuple[Index, Index]:
    """The rows of a new division, its pieces drawn with replacement, in random order."""
    halves = _halves(piece[usable], usable, Stream.RESAMPLED_HALVES.rng(seed, round=repeat))
    piece_rng = Stream.RESAMPLED_PIECES.rng(seed, round=repeat)
    a, b = (_pieces_again(piece[half], half, piece_rng) for half in halves)
    return a, b


def _pieces_again(piece: Int[np.ndarray, " M"], rows: Index, rng: np.random.Generator) -> Index:
    order = np.argsort(piece, kind="stable")
    pieces, first, counts = np.unique(piece[order], return_index=True, return_counts=True)
    drawn = rng.integers(len(pieces), size=len(pieces))
    return rng.permutation(np.concatenate([rows[order[first[i] : first[i] + counts[i]]] for i in drawn]))


# --- rows of a set, of A and of B -------------------------------------------------------------------------------------
def drawable(rows: SetFeatures, floor: Floor) -> int:
    """n: how many rows are drawn from the set and from each half."""
    return min(len(_usable(rows, floor.measured)) // 2, floor.smallest)


@dataclass(frozen=True)
class _Draws:
    """Rows of the set, of A and of B; a line per division."""

    rows: Int[np.ndarray, "R n"]
    a: Int[np.ndarray, "R n"]
    b: Int[np.ndarray, "R n"]


def _draws(rows: SetFeatures, floor: Floor, n: int) -> _Draws:
    """N rows of each for every division; they do not depend on other sets."""
    usable = _usable(rows, floor.measured)
    drawn = np.empty((len(floor.halves), n), np.int64)
    for repeat in range(len(drawn)):
        draw_rng = Stream.DRAWS.rng(floor.seed, repeat=repeat)
        drawn[repeat] = draw_rng.permutation(usable)[:n]
    a, b = (np.stack([pair[side][:n] for pair in floor.halves]) for side in (0, 1))
    return _Draws(drawn, a, b)


def _redraws(rows: SetFeatures, floor: Floor, n: int) -> _Draws:
    """N rows of each for every round of the bootstrap; if the drawn pieces have fewer rows, these are repeated."""
    usable = _usable(rows, floor.measured)
    n_rounds = len(floor.resampled)
    bootstrap_rng = Stream.BOOTSTRAP.rng(floor.seed, rows=n)
    drawn = usable[bootstrap_rng.integers(len(usable), size=(n_rounds, n))]
    a, b = ([np.resize(pair[side], n) for pair in floor.resampled] for side in (0, 1))
    return _Draws(drawn, np.array(a, np.int64).reshape(n_rounds, n), np.array(b, np.int64).reshape(n_rounds, n))


# --- every distance beside its floor ----------------------------------------------------------------------------------
def compare(rows: SetFeatures, floor: Floor, vector_floor: Floor) -> list[Row]:
    """Every distance of the set beside its floor, as rows of distances.csv.

    Args:
        rows: the set.
        floor: of all held-out rows.
        vector_floor: of the held-out rows that have vectors.
    """
    n = drawable(rows, floor)
    if n < 2:
        log.warning("%s: %d sample(s) that can be measured; no distances", rows.name, n)
    table = [row for name in floor.measured for row in _compare_feature(name, rows, floor, n)]
    table += _compare_pairs(rows.with_vectors, vector_floor)
    table.append(_row(rows.name, "all", "frechet", n, frechet_of(rows, floor, n, resample=True)))
    return [*table, _compare_mu(rows.with_vectors, vector_floor)]


@dataclass(frozen=True)
class Comparison:
    """A distance and its floor, in every division and every round of the bootstrap; empty if there are too few rows."""

    distance: Float[np.ndarray, " R"] = field(default_factory=lambda: np.empty(0))
    floor: Float[np.ndarray, " R"] = field(default_factory=lambda: np.empty(0))
    resampled: Float[np.ndarray, " S"] = field(default_factory=lambda: np.empty(0))
    floor_resampled: Float[np.ndarray, " S"] = field(default_factory=lambda: np.empty(0))


def _row(name: str, feature: str, distance: str, n: int, comparison: Comparison) -> Row:
    values: list[float] = []
    most = 1.0 if distance.endswith("overlapping_area") else np.inf
    for side, resampled in (
        (comparison.distance, comparison.resampled),
        (comparison.floor, comparison.floor_resampled),
    ):
        average = float(side.mean()) if len(side) else np.nan
        sd = float(side.std(ddof=1)) if len(side) > 1 else np.nan
        low, high = distances.interval(average, resampled)
        values += [average, sd, max(low, 0.0), min(high, most)]
    return dict(zip(DISTANCE_COLUMNS, (name, feature, distance, n, *values), strict=True))


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not missing."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else np.nan


def _compare_feature(feature: str, rows: SetFeatures, floor: Floor, n: int) -> list[Row]:
    """The distances of one feature; all densities lie on one grid."""
    if n < 2:
        return [_row(rows.name, feature, name, n, Comparison()) for name in PER_FEATURE]
    x, y = rows[feature], floor.held_out[feature]
    on = distances.grid(y[floor.usable], n)
    unit = floor.sd[feature] if feature in floor.scaled else np.nan
    columns = []
    for draws in (_draws(rows, floor, n), _redraws(rows, floor, n)):
        b = y[draws.b]
        columns += [_of_values(x[draws.rows], b, on, unit), _of_values(y[draws.a], b, on, unit)]
    return [
        _row(rows.name, feature, name, n, Comparison(*values))
        for name, values in zip(PER_FEATURE, zip(*columns, strict=True), strict=True)
    ]


def _of_values(
    x: Float[np.ndarray, "R n"], y: Float[np.ndarray, "R n"], on: distances.Grid, unit: float
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """`PER_FEATURE`, in that order."""
    p, q = distances.densities(x, on), distances.densities(y, on)
    return distances.overlapping_area(p, q), distances.kld_nats(p, q), distances.wasserstein(x, y) / unit


def frechet_of(rows: SetFeatures, floor: Floor, n: int, resample: bool = False) -> Comparison:
    """The Frechet distance of the set, and its floor."""
    names = [name for name in VECTOR if name in floor.scaled]
    if n < 2 or not names:
        return Comparison()
    unit = np.array([floor.sd[name] for name in names])
    x, y = rows.columns(names) / unit, floor.held_out.columns(names) / unit
    columns = []
    for draw in (_draws, _redraws) if resample else (_draws,):
        draws = draw(rows, floor, n)
        columns += [_frechets(x, draws.rows, y, draws.b), _frechets(y, draws.a, y, draws.b)]
    return Comparison(*columns)


def _frechets(
    x: Float[np.ndarray, "M D"], of_x: Int[np.ndarray, "R n"], y: Float[np.ndarray, "N D"], of_y: Int[np.ndarray, "R n"]
) -> Float[np.ndarray, " R"]:
    """The Frechet distance of drawn rows, per line of draws."""
    return np.array([distances.frechet(x[i], y[j]) for i, j in zip(of_x, of_y, strict=True)])


def _compare_mu(rows: SetFeatures, vector_floor: Floor) -> Row:
    """The Frechet distance of the latents, without an interval: it would take as long as all other distances."""
    n = drawable(rows, vector_floor)
    if n < 2 or MU not in rows.vectors or MU not in vector_floor.held_out.vectors:
        return _row(rows.name, "all", "frechet_mu", n, Comparison())
    draws = _draws(rows, vector_floor, n)
    x, y = (of.vectors[MU].astype(np.float64) for of in (rows, vector_floor.held_out))
    if (MU, n) not in vector_floor.computed:
        vector_floor.computed[MU, n] = _frechets(y, draws.a, y, draws.b)
    comparison = Comparison(_frechets(x, draws.rows, y, draws.b), vector_floor.computed[MU, n])
    return _row(rows.name, "all", "frechet_mu", n, comparison)


# --- Yang & Lerch: distances between pairs ----------------------------------------------------------------------------
def _compare_pairs(rows: SetFeatures, vector_floor: Floor) -> list[Row]:
    """Their overlapping area and KLD, of every feature and every distribution."""
    n = min(drawable(rows, vector_floor), _PAIRED_ROWS)
    vectors = [name for name in vector_floor.held_out.vectors if name != MU and name in rows.vectors]
    names = (*vector_floor.measured, *vectors)
    return [row for name in names for row in _compare_pairs_of(name, rows, vector_floor, n)]


def _compare_pairs_of(name: str, rows: SetFeatures, floor: Floor, n: int) -> list[Row]:
    if n < 3:
        return [_row(rows.name, name, distance, n, Comparison()) for distance in PAIRED]
    draws = _draws(rows, floor, n)
    x, y = _points(rows, name), _points(floor.held_out, name)
    if (name, n) not in floor.computed:
        inside = np.stack([distances.intra(y[b]) for b in draws.b])
        on = distances.grid(inside.reshape(-1), n)
        between = np.stack([distances.inter(y[a], y[b]) for a, b in zip(draws.a, draws.b, strict=True)])
        floor.computed[name, n] = on, distances.densities(inside, on), distances.densities(between, on)
    on, q, of_real = floor.computed[name, n]
    between = np.stack([distances.inter(x[i], y[b]) for i, b in zip(draws.rows, draws.b, strict=True)])
    p = distances.densities(between, on)
    return [
        _row(rows.name, name, distance, n, Comparison(measure(p, q), measure(of_real, q)))
        for distance, measure in zip(PAIRED, (distances.overlapping_area, distances.kld_nats), strict=True)
    ]


def _points(rows: SetFeatures, name: str) -> Float[np.ndarray, "M D"]:
    """The rows as points between which distances are measured."""
    return rows.vectors[name].astype(np.float64) if name in rows.vectors else rows[name][:, None]
