"""Same music and nearly the same: what the hashes ignore, how well the sketches estimate, what falls into a cluster."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from midivae.ingest import duplicates
from midivae.ingest.duplicates import EMPTY, HASHES, SHINGLE, Lines, likeness, music_hash, signatures
from midivae.measures.hashes import mix
from midivae.music import kernels

BINS = HASHES // 2
SCALE = np.array([0, 2, 4, 5, 7, 9, 11])


@dataclass(frozen=True)
class Music:
    """Notes of many pieces end to end, as ingest has them."""

    piece: np.ndarray
    track: np.ndarray
    pitch: np.ndarray
    onset: np.ndarray
    drum: np.ndarray
    n_pieces: int

    def where(self, mask: np.ndarray) -> Music:
        return Music(*(column[mask] for column in self.columns()), self.n_pieces)

    def columns(self) -> tuple[np.ndarray, ...]:
        return self.piece, self.track, self.pitch, self.onset, self.drum

    def lines(self) -> Lines:
        """The same by tracks; drums and others of one track become two."""
        track = self.track * 2 + self.drum
        order = np.lexsort((track, self.piece))
        columns = (self.piece[order], track[order])
        opens = np.append(True, (columns[0][1:] != columns[0][:-1]) | (columns[1][1:] != columns[1][:-1]))
        first = np.flatnonzero(opens[: len(order)])
        return Lines(
            np.searchsorted(columns[0][first], np.arange(self.n_pieces + 1)),
            np.append(first, len(order)),
            self.drum[order][first],
            self.pitch[order].astype(np.uint8),
            self.onset[order],
        )

    def hashes(self) -> np.ndarray:
        return music_hash(self.lines())

    def signatures(self, hashes: int = HASHES) -> np.ndarray:
        return signatures(self.lines(), hashes)


Note = tuple[int, int, int]  # track, onset_step, pitch


def music(*pieces: list[Note], drums: tuple[int, ...] = ()) -> Music:
    """The notes of pieces given as lists; the tracks in `drums` are percussion."""
    notes = np.array([(i, *note) for i, notes in enumerate(pieces) for note in notes], np.int64).reshape(-1, 4)
    piece, track, onset, pitch = notes.T.copy()
    return Music(piece, track, pitch, onset, np.isin(track, drums), len(pieces))


def joined(*parts: Music) -> Music:
    """The pieces of all parts, one part after the other."""
    first = np.cumsum([0, *(part.n_pieces for part in parts)])
    shifted = [replace(part, piece=part.piece + start) for part, start in zip(parts, first[:-1], strict=True)]
    columns = (np.concatenate(column) for column in zip(*(part.columns() for part in shifted), strict=True))
    return Music(*columns, int(first[-1]))


def tunes(count: int, seed: int = 0, notes: int = 120) -> Music:
    """Made-up tunes over chords: a walk in C major, its end repeated from its start as songs do."""
    rng = np.random.default_rng(seed)
    pieces = []
    for _ in range(count):
        walk = 48 - abs(np.cumsum(rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3], notes)) % 28 - 14)  # turns at its bounds
        length = rng.choice([1, 2, 2, 2, 4, 6], notes)
        walk[notes // 2 : notes * 3 // 4], length[notes // 2 : notes * 3 // 4] = (
            walk[: notes // 4],
            length[: notes // 4],
        )
        onset = np.cumsum(length) - length
        melody = [(0, int(o), int(12 * (w // 7) + SCALE[w % 7])) for o, w in zip(onset, walk, strict=True)]
        root = rng.integers(0, 7, int(onset[-1]) // 8 + 1)
        chords = [(1, 8 * bar, int(36 + SCALE[(r + k) % 7])) for bar, r in enumerate(root) for k in (0, 2, 4)]
        pieces.append(melody + chords)
    return music(*pieces)


def mixed(states: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 from each state."""
    return mix(states + np.uint64(0x9E3779B97F4A7C15))


