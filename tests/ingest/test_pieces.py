"""The table of pieces: splits from hashes, and what stands for copies and duplicates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from midivae.config.ingest import Ingest, Split
from midivae.ingest.pieces import pieces_of, split_of
from midivae.ingest.sketches import EMPTY, HASHES
from midivae.storage.schema import CORPUS, FACTS


def test_splits_are_stable_and_near_their_fractions() -> None:
    names = [f"{i:016x}" for i in range(20_000)]
    splits = pd.Series([split_of(name, Split(valid=0.1, test=0.2)) for name in names])
    shares = splits.value_counts(normalize=True)
    # the standard deviation of a share of 0.2 among 20,000 is 0.003
    assert abs(shares["test"] - 0.2) < 0.012
    assert abs(shares["valid"] - 0.1) < 0.012
    other = pd.Series([split_of(name, Split(valid=0.1, test=0.2, seed=1)) for name in names])
    assert 0.3 < (splits != other).mean() < 0.6


def test_copies_and_duplicates_point_at_the_first() -> None:
    # contents 1 and 3 are one music, 2 is rejected; c.mid is a copy of a.mid, which comes first in the corpus
    contents = {"a.mid": 3, "b.mid": 1, "c.mid": 3, "d.mid": 2}
    hashes = {number: f"{number:x}" + "0" * 63 for number in (1, 2, 3)}
    corpus = [
        {"path": path, "sha256": hashes[number], "bytes": 9, "source": "", "origin": ""}
        for path, number in contents.items()
    ]
    sketch = np.full(HASHES, EMPTY, np.uint16).tobytes()
    facts = [
        {"piece_id": sha256[:16], "sha256": sha256, "accepted": number != 2, "music": 7, "sketch": sketch}
        for number, sha256 in hashes.items()
    ]
    table = pieces_of(
        pa.Table.from_pylist(corpus, CORPUS.columns), pa.Table.from_pylist(facts, FACTS.columns), Ingest(), 16
    ).to_pydict()
    first = "1" + "0" * 15
    assert table["path"] == list(contents)
    assert table["copy_of"] == [None, None, "a.mid", None]
    assert table["cluster"] == [first, first, first, None]
    assert table["split"] == [split_of(first, Split())] * 3 + [None]
    assert table["shard"] == [3, 1, 3, 2]
