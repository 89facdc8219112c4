"""Checkpoints: what comes back, what a kill leaves, and what damage says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from midivae.config.train import Fit
from midivae.errors import CorruptError, SchemaError, TrainingError
from midivae.train import checkpoint, optimizers
from midivae.train.checkpoint import Checkpoints, Progress

ROW: checkpoint.Row = {"epoch": 1, "train_loss": 0.1 + 0.2, "valid_loss": None}
PROGRESS = Progress(epoch=1, step=7, best_epoch=1, best_loss=1 / 3, curves=(ROW,))


def network() -> torch.nn.Linear:
    layer = torch.nn.Linear(3, 2)
    generator = torch.Generator().manual_seed(0)
    for weight in layer.parameters():
        weight.data = torch.randn(weight.shape, generator=generator)
    return layer


def step(layer: torch.nn.Linear, built: tuple[torch.optim.Optimizer, ...]) -> None:
    layer.zero_grad()
    layer(torch.arange(6.0).view(2, 3)).square().sum().backward()
    for optimizer in built:
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, kind: str) -> None:
    settings = Fit(optimizer=kind, learning_rate=0.1)
    through = network()
    through_optimizers = optimizers.build(through, settings)
    assert len(through_optimizers) == (2 if kind == "muon" else 1)
    for _ in range(3):
        step(through, through_optimizers)
    best = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    average = {"weight": torch.full((2, 3), 0.5), "bias": torch.ones(2)}
    sums = torch.rand(2, 2, dtype=torch.float64)
    Checkpoints(tmp_path).save(PROGRESS, checkpoint.state_of(through, through_optimizers, best, average, sums))

    state = Checkpoints(tmp_path).load()
    assert state is not None
    assert state.progress == PROGRESS
    again = torch.nn.Linear(3, 2)
    again_optimizers = optimizers.build(again, settings)
    kept, averaged, restored_sums = checkpoint.restore(state.tensors, again, again_optimizers)

    assert all(torch.equal(kept[name], best[name]) for name in best)
    assert torch.equal(restored_sums, sums)
    assert all(torch.equal(averaged[name], average[name]) for name in average)
    for _ in range(3):
        step(through, through_optimizers)
        step(again, again_optimizers)
    assert torch.equal(again.weight, through.weight)
    assert torch.equal(again.bias, through.bias)


def test_a_finished_run_keeps_its_best_weights_alone(tmp_path: Path) -> None:
    best = {"weight": torch.ones(2, 3)}
    Checkpoints(tmp_path).save(PROGRESS, checkpoint.best_alone(best))
    state = Checkpoints(tmp_path).load()
    assert state is not None
    assert list(state.tensors) == ["best.weight"]
    assert torch.equal(checkpoint.best_of(state.tensors)["weight"], best["weight"])


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").load() is None


def test_a_kill_between_the_two_files_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(PROGRESS, {"model.w": torch.zeros(1)})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(Progress(epoch=2), {"model.w": torch.ones(1)})
    state = checkpoints.load()
    assert state is not None
    assert state.progress.epoch == 1
    assert state.tensors["model.w"].item() == 0
    # the next one leaves no litter
    checkpoints.save(Progress(epoch=3, best_loss=0.0), {"model.w": torch.ones(1)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.json", "state-000000000.safetensors"]


def test_damage_and_other_versions_are_named(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(PROGRESS, {"model.w": torch.zeros(8)})
    state, progress = tmp_path / "state-000000007.safetensors", tmp_path / "progress.json"
    good = state.read_bytes()

    state.write_bytes(good[:-1] + b"\x01")
    with pytest.raises(CorruptError, match=r"sha256 differs.*delete"):
        Checkpoints(tmp_path).load()
    state.unlink()
    with pytest.raises(CorruptError, match="delete"):
        Checkpoints(tmp_path).load()

    state.write_bytes(good)
    assert Checkpoints(tmp_path).load() is not None
    values = json.loads(progress.read_text())
    for damaged in (values | {"progress": values["progress"] | {"best_loss": 0.25}}, {**values, "state": 3}):
        progress.write_text(json.dumps(damaged))
        with pytest.raises(CorruptError, match="delete"):
            Checkpoints(tmp_path).load()
    progress.write_text(json.dumps(values | {"version": 9}))
    with pytest.raises(SchemaError, match="midivae-checkpoint v9, this release reads midivae-checkpoint v4"):
        Checkpoints(tmp_path).load()
    progress.write_text("[]")
    with pytest.raises(SchemaError, match="delete the folder"):
        Checkpoints(tmp_path).load()


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for age in range(4):
        run = tmp_path / f"run-{age}"
        Checkpoints(run).save(PROGRESS, {"w": torch.zeros(1)})
        for path in run.iterdir():
            os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "run-4").mkdir()  # killed before its first checkpoint
    (tmp_path / "run-4" / "curves.csv").write_text("")
    os.utime(tmp_path / "run-4" / "curves.csv", (10, 10))
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-0", "run-1"]
    checkpoint.prune(tmp_path / "nowhere", keep=2)


def test_writing_checkpoints_takes_a_small_share_of_the_time() -> None:
    now = 0.0
    pace = checkpoint.Pace(lambda: now)
    spent = 0.0
    while now < 10_000:
        now += 1  # training
        if pace.is_due():
            with pace.writing():
                now += 3
                spent += 3
    assert 0.015 * now < spent <= 0.021 * now
    # a quick one comes as often as is worth it
    now, written = 0.0, 0
    pace = checkpoint.Pace(lambda: now)
    while now < 3000:
        now += 1
        if pace.is_due():
            with pace.writing():
                written += 1
    assert written == 100  # every 30 seconds


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(PROGRESS, {"w": torch.zeros(1)}, {"seed": 0, "fit": {"steps": (1, 2), "rate": 0.5}})
    assert checkpoints.load({"fit": {"rate": 0.5, "steps": [1, 2]}, "seed": 0}) is not None
    with pytest.raises(TrainingError, match=r"differs in fit\.rate, seed \(fit\.rate is 0\.5 there and 0\.25 here\)"):
        checkpoints.load({"seed": 1, "fit": {"steps": (1, 2), "rate": 0.25}})
    with pytest.raises(TrainingError, match=r"differs in fit\.rate"):
        checkpoints.load({"seed": 0, "fit": {"steps": (1, 2)}})
