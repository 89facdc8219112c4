"""The gate: the hold-out stays what it was, scores are those of training, and each rule keeps something out."""

from __future__ import annotations

import shutil
from pathlib import Path

import four_part
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from floats import RTOL
from hypothesis import given
from hypothesis import strategies as st

from midivae import models
from midivae.champion import gate
from midivae.champion.gate import Samples, Score
from midivae.config.champion import Gate
from midivae.config.params import Params, parse
from midivae.errors import InputError, SchemaError
from midivae.fetch import stage as fetch
from midivae.ingest import stage as ingest
from midivae.storage import folders, tables
from midivae.storage.files import file_sha256, read_json, write_json
from midivae.storage.schema import PIECES
from midivae.train import stage as train
from midivae.windows.corpus import load_corpus

pytestmark = pytest.mark.numerical

TINY = {
    "compute": {"workers": 1},
    "fetch": {"source": "folder"},
    "ingest": {"split": {"test": 0.3}},
    "train": {
        "model": "mlp",
        "compare": ["autoencoder"],
        "precision": "32",
        "dense": {"hidden": [16], "latent": 4, "epochs": 1, "batch_size": 16},
        "view": {"steps": 32},
    },
    "generate": {"jobs": [{"name": "sample", "count": 2}, {"name": "plain", "count": 2, "model": "autoencoder"}]},
}


