"""Sets beside their floor: how rows are divided, drawn and drawn again, and what the distances say."""

from __future__ import annotations

import numpy as np
import pytest

from midivae.config.evaluate import Evaluate
from midivae.evaluate import held_out_distances
from midivae.evaluate.held_out_distances import SetFeatures
from midivae.storage import schema
from midivae.storage.schema import FEATURES

pytestmark = pytest.mark.numerical

SETTINGS = Evaluate(repeats=8, bootstrap=40)


def measured(name: str, centre: float, n: int, pieces: int | None = None, seed: int = 0) -> SetFeatures:
    """A set whose measures, and a vector of two numbers, lie around `centre`."""
    rng = np.random.default_rng([seed, n])
    values = rng.normal(centre, 1, (n, len(FEATURES)))
    piece = np.arange(n) if pieces is None else np.arange(n) % pieces
    vectors = {
        "pair": rng.normal(centre, 1, (n, 2)).astype(np.float32),
        held_out_distances.MU: values[:, :3].astype(np.float32),
    }
    return SetFeatures(name, values, piece, vectors)


REAL = measured(schema.HELD_OUT, 0, 400, pieces=20)
FLOOR = held_out_distances.floor_of(REAL, SETTINGS)


def rows_of(mine: SetFeatures) -> dict[tuple[str, str], dict[str, float]]:
    found = held_out_distances.compare(mine, FLOOR, FLOOR)
    assert all(list(row) == list(held_out_distances.DISTANCE_COLUMNS) for row in found)
    return {(row["feature"], row["distance"]): row for row in found}


def test_halves_are_of_pieces() -> None:
    piece = np.repeat(np.arange(9), 7)
    rows = np.arange(63) + 100
    a, b = held_out_distances._halves(piece, rows, np.random.default_rng([0, 0]))
    assert sorted([*a, *b]) == rows.tolist()
    assert len({piece[r - 100] for r in a}) == 4
    assert not {piece[r - 100] for r in a} & {piece[r - 100] for r in b}
    again = held_out_distances._halves(piece, rows, np.random.default_rng([0, 0]))
    np.testing.assert_array_equal(again[0], a)
    assert not np.array_equal(held_out_distances._halves(piece, rows, np.random.default_rng([0, 1]))[0], a)
    assert not np.array_equal(held_out_distances._halves(piece, rows, np.random.default_rng([1, 0]))[0], a)


def test_pieces_are_drawn_again_whole_and_halves_stay_apart() -> None:
    piece = np.repeat(np.arange(10), 3)
    usable = np.flatnonzero(np.arange(30) % 3 != 2)  # two rows of each piece
    a, b = held_out_distances._resample(piece, usable, 0, 0)
    assert not set(piece[a]) & set(piece[b])
    for half in (a, b):
        assert len(half) == 10  # five pieces of two rows, some of them twice
        rows, counts = np.unique(half, return_counts=True)
        per_piece = {int(p): set(counts[piece[rows] == p].tolist()) for p in set(piece[rows])}
        assert all(len(each) == 1 for each in per_piece.values())  # every row of a piece as often as the others
        assert set(rows) <= set(usable)
    assert len(set(piece[a])) < 5 or len(set(piece[b])) < 5  # with replacement


def test_draws_depend_on_nothing_but_seed_and_size() -> None:
    mine = measured("a", 1, 50)
    draws = held_out_distances._draws(mine, FLOOR, 25)
    assert draws.rows.shape == draws.a.shape == draws.b.shape == (8, 25)
    assert all(len(set(row)) == 25 for row in draws.rows)  # without replacement
    np.testing.assert_array_equal(draws.rows, held_out_distances._draws(measured("b", 2, 50), FLOOR, 25).rows)
    again = held_out_distances._redraws(mine, FLOOR, 25)
    assert again.rows.shape == (40, 25)
    assert any(len(set(row)) < 25 for row in again.rows)  # with replacement
    assert not any(set(REAL.piece[a]) & set(REAL.piece[b]) for a, b in zip(again.a, again.b, strict=True))


