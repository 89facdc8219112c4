"""Where windows and chains lie in a corpus, and what a view shows of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rolls import LAYOUT, corpus_of

from midivae.config.train import View
from midivae.errors import ParamsError
from midivae.music.roll import FRAME, ONSET, Layout, unpack
from midivae.windows.windows import cut_planes, epoch_order, find_chains, find_windows, sample_layout

pytestmark = pytest.mark.numerical

views = st.builds(
    View,
    steps=st.integers(1, 40),
    hop=st.one_of(st.just("bar"), st.integers(1, 20)),
    planes=st.sampled_from(["frame", "onset+frame"]),
    merge_parts=st.booleans(),
    min_fill=st.sampled_from([0.0, 0.25, 0.7, 0.75, 1.0]),
)


def test_windows_at_bar_lines_by_hand() -> None:
    # pieces of 20 and 9 steps, bars every 8: window starts may be 0, 8, 16 and 0, 8. Of 8 steps at least 0.5 * 8 = 4
    # must be music: 16 + 4 <= 20 fits, 8 + 4 <= 9 does not. Rows: the second piece starts at 20.
    rng = np.random.default_rng(0)
    corpus = corpus_of([rng.random((20, 2, 2, 12)) < 0.3, rng.random((9, 2, 2, 12)) < 0.3])
    found = find_windows(corpus, View(steps=8, min_fill=0.5))
    assert found.start.tolist() == [0, 8, 16, 20]
    assert found.stop.tolist() == [20, 20, 20, 29]
    assert found.piece.tolist() == [0, 0, 0, 1]
    # the window at 16 has 4 steps of music, then silence, although the next piece's rows follow
    last = cut_planes(corpus, found, np.array([2]), View(steps=8, min_fill=0.5))[0]
    assert np.array_equal(last[:4], unpack(corpus.packed[16:20], LAYOUT))
    assert not last[4:].any()


def test_windows_at_a_hop_by_hand() -> None:
    # 10 steps, hop 3: starts 0, 3, 6, 9. Of 5 steps 0.7 * 5 = 3.5, so 4, must be music: 6 + 4 <= 10 is the last
    corpus = corpus_of([np.zeros((10, 2, 2, 12), bool)])
    assert find_windows(corpus, View(steps=5, hop=3, min_fill=0.7)).start.tolist() == [0, 3, 6]
    # 0.7 * 10 is 7.000000000000001 in floats, and means 7: 3 + 7 <= 10
    assert find_windows(corpus, View(steps=10, hop=3, min_fill=0.7)).start.tolist() == [0, 3]
    # shorter than a window, but long enough to pad
    assert find_windows(corpus, View(steps=12, hop=12, min_fill=0.75)).start.tolist() == [0]
    assert find_windows(corpus, View(steps=14, hop=12, min_fill=0.75)).start.tolist() == []


@given(views, st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_windows_lie_in_their_piece_and_hold_enough_music(view: View, lengths: list[int]) -> None:
    corpus = corpus_of([np.zeros((length, 2, 2, 12), bool) for length in lengths])
    found = find_windows(corpus, view)
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
    merged = cut_planes(corpus, find_windows(corpus, view), np.array([0]), view)
    assert merged.shape == (1, 1, 1, 2, 3)
    assert merged[0, 0, 0, ONSET].tolist() == [False, True, False]
    assert merged[0, 0, 0, FRAME].tolist() == [False, True, False]
    assert sample_layout(layout, view) == Layout(("merged",), 60, 3, 4)


def test_a_view_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ParamsError, match="nothing is left"):
        sample_layout(Layout(("drums",), 36, 4, 4), View(merge_parts=True))


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    order = epoch_order(100, seed=3, epoch=5)
    assert sorted(order.tolist()) == list(range(100))
    assert np.array_equal(order, epoch_order(100, seed=3, epoch=5))
    # seed + epoch would make these alike
    assert not np.array_equal(order, epoch_order(100, seed=5, epoch=3))
    assert not np.array_equal(order, epoch_order(100, seed=3, epoch=6))


def test_chains_go_on_from_every_window_start_in_the_first_window_of_a_piece() -> None:
    # 40 steps, bars at 0, 8, ..., 32; windows of 16, at least 12 inside: a window may start at 28 at the latest
    corpus = corpus_of([np.zeros((n, 2, 2, 12), bool) for n in (40, 12)])
    chains = find_chains(corpus, View(steps=16, hop="bar", min_fill=0.75))
    assert chains.starts.tolist() == [0, 2, 4, 5]
    assert chains.windows.start.tolist() == [0, 16, 8, 24, 40]
    assert chains.windows.stop.tolist() == [40, 40, 40, 40, 52]
    assert chains.at_start.tolist() == [True, False, True]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), views)
def test_links_of_a_chain_follow_each_other_and_every_window_starts_where_windows_may_end(
    lengths: list[int], view: View
) -> None:
    corpus = corpus_of([np.zeros((n, 2, 2, 12), bool) for n in lengths])
    chains = find_chains(corpus, view)
    for i in range(len(chains)):
        mine = slice(chains.starts[i], chains.starts[i + 1])
        start, stop = chains.windows.start[mine], chains.windows.stop[mine]
        assert len(start) > 0
        assert (np.diff(start) == view.steps).all()
        least = max(1, int(np.ceil(view.min_fill * view.steps - 1e-9)))
        assert start[-1] + least <= stop[-1] < start[-1] + view.steps + least
        assert chains.at_start[i] == (start[0] in corpus.starts)
    single = find_windows(corpus, view)
    first = chains.windows.start[chains.starts[:-1]]
    assert set(first) == set(single.start[single.start - corpus.starts[single.piece] < view.steps])
