"""Precision, slices and processes: what changes the time changes no result; what changes the result is in the key."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from floats import RTOL
from rolls import made_up, write_rolls

from midivae import models
from midivae.config import params
from midivae.config.streams import Stream
from midivae.config.train import Dense, Train, View
from midivae.errors import ParamsError
from midivae.models import WindowModel, elbo
from midivae.models.elbo import Elbo
from midivae.storage import folders
from midivae.train import devices, fit
from midivae.train import stage as train
from midivae.train.devices import torch_rng
from midivae.train.trainer import slices
from train.test_trainer import CPU, FITS, SETTINGS, SMALL, losses, trainer

pytestmark = pytest.mark.numerical

BF16 = devices.connect("cpu", "bf16", False)


# --- precision --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("has", "chosen"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True, "avx512_bf16": False}, "32")],
)
def test_auto_is_bf16_where_the_processor_multiplies_it(
    has: dict[str, bool], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert devices.connect("cpu").precision == chosen
    assert devices.connect("cpu", "32").precision == "32"
    assert not devices.connect("cpu").compiles


def test_yaml_may_write_32_as_a_number() -> None:
    assert params.parse({"train": {"precision": 32}}, "test").train.precision == "32"
    with pytest.raises(ParamsError, match="precision"):
        params.parse({"train": {"precision": 16}}, "test")


def test_sums_over_cells_are_fp32_under_autocast() -> None:
    # 20,000 cells of logit -3 and 0.3 nats or so each: in bfloat16 the total would be off by up to 1 in 256
    logits = -3 + torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0))
    logits = logits.bfloat16()  # as a linear layer gives them
    x = (logits > -1).float()
    wanted = elbo.bernoulli(logits.double().float(), x)
    squared = elbo.squared_error(logits.float(), x)
    mu, logvar = logits[:, :64], logits[:, 64:128]
    kl = elbo.kl_per_dimension(mu.float(), logvar.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = elbo.bernoulli(logits, x), elbo.squared_error(logits, x), elbo.kl_per_dimension(mu, logvar)
        z = elbo.reparameterise(mu, logvar, torch.Generator())
    assert [each.dtype for each in (*found, z)] == [torch.float32] * 4
    for judge, each in zip((wanted, squared, kl), found, strict=True):
        assert torch.allclose(judge, each, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(models.KINDS))
def test_in_bf16_products_are_rounded_and_nothing_else_is(tmp_path: Path, name: str) -> None:
    made = trainer(tmp_path, FITS[name], name=name, machine=BF16)
    kinds: dict[str, set[torch.dtype]] = {"product": set(), "part": set()}
    layer = next(each for each in made.model.modules() if isinstance(each, torch.nn.Linear))
    layer.register_forward_hook(lambda _, __, out: kinds["product"].add(out.dtype) if made.model.training else None)
    inner = made.model.elbo

    def watched(*args: Any) -> Elbo:
        parts = inner(*args)
        kinds["part"] |= {parts.reconstruction.dtype, parts.kl.dtype, parts.charged.dtype}
        return parts

    made.model.elbo = watched  # type: ignore[method-assign]
    made.fit()
    assert kinds == {"product": {torch.bfloat16}, "part": {torch.float32}}
    assert {weight.dtype for weight in made.model.parameters()} == {torch.float32}
    exact = trainer(tmp_path / "exact", FITS[name], name=name)
    exact.fit()
    assert losses(made) != losses(exact)
    assert losses(made)[-1] == pytest.approx(losses(exact)[-1], rel=0.15)  # some steps of a steep descent


def test_validation_is_done_in_fp32(tmp_path: Path) -> None:
    made = trainer(tmp_path, SMALL, name="transformer", machine=BF16)
    made.fit()
    judge = trainer(tmp_path / "judge", SMALL, name="transformer")
    judge.model.load_state_dict(made.best)
    judge.average = None
    assert judge._validate()["valid_loss"] == made.progress.best_loss


# --- compilation ------------------------------------------------------------------------------------------------------
COMPILED = """
import sys, tempfile
from functools import partial
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from midivae.train import devices
from train.test_trainer import FITS, losses, trainer

