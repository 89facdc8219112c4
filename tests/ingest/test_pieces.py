"""The table of pieces: splits from hashes, and what stands for copies and duplicates."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

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


def splits_of(count: int, first: int, settings: Split) -> dict[str, str]:
    """The splits of so many files of different music, by cluster."""
    hashes = [hashlib.sha256(f"{first} {number}".encode()).hexdigest() for number in range(count)]
    corpus = [{"path": name, "sha256": name, "bytes": 9, "source": "", "origin": ""} for name in hashes]
    sketch = np.full(HASHES, EMPTY, np.uint16).tobytes()
    facts = [
        {"piece_id": name[:16], "sha256": name, "accepted": True, "music": index, "sketch": sketch}
        for index, name in enumerate(hashes)
    ]
    table = pieces_of(
        pa.Table.from_pylist(corpus, CORPUS.columns),
        pa.Table.from_pylist(facts, FACTS.columns),
        Ingest(split=settings),
        1,
    ).to_pydict()
    return dict(zip(table["cluster"], table["split"], strict=True))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 19, 20])
def test_no_split_of_a_few_pieces_is_empty(count: int) -> None:
    moved = 0
    for first in range(40):
        for settings in (Split(), Split(valid=0.4, test=0.5), Split(valid=0, test=0.3)):
            found = splits_of(count, first, settings)
            by_hash = {cluster: split_of(cluster, settings) for cluster in found}
            shares = {"test": settings.test, "valid": settings.valid, "train": 1 - settings.test - settings.valid}
            wanted = {name for name, share in shares.items() if share > 0}
            if count < 3 or count >= 20 or wanted <= set(by_hash.values()):
                assert found == by_hash
            else:
                assert set(found.values()) == wanted
                moved += 1
    assert (moved > 0) == (3 <= count < 20)


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
