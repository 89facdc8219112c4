"""What is loaded from shards, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rolls import LAYOUT, made_up, piece_id, write_rolls

from midivae.config.train import View
from midivae.errors import CorruptError, InputError, SchemaError
from midivae.music.roll import Layout, unpack
from midivae.storage import tables
from midivae.storage.schema import SHARD
from midivae.windows.corpus import load_corpus
from midivae.windows.device import BitMatrix
from midivae.windows.windows import find_windows

pytestmark = pytest.mark.numerical

CPU = torch.device("cpu")


def test_load_gives_each_piece_of_the_splits_once_in_order_of_its_id(tmp_path: Path) -> None:
    pieces = made_up(7)
    splits = ["train", "valid", "train", "test", "train", "test", "valid"]
    write_rolls(tmp_path / "rolls", pieces, splits, n_shards=4)

    corpus = load_corpus(tmp_path / "rolls", ["train", "valid"])

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
    corpus = load_corpus(tmp_path / "rolls", ["test"])
    assert len(corpus) == 0
    assert corpus.packed.shape == (0, LAYOUT.bytes_per_step)
    assert len(find_windows(corpus, View(steps=8))) == 0
    assert len(BitMatrix(corpus, find_windows(corpus, View(steps=8)), View(steps=8), CPU)) == 0


def test_load_names_what_is_missing_or_damaged(tmp_path: Path) -> None:
    rolls = tmp_path / "rolls"
    with pytest.raises(InputError, match=r"no part-\*"):
        load_corpus(rolls, ["train"])

    write_rolls(rolls, made_up(4), ["train"] * 4, n_shards=2)
    second = rolls / "part-00001-of-00002.parquet"
    good = second.read_bytes()

    second.unlink()
    with pytest.raises(InputError, match="no full set"):
        load_corpus(rolls, ["train"])

    second.write_bytes((rolls / "part-00000-of-00002.parquet").read_bytes())
    with pytest.raises(CorruptError, match="twice"):
        load_corpus(rolls, ["train"])

    second.write_bytes(good)
    (frame, *_) = tables.read(second, SHARD, ["planes"]).column("planes").to_pylist()
    flipped = bytearray(good)
    flipped[good.index(frame) + len(frame) // 2] ^= 4
    second.write_bytes(flipped)
    with pytest.raises((CorruptError, SchemaError), match="part-00001"):
        load_corpus(rolls, ["train"])


def test_load_refuses_shards_that_miss_an_accepted_piece_or_disagree(tmp_path: Path) -> None:
    both, one = tmp_path / "both", tmp_path / "one"
    pieces = made_up(4)
    write_rolls(both, pieces, ["train"] * 4)
    write_rolls(one, pieces[:3], ["train"] * 3)
    (one / "pieces.parquet").write_bytes((both / "pieces.parquet").read_bytes())
    with pytest.raises(CorruptError, match=r"1 accepted piece\(s\) are in no shard"):
        load_corpus(one, ["train"])

    other = Layout(("high", "low"), 48, 12, 4)
    write_rolls(one, pieces, ["train"] * 4, layout=other)
    (both / "part-00001-of-00002.parquet").write_bytes((one / "part-00001-of-00002.parquet").read_bytes())
    with pytest.raises(SchemaError, match="2 different layouts"):
        load_corpus(both, ["train"])
