"""Sets of measured music, and how far each is from held-out music beside how far that is from itself.

Every distance of a set stands beside the same distance between real and real, its floor:

    * The held-out *pieces* are divided at random into halves A and B, `evaluate.repeats` times. Windows of one piece
      are alike, so that halves of the windows would be too near to each other.
    * From A, from B and from the set n rows each are drawn. KLD and Frechet distance grow as n shrinks, so n is one for
      all three: the smallest half, or half of what the set has if that is less. Never more than half of the set, so
      that the distances vary as much as they would with other samples of it.
    * Set to B is the distance, A to B the floor: mean and standard deviation over the divisions. A set at its floor
      cannot be told from held-out music by that measure.
    * An interval comes from a bootstrap, `evaluate.bootstrap` times: a new division, pieces drawn from each half with
      replacement, n rows drawn from theirs, n rows drawn from the set with replacement (`distances.interval`).

The distances (see `distances`), of which the first five are per feature:
    overlapping_area              from 0 (apart) to 1 (the same)
    kld_nats                      how badly the set's density explains the held-out one
    wasserstein_sd                how far values must move, in standard deviations of the held-out windows
    intra_inter_overlapping_area  Yang & Lerch's: of the distances between pairs inside B, and between the set and B
    intra_inter_kld_nats          the same; both also of the distributions in `features.VECTORS`
    frechet                       of the whole vector `VECTOR`, each feature in standard deviations of held-out windows
    frechet_mu                    of the latents into which the model's encoder puts the windows, in their own unit

What has no value (the pitches of a silent sample) is counted and left out: a row with a missing value is in no
distance; the share of silent samples stands beside them. A feature that has no value in any held-out window, as groove
has none in windows of one bar, is left out of all distances; one that has a single value there has no standard
deviation to measure by, so it is in neither wasserstein_sd nor frechet.

Offers: `Measured`, `Floor` and `floor_of`, `compare`, `frechet_of`, `drawable`, `mean`; `VECTOR`, `PER_FEATURE`,
`DISTANCE_COLUMNS`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

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
_PAIRED_ROWS = 100  # rows of each set whose pairs are looked at: 4,950 and 10,000 pairs

Row = dict[str, Any]
Values = Float[np.ndarray, "M F"]
Index = Int[np.ndarray, " _"]


@dataclass(frozen=True)
class Measured:
    """What was measured of a set: the samples of a job, windows of held-out music, what a trivial generator made.

    Attributes:
        name: of the job, or `HELD_OUT`.
        measures: a row per sample or window, a column per name in `FEATURES`; NaN where there is no value.
        novelty: share of a row's bars that are in no training piece; NaN without music.
        model, temperature: what made the samples; "" and NaN for music.
        valid: whether the MIDI file reads back with as many notes; true for music.
        piece: which piece a window is of; for samples, which sample.
        vectors: what else there is of the first rows, by name: distributions, and `MU`.
    """

    name: str
    measures: Values
    novelty: Float[np.ndarray, " M"]
    model: str
    temperature: float
    valid: Bool[np.ndarray, " M"]
    piece: Int[np.ndarray, " M"]
    vectors: Mapping[str, Float[np.ndarray, "V _"]] = field(default_factory=dict)

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
    def with_vectors(self) -> Measured:
        """The rows that have vectors; where one has a missing value, as of a file that cannot be read, all have."""
        n = min((len(rows) for rows in self.vectors.values()), default=0)
        measures = self.measures[:n].copy()
        for rows in self.vectors.values():
            measures[np.isnan(rows).any(axis=1)] = np.nan
        return replace(self, measures=measures, novelty=self.novelty[:n], valid=self.valid[:n], piece=self.piece[:n])


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
    """

    real: Measured
    measured: tuple[str, ...]
    scaled: tuple[str, ...]
    usable: Index
    sd: dict[str, float]
    halves: tuple[tuple[Index, Index], ...]
    resampled: tuple[tuple[Index, Index], ...]
    seed: int
    known: dict[tuple[str, int], Any] = field(default_factory=dict)  # what was computed of real and real

    @property
    def smallest(self) -> int:
        """Rows of the smallest half."""
        return min(len(half) for pair in self.halves for half in pair)


def floor_of(real: Measured, settings: Evaluate) -> Floor:
    """The floor under all distances.

    Raises:
        InputError: fewer than two pieces are held out.
    """
    measured = tuple(name for name in FEATURES if not np.isnan(real[name]).all())
    usable = _usable(real, measured)
    sd = {name: float(real[name][usable].std()) for name in measured}
    scaled = tuple(name for name in measured if sd[name] > 1e-9)
    seed = settings.seed
    halves = tuple(
        _halves(real.piece[usable], usable, Stream.HALVES.rng(seed, repeat=repeat))
        for repeat in range(settings.repeats)
    )
    resampled = tuple(_resample(real.piece, usable, seed, repeat) for repeat in range(settings.bootstrap))
    left_out = [name for name in FEATURES if name not in scaled]
    if left_out:
        log.info("held-out music has no value, or only one, of %s: not in the Frechet distance", ", ".join(left_out))
    return Floor(real, measured, scaled, usable, sd, halves, resampled, seed)


