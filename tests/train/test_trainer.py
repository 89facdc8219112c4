"""The training loop: it learns, stops when it should, says what went wrong, and survives a kill to the bit."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from floats import RTOL, close
from rolls import LAYOUT, corpus_of, made_up

from midivae import models
from midivae.config.streams import Stream
from midivae.config.train import Dense, Transformer, View
from midivae.errors import TrainingError
from midivae.models import Config
from midivae.models.elbo import Elbo
from midivae.train import checkpoint, schedule
from midivae.train.checkpoint import Checkpoints
from midivae.train.curves import EPOCH_COLUMNS, STEP_COLUMNS, Row, csv_bytes
from midivae.train.devices import Machine, torch_rng
from midivae.train.trainer import Trainer
from midivae.windows.device import BitMatrix
from midivae.windows.windows import find_windows

pytestmark = pytest.mark.numerical

CPU = torch.device("cpu")
VIEW = View(steps=16)
SETTINGS = Dense(hidden=(32,), latent=4, epochs=6, batch_size=8, learning_rate=3e-3)
SMALL = Transformer(
    width=16, channels=8, layers=1, heads=2, cell=8, coarse=4, fine=2, draft=8, context=4, epochs=6, batch_size=8,
    warmup_steps=4, average=0.5, anneal_steps=8, learning_rate=1e-2,
)  # fmt: skip
FITS = {"mlp": SETTINGS, "autoencoder": SETTINGS, "transformer": SMALL}


def matrix(n_pieces: int, seed: int = 0) -> BitMatrix:
    corpus = corpus_of(made_up(n_pieces, seed))
    return BitMatrix(corpus, find_windows(corpus, VIEW), VIEW, CPU, context=4)


def trainer(
    folder: Path,
    settings: Dense | Transformer = SETTINGS,
    n_valid: int = 4,
    name: str = "mlp",
    seed: int = 0,
    machine: Machine | None = None,
) -> Trainer:
    config = Config(name, LAYOUT, VIEW, settings, 16, 120.0, (0, 0), "0" * 64)
    model = models.create(config, torch_rng(CPU, Stream.WEIGHTS.seeds(seed)))
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


def test_the_kept_weights_are_the_moving_average(tmp_path: Path) -> None:
    made = trainer(tmp_path, SETTINGS.model_copy(update={"average": 0.2, "max_steps": 3, "learning_rate": 0.1}))
    assert made.average is not None
    initial, update, steps = made.best, made.average.update_parameters, list[dict[str, torch.Tensor]]()

    def recorded(model: torch.nn.Module) -> None:
        steps.append({name: weight.clone() for name, weight in model.state_dict().items()})
        update(model)

    made.average.update_parameters = recorded  # type: ignore[method-assign]
    made.fit()
    for name, average in initial.items():
        # the decay at step s is s / (s + 9), at most 0.2: 1/10, 2/11, and 0.2 instead of 3/12
        for decay, weights in zip((1 / 10, 2 / 11, 0.2), steps, strict=True):
            average = decay * average + (1 - decay) * weights[name]
        assert close(made.best[name], average)


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


class Exploding:
    """A model's bound whose loss grows tenfold at a step."""

    def __init__(self, made: Trainer, at: int, until: int = 10**9) -> None:
        self.inner, self.at, self.until, self.calls = made.model.elbo, at, until, 0
        made.model.elbo = self  # type: ignore[method-assign, assignment]

    def __call__(self, *args: Any) -> Elbo:
        parts = self.inner(*args)
        self.calls += 1
        return parts._replace(reconstruction=parts.reconstruction * (10 if self.at <= self.calls < self.until else 1))


LONG = SETTINGS.model_copy(update={"epochs": 12})  # 7 steps each, so a row of the trace each


def test_a_loss_that_explodes_stops_with_a_word(tmp_path: Path) -> None:
    made = trainer(tmp_path, LONG, n_valid=0)
    Exploding(made, at=15)
    with pytest.raises(
        TrainingError, match=r"model 'mlp': at step 49 \(epoch 7\) the loss is \d.*above 3 times its first value, \d.*"
        r"5 checks in succession.*lower its learning_rate, which is 0.003",
    ):  # fmt: skip
        made.fit()
    # rows at steps 7, 14, 21, ...: the first two are sound, the five after them are not
    assert [row["step"] for row in made.progress.trace] == [7, 14, 21, 28, 35, 42, 49]


def test_a_loss_that_comes_back_goes_on(tmp_path: Path) -> None:
    made = trainer(tmp_path, LONG, n_valid=0)
    Exploding(made, at=15, until=43)  # four rows
    made.fit()
    assert made.progress.finished