machine = devices.connect("cpu", "32", True)
backend = partial(torch.compile, backend={backend!r})
torch.compile = backend
fits = [FITS[{name!r}].model_copy(update={{"epochs": 2}})] * 2
made = [trainer(Path(tempfile.mkdtemp()), fit, name={name!r}, machine=m) for fit, m in zip(fits, (machine, None))]
for each in made:
    each.fit()
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1
assert list(made[0].best) == list(made[1].best)
print(*losses(made[0]), *losses(made[1]))
"""


@pytest.mark.slow  # tracing takes seconds, and the checks of shapes that tests add cannot be traced: a process apart
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
@pytest.mark.parametrize(
    ("name", "backend", "error"),
    # traced and not compiled, every product is the same; compiled, they are rounded otherwise. Compiled dropout draws
    # other numbers, so the transformer is only traced
    [("mlp", "eager", 0.0), ("transformer", "eager", 0.0), ("mlp", "inductor", 1e-4)],
)
def test_a_compiled_model_learns_the_same(name: str, backend: str, error: float) -> None:
    script = COMPILED.format(tests=str(Path(__file__).parents[1]), name=name, backend=backend)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = [float(word) for word in done.stdout.split()]
    assert values[:2] == pytest.approx(values[2:], rel=error, abs=0)


# --- slices -----------------------------------------------------------------------------------------------------------


def without_noise(model: WindowModel) -> None:
    inner = model.elbo
    model.elbo = lambda batch, generator: inner(batch, None)  # type: ignore[method-assign]


def test_without_noise_slices_change_nothing_but_roundings(tmp_path: Path) -> None:
    runs = []
    for accumulate in (1, 2, 8):
        settings = SETTINGS.model_copy(update={"accumulate": accumulate})
        made = trainer(tmp_path / str(accumulate), settings)
        without_noise(made.model)
        made.fit()
        runs.append(made)
    whole, *others = runs
    for made in others:
        assert losses(made) == pytest.approx(losses(whole), rel=RTOL)
        assert losses(made, "train") == pytest.approx(losses(whole, "train"), rel=RTOL)
        for name, tensor in whole.best.items():
            assert torch.allclose(made.best[name], tensor, atol=1e-3), name


def test_every_slice_has_noise_of_its_own(tmp_path: Path) -> None:
    made = trainer(tmp_path, SETTINGS.model_copy(update={"accumulate": 4}))
    seeds = made._seeds(1)
    assert seeds.shape == (made.batches_per_epoch, 4, 3)
    assert len(set(seeds.flatten().tolist()) | set(made._seeds(2).flatten().tolist())) == 2 * seeds.size


def test_slices_are_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="batch_size 8 is no multiple of accumulate 3"):
        params.parse({"train": {"dense": {"batch_size": 8, "accumulate": 3}}}, "test")
    assert slices(Dense(batch_size=12, accumulate=4), 6) == 12
    with pytest.raises(ParamsError, match=r"batch_size 8 is no multiple of 3 slices.*3 process\(es\)"):
        slices(Dense(batch_size=8), 3)


# --- processes --------------------------------------------------------------------------------------------------------
SPLITS = ["train"] * 9 + ["valid"] * 4 + ["test"] * 3


def settings_of(name: str) -> dict[str, Any]:
    """A run with all that draws random numbers: latent, dropout, transposition, cells left out; and averaging."""
    network = {
        **SMALL.model_dump(mode="json"),
        "epochs": 2,
        "accumulate": 2,
        "dropout": 0.2,
        "transpose": 3,
        "prior_steps": 9,
    }
    dense = {"hidden": [16], "latent": 4, "epochs": 2, "batch_size": 8, "accumulate": 2}
    view = View(steps=16).model_dump(mode="json")
    train = {"model": "transformer", "compare": ["mlp"], "view": view, "transformer": network, "dense": dense}
    return {"train": {**train, "device": "cpu", "precision": name}, "generate": {"jobs": []}}


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs midivae in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "midivae"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MIDIVAE_HOME": str(folder / "work")}
    return subprocess.run([*launch, *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_two_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rolls(tmp_path / "data" / "rolls", made_up(len(SPLITS)), SPLITS)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings_of("32")))
    done = torchrun(tmp_path, "train")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()  # process 0 alone prints
    assert json.loads(line)["processes"] == 2
    assert folders.verify(tmp_path / "data" / "model") == []
    assert done.stderr.count("epoch 1, train loss") == 3  # of two models and the draft, each said once

    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work-of-one"))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "rolls").symlink_to(tmp_path / "data" / "rolls")
    summary = train.run(params.load(tmp_path / "params.yaml"), tmp_path / "one")
    assert summary is not None and summary["processes"] == 1
    for folder in ("model", "model/compare/mlp"):
        two, one = models.load(tmp_path / "data" / folder), models.load(tmp_path / "one" / folder)
        start = models.create(one.config, torch_rng(CPU, Stream.WEIGHTS.seeds(0)))
        for name, tensor in one.state_dict().items():
            moved = (tensor - start.state_dict()[name]).abs().max()
            assert (tensor - two.state_dict()[name]).abs().max() <= 1e-3 * moved, name  # both may stay where they were
        curves = []
        for data in ("data", "one"):
            with (tmp_path / data / folder / "curves.csv").open() as file:
                curves.append([float(value) for row in csv.DictReader(file) for value in row.values()])
        assert curves[0] == pytest.approx(curves[1], rel=RTOL)
    # as the number of slices is the same, it is the same run: one process goes on with what two have begun
    assert {path.name for path in (tmp_path / "work" / "train").iterdir()} == {
        path.name for path in (tmp_path / "work-of-one" / "train").iterdir()
    }


def test_stages_that_share_no_work_refuse_several_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from midivae.cli import main as cli

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    (tmp_path / "params.yaml").write_text("")
    assert cli.main(["ingest", "--params", str(tmp_path / "params.yaml"), "--data", str(tmp_path)]) == 2


def test_precision_and_slices_decide_the_name_of_the_run() -> None:
    model = trainer(Path("unused")).model
    settings = Train(model="mlp", compare=(), dense=SETTINGS)
    keys = {fit._key(model, settings, devices.connect("cpu", precision), None) for precision in ("32", "bf16")}
    sliced = settings.model_copy(update={"dense": SETTINGS.model_copy(update={"accumulate": 2})})
    keys.add(fit._key(model, sliced, devices.connect("cpu", "32"), None))
    assert len(keys) == 3
    assert devices.connect("cpu").device == CPU
