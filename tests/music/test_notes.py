"""Notes as columns, and the bridge to pretty_midi and back."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import events_of, grid_events, notes_of

from midivae.music import smf
from midivae.music.notes import Notes, Tempo, TimeSignature


@settings(deadline=None, max_examples=25)
@given(st.lists(grid_events(), min_size=1, max_size=3))
def test_pretty_midi_bridge_and_back(tracks: list[list[tuple[int, int, int]]]) -> None:
    tempos = (Tempo(0, 500_000), Tempo(960, 750_000))
    drums = tuple(i == 2 for i in range(len(tracks)))
    notes = notes_of(*tracks, drums=drums, tempos=tempos, time_signatures=(TimeSignature(0, 3, 4),))
    file = notes.to_pretty_midi()
    again = Notes.from_pretty_midi(file)
    assert events_of(again) == events_of(notes)
    assert (again.tempos, again.time_signatures) == (notes.tempos, notes.time_signatures)
    assert max(n.end for i in file.instruments for n in i.notes) == pytest.approx(notes.duration_s)
    # what pretty_midi itself writes and reads back is the same music
    buffer = io.BytesIO()
    file.write(buffer)
    assert events_of(smf.read(buffer.getvalue()).notes) == events_of(notes)


def test_a_long_note_under_a_tempo_change_keeps_its_seconds() -> None:
    # one second at 120 BPM (960 ticks), then 480 ticks at 60 BPM: one more
    notes = notes_of([(0, 1440, 60)], tempos=(Tempo(0, 500_000), Tempo(960, 1_000_000)))
    assert notes.to_pretty_midi().instruments[0].notes[0].end == pytest.approx(2.0)
    assert notes.seconds(np.array([0, 960, 1440])).tolist() == pytest.approx([0.0, 1.0, 2.0])


tempo = st.builds(Tempo, st.integers(0, 5000), st.integers(1, 2**24 - 1))
metre = st.builds(TimeSignature, st.integers(0, 5000), st.integers(1, 12), st.sampled_from([1, 2, 4, 8]))


@settings(max_examples=60)
@given(grid_events(), st.lists(tempo, max_size=4), st.lists(metre, max_size=4))
def test_events_of_a_file_are_the_last_of_each_tick(
    events: list[tuple[int, int, int]], tempos: list[Tempo], metres: list[TimeSignature]
) -> None:
    written = notes_of(events, tempos=tuple(tempos), time_signatures=tuple(metres))
    notes = smf.read(smf.write(written)).notes
    assert [t.tick for t in notes.tempos] == sorted({t.tick for t in tempos})
    assert {s.tick for s in notes.time_signatures} <= {s.tick for s in metres}
    assert all(one[1:] != other[1:] for one, other in pairwise(notes.time_signatures))
    assert notes.duration_s == pytest.approx(float(notes.seconds(np.array([notes.end_tick]))[0]))


def test_the_bridge_keeps_the_instruments_of_a_track() -> None:
    """A track whose program changes becomes an instrument for each program."""
    notes = notes_of([(0, 480, 60), (480, 480, 62), (960, 480, 64)], names=("solo",))
    file = replace(notes, program=np.array([0, 40, 0], np.uint8)).to_pretty_midi()
    assert [(i.name, i.program, [n.pitch for n in i.notes]) for i in file.instruments] == [
        ("solo", 0, [60, 64]),
        ("solo", 40, [62]),
    ]
