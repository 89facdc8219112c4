"""The table of pieces: for every file found, what its bytes say, its cluster of duplicates and its split.

Offers: `pieces_of`, and `split_of` (the split of a cluster).
"""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from midivae.config.ingest import Ingest, Split
from midivae.errors import InputError
from midivae.ingest import duplicates
from midivae.ingest.shards import shard_of
from midivae.ingest.sketches import HASHES
from midivae.storage.schema import PIECES

SPLITS = ("train", "valid", "test")
SMALL = 20  # clusters: with fewer of them the hash may leave a split empty


def pieces_of(corpus: pa.Table, facts: pa.Table, ingest: Ingest, n_shards: int) -> pa.Table:
    """One row per file found (schema.PIECES), in the order of the corpus.

    Args:
        corpus: schema.CORPUS.
        facts: schema.FACTS, one row for each distinct content of the corpus.

    Raises:
        InputError: `ingest.split.own` is set, and the corpus brings no split.
    """
    row = pc.index_in(corpus["sha256"], value_set=facts["sha256"].combine_chunks()).to_numpy()  # of facts
    _, first = np.unique(row, return_index=True)  # file that stands for each row of facts
    stands_for = first[row]
    stands = _clusters(facts, ingest.duplicates.likeness)[row]
    cluster = facts["piece_id"].take(pa.array(stands, mask=stands < 0))
    columns = {
        **{name: facts[name].take(pa.array(row)) for name in PIECES.columns.names if name in facts.column_names},
        "path": corpus["path"],
        "bytes": corpus["bytes"],
        "copy_of": corpus["path"].take(pa.array(stands_for, mask=stands_for == np.arange(len(row)))),
        "cluster": cluster,
        "split": _splits(cluster.to_pylist(), corpus["split"].to_pylist(), ingest.split),
        "shard": pa.array([shard_of(sha256, n_shards) for sha256 in corpus["sha256"].to_pylist()], pa.int32()),
    }
    return pa.table({name: columns[name] for name in PIECES.columns.names})


def _clusters(facts: pa.Table, likeness: float | None) -> Int64[np.ndarray, " Q"]:
    """For each row of facts the first row of all duplicates of its music; -1 where it was rejected."""
    rows = np.flatnonzero(facts["accepted"].to_numpy())
    used = facts.select(["music", "sketch"]).take(pa.array(rows))
    signatures = np.frombuffer(b"".join(used["sketch"].to_pylist()), np.uint16).reshape(-1, HASHES)
    stands = np.full(facts.num_rows, -1)
    stands[rows] = rows[duplicates.clusters(used["music"].to_numpy(), signatures, likeness)]
    return stands


def _splits(clusters: list[str | None], own: list[str | None], split: Split) -> pa.Array:
    """The split of each file; None where it has no cluster.

    With `split.own` a cluster has the split that the corpus says of its files. Where these differ, test counts before
    valid and valid before train: what a corpus holds out is held out with all that is like it, and nothing like it is
    trained on. Without it, of three or more clusters no split is empty whose share is above 0.
    """
    names = {name for name in clusters if name is not None}
    of_cluster = {name: split_of(name, split) for name in names}
    if 3 <= len(names) < SMALL and not split.own:
        of_cluster = _of_few(names, split)
    if split.own:
        if not any(own):
            raise InputError(
                "ingest.split.own is set, and no file of data/corpus/corpus.parquet has a split of its own; set it to "
                "false, or fetch a corpus that brings its split (`midivae fetch --list`)"
            )
        pairs = set(zip(clusters, own, strict=True))
        for wanted in SPLITS:  # later ones overrule
            of_cluster |= {name: wanted for name, said in pairs if said == wanted and name is not None}
    return pa.array([None if name is None else of_cluster[name] for name in clusters], pa.string())


def _of_few(clusters: set[str], split: Split) -> dict[str, str]:
    """The splits of a few clusters: those of `split_of`, but none is empty whose share is above 0.

    The clusters lie in the order of their hashes, first those of test, then those of valid. An empty split takes the
    next cluster at its border.
    """
    order = sorted(clusters, key=lambda name: _place(name, split))
    counts = Counter(split_of(name, split) for name in order)
    n_test = max(counts["test"], int(split.test > 0))
    n_valid = max(counts["valid"], int(split.valid > 0))
    while n_test + n_valid >= len(order):  # one is left to train on
        n_test, n_valid = (n_test - 1, n_valid) if n_test > n_valid else (n_test, n_valid - 1)
    names = ["test"] * n_test + ["valid"] * n_valid + ["train"] * (len(order) - n_test - n_valid)
    return dict(zip(order, names, strict=True))


def split_of(cluster: str, split: Split) -> str:
    """The split of a cluster: from a hash of its name, so that it does not depend on any other piece."""
    place = _place(cluster, split)
    return "test" if place < split.test else "valid" if place < split.test + split.valid else "train"


def _place(cluster: str, split: Split) -> float:
    """A number from 0 to 1 that the hash of a cluster's name gives."""
    digest = hashlib.sha256(f"{split.seed} {cluster}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
