"""The training engine: it learns, stops when it should, says what went wrong, and survives a kill to the bit."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rolls import LAYOUT, made_up
from test_loader import corpus_of

from midivae import checkpoint, engine, loader, models
from midivae.checkpoint import Checkpoints
from midivae.devices import Machine
from midivae.engine import Trainer
from midivae.errors import TrainingError
from midivae.loader import BitMatrix
from midivae.models import Config
from midivae.params import Dense, Transformer, View

CPU = torch.device("cpu")
VIEW = View(steps=16)
SETTINGS = Dense(hidden=(32,), latent=4, epochs=6, batch_size=8, learning_rate=3e-3)
SMALL = Transformer(
    width=16, channels=8, layers=1, heads=2, cell=8, latent=4, context=4, epochs=6, batch_size=8, warmup_steps=4,
    average=0.5, anneal_steps=8, learning_rate=1e-2,
)  # fmt: skip
FITS = {"mlp": SETTINGS, "autoencoder": SETTINGS, "transformer": SMALL}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def matrix(n_pieces: int, seed: int = 0) -> BitMatrix:
    corpus = corpus_of(made_up(n_pieces, seed))
    return BitMatrix(corpus, loader.windows(corpus, VIEW), VIEW, CPU, context=4)


def trainer(
    folder: Path,
    settings: Dense | Transformer = SETTINGS,
    n_valid: int = 4,
    name: str = "mlp",
    seed: int = 0,
    machine: Machine | None = None,
) -> Trainer:
    config = Config(name, LAYOUT, VIEW, settings, 120.0, (0, 0), "0" * 64)
    model = models.create(config, engine.torch_rng(CPU, seed, engine.INIT))
    return Trainer(model, matrix(12), matrix(n_valid, 1), settings, seed, Checkpoints(folder), machine)


def losses(made: Trainer, split: str = "valid") -> list[float]:
    return [float(row[f"{split}_loss"] or math.nan) for row in made.progress.curves]


# --- learning ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(models.KINDS))
def test_it_learns_and_keeps_the_best_weights(tmp_path: Path, name: str) -> None:
    made = trainer(tmp_path, FITS[name], name=name)
    made.fit()
    assert losses(made)[-1] < (0.5 if name != "transformer" else 0.9) * losses(made)[0]
    assert made.progress.finished
    assert made.progress.best_loss == min(losses(made))
    assert losses(made)[made.progress.best_epoch - 1] == made.progress.best_loss
    # the best weights give the best loss again
    made.model.load_state_dict(made.best)
    assert made._validate()["valid_loss"] == made.progress.best_loss


def test_curves_hold_the_parts_of_the_loss_and_the_steps(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"beta": 0.25})
    made = trainer(tmp_path, settings)
    made.fit()
    per_epoch = len(made.train) // 8
    for number, row in enumerate(made.progress.curves, start=1):
        assert (row["epoch"], row["step"]) == (number, number * per_epoch)
        for split in ("train", "valid"):
            parts = row[f"{split}_reconstruction"], row[f"{split}_kl"]
            assert row[f"{split}_loss"] == pytest.approx((parts[0] or 0) + 0.25 * (parts[1] or 0))
            assert (parts[1] or 0) > 0


def test_each_window_is_seen_at_most_once_an_epoch_and_only_a_rest_is_left_out(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    size, count = 8, len(made.train)
    batches = [index.flatten().tolist() for index in made._batches(1, made.batches_per_epoch)]
    seen = [window for batch in batches for window in batch]
    assert all(len(batch) == size for batch in batches)
    assert len(set(seen)) == len(seen) == count - count % size


# --- stopping ---------------------------------------------------------------------------------------------------------
def test_patience_stops_a_run_that_gets_no_better(tmp_path: Path) -> None:
    # a rate so small that nothing moves: noise apart the first epoch is the best, so it stops 2 epochs after the best
    made = trainer(tmp_path, SETTINGS.model_copy(update={"learning_rate": 1e-30, "patience": 2, "epochs": 50}))
    made.fit()
    assert made.progress.best_epoch == 1
    assert made.progress.epoch == 3


def test_a_budget_in_steps_stops_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    made = trainer(tmp_path, SETTINGS.model_copy(update={"max_steps": len(matrix(12)) // 8 + 2}))
    made.fit()
    assert [row["step"] for row in made.progress.curves] == [len(matrix(12)) // 8, len(matrix(12)) // 8 + 2]
    assert made.progress.finished


def test_without_validation_windows_the_training_loss_decides(tmp_path: Path) -> None:
    made = trainer(tmp_path, SETTINGS.model_copy(update={"patience": 1}), n_valid=0)
    made.fit()
    assert all(row["valid_loss"] is None for row in made.progress.curves)
    assert made.progress.epoch == 6
    assert made.progress.best_loss == min(losses(made, "train"))


@pytest.mark.filterwarnings("ignore:.*overflow.*")
def test_a_loss_that_is_not_finite_stops_with_a_word(tmp_path: Path) -> None:
    made = trainer(tmp_path, SETTINGS.model_copy(update={"learning_rate": 1e20}))
    with pytest.raises(TrainingError, match=r"model 'mlp'.*loss is not finite.*lower its learning_rate.*1e\+20"):
        made.fit()
    assert not (tmp_path / "progress.json").exists()  # nothing broken is kept


# --- stopping and going on --------------------------------------------------------------------------------------------
def test_random_numbers_depend_on_every_number_of_the_seed() -> None:
    draws = [torch.randn(3, generator=engine.torch_rng(CPU, *seed)) for seed in ((1, 2), (2, 1), (1, 2, 0), (1, 2))]
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.fit()
    again = trainer(tmp_path)
    again.model.elbo = None  # type: ignore[assignment]  # whoever trains now fails
    again.fit()
    assert again.progress == made.progress
    assert all(torch.equal(again.best[name], made.best[name]) for name in made.best)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from midivae import checkpoint, store
from midivae.engine import Trainer
from test_engine import FITS, trainer

checkpoint.SECONDS_BETWEEN, checkpoint.MOST_SHARE = 0.0, float("inf")  # a checkpoint after every epoch
saves, write = 0, store.write_{where}

def dies_at_the_third(path, value):
    global saves
    saves += 1
    if saves == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, value)

store.write_{where} = dies_at_the_third
Trainer._show = lambda self: None  # only checkpoints are counted
trainer(Path({folder!r}), FITS[{name!r}], name={name!r}).fit()
"""


