"""The networks: windows of rolls to latents and back.

autoencoder   dense layers, no noise: the article's first model
mlp           dense layers, a variational autoencoder: the article's second
transformer   a variational autoencoder that decides note after note, and the prior fitted to its latents
"""

from midivae.models.base import Config, WindowModel
from midivae.models.registry import KINDS, create, load

__all__ = ["KINDS", "Config", "WindowModel", "create", "load"]