def _usable(rows: Measured, names: Sequence[str]) -> Index:
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
    chosen = rng.integers(len(pieces), size=len(pieces))
    return rng.permutation(np.concatenate([rows[order[first[i] : first[i] + counts[i]]] for i in chosen]))


# --- rows of a set, of A and of B -------------------------------------------------------------------------------------
def drawable(rows: Measured, floor: Floor) -> int:
    """n: how many rows are drawn from the set and from each half."""
    return min(len(_usable(rows, floor.measured)) // 2, floor.smallest)


@dataclass(frozen=True)
class _Draws:
    """Rows of the set, of A and of B; a line per division."""

    mine: Int[np.ndarray, "R n"]
    a: Int[np.ndarray, "R n"]
    b: Int[np.ndarray, "R n"]


def _draws(rows: Measured, floor: Floor, n: int) -> _Draws:
    """As many rows of each for every division; other sets change nothing about them."""
    usable = _usable(rows, floor.measured)
    mine = np.empty((len(floor.halves), n), np.int64)
    for repeat in range(len(mine)):
        draw_rng = Stream.DRAWS.rng(floor.seed, repeat=repeat)
        mine[repeat] = draw_rng.permutation(usable)[:n]
    a, b = (np.stack([pair[side][:n] for pair in floor.halves]) for side in (0, 1))
    return _Draws(mine, a, b)


def _redraws(rows: Measured, floor: Floor, n: int) -> _Draws:
    """As many rows of each for every round of the bootstrap."""
    usable = _usable(rows, floor.measured)
    n_rounds = len(floor.resampled)
    bootstrap_rng = Stream.BOOTSTRAP.rng(floor.seed, rows=n)
    mine = usable[bootstrap_rng.integers(len(usable), size=(n_rounds, n))]
    # where the pieces drawn are short, their rows count over again
    a, b = ([np.resize(pair[side], n) for pair in floor.resampled] for side in (0, 1))
    return _Draws(mine, np.array(a, np.int64).reshape(n_rounds, n), np.array(b, np.int64).reshape(n_rounds, n))


# --- every distance beside its floor ----------------------------------------------------------------------------------
def compare(rows: Measured, floor: Floor, rich: Floor) -> list[Row]:
    """Every distance of the set beside its floor, as rows of distances.csv.

    Args:
        rich: the floor of the held-out rows that have vectors.
    """
    n = drawable(rows, floor)
    if n < 2:
        log.warning("%s: %d sample(s) that can be measured; no distances", rows.name, n)
    found = [row for name in floor.measured for row in _compare_feature(name, rows, floor, n)]
    found += _compare_pairs(rows.with_vectors, rich)
    found.append(_row(rows.name, "all", "frechet", n, frechet_of(rows, floor, n, resample=True)))
    return [*found, _compare_mu(rows.with_vectors, rich)]


@dataclass(frozen=True)
class Beside:
    """A distance and its floor, in every division, and in every round of the bootstrap."""

    mine: Float[np.ndarray, " R"]
    real: Float[np.ndarray, " R"]
    mine_again: Float[np.ndarray, " S"]
    real_again: Float[np.ndarray, " S"]


_NONE = np.empty(0)
_MISSING = Beside(_NONE, _NONE, _NONE, _NONE)


def _row(name: str, feature: str, distance: str, n: int, beside: Beside) -> Row:
    values: list[float] = []
    for asked, again in ((beside.mine, beside.mine_again), (beside.real, beside.real_again)):
        mean, sd = _mean_and_sd(asked)
        low, high = distances.interval(mean, again)
        if distance.endswith("overlapping_area"):
            low, high = max(low, 0.0), min(high, 1.0)
        else:
            low = max(low, 0.0)
        values += [mean, sd, low, high]
    return dict(zip(DISTANCE_COLUMNS, (name, feature, distance, n, *values), strict=True))


def mean(values: np.ndarray) -> float:
    """The mean of the values that there are."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else np.nan


def _mean_and_sd(values: np.ndarray) -> tuple[float, float]:
    """NaN where there are too few values."""
    if len(values) == 0:
        return np.nan, np.nan
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else np.nan


def _compare_feature(feature: str, rows: Measured, floor: Floor, n: int) -> list[Row]:
    """The distances of one feature; all densities lie on one grid."""
    if n < 2:
        return [_row(rows.name, feature, name, n, _MISSING) for name in PER_FEATURE]
    mine, real = rows[feature], floor.real[feature]
    on = distances.grid(real[floor.usable], n)
    unit = floor.sd[feature] if feature in floor.scaled else np.nan
    tables = []
    for draws in (_draws(rows, floor, n), _redraws(rows, floor, n)):
        y = real[draws.b]
        tables += [_of_values(mine[draws.mine], y, on, unit), _of_values(real[draws.a], y, on, unit)]
    asked, own, asked_again, own_again = tables
    return [
        _row(rows.name, feature, name, n, Beside(asked[i], own[i], asked_again[i], own_again[i]))
        for i, name in enumerate(PER_FEATURE)
    ]


def _of_values(
    x: Float[np.ndarray, "R n"], y: Float[np.ndarray, "R n"], on: distances.Grid, unit: float
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """`PER_FEATURE`, in that order."""
    p, q = distances.densities(x, on), distances.densities(y, on)
    return distances.overlapping_area(p, q), distances.kld_nats(p, q), distances.wasserstein(x, y) / unit


def frechet_of(rows: Measured, floor: Floor, n: int, resample: bool = False) -> Beside:
    """The Frechet distance of the set, and its floor; empty where n is too small."""
    names = [name for name in VECTOR if name in floor.scaled]
    if n < 2 or not names:
        return _MISSING
    unit = np.array([floor.sd[name] for name in names])
    mine, real = rows.columns(names) / unit, floor.real.columns(names) / unit
    asked, own = _frechets(mine, real, _draws(rows, floor, n))
    asked_again, own_again = _frechets(mine, real, _redraws(rows, floor, n)) if resample else (_NONE, _NONE)
    return Beside(asked, own, asked_again, own_again)


def _frechets(
    mine: Float[np.ndarray, "M D"], real: Float[np.ndarray, "N D"], draws: _Draws
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    asked = [distances.frechet(mine[x], real[b]) for x, b in zip(draws.mine, draws.b, strict=True)]
    own = [distances.frechet(real[a], real[b]) for a, b in zip(draws.a, draws.b, strict=True)]
    return np.array(asked), np.array(own)


def _compare_mu(rows: Measured, rich: Floor) -> Row:
    """The Frechet distance of the latents; without an interval, as it takes as long as all else."""
    n = drawable(rows, rich)
    if n < 2 or MU not in rows.vectors or MU not in rich.real.vectors:
        return _row(rows.name, "all", "frechet_mu", n, _MISSING)
    draws, real = _draws(rows, rich, n), rich.real.vectors[MU].astype(np.float64)
    mine = rows.vectors[MU].astype(np.float64)
    asked = [distances.frechet(mine[x], real[b]) for x, b in zip(draws.mine, draws.b, strict=True)]
    if (MU, n) not in rich.known:
        own = [distances.frechet(real[a], real[b]) for a, b in zip(draws.a, draws.b, strict=True)]
        rich.known[MU, n] = np.array(own)
    return _row(rows.name, "all", "frechet_mu", n, Beside(np.array(asked), rich.known[MU, n], _NONE, _NONE))


# --- Yang & Lerch: distances between pairs ----------------------------------------------------------------------------
def _compare_pairs(rows: Measured, rich: Floor) -> list[Row]:
    """Their overlapping area and KLD, of every feature and every distribution."""
    n = min(drawable(rows, rich), _PAIRED_ROWS)
    vectors = [name for name in rich.real.vectors if name != MU and name in rows.vectors]
    return [row for name in (*rich.measured, *vectors) for row in _compare_pairs_of(name, rows, rich, n)]


def _compare_pairs_of(name: str, rows: Measured, rich: Floor, n: int) -> list[Row]:
    if n < 3:
        return [_row(rows.name, name, distance, n, _MISSING) for distance in PAIRED]
    draws = _draws(rows, rich, n)
    mine, real = _points(rows, name), _points(rich.real, name)
    if (name, n) not in rich.known:
        inside = np.stack([distances.intra(real[b]) for b in draws.b])
        on = distances.grid(inside.reshape(-1), n)
        q = distances.densities(inside, on)
        own = np.stack([distances.inter(real[a], real[b]) for a, b in zip(draws.a, draws.b, strict=True)])
        rich.known[name, n] = on, q, distances.densities(own, on)
    on, q, own_density = rich.known[name, n]
    between = np.stack([distances.inter(mine[x], real[b]) for x, b in zip(draws.mine, draws.b, strict=True)])
    p = distances.densities(between, on)
    areas = Beside(distances.overlapping_area(p, q), distances.overlapping_area(own_density, q), _NONE, _NONE)
    divergences = Beside(distances.kld_nats(p, q), distances.kld_nats(own_density, q), _NONE, _NONE)
    return [_row(rows.name, name, PAIRED[0], n, areas), _row(rows.name, name, PAIRED[1], n, divergences)]


def _points(rows: Measured, name: str) -> Float[np.ndarray, "M D"]:
    """The rows as points whose distances are looked at."""
    return rows.vectors[name].astype(np.float64) if name in rows.vectors else rows[name][:, None]
