"""Cadences: chords that end phrases, basses that fall a fifth, and how music ends.

A *cadence* ends a phrase or a piece, most often with the bass on the fifth and then the first degree (V-I) and a chord
that is held.

Conventions: as in `counterpoint`.

Shapes:
    B  rolls    T  steps    P  pitches

Offers: `held_chords`, `bass_fifths`; `endings`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from midivae.measures import chords, counterpoint
from midivae.measures.counterpoint import NONE
from midivae.measures.keys import best_scale
from midivae.measures.notes import Planes, any_along, chroma, without_drums
from midivae.music.roll import Layout, sounding

_V_I = 5  # semitones up, octaves aside: the bass falls a fifth, or rises a fourth


def held_chords(
    heard: Bool[np.ndarray, "B T P"], starts: Bool[np.ndarray, "B T"], least_steps: int
) -> Int[np.ndarray, " B"]:
    """How many chords, or single notes, start and are held: for `least_steps` steps nothing else starts or ends.

    In music that moves in quarters and eighths, chords of a half note or longer end phrases. Drums do not count.

    Args:
        starts: whether a note with a pitch starts on each step.
    """
    changes = starts.copy()
    changes[:, 1:] |= any_along(heard[:, 1:] != heard[:, :-1], 2)
    until = np.cumsum(changes, axis=1)
    n = max(0, starts.shape[1] - least_steps + 1)
    held = starts[:, :n] & (until[:, least_steps - 1 :] == until[:, :n])
    return np.asarray(np.count_nonzero(held, axis=1))


def bass_fifths(bass: Int[np.ndarray, "B T"]) -> Int[np.ndarray, " B"]:
    """How often the bass falls a fifth or rises a fourth, as from V to I; in any key, rests aside."""
    low = _last_known(bass)
    moves = (low[:, :-1] != NONE) & ((low[:, 1:] - low[:, :-1]) % 12 == _V_I)
    return np.asarray(np.count_nonzero(moves, axis=1))


def _last_known(bass: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
    """The bass, which stays where it was while none sounds."""
    place = np.maximum.accumulate(np.where(bass != NONE, np.arange(bass.shape[1]), 0), axis=1)
    return np.take_along_axis(bass, place, axis=1)


def endings(planes: Planes, layout: Layout) -> dict[str, Float[np.ndarray, " B"]]:
    """How whole pieces end: 1 yes, 0 no, NaN if two pitches never sound together. Silence after the end is ignored.

    `ends_on_triad`: the last chord, on the last step on which two or more pitches sound, is a triad; it may lack its
    fifth. `ends_with_v_i`: the last bass note is a fourth above or a fifth below the one before. `ends_on_tonic`: it is
    the tonic of the piece's key (`keys.best_scale`). Trap: a window that is cut out of a piece has no end.
    """
    heard = any_along(without_drums(sounding(planes), layout), 2)
    bass = counterpoint.outer_pitches(heard)[1]
    sounds, roll = bass != NONE, np.arange(len(bass))
    last = _last(sounds)
    final = bass[roll, last][:, None]
    before = bass[roll, _last(sounds & (bass != final))][:, None]  # the final note itself if it has no other before it
    tonic = best_scale(chroma(planes, layout))[0] % 12
    chord = chords.chord_of(heard[roll, last], layout)
    ends = {
        "ends_on_triad": (chords.TRIADS | chords.THIRDS)[chord],
        "ends_with_v_i": ((final - before) % 12 == _V_I)[:, 0],
        "ends_on_tonic": (final[:, 0] + layout.pitch_low) % 12 == tonic,
    }
    return {name: np.where(sounds.any(axis=1), value.astype(np.float64), np.nan) for name, value in ends.items()}


def _last(steps: Bool[np.ndarray, "B T"]) -> Int[np.ndarray, " B"]:
    """The last step that is set; the last of all if there is none."""
    return np.asarray(steps.shape[1] - 1 - steps[:, ::-1].argmax(axis=1))