def test_a_set_of_the_same_kind_is_at_its_floor_and_another_is_not() -> None:
    near, far = rows_of(measured("near", 0, 300, seed=1)), rows_of(measured("far", 2, 300, seed=2))
    for feature, distance in near:
        if distance == "wasserstein_sd":
            assert near[feature, distance]["mean"] < 0.35
            assert far[feature, distance]["mean"] == pytest.approx(2, abs=0.3)
        if distance.endswith("overlapping_area"):
            assert near[feature, distance]["mean"] > near[feature, distance]["real_mean"] - 0.1
            assert far[feature, distance]["mean"] < far[feature, distance]["real_mean"] - 0.15
        if distance.endswith("kld_nats"):
            assert far[feature, distance]["mean"] > 3 * far[feature, distance]["real_mean"]
    for distance in ("frechet", "frechet_mu"):
        assert far["all", distance]["mean"] > 5 * near["all", distance]["mean"]
        assert near["all", distance]["mean"] < 3 * near["all", distance]["real_mean"]
    # every feature twice over: of values and of pairs; the vector of pairs; both Frechet distances
    assert len(near) == 5 * len(FEATURES) + 2 + 2


def test_intervals_hold_the_value_and_that_of_a_far_set_excludes_the_floor() -> None:
    near, far = rows_of(measured("near", 0, 300, seed=1)), rows_of(measured("far", 2, 300, seed=2))
    for key in (("density", "overlapping_area"), ("density", "kld_nats"), ("all", "frechet")):
        for row in (near[key], far[key]):
            assert row["low"] < row["mean"] < row["high"]
            assert row["real_low"] <= row["real_mean"] < row["real_high"]
        assert near[key]["low"] < near[key]["real_high"] and near[key]["real_low"] < near[key]["high"]
    assert far["density", "overlapping_area"]["high"] < far["density", "overlapping_area"]["real_low"]
    assert far["all", "frechet"]["low"] > far["all", "frechet"]["real_high"]
    assert np.isnan(near["all", "frechet_mu"]["low"])


def test_without_a_bootstrap_there_are_no_intervals() -> None:
    floor = held_out_distances.floor_of(REAL, Evaluate(repeats=4, bootstrap=0))
    found = held_out_distances.compare(measured("a", 0, 60), floor, floor)
    assert all(np.isnan([row["low"], row["high"], row["real_low"], row["real_high"]]).all() for row in found)
    assert not any(np.isnan(row["mean"]) for row in found)


def test_too_few_rows_have_no_distances() -> None:
    for n in (1, 3):
        rows = rows_of(measured("few", 0, n))
        assert all(np.isnan(row["mean"]) and row["n"] <= 1 for row in rows.values())
    few = rows_of(measured("few", 0, 5))  # two rows are drawn: too few for pairs of pairs
    assert few["density", "overlapping_area"]["n"] == 2
    assert not np.isnan(few["density", "overlapping_area"]["mean"])
    assert np.isnan(few["density", "intra_inter_overlapping_area"]["mean"])


def test_rows_without_a_vector_are_in_no_distance_of_vectors() -> None:
    mine = measured("mine", 0, 40)
    mine.vectors["pair"][::2] = np.nan  # type: ignore[index]
    rows = rows_of(mine)
    assert rows["density", "overlapping_area"]["n"] == 20
    assert rows["pair", "intra_inter_overlapping_area"]["n"] == rows["all", "frechet_mu"]["n"] == 10
    assert not np.isnan(rows["pair", "intra_inter_overlapping_area"]["mean"])


def test_pairs_by_their_definition() -> None:
    # of one division: distances inside B, and between the set and B, of the first rows that are drawn
    floor = held_out_distances.floor_of(REAL, Evaluate(repeats=1, bootstrap=0))
    mine = measured("mine", 1, 60)
    (row,) = (
        r
        for r in held_out_distances.compare(mine, floor, floor)
        if (r["feature"], r["distance"]) == ("pair", held_out_distances.PAIRED[0])
    )
    draws = held_out_distances._draws(mine, floor, 30)
    x, y = mine.vectors["pair"][draws.rows[0]], REAL.vectors["pair"][draws.b[0]]
    inside = np.array([np.linalg.norm(y[i] - y[j]) for i in range(30) for j in range(i)])
    between = np.array([np.linalg.norm(a - b) for a in x for b in y])
    on = held_out_distances.distances.grid(inside, 30)
    p, q = (
        held_out_distances.distances.densities(values.astype(np.float64)[None], on)[0] for values in (between, inside)
    )
    assert row["mean"] == pytest.approx(np.minimum(p, q).sum(), abs=0.01)
