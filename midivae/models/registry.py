"""The models by name, and new ones: `create`."""

from __future__ import annotations

import torch

from midivae.models.autoencoder import Autoencoder
from midivae.models.base import Config, WindowModel, empty
from midivae.models.mlp import Mlp
from midivae.models.transformer import Transformer

KINDS: dict[str, type[WindowModel]] = {kind.name: kind for kind in (Transformer, Mlp, Autoencoder)}
WindowModel.kinds = KINDS  # so that `load` needs no import of the classes below its own


def create(config: Config, generator: torch.Generator) -> WindowModel:
    """A new model on the CPU; its first weights depend on config and generator alone."""
    model = empty(config).to_empty(device="cpu")
    model.initialise(generator)
    return model
