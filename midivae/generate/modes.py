"""The modes of generation: how each makes a block of samples.

A mode gets random numbers of its samples, a model, and the windows that its parents stand for; it gives latents, rolls
and what the catalog says of their origin. Sample i depends on (seed, job, i) alone: its generator is numpy's PCG64
seeded by `SeedSequence([seed, hash of the job's name, i])`, which draws, window after window, the noise of a latent and
then one number per cell, where the job draws cells. What a sample chooses (a window of a split, a radius, weights, how
much of a change) comes from a generator of its own, so that a choice moves no other number. The steps of one path
between two parents are seeded by the number of the path instead, so that they differ by their latents alone.

Shapes:
    B  samples of a block    Z  latent    D  state of a prior    M  parents    T  steps of a window
    N  parts                 K  planes    P  pitches             S  strengths, and none

Offers: `Setting`, `Made`, `make`; `Draws`; `encoded`; `Edited` and `edited`; `to_key`, `windows_of`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from midivae.config.jobs import Blend, Continue, Edit, Ensemble, Job, Song, Vary
from midivae.errors import ParamsError
from midivae.generate.parents import Pool
from midivae.measures import features
from midivae.measures.keys import best_scale, fifths, in_scale, major_of
from midivae.measures.notes import chroma, transposed
from midivae.models import WindowModel, coding, latent
from midivae.models.base import Chance
from midivae.models.flow import Prior
from midivae.models.latent import Changes, Controls, Space
from midivae.music.roll import Layout

Latents = Float32[np.ndarray, "B Z"]
Planes = Bool[np.ndarray, "B _ N 2 P"]
STRENGTHS = (1.0, 0.5, 1.5, 2.0)  # of an edit: the one is kept that misses least
WAYS = 2  # to go on, of which songs choose the one that is in their key
ASIDE = 2.5  # how much less likely, as a logit, music that keeps to one key plays notes from outside it
CHOICES = 1  # spawn key of the generators of choices


@dataclass(frozen=True)
class Setting:
    """All that decides what the samples of a job are.

    Attributes:
        seed: of the stage.
        fitted: whether moves are made in the noise of the model's fitted prior.
        parents: of a job that has some.
        attributes: of a job that edits, or keeps to one key.
        beats_per_bar: for what is measured in bars.
        alive: called before each window of music: a sign of life.
    """

    job: Job
    seed: int
    model: WindowModel
    chance: Chance
    fitted: bool
    beats_per_bar: int = 4
    parents: Pool | None = None
    attributes: Controls | None = None
    alive: Callable[[], object] = bool

    @property
    def pool(self) -> Pool:
        """The windows of the parents."""
        if self.parents is None:
            raise TypeError(f"job {self.job.name!r} was given no parents")
        return self.parents

    @property
    def controls(self) -> Controls:
        """The directions of attributes."""
        if self.attributes is None:
            raise TypeError(f"job {self.job.name!r} was given no controls")
        return self.attributes

    @property
    def prior(self) -> Prior:
        """The model's fitted prior."""
        if self.model.prior is None:
            raise TypeError(f"model {self.model.name!r} has no fitted prior")
        return self.model.prior

    @property
    def layout(self) -> Layout:
        """Of the samples."""
        return self.model.config.layout

    @property
    def space(self) -> Space:
        """Where moves are made."""
        return Space(self.model.prior if self.fitted else None)


@dataclass(frozen=True)
class Made:
    """A block of samples.

    Attributes:
        z: the latents of each, one after the other where it has several.
        origin: columns of the catalog that say where each comes from; what is not there is the same for all.
    """

    z: Latents
    planes: Planes
    origin: dict[str, list[Any]] = field(default_factory=dict)


def make(setting: Setting, samples: range) -> Made:
    """The samples with these numbers, at most `coding.BLOCK`, the first at the start of a block."""
    made = _MODES[setting.job.mode](setting, setting.job, samples)
    if setting.job.transpose:
        shift = np.full(len(samples), setting.job.transpose)
        made = Made(made.z, transposed(made.planes, setting.layout, shift), made.origin)
    return made


