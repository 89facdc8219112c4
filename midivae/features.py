"""Measures of piano rolls: what a researcher reads off a sample, for thousands of rolls at once.

Source: MuseGAN (Dong et al., AAAI 2018), MusPy (Dong et al., ISMIR 2020, `muspy.metrics`), the Jazz Transformer (Wu &
Yang, ISMIR 2020), Yang & Lerch ("On the evaluation of generative models in music", 2018), Krumhansl & Kessler (1982).

Conventions, here and in every table:
    * Rolls are bool [B, T, N, K, P] as in `pianoroll`; every function works on all B at once, in blocks of flat memory.
    * A note starts at every onset and where a frame follows no frame, and lasts until the next start or the first step
      without a frame: the notes of `pianoroll.cell_runs`, and so of the MIDI files that we write. A note that is held
      into a window from before it counts as a note of the window.
    * The part named "drums" has no pitch: it is left out of the measures of pitch, polyphony, note length and key, and
      of `bar_hashes`; it counts in notes, density, groove and empty bars.
    * The same pitch in two parts at once (a unison) is one pitch to `polyphony` and two notes to what counts notes.
    * Only whole bars count as bars: what is left of a window after its last whole bar is in no bar.
    * A measure without a value is NaN: all but notes, density and empty bars in a silent roll.

Where we differ from MusPy:
    1. MusPy adds a bar after the last one when the music ends on a bar line (`length // bar + 1`), and a note that ends
       on a bar line fills the bar after it. That lowers its groove consistency and its empty-bar rate. We count the
       bars that there are, and a note fills the bars in which it sounds.
    2. MusPy's music ends with its last note; a roll has a length of its own, and silence at its end counts.
    3. A silent roll has a groove consistency of 1 by the formula: here it has none.

Offers: `measure`, `keys`, `chroma`, `best_scale` and `KEYS`, `bar_hashes`, `novelty`; `mix`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64, UInt64

from midivae.pianoroll import FRAME, ONSET, Layout
from midivae.schema import FEATURES

DRUMS = "drums"  # name of the part that has no pitch
_BLOCK_CELLS = 1 << 21  # cells of rolls worked on at once: a few MB, so that they stay in the cache

Planes = Bool[np.ndarray, "B T N 2 P"]


# --- notes of a roll --------------------------------------------------------------------------------------------------
def _blocks(planes: Planes) -> Iterator[slice]:
    """Slices of the batch, each of about `_BLOCK_CELLS` cells."""
    size = max(1, _BLOCK_CELLS // max(1, planes[:1].size))
    return (slice(start, start + size) for start in range(0, len(planes), size))


def _sounding(planes: Planes) -> Bool[np.ndarray, "B T N P"]:
    """Where notes sound; an onset without a frame sounds for its step."""
    sounding: np.ndarray = planes[:, :, :, ONSET] | planes[:, :, :, FRAME]
    return sounding


def _any(cells: np.ndarray, *axes: int) -> np.ndarray:
    """Whether any cell along the axes is set."""
    found: np.ndarray = np.logical_or.reduce(cells, axis=axes)
    return found


def _starts(planes: Planes, sounding: Bool[np.ndarray, "B T N P"]) -> Bool[np.ndarray, "B T N P"]:
    """Where notes start: at onsets, and where sound follows silence."""
    start = sounding.copy()
    start[:, 1:] &= ~sounding[:, :-1]
    start |= planes[:, :, :, ONSET]
    return start


def _pitched(layout: Layout) -> list[int]:
    """The parts that have pitches."""
    return [index for index, name in enumerate(layout.parts) if name != DRUMS]


def _without_drums(cells: np.ndarray, layout: Layout) -> np.ndarray:
    """The cells [B, T, N, ...] of the parts that have pitches."""
    pitched = _pitched(layout)
    return cells if len(pitched) == len(layout.parts) else cells[:, :, pitched]


# --- measures ---------------------------------------------------------------------------------------------------------
def measure(planes: Planes, layout: Layout, beats_per_bar: int) -> dict[str, Float32[np.ndarray, " B"]]:
    """Every measure in `schema.FEATURES` of every roll, in that order; NaN where a measure has no value.

    The functions that compute them, below, say what each is, in which unit and range, after whom, and which known error
    they avoid.
    """
    columns = {name: np.empty(len(planes), np.float32) for name in FEATURES}
    for block in _blocks(planes):
        for name, values in _measure_block(planes[block], layout, beats_per_bar).items():
            columns[name][block] = values
    return columns


def _measure_block(planes: Planes, layout: Layout, beats_per_bar: int) -> dict[str, np.ndarray]:
    sounding = _sounding(planes)
    start = _starts(planes, sounding)
    pitched = _without_drums(sounding, layout)  # [B, T, N', P]
    heard = _any(pitched, 2)  # [B, T, P]
    per_pitch = _per_pitch(_without_drums(start, layout))
    n_notes = np.count_nonzero(start, axis=(1, 2, 3))
    steps_per_bar = beats_per_bar * layout.steps_per_beat
    low, high = pitch_extremes(heard, layout.pitch_low)
    counts = per_pitch @ _pitch_class_of_row(layout)
    return {
        "notes": n_notes,
        "density": n_notes * layout.steps_per_beat / planes.shape[1],
        "pitch_low": low,
        "pitch_high": high,
        "pitch_range": high - low,
        "polyphony": polyphony(heard),
        "note_length": note_length(pitched, per_pitch, layout.steps_per_beat),
        "pitch_class_entropy": pitch_class_entropy(counts),
        "scale_consistency": best_scale(counts)[1],
        "groove_consistency": groove_consistency(_any(start, 2, 3), steps_per_bar),
        "empty_bar_rate": empty_bar_rate(_any(sounding, 2, 3), steps_per_bar),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> Float[np.ndarray, " B"]:
    """The quotient `above / below` in double precision, NaN where below is 0."""
    quotient = np.full(len(below), np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


def pitch_extremes(
    heard: Bool[np.ndarray, "B T P"], pitch_low: int
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Lowest and highest pitch that sounds, as MIDI pitches 0 to 127; `pitch_range` is their difference, in semitones.

    Source: Yang & Lerch 2018, "pitch range"; `muspy.pitch_range`. Trap avoided: MusPy's range of a silent piece is 0,
    which is also that of a single pitch; here it has none.
    """
    used = _any(heard, 1)  # [B, P]
    silent = ~_any(used, 1)
    low = np.where(silent, np.nan, pitch_low + used.argmax(axis=1))
    high = np.where(silent, np.nan, pitch_low + used.shape[1] - 1 - used[:, ::-1].argmax(axis=1))
    return low, high


