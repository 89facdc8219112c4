"""Stage `evaluate` on a small corpus made here: music against itself, noise and silence, each beside the floor."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from rolls import write_rolls

from midivae import models
from midivae.config import params
from midivae.config.train import Dense, View
from midivae.errors import InputError
from midivae.evaluate import held_out_distances, measured_set, windows
from midivae.evaluate import stage as evaluate
from midivae.measures import features, harmony
from midivae.measures.hashes import bar_hashes, novelty
from midivae.measures.keys import key_names
from midivae.music import roll, smf
from midivae.music.roll import Layout, Roll
from midivae.storage import folders, schema, tables
from midivae.storage.files import read_json, write_json
from midivae.storage.schema import FEATURES, HARMONY
from midivae.windows.corpus import load_corpus

pytestmark = pytest.mark.numerical

LAYOUT = Layout(("soprano", "bass"), 48, 36, 4)
STEPS = 32
LATENT = 3
VIEW = View(steps=STEPS, hop="bar", min_fill=1.0)
SETTINGS = params.Params.model_validate({"evaluate": {"repeats": 6, "bootstrap": 20}})
Planes = np.ndarray


# --- a small corpus ---------------------------------------------------------------------------------------------------
def piece(rng: np.random.Generator, bars: int) -> Planes:
    """One piece: a walk on a major scale in quarters and eighths, over a bass in halves; [T, N, K, P]."""
    planes = np.zeros((16 * bars, 2, 2, 36), bool)
    tonic, degree, step = int(rng.integers(12)), 7, 0
    scale = np.array([tonic + 12 * octave + tone for octave in range(2) for tone in (0, 2, 4, 5, 7, 9, 11)])
    while step < len(planes):
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, 13))
        length = int(rng.choice([2, 4, 4]))
        row = scale[degree] + (rng.random() < 0.05)  # now and then out of the scale
        planes[step, 0, 0, row] = True
        planes[step : step + length, 0, 1, row] = True
        if step % 8 == 0:
            planes[step, 1, 0, scale[degree % 5]] = True
            planes[step : step + 8, 1, 1, scale[degree % 5]] = True
        step += length
    return planes


def write_model(folder: Path, name: str) -> None:
    """An untrained model."""
    dense = Dense(hidden=(8,), latent=LATENT)
    config = models.Config(name, LAYOUT, VIEW, dense, 16, 120.0, (0, 0), "0" * 64)
    models.create(config, torch.Generator().manual_seed(0)).save_pretrained(folder)


def write_job(
    samples: Path, job: str, model: str, planes: Planes, temperature: float | None = None, **columns_of: list
) -> None:
    """The catalog's file of one job, from its samples' planes; columns that are not as in mode `sample` by name."""
    n = len(planes)
    measures = features.measure(planes, LAYOUT, 4) | harmony.measure(planes, LAYOUT, 4)
    share = novelty(bar_hashes(planes, LAYOUT, 16), np.zeros(0, np.uint64))
    columns = {
        "sample_id": [f"{job}-{i:07d}" for i in range(n)],
        "job": [job] * n,
        "mode": ["sample"] * n,
        "index": list(range(n)),
        "seed": [0] * n,
        "model": [model] * n,
        "model_sha256": [""] * n,
        "params_sha256": [""] * n,
        "temperature": [temperature] * n,
        "prior": ["normal"] * n,
        "method": [None] * n,
        "z": [[0.0] * LATENT] * n,
        "parents": [[]] * n,
        "weights": [[]] * n,
        "radius": [None] * n,
        "fidelity": [None] * n,
        "edits": [None] * n,
        "transpose": [0] * n,
        "lead_steps": [0] * n,
        "tail_steps": [0] * n,
        "tempo_qpm": [120.0] * n,
        "parts": [list(LAYOUT.parts)] * n,
        "programs": [[0, 0]] * n,
        "n_steps": [planes.shape[1]] * n,
        "steps_per_beat": [4] * n,
        "duration_s": [4.0] * n,
        **{name: [None if np.isnan(v) else float(v) for v in values] for name, values in measures.items()},
        **dict.fromkeys(schema.ENDINGS, [None] * n),
        "key": key_names(planes, LAYOUT),
        "novelty": [None if np.isnan(v) else float(v) for v in share],
        "midi": [{"bytes": smf.write(roll.to_notes(Roll(p, LAYOUT))), "path": None} for p in planes],
        **columns_of,
    }
    table = schema.CATALOG
    rows = pa.table({name: pa.array(v, table.columns.field(name).type) for name, v in columns.items()})
    tables.write(samples / "catalog" / f"{job}-00000-of-00001.parquet", rows, table)


def music(rng: np.random.Generator, n: int) -> Planes:
    """The first windows of n new pieces of the same kind."""
    return np.stack([piece(rng, STEPS // 16)[:STEPS] for _ in range(n)])


def noise(rng: np.random.Generator, n: int) -> Planes:
    """Cells set at random, most of the bars full of notes."""
    onset = rng.random((n, STEPS, 2, 1, 36)) < 0.03
    return np.repeat(onset, 2, axis=3)


def build(data: Path) -> None:
    """A data folder: 40 pieces, half of them held out; jobs of music, of noise and of noise with silence."""
    rng = np.random.default_rng(0)
    write_rolls(data / "rolls", [piece(rng, 4) for _ in range(40)], ["train", "valid", "train", "test"] * 10, LAYOUT)
    write_model(data / "model", "mlp")
    write_model(data / "model" / "compare" / "autoencoder", "autoencoder")
    write_job(data / "samples", "sample", "mlp", music(rng, 80))
    write_job(data / "samples", "plain", "autoencoder", noise(rng, 50))
    half_silent = noise(rng, 20)
    half_silent[::2] = False
    write_job(data / "samples", "half-silent", "mlp", half_silent, temperature=0.5)
    write_job(data / "samples", "silent", "mlp", np.zeros((5, STEPS, 2, 2, 36), bool), temperature=2.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after stage `evaluate`."""
    folder = tmp_path_factory.mktemp("data")
    build(folder)
    evaluate.run(SETTINGS, folder)
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def distance(data: Path, job: str, feature: str, name: str) -> dict[str, float]:
    """One row of distances.csv, its numbers."""
    rows = read_csv(data / "evaluation" / "distances.csv")
    (row,) = (r for r in rows if (r["job"], r["feature"], r["distance"]) == (job, feature, name))
    return {k: float(v) if v else np.nan for k, v in row.items() if k not in ("job", "feature", "distance")}


