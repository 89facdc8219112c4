"""What all models share: shapes, files and the hub; and the article's two models."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from floats import RTOL
from huggingface_hub import hub_mixin
from huggingface_hub.errors import RepositoryNotFoundError

from midivae import models
from midivae.config.train import Dense, Transformer, View
from midivae.errors import CorruptError, InputError, SchemaError
from midivae.models import Config, WindowModel
from midivae.models.autoencoder import Autoencoder
from midivae.models.chance import Chance
from midivae.models.mlp import Mlp
from midivae.music.roll import Layout
from midivae.storage.files import file_sha256
from midivae.windows.batch import Batch

pytestmark = pytest.mark.numerical

SMALL = Config(
    name="mlp",
    layout=Layout(("high", "low"), 60, 12, 4),
    view=View(steps=8),
    network=Dense(hidden=(32, 16), latent=3),
    steps_per_bar=16,
    tempo_qpm=96.0,
    programs=(0, 32),
    data_sha256="0" * 64,
)

DENSE = ("autoencoder", "mlp")
NETWORKS = dict.fromkeys(DENSE, SMALL.network) | {
    "transformer": Transformer(width=16, channels=8, layers=1, heads=2, cell=4, coarse=3, fine=2, draft=8, context=4)
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows_of(config: Config, n: int = 5) -> torch.Tensor:
    return (torch.rand((n, *config.window_shape), generator=rng(1)) < 0.1).float()


@pytest.fixture(params=sorted(models.KINDS))
def model(request: pytest.FixtureRequest) -> WindowModel:
    return models.create(replace(SMALL, name=request.param, network=NETWORKS[request.param]), rng())


# --- the article's shapes ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("steps", "pitches", "inputs"), [(100, 88, 8800), (480, 48, 23040)])
@pytest.mark.parametrize("name", DENSE)
def test_the_articles_presets_have_its_inputs(name: str, steps: int, pitches: int, inputs: int) -> None:
    view = View(steps=steps, hop=steps, planes="frame", merge_parts=True)
    config = replace(
        SMALL, name=name, layout=Layout(("merged",), 21, pitches, 4), view=view, network=Dense(), programs=(0,)
    )
    model = models.create(config, rng())
    seen: list[torch.Tensor] = []
    model.get_submodule("encoder.0").register_forward_hook(lambda _, args, __: seen.append(args[0]))

    x = windows_of(config, 2)
    mu, logvar = model.encode(x)

    assert seen[0].shape == (2, inputs)
    assert torch.equal(seen[0], x[:, :, 0, 0].reshape(2, -1))  # steps first, pitches last
    assert mu.shape == logvar.shape == (2, 16)
    assert model.decode(mu).shape == x.shape


def test_layers_are_the_articles() -> None:
    model = models.create(replace(SMALL, network=Dense()), rng())
    linear = [(n, m.in_features, m.out_features) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    cells = 8 * 2 * 2 * 12
    assert sorted(linear) == [
        ("decoder.0", 16, 64),
        ("decoder.2", 64, 128),
        ("decoder.4", 128, 256),
        ("encoder.0", cells, 256),
        ("encoder.2", 256, 128),
        ("encoder.4", 128, 64),
        ("logits", 256, cells),
        ("logvar", 64, 16),
        ("mu", 64, 16),
    ]
    relus = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.ReLU)]
    assert relus == ["encoder.1", "encoder.3", "encoder.5", "decoder.1", "decoder.3", "decoder.5"]


# --- what each computes -----------------------------------------------------------------------------------------------
def test_the_autoencoder_has_neither_noise_nor_kl() -> None:
    model = models.create(replace(SMALL, name="autoencoder"), rng())
    x = windows_of(SMALL)
    mu, logvar = model.encode(x)
    assert torch.equal(logvar.exp(), torch.zeros_like(mu))
    parts = model.elbo(Batch.of(x), rng(2))
    assert parts.kl.tolist() == [0.0] * 5
    assert parts.beta == 0.0
    assert torch.equal(parts.reconstruction, model.elbo(Batch.of(x), None).reconstruction)
    judge = torch.nn.functional.binary_cross_entropy_with_logits(model.decode(mu), x, reduction="sum") / 5
    assert parts.loss.item() == pytest.approx(judge.item(), rel=RTOL)


def test_the_mlps_loss_is_summed_cross_entropy_plus_kl_and_its_noise_is_the_generators() -> None:
    model = models.create(replace(SMALL, network=Dense(hidden=(32, 16), latent=3, beta=0.5)), rng())
    x = windows_of(SMALL)
    mu, logvar = model.encode(x)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum()
    bce = torch.nn.functional.binary_cross_entropy_with_logits(model.decode(mu), x, reduction="sum")
    assert model.elbo(Batch.of(x), None).loss.item() == pytest.approx((bce + 0.5 * kl).item() / 5, rel=RTOL)
    once, again, other = (model.elbo(Batch.of(x), rng(seed)).reconstruction for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("name", DENSE)
def test_mse_is_the_summed_squared_error(name: str) -> None:
    dense = Dense(hidden=(32, 16), latent=3, reconstruction="mse")
    model = models.create(replace(SMALL, name=name, network=dense), rng())
    x = windows_of(SMALL)
    wanted = (torch.sigmoid(model.decode(model.encode(x)[0])) - x).square().sum() / 5
    assert model.elbo(Batch.of(x), None).reconstruction.mean().item() == pytest.approx(wanted.item(), rel=RTOL)


def test_every_weight_learns(model: WindowModel) -> None:
    model.train()
    windows = Batch.of(torch.cat([windows_of(SMALL)] * 16))  # many, so that the shares of the settings all occur
    model.elbo(windows, rng()).loss.backward()
    grads = {
        name: weight.grad
        for name, weight in model.named_parameters()
        if weight.requires_grad and not name.startswith("draft.")  # it learns by itself
    }
    assert [name for name, grad in grads.items() if grad is None or not grad.any()] == []


# --- making and keeping -----------------------------------------------------------------------------------------------
def test_first_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (models.create(SMALL, rng(seed)).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["mu.weight"], other["mu.weight"])
    # Glorot: uniform within sqrt(6 / (in + out))
    bound = math.sqrt(6 / (16 + 3))
    assert 0.9 * bound < one["mu.weight"].abs().max() <= bound
    assert not one["mu.bias"].any()


def test_limits_are_the_nucleus_of_two_outcomes() -> None:
    p = torch.tensor([0.04, 0.06, 0.5, 0.94, 0.96])
    uniform = (torch.arange(1000) + 0.5)[:, None] / 1000
    share = (torch.logit(p) > Chance(temperature=1.0, top_p=0.95).limits(uniform)).float().mean(0)
    assert share.tolist() == pytest.approx([0, 0.06, 0.5, 0.94, 1], abs=1e-6)
    # temperature 2 halves the logit of .94: 1 / (1 + sqrt(.06 / .94)) = .798
    share = (torch.logit(p) > Chance(temperature=2.0).limits(uniform)).float().mean(0)
    assert share[3].item() == pytest.approx(0.798, abs=1e-3)
    assert (torch.logit(p) > Chance(threshold=0.5).limits(None)).tolist() == [False, False, False, True, True]


def test_a_model_comes_back_from_its_folder(model: WindowModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    loaded = models.load(tmp_path / "a")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert (loaded.coarse, loaded.latent) == (3, 7 if model.name == "transformer" else 3)
    assert not loaded.training
    z = torch.randn(4, loaded.latent, generator=rng())
    assert torch.equal(loaded.cells(z, Chance()), model.eval().cells(z, Chance()))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "config.json",
        "model.safetensors",
        "model.safetensors.sha256",
    ]
    loaded.save_pretrained(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_from_pretrained_checks_the_class(tmp_path: Path) -> None:
    models.create(SMALL, rng()).save_pretrained(tmp_path)
    assert isinstance(WindowModel.from_pretrained(tmp_path), Mlp)
    assert isinstance(Mlp.from_pretrained(str(tmp_path)), Mlp)
    with pytest.raises(InputError, match="holds a model 'mlp', not 'autoencoder'"):
        Autoencoder.from_pretrained(tmp_path)


class Hub:
    """A hub in a folder, behind the three calls that go to the network."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.asked = root, 0
        monkeypatch.setattr(hub_mixin, "HfApi", lambda token: self)
        monkeypatch.setattr("midivae.models.base.snapshot_download", self.snapshot_download)

    def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> SimpleNamespace:
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, repo_id: str, folder_path: Path, **options: object) -> str:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return f"hub/{repo_id}/commit/1"

    def snapshot_download(self, repo_id: str, allow_patterns: list[str], **options: object) -> str:
        self.asked += 1
        if not (self.root / repo_id).is_dir():
            response = SimpleNamespace(headers={}, request=None)
            raise RepositoryNotFoundError(f"404: no {repo_id}", response=response)
        target = Path(str(options["cache_dir"])) / repo_id
        for path in (self.root / repo_id).iterdir():
            if path.name in allow_patterns:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / path.name)
        return str(target)