def polyphony(heard: Bool[np.ndarray, "B T P"]) -> Float[np.ndarray, " B"]:
    """Mean number of distinct pitches that sound, over the steps where at least one does; from 1 to P.

    A pitch that two parts sing at once counts once: what is heard, not who sings. Source: `muspy.polyphony`. Traps
    avoided: silent steps in the mean; sums of uint8 that wrap at 256; thresholds ("2 or more" written as "> 2").
    """
    pitches = np.count_nonzero(heard, axis=2)  # [B, T], 64-bit
    return _ratio(pitches.sum(axis=1), np.count_nonzero(pitches, axis=1))


def note_length(
    pitched: Bool[np.ndarray, "B T N P"], per_pitch: Int[np.ndarray, "B P"], steps_per_beat: int
) -> Float[np.ndarray, " B"]:
    """Mean length of a note in beats (quarter notes), from 1 / steps_per_beat to T / steps_per_beat.

    Every sounding cell of a part belongs to exactly one note, so the mean is cells per note. A note is cut where the
    window ends. Source: Yang & Lerch 2018, "note length". Trap avoided: without onsets, repeated notes merge into one.
    """
    cells = np.count_nonzero(pitched, axis=(1, 2, 3))
    return _ratio(cells, per_pitch.sum(axis=1) * steps_per_beat)