def tiny(folder: Path, **changed: object) -> Params:
    return parse({**TINY, "fetch": {"source": "folder", "path": str(folder)}, **changed}, "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    four_part.write_corpus(folder / "tunes", 24)
    patch = pytest.MonkeyPatch()
    patch.setenv("MIDIVAE_HOME", str(folder / "work"))
    params = tiny(folder / "tunes")
    for stage in (fetch, ingest, train):
        stage.run(params, folder / "data")
    patch.undo()
    prefix = {"valid_midi_share": 1.0, "silent_share": 0.0, "density": 3.0, "novelty": 1.0}
    metrics = {f"sample_{name}": value for name, value in prefix.items()} | {"held_out_density": 4.0}
    write_json(folder / "data" / "evaluation" / "metrics.json", metrics)
    return folder / "data"


@pytest.fixture
def holdout(data: Path, tmp_path: Path) -> Path:
    gate.freeze(data / "rolls", tmp_path / "holdout")
    return tmp_path / "holdout"


# --- the hold-out -----------------------------------------------------------------------------------------------------
def test_the_hold_out_is_the_test_split(data: Path, holdout: Path) -> None:
    there, kept = load_corpus(data / "rolls", ["test"]), load_corpus(holdout, ["test"])
    assert there.piece_ids == kept.piece_ids and len(kept) > 2
    assert (there.packed == kept.packed).all()
    assert there.layout == kept.layout
    assert folders.verify(holdout) == []


def test_a_hold_out_is_frozen_once(data: Path, holdout: Path) -> None:
    with pytest.raises(InputError, match="a hold-out is frozen there"):
        gate.freeze(data / "rolls", holdout)


def test_no_hold_out_without_a_test_split(data: Path, tmp_path: Path) -> None:
    rolls = shutil.copytree(data / "rolls", tmp_path / "rolls")
    pieces = tables.read(rolls / "pieces.parquet", PIECES)
    tables.write(rolls / "pieces.parquet", _with_split(pieces, "train"), PIECES)
    with pytest.raises(InputError, match="no piece in split 'test'"):
        gate.freeze(rolls, tmp_path / "holdout")


def _with_split(pieces: pa.Table, split: str) -> pa.Table:
    column = pc.if_else(pieces.column("accepted"), split, pa.scalar(None, pa.string()))
    return pieces.set_column(pieces.schema.get_field_index("split"), "split", column)


def test_pieces_that_came_into_training_are_left_out_for_both(data: Path, holdout: Path, tmp_path: Path) -> None:
    moved = tmp_path / "data"
    shutil.copytree(data, moved)
    pieces = tables.read(moved / "rolls" / "pieces.parquet", PIECES)
    first = load_corpus(holdout, ["test"]).piece_ids[0]
    splits = [
        "train" if i == first else s
        for i, s in zip(
            *map(pa.ChunkedArray.to_pylist, (pieces.column("piece_id"), pieces.column("split"))), strict=True
        )
    ]
    pieces = pieces.set_column(pieces.schema.get_field_index("split"), "split", pa.array(splits, pa.string()))
    tables.write(moved / "rolls" / "pieces.parquet", pieces, PIECES)
    params = tiny(tmp_path)
    whole = gate.run(params, data, data / "model", holdout, Gate())
    less = gate.run(params, moved, data / "model", holdout, Gate())
    assert (whole["holdout"]["left_out"], less["holdout"]["left_out"]) == (0, 1)
    assert less["challenger"]["windows"] == less["champion"]["windows"] < whole["champion"]["windows"]


# --- scores -----------------------------------------------------------------------------------------------------------
def test_a_score_is_what_training_reports_of_its_own_test_split(data: Path, holdout: Path) -> None:
    corpus = load_corpus(holdout, ["test"])
    found = gate.score(data / "model", corpus, [], Gate())
    reported = read_json(data / "model" / "metrics.json")["heldout"]
    assert found.windows == reported["windows"]
    assert found.nats_per_step == pytest.approx(-reported["elbo_nats_per_step"], rel=RTOL)
    assert found.kl_nats_per_step == pytest.approx(reported["kl_nats_per_step"], rel=RTOL)
    assert found.active_share == reported["active_units"] / reported["latent"]


def test_windows_are_spread_evenly_where_they_are_too_many(data: Path, holdout: Path) -> None:
    corpus = load_corpus(holdout, ["test"])
    assert gate.score(data / "model", corpus, [], Gate(max_windows=7)).windows == 7


def test_a_model_without_a_bound_is_refused(data: Path, holdout: Path) -> None:
    corpus = load_corpus(holdout, ["test"])
    with pytest.raises(InputError, match="has no bound to be compared by"):
        gate.score(data / "model" / "compare" / "autoencoder", corpus, [], Gate())


def test_a_model_of_another_layout_is_refused(data: Path, tmp_path: Path) -> None:
    four_part.write_corpus(tmp_path / "tunes", 24)
    params = tiny(tmp_path / "tunes", ingest={"pitches": 40, "split": {"test": 0.3}})
    patch = pytest.MonkeyPatch()
    patch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))
    for stage in (fetch, ingest):
        stage.run(params, tmp_path / "data")
    patch.undo()
    corpus = load_corpus(tmp_path / "data" / "rolls", ["test"])
    with pytest.raises(InputError, match="the hold-out was frozen with"):
        gate.score(data / "model", corpus, [], Gate())