# --- random numbers ---------------------------------------------------------------------------------------------------
class Draws:
    """The random numbers of some samples of a job, drawn in turn."""

    def __init__(
        self, seed: int, job: str, numbers: Iterable[int], latent: int, cells: tuple[int, int, int, int] | None
    ) -> None:
        """Those of the samples with these numbers.

        Args:
            seed: of the stage.
            job: its name.
            latent: Z.
            cells: shape of what the model decodes, [T, N, K, P]; None: no numbers per cell are needed.
        """
        self._latent = latent
        self._cells = cells
        self._rngs = [_generator(seed, job, number) for number in numbers]

    @classmethod
    def of(cls, setting: Setting, numbers: Iterable[int]) -> Draws:
        """Those that a job needs."""
        drawn = setting.model.config.window_shape if setting.chance.temperature is not None else None
        return cls(setting.seed, setting.job.name, numbers, setting.model.latent, drawn)

    def noise(self) -> Latents:
        """Standard normal noise for a latent of each sample."""
        drawn = np.empty((len(self._rngs), self._latent), np.float32)
        for row, rng in zip(drawn, self._rngs, strict=True):
            rng.standard_normal(out=row, dtype=np.float32)
        return drawn

    def cells(self) -> Float32[np.ndarray, "B T N K P"] | None:
        """Numbers in [0, 1) for the cells of a window of each sample; None: the job draws no cells."""
        if self._cells is None:
            return None
        drawn = np.empty((len(self._rngs), *self._cells), np.float32)
        for window, rng in zip(drawn, self._rngs, strict=True):
            rng.random(out=window, dtype=np.float32)
        return drawn


def _generator(seed: int, job: str, number: int, *spawn_key: int) -> np.random.Generator:
    name = int.from_bytes(hashlib.sha256(job.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, name, number], spawn_key=spawn_key)))


def _choices(setting: Setting, numbers: Iterable[int]) -> list[np.random.Generator]:
    """The generators of what samples choose."""
    return [_generator(setting.seed, setting.job.name, number, CHOICES) for number in numbers]


def _between(limits: float | tuple[float, float], rng: np.random.Generator) -> float:
    """The number, or one drawn evenly between two."""
    return float(rng.uniform(*limits)) if isinstance(limits, tuple) else limits


# --- parents ----------------------------------------------------------------------------------------------------------
def _chosen(pool: Pool, parent: int, rng: np.random.Generator) -> int:
    """A window of those that a parent stands for."""
    windows = pool.of_parent[parent]
    return int(windows[rng.integers(len(windows))])


def _one_each(setting: Setting, samples: range, choices: list[np.random.Generator]) -> Int[np.ndarray, " B"]:
    """The window that each sample comes from."""
    pool = setting.pool
    parents = len(pool.of_parent)
    return np.array([_chosen(pool, i % parents, rng) for i, rng in zip(samples, choices, strict=True)])


def encoded(
    model: WindowModel, pool: Pool, index: Int[np.ndarray, " B"]
) -> tuple[Latents, Bool[np.ndarray, "B T N 2 P"]]:
    """The latents of windows, and the windows; a sample of this model has the latent that it was made of."""
    planes = pool.windows(index, model.config.view)
    z = coding.encode(model, planes)
    for row, window in enumerate(index.tolist()):
        if window in pool.z:
            z[row] = pool.z[window][: model.latent]
    return z, planes


def _labels(setting: Setting, index: Int[np.ndarray, B * M]) -> list[list[str]]:
    labels = setting.pool.labels
    return [[labels[i] for i in np.atleast_1d(row).tolist()] for row in index]


# --- one window -------------------------------------------------------------------------------------------------------
def _sample(setting: Setting, job: Job, samples: range) -> Made:
    draws = Draws.of(setting, samples)
    z = setting.space.latent(draws.noise())
    return Made(z, coding.decode(setting.model, z, setting.chance, draws.cells()))


def _reconstruct(setting: Setting, job: FromOne, samples: range) -> Made:
    draws = Draws.of(setting, samples)
    draws.noise()
    index = _one_each(setting, samples, _choices(setting, samples))
    z, _ = encoded(setting.model, setting.pool, index)
    planes = coding.decode(setting.model, z, setting.chance, draws.cells())
    return Made(z, planes, {"parents": _labels(setting, index)})


def _vary(setting: Setting, job: Vary, samples: range) -> Made:
    draws, choices = Draws.of(setting, samples), _choices(setting, samples)
    noise = draws.noise()
    index = _one_each(setting, samples, choices)
    radius = np.array([_between(job.radius, rng) for rng in choices])
    z, _ = encoded(setting.model, setting.pool, index)
    z = _around(setting, z, radius, noise)
    planes = coding.decode(setting.model, z, setting.chance, draws.cells())
    return Made(z, planes, {"parents": _labels(setting, index), "radius": radius.tolist()})


def _around(setting: Setting, z: Latents, radius: Float[np.ndarray, " B"], noise: Latents) -> Latents:
    """Latents at a distance from others; a radius of 0 changes no bit."""
    space = setting.space
    moved = space.latent(latent.vary(space.noise(z), radius, noise))
    return np.where(radius[:, None] > 0, moved, z)


