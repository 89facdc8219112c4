"""A set of music with everything that is measured of its windows, for stage `evaluate`.

A set is the samples of a job, the held-out windows, or the rolls of a trivial generator. More is kept of the first
`MOST` windows: rolls, distributions, latents. Sample i of a job does not depend on the number of samples, so the first
ones represent all.

Shapes:
    B  windows    V  first windows    F  features    T  steps    N  parts    K  planes    P  pitches    Z  latent
    X  bytes of a packed step

Offers: `MeasuredSet`, `Reference`; `measure_held_out`, `measure_trivial`, `measure`; `WindowMeasures`; `Diversity`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from midivae.evaluate.context import PHRASES, Context, HeldOut
from midivae.evaluate.held_out_distances import MU, SetFeatures
from midivae.evaluate.windows import Planes, windows_of_pieces
from midivae.measures import baselines, chords, counterpoint, features, harmony, likeness
from midivae.measures.hashes import bar_hashes, novelty, phrase_hashes
from midivae.measures.keys import key_names
from midivae.models import coding
from midivae.music import roll
from midivae.storage.schema import FEATURES, HARMONY, HELD_OUT
from midivae.windows.corpus import Corpus

MOST = 4096  # windows of a set of which rolls, distributions and latents are kept
_PAIRS_OF = 256  # windows whose pairs decide the diversity


@dataclass(frozen=True)
class WindowMeasures:
    """What is measured of the windows of a set.

    Attributes:
        measures: a column per name in `FEATURES`.
        harmony: by name in `HARMONY`.
        keys: names of keys; None without pitches.
        phrases: by length in bars, the share of phrases that are in no training piece; NaN without a phrase.
        neighbour, semitones, distance: the nearest training window, by its number in the context (`likeness.nearest`).
        packed: the rolls of the first windows.
        vectors: of these, distributions, and latents as `MU`.
        nats: of these, nats of a chord given the one before it.
        tonal: of these, tonal distance between parts.
    """

    measures: Float[np.ndarray, "B F"]
    harmony: dict[str, Float32[np.ndarray, " B"]]
    keys: list[str | None]
    phrases: dict[int, Float32[np.ndarray, " B"]]
    neighbour: Int[np.ndarray, " B"]
    semitones: Int[np.ndarray, " B"]
    distance: Float[np.ndarray, " B"]
    packed: UInt8[np.ndarray, "V T X"]
    vectors: dict[str, Float32[np.ndarray, "V _"]]
    nats: Float[np.ndarray, " V"]
    tonal: Float[np.ndarray, " V"]

    def __len__(self) -> int:
        return len(self.measures)

    @property
    def novelty(self) -> Float[np.ndarray, " B"]:
        """Share of each window's bars that are in no training piece."""
        return self.phrases[1].astype(np.float64)


@dataclass(frozen=True)
class MeasuredSet:
    """A set with all that is measured of it.

    Attributes:
        features: of its windows, for distances.
        windows: what else is measured of its windows.
        novelty: share of each window's bars that are in no training piece; NaN without music.
        valid: whether the MIDI file of each window reads back with as many notes; true for music.
        diversity: of its first windows; of held-out music, of windows that do not overlap.
        ids: the piece or sample of each window.
        start: the step of it on which the window starts.
    """

    features: SetFeatures
    windows: WindowMeasures
    novelty: Float[np.ndarray, " B"]
    valid: Bool[np.ndarray, " B"]
    diversity: Diversity
    ids: Sequence[str]
    start: Int[np.ndarray, " B"]

    @property
    def name(self) -> str:
        """Its name."""
        return self.features.name


@dataclass(frozen=True)
class Diversity:
    """How much windows of a set differ from each other.

    Attributes:
        rolls: mean share of cells that differ in two windows (`likeness.apart`), over all pairs.
        distinct_bars: share of the bars with music that are not a transposition of an earlier one.
        windows: how many windows were compared; both measures depend on it.
    """

    rolls: float
    distinct_bars: float
    windows: int

    @classmethod
    def of(cls, packed: UInt8[np.ndarray, "V T X"], context: Context) -> Diversity:
        """The diversity of the first windows, which should not overlap."""
        planes = roll.unpack(packed[:_PAIRS_OF], context.layout)
        if len(planes) < 2:
            return cls(np.nan, np.nan, len(planes))
        bars = bar_hashes(planes, context.layout, context.steps_per_bar)
        filled = bars[bars != 0]
        distinct = len(np.unique(filled)) / len(filled) if len(filled) else np.nan
        return cls(float(likeness.pairwise_apart(planes).mean()), distinct, len(planes))


