"""What all modes of generation share: the context of a job, the samples that a mode returns, random numbers, parents.

Sample i depends on (seed, job, i) alone. Its generator is numpy's PCG64, seeded by
`SeedSequence([seed, hash of the job's name, i])`. For each window it draws the noise of a latent and then, if cells are
drawn, one number per cell. The choices of a sample (a window of a split, a radius, weights, the size of a change) come
from a second generator, so that a choice does not shift the other numbers.

Shapes:
    B  samples of a block    Z  latent    M  parents    T  steps of a window    N  parts    K  planes    P  pitches

Offers: `Context`, `Samples`; `Draws`, `drawn_from`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int

from midivae.config.jobs import Job
from midivae.config.streams import Stream
from midivae.generate.parents import Pool
from midivae.models import WindowModel, coding
from midivae.models.chance import Chance
from midivae.models.conditions import Conditions
from midivae.models.controls import Controls
from midivae.models.flow import Prior
from midivae.models.moves import Space
from midivae.music.roll import Layout
from midivae.windows.place import bar_lengths

Latents = Float32[np.ndarray, "B Z"]
Planes = Bool[np.ndarray, "B _ N 2 P"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Context:
    """Everything that decides the samples of a job.

    Attributes:
        seed: the seed of the stage.
        fitted: whether moves are made in the noise of the model's fitted prior.
        parents: the windows of the parents, if the job has parents.
        attributes: the directions of attributes, if the job edits or keeps to one key.
        heartbeat: called before each window of a long sample.
    """

    job: Job
    seed: int
    model: WindowModel
    chance: Chance
    fitted: bool
    parents: Pool | None = None
    attributes: Controls | None = None
    heartbeat: Callable[[], object] = bool

    @property
    def pool(self) -> Pool:
        """The windows of the parents."""
        return _present(self.parents, "parents")

    @property
    def controls(self) -> Controls:
        """The directions of attributes."""
        return _present(self.attributes, "controls")

    @property
    def prior(self) -> Prior:
        """The model's fitted prior."""
        return _present(self.model.prior, "fitted prior")

    @property
    def layout(self) -> Layout:
        """The layout of the samples."""
        return self.model.config.layout

    @property
    def space(self) -> Space:
        """The space in which moves are made."""
        return Space(self.model.prior if self.fitted else None)

    # --- random numbers
    def draws(self, numbers: Iterable[int]) -> Draws:
        """The random numbers of samples."""
        cells = self.model.config.window_shape if self.chance.temperature is not None else None
        return Draws(self.seed, self.job.name, numbers, self.model.latent, cells)

    def choices(self, numbers: Iterable[int]) -> list[np.random.Generator]:
        """A generator for the choices of each sample."""
        return [_generator(Stream.CHOICES, self.seed, self.job.name, number) for number in numbers]

    # --- parents
    def parent_windows(self, numbers: range, choices: list[np.random.Generator]) -> Int[np.ndarray, " B"]:
        """The window that each sample comes from; the parents of the job take turns."""
        parents = len(self.pool.of_parent)
        return np.array([self.pool.any_window(i % parents, rng) for i, rng in zip(numbers, choices, strict=True)])

    def encoded(self, index: Int[np.ndarray, " B"]) -> tuple[Latents, Bool[np.ndarray, "B T N 2 P"]]:
        """The latents of parents' windows, and the windows. A sample of the same model keeps its own latent."""
        planes = self.pool.windows(index, self.model.config.view)
        z = coding.encode(self.model, planes)
        for row, window in enumerate(index.tolist()):
            if window in self.pool.z:
                own = self.pool.z[window]  # both latents, or the coarse one alone
                z[row, : len(own)] = own
        return z, planes

    def labels(self, index: Int[np.ndarray, " B *M"]) -> list[list[str]]:
        """The labels of the parents of each sample, for the catalog."""
        return [[self.pool.labels[i] for i in np.atleast_1d(row).tolist()] for row in index]

    def places(self, index: Int[np.ndarray, " B"]) -> Conditions:
        """The places of parents' windows."""
        return Conditions(place=self.pool.places(index, self.model.config.view.steps))

    def bars_of(self, index: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """Steps of a bar of parents' windows."""
        return bar_lengths(self.pool.places(index, 1))

    # --- music
    @property
    def fidelity(self) -> float:
        """The share of fine latent dimensions that the job uses; 0 for modes without parents' notes."""
        return getattr(self.job, "fidelity", 0.0)

    @property
    def n_kept(self) -> int:
        """How many dimensions of a latent the catalog keeps: those that decide the music."""
        return self.model.latent if self.fidelity else self.model.coarse

    def kept(self, z: Latents) -> Float32[np.ndarray, "B _"]:
        """What the catalog keeps of latents."""
        return z[:, : self.n_kept]

    def decode(
        self,
        z: Latents,
        uniform: Float32[np.ndarray, "B T N K P"] | None,
        conditions: Conditions = Conditions(),  # noqa: B008  frozen
    ) -> Bool[np.ndarray, "B T N 2 P"]:
        """The windows of latents, with the fidelity of the job."""
        fidelity = np.full(len(z), self.fidelity, np.float32)
        return coding.decode(self.model, z, self.chance, uniform, replace(conditions, fidelity=fidelity))


def _present(value: Value | None, name: str) -> Value:
    if value is None:
        raise TypeError(f"the mode of this job needs {name}")
    return value


@dataclass(frozen=True)
class Samples:
    """A block of samples.

    Attributes:
        z: what the catalog keeps of the latents of each sample, one after the other if it has several windows.
        origin: columns of the catalog that say where each sample comes from; columns that are absent have their
            default value.
        steps_per_bar: the metre of each sample, which is that of its parent; None: the model's.
    """

    z: Float32[np.ndarray, "B _"]
    planes: Planes
    origin: dict[str, list[Any]] = field(default_factory=dict)
    steps_per_bar: Int[np.ndarray, " B"] | None = None


# --- random numbers ---------------------------------------------------------------------------------------------------
class Draws:
    """The random numbers of some samples of a job, drawn in turn."""

    def __init__(
        self, seed: int, job: str, numbers: Iterable[int], latent: int, cells: tuple[int, int, int, int] | None
    ) -> None:
        """Seeds a generator for each sample.

        Args:
            seed: the seed of the stage.
            job: the name of the job.
            numbers: the numbers of the samples.
            latent: Z.
            cells: shape of a decoded window, [T, N, K, P]; None: no numbers per cell are needed.
        """
        self._latent = latent
        self._cells = cells
        self._rngs = [_generator(Stream.SAMPLE, seed, job, number) for number in numbers]

    def noise(self) -> Latents:
        """Standard normal noise, one latent per sample."""
        noise = np.empty((len(self._rngs), self._latent), np.float32)
        for row, rng in zip(noise, self._rngs, strict=True):
            rng.standard_normal(out=row, dtype=np.float32)
        return noise

    def cells(self) -> Float32[np.ndarray, "B T N K P"] | None:
        """Numbers in [0, 1) for the cells of one window per sample; None: the job does not draw cells."""
        if self._cells is None:
            return None
        uniform = np.empty((len(self._rngs), *self._cells), np.float32)
        for window, rng in zip(uniform, self._rngs, strict=True):
            rng.random(out=window, dtype=np.float32)
        return uniform


def _generator(stream: Stream, seed: int, job: str, number: int) -> np.random.Generator:
    name = int.from_bytes(hashlib.sha256(job.encode()).digest()[:8], "little")
    return stream.rng(seed, job=name, sample=number)


def drawn_from(limits: float | tuple[float, float], rng: np.random.Generator) -> float:
    """The number itself, or a number drawn evenly between two limits."""
    return float(rng.uniform(*limits)) if isinstance(limits, tuple) else limits
