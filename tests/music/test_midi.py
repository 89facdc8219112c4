"""Bytes <-> Notes, with pretty_midi as the independent judge."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import mido
import numpy as np
import pretty_midi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import events_of, grid_events, hand_made, notes_of
from symusic import core

from midivae.config.ingest import IngestLimits
from midivae.errors import MidiError
from midivae.music import midi
from midivae.music.notes import Notes, Tempo, TimeSignature


def as_pretty_midi_reads(data: bytes) -> list[tuple[str, int, int, int]]:
    """(track name, onset_tick, duration_tick, pitch) of every note, read by pretty_midi."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of tempi outside the first track, as in Nottingham
        file = pretty_midi.PrettyMIDI(io.BytesIO(data))
    return sorted(
        (i.name, file.time_to_tick(n.start), file.time_to_tick(n.end) - file.time_to_tick(n.start), n.pitch)
        for i in file.instruments
        for n in i.notes
    )


def test_hand_made_file_is_read_note_for_note() -> None:
    notes = midi.read(hand_made())
    assert events_of(notes) == [
        ("Bass", 0, 1440, 48),
        ("Bass", 0, 1440, 52),
        ("Bass", 0, 1440, 55),
        ("Kit", 0, 480, 38),
        ("Kit", 480, 480, 38),
        ("Kit", 960, 480, 38),
        ("Soprano", 0, 240, 60),
        ("Soprano", 240, 240, 60),
        ("Soprano", 480, 480, 62),
        ("Soprano", 960, 480, 64),
        ("Soprano", 1440, 1920, 65),
    ]
    assert events_of(notes) == as_pretty_midi_reads(hand_made())
    assert notes.ticks_per_quarter == 480
    assert notes.tempos == (Tempo(0, 500_000), Tempo(1440, 1_000_000))
    assert notes.time_signatures == (TimeSignature(0, 3, 4), TimeSignature(1440, 4, 4))
    by_track = {name: notes.track == i for i, name in enumerate(notes.track_names)}
    assert set(notes.program[by_track["Bass"]]) == {32}
    assert notes.is_drum[by_track["Kit"]].all()
    assert not notes.is_drum[~by_track["Kit"]].any()
    # 1440 ticks at 120 BPM are 1.5 s; 1920 ticks at 60 BPM are 4 s
    assert notes.duration_s == pytest.approx(5.5)
    assert notes.tempo_qpm == pytest.approx(60.0)
    assert notes.time_signature == TimeSignature(1440, 4, 4)


@settings(deadline=None, max_examples=50)
@given(st.lists(grid_events(), min_size=1, max_size=4))
def test_write_then_read(tracks: list[list[tuple[int, int, int]]]) -> None:
    notes = notes_of(*tracks, programs=tuple(range(len(tracks))))
    data = midi.write(notes)
    again = midi.read(data)
    assert events_of(again) == events_of(notes) == as_pretty_midi_reads(data)
    assert (again.tempos, again.time_signatures) == (notes.tempos, notes.time_signatures)
    assert midi.write(notes) == data


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
    assert events_of(midi.read(buffer.getvalue())) == events_of(notes)


def test_a_long_note_under_a_tempo_change_keeps_its_seconds() -> None:
    # one second at 120 BPM (960 ticks), then 480 ticks at 60 BPM: one more
    notes = notes_of([(0, 1440, 60)], tempos=(Tempo(0, 500_000), Tempo(960, 1_000_000)))
    assert notes.to_pretty_midi().instruments[0].notes[0].end == pytest.approx(2.0)
    assert notes.seconds(np.array([0, 960, 1440])).tolist() == pytest.approx([0.0, 1.0, 2.0])


def header(resolution: int, tracks: int = 1) -> bytes:
    return b"MThd" + struct.pack(">IHHH", 6, 1, tracks, resolution)


def track(body: bytes) -> bytes:
    return b"MTrk" + struct.pack(">I", len(body)) + body


END = b"\x00\xff\x2f\x00"
NOTE = b"\x00\x90\x3c\x40\x60\x80\x3c\x40"  # middle C for 96 ticks


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"hello, this is a text file", "not_midi"),
        (b"MThd", "unreadable"),
        (hand_made()[:40], "unreadable"),
        (header(0) + track(NOTE + END), "bad_resolution"),
        (header(480) + track(END), "no_notes"),
        # two deltas of 2^28 - 1 ticks and more, eight of them: past 2^31
        (header(480) + track(b"\xff\xff\xff\x7f\x90\x3c\x40\xff\xff\xff\x7f\x80\x3c\x40" * 8 + END), "bad_time"),
    ],
)
def test_what_cannot_be_used_has_a_reason(data: bytes, code: str) -> None:
    with pytest.raises(MidiError) as caught:
        midi.read(data)
    assert caught.value.code == code
    assert code in midi.REASONS
    assert caught.value.detail


