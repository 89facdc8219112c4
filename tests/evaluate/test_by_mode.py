"""What is asked of each mode, through the whole stage: jobs whose music is known, and what the tables say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rolls import write_rolls

from evaluate.test_stage import LAYOUT, SETTINGS, STEPS, music, noise, piece, read_csv, write_job, write_model
from midivae.config.train import View
from midivae.evaluate import by_mode, ensembles
from midivae.evaluate import stage as evaluate
from midivae.measures import cadences, features, likeness
from midivae.measures.keys import key_names
from midivae.measures.notes import transposed
from midivae.music import roll, smf
from midivae.storage import schema, tables
from midivae.windows.corpus import Corpus, load_corpus

pytestmark = pytest.mark.numerical

BARS = 4  # of a piece
VIEW = View(steps=STEPS, hop="bar", min_fill=1.0)


def scale_song(rng: np.random.Generator, tonic: int, bars: int) -> np.ndarray:
    """Bars of quarters on a major scale in the soprano, its tonic held in the bass."""
    planes = np.zeros((16 * bars, 2, 2, 36), bool)
    for beat in range(4 * bars):
        row = 12 + tonic + int(rng.choice([0, 0, 2, 4, 5, 7, 7, 9, 11]))
        planes[4 * beat, 0, :, row] = True
        planes[4 * beat + 1 : 4 * beat + 4, 0, 1, row] = True
    planes[::16, 1, :, tonic] = True
    planes[:, 1, 1, tonic] = True
    return planes


def parents_of(corpus: Corpus, n: int) -> tuple[list[str], np.ndarray]:
    """The first windows of pieces, from their second bar line on, and their names."""
    starts = corpus.starts[:n] + 8
    rolls = roll.unpack(corpus.packed[starts[:, None] + np.arange(STEPS)], corpus.layout)
    return [f"piece:{piece_id}@2" for piece_id in corpus.piece_ids[:n]], rolls


def low_rolls(training: Corpus) -> np.ndarray:
    """Windows of four training pieces that can be moved up by a fourth."""
    rolls = parents_of(training, len(training))[1]
    fits = np.flatnonzero(~rolls[..., -5:].any(axis=(1, 2, 3, 4)))
    assert len(fits) >= 4
    return rolls[fits[:4]]


def spoilt(rng: np.random.Generator, planes: np.ndarray, share: float) -> np.ndarray:
    """A part of the steps of each roll taken from noise."""
    swap = rng.random(planes.shape[:2]) < share
    return np.where(swap[:, :, None, None, None], noise(rng, len(planes)), planes)


def blend(a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
    """A path on which one step after the other comes from B."""
    return np.stack(
        [np.concatenate([b[: STEPS * k // (steps - 1)], a[STEPS * k // (steps - 1) :]]) for k in range(steps)]
    )


def build(data: Path) -> None:
    rng = np.random.default_rng(1)
    write_rolls(data / "rolls", [piece(rng, BARS) for _ in range(40)], ["train", "valid", "train", "test"] * 10, LAYOUT)
    write_model(data / "model", "mlp")
    held_out, training = (load_corpus(data / "rolls", splits) for splits in (["valid", "test"], ["train"]))
    names, rolls = parents_of(held_out, 12)
    train_names, train_rolls = parents_of(training, 8)
    samples = data / "samples"

    def job(name: str, planes: np.ndarray, **columns: Any) -> None:
        write_job(samples, name, "mlp", planes, **{"mode": [name.split("-")[0]] * len(planes), **columns})

    write_job(samples, "sample", "mlp", music(rng, 40))
    # copies of training music, a fourth up
    job("sample-copies", transposed(np.concatenate([low_rolls(training)] * 3), LAYOUT, np.full(12, 5)))
    # half of the steps right, and the second half of the samples moved by two semitones
    rebuilt = spoilt(rng, np.concatenate([rolls, rolls]), 0.5)
    by = np.repeat([0, 2], 12)
    rebuilt = transposed(rebuilt, LAYOUT, by)
    job("reconstruct", rebuilt, parents=[[n] for n in names * 2], transpose=by.tolist())
    exact = np.concatenate([rolls, train_rolls])
    far = np.repeat([0, 20], [len(rolls), len(train_rolls)])  # over the edge, and back by octaves
    exact = transposed(exact, LAYOUT, far)
    job("reconstruct-exact", exact, parents=[[n] for n in [*names, *train_names]], transpose=far.tolist())
    radii = np.repeat([0.1, 0.5, 0.9], 12)
    varied = np.concatenate([spoilt(rng, rolls, share) for share in (0.1, 0.5, 0.9)])
    job("vary", varied, parents=[[n] for n in names * 3], radius=radii.tolist())
    # of samples and of a file that nobody knows
    of_samples = [[f"sample:reconstruct-exact-{i:07d}"] for i in range(6)] + [["file:mine.mid@1"]] * 6
    job("vary-samples", rolls, parents=of_samples, radius=[0.1] * 12)
    path = np.concatenate([blend(rolls[0], rolls[1], 5), blend(rolls[2], rolls[3], 5)[::-1]])
    weights = [[1 - k / 4, k / 4] for k in range(5)] * 2
    job("blend", path, parents=[names[:2]] * 5 + [names[2:4]] * 5, weights=weights, method=["slerp"] * 10)
    asked = rng.uniform(-0.3, 0.3, 40)
    measured = [{"density": a * 0.9, "register": 0.0, "balance:bass": 0.01} for a in asked]
    edits = [json.dumps({"asked": {"density": a}, "measured": m}) for a, m in zip(asked, measured, strict=True)]
    job("edit", music(rng, 40), edits=edits, parents=[[]] * 40)
    songs = [scale_song(rng, tonic, 24) for tonic in (0, 3)]
    wandering = [np.concatenate([scale_song(rng, (tonic + 2 * k) % 12, 4) for k in range(6)]) for tonic in (0, 3)]
    job("song", np.stack([*songs, *wandering]), method=["AABA", "AABA", None, None])
    # a lead of two bars; two bars of new music in the same key, and then two of noise
    leads = np.stack([scale_song(rng, tonic, 4) for tonic in range(6)])
    job("continue", leads, lead_steps=[32] * 6)
    job("continue-noise", np.concatenate([leads[:, :32], noise(rng, 6)], axis=1), lead_steps=[32] * 6)
    # a bar, a gap of two bars that is filled with music in the same key or with noise, and a bar
    around = [16] * 6
    job("infill", leads, lead_steps=around, tail_steps=around)
    filled = np.concatenate([leads[:, :16], noise(rng, 6), leads[:, 48:]], axis=1)
    job("infill-noise", filled, lead_steps=around, tail_steps=around)
    job("infill-end", filled, lead_steps=[0] * 6, tail_steps=around)
    joint = music(rng, 30)
    merged = joint.copy()
    merged[:, :, 1] = joint[rng.permutation(30), :, 1]
    job("ensemble", np.concatenate([joint, merged]), method=["joint"] * 30 + ["merged"] * 30)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after stage `evaluate`."""
    folder = tmp_path_factory.mktemp("data")
    build(folder)
    evaluate.run(SETTINGS, folder)
    return folder


