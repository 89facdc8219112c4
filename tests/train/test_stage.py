"""Stage `train`: from rolls to a published folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from floats import RTOL
from rolls import made_up, write_rolls

from midivae import models
from midivae.config.jobs import Generate
from midivae.config.params import Params
from midivae.config.train import Dense, Train, Transformer, View
from midivae.errors import InputError, ParamsError, TrainingError
from midivae.models import coding
from midivae.music.roll import Layout
from midivae.storage import folders
from midivae.train import devices, fit_prior
from midivae.train import stage as train
from midivae.windows.corpus import load_corpus
from midivae.windows.windows import find_windows

pytestmark = pytest.mark.numerical

DENSE = Dense(hidden=(32,), latent=4, epochs=3, batch_size=8)
SETTINGS = Train(model="mlp", compare=("autoencoder",), view=View(steps=16), dense=DENSE)
CPU = torch.device("cpu")


def params(**changes: object) -> Params:
    return Params(train=SETTINGS.model_copy(update=changes), generate=Generate(jobs=()))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_both_models_are_published_together_with_all_their_files(data: Path) -> None:
    summary = train.run(params(), data)

    files = {"README.md", "config.json", "controls.json", "curves.csv", "metrics.json", "steps.csv"}
    files |= {"model.safetensors", "model.safetensors.sha256"}
    assert set(contents(data / "model")) == files | {f"compare/autoencoder/{name}" for name in files} | {
        "manifest.json"
    }
    assert folders.verify(data / "model") == []
    json.dumps(summary)
    counted = [len(find_windows(load_corpus(data / "rolls", [s]), SETTINGS.view)) for s in ("train", "valid", "test")]
    assert summary["windows"] == dict(zip(("train", "valid", "test"), counted, strict=True))
    assert models.load(data / "model").config.name == "mlp"
    assert models.load(data / "model" / "compare" / "autoencoder").config.name == "autoencoder"


def test_curves_have_a_row_an_epoch(data: Path) -> None:
    train.run(params(compare=()), data)
    with (data / "model" / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["epoch", "step", "train_loss", "train_reconstruction"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    metrics = json.loads((data / "model" / "metrics.json").read_text())
    best = rows[metrics["best_epoch"] - 1]
    assert float(best["valid_loss"]) == metrics["loss"]["valid"] == min(float(row["valid_loss"]) for row in rows)


def test_the_same_run_gives_the_same_bytes_and_the_second_time_trains_nothing(data: Path, tmp_path: Path) -> None:
    first = train.run(params(), data)
    before = contents(data / "model")
    assert first["windows_per_s"] is not None

    again = train.run(params(), data)
    assert contents(data / "model") == before
    assert again["windows_per_s"] is None  # all from the work directory

    (tmp_path / "work").rename(tmp_path / "gone")
    train.run(params(), data)
    assert contents(data / "model") == before


def test_old_runs_leave_the_work_directory(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "KEPT_RUNS", 2)
    for seed in range(4):
        train.run(params(compare=(), seed=seed, dense=DENSE.model_copy(update={"epochs": 1})), data)
    assert len(list((tmp_path / "work" / "train").iterdir())) == 2


def test_a_failed_run_leaves_the_old_model(data: Path) -> None:
    train.run(params(compare=()), data)
    before = contents(data / "model")
    with pytest.raises(TrainingError):
        train.run(params(dense=Dense(batch_size=100_000)), data)
    assert contents(data / "model") == before


def test_without_held_out_pieces_it_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_rolls(data / "rolls", made_up(9), ["train"] * 9)
    train.run(params(compare=()), data)
    assert json.loads((data / "model" / "metrics.json").read_text())["heldout"] == {"windows": 0, "pieces": 0}
    assert "no held-out pieces" in (data / "model" / "README.md").read_text()


def test_missing_rolls_and_devices_are_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="run stage `ingest`"):
        train.run(params(), tmp_path / "nowhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match=r"train\.device is 'cuda'"):
        train.run(params(device="cuda"), data)
    assert devices.connect("auto").device == CPU


@pytest.mark.parametrize(("steps", "low", "pitches"), [(100, 21, 88), (480, 36, 48)])
def test_the_articles_shapes_run_to_the_end(tmp_path: Path, steps: int, low: int, pitches: int) -> None:
    layout = Layout(("drums", "piano"), low, pitches, 4)
    data = tmp_path / "data"
    pieces = made_up(6, layout=layout, least=steps, most=steps + 40)
    write_rolls(data / "rolls", pieces, ["train"] * 4 + ["valid", "test"], layout)
    view = View(steps=steps, hop=4, planes="frame", merge_parts=True)
    train.run(params(view=view, dense=Dense(hidden=(8,), max_steps=2, batch_size=4)), data)
    model = models.load(data / "model")
    assert model.config.window_shape == (steps, 1, 1, pitches)
    assert model.config.layout.parts == ("merged",)
    assert model.config.programs == (1,)  # of the piano, not of the drums
    planes = coding.decode(model, np.zeros((2, model.latent), np.float32))
    assert planes.shape == (2, steps, 1, 2, pitches)


def test_a_transformer_gets_a_prior_fitted_to_its_latents(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Transformer(
        width=16,
        channels=8,
        layers=1,
        heads=2,
        cell=4,
        coarse=3,
        fine=2,
        draft=8,
        draft_steps=20,
        context=4,
        epochs=3,
        batch_size=8,
        prior_steps=40,
    )
    settings = params(model="transformer", compare=("mlp",), transformer=network)
    train.run(settings, data)
    with (data / "model" / "prior.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(4, 41, 4))
    assert not (data / "model" / "compare" / "mlp" / "prior.csv").exists()

    model = models.load(data / "model")
    assert model.prior is not None
    corpus = load_corpus(data / "rolls", ["test"])
    chains = fit_prior.encode_chains(model, corpus, settings.train.view, 0)
    found = json.loads((data / "model" / "metrics.json").read_text())["prior"]
    assert found == pytest.approx(
        {f"{k}_nats": v for k, v in fit_prior.measure(model.prior, chains, 0).items()}, rel=RTOL
    )
    assert found["anywhere_nats"] < found["normal_nats"]  # three epochs of a small model: its latents are nowhere near

    # it is there from the first run, and what is published is the same
    before = contents(data / "model")
    monkeypatch.setattr(fit_prior, "fit", None)
    train.run(settings, data)
    assert contents(data / "model") == before
