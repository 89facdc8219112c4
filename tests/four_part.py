"""A small corpus of made-up four-part pieces, for tests that need real files: deterministic, no network, no licence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from midivae.music import smf
from midivae.music.notes import Notes, Tempo, TimeSignature

PARTS = ("Soprano", "Alto", "Tenor", "Bass")
LOWEST = np.array([64, 57, 50, 41])  # of each part's range, which is an octave
SCALE = np.array([0, 2, 4, 5, 7, 9, 11])  # of a major key
QUARTER = 480  # ticks


def piece(seed: int, bars: int = 12) -> Notes:
    """A piece in 4/4: a chord on every beat, voiced anew; some beats of each part are two quavers."""
    rng = np.random.default_rng([seed, 2026])
    beats = 4 * bars
    root = rng.integers(0, 7, beats)
    chord_tones = SCALE[(root[:, None] + np.array([0, 2, 4])) % 7] + rng.integers(0, 12)  # [beat, 3]
    onset, duration, pitch, track = [], [], [], []
    for part in range(len(PARTS)):
        tone = chord_tones[np.arange(beats), rng.integers(0, 3, beats)]
        at = LOWEST[part] + (tone - LOWEST[part]) % 12
        halves = np.where(rng.random(beats) < 0.3, 2, 1)  # notes on the beat
        beat = np.repeat(np.arange(beats), halves)
        second = np.diff(beat, prepend=-1) == 0
        onset.append(beat * QUARTER + second * QUARTER // 2)
        duration.append(QUARTER // halves[beat])
        pitch.append(at[beat] + 2 * second)
        track.append(np.full(len(beat), part))
    notes = len(np.concatenate(onset))
    return Notes(
        pitch=np.concatenate(pitch).astype(np.uint8),
        velocity=np.full(notes, 80, np.uint8),
        onset_tick=np.concatenate(onset).astype(np.int32),
        duration_tick=np.concatenate(duration).astype(np.int32),
        track=np.concatenate(track).astype(np.int32),
        program=np.full(notes, 52, np.uint8),
        is_drum=np.zeros(notes, bool),
        track_names=PARTS,
        ticks_per_quarter=QUARTER,
        tempos=(Tempo.from_qpm(96.0),),
        time_signatures=(TimeSignature(0, 4, 4),),
    ).sorted()


def write_corpus(folder: Path, pieces: int = 24) -> None:
    """Writes that many pieces as .mid files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(pieces):
        (folder / f"piece-{number:03}.mid").write_bytes(smf.write(piece(number)))