def table(data: Path, name: str, job: str) -> list[dict[str, Any]]:
    """A job's rows, numbers as numbers."""

    def value(text: str) -> Any:
        try:
            return float(text) if text else None
        except ValueError:
            return text

    rows = read_csv(data / "evaluation" / f"{name}.csv")
    return [{k: value(v) for k, v in row.items()} for row in rows if next(iter(row.values())) == job]


@pytest.fixture(scope="module")
def metrics(data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data / "evaluation" / "metrics.json").read_text())
    return found


# --- parents ----------------------------------------------------------------------------------------------------------
def test_exact_copies_of_parents_from_both_splits(data: Path, metrics: dict[str, Any]) -> None:
    (row,) = table(data, "parents", "reconstruct-exact")
    assert (row["rows"], row["onset_f1"], row["frame_f1"], row["exact_steps"], row["distance"]) == (20, 1, 1, 1, 0)
    assert row["distance_to_others"] > 0.7
    assert metrics["reconstruct_exact_parent_frame_f1"] == 1


def test_reconstructions_are_compared_with_the_parent_where_it_was_moved_to(data: Path) -> None:
    (row,) = table(data, "parents", "reconstruct")
    assert row["rows"] == 24
    assert 0.2 < row["exact_steps"] < 0.6  # half of the steps were kept; where sound follows noise, it begins
    assert 0.3 < row["frame_f1"] < 0.95
    assert 0 < row["distance"] < row["distance_to_others"]