def _blend(setting: Setting, job: Blend, samples: range) -> Made:
    along = job.method == "slerp"
    numbers = [i // job.steps for i in samples] if along else list(samples)  # the steps of a path share their numbers
    draws, choices = Draws.of(setting, numbers), _choices(setting, numbers)
    draws.noise()
    pool, space = setting.pool, setting.space
    m = len(job.parents)
    index = np.array([[_chosen(pool, parent, rng) for parent in range(m)] for rng in choices])  # [B, M]
    z = np.stack([encoded(setting.model, pool, index[:, parent])[0] for parent in range(m)], axis=1)  # [B, M, Z]
    noise = np.stack([space.noise(z[:, parent]) for parent in range(m)], axis=1)
    if along:
        share = np.array([i % job.steps for i in samples]) / (job.steps - 1)
        weights = np.stack([1 - share, share], axis=1)
        mixed = latent.slerp(noise[:, 0], noise[:, 1], share)
    else:
        weights = np.stack([_weights(job, rng) for rng in choices])
        mixed = latent.barycentre(noise, weights)
    mixed = space.latent(mixed)
    for parent in range(m):  # where one parent has all the weight, it is that parent, to the last bit
        mixed = np.where(weights[:, parent, None] == 1, z[:, parent], mixed)
    planes = coding.decode(setting.model, mixed, setting.chance, draws.cells())
    return Made(mixed, planes, {"parents": _labels(setting, index), "weights": weights.tolist()})


def _weights(job: Blend, rng: np.random.Generator) -> Float[np.ndarray, " M"]:
    """The job's weights, or some drawn evenly from all that sum to 1."""
    if job.weights is not None:
        return np.array(job.weights)
    drawn = rng.standard_exponential(len(job.parents))
    return np.asarray(drawn / drawn.sum())


def _edit(setting: Setting, job: Edit, samples: range) -> Made:
    draws, choices = Draws.of(setting, samples), _choices(setting, samples)
    draws.noise()
    index = _one_each(setting, samples, choices)
    ranges = job.changes or {name: setting.controls.usual(name) for name in setting.controls.offered}
    asked = [_asked(ranges, job.together, i, rng) for i, rng in zip(samples, choices, strict=True)]
    z, _ = encoded(setting.model, setting.pool, index)
    changes = {name: np.array([each.get(name, 0.0) for each in asked]) for name in ranges}
    mine = {name: np.array([name in each for each in asked]) for name in ranges}
    uniform = draws.cells()

    def play(moved: Float32[np.ndarray, "S B Z"]) -> Bool[np.ndarray, "S B T N 2 P"]:
        return np.stack([coding.decode(setting.model, each, setting.chance, uniform) for each in moved])

    best = edited(setting.controls, setting.layout, z, changes, mine, play)
    edits = [best.as_json(row, each) for row, each in enumerate(asked)]
    return Made(best.z, best.planes, {"parents": _labels(setting, index), "edits": edits})


@dataclass(frozen=True)
class Edited:
    """Windows with attributes changed, and by how much each attribute changed (`latent.measured`)."""

    z: Latents
    planes: Planes
    found: dict[str, Float[np.ndarray, " B"]]

    def as_json(self, row: int, asked: Mapping[str, float]) -> str:
        """What was asked of a row, and what was measured, in 6 digits; what has no value is null."""

        def plain(values: Mapping[str, float]) -> dict[str, float | None]:
            return {name: None if np.isnan(value) else float(f"{value:.6g}") for name, value in values.items()}

        measured = {name: float(values[row]) for name, values in self.found.items()}
        return json.dumps({"asked": plain(asked), "measured": plain(measured)})


def edited(
    controls: Controls,
    layout: Layout,
    z: Latents,
    changes: Changes,
    asked: Mapping[str, Bool[np.ndarray, " B"]],
    play: Callable[[Float32[np.ndarray, "S B Z"]], Bool[np.ndarray, "S B T N 2 P"]],
) -> Edited:
    """Windows changed as asked: of each, among `STRENGTHS`, the one that misses least.

    Args:
        z: the latents that are changed.
        changes, asked: as `Controls.misses` has them.
        play: gives the music of latents: of these as they are, and of these moved by each strength.
    """
    moved = np.stack([z, *(controls.moved(z, changes, strength) for strength in STRENGTHS)])
    planes = play(moved)
    attributes = [features.attributes(each, layout) for each in planes]
    found = [latent.measured(attributes[0], each) for each in attributes]
    misses = [np.full(len(z), np.inf), *(controls.misses(changes, asked, each) for each in found[1:])]
    best, row = np.argmin(misses, axis=0), np.arange(len(z))
    taken = {name: np.stack([each[name] for each in found])[best, row] for name in found[0]}
    return Edited(moved[best, row], planes[best, row], taken)


def _asked(
    ranges: dict[str, float | tuple[float, float]], together: bool, number: int, rng: np.random.Generator
) -> dict[str, float]:
    """The changes of one sample."""
    names = list(ranges)
    mine = names if together else [names[number % len(names)]]
    return {name: _between(ranges[name], rng) for name in mine}


# --- windows that follow each other -----------------------------------------------------------------------------------
def _next(setting: Setting, noise: Latents, state: Float32[np.ndarray, "B D"], key: _Key | None) -> Latents:
    """The latents of the windows that come next, moved home where they are to stay in a key."""
    z = coding.latents(setting.prior, noise, state)
    return z if key is None else key.home(setting.controls, z)


def _go_on(setting: Setting, draws: Draws, z: Latents, music: Planes, key: _Key | None) -> Planes:
    """The music with one more window; pitches from outside its key are played less."""
    setting.alive()
    context = getattr(setting.model.config.network, "context", 0)
    past = music[:, max(0, music.shape[1] - context) :] if context else music[:, :0]
    uniform = draws.cells()
    if uniform is not None and key is not None:
        frame = uniform[:, :, :, -1]
        frame[:] = np.where(key.outside[:, None], _lowered(frame, ASIDE), frame)
    return np.concatenate([music, coding.decode(setting.model, z, setting.chance, uniform, past)], axis=1)


def _lowered(uniform: Float32[np.ndarray, "*cells"], aside: float) -> Float32[np.ndarray, "*cells"]:
    """Numbers for cells whose logits are to count as lower by `aside`.

    A cell is set where sigmoid(logit) > u, and so sigmoid(logit - a) > u where sigmoid(logit) > sigmoid(logit(u) + a).
    """
    odds = np.exp(-aside) * (1 - uniform) / np.maximum(uniform, 1e-7)
    lowered: np.ndarray = 1 / (1 + odds)
    return lowered.astype(np.float32)


@dataclass(frozen=True)
class _Key:
    """The keys that music keeps to: of leads, or of songs' first windows.

    Attributes:
        best: the key (`keys.best_scale`) of what was played.
        outside: the pitches of each part that are not in its scale; none after silence, and none of drums.
        centroid: where its other notes lie on the circle of fifths; NaN after silence. Those outside would pull it
            towards the middle, where all keys are alike, and what comes home there is in none.
    """

    best: Int[np.ndarray, " B"]
    outside: Bool[np.ndarray, "B N P"]
    centroid: Float[np.ndarray, "B 2"]

    @classmethod
    def of(cls, music: Planes, layout: Layout) -> _Key:
        """The keys of what was played."""
        counts = chroma(music, layout)
        key, _ = best_scale(counts)
        inside = in_scale(key) | (key < 0)[:, None]  # [B, 12]
        pitch = layout.pitch_low + np.arange(layout.pitches)
        pitched = np.isin(np.arange(len(layout.parts)), layout.pitched)
        outside = ~inside[:, None, pitch % 12] & pitched[:, None]
        return cls(key, outside, fifths(counts * inside))

    def first_within(
        self, ways: Sequence[tuple[Latents, Planes]], layout: Layout, known: int
    ) -> tuple[Latents, Planes]:
        """Of several ways to go on from `known` steps, for each sample the first that is in the key, or the first."""
        z, music = ways[0]
        for other_z, other in ways[1:]:
            keys = [best_scale(chroma(each[:, known:], layout))[0] for each in (music, other)]
            better = (keys[0] != self.best) & (keys[1] == self.best)
            z = np.where(better[:, None], other_z, z)
            music = np.where(better[:, None, None, None, None], other, music)
        return z, music

    def home(self, controls: Controls, z: Latents) -> Latents:
        """Latents moved to where the key lies on the circle of fifths; the same where a model cannot change the key."""
        foretold = controls.foretold(z)
        way = np.nan_to_num(self.centroid - np.stack([foretold[name] for name in latent.KEY], axis=1))
        moved: np.ndarray = z + way @ controls.directions[[controls.names.index(name) for name in latent.KEY]]
        return moved.astype(np.float32)


def _continue(setting: Setting, job: Continue, samples: range) -> Made:
    prior = setting.prior
    draws = Draws.of(setting, samples)
    index = _one_each(setting, samples, _choices(setting, samples))
    z, music = encoded(setting.model, setting.pool, index)
    key = _Key.of(music, setting.layout) if job.one_key else None
    begins = setting.pool.begins(index)
    state = np.where(begins[:, None], coding.after(prior, None, z, at_start=True), coding.after(prior, None, z))
    lead, found = music.shape[1], []
    for _ in range(job.windows):
        z = _next(setting, draws.noise(), state, key)
        state = coding.after(prior, state, z)
        music = _go_on(setting, draws, z, music, key)
        found.append(z)
    kept = 0 if job.lead else lead
    origin = {"parents": _labels(setting, index), "lead_steps": [lead - kept] * len(samples)}
    return Made(np.concatenate(found, axis=1), coding.complete(music[:, kept:]), origin)


def windows_of(song: Song, model: WindowModel, beats_per_bar: int) -> int:
    """How many windows a song has.

    Raises:
        ParamsError: its bars, or those of its sections, are no whole number of windows.
    """
    view, sections = model.config.view, len(song.form or "A")
    steps = song.bars * beats_per_bar * model.config.layout.steps_per_beat
    if steps % (view.steps * sections):
        bars = sections * math.lcm(view.steps, beats_per_bar * model.config.layout.steps_per_beat)
        bars //= beats_per_bar * model.config.layout.steps_per_beat
        raise ParamsError(
            f"generate job {song.name!r}: {song.bars} bars are {steps} steps, and its {sections} section(s) must be "
            f"whole windows of {view.steps}; set bars to a multiple of {bars}"
        )
    return steps // view.steps


def _song(setting: Setting, job: Song, samples: range) -> Made:
    prior = setting.prior
    draws = Draws.of(setting, samples)
    n = len(samples)
    sections = job.form or "A"
    length = windows_of(job, setting.model, setting.beats_per_bar) // len(sections)
    state = coding.start(prior, n)
    music = np.zeros((n, 0, *setting.model.config.window_shape[1:2], 2, setting.layout.pitches), bool)
    drawn: dict[tuple[str, int], Latents] = {}
    found: list[Latents] = []
    key: _Key | None = None
    for section in sections:
        for window in range(length):
            ways = []
            for _ in range(1 if key is None else WAYS):
                noise = draws.noise()
                if (section, window) in drawn:
                    z = _around(setting, drawn[section, window], np.full(n, job.radius), noise)
                else:
                    z = _next(setting, noise, state, key)
                ways.append((z, _go_on(setting, draws, z, music, key)))
            z, music = ways[0] if key is None else key.first_within(ways, setting.layout, music.shape[1])
            drawn.setdefault((section, window), z)
            state = coding.after(prior, state, z)
            if job.one_key and key is None:
                key = _Key.of(music, setting.layout)
            found.append(z)
    return Made(np.concatenate(found, axis=1), music)


# --- several instruments ----------------------------------------------------------------------------------------------
def _ensemble(setting: Setting, job: Ensemble, samples: range) -> Made:
    if job.method == "joint":
        return _sample(setting, job, samples)
    draws, layout = Draws.of(setting, samples), setting.layout
    apart, latents = [], []
    for _ in layout.parts:
        z = setting.space.latent(draws.noise())
        apart.append(coding.decode(setting.model, z, setting.chance, draws.cells()))
        latents.append(z)
    keys = [best_scale(chroma(planes, layout))[0] for planes in apart]  # of each, of all its parts
    merged = np.empty_like(apart[0])
    for part, (planes, key) in enumerate(zip(apart, keys, strict=True)):
        own = np.zeros_like(planes)
        own[:, :, part] = planes[:, :, part]
        merged[:, :, part] = transposed(own, layout, to_key(key, keys[0]))[:, :, part]
    return Made(np.concatenate(latents, axis=1), merged)


def to_key(key: Int[np.ndarray, " B"], wanted: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    """Semitones, from -6 to 5, from one scale to another (`keys.KEYS`); none from or to silence.

    A minor scale counts as the major scale of the same pitches: what is to fit are the pitches.
    """
    shift = (major_of(wanted) - major_of(key) + 6) % 12 - 6
    return np.where((key < 0) | (wanted < 0), 0, shift)


_MODES: dict[str, Callable[[Setting, Any, range], Made]] = {
    "sample": _sample,
    "reconstruct": _reconstruct,
    "vary": _vary,
    "blend": _blend,
    "edit": _edit,
    "continue": _continue,
    "song": _song,
    "ensemble": _ensemble,
}
