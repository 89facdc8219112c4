"""Features of piano rolls, such as density and polyphony, for thousands of rolls at once.

Source: MuseGAN (Dong et al., AAAI 2018), MusPy (Dong et al., ISMIR 2020, `muspy.metrics`), the Jazz Transformer (Wu &
Yang, ISMIR 2020), Yang & Lerch ("On the evaluation of generative models in music", 2018), Krumhansl & Kessler (1982).

Conventions, here and in every table:
    * Rolls are bool [B, T, N, K, P] as in `roll`; every function works on all B at once, in blocks of flat memory.
    * A note starts as in `roll.starts`, and lasts until the next start or the first step without a frame, as in the
      MIDI files that we write.
    * The part named "drums" has no pitch. It is left out of the measures of pitch, polyphony, note length and key; it
      counts in notes, density, groove and empty bars.
    * The same pitch in two parts at once (a unison) is one pitch in `polyphony` and two notes where notes are counted.
    * Only whole bars count as bars. The rest of a window after its last whole bar is in no bar.
    * A measure without a value is NaN: in a silent roll all but notes, density, pitch count, empty bars and beats.

Where we differ from MusPy:
    1. MusPy adds a bar after the last one when the music ends on a bar line (`length // bar + 1`), and a note that ends
       on a bar line fills the bar after it. That lowers its groove consistency and its empty-bar rate. We count no
       such bar, and a note fills the bars in which it sounds.
    2. MusPy's music ends with its last note; a roll has a length of its own, and silence at its end counts.
    3. A silent roll has a groove consistency of 1 by the formula: here it has none.

Offers: `measure`, `attributes`, `vectors` and `VECTORS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from midivae.measures.counterpoint import intervals, lines
from midivae.measures.keys import best_scale, fifths
from midivae.measures.notes import (
    Planes,
    any_along,
    in_blocks,
    per_pitch,
    pitch_class_of_row,
    ratio,
    without_drums,
)
from midivae.music.roll import Layout, cell_runs, sounding, starts


# --- measures ---------------------------------------------------------------------------------------------------------
def measure(planes: Planes, layout: Layout, beats_per_bar: int) -> dict[str, Float32[np.ndarray, " B"]]:
    """Every measure in `schema.FEATURES` of every roll, in that order; NaN where a measure has no value.

    The functions below have the meaning, unit, range and source of each, and the known error that it avoids.
    """
    return in_blocks(planes, lambda block: _measure_block(block, layout, beats_per_bar), np.float32)


def _measure_block(planes: Planes, layout: Layout, beats_per_bar: int) -> dict[str, np.ndarray]:
    c = _cells(planes, layout)
    beat, bar = layout.steps_per_beat, beats_per_bar * layout.steps_per_beat
    low, high = pitch_extremes(c.sounds, layout.pitch_low)
    classes = c.notes @ pitch_class_of_row(layout)
    return {
        "notes": c.starts.sum(axis=1),
        "density": density(c.starts, beat),
        "pitch_low": low,
        "pitch_high": high,
        "pitch_range": high - low,
        "polyphony": polyphony(c.heard),
        "note_length": note_length(c.sounds, c.notes, beat),
        "pitch_class_entropy": pitch_class_entropy(classes),
        "scale_consistency": best_scale(classes)[1],
        "groove_consistency": groove_consistency(c.starts > 0, bar),
        "empty_bar_rate": empty_rate(c.audible, bar),
        "used_pitch_classes": used_pitch_classes(c.heard, layout, bar),
        "qualified_note_share": qualified_note_share(c.pitched, c.pitched_start, shortest_qualified(beat)),
        "empty_beat_rate": empty_rate(c.audible, beat),
        "pitch_count": np.count_nonzero(c.sounds, axis=1),
        "pitch_interval": pitch_interval(c.pitched_start),
        "inter_onset_interval": inter_onset_interval(c.starts > 0, beat),
        "register": register(c.sounds, layout.pitch_low),
        "syncopation": syncopation(c.starts, beat),
    }


@dataclass(frozen=True)
class _Cells:
    """Cells of a block of rolls, as several measures need them.

    Attributes:
        pitched, pitched_start: where notes sound, and where they start, in the parts that have pitches.
        heard: which pitches sound, in any part with pitches.
        audible: whether anything sounds, drums too.
        starts: how many notes start on each step, drums too.
        sounds: for each pitch, how many cells of the parts sound.
        notes: for each pitch, how many notes start.
    """

    pitched: Bool[np.ndarray, "B T M P"]
    pitched_start: Bool[np.ndarray, "B T M P"]
    heard: Bool[np.ndarray, "B T P"]
    audible: Bool[np.ndarray, "B T"]
    starts: Int[np.ndarray, "B T"]
    sounds: Int[np.ndarray, "B P"]
    notes: Int[np.ndarray, "B P"]


def _cells(planes: Planes, layout: Layout) -> _Cells:
    sounds, start = sounding(planes), starts(planes)
    pitched, pitched_start = without_drums(sounds, layout), without_drums(start, layout)
    return _Cells(
        pitched=pitched,
        pitched_start=pitched_start,
        heard=any_along(pitched, 2),
        audible=any_along(sounds, 2, 3),
        starts=np.count_nonzero(start, axis=(2, 3)),
        sounds=per_pitch(pitched),
        notes=per_pitch(pitched_start),
    )


def attributes(planes: Planes, layout: Layout) -> dict[str, Float64[np.ndarray, " B"]]:
    """The attributes of every roll that edits can change; NaN where undefined.

    `density`, `polyphony`, `note_length`, `syncopation` and `register` as in `measure`, by the same functions.
    `fifths_x`, `fifths_y`: where the notes lie on the circle of fifths (`fifths`). `balance:<part>`: the share of the
    notes that the part plays (`balance`), for each part that has pitches, where there are two or more.
    """
    return in_blocks(planes, lambda block: _attributes_block(block, layout), np.float64)


def _attributes_block(planes: Planes, layout: Layout) -> dict[str, np.ndarray]:
    c = _cells(planes, layout)
    x, y = fifths(c.notes @ pitch_class_of_row(layout)).T
    pitched = layout.pitched
    shares = balance(c.pitched_start) if len(pitched) > 1 else np.empty((len(planes), 0))
    return {
        "density": density(c.starts, layout.steps_per_beat),
        "polyphony": polyphony(c.heard),
        "note_length": note_length(c.sounds, c.notes, layout.steps_per_beat),
        "syncopation": syncopation(c.starts, layout.steps_per_beat),
        "register": register(c.sounds, layout.pitch_low),
        "fifths_x": x,
        "fifths_y": y,
        **{f"balance:{layout.parts[part]}": share for part, share in zip(pitched, shares.T, strict=False)},
    }


def density(starts: Int[np.ndarray, "B T"], steps_per_beat: int) -> Float[np.ndarray, " B"]:
    """Notes that start per beat, all parts together; 0 in silence.

    Trap avoided: divided by the length up to the last note, silence at the end would not count.
    """
    per_beat: np.ndarray = starts.sum(axis=1) * steps_per_beat / starts.shape[1]
    return per_beat


def pitch_extremes(
    sounds: Int[np.ndarray, "B P"], pitch_low: int
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Lowest and highest pitch that sounds, as MIDI pitches 0 to 127; `pitch_range` is their difference, in semitones.

    Source: Yang & Lerch 2018, "pitch range"; `muspy.pitch_range`. Trap avoided: MusPy's range of a silent piece is 0,
    which is also that of a single pitch; here it has none.
    """
    used = sounds > 0
    silent = ~any_along(used, 1)
    low = np.where(silent, np.nan, pitch_low + used.argmax(axis=1))
    high = np.where(silent, np.nan, pitch_low + used.shape[1] - 1 - used[:, ::-1].argmax(axis=1))
    return low, high