def test_variations_are_farther_the_larger_their_radius(data: Path, metrics: dict[str, Any]) -> None:
    rows = table(data, "parents", "vary")
    assert [row["radius"] for row in rows] == [0.1, 0.5, 0.9]
    assert [row["rows"] for row in rows] == [12, 12, 12]
    near = [row["distance"] for row in rows]
    assert near == sorted(near) and near[0] < 0.3 < near[2]
    assert all(row["distance"] < row["distance_to_others"] for row in rows)
    assert metrics["vary_parent_radius_spearman"] == 1


def test_parents_may_be_samples_and_files_are_left_out(data: Path) -> None:
    (row,) = table(data, "parents", "vary-samples")
    assert (row["rows"], row["distance"]) == (6, 0)


# --- blend, edit ------------------------------------------------------------------------------------------------------
def test_a_path_from_one_parent_to_the_other(data: Path, metrics: dict[str, Any]) -> None:
    rows = table(data, "paths", "blend")
    assert [row["rows"] for row in rows] == [5, 5]
    for row in rows:
        assert row["spearman"] == pytest.approx(1)
        assert row["monotone_share"] == 1
        assert 1 <= row["largest_step"] < 2
        assert row["nats_ends"] > 0 and row["nats_middle"] > 0
    assert metrics["blend_paths"] == 2
    assert metrics["blend_path_spearman"] == pytest.approx(1)


def test_edits_as_a_matrix(data: Path, metrics: dict[str, Any]) -> None:
    rows = {row["measured"]: row for row in table(data, "control", "edit")}
    assert set(rows) == {"density", "register", "balance:bass"}
    assert rows["density"]["spearman"] == pytest.approx(1)
    assert rows["density"]["slope"] == pytest.approx(0.9)
    assert rows["register"]["leakage"] == 0
    # the unit is the spread of held-out windows
    windows = tables.read(data / "evaluation" / "features_real.parquet", schema.WINDOWS).to_pandas()
    sd = windows["density"].std(ddof=0) / windows["density"].mean()
    edits = tables.read(data / "samples/catalog/edit-00000-of-00001.parquet", schema.CATALOG, ["edits"]).to_pydict()
    moved = np.mean([abs(json.loads(text)["measured"]["density"]) for text in edits["edits"]])
    assert rows["density"]["moved_sd"] == pytest.approx(moved / sd, rel=1e-4)
    assert metrics["edit_density_spearman"] == pytest.approx(1)
    assert metrics["edit_density_largest_leakage"] == pytest.approx(rows["balance:bass"]["leakage"], rel=1e-4)


# --- song, continue ---------------------------------------------------------------------------------------------------
def test_songs_that_stay_in_their_key_and_songs_that_wander(data: Path, metrics: dict[str, Any]) -> None:
    wandering, form = table(data, "longform", "song")
    assert (form["form"], form["pieces"], form["bars"]) == ("AABA", 2, 24)
    assert form["key_stability"] >= 0.8 > 0.5 > wandering["key_stability"]
    assert form["pitch_overlap"] > 0.8
    # real pieces of four bars have one window, and no two frames to compare
    assert form["real_pieces"] == 0 and form["pitch_consistency"] is None
    assert metrics["song_aaba_key_stability"] == pytest.approx(form["key_stability"], rel=1e-4)


def test_real_pieces_are_cut_to_the_length_of_the_songs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pieces = [scale_song(rng, i % 12, 12) for i in range(8)]
    write_rolls(tmp_path / "rolls", pieces, ["train", "valid", "train", "test"] * 2, LAYOUT)
    write_model(tmp_path / "model", "mlp")
    songs = np.stack([scale_song(rng, i, 8) for i in range(3)])
    endings = {"ends_on_triad": [1.0, 0.0, None], "ends_with_v_i": [0.0] * 3, "ends_on_tonic": [1.0, 1.0, 0.0]}
    write_job(tmp_path / "samples", "song", "mlp", songs, mode=["song"] * 3, **endings)
    evaluate.run(SETTINGS, tmp_path)
    (row,) = table(tmp_path, "longform", "song")
    assert (row["bars"], row["real_pieces"]) == (8, 4)
    assert row["real_key_stability"] >= 0.8
    assert row["pitch_consistency"] > 0.8
    # endings of songs are those of the catalog, beside those of whole pieces, whose bass holds their tonic
    assert (row["ends_on_triad"], row["ends_with_v_i"]) == (0.5, 0)
    assert row["ends_on_tonic"] == pytest.approx(2 / 3, rel=1e-4)
    ends = [cadences.endings(pieces[i][None], LAYOUT) for i in (1, 3, 5, 7)]
    for name in schema.ENDINGS:
        assert row[f"real_{name}"] == pytest.approx(np.mean([end[name][0] for end in ends]), rel=1e-4)
    assert row["real_ends_with_v_i"] == 0 < row["real_ends_on_tonic"]
    # longer samples are cut into windows for the distances: 3 songs of 128 steps are 12 of 32
    found = {each["set"]: each for each in read_csv(tmp_path / "evaluation" / "models.csv")}
    assert found["song"]["windows"] == "12"
    neighbours = tables.read(tmp_path / "evaluation" / "neighbours.parquet", schema.NEIGHBOURS).to_pandas()
    mine = neighbours[neighbours["set"] == "song"]
    assert mine["start_step"].tolist() == [0, 32, 64, 96] * 3
    assert mine["id"].tolist() == [f"song-{i:07d}" for i in range(3) for _ in range(4)]


