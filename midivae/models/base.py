"""What all models share: window -> latent -> window, a bound on the likelihood, and a folder on disk.

Shapes:
    B  windows    L  steps before the window    T  steps of it    Z  latent
    N  parts      K  planes (onset and frame, or frame alone)     P  pitches

A model's folder holds `config.json` (all that is needed to build the model, and what it was trained on),
`model.safetensors`, and `model.safetensors.sha256` with the hashes of both. The hashes are checked before a weight is
used, because safetensors does not detect a flipped bit. A repository on the Hugging Face hub holds the same files, and
they are checked in the same way. A folder on disk is read without network access.

Offers: `Config`, `WindowModel`, `CellwiseModel`; `create`, `load`, `read_config`, `read_weights`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import safetensors.torch
import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from jaxtyping import Bool, Float
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from midivae.config.train import Dense, Transformer, View
from midivae.errors import CorruptError, InputError, SchemaError
from midivae.models import elbo
from midivae.models.chance import Chance
from midivae.models.elbo import Elbo
from midivae.models.flow import Prior
from midivae.music.roll import Layout
from midivae.storage.files import file_sha256, read_json, write_bytes, write_json
from midivae.storage.paths import CONFIG, WEIGHTS
from midivae.windows.batch import Batch

FORMAT, VERSION = "midivae-model", 3  # of config.json
DIGEST = f"{WEIGHTS}.sha256"
Kind = TypeVar("Kind", bound="WindowModel")
CARD = "README.md"  # for readers; it is not hashed


@dataclass(frozen=True)
class Config:
    """All that is needed to build a model, and what it was trained on.

    Attributes:
        name: a key of `models.KINDS`.
        layout: of the windows, after parts are merged.
        view: how windows are cut from rolls.
        network: the layers, and how they were fitted.
        steps_per_bar: of the most frequent bar of the training pieces.
        tempo_qpm: median tempo of the training pieces, quarter notes per minute.
        programs: of each part of `layout`, the most frequent General MIDI program in the training pieces.
        data_sha256: of the manifest of the rolls that it was trained on.
    """

    name: str
    layout: Layout
    view: View
    network: Dense | Transformer
    steps_per_bar: int
    tempo_qpm: float
    programs: tuple[int, ...]
    data_sha256: str

    @property
    def window_shape(self) -> tuple[int, int, int, int]:
        """[T, N, K, P] of a window."""
        return self.view.steps, len(self.layout.parts), self.view.n_planes, self.layout.pitches

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`."""
        values = {
            **asdict(self),
            "view": self.view.model_dump(mode="json"),
            "network": self.network.model_dump(mode="json"),
        }
        return {"format": FORMAT, "version": VERSION, **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> Config:
        """Inverts `to_dict`; error messages begin with `origin`.

        Raises:
            SchemaError: another format or version, or invalid values.
        """
        written = values.get("format"), values.get("version")
        if written != (FORMAT, VERSION):
            raise SchemaError(
                f"{origin}: format {written[0]} v{written[1]}, this release reads {FORMAT} v{VERSION}; "
                "rerun stage `train`"
            )
        try:
            layout = values["layout"]
            section = Transformer if values["name"] == "transformer" else Dense
            return cls(
                name=values["name"],
                layout=Layout(**{**layout, "parts": tuple(layout["parts"])}),
                view=View.model_validate(values["view"]),
                network=section.model_validate(values["network"]),
                steps_per_bar=int(values["steps_per_bar"]),
                tempo_qpm=float(values["tempo_qpm"]),
                programs=tuple(values["programs"]),
                data_sha256=values["data_sha256"],
            )
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise SchemaError(f"{origin}: not the config of a model ({error}); rerun stage `train`") from error


class WindowModel(nn.Module, ModelHubMixin, ABC):
    """A model of windows of rolls.

    `push_to_hub(repo_id)`, of the mixin, uploads what `save_pretrained` writes.

    Attributes:
        name: its name in params.
        kinds: the models that a folder may hold, set by `registry`.
        samples_latent: whether the posterior has noise, so that the bound has a KL term.
        prior: fitted to the latents of the trained model; None: the prior is a standard normal.
        card: the model card in the folder that the model was loaded from.
    """

    name: ClassVar[str]
    kinds: ClassVar[Mapping[str, type[WindowModel]]] = {}
    samples_latent: ClassVar[bool] = True
    prior: Prior | None
    card: str | None = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.prior = None

    @property
    def latent(self) -> int:
        """The number of latent dimensions, Z."""
        if isinstance(self.config.network, Transformer):
            raise NotImplementedError("models with the settings of the transformer define it themselves")
        return self.config.network.latent

    @property
    def coarse(self) -> int:
        """How many of the latent dimensions, the first ones, are coarse: all of them where a model has one level."""
        return self.latent

    @property
    def beta(self) -> float:
        """The weight of the KL term in the loss."""
        return self.config.network.beta if self.samples_latent else 0.0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Gives every weight its first value."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "B T N K P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of the latent's posterior; a log-variance of minus infinity: no noise."""

    @abstractmethod
    def nats(
        self, batch: Batch, z: Float[Tensor, "B Z"], fidelity: Float[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        """-log p(x | z, before, given) of each window; `fidelity` as for `cells`."""

    @abstractmethod
    def cells(
        self,
        z: Float[Tensor, "B Z"],
        chance: Chance,
        uniform: Float[Tensor, "B T N K P"] | None = None,
        batch: Batch | None = None,
        fidelity: Float[Tensor, " B"] | None = None,
    ) -> Bool[Tensor, "B T N K P"]:
        """The windows that are decoded from latents.

        Args:
            chance: how a cell is decided.
            uniform: numbers in [0, 1), needed if `chance` has a temperature.
            batch: what precedes these windows, where they lie, and which of their cells are given; None: nothing
                precedes them, and they begin at a bar line of a piece of which nothing is known. Models that see none
                of this ignore it.
            fidelity: share of each beat's fine latent dimensions that are used, the most important ones first. 0: the
                coarse latent alone; None: all. Models with one latent ignore it.
        """

    @abstractmethod
    def elbo(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """The parts of the bound, with one draw of the latent; without `generator` at the posterior's mean."""

    def forward(self, batch: Batch, generator: torch.Generator | None) -> Elbo:
        """`elbo`, under the name that wrappers of modules call (for processes, precision, compilation)."""
        return self.elbo(batch, generator)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Writes config, weights, the model card if there is one, and last the hashes.

        Args:
            save_directory: the folder.
            config, model_card_kwargs: of the mixin, not used: the model has its own config and card.
            repo_id: the repository on the hub; None: the name of the folder.
            push_to_hub: whether to upload the folder.
            push_to_hub_kwargs: arguments of the mixin's `push_to_hub`.

        Returns:
            The address of the commit on the hub, if there is one.
        """
        folder = Path(save_directory)
        self._save_pretrained(folder)
        return self.push_to_hub(repo_id or folder.name, **push_to_hub_kwargs) if push_to_hub else None

    def _save_pretrained(self, save_directory: Path) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_json(save_directory / CONFIG, self.config.to_dict())
        write_bytes(save_directory / WEIGHTS, safetensors.torch.save(tensors))
        hashes = [f"{file_sha256(save_directory / name)}  {name}\n" for name in (CONFIG, WEIGHTS)]
        if self.card is not None:
            write_bytes(save_directory / CARD, self.card.encode())
        write_bytes(save_directory / DIGEST, "".join(hashes).encode())  # as `sha256sum --check` reads it

    @classmethod
    def from_pretrained(
        cls: type[Kind],
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> Kind:
        """The model that `save_pretrained` wrote, ready for use on the CPU.

        Args:
            pretrained_model_name_or_path: a folder, or text that names no folder but a repository on the hub.
            force_download, token, cache_dir, local_files_only, revision: for the hub, as in `snapshot_download`.
            model_kwargs: of the mixin; not allowed.

        Raises:
            InputError: a file is missing, the hub has no such model, or the folder holds a model of another class.
            SchemaError: another format or version.
            CorruptError: the weights are not those that were written.
        """
        if model_kwargs:
            raise TypeError(f"from_pretrained takes no {sorted(model_kwargs)}: the config in the folder decides all")
        folder = Path(pretrained_model_name_or_path)
        if isinstance(pretrained_model_name_or_path, str) and not folder.is_dir():
            folder = _downloaded(
                pretrained_model_name_or_path,
                force_download=force_download,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                revision=revision,
            )
        model = load(folder)
        if not isinstance(model, cls):
            raise InputError(f"{folder}: holds a model {model.name!r}, not {cls.name!r}; use midivae.models.load")
        return model


class CellwiseModel(WindowModel):
    """A model whose cells are independent of each other given the latent."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B T N K P"]:
        """Logits of the cells."""

    def cells(
        self,
        z: Float[Tensor, "B Z"],
        chance: Chance,
        uniform: Float[Tensor, "B T N K P"] | None = None,
        batch: Batch | None = None,
        fidelity: Float[Tensor, " B"] | None = None,
    ) -> Bool[Tensor, "B T N K P"]:
        """The windows that are decoded from latents; each cell is decided independently."""
        return self.decode(z) > chance.limits(uniform)

    def nats(
        self, batch: Batch, z: Float[Tensor, "B Z"], fidelity: Float[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        """-log p(x | z) of each window, also if the model was trained with another reconstruction term."""
        return elbo.bernoulli(self.decode(z), batch.x)


def _downloaded(repo_id: str, **options: Any) -> Path:
    """The folder in the hub's cache with the files of a model.

    Raises:
        InputError: the hub does not provide it.
    """
    try:
        return Path(snapshot_download(repo_id, allow_patterns=[CONFIG, WEIGHTS, DIGEST, CARD], **options))
    except (OSError, ValueError) as error:  # base classes of the hub's errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{repo_id}: neither a folder nor a model that the hub provides ({reason}); give a model's folder, or "
            "owner/name of a model on the hub"
        ) from error


def empty(config: Config) -> WindowModel:
    """The model without values of its weights: torch's defaults would take time and use its global generator."""
    with torch.device("meta"):
        return WindowModel.kinds[config.name](config)


def create(config: Config, generator: torch.Generator) -> WindowModel:
    """A new model on the CPU; its first weights depend only on config and generator."""
    model = empty(config).to_empty(device="cpu")
    model.initialise(generator)
    return model


def load(folder: Path) -> WindowModel:
    """The model in a folder, ready for use on the CPU.

    Raises:
        InputError: a file is missing.
        SchemaError: another format or version, or an unknown model.
        CorruptError: the weights are not those that were written, or do not fit the config.
    """
    config = read_config(folder)
    kinds = sorted(WindowModel.kinds)
    if config.name not in kinds:
        raise SchemaError(f"{folder / CONFIG}: model {config.name!r}, this release has {kinds}; rerun stage `train`")
    model = empty(config)
    try:
        model.load_state_dict(read_weights(folder), strict=True, assign=True)
    except RuntimeError as error:
        raise CorruptError(
            f"{folder / WEIGHTS}: the weights do not fit {CONFIG} ({error}); rerun stage `train`"
        ) from error
    card = folder / CARD
    model.card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    return model.eval().requires_grad_(False)


def read_config(folder: Path) -> Config:
    """The config in a model's folder."""
    values = read_json(folder / CONFIG)
    if not isinstance(values, dict):
        raise SchemaError(f"{folder / CONFIG}: not the config of a model; rerun stage `train`")
    return Config.from_dict(values, str(folder / CONFIG))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a model's folder, after the hashes of weights and config are verified.

    Raises:
        InputError: a file is missing.
        CorruptError: the bytes differ from those that were hashed.
    """
    try:
        data = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS, DIGEST)}
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; run stage `train`") from None
    lines = data[DIGEST].decode("ascii", "replace").splitlines()
    for name in (CONFIG, WEIGHTS):
        if f"{hashlib.sha256(data[name]).hexdigest()}  {name}" not in lines:
            raise CorruptError(
                f"{folder / name}: sha256 differs from the one in {DIGEST}: damaged or edited; rerun stage `train`"
            )
    try:
        return safetensors.torch.load(data[WEIGHTS])
    except SafetensorError as error:
        raise CorruptError(f"{folder / WEIGHTS}: not a safetensors file ({error}); rerun stage `train`") from error
