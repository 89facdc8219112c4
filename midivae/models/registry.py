"""Models by name: `create` a new one, `load` a trained one."""

from __future__ import annotations

from pathlib import Path

import torch

from midivae.errors import CorruptError, SchemaError
from midivae.models.autoencoder import Autoencoder
from midivae.models.base import CARD, CONFIG, WEIGHTS, Config, WindowModel, read_config, read_weights
from midivae.models.mlp import Mlp
from midivae.models.transformer import Transformer

KINDS: dict[str, type[WindowModel]] = {kind.name: kind for kind in (Transformer, Mlp, Autoencoder)}


def _empty(config: Config) -> WindowModel:
    """The model without weights: torch's own first values would cost time and draw on its global generator."""
    with torch.device("meta"):
        return KINDS[config.name](config)


def create(config: Config, generator: torch.Generator) -> WindowModel:
    """A new model on the CPU; its first weights depend on config and generator alone."""
    model = _empty(config).to_empty(device="cpu")
    model.initialise(generator)
    return model


def load(folder: Path) -> WindowModel:
    """The model in a folder, ready for use on the CPU.

    Raises:
        InputError: a file is missing.
        SchemaError: another format or version, or a model that this release does not know.
        CorruptError: the weights are not the ones that were written, or not of this config.
    """
    config = read_config(folder)
    if config.name not in KINDS:
        raise SchemaError(
            f"{folder / CONFIG}: model {config.name!r}, this release knows {sorted(KINDS)}; rerun stage `train`"
        )
    model = _empty(config)
    try:
        model.load_state_dict(read_weights(folder), strict=True, assign=True)
    except RuntimeError as error:
        raise CorruptError(f"{folder / WEIGHTS}: not the weights of {CONFIG} ({error}); rerun stage `train`") from error
    card = folder / CARD
    model.card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    return model.eval().requires_grad_(False)