# --- the stage --------------------------------------------------------------------------------------------------------
def test_music_of_the_same_kind_is_at_its_floor_and_noise_is_not(data: Path) -> None:
    music, noise = (distance(data, job, "all", "frechet") for job in ("sample", "plain"))
    assert abs(music["mean"] - music["real_mean"]) < 4 * music["real_sd"]
    assert noise["mean"] > 20 * noise["real_mean"]
    for feature in ("density", "note_length", "scale_consistency"):
        near, far = (distance(data, job, feature, "overlapping_area") for job in ("sample", "plain"))
        assert near["mean"] >= near["real_mean"] - 4 * near["real_sd"]
        assert far["mean"] < 0.5 < far["real_mean"]
        assert distance(data, "plain", feature, "wasserstein_sd")["mean"] > 1
        assert distance(data, "plain", feature, "kld_nats")["mean"] > 1


def test_the_floor_is_of_as_many_rows(data: Path) -> None:
    # 20 held-out pieces of 64 steps, bars every 8: five windows of 32 lie inside, so a half has 50 windows.
    # Half of the 80, 50 and 10 samples that can be measured is less.
    assert distance(data, "sample", "all", "frechet")["n"] == 40
    assert distance(data, "plain", "all", "frechet")["n"] == 25
    assert distance(data, "half-silent", "all", "frechet")["n"] == 5
    # fewer rows, more distance between real and real
    floors = [distance(data, job, "all", "frechet")["real_mean"] for job in ("plain", "half-silent")]
    assert floors[1] > floors[0]