def test_a_learning_rate_far_too_high_is_found_out(tmp_path: Path) -> None:
    made = trainer(tmp_path, LONG.model_copy(update={"learning_rate": 3.0}))
    with pytest.raises(TrainingError, match=r"training has diverged; lower its learning_rate, which is 3\.0"):
        made.fit()


# --- how fast, and how far --------------------------------------------------------------------------------------------
def test_the_learning_rate_and_the_weight_of_the_kl_follow_the_schedule(tmp_path: Path) -> None:
    changes = {"learning_rate": 0.5, "warmup_steps": 4, "decay": True, "max_steps": 8, "anneal_steps": 1000}
    made = trainer(tmp_path / "falls", SETTINGS.model_copy(update=changes))
    made.fit()
    rates = {group["lr"] for optimizer in made.optimizers for group in optimizer.param_groups}
    assert rates == {made.progress.trace[-1]["learning_rate"]} == {schedule.learning_rate(made.settings, 8, 8)}
    # in 8 of 1000 steps the KL costs next to nothing, so it grows more than where it has its whole weight
    charged = trainer(tmp_path / "charged", made.settings.model_copy(update={"anneal_steps": 0}))
    charged.fit()
    assert float(made.progress.trace[-1]["kl"] or 0) > float(charged.progress.trace[-1]["kl"] or 0)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    made = trainer(tmp_path, SETTINGS.model_copy(update={"clip_norm": 0.01, "max_steps": 1}))
    made.fit()
    norm = torch.cat([weight.grad.flatten() for weight in made.model.parameters() if weight.grad is not None]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)
    assert float(made.progress.trace[0]["gradient_norm"] or 0) > 0.1  # as it was before
    free = trainer(tmp_path / "free", SETTINGS.model_copy(update={"max_steps": 1}))
    free.fit()
    assert free.progress.trace[0]["gradient_norm"] == pytest.approx(made.progress.trace[0]["gradient_norm"], rel=RTOL)


def test_the_trace_has_means_since_the_row_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midivae.train.trainer._STEPS_BETWEEN_CHECKS", 1)
    each = trainer(tmp_path / "each", LONG)
    each.fit()
    monkeypatch.setattr("midivae.train.trainer._STEPS_BETWEEN_CHECKS", 3)
    made = trainer(tmp_path / "made", LONG)
    made.fit()
    assert [row["step"] for row in each.progress.trace] == list(range(1, 7 * 12 + 1))
    assert [row["step"] for row in made.progress.trace[:6]] == [3, 6, 7, 10, 13, 14]
    single = [float(row["reconstruction"] or 0) for row in each.progress.trace]
    assert made.progress.trace[1]["reconstruction"] == pytest.approx(np.mean(single[3:6]), rel=RTOL)
    assert made.progress.trace[2]["reconstruction"] == pytest.approx(single[6], rel=RTOL)
    # an epoch's row is the mean of its steps
    assert made.progress.curves[1]["train_reconstruction"] == pytest.approx(np.mean(single[7:14]), rel=RTOL)


def test_a_long_run_has_a_short_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midivae.train.trainer._ROWS", 4)
    made = trainer(tmp_path, LONG)
    made.fit()
    assert [row["step"] for row in made.progress.trace] == [21, 42, 63, 84]  # 84 steps, a check every 7


def test_curves_can_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midivae.train.trainer._SECONDS_BETWEEN_CURVES", 0.0)
    made = trainer(tmp_path)
    seen = []
    inner = made._validate

    def look() -> Row:
        path = tmp_path / "curves.csv"
        seen.append(len(path.read_text().splitlines()) - 1 if path.exists() else None)
        return inner()

    made._validate = look  # type: ignore[method-assign]
    made.fit()
    assert seen == [None, 1, 2, 3, 4, 5]  # at the end of each epoch, the epochs before
    assert (tmp_path / "curves.csv").read_bytes() == csv_bytes(made.progress.curves, EPOCH_COLUMNS)
    assert (tmp_path / "steps.csv").read_bytes() == csv_bytes(made.progress.trace, STEP_COLUMNS)


# --- stopping and going on --------------------------------------------------------------------------------------------
def test_random_numbers_depend_on_every_number_of_the_seed() -> None:
    draws = [
        torch.randn(3, generator=torch_rng(CPU, np.random.SeedSequence(seed)))
        for seed in ((1, 2), (2, 1), (1, 2, 0), (1, 2))
    ]
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
from midivae.train import checkpoint
from midivae.train.trainer import Trainer
from train.test_trainer import FITS, trainer

