"""A prior that is fitted to a model's latents, and to their order in pieces.

The posteriors of a trained model cover a part of the standard normal that the KL term pulls them to. So an invertible
network (affine couplings; Dinh et al. 2017, "Density estimation using Real NVP") maps the coarse latents to a standard
normal. It depends on a state: a recurrent network (Cho et al. 2014) over the coarse latents before, which begins either
*anywhere*, with nothing known, or *at the start* of a piece.

    anywhere           p(z): the aggregate posterior
    at the start       p(z_1) p(z_2 | z_1) ...: whole pieces

The map is invertible, so all that can be done to a standard normal (a draw, a small step, a great circle between two
points) can be done to the noise of this prior.

Fine latents have no network: their noise is the latent in standard deviations from its mean. Samples do not draw them;
moves near pieces and between them use them.

Shapes:
    B  latents    W  consecutive windows    C  coarse latent    F  fine latent    Z = C + F    D  width of the state

Offers: `Prior`, `normal_nats`.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

COUPLINGS = 6
WIDTH = 128  # of the state
HIDDEN = 192  # of a coupling
LARGEST = 2.0  # of a coupling's log-scale


class Coupling(nn.Module):
    """Shifts and scales one half of the dimensions, depending on the other half and the state."""

    def __init__(self, dimensions: int, odd: bool) -> None:
        super().__init__()
        self.first = nn.Linear(dimensions + WIDTH, HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, 2 * dimensions)
        self.odd = odd

    def _affine(
        self, z: Float[Tensor, "*B C"], state: Float[Tensor, "*B D"]
    ) -> tuple[Float[Tensor, "*B C"], Float[Tensor, "*B C"]]:
        """Shift and log-scale of the half that changes, 0 for the other half, which alone they depend on."""
        changes = (torch.arange(z.shape[-1], device=z.device) % 2 == self.odd).to(z.dtype)
        hidden = torch.relu(self.first(torch.cat([z * (1 - changes), state], -1)))
        shift, scale = self.last(torch.relu(self.second(hidden))).chunk(2, -1)
        return shift * changes, LARGEST * torch.tanh(scale / LARGEST) * changes

    def to_noise(
        self, z: Float[Tensor, "*B C"], state: Float[Tensor, "*B D"]
    ) -> tuple[Float[Tensor, "*B C"], Float[Tensor, "*B"]]:
        """One step towards the noise, and its log-determinant."""
        shift, scale = self._affine(z, state)
        return (z - shift) * torch.exp(-scale), -scale.sum(-1)

    def to_latent(self, noise: Float[Tensor, "*B C"], state: Float[Tensor, "*B D"]) -> Float[Tensor, "*B C"]:
        """Inverts `to_noise`."""
        shift, scale = self._affine(noise, state)
        return noise * torch.exp(scale) + shift


class Prior(nn.Module):
    """The prior of this module.

    Attributes:
        center, spread: mean and standard deviation of each dimension of the coarse latents that it was fitted to.
        fine_center, fine_spread: the same of the fine latents.
    """

    center: Tensor
    spread: Tensor
    fine_center: Tensor
    fine_spread: Tensor

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.coarse = coarse
        self.register_buffer("center", torch.zeros(coarse))
        self.register_buffer("spread", torch.ones(coarse))
        self.register_buffer("fine_center", torch.zeros(fine))
        self.register_buffer("fine_spread", torch.ones(fine))
        self.begin = nn.Parameter(torch.empty(2, WIDTH))  # anywhere; at the start of a piece
        self.next = nn.GRU(coarse, WIDTH, batch_first=True)
        self.couplings = nn.ModuleList(Coupling(coarse, odd=bool(i % 2)) for i in range(COUPLINGS))

    def initialise(self, generator: torch.Generator) -> None:
        """Gives every weight its first value: the prior is a standard normal in every state."""
        for name, buffer in self.named_buffers():
            nn.init.constant_(buffer, float(name.endswith("spread")))
        for name, weight in self.named_parameters():
            if "bias" in name or ".last." in name:
                nn.init.zeros_(weight)
            else:
                nn.init.normal_(weight, std=weight.shape[-1] ** -0.5, generator=generator)

    @property
    def _flow(self) -> list[Coupling]:
        return cast("list[Coupling]", list(self.couplings))

    def state(self, n: int, at_start: bool = False) -> Float[Tensor, "{n} D"]:
        """The state before any window is known."""
        return self.begin[int(at_start)].expand(n, -1)

    def after(self, state: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]) -> Float[Tensor, "B D"]:
        """The state after one more window."""
        after: Tensor = self.next(self._standardised(z)[:, None], state[None].contiguous())[1][0]
        return after

    def _standardised(self, z: Float[Tensor, "*B _"]) -> Float[Tensor, "*B C"]:
        return (z[..., : self.coarse] - self.center) / self.spread

    def _coarse_noise(
        self, z: Float[Tensor, "*B C"], states: Float[Tensor, "*B D"]
    ) -> tuple[Float[Tensor, "*B C"], Float[Tensor, "*B"]]:
        """The noise of standardised latents, and the log-determinant of the whole map."""
        log_det = -torch.log(self.spread).sum()
        for coupling in self._flow:
            z, own = coupling.to_noise(z, states)
            log_det = log_det + own
        return z, log_det

    def to_noise(self, z: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]) -> Float[Tensor, "B Z"]:
        """Inverts `to_latent`."""
        coarse, _ = self._coarse_noise(self._standardised(z), state)
        return torch.cat([coarse, (z[:, self.coarse :] - self.fine_center) / self.fine_spread], 1)

    def to_latent(self, noise: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]) -> Float[Tensor, "B Z"]:
        """The latents that the noise is mapped to."""
        coarse = noise[:, : self.coarse]
        for coupling in reversed(self._flow):
            coarse = coupling.to_latent(coarse, state)
        fine = noise[:, self.coarse :] * self.fine_spread + self.fine_center
        return torch.cat([coarse * self.spread + self.center, fine], 1)

    def nats(self, z: Float[Tensor, "B _"], state: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """-log p of each coarse latent, given its state."""
        noise, log_det = self._coarse_noise(self._standardised(z), state)
        return normal_nats(noise) - log_det

    def nats_of_chains(self, z: Float[Tensor, "B W _"], at_start: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
        """-log p of each coarse latent of consecutive windows, given those before it.

        Args:
            at_start: 1 if the first window begins a piece, 0 if nothing is known of the steps before it.
        """
        state = torch.where(at_start[:, None] > 0, self.state(len(z), True), self.state(len(z)))
        standardised = self._standardised(z)
        later = (
            self.next(standardised[:, :-1], state[None].contiguous())[0] if z.shape[1] > 1 else state[:, None][:, :0]
        )
        noise, log_det = self._coarse_noise(standardised, torch.cat([state[:, None], later], 1))
        return normal_nats(noise) - log_det


def normal_nats(z: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B"]:
    """-log p(z) under a standard normal."""
    return 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
