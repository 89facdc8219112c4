"""The optimisers of training: AdamW, and Muon for the weight matrices of a model's layers.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) keeps a momentum of each matrix's gradient, like
stochastic gradient descent, and moves the matrix along the nearest semi-orthogonal matrix of the momentum. So it learns
directions that few windows show as fast as those that all windows show. Its moves have the size of AdamW's moves (Liu
et al. 2025, https://arxiv.org/abs/2502.16982, section 2.2), so both optimisers use one learning rate and one weight
decay. AdamW trains all other weights: biases, norms, embeddings, and weights that are no matrices between layers.

Difference from `torch.optim.Muon`: the iteration has the precision of the weights. Torch's has bfloat16, which many
processors emulate: 1.9 s of processor time a step of the default transformer instead of 0.08.

Offers: `build`, `Muon`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from midivae.config.train import Fit

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's polynomial, which is steepest at 0
ADAMW_SIZE = 0.2  # root mean square of a move of AdamW, in learning rates


def build(model: nn.Module, settings: Fit) -> tuple[torch.optim.Optimizer, ...]:
    """The optimisers of a model's weights, one or two; weights that need no gradient have none."""
    uses_muon = settings.optimizer == "muon"
    linear = {id(layer.weight) for layer in model.modules() if uses_muon and isinstance(layer, nn.Linear)}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    matrices = [weight for weight in trained if id(weight) in linear]
    others = [weight for weight in trained if id(weight) not in linear]
    # fused: 6 ms a step instead of 37 (12.6 M parameters)
    adamw = torch.optim.AdamW(others, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    return (adamw, Muon(matrices, settings.learning_rate, settings.weight_decay)) if matrices else (adamw,)


class Muon(torch.optim.Optimizer):
    """Muon for matrices, with Nesterov's momentum and decoupled weight decay."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Moves each matrix that has a gradient; `closure` is not used."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum: Tensor = state["momentum_buffer"]
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                move = orthogonalised(weight.grad.lerp(momentum, MOMENTUM))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(move, alpha=-group["lr"] * ADAMW_SIZE * math.sqrt(max(weight.shape)))


def orthogonalised(matrix: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
    """The matrix with singular values near 1 (0.7 to 1.2), by a Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)  # the iteration needs singular values of at most 1
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
