"""A prior that is fitted to a model's latents, and to their order in pieces.

The posteriors of a trained model cover a small part of the standard normal that the KL term pulls them to. A sample
from the standard normal lies between them, and the decoder was not trained on it. So an invertible network (affine
couplings; Dinh et al. 2017, "Density estimation using Real NVP") maps latents to a standard normal. It depends on a
state: a recurrent network (Cho et al. 2014) over the latents before, which begins either *anywhere*, with nothing
known, or *at the start* of a piece.

    anywhere           p(z): the aggregate posterior
    at the start       p(z_1) p(z_2 | z_1) ...: whole pieces

If latent dimensions belong to beats (`models.draft`), the recurrent network advances by beats, and the dimensions of a
beat are mapped given all beats before it. Otherwise a window counts as one beat.

The map is invertible, so all that can be done to a standard normal (a draw, a small step, a great circle between two
points) can be done to the noise of this prior.

Shapes:
    B  latents    W  consecutive windows    Z  latent    Q  beats    O  dimensions of a beat    D  width of the state

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
LARGEST = 2.0  # absolute value of a coupling's log-scale


class Coupling(nn.Module):
    """Shifts and scales one half of a beat's dimensions, depending on the other half and the state."""

    def __init__(self, dimensions: int, odd: bool) -> None:
        super().__init__()
        self.first = nn.Linear(dimensions + WIDTH, HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, 2 * dimensions)
        self.odd = odd

    def _affine(
        self, z: Float[Tensor, "*B O"], state: Float[Tensor, "*B D"]
    ) -> tuple[Float[Tensor, "*B O"], Float[Tensor, "*B O"]]:
        """Shift and log-scale of the half that changes, 0 for the other half, which alone they depend on."""
        changes = (torch.arange(z.shape[-1], device=z.device) % 2 == self.odd).to(z.dtype)
        hidden = torch.relu(self.first(torch.cat([z * (1 - changes), state], -1)))
        shift, scale = self.last(torch.relu(self.second(hidden))).chunk(2, -1)
        return shift * changes, LARGEST * torch.tanh(scale / LARGEST) * changes

    def to_noise(
        self, z: Float[Tensor, "*B O"], state: Float[Tensor, "*B D"]
    ) -> tuple[Float[Tensor, "*B O"], Float[Tensor, "*B"]]:
        """One step towards the noise, and its log-determinant."""
        shift, scale = self._affine(z, state)
        return (z - shift) * torch.exp(-scale), -scale.sum(-1)

    def to_latent(self, noise: Float[Tensor, "*B O"], state: Float[Tensor, "*B D"]) -> Float[Tensor, "*B O"]:
        """Inverts `to_noise`."""
        shift, scale = self._affine(noise, state)
        return noise * torch.exp(scale) + shift


class Prior(nn.Module):
    """The prior of this module.

    Attributes:
        center, spread: mean and standard deviation of each dimension of the latents that it was fitted to.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, latent: int, beats: int = 1) -> None:
        """`beats` of a window; reduced to the next number that divides the dimensions evenly."""
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
        """Gives every weight its first value: the prior is a standard normal in every state."""
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
        """The state after one more window."""
        after: Tensor = self.next(self._by_beat(z), state[None].contiguous())[1][0]
        return after

    def _by_beat(self, z: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B Q O"]:
        return ((z - self.center) / self.spread).view(*z.shape[:-1], self.beats, -1)

    def _noise(
        self, beats: Float[Tensor, "*B Q O"], states: Float[Tensor, "*B Q D"]
    ) -> tuple[Float[Tensor, "*B Z"], Float[Tensor, "*B"]]:
        """The noise of beats, each given the state before it, and the log-determinant of the map."""
        states = states + self.place
        log_det = -torch.log(self.spread).sum()
        for coupling in self._flow:
            beats, own = coupling.to_noise(beats, states)
            log_det = log_det + own.sum(-1)
        return beats.flatten(-2), log_det

    def to_noise(
        self, z: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, " B"]]:
        """Inverts `to_latent`; also the log-determinant of the map."""
        beats = self._by_beat(z)
        return self._noise(beats, self._states(beats, state))

    def _states(self, beats: Float[Tensor, "B Q O"], state: Float[Tensor, "B D"]) -> Float[Tensor, "B Q D"]:
        """The state before each beat; `state`: before the first."""
        later = self.next(beats[:, :-1], state[None].contiguous())[0] if beats.shape[1] > 1 else state[:, None][:, :0]
        return torch.cat([state[:, None], later], 1)

    def to_latent(self, noise: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]) -> Float[Tensor, "B Z"]:
        """The latents that the noise is mapped to."""
        beats = []
        hidden = state[None].contiguous()
        for beat, place in zip(noise.view(len(noise), self.beats, -1).unbind(1), self.place, strict=True):
            for coupling in reversed(self._flow):
                beat = coupling.to_latent(beat, hidden[0] + place)
            beats.append(beat)
            hidden = self.next(beat[:, None], hidden)[1]
        return torch.cat(beats, 1) * self.spread + self.center

    def nats(self, z: Float[Tensor, "B Z"], state: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """-log p(z) of each latent, given its state."""
        noise, log_det = self.to_noise(z, state)
        return normal_nats(noise) - log_det

    def nats_of_chains(self, z: Float[Tensor, "B W Z"], at_start: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
        """-log p of each latent of consecutive windows, given those before it.

        Args:
            at_start: 1 if the first window begins a piece, 0 if nothing is known of the steps before it.
        """
        state = torch.where(at_start[:, None] > 0, self.state(len(z), True), self.state(len(z)))
        beats = self._by_beat(z)  # [B, W, Q, O]
        states = self._states(beats.flatten(1, 2), state).view(*beats.shape[:3], -1)
        noise, log_det = self._noise(beats, states)
        return normal_nats(noise) - log_det


def normal_nats(z: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B"]:
    """-log p(z) under a standard normal."""
    return 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