checkpoint.SECONDS_BETWEEN, checkpoint.MOST_SHARE = 0.0, float("inf")  # a checkpoint after every epoch
saves, write = 0, checkpoint.write_{where}

def dies_at_the_third(path, value):
    global saves
    saves += 1
    if saves == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, value)

checkpoint.write_{where} = dies_at_the_third
Trainer._write_curves = lambda self: None  # only checkpoints are counted
trainer(Path({folder!r}), FITS[{name!r}], name={name!r}).fit()
"""


@pytest.mark.parametrize("name", ["mlp", "transformer"])
@pytest.mark.parametrize("where", ["bytes", "json"])
def test_killed_and_started_again_it_ends_with_the_same_bits(
    tmp_path: Path, where: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the third checkpoint's tensors are written, or before the file that names them."""
    through = trainer(tmp_path / "through", FITS[name], name=name)
    through.fit()

    script = KILLED.format(
        tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "killed"), where=where, name=name
    )
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ.copy())
    assert died.returncode == -signal.SIGKILL, died.stderr

    again = trainer(tmp_path / "killed", FITS[name], name=name)
    assert again.progress.epoch == 2
    assert not again.progress.finished
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoint, "MOST_SHARE", math.inf)
    again.fit()

    assert again.progress == through.progress
    for name, tensor in through.best.items():
        assert torch.equal(tensor, again.best[name]), name
    for name, tensor in through.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


SLOW = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from midivae.train import checkpoint, trainer as training
from midivae.train.trainer import Trainer
from train.test_trainer import FITS, STOCHASTIC, trainer

training._STEPS_BETWEEN_CHECKS = 2
checkpoint.SECONDS_BETWEEN, checkpoint.MOST_SHARE = 0.0, float("inf")
save_if_due = Trainer._save_if_due

def tells(self):
    save_if_due(self)
    if self.progress.step == 11:  # the fourth of the second epoch
        print("saved", flush=True)
        sys.stdin.read()  # until it is killed

Trainer._save_if_due = tells
trainer(Path({folder!r}), STOCHASTIC, name="transformer").fit()
"""
STOCHASTIC = SMALL.model_copy(update={"dropout": 0.3, "average": 0.9, "transpose": 3, "accumulate": 2, "epochs": 3})


def test_killed_in_the_middle_of_an_epoch_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process, kill -9 from outside; dropout, transposition, slices and averaging are on."""
    monkeypatch.setattr("midivae.train.trainer._STEPS_BETWEEN_CHECKS", 2)
    through = trainer(tmp_path / "through", STOCHASTIC, name="transformer")
    through.fit()

    script = SLOW.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "killed"))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "saved\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL

    again = trainer(tmp_path / "killed", STOCHASTIC, name="transformer")
    assert (again.progress.epoch, again.progress.batches, again.progress.step) == (1, 4, 11)
    again.fit()
    assert again.progress == through.progress
    for name, tensor in through.best.items():
        assert torch.equal(tensor, again.best[name]), name
    for name, tensor in through.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_a_run_made_of_something_else_does_not_go_on(tmp_path: Path) -> None:
    trainer(tmp_path).fit()
    with pytest.raises(
        TrainingError, match=r"differs in fit.learning_rate .*0\.003 there and 0\.5 here.*another folder"
    ):
        Trainer(
            trainer(tmp_path / "other").model, matrix(12), matrix(4, 1),
            SETTINGS.model_copy(update={"learning_rate": 0.5}), 0, Checkpoints(tmp_path),
        )  # fmt: skip
    with pytest.raises(TrainingError, match="differs in seed"):
        trainer(tmp_path, seed=1)
    model = trainer(tmp_path / "third").model
    model.config = replace(model.config, data_sha256="1" * 64)
    with pytest.raises(TrainingError, match=r"differs in config.data_sha256 .*'0000.*'1111"):
        Trainer(model, matrix(12), matrix(4, 1), SETTINGS, 0, Checkpoints(tmp_path))


def test_processes_that_see_different_folders_are_told(tmp_path: Path) -> None:
    class Elsewhere:
        global_rank = 1

        def broadcast(self, value: int) -> int:
            return value + 40

    machine = Machine(Elsewhere(), "32", False)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"process 1 found step 0, but process 0 found 40.*MIDIVAE_HOME"):
        machine.check_same("step", 0)


def test_a_run_depends_on_its_seed(tmp_path: Path) -> None:
    one, same, other = (
        trainer(tmp_path / name, SETTINGS.model_copy(update={"epochs": 1}), seed=seed)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    for made in (one, same, other):
        made.fit()
    assert one.progress == same.progress
    assert not np.isclose(losses(one)[0], losses(other)[0])