def test_a_model_goes_to_the_hub_and_comes_back(
    model: WindowModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path / "hub", monkeypatch)
    model.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("# A card with its lineage\n")
    assert models.load(tmp_path / "a").push_to_hub("me/chorales") == "hub/me/chorales/commit/1"
    uploaded = {path.name: path.read_bytes() for path in (tmp_path / "hub" / "me" / "chorales").iterdir()}
    assert uploaded == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    (tmp_path / "hub" / "me" / "chorales" / "weights.pkl").write_bytes(b"never fetched")
    loaded = type(model).from_pretrained("me/chorales", cache_dir=tmp_path / "cache")
    assert hub.asked == 1
    assert loaded.card == "# A card with its lineage\n"
    assert not (tmp_path / "cache" / "me" / "chorales" / "weights.pkl").exists()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    address = model.save_pretrained(tmp_path / "b", push_to_hub=True, repo_id="me/again")
    assert address == "hub/me/again/commit/1"


def test_folders_need_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "hub", monkeypatch)
    models.create(SMALL, rng()).save_pretrained(tmp_path / "a")
    WindowModel.from_pretrained(str(tmp_path / "a"))
    with pytest.raises(InputError, match="no such file"):
        WindowModel.from_pretrained(tmp_path / "gone")  # a Path is always a folder
    assert hub.asked == 0
    with pytest.raises(
        InputError, match=r"me/gone: neither a folder nor a model that the hub provides \(404: no me/gone"
    ):
        WindowModel.from_pretrained("me/gone", cache_dir=tmp_path)
    with pytest.raises(TypeError, match="strict"):
        WindowModel.from_pretrained(tmp_path / "a", strict=False)