def test_continuations_are_measured_where_they_are_new(data: Path) -> None:
    catalog = tables.read(data / "samples/catalog/continue-noise-00000-of-00001.parquet", schema.CATALOG, ["density"])
    found = {each["set"]: each for each in read_csv(data / "evaluation" / "models.csv")}
    whole = np.mean(catalog.column("density").to_pylist())
    assert float(found["continue-noise"]["density"]) > 1.3 * whole  # the lead is less dense than the noise
    neighbours = tables.read(data / "evaluation" / "neighbours.parquet", schema.NEIGHBOURS).to_pandas()
    assert neighbours[neighbours["set"] == "continue"]["start_step"].tolist() == [32] * 6


def test_seams_beside_the_bar_lines_of_real_music(data: Path, metrics: dict[str, Any]) -> None:
    good = {row["measure"]: row for row in table(data, "seams", "continue")}
    bad = {row["measure"]: row for row in table(data, "seams", "continue-noise")}
    assert list(good) == ["density", "fifths", "same_key"]
    assert all(row["bars"] == 2 and row["rows"] == 6 for row in good.values())
    # 20 pieces of 64 steps: two bars on both sides fit from the first line on
    assert good["density"]["real_rows"] == 20
    assert (
        good["density"]["mean"] < good["density"]["real_mean"] + 2 * good["density"]["real_sd"] < bad["density"]["mean"]
    )
    assert good["fifths"]["mean"] < bad["fifths"]["mean"]
    assert good["same_key"]["mean"] > bad["same_key"]["mean"]
    assert metrics["continue_seam_density_real"] == pytest.approx(good["density"]["real_mean"], rel=1e-4)


def test_a_filled_gap_has_two_seams(data: Path, metrics: dict[str, Any]) -> None:
    good, bad, end = (
        {row["measure"]: row for row in table(data, "seams", f"infill{name}")} for name in ("", "-noise", "-end")
    )
    assert list(good) == ["density", "fifths", "same_key", "same_key_both"]
    assert [row["rows"] for row in good.values()] == [12, 12, 12, 6]  # two seams of each sample
    assert all(row["bars"] == 1 for row in good.values())
    # pieces of 64 steps, bar lines every 8: a bar on both sides fits at five lines, both seams and a gap of 32 once
    assert (good["same_key"]["real_rows"], good["same_key_both"]["real_rows"]) == (100, 20)
    assert good["same_key_both"]["mean"] <= good["same_key"]["mean"]
    assert good["same_key_both"]["mean"] > bad["same_key_both"]["mean"]
    assert good["density"]["mean"] < bad["density"]["mean"]
    assert metrics["infill_seam_same_key_both_real"] == pytest.approx(good["same_key_both"]["real_mean"], rel=1e-4)
    # noise before the last bar alone: a seam each
    assert list(end) == ["density", "fifths", "same_key"]
    assert [row["rows"] for row in end.values()] == [6, 6, 6]


def test_both_seams_by_hand(data: Path) -> None:
    def key(planes: np.ndarray) -> str | None:
        return key_names(planes[None], LAYOUT)[0]

    def share(rolls: list[np.ndarray]) -> float:
        return float(np.mean([key(p[:16]) == key(p[16:32]) and key(p[32:48]) == key(p[48:]) for p in rolls]))

    path = data / "samples" / "catalog" / "infill-00000-of-00001.parquet"
    files = [row["bytes"] for row in tables.read(path, schema.CATALOG, ["midi"]).column("midi").to_pylist()]
    samples = [roll.from_notes(smf.read(file).notes, smf.read(file).notes.track, LAYOUT, 64).planes for file in files]
    corpus = load_corpus(data / "rolls", ["valid", "test"])
    pieces = [roll.unpack(corpus.packed[a : a + 64], LAYOUT) for a in corpus.starts[:-1]]
    (row,) = (row for row in table(data, "seams", "infill") if row["measure"] == "same_key_both")
    assert (row["mean"], row["real_mean"]) == pytest.approx((share(samples), share(pieces)), rel=1e-4)