def test_silent_samples_are_counted_and_left_out(data: Path) -> None:
    metrics = json.loads((data / "evaluation" / "metrics.json").read_text())
    assert metrics["half_silent_silent_share"] == 0.5
    assert metrics["half_silent_notes"] == pytest.approx(0.5 * metrics["plain_notes"], rel=0.1)  # silence has 0 notes
    assert metrics["half_silent_polyphony"] == pytest.approx(metrics["plain_polyphony"], rel=0.1)
    assert metrics["silent_silent_share"] == 1
    assert metrics["silent_frechet"] is None
    rows = {(r["set"], r["feature"]): r for r in read_csv(data / "evaluation" / "features.csv")}
    assert (rows["half-silent", "polyphony"]["values"], rows["half-silent", "polyphony"]["missing"]) == ("10", "10")
    assert (rows["half-silent", "notes"]["values"], rows["half-silent", "notes"]["missing"]) == ("20", "0")


def test_metrics_are_flat_finite_and_named_after_the_job(data: Path) -> None:
    text = (data / "evaluation" / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert all(isinstance(v, int | float | str | None) for v in metrics.values())
    assert metrics["held_out_pieces"] == 20
    assert metrics["held_out_windows"] == 100
    assert metrics["sample_count"] == 80
    assert metrics["sample_valid_midi_share"] == 1
    wanted = metrics["sample_frechet"] / metrics["sample_frechet_real_to_real"]
    assert metrics["sample_frechet_times_real_to_real"] == pytest.approx(wanted, rel=1e-4)


def test_the_article_is_judged(data: Path) -> None:
    # "sample", of the model with a KL term, is music here, and "plain" noise, at the same temperature
    metrics = json.loads((data / "evaluation" / "metrics.json").read_text())
    assert metrics["vae_nearer_than_autoencoder_share"] == 1
    assert metrics["article_is_right"] is True
    assert metrics["article_verdict"].startswith("The article is right: ")
    table = {row["set"]: row for row in read_csv(data / "evaluation" / "models.csv")}
    assert list(table) == ["held-out", "bernoulli", "markov", "half-silent", "plain", "sample", "silent"]
    assert float(table["sample"]["frechet"]) < float(table["plain"]["frechet"])
    assert table["held-out"]["frechet"] == ""
    # an untrained model puts everything near one point: far from a standard normal
    assert float(table["plain"]["latent_gap_nats"]) > 1


def test_held_out_windows_are_measured_as_they_are_cut(data: Path) -> None:
    rows = tables.read(data / "evaluation" / "features_real.parquet", schema.WINDOWS).to_pandas()
    corpus = load_corpus(data / "rolls", ["valid", "test"])
    assert sorted(rows["piece_id"].unique()) == sorted(corpus.piece_ids)
    assert sorted(rows["start_step"].unique()) == [0, 8, 16, 24, 32]
    row = rows.iloc[4]
    first = corpus.starts[corpus.piece_ids.index(row["piece_id"])] + row["start_step"]
    planes = roll.unpack(corpus.packed[first : first + STEPS], LAYOUT)[None]
    for name, wanted in (features.measure(planes, LAYOUT, 4) | harmony.measure(planes, LAYOUT, 4)).items():
        assert row[name] == wanted[0] or np.isnan([row[name], wanted[0]]).all()
    assert row["key"] == key_names(planes, LAYOUT)[0]
    # novelty: against 16 steps from every bar line of the training pieces, by a set of Python
    train = load_corpus(data / "rolls", ["train"])
    rolls = roll.unpack(train.packed, LAYOUT).reshape(-1, 64, 2, 2, 36)
    ended = np.concatenate([rolls, np.zeros_like(rolls[:, :8])], axis=1)
    bars = [ended[:, first : first + 16] for first in range(0, 64, 8)]
    known = set(bar_hashes(np.concatenate(bars), LAYOUT, 16)[:, 0].tolist())
    mine = bar_hashes(planes, LAYOUT, 16)[0].tolist()
    assert row["novelty"] == np.mean([bar not in known for bar in mine])


def test_harmony_of_every_set_beside_that_of_real_music(data: Path) -> None:
    rows = {row["set"]: row for row in read_csv(data / "evaluation" / "harmony.csv")}
    assert list(rows) == ["held-out", "bernoulli", "markov", "half-silent", "plain", "sample", "silent"]
    assert [row["mode"] for row in rows.values()] == ["", "", "", *["sample"] * 4]
    assert [rows[name]["windows"] for name in ("held-out", "sample")] == ["100", "80"]
    windows = tables.read(data / "evaluation" / "features_real.parquet", schema.WINDOWS).to_pandas()
    catalog = tables.read(data / "samples/catalog/sample-00000-of-00001.parquet", schema.CATALOG).to_pandas()
    metrics = read_json(data / "evaluation" / "metrics.json")
    for name in HARMONY:
        for label, table in (("held-out", windows), ("sample", catalog)):
            assert float(rows[label][name] or "nan") == pytest.approx(table[name].mean(), rel=1e-4, nan_ok=True)
            value = metrics[f"{label.replace('-', '_')}_{name}"]
            assert value == pytest.approx(table[name].mean(), rel=1e-4) or (value is None and rows[label][name] == "")
        assert rows["silent"][name] == ""
    assert rows["held-out"]["chord_nats"] == read_csv(data / "evaluation" / "models.csv")[0]["chord_nats"]
    assert float(rows["plain"]["chromatic_share"]) > 2 * float(rows["held-out"]["chromatic_share"])


def test_plots_are_shares_of_all_sets_on_common_bins(data: Path) -> None:
    for feature in FEATURES:
        rows = read_csv(data / "evaluation" / "distributions" / f"{feature}.csv")
        assert 1 <= len(rows) <= 40
        trivial = ["bernoulli", "markov"]
        assert list(rows[0]) == ["value", "held-out", *trivial, "half-silent", "plain", "sample", "silent"]
        for name in ("held-out", "plain", "sample"):
            assert sum(float(row[name]) for row in rows) == pytest.approx(1, abs=1e-3)


def test_no_feature_of_the_vector_is_a_function_of_the_others(data: Path) -> None:
    rows = tables.read(data / "evaluation" / "features_real.parquet", schema.WINDOWS).to_pandas()
    vector, every = (rows[list(names)].to_numpy(np.float64) for names in (held_out_distances.VECTOR, FEATURES))
    varied = vector[:, vector.std(axis=0) > 0]
    assert np.linalg.matrix_rank(varied - varied.mean(axis=0)) == varied.shape[1]
    assert np.linalg.matrix_rank(every - every.mean(axis=0), rtol=1e-6) == varied.shape[1]


def test_published_whole_and_the_same_again(data: Path, tmp_path: Path) -> None:
    assert folders.verify(data / "evaluation") == []
    build(tmp_path)
    summary = evaluate.run(SETTINGS, tmp_path)
    assert summary["held_out_windows"] == 100
    assert (summary["jobs"], summary["samples"], summary["refused"]) == (4, 155, 0)
    json.dumps(summary)
    wanted, found = (read_json(folder / "evaluation" / folders.MANIFEST) for folder in (data, tmp_path))
    assert found == wanted


def test_a_job_more_changes_nothing_for_the_others(data: Path, tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "samples" / "catalog" / "half-silent-00000-of-00001.parquet").unlink()
    evaluate.run(SETTINGS, tmp_path)
    rows = [r for r in read_csv(data / "evaluation" / "distances.csv") if r["job"] != "half-silent"]
    assert read_csv(tmp_path / "evaluation" / "distances.csv") == rows


def test_of_large_sets_some_windows_stand_for_all(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_set, "MOST", 30)
    monkeypatch.setattr(windows, "AT_ONCE", 7)
    build(tmp_path)
    evaluate.run(SETTINGS, tmp_path)
    # what is measured of every window stays, to the bit; what is kept of some is of these
    for job in ("sample", "plain", "markov"):
        for feature in ("density", "syncopation"):
            assert distance(tmp_path, job, feature, "kld_nats") == distance(data, job, feature, "kld_nats")
        assert distance(tmp_path, job, "all", "frechet_mu")["n"] < distance(data, job, "all", "frechet_mu")["n"]
    rows = {row["set"]: row for row in read_csv(tmp_path / "evaluation" / "models.csv")}
    assert (rows["sample"]["windows"], rows["sample"]["diversity_windows"]) == ("80", "30")
    neighbours = [
        tables.read(folder / "evaluation" / "neighbours.parquet", schema.NEIGHBOURS) for folder in (data, tmp_path)
    ]
    assert neighbours[0].equals(neighbours[1])


def test_trivial_generators_are_as_many_as_the_largest_comparison_needs(data: Path) -> None:
    # 100 held-out windows: halves of 50, so 100 each
    rows = {row["set"]: row for row in read_csv(data / "evaluation" / "models.csv")}
    assert rows["bernoulli"]["windows"] == rows["markov"]["windows"] == "100"
    assert distance(data, "markov", "all", "frechet")["n"] == 50
    metrics = json.loads((data / "evaluation" / "metrics.json").read_text())
    assert metrics["sample_beats_trivial"] is True
    assert metrics["plain_beats_trivial"] in (True, False)
    assert metrics["silent_beats_trivial"] is None


# --- MIDI files that are not what the catalog says --------------------------------------------------------------------
def test_broken_midi_is_refused_with_a_reason(tmp_path: Path) -> None:
    build(tmp_path)
    path = tmp_path / "samples" / "catalog" / "sample-00000-of-00001.parquet"
    rows = tables.read(path, schema.CATALOG).to_pylist()
    rows[3]["midi"] = {"bytes": b"RIFF and nothing", "path": None}
    rows[5]["midi"] = rows[6]["midi"]
    rows[7]["midi"] = {
        "bytes": smf.write(roll.to_notes(Roll(music(np.random.default_rng(1), 1)[0] & False, LAYOUT))),
        "path": None,
    }
    assert rows[5]["notes"] != rows[6]["notes"]
    table = schema.CATALOG
    tables.write(path, pa.Table.from_pylist(rows, schema=table.columns), table)
    summary = evaluate.run(SETTINGS, tmp_path)
    assert summary["refused"] == 3
    refused = {row["sample_id"]: row for row in read_csv(tmp_path / "evaluation" / "refused.csv")}
    assert set(refused) == {"sample-0000003", "sample-0000005", "sample-0000007"}
    assert "begins with" in refused["sample-0000003"]["reason"]
    assert refused["sample-0000005"]["reason"] == f"the file has {rows[6]['notes']:.0f} notes"
    assert refused["sample-0000007"]["reason"] == "the file has 0 notes"
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert metrics["sample_valid_midi_share"] == pytest.approx(77 / 80)


# --- what cannot be evaluated -----------------------------------------------------------------------------------------
def no_catalog(data: Path) -> None:
    for path in (data / "samples" / "catalog").iterdir():
        path.unlink()


def one_piece(data: Path) -> None:
    rng = np.random.default_rng(0)
    write_rolls(data / "rolls", [piece(rng, 4) for _ in range(4)], ["train", "valid", "train", "train"], LAYOUT)


def short_pieces(data: Path) -> None:
    rng = np.random.default_rng(0)
    write_rolls(data / "rolls", [piece(rng, 1) for _ in range(4)], ["train", "valid", "test", "train"], LAYOUT)


def too_short(data: Path) -> None:
    write_job(data / "samples", "short", "mlp", noise(np.random.default_rng(0), 3)[:, :16])


def named_as_a_set(data: Path) -> None:
    write_job(data / "samples", "markov", "mlp", noise(np.random.default_rng(0), 3))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_catalog, "no catalog of samples; run stage `generate`"),
        (one_piece, r"1 held-out piece\(s\) with music; two or more"),
        (short_pieces, "no window of 32 steps in the 2 pieces"),
        (too_short, "job 'short': samples of 16 steps, 4 to a beat"),
        (named_as_a_set, "job 'markov' of the catalog is called as one of the sets"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_old_result_stays(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    build(tmp_path)
    write_json(tmp_path / "evaluation" / "metrics.json", {"old": 1})
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        evaluate.run(SETTINGS, tmp_path)
    assert read_json(tmp_path / "evaluation" / "metrics.json") == {"old": 1}