@pytest.mark.parametrize("name", ["mlp", "transformer"])
@pytest.mark.parametrize("where", ["bytes", "json"])
def test_killed_and_started_again_it_ends_with_the_same_bits(
    tmp_path: Path, where: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the third checkpoint's tensors are written, or between them and the file that names them."""
    through = trainer(tmp_path / "through", FITS[name], name=name)
    through.fit()

    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"), where=where, name=name)
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ.copy())
    assert died.returncode == -signal.SIGKILL, died.stderr

    again = trainer(tmp_path / "killed", FITS[name], name=name)
    # write_json goes through write_bytes: with "bytes" the third call is the second epoch's tensors
    assert again.progress.epoch == (1 if where == "bytes" else 2)
    assert not again.progress.finished
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoint, "MOST_SHARE", math.inf)
    again.fit()

    assert again.progress == through.progress
    for name, tensor in through.best.items():
        assert torch.equal(tensor, again.best[name]), name
    for name, tensor in through.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_a_run_depends_on_its_seed(tmp_path: Path) -> None:
    one, same, other = (
        trainer(tmp_path / name, SETTINGS.model_copy(update={"epochs": 1}), seed=seed)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    for made in (one, same, other):
        made.fit()
    assert one.progress == same.progress
    assert not np.isclose(losses(one)[0], losses(other)[0])
