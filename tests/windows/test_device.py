"""Windows on the training device are those that numpy cuts, and move in pitch without loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rolls import LAYOUT, corpus_of

from midivae.config.train import View
from midivae.music.roll import FRAME, Layout
from midivae.windows.device import BitMatrix
from midivae.windows.windows import cut_planes, find_windows
from windows.test_windows import views

pytestmark = pytest.mark.numerical

CPU = torch.device("cpu")


@given(views, st.integers(0, 2**31), st.booleans(), st.integers(0, 20))
def test_planes_and_bit_matrix_read_what_a_slice_of_the_piece_reads(
    view: View, seed: int, with_drums: bool, context: int
) -> None:
    layout = Layout(("drums", "a", "b"), 60, 5, 4) if with_drums else LAYOUT
    rng = np.random.default_rng(seed)
    pieces = [rng.random((int(rng.integers(1, 50)), len(layout.parts), 2, layout.pitches)) < 0.2 for _ in range(3)]
    corpus = corpus_of(pieces, layout)
    found = find_windows(corpus, view)
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
    planes = cut_planes(corpus, found, index, view)
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
    matrix = BitMatrix(corpus, find_windows(corpus, view), view, CPU, 4)
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
    matrix = BitMatrix(corpus, find_windows(corpus, view), view, CPU)
    batch = matrix.batch(torch.zeros(600, dtype=torch.long))
    lowest = matrix.transposed(batch, 6, torch.Generator().manual_seed(0)).x[:, 0, 0, 0].argmax(-1)
    counts = np.bincount(lowest.numpy())
    assert len(counts) == 6  # from 0 to 5
    assert counts.min() > 60  # 100 each, standard deviation 9
