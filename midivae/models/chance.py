"""How the cells of a window are decided from their logits.

Offers: `Chance`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Chance:
    """How a cell is decided from its logit.

    Attributes:
        threshold: without `temperature`, a cell is set if its probability is greater.
        temperature: divides the logit before the cell is drawn; below 1, likely outcomes become more likely.
        top_p: with `temperature`, an outcome with a probability below 1 - top_p is never drawn (the nucleus of Holtzman
            et al. 2020, for two outcomes).
    """

    threshold: float = 0.5
    temperature: float | None = None
    top_p: float = 1.0

    def limits(self, uniform: Float[Tensor, "*cells"] | None) -> Float[Tensor, "*cells"]:
        """The logits that cells must exceed to be set; `uniform`: numbers in [0, 1), needed with `temperature`.

        sigmoid(logit / temperature) > uniform, solved for the logit, so that it is computed once and not per decision.
        """
        if self.temperature is None or uniform is None:
            return torch.logit(torch.tensor(self.threshold))
        return self.temperature * torch.logit(uniform.clamp(1 - self.top_p, self.top_p))
