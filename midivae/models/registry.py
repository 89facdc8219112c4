"""The models by name."""

from __future__ import annotations

from midivae.models.autoencoder import Autoencoder
from midivae.models.base import WindowModel
from midivae.models.mlp import Mlp
from midivae.models.transformer import Transformer

KINDS: dict[str, type[WindowModel]] = {kind.name: kind for kind in (Transformer, Mlp, Autoencoder)}
WindowModel.kinds = KINDS  # `base` cannot import the networks, which import it