def pitch_class_entropy(counts: Int[np.ndarray, "B 12"]) -> Float[np.ndarray, " B"]:
    """Entropy of the notes' pitch classes, -sum p log2 p, in bits: from 0 (one class) to log2(12) = 3.585.

    Source: Wu & Yang 2020, H; `muspy.pitch_class_entropy`. Trap avoided: a chroma that groups neighbouring pitches
    (a reshape to (12, 7) for (7, 12)), or that takes the first row for a C.
    """
    share = _ratio(counts.reshape(-1), np.repeat(counts.sum(axis=1), 12)).reshape(-1, 12)
    bits = np.log2(share, out=np.zeros_like(share), where=share > 0)
    entropy: np.ndarray = 0.0 - (share * bits).sum(axis=1)  # 0 - 0, as -0 would be printed "-0.0"
    return entropy


def groove_consistency(onsets: Bool[np.ndarray, "B T"], steps_per_bar: int) -> Float[np.ndarray, " B"]:
    """1 - the mean share of steps at which two neighbouring bars differ in whether a note starts; from 0 to 1.

    Source: Wu & Yang 2020, GS; `muspy.groove_consistency`. NaN with fewer than two whole bars, or without notes. Traps
    avoided: an extra bar at the end (see the module); a mean over bars and steps of one pair only; onset *counts*.
    """
    bars = _bars(onsets, steps_per_bar)
    n_pairs = max(0, bars.shape[1] - 1)
    differ = np.count_nonzero(bars[:, 1:] ^ bars[:, :-1], axis=(1, 2))
    compared = np.where(_any(onsets, 1), n_pairs * steps_per_bar, 0)
    return 1 - _ratio(differ, compared)


def empty_bar_rate(sounding: Bool[np.ndarray, "B T"], steps_per_bar: int) -> Float[np.ndarray, " B"]:
    """Share of whole bars in which nothing sounds, from 0 (music in every bar) to 1 (silence).

    Source: MuseGAN, EB; `muspy.empty_measure_rate`. NaN without a whole bar. Traps avoided: the share of the bars that
    are *not* empty; a bar that holds a note from before called empty, as it has no onset.
    """
    filled = _any(_bars(sounding, steps_per_bar), 2)
    empty = np.count_nonzero(~filled, axis=1)
    return _ratio(empty, np.full(len(filled), filled.shape[1]))


def _bars(steps: Bool[np.ndarray, "B T"], steps_per_bar: int) -> Bool[np.ndarray, "B R S"]:
    """The whole bars of each roll."""
    n_bars = steps.shape[1] // steps_per_bar
    return steps[:, : n_bars * steps_per_bar].reshape(len(steps), n_bars, steps_per_bar)


# --- keys -------------------------------------------------------------------------------------------------------------
def _keys() -> tuple[str, ...]:
    major = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
    minor = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
    return (*(f"{tonic} major" for tonic in major), *(f"{tonic} minor" for tonic in minor))


KEYS: tuple[str, ...] = _keys()  # the 24 scales; the tonic's pitch class is the index modulo 12


def _per_key(major: tuple[int, ...], minor: tuple[int, ...]) -> Int64[np.ndarray, "12 24"]:
    """A column per key, from the values of pitch classes counted from its tonic."""
    columns = [np.roll(values, tonic) for values in (major, minor) for tonic in range(12)]
    return np.stack(columns, axis=1).astype(np.int64)


# the 12 major and the 12 natural minor scales, as in MusPy
_SCALES = _per_key((1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1), (1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0))
# Krumhansl & Kessler 1982: how well each pitch class fits a key, in hundredths
_MAJOR_PROFILE = (635, 223, 348, 233, 438, 409, 252, 519, 239, 366, 229, 288)
_MINOR_PROFILE = (633, 268, 352, 538, 260, 353, 254, 475, 398, 269, 334, 317)


