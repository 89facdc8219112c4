"""How one model is fitted: its config, the key of its run, its draft, and a warm start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from rolls import LAYOUT, made_up, write_rolls

from midivae import models
from midivae.config.train import Dense, Transformer, View
from midivae.errors import InputError, TrainingError
from midivae.models.transformer import Transformer as TransformerModel
from midivae.storage.files import file_sha256
from midivae.storage.workdir import work_dir
from midivae.train import stage as train
from midivae.train.trainer import Trainer
from midivae.windows.batch import Batch
from midivae.windows.corpus import load_corpus
from midivae.windows.device import BitMatrix
from midivae.windows.windows import find_windows
from train.test_stage import CPU, DENSE, SETTINGS, contents, params

pytestmark = pytest.mark.numerical


def test_the_config_says_what_the_model_was_trained_on(data: Path) -> None:
    train.run(params(compare=()), data)
    config = models.load(data / "model").config
    assert config.layout == LAYOUT
    assert config.view == SETTINGS.view
    assert config.tempo_qpm == 104.0  # training pieces are 0 to 8, with tempos 100 to 108
    assert config.programs == (5, 0)  # no piece has notes in the second part: a piano
    assert config.data_sha256 == file_sha256(data / "rolls" / "manifest.json")


def test_what_decides_the_weights_decides_the_name_of_the_run(data: Path, tmp_path: Path) -> None:
    train.run(params(compare=()), data)
    runs = tmp_path / "work" / "train"
    assert len(list(runs.iterdir())) == 1
    train.run(params(compare=("autoencoder",)), data)  # the first model is there
    assert len(list(runs.iterdir())) == 2
    train.run(params(compare=(), seed=1), data)
    assert len(list(runs.iterdir())) == 3
    write_rolls(data / "rolls", made_up(14, seed=1), ["train"] * 9 + ["valid"] * 2 + ["test"] * 3)
    train.run(params(compare=()), data)
    assert len(list(runs.iterdir())) == 4


def test_the_code_of_fit_and_network_is_in_the_name_of_a_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("midivae.train.fit.code_version", lambda *modules: str(asked.append(modules)))
    train.run(params(), data)
    assert asked == [("midivae.train.fit", f"midivae.models.{name}") for name in ("mlp", "autoencoder")]


def test_too_few_windows_are_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"training window\(s\) of 16 steps, but train.dense.batch_size is 4096.*lower"
    ):
        train.run(params(dense=Dense(batch_size=4096)), data)
    with pytest.raises(TrainingError, match=r"^0 training window\(s\) of 512 steps"):
        train.run(params(view=View(steps=512)), data)
    write_rolls(data / "rolls", made_up(3), ["valid", "valid", "test"])
    with pytest.raises(TrainingError, match=r"no piece is in split train \(2 in valid, 1 in test\).*split.valid"):
        train.run(params(), data)
    assert not (tmp_path / "work").exists()


DRAFTED = Transformer(
    width=16, channels=8, layers=1, heads=2, cell=4, coarse=4, fine=4, context=4, epochs=2, batch_size=8, prior_steps=5,
    draft=16, draft_steps=40, beta=0.5, warmup_steps=0,
)  # fmt: skip


def draft_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: w for k, w in models.load(folder).state_dict().items() if k.startswith("draft.")}


def test_a_draft_is_fitted_first_and_then_stays(data: Path, tmp_path: Path) -> None:
    settings = params(model="transformer", compare=(), transformer=DRAFTED)
    train.run(settings, data)
    first = (data / "model").rename(tmp_path / "first")
    longer = DRAFTED.model_copy(update={"epochs": 3})
    train.run(params(model="transformer", compare=(), transformer=longer), data)
    same = draft_of(data / "model")
    assert all(torch.equal(weight, same[name]) for name, weight in draft_of(first).items())
    # untrained, it would know nothing of the music
    untrained = DRAFTED.model_copy(update={"draft_steps": 1})
    (data / "model").rename(tmp_path / "second")
    train.run(params(model="transformer", compare=(), transformer=untrained), data)
    view, corpus = settings.train.view, load_corpus(data / "rolls", ["train"])
    windows = BitMatrix(corpus, find_windows(corpus, view), view, CPU)
    x = windows.batch(torch.arange(len(windows))).x
    nats = []
    for folder in (tmp_path / "first", data / "model"):
        model = models.load(folder)
        assert isinstance(model, TransformerModel)
        nats.append(model.draft.nats(Batch.of(x), model.draft.encode(x)[0]).mean().item())
    assert nats[0] < 0.9 * nats[1]


def test_a_run_that_ends_between_draft_and_decoder_goes_on_there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = params(model="transformer", compare=(), transformer=DRAFTED)
    train.run(settings, data)
    whole = contents(data / "model")
    shutil.rmtree(work_dir())
    fit, fitted = Trainer.fit, list[str]()

    def stopped(self: Trainer) -> None:
        if self.model.name != "draft":
            raise KeyboardInterrupt
        fit(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            train.run(settings, data)

    def noted(self: Trainer) -> None:
        fitted.extend([self.model.name] * (not self.progress.finished))
        fit(self)

    monkeypatch.setattr(Trainer, "fit", noted)
    train.run(settings, data)
    assert fitted == ["transformer"]
    assert contents(data / "model") == whole


def test_a_warm_start_keeps_the_draft(data: Path, tmp_path: Path) -> None:
    train.run(params(model="transformer", compare=(), transformer=DRAFTED), data)
    earlier = (data / "model").rename(tmp_path / "earlier")
    once = DRAFTED.model_copy(update={"epochs": 1})
    train.run(params(model="transformer", compare=(), transformer=once, warm_start=str(earlier)), data)
    same = draft_of(data / "model")
    assert all(torch.equal(weight, same[name]) for name, weight in draft_of(earlier).items())


def test_training_starts_from_the_weights_of_an_earlier_model(data: Path, tmp_path: Path) -> None:
    train.run(params(), data)
    earlier = (data / "model").rename(tmp_path / "earlier")
    before = json.loads((earlier / "metrics.json").read_text())
    cold = models.load(earlier)

    train.run(params(warm_start=str(earlier), dense=DENSE.model_copy(update={"epochs": 1})), data)
    warm = json.loads((data / "model" / "metrics.json").read_text())
    assert warm["loss"]["train"] < before["loss"]["train"]  # three epochs and one more
    # with a learning rate that moves nothing, they are the earlier weights, those of the compared model too
    still = DENSE.model_copy(update={"epochs": 1, "learning_rate": 1e-30})
    train.run(params(warm_start=str(earlier), dense=still), data)
    for name in ("", "compare/autoencoder"):
        mine, theirs = (models.load(folder / name).state_dict() for folder in (data / "model", earlier))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert cold.config.data_sha256 == models.load(data / "model").config.data_sha256
    assert '"warm_start"' in (data / "model" / "README.md").read_text()


def test_where_it_starts_is_part_of_the_runs_name(data: Path, tmp_path: Path) -> None:
    train.run(params(compare=()), data)
    earlier = (data / "model").rename(tmp_path / "earlier")
    for _ in range(2):
        train.run(params(compare=(), warm_start=str(earlier)), data)
    assert len(list((tmp_path / "work" / "train").iterdir())) == 2  # cold, and warm once
    other = models.load(earlier)
    for weight in other.parameters():
        weight.mul_(1.01)
    other.save_pretrained(earlier)
    train.run(params(compare=(), warm_start=str(earlier)), data)
    assert len(list((tmp_path / "work" / "train").iterdir())) == 3


def test_tensors_that_do_not_fit_stay_random(data: Path, tmp_path: Path) -> None:
    train.run(params(compare=()), data)
    earlier = (data / "model").rename(tmp_path / "earlier")
    narrow = DENSE.model_copy(update={"epochs": 1, "learning_rate": 1e-30, "latent": 3})
    train.run(params(compare=(), warm_start=str(earlier), dense=narrow), data)
    mine, theirs = (models.load(folder).state_dict() for folder in (data / "model", earlier))
    same = {key for key in mine if mine[key].shape == theirs[key].shape}
    assert same and same != set(mine)
    assert all(torch.equal(mine[key], theirs[key]) for key in same)


def test_a_model_of_other_windows_or_none_is_no_start(data: Path, tmp_path: Path) -> None:
    train.run(params(compare=()), data)
    earlier = (data / "model").rename(tmp_path / "earlier")
    still = DENSE.model_copy(update={"epochs": 1, "learning_rate": 1e-30})
    other = params(compare=(), view=View(steps=16, hop=4), dense=still)
    train.run(other, data)
    cold = models.load(data / "model").state_dict()
    train.run(other.model_copy(update={"train": other.train.model_copy(update={"warm_start": str(earlier)})}), data)
    assert all(torch.equal(weight, cold[name]) for name, weight in models.load(data / "model").state_dict().items())
    with pytest.raises(InputError, match=r"no config\.json, so not the folder of a model"):
        train.run(params(warm_start=str(tmp_path / "nothing")), data)


def test_the_compared_models_of_another_main_model_are_found(data: Path, tmp_path: Path) -> None:
    train.run(params(), data)
    earlier = (data / "model").rename(tmp_path / "earlier")
    still = DENSE.model_copy(update={"epochs": 1, "learning_rate": 1e-30})
    train.run(params(model="autoencoder", compare=(), warm_start=str(earlier), dense=still), data)
    mine, theirs = (models.load(f).state_dict() for f in (data / "model", earlier / "compare" / "autoencoder"))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
