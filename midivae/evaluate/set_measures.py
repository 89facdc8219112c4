"""What stage `evaluate` has to know of each set: features, distributions, novelty, neighbours, latents, and the rolls.

A set is given as blocks of windows, all as long as the model's; so thousands of samples pass through in the memory
that a block takes. Of the first `MOST` windows more is kept: rolls, distributions, latents. Sample i of a job does not
depend on how many there are, so the first ones are as good as any.

Shapes:
    B  windows    T  steps    N  parts    K  planes    P  pitches    X  bytes of a packed step    Z  latent

Offers: `World` and `world_of` (the training pieces, as evaluation needs them), `Gathered` and `gather`; `held_out`,
`windows_at` and `blocks_of`, sets as blocks of windows; `pieces_as`; `encode`; `Diversity` and `diversity`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8, UInt64

from midivae.config.evaluate import Evaluate
from midivae.config.train import View
from midivae.evaluate.set_distances import MU
from midivae.measures import baselines, distances, features, harmony, likeness
from midivae.measures.baselines import Counts
from midivae.measures.harmony import Bigram
from midivae.measures.hashes import bar_hashes, novelty, phrase_hashes
from midivae.measures.keys import key_names
from midivae.models import WindowModel
from midivae.music import roll
from midivae.music.roll import FRAME, Layout
from midivae.storage.schema import FEATURES
from midivae.windows import loader

PHRASES = (1, 2, 4)  # bars of the phrases that are looked up in the training pieces
MOST = 4096  # windows of a set of which rolls, distributions and latents are kept
AT_ONCE = 512  # windows of a block

Planes = Bool[np.ndarray, "B T N 2 P"]
Index = Int[np.ndarray, " _"]


# --- the training pieces ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class World:
    """What sets are compared with, and how they are measured.

    Attributes:
        view: of the model's windows, but with both planes.
        layout: of what its samples are, parts merged where it merges them.
        known: by length in bars, the hashes of all phrases in training pieces.
        windows, chroma, piece_ids, starts: the training windows in which neighbours are searched.
        counts: for the trivial generators.
        bigram: of chords.
    """

    view: View
    layout: Layout
    beats_per_bar: int
    known: dict[int, UInt64[np.ndarray, " _"]]
    chroma: Bool[np.ndarray, "W Q 12"]
    piece_ids: np.ndarray
    starts: Int[np.ndarray, " W"]
    counts: Counts
    bigram: Bigram

    @property
    def steps_per_bar(self) -> int:
        """Steps of a bar."""
        return self.beats_per_bar * self.layout.steps_per_beat


def world_of(training: loader.Corpus, view: View, settings: Evaluate) -> World:
    """Looks through the training pieces."""
    view = view.model_copy(update={"planes": "onset+frame"})
    layout = loader.sample_layout(training.layout, view)
    windows = loader.windows(training, view)
    chosen = distances.evenly(len(windows), settings.training_windows)
    chroma = [np.zeros((0, view.steps // layout.steps_per_beat, 12), bool)]
    counts = baselines.count(np.zeros((0, view.steps, len(layout.parts), 2, layout.pitches), bool))
    for index in _slices(chosen):
        planes = loader.planes(training, windows, index, view)
        chroma.append(likeness.beat_chroma(planes, layout))
        counts += baselines.count(planes)
    return World(
        view=view,
        layout=layout,
        beats_per_bar=settings.beats_per_bar,
        known={bars: loader.bar_hashes(training, bars * settings.beats_per_bar) for bars in PHRASES},
        chroma=np.concatenate(chroma),
        piece_ids=np.array(training.piece_ids)[windows.piece[chosen]],
        starts=windows.start[chosen] - training.starts[windows.piece[chosen]],
        counts=counts,
        bigram=_bigram(training, view, layout, settings.training_windows),
    )


def _bigram(training: loader.Corpus, view: View, layout: Layout, most: int) -> Bigram:
    """Fitted to windows that do not overlap and hold no silence beyond a piece's end: each chord counts once."""
    apart = view.model_copy(update={"hop": view.steps, "min_fill": 1.0})
    windows = loader.windows(training, apart)
    found = [np.zeros((0, view.steps // layout.steps_per_beat), np.int64)]
    slices = _slices(distances.evenly(len(windows), most))
    found += [harmony.chords(loader.planes(training, windows, index, apart), layout) for index in slices]
    return Bigram.fit(np.concatenate(found))


def _slices(index: Index) -> Iterator[Index]:
    return (index[first : first + AT_ONCE] for first in range(0, len(index), AT_ONCE))


# --- sets as blocks of windows ----------------------------------------------------------------------------------------
def held_out(corpus: loader.Corpus, windows: loader.Windows, view: View) -> Iterator[Planes]:
    """Windows of pieces."""
    return (loader.planes(corpus, windows, index, view) for index in _slices(np.arange(len(windows))))


def windows_at(rolls: UInt8[np.ndarray, "M S X"], sample: Index, start: Index, world: World) -> Iterator[Planes]:
    """Windows of packed rolls: of which each is, and on which step it starts."""
    steps = np.arange(world.view.steps)
    for first in range(0, len(sample), AT_ONCE):
        which, at = sample[first : first + AT_ONCE], start[first : first + AT_ONCE]
        yield roll.unpack(rolls[which[:, None], at[:, None] + steps], world.layout)


def blocks_of(packed: UInt8[np.ndarray, "M S X"], layout: Layout) -> Iterator[Planes]:
    """Packed rolls, unpacked a block at a time."""
    return (roll.unpack(packed[at : at + AT_ONCE], layout) for at in range(0, len(packed), AT_ONCE))


def pieces_as(
    corpus: loader.Corpus, piece: Index, start: Index, view: View, steps: int
) -> Bool[np.ndarray, "M {steps} N 2 P"]:
    """So many steps of pieces from given ones on, as samples are; silence beyond their end."""
    first = corpus.starts[piece] + start
    places = loader.Windows(first, corpus.starts[piece + 1], piece)
    longer = view.model_copy(update={"steps": steps, "planes": "onset+frame"})
    return loader.planes(corpus, places, np.arange(len(piece)), longer)


# --- what is known of a set -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Neighbours:
    """The nearest training window of each window, by its number in the world; see `likeness.nearest`."""

    window: Index
    semitones: Index
    distance: Float[np.ndarray, " B"]


@dataclass(frozen=True)
class Gathered:
    """What was measured of the windows of a set.

    Attributes:
        measures: a column per name in `FEATURES`.
        keys: names of keys; None without pitches.
        phrases: by length in bars, the share of phrases that are in no training piece; NaN without a phrase.
        packed: the rolls of the first windows.
        vectors: of these, distributions, and latents as `MU`.
        nats: of these, nats of a chord given the one before it.
        tonal: of these, tonal distance between parts.
    """

    measures: Float[np.ndarray, "B F"]
    keys: list[str | None]
    phrases: dict[int, Float32[np.ndarray, " B"]]
    neighbours: Neighbours
    packed: UInt8[np.ndarray, "V T X"]
    vectors: dict[str, Float32[np.ndarray, "V _"]]
    nats: Float[np.ndarray, " V"]
    tonal: Float[np.ndarray, " V"]

    def __len__(self) -> int:
        return len(self.measures)


@dataclass
class _Parts:
    """The blocks of what becomes a `Gathered`."""

    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)
    keys: list[str | None] = field(default_factory=list)

    def add(self, name: str, values: np.ndarray) -> None:
        self.columns.setdefault(name, []).append(values)

    def joined(self, name: str) -> np.ndarray:
        return np.concatenate(self.columns[name])


def gather(blocks: Iterable[Planes], world: World, model: WindowModel | None) -> Gathered:
    """Measures every window of a set; keeps the rolls of the first `MOST`.

    Args:
        model: whose encoder gives the latents; None: none are wanted.
    """
    parts, kept = _Parts(), 0
    nothing = np.zeros((0, world.view.steps, len(world.layout.parts), 2, world.layout.pitches), bool)
    for planes in chain([nothing], blocks):
        _measure(parts, planes, world)
        first = planes[: max(0, MOST - kept)]
        kept += len(first)
        _keep(parts, first, world, model)
    neighbours = Neighbours(*(parts.joined(name) for name in ("window", "semitones", "distance")))
    names = [*features.VECTORS, *([MU] if model is not None else [])]
    return Gathered(
        measures=np.stack([parts.joined(name) for name in FEATURES], axis=1).astype(np.float64),
        keys=parts.keys,
        phrases={bars: parts.joined(f"phrases-{bars}") for bars in PHRASES},
        neighbours=neighbours,
        packed=parts.joined("packed"),
        vectors={name: parts.joined(name) for name in names},
        nats=parts.joined("nats"),
        tonal=parts.joined("tonal"),
    )


def _measure(parts: _Parts, planes: Planes, world: World) -> None:
    """What is measured of every window."""
    layout, bar = world.layout, world.steps_per_bar
    for name, values in features.measure(planes, layout, world.beats_per_bar).items():
        parts.add(name, values)
    parts.keys += key_names(planes, layout)
    for bars in PHRASES:
        phrases = phrase_hashes(planes, layout, bar, bars)
        parts.add(f"phrases-{bars}", novelty(phrases, world.known[bars]))
    found = likeness.nearest(likeness.beat_chroma(planes, layout), world.chroma)
    for name, values in zip(("window", "semitones", "distance"), found, strict=True):
        parts.add(name, values)


def _keep(parts: _Parts, planes: Planes, world: World, model: WindowModel | None) -> None:
    """What is measured of the first windows only."""
    parts.add("packed", roll.pack(planes))
    for name, values in features.vectors(planes, world.layout).items():
        parts.add(name, values)
    parts.add("nats", world.bigram.nats(harmony.chords(planes, world.layout)))
    parts.add("tonal", harmony.tonal_distance(planes, world.layout))
    if model is not None:
        parts.add(MU, encode(model, planes)[0].astype(np.float32))


_ENCODED_AT_ONCE = 128


def encode(model: WindowModel, planes: Planes) -> tuple[Float[np.ndarray, "B Z"], Float[np.ndarray, "B Z"]]:
    """Mean and variance of the posterior of each window."""
    seen = planes if model.config.view.n_planes == 2 else planes[:, :, :, FRAME : FRAME + 1]
    found = [(np.zeros((0, model.latent)), np.zeros((0, model.latent)))]
    with torch.inference_mode():
        for first in range(0, len(seen), _ENCODED_AT_ONCE):
            block = torch.from_numpy(seen[first : first + _ENCODED_AT_ONCE].astype(np.float32))
            mu, logvar = model.encode(block.to(model.device))
            found.append((mu.double().cpu().numpy(), logvar.double().exp().cpu().numpy()))
    return np.concatenate([mu for mu, _ in found]), np.concatenate([variance for _, variance in found])


# --- how much the windows of a set differ -----------------------------------------------------------------------------
_PAIRS_OF = 256  # windows whose pairs are looked at


@dataclass(frozen=True)
class Diversity:
    """How much windows of a set differ from each other.

    Attributes:
        rolls: mean share of cells that differ in two windows (`likeness.apart`), over all pairs.
        distinct_bars: share of the bars with music that are not a transposition of another one before them.
        windows: how many were looked at: both depend on it.
    """

    rolls: float
    distinct_bars: float
    windows: int


def diversity(packed: UInt8[np.ndarray, "V T X"], world: World, n: int = _PAIRS_OF) -> Diversity:
    """Of the first n windows; give windows that do not overlap."""
    planes = roll.unpack(packed[:n], world.layout)
    if len(planes) < 2:
        return Diversity(np.nan, np.nan, len(planes))
    bars = bar_hashes(planes, world.layout, world.steps_per_bar)
    filled = bars[bars != 0]
    distinct = len(np.unique(filled)) / len(filled) if len(filled) else np.nan
    return Diversity(float(likeness.pairwise_apart(planes).mean()), distinct, len(planes))
