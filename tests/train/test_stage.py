"""Stage `train`: from rolls to a published folder, and figures that can be worked out again."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from floats import RTOL
from rolls import LAYOUT, made_up, write_rolls

from midivae import models
from midivae.config.jobs import Generate
from midivae.config.params import Params
from midivae.config.train import Dense, Train, Transformer, View
from midivae.errors import InputError, ParamsError, TrainingError
from midivae.models import coding
from midivae.models.transformer import Transformer as TransformerModel
from midivae.music.roll import FRAME, ONSET, Layout
from midivae.storage import folders, tables
from midivae.storage.files import file_sha256
from midivae.storage.schema import CORPUS
from midivae.storage.workdir import work_dir
from midivae.train import devices, fit, fit_prior, trainer
from midivae.train import stage as train
from midivae.windows.batch import Batch
from midivae.windows.corpus import load_corpus
from midivae.windows.device import BitMatrix
from midivae.windows.windows import cut_planes, find_windows

pytestmark = pytest.mark.numerical

DENSE = Dense(hidden=(32,), latent=4, epochs=3, batch_size=8)
SETTINGS = Train(model="mlp", compare=("autoencoder",), view=View(steps=16), dense=DENSE)
SPLITS = ["train"] * 9 + ["valid"] * 2 + ["test"] * 3
CPU = torch.device("cpu")


def params(**changes: object) -> Params:
    return Params(train=SETTINGS.model_copy(update=changes), generate=Generate(jobs=()))


@pytest.fixture(autouse=True)
def _own_work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_rolls(tmp_path / "data" / "rolls", made_up(len(SPLITS)), SPLITS, programs=[5, -1])
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the folder -------------------------------------------------------------------------------------------------------
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


def test_the_config_says_what_the_model_was_trained_on(data: Path) -> None:
    train.run(params(compare=()), data)
    config = models.load(data / "model").config
    assert config.layout == LAYOUT
    assert config.view == SETTINGS.view
    assert config.tempo_qpm == 104.0  # training pieces are 0 to 8, with tempos 100 to 108
    assert config.programs == (5, 0)  # no piece has notes in the second part: a piano
    assert config.data_sha256 == file_sha256(data / "rolls" / "manifest.json")


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


def test_what_decides_the_weights_decides_the_name_of_the_run(data: Path, tmp_path: Path) -> None:
    train.run(params(compare=()), data)
    runs = tmp_path / "work" / "train"
    assert len(list(runs.iterdir())) == 1
    train.run(params(compare=("autoencoder",)), data)  # the first model is there
    assert len(list(runs.iterdir())) == 2
    train.run(params(compare=(), seed=1), data)
    assert len(list(runs.iterdir())) == 3
    write_rolls(data / "rolls", made_up(len(SPLITS), seed=1), SPLITS)
    train.run(params(compare=()), data)
    assert len(list(runs.iterdir())) == 4


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


# --- figures ----------------------------------------------------------------------------------------------------------
def test_held_out_figures_can_be_worked_out_again(data: Path) -> None:
    train.run(params(compare=()), data)
    model = models.load(data / "model")
    figures = json.loads((data / "model" / "metrics.json").read_text())["heldout"]

    corpus = load_corpus(data / "rolls", ["test"])
    found = find_windows(corpus, SETTINGS.view)
    planes = cut_planes(corpus, found, np.arange(len(found)), SETTINGS.view)
    x = torch.from_numpy(planes).float()
    mu, logvar = model.encode(x)
    real = coding.complete(planes)
    made = coding.complete((torch.sigmoid(model.decode(mu)) > 0.5).numpy())

    def f1(plane: int) -> float:
        right = sum(1 for a, b in zip(real[:, :, :, plane].flat, made[:, :, :, plane].flat, strict=True) if a and b)
        precision, recall = right / max(1, made[:, :, :, plane].sum()), right / real[:, :, :, plane].sum()
        return float(2 * precision * recall / max(1e-9, precision + recall))

    assert (figures["windows"], figures["pieces"]) == (len(found), 3)
    # the order of sums may move a cell or two to the other side of one half
    assert figures["frame_f1"] == pytest.approx(f1(FRAME), abs=0.005)
    assert figures["onset_f1"] == pytest.approx(f1(ONSET), abs=0.005)
    exact = [np.array_equal(real[b, t], made[b, t]) for b in range(len(found)) for t in range(16)]
    assert figures["step_accuracy"] == pytest.approx(np.mean(exact), abs=0.005)

    assert figures["active_units"] == int((mu.numpy().var(axis=0) > 0.01).sum())
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    inside = np.minimum(16, found.stop - found.start).sum()  # a window's last steps may lie behind its piece
    assert figures["kl_nats"] == pytest.approx(kl.sum(1).mean().item(), rel=RTOL)
    assert figures["kl_nats_per_step"] == pytest.approx(figures["kl_nats"] * len(found) / inside, rel=RTOL)
    assert figures["elbo_nats"] == pytest.approx(-figures["reconstruction_nats"] - figures["kl_nats"], rel=RTOL)
    at_the_mean = torch.nn.functional.binary_cross_entropy_with_logits(model.decode(mu), x, reduction="sum") / len(x)
    assert figures["reconstruction_nats"] == pytest.approx(at_the_mean.item(), rel=0.1)  # one draw, not the mean


def test_units_are_active_by_the_variance_of_their_mean() -> None:
    # means 0 and 0.4: variance 0.04 > 0.01; 0 and 0.1: 0.0025; always 7: 0
    mu = torch.tensor([[0.0, 0.0, 7.0], [0.4, 0.1, 7.0]])
    figures = train._latent(mu, torch.zeros(2, 3))
    assert figures["active_units"] == 1
    assert figures["latent"] == 3
    assert figures["mu_mean_max"] == 7.0
    assert figures["sigma_mean"] == 1.0
    assert figures["aggregate_std_max"] == pytest.approx(1.04**0.5, rel=1e-5)


def test_the_autoencoder_claims_no_bound(data: Path) -> None:
    train.run(params(model="autoencoder", compare=()), data)
    figures = json.loads((data / "model" / "metrics.json").read_text())["heldout"]
    assert not {"elbo_nats", "kl_nats"} & set(figures)
    assert figures["sigma_mean"] == 0.0
    assert figures["reconstruction_nats"] > 0


def test_without_held_out_pieces_it_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_rolls(data / "rolls", made_up(9), ["train"] * 9)
    train.run(params(compare=()), data)
    assert json.loads((data / "model" / "metrics.json").read_text())["heldout"] == {"windows": 0, "pieces": 0}
    assert "no held-out pieces" in (data / "model" / "README.md").read_text()


# --- the card ---------------------------------------------------------------------------------------------------------
def test_the_card_names_lineage_licence_and_figures_and_no_markup_gets_in(data: Path) -> None:
    row = {"path": "a.mid", "sha256": "0" * 64, "bytes": 1, "source": "set", "origin": "a"}
    rows = [{**row, "licence": "<script>|x"}, {**row, "licence": "<script>|x"}, {**row, "licence": None}]
    tables.write(data / "corpus" / "corpus.parquet", pa.Table.from_pylist(rows, CORPUS.columns), CORPUS)
    train.run(params(compare=()), data)
    card = (data / "model" / "README.md").read_text()
    assert "| 2 file(s) of set | licence: &lt;script&gt;/x |" in card
    assert "| 1 file(s) of set | licence: not stated |" in card
    assert "<script>" not in card
    assert file_sha256(data / "rolls" / "manifest.json") in card
    assert '"learning_rate": 0.001' in card
    assert f'"precision": "{devices.connect("auto").precision}"' in card
    assert "768 inputs" in card  # 16 steps * 2 parts * 2 planes * 12 pitches


# --- what is refused --------------------------------------------------------------------------------------------------
def test_too_few_windows_are_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"training window\(s\) of 16 steps, but train.dense.batch_size is 4096.*lower"
    ):
        train.run(params(dense=Dense(batch_size=4096)), data)
    with pytest.raises(TrainingError, match=r"^0 training window\(s\) of 512 steps"):
        train.run(params(view=View(steps=512)), data)
    assert not (tmp_path / "work").exists()


def test_missing_rolls_and_devices_are_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="run stage `ingest`"):
        train.run(params(), tmp_path / "nowhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match=r"train\.device is 'cuda'"):
        train.run(params(device="cuda"), data)
    assert devices.connect("auto").device == CPU


# --- the article's ----------------------------------------------------------------------------------------------------
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


def test_the_code_of_fit_and_network_is_in_the_name_of_a_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(fit, "code_version", lambda *modules: str(asked.append(modules)))
    train.run(params(), data)
    assert asked == [("midivae.train.fit", f"midivae.models.{name}") for name in ("mlp", "autoencoder")]


# --- the prior --------------------------------------------------------------------------------------------------------
def test_a_transformer_gets_a_prior_fitted_to_its_latents(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Transformer(
        width=16, channels=8, layers=1, heads=2, cell=4, latent=3, context=4, epochs=3, batch_size=8, prior_steps=40
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
    chains = fit_prior.encoded(model, corpus, settings.train.view, 0, 0)
    found = json.loads((data / "model" / "metrics.json").read_text())["prior"]
    assert found == pytest.approx({f"{k}_nats": v for k, v in fit_prior.nats(model.prior, chains, 0).items()}, rel=RTOL)
    assert found["anywhere_nats"] < found["normal_nats"]  # three epochs of a small model: its latents are nowhere near

    # it is there from the first run, and what is published is the same
    before = contents(data / "model")
    monkeypatch.setattr(fit_prior, "fit", None)
    train.run(settings, data)
    assert contents(data / "model") == before


# --- the draft --------------------------------------------------------------------------------------------------------
DRAFTED = Transformer(
    width=16, channels=8, layers=1, heads=2, cell=4, latent=16, context=4, epochs=2, batch_size=8, prior_steps=5,
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
        assert model.draft is not None
        nats.append(model.draft.nats(Batch.of(x), model.encode(x)[0]).mean().item())
    assert nats[0] < 0.9 * nats[1]


def test_a_run_that_ends_between_draft_and_decoder_goes_on_there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = params(model="transformer", compare=(), transformer=DRAFTED)
    train.run(settings, data)
    whole = contents(data / "model")
    shutil.rmtree(work_dir())
    fit, fitted = trainer.Trainer.fit, list[str]()

    def stopped(self: trainer.Trainer) -> None:
        if self.model.name != "draft":
            raise KeyboardInterrupt
        fit(self)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            train.run(settings, data)

    def noted(self: trainer.Trainer) -> None:
        fitted.extend([self.model.name] * (not self.progress.finished))
        fit(self)

    monkeypatch.setattr(trainer.Trainer, "fit", noted)
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


# --- warm start -------------------------------------------------------------------------------------------------------
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
