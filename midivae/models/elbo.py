"""The evidence lower bound and its parts, in nats.

Source: Kingma & Welling, "Auto-Encoding Variational Bayes", 2014 (arXiv:1312.6114): the bound (equation 3), the
reparameterisation (section 2.4) and the divergence in closed form (appendix B).

Conventions: `mu` and `logvar` are mean and log-variance of a diagonal normal, [B, Z]; a `logvar` of minus infinity
means no noise. Every part is summed over the window, one value per window, [B]; the mean over windows comes last. All
is computed in fp32, also if the network computes in bfloat16: a sum over thousands of cells needs more than 8 bits.

Offers: `Elbo`, `reparameterise`, `kl_per_dimension`, `charged`, and two reconstruction terms, `bernoulli` and
`squared_error`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Elbo(NamedTuple):
    """The parts of the bound for each window of a batch.

    Attributes:
        reconstruction: -log p(x | z), nats; with `squared_error` see there.
        kl: KL divergence of the latent's posterior from the standard normal, nats.
        beta: weight of the KL term in the loss (Higgins et al. 2017).
        charged: the KL term of the loss, nats a window: the mean of `kl`, or more if there are free nats.
    """

    reconstruction: Float[Tensor, " B"]
    kl: Float[Tensor, " B"]
    beta: float
    charged: Float[Tensor, ""]

    @property
    def bound(self) -> Float[Tensor, " B"]:
        """The evidence lower bound on log p(x), nats; higher is better."""
        return -(self.reconstruction + self.kl)

    @property
    def loss(self) -> Float[Tensor, ""]:
        """What training minimises, mean over the windows; the negative bound if beta is 1 and no nats are free."""
        return self.reconstruction.mean() + self.beta * self.charged


def reparameterise(
    mu: Float[Tensor, "B Z"], logvar: Float[Tensor, "B Z"], generator: torch.Generator | None
) -> Float[Tensor, "B Z"]:
    """A differentiable draw from N(mu, exp(logvar)); without `generator` the mean."""
    if generator is None:
        return mu
    noise = torch.randn(mu.shape, generator=generator, device=mu.device)
    return mu.float() + torch.exp(0.5 * logvar.float()) * noise


def kl_per_dimension(mu: Float[Tensor, "B Z"], logvar: Float[Tensor, "B Z"]) -> Float[Tensor, "B Z"]:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each latent dimension, nats (appendix B)."""
    mu, logvar = mu.float(), logvar.float()
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar)


def charged(kl: Float[Tensor, "B Z"], free_nats: float = 0.0) -> Float[Tensor, ""]:
    """The KL term of the loss: each dimension costs at least `free_nats`, so a smaller divergence gains nothing.

    Reference: Kingma et al. 2016, "Improved Variational Inference with Inverse Autoregressive Flow", equation 15, with
    one group per dimension.
    """
    return kl.mean(0).clamp(min=free_nats).sum()


def bernoulli(logits: Float[Tensor, "B ..."], x: Float[Tensor, "B ..."]) -> Float[Tensor, " B"]:
    """Binary cross-entropy with logits, summed over the window: -log p(x | z) of independent cells, nats.

    The terms log(1 + exp(l)) - l * x are those of `binary_cross_entropy_with_logits`. As a sum and an inner product
    they need no array of their own, and take half the time on a CPU.
    """
    logits, x = logits.flatten(1).float(), x.flatten(1).float()
    with torch.autocast(logits.device.type, enabled=False):  # otherwise the inner product would be in bfloat16
        terms: Tensor = torch.nn.functional.softplus(logits).sum(1) - torch.linalg.vecdot(logits, x)
    return terms


def squared_error(logits: Float[Tensor, "B ..."], x: Float[Tensor, "B ..."]) -> Float[Tensor, " B"]:
    """Squared error between sigmoid(logits) and x, summed over the window.

    It is -log p(x | z) of a normal with variance 1/2 around the output, without the constant D/2 log(pi) for D cells.
    It is D times as large as Keras' loss `mse`, which is the mean over the cells. The KL term is a sum over dimensions:
    beside a mean over cells it dominates, and the latent collapses. Keras' own VAE example multiplies its mean by D,
    which gives this sum.
    """
    return (torch.sigmoid(logits.float()) - x).square().flatten(1).sum(1)