# --- what counts as the same ------------------------------------------------------------------------------------------
def test_mixers_are_the_published_ones() -> None:
    # SplitMix64 from seed 0: its state is a multiple of the golden gamma, added before mixing
    states = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
    assert mixed(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    # MurmurHash3's fmix32 of 0 and 1
    hashed = np.empty(2, np.uint32)
    kernels.hashes_of_places(2, hashed)
    assert hashed.tolist() == [0, 0x514E28B7]


def test_music_hash_of_three_notes() -> None:
    # onsets 3 and 7, counted from the first: 0 and 4; pitches 60 and 64, counted from the lowest: 0 and 4; a drum's
    # pitch is 256 more than it is
    pairs = np.array([0 << 10 | 0, 4 << 10 | 4, 4 << 10 | 292], np.uint64)
    expected = mixed(pairs).sum(dtype=np.uint64)
    assert music([(0, 3, 60), (0, 7, 64), (1, 7, 36)], drums=(1,)).hashes()[0] == expected


def test_hashes_are_the_same_on_every_machine_and_in_every_release() -> None:
    """Files in the work directory carry them: when these change, so must the version of the table of facts."""
    steps = [(0, i * (1 + i % 3), 40 + i * i * 7 % 41) for i in range(100)]
    piece = music(steps)
    assert piece.hashes()[0] == GOLDEN_MUSIC
    assert hashlib.sha256(piece.signatures().tobytes()).hexdigest()[:16] == GOLDEN_SIGNATURE


GOLDEN_MUSIC = 14460770508879213
GOLDEN_SIGNATURE = "e85d0fb7a8cbd7c9"


def test_music_hash_ignores_track_and_unison_but_not_drums() -> None:
    plain = [(0, 0, 60), (0, 4, 64), (0, 8, 67)]
    other_tracks = [(5, 0, 60), (0, 4, 64), (2, 8, 67)]
    unison = [*plain, (1, 4, 64)]
    with_drum = [*plain, (9, 0, 36)]
    other_drum = [*plain, (9, 0, 38)]
    same = music(plain, other_tracks, unison, with_drum, other_drum, drums=(9,)).hashes()
    assert same[0] == same[1] == same[2]
    assert len(set(same[2:].tolist())) == 3


def test_drums_do_not_move_with_the_key() -> None:
    piece = [(0, 0, 60), (0, 4, 64), (9, 0, 36)]
    higher = [(0, 0, 65), (0, 4, 69), (9, 0, 36)]
    drums_too = [(0, 0, 65), (0, 4, 69), (9, 0, 41)]
    hashes = music(piece, higher, drums_too, drums=(9,)).hashes()
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_absurd_onset_spoils_no_other_piece() -> None:
    good = [(0, 0, 60), (0, 4, 64)]
    alone = music(good).hashes()[0]
    for late in (2**32, 2**33, 2**38):  # as ticks of a coarse file may give, in a track of no part
        hashes = music([(0, 0, 60), (0, late, 64)], good, good).hashes()
        assert hashes[1] == hashes[2] == alone != hashes[0]


def test_nothing_in_nothing_out() -> None:
    assert music().hashes().shape == (0,)
    assert music().signatures().shape == (0, HASHES)
    assert clusters([], music().hashes(), music().signatures(), 0.2) == []


notes_strategy = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 200), st.integers(40, 90)), min_size=1, max_size=60
)


