"""A prior that is fitted to a model's latents: what the decoder was trained on, and which window follows which.

A standard normal is where the KL term pulls the posteriors, not where they are: where the latent holds much, samples
from a standard normal fall between them, and a model that reconstructs well plays junk. So latents are mapped to a
standard normal by an invertible network (affine couplings; Dinh et al. 2017, "Density estimation using Real NVP"),
given a state that knows what came before: a recurrent network (Cho et al. 2014) over latents, which begins either
*anywhere*, nothing being known, or *at the start* of a piece.

Where dimensions belong to beats (`models.draft`), the network goes from beat to beat instead of from window to window,
and each beat's dimensions are mapped given all beats before them. Elsewhere a window is a single beat to it.

    anywhere            p(z): the aggregate posterior
    start, then z1, ...  p(z1) p(z2 | z1) ...: whole pieces

Because noise goes through an invertible map, whatever is done to a standard normal (a draw, a small step, a great
circle from one sample to another) can be done to the noise of this prior.

Shapes:
    B  latents    W  consecutive windows    Z  latent    Q  beats    O  dimensions of a beat    D  width of the state
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
    """Shifts and scales one half of a beat's dimensions by what the other half and the state say."""

    def __init__(self, dimensions: int, odd: bool) -> None:
        super().__init__()
        self.first = nn.Linear(dimensions + WIDTH, HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, 2 * dimensions)
        self.odd = odd

    def _change(
        self, kept: Float[Tensor, "*B O"], moves: Float[Tensor, " O"], state: Float[Tensor, "*B D"]
    ) -> tuple[Float[Tensor, "*B O"], Float[Tensor, "*B O"]]:
        """Shift and log-scale of the dimensions that move, zero elsewhere."""
        hidden = torch.relu(self.first(torch.cat([kept, state], -1)))
        shift, scale = self.last(torch.relu(self.second(hidden))).chunk(2, -1)
        return shift * moves, LARGEST * torch.tanh(scale / LARGEST) * moves

    def _moves(self, z: Float[Tensor, "*B O"]) -> Float[Tensor, " O"]:
        return (torch.arange(z.shape[-1], device=z.device) % 2 == self.odd).to(z.dtype)

    def to_noise(
        self, z: Float[Tensor, "*B O"], state: Float[Tensor, "*B D"]
    ) -> tuple[Float[Tensor, "*B O"], Float[Tensor, "*B"]]:
        """One step towards the noise, and the logarithm of how much it stretches volumes."""
        moves = self._moves(z)
        shift, scale = self._change(z * (1 - moves), moves, state)
        return (z - shift) * torch.exp(-scale), -scale.sum(-1)

    def to_latent(self, noise: Float[Tensor, "*B O"], state: Float[Tensor, "*B D"]) -> Float[Tensor, "*B O"]:
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

    def __init__(self, latent: int, beats: int = 1) -> None:
        """A prior of windows of so many beats; or of fewer, longer ones that can share the dimensions evenly."""
        super().__init__()
        self.beats = max(n for n in range(1, beats + 1) if latent % n == 0)
        own = latent // self.beats
        self.register_buffer("center", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))
        self.begin = nn.Parameter(torch.empty(2, WIDTH))  # anywhere; at the start of a piece
        self.place = nn.Parameter(torch.empty(self.beats, WIDTH))
        self.next = nn.GRU(own, WIDTH, batch_first=True)
        self.couplings = nn.ModuleList(Coupling(own, odd=bool(i % 2)) for i in range(COUPLINGS))

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
        new: Tensor = self.next(self._by_beat(z), state[None].contiguous())[1][0]
        return new

    def _by_beat(self, z: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B Q O"]:
        return ((z - self.center) / self.spread).view(*z.shape[:-1], self.beats, -1)

    def _noise(
        self, beats: Float[Tensor, "*B Q O"], states: Float[Tensor, "*B Q D"]
    ) -> tuple[Float[Tensor, "*B Z"], Float[Tensor, "*B"]]:
        """Beats as noise, each given the state before it, and the logarithm of how much volumes stretch."""
        states = states + self.place
        stretch = -torch.log(self.spread).sum()
        for coupling in self._flow:
            beats, more = coupling.to_noise(beats, states)
            stretch = stretch + more.sum(-1)
        return beats.flatten(-2), stretch

    def to_noise(
        self, z: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, " B"]]:
        """The noise that `to_latent` makes these latents of, and the logarithm of how much volumes stretch."""
        beats = self._by_beat(z)
        return self._noise(beats, self._states(beats, state))

    def _states(self, beats: Float[Tensor, "B Q O"], state: Float[Tensor, "B D"]) -> Float[Tensor, "B Q D"]:
        """The state before each of these beats; `state`: before the first."""
        later = self.next(beats[:, :-1], state[None].contiguous())[0] if beats.shape[1] > 1 else state[:, None][:, :0]
        return torch.cat([state[:, None], later], 1)

    def to_latent(self, noise: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]) -> Float[Tensor, "B Z"]:
        """The latents that standard normal noise becomes."""
        made = []
        hidden = state[None].contiguous()
        for beat, place in zip(noise.view(len(noise), self.beats, -1).unbind(1), self.place, strict=True):
            for coupling in reversed(self._flow):
                beat = coupling.to_latent(beat, hidden[0] + place)
            made.append(beat)
            hidden = self.next(beat[:, None], hidden)[1]
        return torch.cat(made, 1) * self.spread + self.center

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
        beats = self._by_beat(z)  # [B, W, Q, O]
        states = self._states(beats.flatten(1, 2), state).view(*beats.shape[:3], -1)
        noise, stretch = self._noise(beats, states)
        return normal_nats(noise) - stretch


def normal_nats(z: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B"]:
    """-log p(z) under a standard normal."""
    return 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
