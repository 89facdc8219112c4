"""How parts fit together: tonal distance, crossings, parallel fifths and octaves, dissonances, steps of melodies.

Source: MuseGAN (Dong et al. 2018) for the tonal distance of tracks; Harte, Sandler & Gasser ("Detecting harmonic change
in musical audio", 2006) for the tonal centroid; Yang & Lerch 2018 for intervals. The other rules are those of every
textbook on counterpoint.

Conventions: drums are left out. The *line* of a part is the highest of its notes that sound, or that start. The *bass*
is the lowest of two or more pitches that sound together, in any part; a single pitch has no bass. Pitches are rows of
the roll, counted from its lowest pitch; -1 stands for none.

Shapes:
    B  rolls    T  steps    N  parts    M  parts with pitches    K  planes    P  pitches    Q  whole beats

Offers: `lines`, `outer_pitches`; `intervals` and `steps_of_lines`; `crossing_share`, `parallel_share`,
`dissonant_leap_share`; `tonal_distance`.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from midivae.measures.notes import Planes, ratio
from midivae.music.roll import FRAME, Layout

NONE = -1
_WHOLE_TONE, _OCTAVE = 2, 12  # semitones
_DISSONANT = np.isin(np.arange(12), (1, 2, 5, 6, 10, 11))  # seconds, fourths and sevenths over the bass
_PERFECT = np.isin(np.arange(12), (0, 7))  # octaves and fifths


def lines(cells: Bool[np.ndarray, "B T M P"]) -> Int[np.ndarray, "B M T"]:
    """The line of each part: the row of the highest cell of each step."""
    highest = cells.shape[3] - 1 - cells[..., ::-1].argmax(axis=3)
    present = np.take_along_axis(cells, highest[..., None], axis=3)[..., 0]
    return np.where(present, highest, NONE).transpose(0, 2, 1)


def outer_pitches(heard: Bool[np.ndarray, "B T P"]) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
    """The highest pitch and the bass of each step, if two or more pitches sound."""
    top, bass = heard.shape[2] - 1 - heard[..., ::-1].argmax(axis=2), heard.argmax(axis=2)
    several = (top > bass) & heard.any(axis=2)
    return np.where(several, top, NONE), np.where(several, bass, NONE)


# --- melodies ---------------------------------------------------------------------------------------------------------
def intervals(line: Int[np.ndarray, "B M T"]) -> tuple[Int[np.ndarray, " I"], Int[np.ndarray, " I"]]:
    """The intervals from one note of a line to the next, in semitones up, and the roll of each; of all parts.

    Args:
        line: of the notes that start.
    """
    _, parts, steps = line.shape
    (place,) = np.nonzero(line.reshape(-1) != NONE)
    of_line = place // max(1, steps)
    follows = of_line[1:] == of_line[:-1]
    return np.diff(line.reshape(-1)[place])[follows], of_line[1:][follows] // max(1, parts)


def steps_of_lines(line: Int[np.ndarray, "B M T"]) -> dict[str, Float[np.ndarray, " B"]]:
    """How melodies move, as shares of the intervals from note to note of all lines; NaN without an interval.

    `repeat_share`: the same pitch again. `step_share`: a second, up or down. `wide_leap_share`: more than an octave.
    The rest are leaps of a third to an octave.
    """
    interval, roll = intervals(line)
    size, n = np.abs(interval), np.bincount(roll, minlength=len(line))
    kinds = {
        "repeat_share": size == 0,
        "step_share": (size > 0) & (size <= _WHOLE_TONE),
        "wide_leap_share": size > _OCTAVE,
    }
    return {name: ratio(np.bincount(roll[kind], minlength=len(line)), n) for name, kind in kinds.items()}


# --- parts against each other -----------------------------------------------------------------------------------------
def crossing_share(line: Int[np.ndarray, "B M T"]) -> Float[np.ndarray, " B"]:
    """The share of the steps with two or more parts on which a part sounds below a part that should be lower.

    Parts are sorted by the mean pitch of their lines in the roll, so their names and order do not matter; neighbours in
    this order are compared.

    Args:
        line: of the notes that sound.
    """
    sounds = line != NONE
    mean = np.where(sounds, line, 0).sum(axis=2) / np.maximum(1, np.count_nonzero(sounds, axis=2))
    order = np.argsort(-mean, axis=1, kind="stable")[:, :, None]
    line = np.take_along_axis(line, order, axis=1)
    crossed = (line[:, :-1] < line[:, 1:]) & (line[:, :-1] != NONE)
    several = np.count_nonzero(sounds, axis=1) > 1
    return ratio(np.count_nonzero(crossed.any(axis=1), axis=1), np.count_nonzero(several, axis=1))


def parallel_share(top: Int[np.ndarray, "B T"], bass: Int[np.ndarray, "B T"]) -> Float[np.ndarray, " B"]:
    """The share of the moves of the outer pitches that are parallel fifths or octaves.

    A *move* is a step on which the highest pitch or the bass is another one than on the step before. It is parallel if
    both change and are a fifth, or an octave, apart before and after; in the same direction or in contrary motion,
    which textbooks forbid as well.
    """
    sounds = (top[:, 1:] != NONE) & (top[:, :-1] != NONE)
    top_moves, bass_moves = top[:, 1:] != top[:, :-1], bass[:, 1:] != bass[:, :-1]
    apart = (top - bass) % 12
    parallel = top_moves & bass_moves & sounds & (apart[:, 1:] == apart[:, :-1]) & _PERFECT[apart[:, 1:]]
    moves = (top_moves | bass_moves) & sounds
    return ratio(np.count_nonzero(parallel, axis=1), np.count_nonzero(moves, axis=1))


def dissonant_leap_share(
    sounding: Int[np.ndarray, "B M T"], starting: Int[np.ndarray, "B M T"], bass: Int[np.ndarray, "B T"], beat: int
) -> Float[np.ndarray, " B"]:
    """The share of the dissonances that a part leaves by a leap: by more than a whole tone.

    A dissonance is a note of a line on a beat, a second, a fourth (also augmented) or a seventh over the bass, octaves
    aside. It is left for the next note of its line; those without a next note do not count. Traps: fourths in a
    six-four chord are no dissonances to every ear, and the seventh of a broken chord may leap; compare with held-out
    music.

    Args:
        sounding, starting: lines of the notes that sound, and that start.
        beat: steps of a beat.
    """
    steps = sounding.shape[2]
    # the step of the next start after each step; `steps` if there is none
    place = np.where(starting != NONE, np.arange(steps), steps)
    after = np.minimum.accumulate(place[..., ::-1], axis=2)[..., ::-1][..., 1:]
    after = np.concatenate([after, np.full((*after.shape[:2], min(1, steps)), steps)], axis=2)[..., ::beat]
    note, low = sounding[..., ::beat], bass[:, None, ::beat]
    dissonant = _DISSONANT[(note - low) % 12] & (note != NONE) & (low != NONE) & (after < steps)
    following = np.take_along_axis(starting, np.minimum(after, steps - 1), axis=2)
    leaps = dissonant & (np.abs(following - note) > _WHOLE_TONE)
    return ratio(np.count_nonzero(leaps, axis=(1, 2)), np.count_nonzero(dissonant, axis=(1, 2)))


# --- how far parts are from each other --------------------------------------------------------------------------------
def _centroid_matrix() -> Float[np.ndarray, "12 6"]:
    """Harte et al. 2006, equation 1: a pitch class on the circles of fifths, minor and major thirds."""
    pitch_class = np.arange(12)
    circles = ((7 * np.pi / 6, 1.0), (3 * np.pi / 2, 1.0), (2 * np.pi / 3, 0.5))
    return np.stack([r * turn(pitch_class * angle) for angle, r in circles for turn in (np.sin, np.cos)], axis=1)


_CENTROID = _centroid_matrix()


def tonal_distance(planes: Planes, layout: Layout) -> Float[np.ndarray, " B"]:
    """Mean distance between the tonal centroids of two parts in a beat, over all pairs of parts and all beats.

    The centroid of a part in a beat is the mean, over its cells, of the points of their pitch classes in Harte's space
    of six dimensions; 0 if two parts play the same pitch classes, at most 3. Only beats in which both parts sound
    count. NaN if there is no such beat, as with one part. Source: MuseGAN's TD. Traps avoided: a chroma from a
    reshape that groups neighbouring pitches (Pypianoroll's `tonal_distance`); silence as a point at the origin, which
    is near all others.
    """
    parts = layout.pitched
    n_beats = planes.shape[1] // layout.steps_per_beat
    frames = planes[:, : n_beats * layout.steps_per_beat][:, :, parts, FRAME]
    shape = (len(planes), n_beats, layout.steps_per_beat, len(parts), layout.pitches)
    cells = np.count_nonzero(frames.reshape(shape), axis=2)  # [B, Q, N, P]
    space = _CENTROID[(layout.pitch_low + np.arange(layout.pitches)) % 12]
    n = cells.sum(axis=3)
    centroid = (cells @ space) / np.maximum(n, 1)[..., None]  # [B, Q, N, 6]
    total, counted = np.zeros(len(planes)), np.zeros(len(planes), np.int64)
    for a, b in combinations(range(len(parts)), 2):
        both = (n[:, :, a] > 0) & (n[:, :, b] > 0)
        far = np.sqrt(((centroid[:, :, a] - centroid[:, :, b]) ** 2).sum(axis=2))
        total += np.where(both, far, 0).sum(axis=1)
        counted += np.count_nonzero(both, axis=1)
    return np.asarray(np.where(counted > 0, total / np.maximum(counted, 1), np.nan))
