"""What the hash of the music ignores, which shingles a line has, and how well sketches estimate."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st
from tunes import Music, Note, altered, joined, likeness, mixed, music, tunes

from midivae.ingest import sketches
from midivae.ingest.sketches import BINS, EMPTY, HASHES, SHINGLE


# --- what counts as the same ------------------------------------------------------------------------------------------
def test_mixers_are_the_published_ones() -> None:
    # SplitMix64 from seed 0: its state is a multiple of the golden gamma, added before mixing
    states = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
    assert mixed(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    # MurmurHash3's fmix32 of 0 and 1
    assert sketches._hashes_of_places(2).tolist() == [0, 0x514E28B7]


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
    hashes, signatures = pieces.hashes(), pieces.signatures()
    assert hashes[0] == hashes[1]
    assert (signatures[0] == signatures[1]).all()
    assert hashes[2] == music(b, drums=(3,)).hashes()[0]
    assert (signatures[2] == music(b, drums=(3,)).signatures()[0]).all()


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
    number = sketches._shingles(key)
    # 34 34 33 34 34 in six bits each; digits 1 1 0 1 to base 3: 27 + 9 + 0 + 1 = 37
    packed = ((((34 << 6 | 34) << 6 | 33) << 6 | 34) << 6) | 34
    assert number.tolist() == [(packed + 37 * 0x9E3779B1) % 2**32]


@settings(max_examples=40)
@given(st.lists(notes_strategy, min_size=1, max_size=4))
def test_shingles_are_those_in_words(pieces: list[list[Note]]) -> None:
    notes = music(*pieces)
    key = np.sort(notes.piece << 35 | notes.track << 33 | notes.onset << 7 | notes.pitch)
    number = sketches._shingles(key)
    expected = [
        shingle
        for own in pieces
        for track in range(4)
        for shingle in shingles_of([(o, p) for t, o, p in own if t == track])
    ]
    assert len(number) == len(expected)
    named: dict[Shingle, int] = {}
    for shingle, got in zip(expected, number.tolist(), strict=True):
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
    signatures = pieces.signatures()
    assert (signatures[0] != EMPTY).all()
    assert (signatures[1:] == EMPTY).all()
    assert likeness(signatures, signatures).tolist() == [1, 0, 0]
    with_drums = replace(joined(whole, whole), drum=np.r_[whole.drum, whole.track == 1])
    alone = whole.where(whole.track == 0)
    assert (with_drums.signatures()[1] == alone.signatures()[0]).all()


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
    sketch: np.ndarray = sketches._sketch(shingles.astype(np.uint32), sketches._donors())
    return sketch


def test_empty_bins_are_filled_alike() -> None:
    # 24 shingles for 128 bins, and the same but one: nearly all bins stay equal
    shingles = np.arange(24) * 7919
    filled, also = sketch_of(shingles), sketch_of(shingles[1:])
    hashed = sketches._hashes_of_places(24 * 7919)[shingles]
    own = dict(zip((hashed >> 25).tolist(), (hashed & 0xFFFF).tolist(), strict=True))
    assert 16 <= len(own) <= 24
    assert {b: int(filled[b]) for b in own} == own or len(own) < 24  # of two in a bin the less counts
    assert (filled != EMPTY).all()
    assert set(filled.tolist()) <= set(own.values()) | set((hashed & 0xFFFF).tolist())
    assert 0.85 < (filled == also).mean() < 1
    assert (sketch_of(shingles[:15]) == EMPTY).all()
    assert (sketch_of(shingles[:0]) == EMPTY).all()


def test_notes_in_any_order_have_one_sketch() -> None:
    piece = tunes(1)
    shuffled = piece.where(np.random.default_rng(0).permutation(len(piece.pitch)))
    assert shuffled.hashes() == piece.hashes()
    assert (shuffled.signatures() == piece.signatures()).all()


def test_python_and_machine_code_agree() -> None:
    """On the shingles of a random line: the function that is compiled is also run as it stands."""
    rng = np.random.default_rng(1)
    keys = np.sort(rng.integers(0, 500, 200) << 7 | rng.integers(40, 80, 200))
    with np.errstate(over="ignore"):
        by_python = sketches._shingles.py_func(keys)
    assert sketches._shingles(keys).tolist() == by_python.tolist()
    assert len(by_python) > 50
