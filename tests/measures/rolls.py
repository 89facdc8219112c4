"""Rolls for the tests of measures, from notes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from midivae.music.roll import Layout

Note = tuple[int, int, int, int]  # part, pitch, onset step, offset step
SATB = Layout(("soprano", "alto", "tenor", "bass"), 36, 48, 4)
BAND = Layout(("drums", "piano"), 36, 48, 4)
ONE = Layout(("merged",), 36, 48, 4)


def roll(notes: list[Note], layout: Layout = ONE, steps: int = 32) -> np.ndarray:
    """A batch of one roll."""
    planes = np.zeros((1, steps, len(layout.parts), 2, layout.pitches), bool)
    for part, pitch, onset, offset in notes:
        planes[0, onset:offset, part, 1, pitch - layout.pitch_low] = True
        planes[0, onset, part, 0, pitch - layout.pitch_low] = True
    return planes


@st.composite
def music(draw: st.DrawFn, parts: int = 4, steps: int = 48, low: int = 48, high: int = 71) -> list[Note]:
    """Up to 40 notes, some bars often empty."""
    note = st.builds(
        lambda part, pitch, onset, length: (part, pitch, onset, min(steps, onset + length)),
        st.integers(0, parts - 1),
        st.integers(low, high),
        st.integers(0, steps - 1),
        st.integers(1, 20),
    )
    return draw(st.lists(note, max_size=40))
