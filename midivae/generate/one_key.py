"""Music that stays in one key: pitches outside its scale become less likely, latents move towards it.

Shapes:
    B  samples    Z  latent    N  parts    P  pitches

Offers: `Key`; `to_key`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from midivae.generate.context import Latents, Planes
from midivae.measures.keys import best_scale, fifths, in_scale, major_of
from midivae.measures.notes import chroma
from midivae.models.controls import KEY_AXES, Controls
from midivae.music.roll import Layout

OUTSIDE = 2.5  # by how much the logit of a note from outside the key is lowered


@dataclass(frozen=True)
class Key:
    """The keys that music stays in: those of leads, or of the first windows of songs.

    Attributes:
        best: the key (`keys.best_scale`) of the music so far.
        outside: the pitches of each part outside its scale; none after silence, and none of drums.
        centroid: the place of the notes inside the scale on the circle of fifths; NaN after silence. Notes outside are
            left out: they would pull it to the centre, which has no key.
    """

    best: Int[np.ndarray, " B"]
    outside: Bool[np.ndarray, "B N P"]
    centroid: Float[np.ndarray, "B 2"]

    @classmethod
    def of(cls, music: Planes, layout: Layout) -> Key:
        """The keys of music."""
        counts = chroma(music, layout)
        key, _ = best_scale(counts)
        inside = in_scale(key) | (key < 0)[:, None]  # [B, 12]
        pitch = layout.pitch_low + np.arange(layout.pitches)
        pitched = np.isin(np.arange(len(layout.parts)), layout.pitched)
        outside = ~inside[:, None, pitch % 12] & pitched[:, None]
        return cls(key, outside, fifths(counts * inside))

    def lower_outside(self, uniform: Float32[np.ndarray, "B T N K P"]) -> None:
        """Changes the numbers that cells are drawn by, so that frames outside the key have a lower logit.

        A cell is set where sigmoid(logit) > u. So sigmoid(logit - a) > u where sigmoid(logit) > sigmoid(logit(u) + a).
        """
        frame = uniform[:, :, :, -1]
        odds = np.exp(-OUTSIDE) * (1 - frame) / np.maximum(frame, 1e-7)
        frame[:] = np.where(self.outside[:, None], (1 / (1 + odds)).astype(np.float32), frame)

    def first_within(
        self, candidates: Sequence[tuple[Latents, Planes]], layout: Layout, start: int
    ) -> tuple[Latents, Planes]:
        """For each sample the first candidate that is in the key from step `start` on, or else the first."""
        z, music = candidates[0]
        for other_z, other in candidates[1:]:
            keys = [best_scale(chroma(rolls[:, start:], layout))[0] for rolls in (music, other)]
            better = (keys[0] != self.best) & (keys[1] == self.best)
            z = np.where(better[:, None], other_z, z)
            music = np.where(better[:, None, None, None, None], other, music)
        return z, music

    def moved_into(self, controls: Controls, z: Latents) -> Latents:
        """Latents moved to the key's place on the circle of fifths; unchanged if the model cannot change the key."""
        predicted = controls.predict(z)
        missing = np.nan_to_num(self.centroid - np.stack([predicted[name] for name in KEY_AXES], axis=1))
        moved: np.ndarray = z + missing @ controls.directions[[controls.names.index(name) for name in KEY_AXES]]
        return moved.astype(np.float32)


def to_key(key: Int[np.ndarray, " B"], wanted: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    """Semitones, from -6 to 5, from one scale to another (`keys.KEYS`); 0 from or to silence.

    A minor scale counts as the major scale with the same pitches.
    """
    shift = (major_of(wanted) - major_of(key) + 6) % 12 - 6
    return np.where((key < 0) | (wanted < 0), 0, shift)