# --- ensemble ---------------------------------------------------------------------------------------------------------
def test_parts_that_were_made_together_are_nearer(data: Path, metrics: dict[str, Any]) -> None:
    (real,), (apart,) = (table(data, "ensemble", name) for name in ("held-out", ensembles.MERGED))
    joint, merged = table(data, "ensemble", "ensemble")
    assert (joint["method"], merged["method"], joint["rows"]) == ("joint", "merged", 30)
    assert real["tonal_distance"] < apart["tonal_distance"]
    assert joint["tonal_distance"] < merged["tonal_distance"]
    assert joint["tonal_distance"] == pytest.approx(real["tonal_distance"], rel=0.15)
    assert metrics["ensemble_joint_tonal_distance"] == pytest.approx(joint["tonal_distance"], rel=1e-4)
    assert metrics["held_out_merged_tonal_distance"] == pytest.approx(apart["tonal_distance"], rel=1e-4)


# --- sets -------------------------------------------------------------------------------------------------------------
def test_copies_of_training_music_are_found(data: Path, metrics: dict[str, Any]) -> None:
    assert metrics["sample_copies_copied_share"] == 1
    assert metrics["sample_copies_neighbour_distance"] == 0
    assert metrics["sample_copies_novelty_2_bars"] == 0  # of one bar the catalog says what it is
    assert metrics["held_out_novelty_2_bars"] > 0.5
    assert metrics["sample_copies_novelty_4_bars"] is None  # windows of two bars have no phrase of four
    assert metrics["sample_copied_share"] < 0.2
    assert metrics["sample_copies_distinct_bars"] <= 1 / 3 + 0.01  # each thrice
    neighbours = tables.read(data / "evaluation" / "neighbours.parquet", schema.NEIGHBOURS).to_pandas()
    first = neighbours[neighbours["set"] == "sample-copies"].iloc[0]
    training = load_corpus(data / "rolls", ["train"])
    where = training.starts[training.piece_ids.index(first["piece_id"])] + first["piece_start_step"]
    found = roll.unpack(training.packed[where : where + STEPS], LAYOUT)[None]
    wanted = transposed(low_rolls(training)[:1], LAYOUT, np.array([5]))
    moved = transposed(found, LAYOUT, np.array([first["semitones"]]))
    assert likeness.nearest(likeness.beat_chroma(moved, LAYOUT), likeness.beat_chroma(wanted, LAYOUT))[2][0] == 0
    assert set(neighbours["set"]) >= {"held-out", "bernoulli", "markov", "song"}


def test_trivial_generators_are_farther_than_music(metrics: dict[str, Any]) -> None:
    assert metrics["sample_beats_trivial"] is True
    for name in ("bernoulli", "markov"):
        assert metrics[f"{name}_frechet"] > 3 * metrics["sample_frechet"]
        assert metrics[f"{name}_chord_nats"] > metrics["held_out_chord_nats"]
        assert metrics[f"sample_frechet_{name}"] > metrics["sample_frechet"]
    assert metrics["bernoulli_note_length"] < 0.5 * metrics["held_out_note_length"]
    assert metrics["markov_note_length"] == pytest.approx(metrics["held_out_note_length"], rel=0.25)


def test_tables_of_modes_that_have_no_job_have_a_header(data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_rolls(tmp_path / "rolls", [piece(rng, 4) for _ in range(8)], ["train", "valid", "train", "test"] * 2, LAYOUT)
    write_model(tmp_path / "model", "mlp")
    write_job(tmp_path / "samples", "sample", "mlp", music(rng, 8))
    evaluate.run(SETTINGS, tmp_path)
    for name, columns in by_mode.COLUMNS.items():
        lines = (tmp_path / "evaluation" / name).read_text().splitlines()
        assert lines[0] == ",".join(columns)
        assert len(lines) == (3 if name == "ensemble.csv" else 1)  # real music, and its parts merged


def test_attributes_of_edits_are_those_of_features() -> None:
    rng = np.random.default_rng(0)
    names = set(features.attributes(music(rng, 2), LAYOUT))
    assert {"balance:soprano", "balance:bass"} <= names