def polyphony(heard: Bool[np.ndarray, "B T P"]) -> Float[np.ndarray, " B"]:
    """Mean number of distinct pitches that sound, over the steps where at least one does; from 1 to P.

    A pitch that sounds in two parts at once counts once. Source: `muspy.polyphony`. Traps
    avoided: silent steps in the mean; sums of uint8 that wrap at 256; thresholds ("2 or more" written as "> 2").
    """
    pitches = np.count_nonzero(heard, axis=2)  # [B, T], 64-bit
    return ratio(pitches.sum(axis=1), np.count_nonzero(pitches, axis=1))


def note_length(
    sounds: Int[np.ndarray, "B P"], notes: Int[np.ndarray, "B P"], steps_per_beat: int
) -> Float[np.ndarray, " B"]:
    """Mean length of a note in beats (quarter notes), from 1 / steps_per_beat to T / steps_per_beat.

    Every sounding cell of a part belongs to exactly one note, so the mean is cells per note. A note is cut where the
    window ends. Source: Yang & Lerch 2018, "note length". Trap avoided: without onsets, repeated notes merge into one.
    """
    return ratio(sounds.sum(axis=1), notes.sum(axis=1) * steps_per_beat)


def pitch_class_entropy(counts: Int[np.ndarray, "B 12"]) -> Float[np.ndarray, " B"]:
    """Entropy of the notes' pitch classes, -sum p log2 p, in bits: from 0 (one class) to log2(12) = 3.585.

    Source: Wu & Yang 2020, H; `muspy.pitch_class_entropy`. Trap avoided: a chroma that groups neighbouring pitches
    (a reshape to (12, 7) for (7, 12)), or that takes the first row for a C.
    """
    share = ratio(counts.reshape(-1), np.repeat(counts.sum(axis=1), 12)).reshape(-1, 12)
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
    compared = np.where(any_along(onsets, 1), n_pairs * steps_per_bar, 0)
    return 1 - ratio(differ, compared)


