"""A prior that is fitted to a model's latents: what the decoder was trained on, and which window follows which.

A standard normal is where the KL term pulls the posteriors, not where they are: where the latent holds much, samples
from a standard normal fall between them, and a model that reconstructs well plays junk. So latents are mapped to a
standard normal by an invertible network (affine couplings; Dinh et al. 2017, "Density estimation using Real NVP"),
given a state that knows the windows before: a recurrent network (Cho et al. 2014) over their latents, which begins
either *anywhere*, nothing being known, or *at the start* of a piece.

    anywhere            p(z): the aggregate posterior
    start, then z1, ...  p(z1) p(z2 | z1) ...: whole pieces

Because noise goes through an invertible map, whatever is done to a standard normal (a draw, a small step, a great
circle from one sample to another) can be done to the noise of this prior.

Shapes:
    B  latents    W  consecutive windows    Z  latent    D  width of the state
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
    """Shifts and scales one half of the dimensions by what the other half and the state say."""

    def __init__(self, latent: int, odd: bool) -> None:
        super().__init__()
        self.first = nn.Linear(latent + WIDTH, HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, 2 * latent)
        self.odd = odd

    def _change(
        self, kept: Float[Tensor, "B Z"], moves: Float[Tensor, " Z"], state: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Shift and log-scale of the dimensions that move, zero elsewhere."""
        hidden = torch.relu(self.first(torch.cat([kept, state], -1)))
        shift, scale = self.last(torch.relu(self.second(hidden))).chunk(2, -1)
        return shift * moves, LARGEST * torch.tanh(scale / LARGEST) * moves

    def _moves(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, " Z"]:
        return (torch.arange(z.shape[-1], device=z.device) % 2 == self.odd).to(z.dtype)

    def to_noise(
        self, z: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, " B"]]:
        """One step towards the noise, and the logarithm of how much it stretches volumes."""
        moves = self._moves(z)
        shift, scale = self._change(z * (1 - moves), moves, state)
        return (z - shift) * torch.exp(-scale), -scale.sum(-1)

    def to_latent(self, noise: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]) -> Float[Tensor, "B Z"]:
        """Inverts `to_noise`."""
        moves = self._moves(noise)
        shift, scale = self._change(noise * (1 - moves), moves, state)
        return noise * torch.exp(scale) + shift


class Prior(nn.Module):
    """The prior of this module's title.

    Attributes:
        center, spread: mean and standard deviation of the latents it was fitted to, per dimension.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))
        self.begin = nn.Parameter(torch.empty(2, WIDTH))  # anywhere; at the start of a piece
        self.next = nn.GRUCell(latent, WIDTH)
        self.couplings = nn.ModuleList(Coupling(latent, odd=bool(i % 2)) for i in range(COUPLINGS))

    def initialise(self, generator: torch.Generator) -> None:
        """Gives every weight its first value: a standard normal, whatever came before."""
        nn.init.zeros_(self.center)
        nn.init.ones_(self.spread)
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
        """The state once one more window is known."""
        new: Tensor = self.next((z - self.center) / self.spread, state)
        return new

    def to_noise(
        self, z: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, " B"]]:
        """The noise that `to_latent` makes these latents of, and the logarithm of how much volumes stretch."""
        noise = (z - self.center) / self.spread
        stretch = -torch.log(self.spread).sum().expand(len(z))
        for coupling in self._flow:
            noise, more = coupling.to_noise(noise, state)
            stretch = stretch + more
        return noise, stretch

    def to_latent(self, noise: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]) -> Float[Tensor, "B Z"]:
        """The latents that standard normal noise becomes."""
        for coupling in reversed(self._flow):
            noise = coupling.to_latent(noise, state)
        return noise * self.spread + self.center

    def nats(self, z: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """-log p(z) of each latent, given its state."""
        noise, stretch = self.to_noise(z, state)
        return normal_nats(noise) - stretch

    def nats_of_chains(self, z: Float[Tensor, "B W Z"], known: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
        """-log p of each latent of consecutive windows, given those before it.

        Args:
            known: 1 where the first window is the first of its piece, 0 where nothing is known of what came before.
        """
        state = torch.where(known[:, None] > 0, self.state(len(z), True), self.state(len(z)))
        states = []
        for w in range(z.shape[1]):
            states.append(state)
            state = self.after(state, z[:, w])
        return self.nats(z.flatten(0, 1), torch.stack(states, 1).flatten(0, 1)).view(z.shape[:2])


def normal_nats(z: Float[Tensor, "B Z"]) -> Float[Tensor, " B"]:
    """-log p(z) under a standard normal."""
    return 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
