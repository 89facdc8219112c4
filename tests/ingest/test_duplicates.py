"""Same music and nearly the same: what falls into a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunes import Music, altered, joined, likeness, mixed, music, tunes, without

from midivae.ingest import duplicates
from midivae.ingest.sketches import BINS, EMPTY, HASHES


# --- clusters ---------------------------------------------------------------------------------------------------------
def clusters(names: list[str], music_: np.ndarray, rows: np.ndarray, threshold: float | None, **more: int) -> list[str]:
    """For each piece the least name of its cluster; pieces in any order."""
    order = np.argsort(names, kind="stable")
    first = duplicates.clusters(music_[order], rows[order], threshold, **more)
    found = dict(zip(order.tolist(), order[first].tolist(), strict=True))
    return [names[found[i]] for i in range(len(names))]


def signatures_of(*rows: list[tuple[int, int]]) -> np.ndarray:
    """Signatures whose two halves are runs of (value, length)."""
    halves = [np.repeat(*np.array(row).T).astype(np.uint16) for row in rows]
    return np.array([np.r_[half, half] for half in halves])


def test_clusters_by_hand() -> None:
    own = np.arange(6, dtype=np.uint64)
    # b has 96 of a's 128 values (0.75); c 64 of b's and 32 of a's (0.5 and 0.25); d nothing; e is no piece to tell
    table = signatures_of([(1, 128)], [(1, 96), (2, 32)], [(1, 32), (3, 32), (1, 32), (2, 32)], [(4, 128)])
    empty = np.full((2, HASHES), EMPTY, np.uint16)
    names = ["b", "a", "c", "d", "e", "f"]
    everything = np.concatenate([table, empty])
    assert likeness(table[[0, 1, 0]], table[[1, 2, 2]]).tolist() == [0.75, 0.75, 0.5]
    assert clusters(names, own, everything, 0.6) == ["a", "a", "a", "d", "e", "f"]
    assert clusters(names, own, everything, 0.75) == ["a", "a", "a", "d", "e", "f"]
    assert clusters(names, own, everything, 0.76) == names
    assert clusters(names, own, everything, None) == names
    # the same music links whatever the signatures say
    music_ = np.array([0, 1, 2, 0, 5, 5], np.uint64)
    assert clusters(names, music_, everything, None) == ["b", "a", "c", "b", "e", "e"]
    assert clusters(names, music_, everything, 0.6) == ["a", "a", "a", "a", "e", "e"]


def test_the_larger_of_two_likenesses_counts() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 60_000, (3, HASHES)).astype(np.uint16)
    rows[1, :BINS] = rows[0, :BINS]
    rows[2, BINS : BINS + 32] = rows[0, BINS : BINS + 32]
    assert likeness(rows[[0, 0]], rows[[1, 2]]).tolist() == [1.0, 0.25]
    rows[:2, :BINS] = EMPTY  # two empty sketches are not alike
    assert likeness(rows[:1], rows[1:2]).tolist() == [0.0]


def families(rng: np.random.Generator, sizes: list[int], share: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Signatures of families, whose members keep that share of their founder's values; and each row's family."""
    family = np.repeat(np.arange(len(sizes)), sizes)
    founders = rng.integers(0, 65_535, (len(sizes), HASHES)).astype(np.uint16)
    rows = founders[family]
    changed = rng.random(rows.shape) >= share
    rows[changed] = rng.integers(0, 65_535, int(changed.sum()))
    return rows, family