def _standardised(profile: tuple[int, ...]) -> tuple[int, ...]:
    """A profile of mean 0 and norm 1, in millionths."""
    values = np.array(profile) - np.mean(profile)
    return tuple(round(1e6 * float(value)) for value in values / np.sqrt((values**2).sum()))


_PROFILES = _per_key(_standardised(_MAJOR_PROFILE), _standardised(_MINOR_PROFILE))


def best_scale(
    counts: Int[np.ndarray, "B 12"],
) -> tuple[Int[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """The scale that holds most notes, of 12 major and 12 natural minor scales, and the share that it holds.

    The share is the scale consistency of Mogren 2016 and `muspy.scale_consistency`: from 7/12 for notes spread evenly
    to 1. Trap avoided: many scales hold equally many notes (always a major scale and its relative minor, which are the
    same pitches), and the first of the list would call all minor music major. Of the scales that tie, the key is the
    one whose profile (Krumhansl & Kessler 1982) correlates best with the counts, that is, the one whose tonic, fifth
    and third are played most; of those that tie even then, as for counts that are all equal, the first in `KEYS`. It
    is all in integers, so that no machine breaks a tie another way.

    Args:
        counts: notes of each pitch class, C first.

    Returns:
        `(index, consistency)`: the index into `KEYS`, -1 without notes, and the share, NaN without notes.
    """
    wide = counts.astype(np.int64)
    inside = wide @ _SCALES  # [B, 24]
    most = inside.max(axis=1)
    total = wide.sum(axis=1)
    fit = np.where(inside == most[:, None], wide @ _PROFILES, np.iinfo(np.int64).min)
    return np.where(total > 0, fit.argmax(axis=1), -1), _ratio(most, total)


def chroma(planes: Planes, layout: Layout) -> Int64[np.ndarray, "B 12"]:
    """How many notes of each pitch class, C first, start in each roll; drums left out."""
    per_roll = [np.zeros((0, 12), np.int64)]
    for block in _blocks(planes):
        start = _starts(planes[block], _sounding(planes[block]))
        per_roll.append(_per_pitch(_without_drums(start, layout)) @ _pitch_class_of_row(layout))
    return np.concatenate(per_roll)


def keys(planes: Planes, layout: Layout) -> list[str | None]:
    """The key of each roll, by its best scale ("G major"); None without notes that have pitches."""
    index, _ = best_scale(chroma(planes, layout))
    return [KEYS[i] if i >= 0 else None for i in index.tolist()]


def _per_pitch(start: Bool[np.ndarray, "B T N P"]) -> Int64[np.ndarray, "B P"]:
    """How many notes of each pitch start."""
    counts: np.ndarray = np.count_nonzero(start, axis=(1, 2)).astype(np.int64)
    return counts


def _pitch_class_of_row(layout: Layout) -> Int64[np.ndarray, "P 12"]:
    """1 where a row of the roll has the pitch class."""
    pitch = layout.pitch_low + np.arange(layout.pitches)
    belongs: np.ndarray = pitch[:, None] % 12 == np.arange(12)
    return belongs.astype(np.int64)


# --- novelty ----------------------------------------------------------------------------------------------------------
def bar_hashes(planes: Planes, layout: Layout, steps_per_bar: int) -> UInt64[np.ndarray, "B R"]:
    """A 64-bit hash of the music of each whole bar; equal for equal music on every machine; 0: an empty bar.

    What counts as the same music: the parts are merged, drums left out; the bar is shifted so that its lowest sounding
    pitch is row 0, so transposed bars are equal; a bar stands alone, so what sounds on its first step starts there,
    whether it was struck or held over from the bar before (else a bar would differ from itself where a window begins).
    Of a million distinct bars, two share a hash with a chance of 3e-8.

    Each step of each plane is a word of 128 bits; its halves are mixed with a constant of their own (the finaliser of
    splitmix64, Steele et al. 2014) and the results added, modulo 2**64.
    """
    n_bars = planes.shape[1] // steps_per_bar
    hashes = np.zeros((len(planes), n_bars), np.uint64)
    if n_bars == 0:
        return hashes
    for block in _blocks(planes):
        whole = _any(_without_drums(planes[block, : n_bars * steps_per_bar], layout), 2)  # [B, R*S, K, P]
        bars = whole.reshape(-1, steps_per_bar, 2, planes.shape[-1])  # [B*R, S, K, P]
        hashes[block] = _hash_bars(bars).reshape(-1, n_bars)
    return hashes


def _hash_bars(bars: Bool[np.ndarray, "M S 2 P"]) -> UInt64[np.ndarray, " M"]:
    sounding = _any(bars, 2)[:, :, None]  # [M, S, 1, P]
    start = bars[:, :, :1] | sounding
    start[:, 1:] &= bars[:, 1:, :1] | ~sounding[:, :-1]
    words = _words(np.concatenate([start, sounding], axis=2))  # [M, S, K, 2]
    used = _any(sounding, 1, 2)  # [M, P]
    words = _shift_down(words, used.argmax(axis=1))
    hashes = mix(words ^ _salt(*words.shape[1:])).sum(axis=(1, 2, 3), dtype=np.uint64)
    return np.where(_any(used, 1), np.maximum(hashes, np.uint64(1)), np.uint64(0))


def _salt(*shape: int) -> UInt64[np.ndarray, "S K 2"]:
    """A constant for each word of a bar: the sequence of splitmix64."""
    index = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    return mix(index * np.uint64(0x9E3779B97F4A7C15)).reshape(shape)


def _words(bits: Bool[np.ndarray, "M S K P"]) -> UInt64[np.ndarray, "M S K 2"]:
    """The pitches of each step as two words of 64 bits, the lowest pitch in the lowest bit of the first."""
    packed = np.zeros((*bits.shape[:3], 16), np.uint8)
    packed[..., : -(-bits.shape[3] // 8)] = np.packbits(bits, axis=3, bitorder="little")
    return packed.view("<u8").astype(np.uint64)


def _shift_down(words: UInt64[np.ndarray, "M S K 2"], rows: Int[np.ndarray, " M"]) -> UInt64[np.ndarray, "M S K 2"]:
    """The words, as one number of 128 bits, shifted down by `rows` bits (0 to 127)."""
    by = rows.astype(np.uint64)[:, None, None]
    high, low = words[..., 1], words[..., 0]
    beyond = by >= 64
    low, high = np.where(beyond, high, low), np.where(beyond, np.uint64(0), high)
    by = by % np.uint64(64)
    # a shift by 64 is undefined in C: two steps, 63 - by and then 1
    carried = (high << (np.uint64(63) - by)) << np.uint64(1)
    return np.stack([(low >> by) | carried, high >> by], axis=-1)


def mix(words: UInt64[np.ndarray, "*W"]) -> UInt64[np.ndarray, "*W"]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): a bijection in which every bit depends on every bit."""
    words = words ^ (words >> np.uint64(30))
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def novelty(hashes: UInt64[np.ndarray, "B R"], known: UInt64[np.ndarray, " H"]) -> Float32[np.ndarray, " B"]:
    """Share of the bars with music whose hash is not among `known` (sorted): 0 all found, 1 all new; NaN without music.

    Read it beside the novelty of held-out real music against the same `known`: common bars recur in all music.
    """
    filled = hashes != 0
    if len(known) == 0:
        new = filled
    else:
        place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        new = filled & (known[place] != hashes)
    share = _ratio(np.count_nonzero(new, axis=1), np.count_nonzero(filled, axis=1))
    return share.astype(np.float32)