@dataclass(frozen=True)
class Reference:
    """Real music: held-out windows, and the training pieces, which may be parents."""

    held_out: HeldOut
    measured: MeasuredSet
    training: Corpus
    seed: int


def measure_held_out(held_out: HeldOut, context: Context) -> MeasuredSet:
    """The held-out windows."""
    windows = measure(windows_of_pieces(held_out.corpus, held_out.windows, context.view), context)
    apart = np.flatnonzero(held_out.starts[: len(windows.packed)] % context.view.steps == 0)
    return MeasuredSet(
        features=SetFeatures(HELD_OUT, windows.measures, held_out.windows.piece, windows.vectors),
        windows=windows,
        novelty=windows.novelty,
        valid=np.ones(len(windows), bool),
        diversity=Diversity.of(windows.packed[apart], context),
        ids=held_out.piece_ids,
        start=held_out.starts,
    )


def measure_trivial(name: baselines.Name, context: Context, n: int, seed: int) -> MeasuredSet:
    """`n` rolls of a trivial generator."""
    windows = measure(baselines.draw(name, context.counts, n, context.view.steps, seed), context)
    return MeasuredSet(
        features=SetFeatures(name, windows.measures, np.arange(n), windows.vectors),
        windows=windows,
        novelty=windows.novelty,
        valid=np.ones(n, bool),
        diversity=Diversity.of(windows.packed, context),
        ids=[f"{name}-{index:07d}" for index in range(n)],
        start=np.zeros(n, np.int64),
    )


def measure(blocks: Iterable[Planes], context: Context) -> WindowMeasures:
    """Measures every window of a set; keeps the rolls of the first `MOST`."""
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    keys: list[str | None] = []
    kept = 0
    nothing = np.zeros((0, context.view.steps, len(context.layout.parts), 2, context.layout.pitches), bool)
    for planes in chain([nothing], blocks):
        first = planes[: max(0, MOST - kept)]
        kept += len(first)
        for name, values in (_of_every_window(planes, context) | _of_first_windows(first, context)).items():
            columns[name].append(values)
        keys += key_names(planes, context.layout)
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    return WindowMeasures(
        measures=np.stack([joined[name] for name in FEATURES], axis=1).astype(np.float64),
        harmony={name: joined[name] for name in HARMONY},
        keys=keys,
        phrases={bars: joined[f"phrases-{bars}"] for bars in PHRASES},
        neighbour=joined["neighbour"],
        semitones=joined["semitones"],
        distance=joined["distance"],
        packed=joined["packed"],
        vectors={name: joined[name] for name in (*features.VECTORS, MU)},
        nats=joined["nats"],
        tonal=joined["tonal"],
    )


def _of_every_window(planes: Planes, context: Context) -> dict[str, np.ndarray]:
    layout = context.layout
    window, semitones, distance = likeness.nearest(likeness.beat_chroma(planes, layout), context.chroma)
    phrases = {bars: phrase_hashes(planes, layout, context.steps_per_bar, bars) for bars in PHRASES}
    return {
        **features.measure(planes, layout, context.beats_per_bar),
        **harmony.measure(planes, layout, context.beats_per_bar),
        **{f"phrases-{bars}": novelty(hashes, context.phrases[bars]) for bars, hashes in phrases.items()},
        "neighbour": window,
        "semitones": semitones,
        "distance": distance,
    }


def _of_first_windows(planes: Planes, context: Context) -> dict[str, np.ndarray]:
    return {
        "packed": roll.pack(planes),
        **features.vectors(planes, context.layout),
        "nats": context.bigram.nats(chords.chords(planes, context.layout)),
        "tonal": counterpoint.tonal_distance(planes, context.layout),
        MU: coding.encode(context.encoder, planes)[:, : context.encoder.coarse],
    }