@settings(max_examples=60)
@given(notes_strategy, notes_strategy, st.integers(-30, 30), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_key_start_and_order_do_not_matter(a: list[Note], b: list[Note], key: int, late: int, random: object) -> None:
    """Drums are track 3: they keep their pitch."""
    moved = [(t, o + late, p + (key if t != 3 else 0)) for t, o, p in a]
    random.shuffle(moved)  # type: ignore[attr-defined]
    pieces = music(a, moved, b, drums=(3,))
    hashes, sketches = pieces.hashes(), pieces.signatures(64)
    assert hashes[0] == hashes[1]
    assert (sketches[0] == sketches[1]).all()
    assert hashes[2] == music(b, drums=(3,)).hashes()[0]
    assert (sketches[2] == music(b, drums=(3,)).signatures(64)[0]).all()


# --- shingles ---------------------------------------------------------------------------------------------------------
Shingle = tuple[tuple[int, ...], tuple[int, ...]]


def shingles_of(notes: list[tuple[int, int]]) -> list[Shingle]:
    """Intervals and rhythm of every six successive pitches of the highest notes in (onset, pitch) pairs, in words."""
    top: dict[int, int] = {}
    for onset, pitch in notes:
        top[onset] = max(pitch, top.get(onset, 0))
    line: list[tuple[int, int]] = []
    for onset in sorted(top):
        if not line or line[-1][1] != top[onset]:
            line.append((onset, top[onset]))
    found = []
    for start in range(len(line) - SHINGLE + 1):
        onsets, pitches = zip(*line[start : start + SHINGLE], strict=True)
        intervals = tuple(min(31, max(-32, q - p)) for p, q in pairwise(pitches))
        times = [q - p for p, q in pairwise(onsets)]
        rhythm = tuple((2 * q > 3 * p) - (3 * q < 2 * p) for p, q in pairwise(times))
        found.append((intervals, rhythm))
    return found


def shingle_sets(pieces: Music) -> tuple[list[set[Shingle]], list[set[Shingle]]]:
    """For each piece the shingles of its tracks' lines, and those of the line of all tracks."""
    by_track, whole = [], []
    for index in range(pieces.n_pieces):
        own = pieces.where((pieces.piece == index) & ~pieces.drum)
        notes = list(zip(own.track.tolist(), own.onset.tolist(), own.pitch.tolist(), strict=True))
        tracks = [shingles_of([(o, p) for t, o, p in notes if t == track]) for track in {t for t, _, _ in notes}]
        by_track.append({shingle for line in tracks for shingle in line})
        whole.append(set(shingles_of([(o, p) for _, o, p in notes])))
    return by_track, whole


def test_a_line_by_hand() -> None:
    # chord C E G, then A twice, B, C, D, E: the line is G A B C D E, its intervals 2 2 1 2 2. It moves at 0, 4, 8, 14,
    # 16, 18, so its times are 4 4 6 2 2: alike, alike (6 : 4 is 3 : 2), shorter, alike
    notes = [(0, 60), (0, 64), (0, 67), (4, 69), (6, 69), (8, 71), (14, 72), (16, 74), (18, 76)]
    assert shingles_of(notes) == [((2, 2, 1, 2, 2), (0, 0, -1, 0))]
    key = np.sort(np.array([o << 7 | p for o, p in notes]))
    piece, number = duplicates._shingles(key, 0, np.zeros(1, np.int64))
    # 34 34 33 34 34 in six bits each; digits 1 1 0 1 to base 3: 27 + 9 + 0 + 1 = 37
    packed = ((((34 << 6 | 34) << 6 | 33) << 6 | 34) << 6) | 34
    assert (piece.tolist(), number.tolist()) == ([0], [(packed + 37 * 0x9E3779B1) % 2**32])


@settings(max_examples=40)
@given(st.lists(notes_strategy, min_size=1, max_size=4))
def test_shingles_are_those_in_words(pieces: list[list[Note]]) -> None:
    notes = music(*pieces)
    key = np.sort(notes.piece << 35 | notes.track << 33 | notes.onset << 7 | notes.pitch)
    piece, number = duplicates._shingles(key, 0, np.repeat(np.arange(len(pieces)), 4))
    expected = [
        (index, shingle)
        for index, own in enumerate(pieces)
        for track in range(4)
        for shingle in shingles_of([(o, p) for t, o, p in own if t == track])
    ]
    assert piece.tolist() == [index for index, _ in expected]
    named: dict[Shingle, int] = {}
    for (_, shingle), got in zip(expected, number.tolist(), strict=True):
        assert named.setdefault(shingle, got) == got
    assert len(set(named.values())) == len(named)


# --- sketches ---------------------------------------------------------------------------------------------------------
def test_twice_as_slow_and_struck_again_leave_a_signature_as_it_is() -> None:
    pieces = tunes(5)
    slow = replace(pieces, onset=2 * pieces.onset)
    again = joined(replace(slow, n_pieces=5), replace(slow, onset=slow.onset + 1, n_pieces=5))
    order = np.argsort(again.piece % 5, kind="stable")
    again = Music(*(column[order] for column in again.columns()), 5)
    again = replace(again, piece=again.piece % 5)
    assert (pieces.signatures() == slow.signatures()).all()
    assert (pieces.signatures() == again.signatures()).all()


def test_other_tracks_leave_one_half_or_the_other() -> None:
    pieces = tunes(5)
    plain = pieces.signatures()
    merged = replace(pieces, track=0 * pieces.track).signatures()
    renumbered = replace(pieces, track=7 - pieces.track).signatures()
    assert (merged[:, BINS:] == plain[:, BINS:]).all()
    assert (merged[:, :BINS] == merged[:, BINS:]).all()
    assert not (merged[:, :BINS] == plain[:, :BINS]).all(axis=1).any()
    assert (renumbered == plain).all()
    assert (likeness(merged, plain) == 1).all()


def test_drums_and_short_lines_have_no_signature() -> None:
    whole = tunes(1)
    short = whole.where((whole.track == 0) & (whole.onset < 40))
    drums = replace(whole, drum=np.ones(len(whole.piece), bool))
    pieces = joined(whole, short, drums)
    sketches = pieces.signatures()
    assert (sketches[0] != EMPTY).all()
    assert (sketches[1:] == EMPTY).all()
    assert likeness(sketches, sketches).tolist() == [1, 0, 0]
    assert clusters(["a", "b", "c"], pieces.hashes(), sketches, 0.0) == ["a", "b", "c"]
    with_drums = replace(joined(whole, whole), drum=np.r_[whole.drum, whole.track == 1])
    alone = whole.where(whole.track == 0)
    assert (with_drums.signatures()[1] == alone.signatures()[0]).all()


def altered(pieces: Music, share: float, rng: np.random.Generator) -> Music:
    """Another pitch for some of the notes."""
    change = rng.choice([-4, -3, -2, -1, 1, 2, 3, 4], len(pieces.pitch))
    return replace(pieces, pitch=pieces.pitch + change * (rng.random(len(change)) < share))


def without(pieces: Music, share: float, rng: np.random.Generator) -> Music:
    return pieces.where(rng.random(len(pieces.pitch)) >= share)


def jaccard(one: set[Shingle], other: set[Shingle]) -> float:
    return len(one & other) / len(one | other)


def test_estimates_are_as_good_as_theory_and_datasketch() -> None:
    """300 pairs from hardly to wholly alike; the other judge is a classical MinHash of as many values."""
    plain = tunes(60, notes=240)
    rng = np.random.default_rng(1)
    others = [altered(plain, share, rng) for share in (0.01, 0.03, 0.06, 0.1, 0.2)]
    texts = shingle_sets(plain)[1]
    sketch = plain.signatures()
    exact, ours, theirs = [], [], []
    for other in others:
        estimate = (sketch[:, BINS:] == other.signatures()[:, BINS:]).mean(axis=1)
        for one, two, value in zip(texts, shingle_sets(other)[1], estimate, strict=True):
            exact.append(jaccard(one, two))
            ours.append(float(value))
            theirs.append(classical(one).jaccard(classical(two)))
    truth, mine, judge = np.array(exact), np.array(ours), np.array(theirs)
    assert truth.min() < 0.2 < 0.7 < truth.max()
    deviation = np.sqrt(truth * (1 - truth) / BINS)
    assert (np.abs(mine - truth) <= 4.5 * deviation).all()
    assert abs((mine - truth).mean()) < 0.008  # 300 pairs: 0.04 / sqrt(300) is 0.0023
    assert (mine - truth).std() < 1.1 * (judge - truth).std()


def classical(shingles: set[Shingle]) -> MinHash:
    judge = MinHash(num_perm=BINS, seed=1)
    judge.update_batch([repr(shingle).encode() for shingle in sorted(shingles)])
    return judge


def sketch_of(shingles: np.ndarray) -> np.ndarray:
    """The sketch of one piece with these shingles, in 128 bins."""
    table = np.zeros((1, 256), np.uint16)
    duplicates._sketch(np.zeros(len(shingles), np.int64), shingles.astype(np.uint32), table, 0)
    return table[0, :128]


def test_empty_bins_are_filled_alike() -> None:
    # 24 shingles for 128 bins, and the same but one: nearly all bins stay equal
    shingles = np.arange(24) * 7919
    filled, also = sketch_of(shingles), sketch_of(shingles[1:])
    hashed = np.empty(24 * 7919, np.uint32)
    kernels.hashes_of_places(len(hashed), hashed)
    hashed = hashed[shingles]
    own = dict(zip((hashed >> 25).tolist(), (hashed & 0xFFFF).tolist(), strict=True))
    assert 16 <= len(own) <= 24
    assert {b: int(filled[b]) for b in own} == own or len(own) < 24  # of two in a bin the less counts
    assert (filled != EMPTY).all()
    assert set(filled.tolist()) <= set(own.values()) | set((hashed & 0xFFFF).tolist())
    assert 0.85 < (filled == also).mean() < 1
    assert (sketch_of(shingles[:15]) == EMPTY).all()
    assert (sketch_of(shingles[:0]) == EMPTY).all()


# --- clusters ---------------------------------------------------------------------------------------------------------
def clusters(names: list[str], music_: np.ndarray, rows: np.ndarray, threshold: float | None, **more: int) -> list[str]:
    """For each piece the least name of its cluster; pieces in any order."""
    order = np.argsort(names, kind="stable")
    first = duplicates.clusters(music_[order], rows[order], threshold, **more)
    found = dict(zip(order.tolist(), order[first].tolist(), strict=True))
    return [names[found[i]] for i in range(len(names))]


def sketches(*rows: list[tuple[int, int]]) -> np.ndarray:
    """Signatures whose two halves are runs of (value, length)."""
    halves = [np.repeat(*np.array(row).T).astype(np.uint16) for row in rows]
    return np.array([np.r_[half, half] for half in halves])


def test_clusters_by_hand() -> None:
    own = np.arange(6, dtype=np.uint64)
    # b has 96 of a's 128 values (0.75); c 64 of b's and 32 of a's (0.5 and 0.25); d nothing; e is no piece to tell
    table = sketches([(1, 128)], [(1, 96), (2, 32)], [(1, 32), (3, 32), (1, 32), (2, 32)], [(4, 128)])
    empty = np.full((2, HASHES), EMPTY)
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
    columns = np.array(rows, np.uint16).T.copy()  # [4, R]: a band, and the column that orders its buckets
    signatures = np.zeros((len(rows), 8), np.uint16)
    key, above = np.empty((1, len(rows)), np.uint64), np.arange(len(rows))
    row_bits = max(1, len(rows) - 1).bit_length()
    kernels.buckets(1, 0, 4, len(rows), columns, np.arange(4), row_bits, key)
    key.sort(axis=1)
    # of one bucket those stand side by side that agree in the further column
    ordered = [rows[i] for i in (key[0] & np.uint64((1 << row_bits) - 1)).tolist()]
    assert len(set(ordered)) == 1 + sum(one != other for one, other in pairwise(ordered))
    kernels.link(1, len(rows), key, row_bits, np.arange(len(rows)), signatures, 4, 4, above)
    firsts = {row[:3]: index for index, row in reversed(list(enumerate(rows)))}
    assert duplicates._first_rows(above).tolist() == [firsts[row[:3]] for row in rows]
    # rows that are not alike are not linked
    unlike = np.random.default_rng(seed).permutation(8 * len(rows)).astype(np.uint16).reshape(-1, 8)
    alone = np.arange(len(rows))
    kernels.link(1, len(rows), key, row_bits, np.arange(len(rows)), unlike, 4, 1, alone)
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
    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
        # a bucket of these two rows
        kernels.link(
            1, 2, np.arange(2, dtype=np.uint64), 1, np.array([a, b]), np.zeros((21, 8), np.uint16), 4, 4, above
        )
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