@pytest.mark.parametrize(
    ("limit", "code"),
    [({"max_bytes": 20}, "too_large"), ({"max_notes": 10}, "too_many_notes"), ({"max_tracks": 2}, "too_many_tracks")],
)
def test_limits_are_kept(limit: dict[str, int], code: str) -> None:
    with pytest.raises(MidiError, match=r"ingest\.limits\.max_\w+ is \d+") as caught:
        midi.read(hand_made(), IngestLimits(**limit))
    assert caught.value.code == code


def test_events_that_make_no_sense_are_left_out() -> None:
    # 0/4 (numerator 0) at tick 0, a tempo of 0 us a quarter at tick 0, then the note
    strange = b"\x00\xff\x58\x04\x00\x02\x18\x08" + b"\x00\xff\x51\x03\x00\x00\x00"
    notes = midi.read(header(480) + track(strange + NOTE + END))
    assert notes.time_signatures == ()
    assert notes.tempos == ()
    assert notes.tempo_qpm == 120.0


def test_a_note_without_an_end_is_left_out_as_pretty_midi_does() -> None:
    data = header(480) + track(NOTE + b"\x00\x90\x40\x40" + END)
    assert [e[1:] for e in events_of(midi.read(data))] == [(0, 96, 60)] == [e[1:] for e in as_pretty_midi_reads(data)]


ON, OFF = 0x90, 0x80


def messages(*events: tuple[int, int]) -> bytes:
    """A file of note-ons and note-offs of middle C, 10 ticks apart: (status, delta)."""
    return header(480) + track(b"".join(bytes([delta, status, 60, 64]) for status, delta in events) + END)


@pytest.mark.parametrize(
    ("data", "ours", "theirs"),
    [
        # on at 0, on at 10, off at 20, off at 30: first in, first out; pretty_midi ends both at 20
        (messages((ON, 0), (ON, 10), (OFF, 10), (OFF, 10)), [(0, 20), (10, 20)], [(0, 20), (10, 10)]),
        # on at 0, on at 10, off at 20: the second note is never switched off; pretty_midi ends both at 20
        (messages((ON, 0), (ON, 10), (OFF, 10)), [(0, 20)], [(0, 20), (10, 10)]),
        # on and off at 0, then on at 10 and off at 20: a note of length 0 is kept; pretty_midi drops it
        (messages((ON, 0), (OFF, 0), (ON, 10), (OFF, 10)), [(0, 0), (10, 10)], [(10, 10)]),
        # off and on again on one tick: both read two abutting notes
        (messages((ON, 0), (OFF, 10), (ON, 0), (OFF, 10)), [(0, 10), (10, 10)], [(0, 10), (10, 10)]),
    ],
)
def test_the_documented_differences_from_pretty_midi(
    data: bytes, ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    assert [event[1:3] for event in events_of(midi.read(data))] == ours
    assert [event[1:3] for event in as_pretty_midi_reads(data)] == theirs


@pytest.mark.parametrize("name", ["pop909", "nottingham"])
def test_real_files_are_read_as_pretty_midi_reads_them(name: str) -> None:
    archive = Path(__file__).parents[3] / "shared" / "corpora" / f"{name}.zip"
    if not archive.exists():
        pytest.skip(f"needs {archive.name} in the folder `shared` beside the project")
    with zipfile.ZipFile(archive) as file:
        members = sorted(member for member in file.namelist() if member.endswith(".mid"))
        different = 0
        for member in members[::75]:
            data = file.read(member)
            ours, theirs = events_of(midi.read(data)), as_pretty_midi_reads(data)
            assert len(ours) == len(theirs)
            # rule 2 may change the length of notes that overlap another of their pitch, and nothing else
            assert sorted((n, o, p) for n, o, _, p in ours) == sorted((n, o, p) for n, o, _, p in theirs)
            different += ours != theirs
        assert different <= 1


def test_names_of_any_bytes_are_read() -> None:
    for name in (b"\xff\xfe\x80", b"a\x00b\nc", b"<script>", b"x" * 70_000):
        size = len(name)
        length = bytes([0x80 | size >> 14, 0x80 | (size >> 7 & 0x7F), size & 0x7F])
        notes = midi.read(header(480) + track(b"\x00\xff\x03" + length + name + NOTE + END))
        assert len(notes) == 1
        notes.track_names[0].encode("utf-8")  # no lone surrogates, which Arrow refuses


def test_a_file_that_only_sanitising_can_read() -> None:
    # a controller of value 200, outside the 7 bits that the standard allows
    data = header(480) + track(NOTE + b"\x00\xb0\x07\xc8" + END)
    notes, reader = midi.read_with_name(data, IngestLimits())
    assert (len(notes), reader) == (1, "symusic-sanitised")


def test_write_never_switches_a_note_off_by_its_velocity() -> None:
    notes = notes_of([(0, 120, 60)])
    silent = replace(notes, velocity=np.zeros(1, np.uint8))
    assert len(midi.read(midi.write(silent))) == 1


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_broken_bytes_get_a_verdict(data: st.DataObject) -> None:
    good = bytearray(hand_made())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(good)))
    try:
        notes = midi.read(bytes(good[:cut]), IngestLimits(max_notes=1000))
    except MidiError as error:
        assert error.code in midi.REASONS
    else:
        assert 0 < len(notes) <= 1000
        assert notes.onset_tick.min() >= 0
        assert notes.end_tick < 2**31