def test_models_of_other_windows_are_not_compared(data: Path, holdout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    model = models.load(data / "model")
    view = model.config.view.model_copy(update={"hop": 8})
    object.__setattr__(model.config, "view", view)
    model.save_pretrained(other)
    with pytest.raises(InputError, match="windows of different shape"):
        gate.run(tiny(tmp_path), data, other, holdout, Gate())


def test_the_spread_is_the_standard_deviation(data: Path, holdout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    model = models.load(data / "model")
    for weight in model.parameters():
        weight.mul_(0.9)
    model.save_pretrained(other)
    corpus = load_corpus(holdout, ["test"])
    one, two = (gate.score(folder, corpus, [], Gate()).nats_per_step for folder in (data / "model", other))
    found = gate.spread([data / "model", other], holdout, Gate())
    assert found["seed_sd_nats"] == pytest.approx(abs(one - two) / 2**0.5, abs=1e-6)  # of two values
    with pytest.raises(InputError, match="at least two"):
        gate.spread([data / "model"], holdout, Gate())


# --- the decision -----------------------------------------------------------------------------------------------------
RULES = Gate(seed_sd_nats=0.1, margin_sds=2.0)
FINE = Samples(invalid_share=0.0, silent_share=0.0, density_ratio=1.0, novelty=0.9)


def scored(nats: float, sha256: str = "a", kl: float = 1.0, active: float = 1.0) -> Score:
    return Score("mlp", sha256, nats, kl, active, 10)


def test_better_by_more_than_the_margin_is_promoted() -> None:
    # the margin is 2 x 0.1 nats
    assert gate.decide(scored(9.7), scored(10.0, "b"), FINE, RULES).promote
    assert not gate.decide(scored(9.85), scored(10.0, "b"), FINE, RULES).promote
    assert not gate.decide(scored(10.3), scored(10.0, "b"), FINE, RULES).promote


@given(st.floats(0, 20), st.floats(0, 20))
def test_no_two_models_would_each_replace_the_other(one: float, other: float) -> None:
    a, b = scored(one), scored(other, "b")
    assert not (gate.decide(a, b, FINE, RULES).promote and gate.decide(b, a, FINE, RULES).promote)


def test_the_first_is_promoted_by_the_guards_alone() -> None:
    verdict = gate.decide(scored(99.0), None, FINE, RULES)
    assert verdict.promote and verdict.gain_nats is None
    assert "no champion" in verdict.why


def test_the_champion_does_not_replace_itself() -> None:
    verdict = gate.decide(scored(5.0), scored(10.0, "a"), FINE, RULES)
    assert not verdict.promote
    assert "the same weights" in verdict.why


@pytest.mark.parametrize(
    ("named", "challenger", "samples"),
    [
        ("active_share", scored(1.0, active=0.05), FINE),
        ("kl_nats_per_step", scored(1.0, kl=0.01), FINE),
        ("invalid_share", scored(1.0), Samples(0.1, 0.0, 1.0, 0.9)),
        ("silent_share", scored(1.0), Samples(0.0, 0.5, 1.0, 0.9)),
        ("density_ratio", scored(1.0), Samples(0.0, 0.0, 0.1, 0.9)),
        ("density_ratio", scored(1.0), Samples(0.0, 0.0, 9.0, 0.9)),
        ("density_ratio", scored(1.0), Samples(0.0, 0.0, None, 0.9)),
        ("novelty", scored(1.0), Samples(0.0, 0.0, 1.0, 0.1)),
        ("novelty", scored(1.0), Samples(0.0, 0.0, 1.0, None)),
    ],
)
def test_each_guard_keeps_a_better_score_out(named: str, challenger: Score, samples: Samples) -> None:
    verdict = gate.decide(challenger, scored(10.0, "b"), samples, RULES)
    assert not verdict.promote
    assert verdict.why.startswith(f"kept: {named} is ")
    assert [check.name for check in verdict.checks if not check.passed] == (
        [named, named] if None in (samples.density_ratio,) else [named]
    )


# --- the command ------------------------------------------------------------------------------------------------------
def test_the_record_has_scores_samples_and_rules(data: Path, holdout: Path, tmp_path: Path) -> None:
    found = gate.run(tiny(tmp_path), data, None, holdout, Gate(min_kl_nats=0, min_active_share=0))
    assert found["promote"] and found["champion"] is None
    assert found["challenger"]["density_ratio"] == 0.75  # 3 notes a beat, where held-out music has 4
    assert found["challenger"]["model_sha256"] == file_sha256(data / "model" / "model.safetensors")
    assert found["holdout"]["sha256"] == file_sha256(holdout / "manifest.json")
    assert found["rules"]["seed_sd_nats"] == Gate().seed_sd_nats


def test_a_job_that_was_not_measured_is_named(data: Path, holdout: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no job 'none' among"):
        gate.run(tiny(tmp_path), data, None, holdout, Gate(job="none"))
    with pytest.raises(InputError, match="no 'plain_density'"):
        gate.run(tiny(tmp_path), data, None, holdout, Gate(job="plain"))


def test_damaged_or_foreign_rolls_are_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises((InputError, SchemaError)):
        gate.run(tiny(tmp_path), data, None, tmp_path / "nothing", Gate())
