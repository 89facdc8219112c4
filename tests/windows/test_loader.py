"""Shards to batches: what is loaded, how windows are cut, and that both ways to read a window agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rolls import LAYOUT, made_up, piece_id, write_rolls

from midivae.config.train import View
from midivae.errors import CorruptError, InputError, ParamsError, SchemaError
from midivae.music.roll import FRAME, ONSET, Layout, pack, unpack
from midivae.storage import tables
from midivae.storage.schema import SHARD
from midivae.windows import loader
from midivae.windows.loader import BitMatrix, Corpus

pytestmark = pytest.mark.numerical

CPU = torch.device("cpu")


def corpus_of(pieces: list[np.ndarray], layout: Layout = LAYOUT, bar: int = 8) -> Corpus:
    lengths = [len(planes) for planes in pieces]
    return Corpus(
        packed=np.concatenate([np.zeros((0, layout.bytes_per_step), np.uint8), *map(pack, pieces)]),
        starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        piece_ids=tuple(piece_id(i) for i in range(len(pieces))),
        bar_starts=tuple(np.arange(0, length, bar) for length in lengths),
        tempo_qpm=np.full(len(pieces), 120.0, np.float32),
        programs=np.zeros((len(pieces), len(layout.parts)), np.int32),
        layout=layout,
    )


views = st.builds(
    View,
    steps=st.integers(1, 40),
    hop=st.one_of(st.just("bar"), st.integers(1, 20)),
    planes=st.sampled_from(["frame", "onset+frame"]),
    merge_parts=st.booleans(),
    min_fill=st.sampled_from([0.0, 0.25, 0.7, 0.75, 1.0]),
)


# --- load -------------------------------------------------------------------------------------------------------------
def test_load_gives_each_piece_of_the_splits_once_in_order_of_its_id(tmp_path: Path) -> None:
    pieces = made_up(7)
    splits = ["train", "valid", "train", "test", "train", "test", "valid"]
    write_rolls(tmp_path / "rolls", pieces, splits, n_shards=4)

    corpus = loader.load(tmp_path / "rolls", ["train", "valid"])

    wanted = sorted((piece_id(i), i) for i in range(7) if splits[i] != "test")
    assert corpus.piece_ids == tuple(name for name, _ in wanted)
    for place, (_, i) in enumerate(wanted):
        rows = corpus.packed[corpus.starts[place] : corpus.starts[place + 1]]
        assert np.array_equal(unpack(rows, LAYOUT), pieces[i])
        assert corpus.bar_starts[place].tolist() == list(range(0, len(pieces[i]), 8))
        assert corpus.tempo_qpm[place] == 100 + i
    assert corpus.programs.tolist() == [[0, 1]] * 5
    assert corpus.layout == LAYOUT


def test_splits_without_pieces_give_an_empty_corpus(tmp_path: Path) -> None:
    write_rolls(tmp_path / "rolls", made_up(2), ["train", "train"])
    corpus = loader.load(tmp_path / "rolls", ["test"])
    assert len(corpus) == 0
    assert corpus.packed.shape == (0, LAYOUT.bytes_per_step)
    assert len(loader.windows(corpus, View(steps=8))) == 0
    assert len(BitMatrix(corpus, loader.windows(corpus, View(steps=8)), View(steps=8), CPU)) == 0


def test_load_names_what_is_missing_or_damaged(tmp_path: Path) -> None:
    rolls = tmp_path / "rolls"
    with pytest.raises(InputError, match=r"no part-\*"):
        loader.load(rolls, ["train"])

    write_rolls(rolls, made_up(4), ["train"] * 4, n_shards=2)
    second = rolls / "part-00001-of-00002.parquet"
    good = second.read_bytes()

    second.unlink()
    with pytest.raises(InputError, match="no full set"):
        loader.load(rolls, ["train"])

    second.write_bytes((rolls / "part-00000-of-00002.parquet").read_bytes())
    with pytest.raises(CorruptError, match="twice"):
        loader.load(rolls, ["train"])

    second.write_bytes(good)
    (frame, *_) = tables.read(second, SHARD, ["planes"]).column("planes").to_pylist()
    flipped = bytearray(good)
    flipped[good.index(frame) + len(frame) // 2] ^= 4
    second.write_bytes(flipped)
    with pytest.raises((CorruptError, SchemaError), match="part-00001"):
        loader.load(rolls, ["train"])


def test_load_refuses_shards_that_miss_an_accepted_piece_or_disagree(tmp_path: Path) -> None:
    both, one = tmp_path / "both", tmp_path / "one"
    pieces = made_up(4)
    write_rolls(both, pieces, ["train"] * 4)
    write_rolls(one, pieces[:3], ["train"] * 3)
    (one / "pieces.parquet").write_bytes((both / "pieces.parquet").read_bytes())
    with pytest.raises(CorruptError, match=r"1 accepted piece\(s\) are in no shard"):
        loader.load(one, ["train"])

    other = Layout(("high", "low"), 48, 12, 4)
    write_rolls(one, pieces, ["train"] * 4, layout=other)
    (both / "part-00001-of-00002.parquet").write_bytes((one / "part-00001-of-00002.parquet").read_bytes())
    with pytest.raises(SchemaError, match="2 different layouts"):
        loader.load(both, ["train"])


# --- windows ----------------------------------------------------------------------------------------------------------
def test_windows_at_bar_lines_by_hand() -> None:
    # pieces of 20 and 9 steps, bars every 8: window starts may be 0, 8, 16 and 0, 8. Of 8 steps at least 0.5 * 8 = 4
    # must be music: 16 + 4 <= 20 fits, 8 + 4 <= 9 does not. Rows: the second piece starts at 20.
    rng = np.random.default_rng(0)
    corpus = corpus_of([rng.random((20, 2, 2, 12)) < 0.3, rng.random((9, 2, 2, 12)) < 0.3])
    found = loader.windows(corpus, View(steps=8, min_fill=0.5))
    assert found.start.tolist() == [0, 8, 16, 20]
    assert found.stop.tolist() == [20, 20, 20, 29]
    assert found.piece.tolist() == [0, 0, 0, 1]
    # the window at 16 has 4 steps of music, then silence, although the next piece's rows follow
    last = loader.planes(corpus, found, np.array([2]), View(steps=8, min_fill=0.5))[0]
    assert np.array_equal(last[:4], unpack(corpus.packed[16:20], LAYOUT))
    assert not last[4:].any()


def test_windows_at_a_hop_by_hand() -> None:
    # 10 steps, hop 3: starts 0, 3, 6, 9. Of 5 steps 0.7 * 5 = 3.5, so 4, must be music: 6 + 4 <= 10 is the last
    corpus = corpus_of([np.zeros((10, 2, 2, 12), bool)])
    assert loader.windows(corpus, View(steps=5, hop=3, min_fill=0.7)).start.tolist() == [0, 3, 6]
    # 0.7 * 10 is 7.000000000000001 in floats, and means 7: 3 + 7 <= 10
    assert loader.windows(corpus, View(steps=10, hop=3, min_fill=0.7)).start.tolist() == [0, 3]
    # shorter than a window, but long enough to pad
    assert loader.windows(corpus, View(steps=12, hop=12, min_fill=0.75)).start.tolist() == [0]
    assert loader.windows(corpus, View(steps=14, hop=12, min_fill=0.75)).start.tolist() == []


@given(views, st.integers(0, 2**31), st.booleans(), st.integers(0, 20))
def test_planes_and_bit_matrix_read_what_a_slice_of_the_piece_reads(
    view: View, seed: int, with_drums: bool, context: int
) -> None:
    layout = Layout(("drums", "a", "b"), 60, 5, 4) if with_drums else LAYOUT
    rng = np.random.default_rng(seed)
    pieces = [rng.random((int(rng.integers(1, 50)), len(layout.parts), 2, layout.pitches)) < 0.2 for _ in range(3)]
    corpus = corpus_of(pieces, layout)
    found = loader.windows(corpus, view)
    index = rng.permutation(len(found))

    slices, befores, inside, begins = [], [], [], []
    for i in index:
        piece = pieces[found.piece[i]]
        at = int(found.start[i] - corpus.starts[found.piece[i]])
        window = np.zeros((view.steps, *piece.shape[1:]), bool)
        window[: len(piece[at : at + view.steps])] = piece[at : at + view.steps]
        before = np.zeros((context, *piece.shape[1:]), bool)
        before[context - min(context, at) :] = piece[max(0, at - context) : at]
        inside.append(min(view.steps, len(piece) - at))
        begins.append(at)
        for cells, kept in ((window, slices), (before, befores)):
            if view.merge_parts:
                cells = cells[:, 1 if with_drums else 0 :].any(axis=1, keepdims=True)
            kept.append(cells if view.planes == "onset+frame" else cells[:, :, FRAME:])
    planes = loader.planes(corpus, found, index, view)
    matrix = BitMatrix(corpus, found, view, CPU, context)
    batch = matrix.batch(torch.from_numpy(index))
    assert planes.shape == tuple(batch.x.shape) == (len(index), *matrix.shape)
    assert batch.x.dtype == torch.float32
    assert batch.n_inside.tolist() == inside
    assert batch.n_before.tolist() == [min(context, start) for start in begins]
    if slices:
        assert np.array_equal(planes, np.array(slices))
        assert np.array_equal(batch.x.numpy(), np.array(slices))
        assert np.array_equal(batch.before.numpy(), np.array(befores))


@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_transposed_windows_keep_every_note_and_the_drums(seed: int, most: int) -> None:
    layout = Layout(("drums", "a", "b"), 60, 24, 4)
    rng = np.random.default_rng(seed)
    piece = np.zeros((40, 3, 2, 24), bool)
    piece[..., 5:20] = rng.random((40, 3, 2, 15)) < 0.1
    view = View(steps=8, hop=8)
    corpus = corpus_of([piece], layout)
    matrix = BitMatrix(corpus, loader.windows(corpus, view), view, CPU, 4)
    batch = matrix.batch(torch.arange(len(matrix)))
    moved = matrix.transposed(batch, most, torch.Generator().manual_seed(seed))
    assert torch.equal(moved.x[:, :, 0], batch.x[:, :, 0])
    for i in range(len(matrix)):
        one = torch.cat([batch.before[i], batch.x[i]])[:, 1:]
        other = torch.cat([moved.before[i], moved.x[i]])[:, 1:]
        assert any(torch.equal(torch.roll(one, shift, -1), other) for shift in range(-min(most, 12), min(most, 12) + 1))
        assert one.sum() == other.sum()


def test_all_transpositions_that_keep_every_note_are_drawn() -> None:
    piece = np.zeros((8, 2, 2, 12), bool)
    piece[:, 0, :, 2] = piece[:, 1, :, 8] = True  # two semitones below, three above
    view = View(steps=8, hop=8)
    corpus = corpus_of([piece])
    matrix = BitMatrix(corpus, loader.windows(corpus, view), view, CPU)
    batch = matrix.batch(torch.zeros(600, dtype=torch.long))
    lowest = matrix.transposed(batch, 6, torch.Generator().manual_seed(0)).x[:, 0, 0, 0].argmax(-1)
    counts = np.bincount(lowest.numpy())
    assert len(counts) == 6  # from 0 to 5
    assert counts.min() > 60  # 100 each, standard deviation 9


@given(views, st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_windows_lie_in_their_piece_and_hold_enough_music(view: View, lengths: list[int]) -> None:
    corpus = corpus_of([np.zeros((length, 2, 2, 12), bool) for length in lengths])
    found = loader.windows(corpus, view)
    inside = np.minimum(found.stop, found.start + view.steps) - found.start
    assert (found.start >= corpus.starts[found.piece]).all()
    assert (inside >= max(1, view.min_fill * view.steps - 1e-6)).all()
    assert len({(int(p), int(s)) for p, s in zip(found.piece, found.start, strict=True)}) == len(found)


def test_merging_takes_the_union_and_leaves_drums_out() -> None:
    layout = Layout(("drums", "a", "b"), 60, 3, 4)
    planes = np.zeros((1, 3, 2, 3), bool)
    planes[0, 0, :, 0] = True  # a drum
    planes[0, 1, FRAME, 1] = True  # held in part a
    planes[0, 2, :, 1] = True  # struck in part b: the merged note is struck
    view = View(steps=1, hop=1, merge_parts=True)
    corpus = corpus_of([planes], layout)
    merged = loader.planes(corpus, loader.windows(corpus, view), np.array([0]), view)
    assert merged.shape == (1, 1, 1, 2, 3)
    assert merged[0, 0, 0, ONSET].tolist() == [False, True, False]
    assert merged[0, 0, 0, FRAME].tolist() == [False, True, False]
    assert loader.sample_layout(layout, view) == Layout(("merged",), 60, 3, 4)


def test_a_view_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ParamsError, match="nothing is left"):
        loader.sample_layout(Layout(("drums",), 36, 4, 4), View(merge_parts=True))


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    order = loader.epoch_order(100, seed=3, epoch=5)
    assert sorted(order.tolist()) == list(range(100))
    assert np.array_equal(order, loader.epoch_order(100, seed=3, epoch=5))
    # seed + epoch would make these alike
    assert not np.array_equal(order, loader.epoch_order(100, seed=5, epoch=3))
    assert not np.array_equal(order, loader.epoch_order(100, seed=3, epoch=6))


# --- chains -----------------------------------------------------------------------------------------------------------
def test_chains_go_on_from_every_window_start_in_the_first_window_of_a_piece() -> None:
    # 40 steps, bars at 0, 8, ..., 32; windows of 16, at least 12 inside: a window may start at 28 at the latest
    corpus = corpus_of([np.zeros((n, 2, 2, 12), bool) for n in (40, 12)])
    chains = loader.chains(corpus, View(steps=16, hop="bar", min_fill=0.75))
    assert chains.starts.tolist() == [0, 2, 4, 5]
    assert chains.windows.start.tolist() == [0, 16, 8, 24, 40]
    assert chains.windows.stop.tolist() == [40, 40, 40, 40, 52]
    assert chains.at_start.tolist() == [True, False, True]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), views)
def test_links_of_a_chain_follow_each_other_and_every_window_starts_where_windows_may_end(
    lengths: list[int], view: View
) -> None:
    corpus = corpus_of([np.zeros((n, 2, 2, 12), bool) for n in lengths])
    chains = loader.chains(corpus, view)
    for i in range(len(chains)):
        mine = slice(chains.starts[i], chains.starts[i + 1])
        start, stop = chains.windows.start[mine], chains.windows.stop[mine]
        assert len(start) > 0
        assert (np.diff(start) == view.steps).all()
        least = max(1, int(np.ceil(view.min_fill * view.steps - 1e-9)))
        assert start[-1] + least <= stop[-1] < start[-1] + view.steps + least
        assert chains.at_start[i] == (start[0] in corpus.starts)
    single = loader.windows(corpus, view)
    first = chains.windows.start[chains.starts[:-1]]
    assert set(first) == set(single.start[single.start - corpus.starts[single.piece] < view.steps])