def empty_rate(sounding: Bool[np.ndarray, "B T"], steps_per_bar: int) -> Float[np.ndarray, " B"]:
    """Share of whole bars, or beats, in which nothing sounds, from 0 (music in every one) to 1 (silence).

    Source: MuseGAN, EB; `muspy.empty_measure_rate`, `muspy.empty_beat_rate`. NaN without a whole bar. Traps avoided:
    the share of the bars that are *not* empty; a bar that holds a note from before called empty, as it has no onset; a
    note that ends on a bar line filling the bar after it, as in MusPy.
    """
    filled = any_along(_bars(sounding, steps_per_bar), 2)
    empty = np.count_nonzero(~filled, axis=1)
    return ratio(empty, np.full(len(filled), filled.shape[1]))


def used_pitch_classes(heard: Bool[np.ndarray, "B T P"], layout: Layout, steps_per_bar: int) -> Float[np.ndarray, " B"]:
    """Mean number of pitch classes that sound in a bar, over the whole bars in which any does; from 1 to 12.

    Source: MuseGAN, UPC, there for each track; here of all parts together, which is what is heard. Traps avoided: empty
    bars in the mean (MuseGAN's code leaves them out too); the reshape of its chroma that groups neighbouring pitches.
    """
    n_bars = heard.shape[1] // steps_per_bar
    bars = heard[:, : n_bars * steps_per_bar].reshape(len(heard), n_bars, steps_per_bar, layout.pitches)
    used = any_along(bars, 2)  # [B, R, P]
    classes = np.count_nonzero(used @ pitch_class_of_row(layout).astype(bool), axis=2)  # [B, R]
    return ratio(classes.sum(axis=1), np.count_nonzero(classes, axis=1))