def same_partition(names: list[str], family: np.ndarray) -> bool:
    pairs = set(zip(names, family.tolist(), strict=True))
    return len(pairs) == len(set(names)) == len(set(family.tolist()))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_clusters_do_not_depend_on_order(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, family = families(rng, sizes, share=0.9)
    music_ = rng.integers(0, 2**63, len(rows)).astype(np.uint64)
    ids = [f"{value:016x}" for value in rng.permutation(len(rows) * 1000)[: len(rows)]]
    found = clusters(ids, music_, rows, 0.5)
    assert same_partition(found, family)
    assert found == [min(i for i, f in zip(ids, family, strict=True) if f == mine) for mine in family]
    order = rng.permutation(len(rows))
    assert clusters([ids[i] for i in order], music_[order], rows[order], 0.5) == [found[i] for i in order]


@settings(max_examples=60)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_every_bucket_is_linked_by_neighbours(rows: list[tuple[int, int, int, int]], seed: int) -> None:
    """Rows alike beyond doubt are linked where they agree in the three columns of a band, and only there."""
    columns = np.zeros((BINS, len(rows)), np.uint16)
    columns[list(duplicates._BAND)] = np.array(rows, np.uint16).T  # band 0, and the column that orders its buckets
    row_bits = max(1, len(rows) - 1).bit_length()
    key = np.sort(duplicates._bucket_keys(columns, 0, row_bits))
    # of one bucket those stand side by side that agree in the fourth column
    ordered = [rows[i] for i in (key & np.uint64((1 << row_bits) - 1)).tolist()]
    assert len(set(ordered)) == 1 + sum(one != other for one, other in pairwise(ordered))
    above = np.arange(len(rows))
    duplicates._link(key, row_bits, np.arange(len(rows)), np.zeros((len(rows), HASHES), np.uint16), 4, above)
    firsts = {row[:3]: index for index, row in reversed(list(enumerate(rows)))}
    assert duplicates._first_rows(above).tolist() == [firsts[row[:3]] for row in rows]
    # rows that are not alike are not linked
    unlike = np.random.default_rng(seed).permutation(HASHES * len(rows)).astype(np.uint16).reshape(-1, HASHES)
    alone = np.arange(len(rows))
    duplicates._link(key, row_bits, np.arange(len(rows)), unlike, 1, alone)
    assert alone.tolist() == list(range(len(rows)))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_links_are_connected_components(links: list[tuple[int, int]]) -> None:
    parent = list(range(21))

    def root(x: int) -> int:
        while parent[x] != x:
            x = parent[x]
        return x

    above = np.arange(21)
    alike = np.zeros((21, HASHES), np.uint16)
    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
        duplicates._link(np.arange(2, dtype=np.uint64), 1, np.array([a, b]), alike, 4, above)  # a bucket of two
    assert duplicates._first_rows(above).tolist() == [root(x) for x in range(21)]


def chain(length: int, step: int = 32) -> np.ndarray:
    """Signatures of which each shares all but `step` of its 128 values with the next."""
    values = np.random.default_rng(0).permutation(60_000)[: BINS + step * length].astype(np.uint16)
    place = np.arange(BINS)
    rows = []
    for link in range(length):  # link i holds values i * step to i * step + 127, each in the bin of its number
        window = np.empty(BINS, np.uint16)
        own = link * step + place
        window[own % BINS] = values[own]
        rows.append(np.r_[window, window])
    return np.array(rows)


def test_a_crowd_that_only_chains_is_taken_apart(caplog: pytest.LogCaptureFixture) -> None:
    rows = chain(60)
    own = np.arange(60, dtype=np.uint64)
    names = [f"{i:02}" for i in range(60)]
    assert (likeness(rows[:-1], rows[1:]) == 0.75).all()
    assert set(clusters(names, own, rows, 0.6)) == {"00"}
    with caplog.at_level(logging.WARNING):
        # linked anew at 0.7, where the chain still holds, and at 0.8, where it does not
        assert clusters(names, own, rows, 0.6, max_cluster=59) == names
    assert [record.args[0] for record in caplog.records] == [60, 60]  # type: ignore[index]
    # the same music stays together, however much there is of it, and counts once
    assert set(clusters(names, own // 2, rows, 0.6, max_cluster=30)) == {"00"}
    assert clusters(names, own // 2, rows, 0.6, max_cluster=29) == [f"{i // 2 * 2:02}" for i in range(60)]
    alike_all = np.repeat(rows[:1], 60, axis=0)
    assert set(clusters(names, own, alike_all, 0.6, max_cluster=3)) == {"00"}


# --- recall and precision ---------------------------------------------------------------------------------------------
Change = Callable[[Music, np.random.Generator], Music]


def cut(pieces: Music, begin: float, end: float) -> Music:
    """Without what lies between two shares of each piece; the rest moves up."""
    last = np.array([pieces.onset[pieces.piece == i].max() for i in range(pieces.n_pieces)])
    first, after = (last * begin).astype(int)[pieces.piece], (last * end).astype(int)[pieces.piece]
    onset = np.where(pieces.onset >= after, pieces.onset - (after - first), pieces.onset)
    return replace(pieces, onset=onset).where((pieces.onset < first) | (pieces.onset >= after))


def doubled(pieces: Music) -> Music:
    """With the melody an octave higher on a track of its own."""
    melody = pieces.where(pieces.track == 0)
    both = [np.concatenate(columns) for columns in zip(pieces.columns(), melody.columns(), strict=True)]
    both[1][len(pieces.piece) :] = 2
    both[2][len(pieces.piece) :] += 12
    order = np.argsort(both[0], kind="stable")
    return Music(*(column[order] for column in both), pieces.n_pieces)


CHANGES: dict[str, tuple[Change, float]] = {  # with the share of pieces that must be found
    "other key, later": (lambda m, _: replace(m, pitch=m.pitch + 3, onset=m.onset + 20), 1.0),
    "2 % altered": (lambda m, rng: altered(m, 0.02, rng), 1.0),
    "5 % altered": (lambda m, rng: altered(m, 0.05, rng), 1.0),
    "10 % altered": (lambda m, rng: altered(m, 0.10, rng), 0.94),
    "5 % left out": (lambda m, rng: without(m, 0.05, rng), 1.0),
    "10 % left out": (lambda m, rng: without(m, 0.10, rng), 0.96),
    "no chords": (lambda m, _: m.where(m.track == 0), 1.0),
    "melody doubled": (lambda m, _: doubled(m), 1.0),
    "one track": (lambda m, _: replace(m, track=0 * m.track), 1.0),
    "twice as slow": (lambda m, _: replace(m, onset=2 * m.onset), 1.0),
    "first half": (lambda m, _: cut(m, 0.5, 1.01), 1.0),
    "a section less": (lambda m, _: cut(m, 0.3, 0.5), 1.0),
    "all at once": (
        lambda m, rng: altered(without(cut(replace(m, pitch=m.pitch - 2), 0.8, 1.01), 0.02, rng), 0.03, rng),
        1.0,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_pieces_are_found_and_no_others(name: str) -> None:
    """Default threshold, 150 tunes of one scale: each with its changed copy, and no two tunes in one cluster."""
    change, wanted = CHANGES[name]
    plain = tunes(150)
    both = joined(plain, change(plain, np.random.default_rng(5)))
    ids = [f"{i:04}" for i in range(300)]
    found = clusters(ids, both.hashes(), both.signatures(), 0.2)
    assert found[:150] == ids[:150]
    assert set(found) <= set(ids[:150]) | set(ids[150:])
    recall = np.mean([found[150 + i] == ids[i] for i in range(150)])
    assert recall >= wanted
    assert all(found[150 + i] in (ids[i], ids[150 + i]) for i in range(150))


# --- scale ------------------------------------------------------------------------------------------------------------
def test_fifty_thousand_pieces_with_crowds() -> None:
    """10,000 rows of one signature, 5,000 of one music, a family of 300, thousands of pairs, the rest alone."""
    rng = np.random.default_rng(7)
    sizes = [10_000, 5_000, 300, *([2] * 5_000), *([1] * 24_700)]
    rows, family = families(rng, sizes)
    rows[family == 0] = rows[0]
    rows[family == 1] = rng.integers(0, 65_535, (5_000, HASHES))
    music_ = mixed(np.arange(len(rows), dtype=np.uint64))
    music_[family == 1] = 1
    order = rng.permutation(len(rows))
    ids = [f"{i:06}" for i in range(len(rows))]
    found = clusters(ids, music_[order], rows[order], 0.2)
    assert len(rows) == 50_000
    assert same_partition(found, family[order])


def test_pieces_without_a_signature_are_alone() -> None:
    assert clusters([], music().hashes(), music().signatures(), 0.2) == []
    empty = np.full((3, HASHES), EMPTY, np.uint16)
    assert clusters(["a", "b", "c"], np.arange(3, dtype=np.uint64), empty, 0.0) == ["a", "b", "c"]