def test_names_that_are_no_repository_are_refused_without_a_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a/b/c: neither a folder"):
        WindowModel.from_pretrained("a/b/c")
    with pytest.raises(InputError, match=r"me/model: neither a folder"):  # not in the cache, and the hub is not asked
        WindowModel.from_pretrained("me/model", local_files_only=True, cache_dir=tmp_path)


def test_a_flipped_bit_of_a_download_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(tmp_path / "hub", monkeypatch)
    models.create(SMALL, rng()).push_to_hub("me/model")
    path = tmp_path / "hub" / "me" / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="sha256 differs"):
        WindowModel.from_pretrained("me/model", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("where", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.sha256"])
def test_one_flipped_bit_is_named(tmp_path: Path, name: str, where: float) -> None:
    models.create(SMALL, rng()).save_pretrained(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[int(where * len(data))] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises((CorruptError, SchemaError), match=r"sha256 differs|config\.json: "):
        models.load(tmp_path)


def test_a_changed_tempo_is_damage(tmp_path: Path) -> None:
    models.create(SMALL, rng()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("96.0", "97.0"))
    with pytest.raises(CorruptError, match=r"config\.json: sha256 differs"):
        models.load(tmp_path)


def test_a_damaged_digest_and_missing_files_are_named(tmp_path: Path) -> None:
    models.create(SMALL, rng()).save_pretrained(tmp_path)
    digest = tmp_path / "model.safetensors.sha256"
    digest.write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptError, match="sha256 differs"):
        models.load(tmp_path)
    digest.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors\.sha256: no such file"):
        models.load(tmp_path)
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        models.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1}, "midivae-model v1, this release reads midivae-model v3"),
        ({"format": "other"}, "format other v3"),
        ({"name": "gpt"}, "model 'gpt', this release has"),
        ({"view": {"steps": -1}}, "not the config of a model"),
        ({"layout": None}, "not the config of a model"),
    ],
)
def test_other_configs_are_refused_by_name(tmp_path: Path, change: dict[str, object], said: str) -> None:
    models.create(SMALL, rng()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SchemaError, match=said):
        models.load(tmp_path)


def test_weights_of_another_config_are_refused(tmp_path: Path) -> None:
    models.create(SMALL, rng()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["network"]["latent"] = 4
    path.write_text(json.dumps(values))
    digest = tmp_path / "model.safetensors.sha256"
    digest.write_text("".join(f"{file_sha256(tmp_path / n)}  {n}\n" for n in ("config.json", "model.safetensors")))
    with pytest.raises(CorruptError, match="the weights do not fit"):
        models.load(tmp_path)
    path.write_text("[]")
    with pytest.raises(SchemaError, match="not the config"):
        models.load(tmp_path)