def shortest_qualified(steps_per_beat: int) -> int:
    """Length in steps from which on a note is qualified: a thirty-second note, and at least two steps."""
    return max(2, -(-steps_per_beat // 8))


def qualified_note_share(
    sounding: Bool[np.ndarray, "B T M P"], start: Bool[np.ndarray, "B T M P"], least_steps: int
) -> Float[np.ndarray, " B"]:
    """Share of notes that last `least_steps` steps or longer, from 0 (all is fragments) to 1.

    Source: MuseGAN, QN: three of its steps, a thirty-second note at 24 steps to a beat. At four steps to a beat every
    note is longer than that, and the share would be 1 of any music; so the least is two steps, and a note of a single
    step counts as a fragment (`shortest_qualified`). Traps: music in sixteenths is low in it, and not fragmented; a
    note that the end of the window cuts is as short as what is left of it. So compare with music in the same windows.
    """
    goes_on = sounding & ~start
    long = start[:, : max(0, start.shape[1] - least_steps + 1)].copy()
    for later in range(1, least_steps):
        long &= goes_on[:, later : later + long.shape[1]]
    return ratio(np.count_nonzero(long, axis=(1, 2, 3)), np.count_nonzero(start, axis=(1, 2, 3)))


def inter_onset_interval(onsets: Bool[np.ndarray, "B T"], steps_per_beat: int) -> Float[np.ndarray, " B"]:
    """Mean time in beats from one step on which a note starts to the next such step, all parts together.

    Source: Yang & Lerch 2018, "average inter-onset-interval". From 1 / steps_per_beat to (T - 1) / steps_per_beat; NaN
    with fewer than two such steps. Traps avoided: notes that start together counted as an interval of 0, as in their
    code, which differences the sorted onsets of all notes; seconds, which make tempo look like rhythm.
    """
    n = np.count_nonzero(onsets, axis=1)
    span = onsets.shape[1] - 1 - onsets[:, ::-1].argmax(axis=1) - onsets.argmax(axis=1)
    return ratio(np.where(n > 1, span, 0), np.maximum(n - 1, 0) * steps_per_beat)


def register(sounds: Int[np.ndarray, "B P"], pitch_low: int) -> Float[np.ndarray, " B"]:
    """Mean MIDI pitch over all cells that sound, so that long notes weigh more; from 0 to 127.

    Trap: of a mean over notes, a busy melody would raise the register of music whose bass stays what it was.
    """
    pitch = pitch_low + np.arange(sounds.shape[1])
    return ratio(sounds @ pitch, sounds.sum(axis=1))


def syncopation(starts: Int[np.ndarray, "B T"], steps_per_beat: int) -> Float[np.ndarray, " B"]:
    """Share of the notes that start off the beat, from 0 (all on beats) to 1.

    Traps: plain eighth notes have 0.5, so it measures how fine the rhythm is as well as how displaced. A note that is
    held into the window counts at the start of the window, on a beat.
    """
    on_the_beat = starts[:, ::steps_per_beat].sum(axis=1)
    n = starts.sum(axis=1)
    return ratio(n - on_the_beat, n)


def balance(start: Bool[np.ndarray, "B T M P"]) -> Float[np.ndarray, "B M"]:
    """The share of the notes that each part plays; parts sum to 1."""
    n = np.count_nonzero(start, axis=(1, 3))  # [B, M]
    return np.stack([ratio(n[:, part], n.sum(axis=1)) for part in range(n.shape[1])], axis=1)


def _bars(steps: Bool[np.ndarray, "B T"], steps_per_bar: int) -> Bool[np.ndarray, "B R S"]:
    """The whole bars of each roll."""
    n_bars = steps.shape[1] // steps_per_bar
    return steps[:, : n_bars * steps_per_bar].reshape(len(steps), n_bars, steps_per_bar)


def pitch_interval(start: Bool[np.ndarray, "B T M P"]) -> Float[np.ndarray, " B"]:
    """Mean size in semitones of the interval from one note of a line to the next, up or down; from 0 on.

    The line of a part is the highest note that starts on each step: the part itself if it plays one note at a time,
    else its upper line. Source: Yang & Lerch 2018, "average pitch interval", for melodies; here over the lines of all
    parts. NaN if no line has two notes. Traps avoided: signed intervals, which cancel out; intervals between the notes
    of a chord, in the order in which a file happens to list them.
    """
    interval, roll = intervals(lines(start))
    size = np.bincount(roll, np.abs(interval), minlength=len(start))
    return ratio(size, np.bincount(roll, minlength=len(start)))


# --- distributions ----------------------------------------------------------------------------------------------------
# the classes of Yang & Lerch 2018, in beats: 1/1 to 1/16, dotted 1/2 to 1/16, and triplets of 1/2, 1/4 and 1/8
NOTE_LENGTHS = (4, 2, 1, 1 / 2, 1 / 4, 3, 3 / 2, 3 / 4, 3 / 8, 4 / 3, 2 / 3, 1 / 3)
VECTORS = ("pitch_class_histogram", "note_length_histogram", "pitch_class_transitions", "note_length_transitions")


def vectors(planes: Planes, layout: Layout) -> dict[str, Float32[np.ndarray, "B _"]]:
    """The distributions of Yang & Lerch 2018 in each roll, drums left out; a row sums to 1, or is NaN without notes.

    `pitch_class_histogram` (12, C first) and `note_length_histogram` (12, `NOTE_LENGTHS`): shares of the notes.
    `pitch_class_transitions` and `note_length_transitions` (144, from row to column): shares of the steps from one
    note of a line (`pitch_interval`) to the next. A length belongs to the class nearest to it in beats, the first of
    those that tie. Traps avoided: transitions between the notes of a chord; rows that are scaled to 1 each, in which a
    step that happened once weighs as much as one that happened a hundred times.
    """
    return in_blocks(planes, lambda block: _vectors_block(block, layout), np.float32)


def _vectors_block(planes: Planes, layout: Layout) -> dict[str, np.ndarray]:
    n_rolls, steps = planes.shape[:2]
    roll, part, row, onset, offset = cell_runs(planes[:, :, layout.pitched])
    beats = np.arange(steps + 1) / layout.steps_per_beat
    class_of_length = np.abs(beats[:, None] - np.array(NOTE_LENGTHS)).argmin(axis=1)
    pitch_class, length = (row + layout.pitch_low) % 12, class_of_length[offset - onset]
    # of the notes of a part that start together the highest: the last in this order
    place = (roll * len(layout.parts) + part) * steps + onset
    order = np.lexsort((row, place))
    upper = order[np.append(place[order][1:] != place[order][:-1], True)] if len(order) else order
    line = place[upper] // max(1, steps)
    before, after = upper[:-1][line[1:] == line[:-1]], upper[1:][line[1:] == line[:-1]]
    counts = {
        "pitch_class_histogram": _tally(roll, pitch_class, n_rolls, 12),
        "note_length_histogram": _tally(roll, length, n_rolls, 12),
        "pitch_class_transitions": _tally(roll[after], 12 * pitch_class[before] + pitch_class[after], n_rolls, 144),
        "note_length_transitions": _tally(roll[after], 12 * length[before] + length[after], n_rolls, 144),
    }
    return {name: rows / np.where(rows.any(axis=1), rows.sum(axis=1), np.nan)[:, None] for name, rows in counts.items()}


def _tally(
    roll: Int[np.ndarray, " M"], value: Int[np.ndarray, " M"], n_rolls: int, n_values: int
) -> Int[np.ndarray, "B V"]:
    """How often each value comes in each roll."""
    counts = np.bincount(roll * n_values + value, minlength=n_rolls * n_values)
    return counts.reshape(n_rolls, n_values)
