"""Notes <-> Roll: hand-worked cells, round trips, and a slow rasteriser as the judge."""

from __future__ import annotations

import numpy as np
import pretty_midi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import events_of, grid_events, hand_made, notes_of, slow_roll

from midivae.errors import SchemaError
from midivae.music import grid, smf
from midivae.music.notes import Notes, TimeSignature
from midivae.music.roll import Layout, Roll, from_notes, pack, rasterise, to_notes, unpack

SATB = Layout(("soprano", "bass", "drums"), 36, 48, 4)


def roll_of(notes: Notes, layout: Layout = SATB) -> Roll:
    """The roll with one part per track, in their order."""
    return from_notes(notes, notes.track.astype(np.int64), layout)


def test_repeated_and_abutting_notes_stay_apart() -> None:
    # C4 on steps 0-1 and again on 2-3, D4 on 4-7: rows 24 and 26 above pitch 36
    roll = roll_of(notes_of([(0, 240, 60), (240, 240, 60), (480, 480, 62)], [], []))
    assert roll.planes.shape == (8, 3, 2, 48)
    assert np.argwhere(roll.onset).tolist() == [[0, 0, 24], [2, 0, 24], [4, 0, 26]]
    assert np.argwhere(roll.frame[:, 0]).tolist() == [[t, 24] for t in range(4)] + [[t, 26] for t in range(4, 8)]


def test_hand_made_file_to_a_roll_and_back() -> None:
    notes = smf.read(hand_made()).notes
    part = {"Soprano": 0, "Bass": 1, "Kit": 2}
    to_part = np.array([part[name] for name in notes.track_names])
    roll = from_notes(notes, to_part[notes.track], SATB)
    signatures = (TimeSignature(0, 3, 4), TimeSignature(1440, 4, 4))
    back = to_notes(roll, programs=(0, 32, 0), time_signatures=signatures)
    names = {"Soprano": "soprano", "Bass": "bass", "Kit": "drums"}
    assert events_of(back) == sorted((names[name], *rest) for name, *rest in events_of(notes))
    assert events_of(smf.read(smf.write(back)).notes) == events_of(back)
    assert grid.bar_starts(signatures, 480, 4, 28).tolist() == [0, 12]


@settings(deadline=None, max_examples=100)
@given(st.lists(grid_events(), min_size=3, max_size=3))
def test_every_note_on_the_grid_survives(tracks: list[list[tuple[int, int, int]]]) -> None:
    notes = notes_of(*tracks, names=SATB.parts, drums=(False, False, True))
    back = to_notes(roll_of(notes))
    assert events_of(back) == events_of(notes)
    assert back.is_drum.tolist() == [name == "drums" for name in np.array(back.track_names)[back.track]]


any_notes = st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 900), st.integers(0, 127)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=100)
@given(any_notes, any_notes, st.sampled_from([48, 88, 128]), st.sampled_from([1, 3, 4, 12]))
def test_fast_and_slow_rasterisers_agree(
    one: list[tuple[int, int, int]], two: list[tuple[int, int, int]], pitches: int, steps_per_beat: int
) -> None:
    layout = Layout(("one", "two"), 128 - pitches if pitches < 128 else 0, pitches, steps_per_beat)
    notes = notes_of(one, two)
    assert np.array_equal(roll_of(notes, layout).planes, slow_roll(notes, notes.track, layout))


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.integers(0, 127), st.integers(-1, 1)), max_size=30),
    st.sampled_from([(0, 128), (36, 48), (50, 37)]),
)
def test_every_note_of_a_part_is_counted_once(
    events: list[tuple[int, int, int, int]], pitches: tuple[int, int]
) -> None:
    layout = Layout(("one", "two"), *pitches, 4)
    onset, duration, pitch, part = np.array(events, np.int64).reshape(-1, 4).T
    raster = rasterise(pitch, part, onset, onset + duration, int((onset + duration).max(initial=0)), layout)
    within = (pitch >= layout.pitch_low) & (pitch < layout.pitch_low + layout.pitches) & (part >= 0)
    assert raster.kept == len(set(zip(part[within], pitch[within], onset[within], strict=True)))
    assert raster.out_of_range == int((~within & (part >= 0)).sum())
    assert raster.merged == int(within.sum()) - raster.kept


def test_a_note_beyond_its_roll_is_refused() -> None:
    layout, at = Layout(("all",), 30, 60, 4), np.array
    for onset, offset, part in ((0, 9, 0), (-1, 2, 0), (3, 3, 0), (0, 2, 1)):
        with pytest.raises(ValueError, match="a note"):
            rasterise(at([60]), at([part]), at([onset]), at([offset]), 8, layout)


def test_overlap_on_one_pitch_ends_the_earlier_note() -> None:
    # C4 on steps 0-7, struck again on step 2 for two steps: 0-1, then 2-7, since the key is still down
    back = to_notes(roll_of(notes_of([(0, 960, 60), (240, 240, 60)], [], [])))
    assert [e[1:] for e in events_of(back)] == [(0, 240, 60), (240, 720, 60)]


def test_frame_plane_agrees_with_pretty_midi_at_the_grid() -> None:
    # at 120 BPM a sixteenth lasts 1/8 s, so pretty_midi's roll at 8 frames a second has our steps
    notes = notes_of([(0, 480, 60), (480, 960, 64), (480, 480, 67), (1440, 480, 60)])
    theirs = pretty_midi.PrettyMIDI()
    theirs.instruments.extend(notes.to_pretty_midi().instruments)
    layout = Layout(("all",), 0, 128, 4)
    assert np.array_equal(roll_of(notes, layout).frame[:, 0].T, theirs.get_piano_roll(fs=8) > 0)


@given(st.integers(1, 5), st.integers(1, 128), st.integers(0, 9), st.randoms(use_true_random=False))
def test_pack_and_unpack(parts: int, pitches: int, steps: int, random: object) -> None:
    layout = Layout(tuple(f"p{i}" for i in range(parts)), 0, pitches, 4)
    planes = np.random.default_rng(random.randrange(2**32)).random((steps, parts, 2, pitches)) < 0.3  # type: ignore[attr-defined]
    packed = pack(planes)
    assert packed.shape == (steps, layout.bytes_per_step)
    assert np.array_equal(unpack(packed, layout), planes)


def test_layout_round_trip_and_refusal() -> None:
    assert Layout.from_json(SATB.to_json()) == SATB
    for text in ("{}", "no json", '{"parts": 3}'):
        with pytest.raises(SchemaError, match="rerun stage `ingest`"):
            Layout.from_json(text)