def test_mido_agrees_on_what_is_written() -> None:
    notes = notes_of([(0, 240, 60), (240, 240, 60)], [(0, 480, 38)], drums=(False, True), programs=(24, 0))
    file = mido.MidiFile(file=io.BytesIO(midi.write(notes)))
    assert file.ticks_per_beat == 480
    channels = {m.channel for t in file.tracks for m in t if m.type == "note_on"}
    assert channels == {0, 9}
    assert {m.program for t in file.tracks for m in t if m.type == "program_change" and m.channel == 0} == {24}


tempo = st.builds(Tempo, st.integers(0, 5000), st.integers(1, 2**24 - 1))
metre = st.builds(TimeSignature, st.integers(0, 5000), st.integers(1, 12), st.sampled_from([1, 2, 4, 8]))


@settings(max_examples=60)
@given(grid_events(), st.lists(tempo, max_size=4), st.lists(metre, max_size=4))
def test_events_of_a_file_are_the_last_of_each_tick(
    events: list[tuple[int, int, int]], tempos: list[Tempo], metres: list[TimeSignature]
) -> None:
    written = notes_of(events, tempos=tuple(tempos), time_signatures=tuple(metres))
    notes = midi.read(midi.write(written))
    assert [t.tick for t in notes.tempos] == sorted({t.tick for t in tempos})
    assert {s.tick for s in notes.time_signatures} <= {s.tick for s in metres}
    assert all(one[1:] != other[1:] for one, other in pairwise(notes.time_signatures))
    assert notes.duration_s == pytest.approx(float(notes.seconds(np.array([notes.end_tick]))[0]))


def test_a_value_that_cannot_be_has_a_reason() -> None:
    good = notes_of([(0, 480, 60)])
    for change, code in (
        ({"pitch": np.array([255], np.uint8)}, "bad_pitch"),
        ({"onset_tick": np.array([-5], np.int32)}, "bad_time"),
        ({"duration_tick": np.array([2**31 - 1], np.int32), "onset_tick": np.array([1], np.int32)}, "bad_time"),
    ):
        with pytest.raises(MidiError) as caught:
            midi._checked(replace(good, **change))
        assert caught.value.code == code


def test_notes_are_those_of_symusics_arrays() -> None:
    """Its pickles are read in place of them."""
    score = core.ScoreTick.from_midi(hand_made(), False)
    wanted = [track.notes.numpy() for track in score.tracks if track.notes]
    notes = midi.read(hand_made())
    columns = {
        "time": notes.onset_tick,
        "duration": notes.duration_tick,
        "pitch": notes.pitch,
        "velocity": notes.velocity,
    }
    for name, column in columns.items():
        assert column.tolist() == np.concatenate([track[name] for track in wanted]).tolist()
    pickles = [track.notes.__getstate__() + bytes(4) for track in score.tracks if track.notes]
    with pytest.raises(RuntimeError, match=r"pickles are not what midivae reads \(symusic"):
        midi._records(pickles, [len(track["time"]) for track in wanted])
