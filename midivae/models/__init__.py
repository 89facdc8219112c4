"""The networks: windows of rolls to latents and back.

base           What all models share: a window to a latent and back, a bound, a folder on disk.
chance         How cells are decided from their logits.
dense          The dense layers that the article's two models share.
autoencoder    Dense layers, no noise: the article's first model.
mlp            Dense layers, a variational autoencoder: the article's second.
draft          The fine latent: each beat to dimensions of its own, and back.
layers         Layers of the transformer.
encoder        The coarse latent: a window to a few dimensions.
given          Cells that are decided beforehand.
head           The transformer's head: the cells of a step.
transformer    A variational autoencoder that decides note after note.
flow           The prior that is fitted to its latents.
elbo           The evidence lower bound and its parts.
registry       The models by name.
conditions     What windows are decoded under, besides their latents.
coding         Rolls to latents and back, in blocks.
moves          Moves in latent space: near a point, between points.
controls       Moves along attributes.
fit_controls   How the directions of attributes are found.
"""

from midivae.models.base import Config, WindowModel, create, load
from midivae.models.registry import KINDS

__all__ = ["KINDS", "Config", "WindowModel", "create", "load"]
