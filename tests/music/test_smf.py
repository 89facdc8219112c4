"""Standard MIDI Files: mido judges the events, `smf_files.meaning` the rules; the cases of issue trackers by hand."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from midivae.music import smf
from midivae.music.notes import Notes, Tempo, TimeSignature
from midivae.music.reasons import REASONS
from music.smf_files import (
    GM2_ON,
    GM_ON,
    GS_ON,
    XG_ON,
    Meaning,
    Message,
    Style,
    as_mido_reads,
    body_of,
    chunk,
    file_of,
    header,
    meaning,
    packets,
    quantity,
    rhythm_part,
    streams,
)

END = b"\x00\xff\x2f\x00"
OPEN_LIMITS = IngestLimits(max_bytes=2**30, max_notes=10**8, max_tracks=10**6)


def note(pitch: int = 60, length: int = 96, channel: int = 0, delta: int = 0) -> bytes:
    """A note-on and its note-off."""
    return quantity(delta) + bytes([0x90 | channel, pitch, 100]) + quantity(length) + bytes([0x80 | channel, pitch, 0])


def tune(channel: int = 0, count: int = 8) -> bytes:
    """Quarter notes one after the other, upwards from middle C."""
    return b"".join(note(60 + i, 96, channel) for i in range(count))


def single(body: bytes) -> bytes:
    return header() + chunk(body + END)


def onsets(data: bytes) -> list[int]:
    return sorted(smf.read(data).notes.onset_tick.tolist())


def rows(file: smf.File) -> list[tuple[int, ...]]:
    """(onset, end, pitch, velocity, program, drum) of each note, sorted."""
    n = file.notes
    end = n.onset_tick.astype(np.int64) + n.duration_tick
    return sorted(
        zip(*(c.tolist() for c in (n.onset_tick, end, n.pitch, n.velocity, n.program, n.is_drum)), strict=True)
    )


def check(file: smf.File, meant: Meaning) -> None:
    """A file that was read holds exactly what its events mean."""
    expected = sorted((n.onset, n.end, n.pitch, n.velocity, n.program, n.drum) for n in meant.notes)
    assert rows(file) == expected
    assert file.notes_unended == sum(n.loose for n in meant.notes)
    assert file.notes.tempos == tuple(Tempo(*row) for row in meant.tempos.items())
    metres = [TimeSignature(tick, *metre) for tick, metre in meant.metres.items()]
    distinct = [m for before, m in zip([None, *metres], metres, strict=False) if before is None or before[1:] != m[1:]]
    assert file.notes.time_signatures == tuple(distinct)
    assert file.end_tick == meant.end
    # tracks: notes of one chunk, port and channel, in the order of their note-ons
    places = list(dict.fromkeys((n.chunk, n.port, n.channel) for n in meant.notes))
    by_track = [[n for n in meant.notes if (n.chunk, n.port, n.channel) == place] for place in places]
    assert file.notes.track.tolist() == [i for i, mine in enumerate(by_track) for _ in mine]
    assert file.notes.onset_tick.tolist() == [n.onset for mine in by_track for n in mine]


def rejected(data: bytes, code: str, limits: IngestLimits | None = None) -> str:
    with pytest.raises(MidiError) as error:
        smf.read(data, limits)
    assert error.value.code == code
    assert code in REASONS
    assert error.value.detail
    return error.value.detail


# --- events, judged by mido -------------------------------------------------------------------------------------------
@settings(max_examples=300)
@given(streams(), st.booleans(), st.booleans())
def test_events_are_those_that_mido_reads(tracks: list[list[Message]], running: bool, zero_offs: bool) -> None:
    data = file_of(tracks, Style(running=running, zero_offs=zero_offs))
    read_by_mido = as_mido_reads(data)
    assert [len(track) for track in read_by_mido] == [len(track) + 1 for track in tracks]
    meant = meaning(read_by_mido)
    if meant.notes:
        check(smf.read(data), meant)
    else:
        rejected(data, "no_notes")


@settings(max_examples=100)
@given(streams(), st.booleans(), st.integers(1, 4), st.booleans())
def test_all_ways_to_write_events_mean_the_same(
    tracks: list[list[Message]], lapsed: bool, n_packets: int, has_end: bool
) -> None:
    meant = meaning(tracks)
    end = END if has_end else b""
    data = file_of(tracks, Style(lapsed=lapsed, packets=n_packets, end=end))
    if meant.notes:
        check(smf.read(data), meant)
    else:
        rejected(data, "no_notes")


@settings(max_examples=100)
@given(streams(), st.data())
def test_a_wrapped_file_is_the_same_file(tracks: list[list[Message]], data: st.DataObject) -> None:
    """RMID, alien chunks, a long header, a wrong number of tracks: the music is the same."""
    meant = meaning(tracks)
    alien = chunk(data.draw(st.binary(max_size=9)), name=data.draw(st.sampled_from([b"XFIH", b"a b1"])))
    chunks = [chunk(body_of(track)) for track in tracks]
    chunks.insert(data.draw(st.integers(0, len(chunks))), alien)
    declared = data.draw(st.integers(0, 65535))
    file = header(declared, more=data.draw(st.binary(max_size=3))) + b"".join(chunks)
    if data.draw(st.booleans()):
        file = riff(file)
    if meant.notes:
        read = smf.read(file)
        check(read, meant)
        assert (read.tracks_declared, read.tracks_read) == (declared, len(tracks))


def riff(data: bytes) -> bytes:
    pad = b"\0" * (len(data) % 2)
    info = b"LIST" + struct.pack("<I", 9) + b"INFOabcde" + b"\0"
    body = b"RMID" + info + b"data" + struct.pack("<I", len(data)) + data + pad + info
    return b"RIFF" + struct.pack("<I", len(body)) + body


# --- the rules one by one ---------------------------------------------------------------------------------------------
def test_a_system_exclusive_message_in_three_packets_moves_nothing() -> None:
    # the standard's own example: 96 ticks between F0 and each F7
    sysex = b"\x00\xf0\x03\x43\x12\x00\x60\xf7\x06\x43\x12\x00\x43\x12\x00\x60\xf7\x04\x43\x12\x00\xf7"
    data = single(tune() + sysex + tune())
    assert onsets(data) == [96 * i for i in range(8)] + [960 + 96 * i for i in range(8)]
    check(smf.read(data), meaning(as_mido_reads(data)))


@pytest.mark.parametrize("escape", [b"\xf3\x01", b"", b"\xff", b"\x90\x3c\x40", b"\xf0\x00\x01"])
def test_an_escape_is_no_event_of_the_music(escape: bytes) -> None:
    data = single(tune() + b"\x00\xf7" + quantity(len(escape)) + escape + tune())
    assert onsets(data) == [96 * i for i in range(16)]


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_a_message_in_packets_is_understood(n: int) -> None:
    message = packets(bytes([*rhythm_part(3, True), 0xF7]), n)
    assert smf.read(single(b"\x00" + message + tune(3))).notes.is_drum.all()


def test_a_message_in_an_escape_is_understood() -> None:
    message = bytes([0xF0, *rhythm_part(3, True), 0xF7])
    assert smf.read(single(b"\x00\xf7" + quantity(len(message)) + message + tune(3))).notes.is_drum.all()


@pytest.mark.parametrize(
    "between", [b"\x00\xf0\x05\x7e\x7f\x09\x01\xf7", b"\x00\xff\x01\x01A", b"\x00\xf8", b"\x00\xf1\x02"]
)
def test_running_status_goes_on_behind_other_events(between: bytes) -> None:
    data = single(note() + between + b"\x00\x3c\x64\x60\x3c\x00")
    # the note behind is in the running status of a note-off: it ends nothing, so the first one is all there is
    assert onsets(data) == [0]
    data = single(b"\x00\x90\x3c\x64\x60\x3c\x00" + between + b"\x00\x3c\x64\x60\x3c\x00")
    assert onsets(data) == [0, 96]


def test_running_status_without_a_status() -> None:
    assert rejected(header() + chunk(b"\x00\xff\x01\x01A\x00\x3c\x64"), "unreadable").startswith("track 1, byte 28: ")


def test_rmid_without_data() -> None:
    assert "data" in rejected(b"RIFF\x04\0\0\0RMID", "not_midi")


def test_a_program_in_another_track() -> None:
    setup = chunk(b"\x00\xc0\x21" + END)
    assert set(smf.read(header(2) + chunk(tune() + END) + setup).notes.program) == {33}
    later = chunk(b"\x60\xc0\x21" + END)  # with the second note of the other track
    assert smf.read(header(2) + chunk(tune() + END) + later).notes.program.tolist() == [0] + [33] * 7


def test_programs_on_one_tick_in_one_track_follow_its_order() -> None:
    body = b"\x00\xc0\x05\x00\x90\x3c\x40\x00\xc0\x06\x00\x90\x40\x40\x60\x80\x3c\x00\x00\x80\x40\x00"
    assert smf.read(single(body)).notes.program.tolist() == [5, 6]


def sysex(message: tuple[int, ...]) -> bytes:
    return b"\x00\xf0" + quantity(len(message) + 1) + bytes(message) + b"\xf7"


DRUMS = {
    "GM channel 10": (b"", 9, True),
    "GS rhythm part": (sysex(GS_ON) + sysex(rhythm_part(10, True)), 10, True),
    "GS channel 10 off": (sysex(GS_ON) + sysex(rhythm_part(9, False)), 9, False),
    "GS checksum wrong": (sysex((*rhythm_part(10, True)[:-1], 1)), 10, False),
    "XG kit": (sysex(XG_ON) + b"\x00\xb3\x00\x7f\x00\xc3\x00", 3, True),
    "XG kit before its program": (sysex(XG_ON) + b"\x00\xb3\x00\x7f", 3, False),
    "XG effects kit": (sysex(XG_ON) + b"\x00\xb3\x00\x7e\x00\xc3\x00", 3, True),
    "XG melody on channel 10": (sysex(XG_ON) + b"\x00\xb9\x00\x00\x00\xc9\x00", 9, False),
    "XG part mode": (sysex(XG_ON) + sysex((0x43, 0x10, 0x4C, 8, 3, 7, 1)), 3, True),
    "XG kit, then GM": (sysex(XG_ON) + b"\x00\xb3\x00\x7f\x00\xc3\x00\x01" + sysex(GM_ON)[1:], 3, False),
    "GS has no kit bank": (sysex(GS_ON) + b"\x00\xb3\x00\x7f\x00\xc3\x00", 3, False),
    "GM2 percussion": (sysex(GM2_ON) + b"\x00\xb3\x00\x78\x00\xc3\x00", 3, True),
    "GM2 melody on channel 10": (sysex(GM2_ON) + b"\x00\xb9\x00\x79\x00\xc9\x00", 9, False),
    "no reset": (b"\x00\xb3\x00\x7f\x00\xc3\x00", 3, True),
    "no reset, another bank": (b"\x00\xb3\x00\x08\x00\xc3\x00", 3, False),
    "no reset, channel 10 with a bank": (b"\x00\xb9\x00\x00\x00\xc9\x00", 9, True),
}


@pytest.mark.parametrize("name", DRUMS)
def test_which_channels_are_drums(name: str) -> None:
    setup, channel, is_drum = DRUMS[name]
    assert set(smf.read(single(setup + tune(channel))).notes.is_drum.tolist()) == {is_drum}


def test_drums_begin_when_the_file_says_so() -> None:
    file = smf.read(single(tune(3, 2) + sysex(XG_ON) + b"\x00\xb3\x00\x7f\x00\xc3\x05" + tune(3, 2)))
    assert file.notes.is_drum.tolist() == [False, False, True, True]
    assert file.notes.program.tolist() == [0, 0, 5, 5]  # a reset leaves programs


def test_ports_have_channels_of_their_own() -> None:
    ports = [b"\x00\xff\x21\x01" + bytes([p]) + b"\x00\xc0" + bytes([(40 + p) % 128]) + tune() for p in range(128)]
    file = smf.read(header(128) + b"".join(chunk(p + END) for p in ports))
    assert file.notes.program.tolist() == [(40 + p) % 128 for p in range(128) for _ in range(8)]


@pytest.mark.parametrize(("declared", "there"), [(2, 3), (0, 1), (5, 2), (65535, 1)])
def test_the_tracks_that_are_there_count(declared: int, there: int) -> None:
    file = smf.read(header(declared) + chunk(tune() + END) * there)
    assert (len(file.notes), file.tracks_declared, file.tracks_read) == (8 * there, declared, there)
    assert file.repairs == (f"header: it declares {declared} track(s); the file has {there}",)


@pytest.mark.parametrize("length", [0, 1, 20, 66, 67, 70, 71, 72, 100, 189, 2**31, 2**32 - 1])
@pytest.mark.parametrize("place", ["only", "first", "last", "alien"])
def test_a_wrong_length_of_a_track(length: int, place: str) -> None:
    wrong, right = chunk(tune() + END, length), chunk(tune(1) + END)
    body = {"only": wrong, "first": wrong + right, "last": right + wrong, "alien": wrong + chunk(b"abc", name=b"XFKM")}
    file = smf.read(header(2) + body[place])
    assert len(file.notes) == (16 if place in ("first", "last") else 8)
    assert file.notes_unended == 0
    told = any("length" in sentence for sentence in file.repairs)
    assert told == (length != len(tune() + END))


@pytest.mark.parametrize("places", [(0,), (1,), (0, 1)])
def test_no_end_of_track(places: tuple[int, ...]) -> None:
    bodies = [chunk(tune(i) + (b"" if i in places else END)) for i in range(2)]
    file = smf.read(header(2) + b"".join(bodies))
    assert len(file.notes) == 16
    assert "no end of track" in file.repairs[0]


@pytest.mark.parametrize("behind", [b"\0", b"\0" * 9, b"MTr", b"hello, world" * 9, b"MThd" + b"\0" * 40])
def test_bytes_behind_the_last_track(behind: bytes) -> None:
    file = smf.read(single(tune()) + behind)
    assert len(file.notes) == 8
    assert "behind the last track" in file.repairs[0]


def test_a_second_file_behind_the_first_is_none_of_it() -> None:
    assert len(smf.read(single(tune()) * 2).notes) == 8


def test_bytes_between_tracks() -> None:
    file = smf.read(header(2) + chunk(tune() + END) + b"\0" + chunk(tune() + END))
    assert len(file.notes) == 16
    assert "no chunk" in file.repairs[0]


def test_bytes_behind_the_end_of_a_track_in_its_chunk() -> None:
    file = smf.read(header(2) + chunk(tune() + END + b"\x00\x90\x00") + chunk(tune() + END))
    assert len(file.notes) == 16


def test_of_a_cut_file_all_complete_events_count() -> None:
    """The rule, at every byte: what is read is the file whose events are those before the cut."""
    whole = header(2) + chunk(b"\x00\xff\x03\x03abc" + tune() + END) + chunk(tune(1) + END)
    tracks = as_mido_reads(whole)
    for at in range(len(whole)):
        data = whole[:at]
        if at < 14:
            assert rejected(data, "unreadable" if at >= 4 else "empty" if at == 0 else "not_midi")
            continue
        read = [mido.MidiTrack(), mido.MidiTrack()]
        place = 14
        for track, kept in zip(tracks, read, strict=True):
            place += 8
            for message in track:
                place += len(quantity(message.time)) + len(message.bytes())
                if place <= at:
                    kept.append(message)
        meant = meaning(read)
        if meant.notes:
            check(smf.read(data), meant)
        else:
            rejected(data, "no_notes")


@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        (b"\x00\x90\x3c", "unreadable", "track 1, byte 22"),  # cut, and another track follows
        (b"\x00\xff\x01\x7fabc", "unreadable", "track 1, byte 22"),
        (b"\x00\xf4\x01", "unreadable", "track 1, byte 23"),
        (b"\x00\x90\x3c\x40\x81\x82\x83\x84\x05\x80\x3c\x40", "unreadable", "track 1, byte 26"),
        (b"\x00\x90\x80\x40", "bad_pitch", "track 1, byte 24"),
    ],
)
def test_what_is_no_event_is_rejected_with_its_place(body: bytes, code: str, place: str) -> None:
    assert rejected(header(2) + chunk(body) + chunk(tune() + END), code).startswith(place + ": ")


def test_data_bytes_above_127() -> None:
    file = smf.read(single(b"\x00\x90\x3c\xff\x60\x80\x3c\xff\x00\xc0\xff\x00\xb0\xff\x00" + note(61)))
    assert [row[2:5] for row in rows(file)] == [(60, 127, 0), (61, 100, 0)]
    assert any("above 127" in sentence for sentence in file.repairs)


def test_overlapping_notes_first_on_first_off() -> None:
    # C4 at 0 and 48; note-offs at 96 and 144
    body = b"\x00\x90\x3c\x64\x30\x3c\x65\x30\x3c\x00\x30\x3c\x00"
    for more in (b"", b"\0\0"):
        file = smf.read(header(1, more=more) + chunk(body + END))
        assert [row[:4] for row in rows(file)] == [(0, 96, 60, 100), (48, 144, 60, 101)]


def test_tracks_that_share_a_channel_keep_their_notes() -> None:
    long, short = chunk(note(60, 960) + END), chunk(note(60, 96, delta=96) + END)
    assert [row[:2] for row in rows(smf.read(header(2) + long + short))] == [(0, 960), (96, 192)]


def test_notes_that_are_never_switched_off() -> None:
    on = b"\x00\x90\x3c\x64"
    file = smf.read(single(on + b"\x60\xb0\x07\x00"))
    assert ([row[:2] for row in rows(file)], file.notes_unended) == ([(0, 96)], 1)
    for controller in (120, 123, 124, 125, 126, 127):
        file = smf.read(single(on + b"\x30\xb0" + bytes([controller]) + b"\x00\x30\xb0\x07\x00"))
        assert ([row[:2] for row in rows(file)], file.notes_unended) == ([(0, 48)], 1)
    other_channel = smf.read(single(on + b"\x30\xb1\x7b\x00\x30\xb0\x07\x00"))
    assert [row[:2] for row in rows(other_channel)] == [(0, 96)]


def test_note_offs_in_another_track() -> None:
    ons = b"".join(quantity(96 if i else 0) + bytes([0x90, 60 + i, 100]) for i in range(8))
    offs = b"".join(b"\x60" + bytes([0x80, 60 + i, 0]) for i in range(8))
    file = smf.read(header(2) + chunk(ons + END) + chunk(offs + END))
    assert [row[:2] for row in rows(file)] == [(96 * i, 96 * i + 96) for i in range(8)]
    assert file.notes_unended == 0


@pytest.mark.parametrize("kind", [2, 3, 65535])
def test_other_formats_have_a_reason(kind: int) -> None:
    assert f"format {kind}" in rejected(header(1, kind=kind) + chunk(tune() + END), "bad_format")


@pytest.mark.parametrize(("division", "words"), [(0xE728, "25 SMPTE frames"), (0, "0 ticks"), (0x8000, "SMPTE")])
def test_divisions_that_give_no_ticks_per_quarter(division: int, words: str) -> None:
    assert words in rejected(header(1, division) + chunk(tune() + END), "bad_resolution")


def test_names_of_any_bytes() -> None:
    def name(raw: bytes) -> str:
        return smf.read(single(b"\x00\xff\x03" + quantity(len(raw)) + raw + tune()), OPEN_LIMITS).notes.track_names[0]

    assert name("Flügel".encode()) == "Flügel"
    assert name("Flügel".encode("latin-1")) == "Flügel"
    assert name(b"\xed\xa0\x80\0\n<b>") == "í\xa0\x80\0\n<b>"  # a surrogate in UTF-8 is none
    assert name("ü".encode() * 20_000_000 + b"x") == "ü" * (smf.NAME_BYTES // 2)
    assert name(b"x" + "ü".encode() * 2000) == "x" + "ü" * (smf.NAME_BYTES // 2 - 1)


def test_keys_and_names() -> None:
    body = b"\x00\xff\x03\x00\x00\xff\x03\x01a\x00\xff\x03\x01b\x00\xff\x59\x02\xfd\x01\x60\xff\x59\x02\x03\x00"
    file = smf.read(single(body + b"\x00\xff\x59\x02\x08\x00" + tune()))
    assert file.key_signatures == (smf.KeySignature(0, -3, True), smf.KeySignature(96, 3, False))
    assert file.notes.track_names == ("a",)


def test_tempi_and_metres_that_do_not_exist() -> None:
    tempos = b"\x00\xff\x51\x03\x07\xa1\x20\x00\xff\x51\x03\0\0\0\x00\xff\x51\x02\x07\xa1"
    metres = b"".join(b"\x00\xff\x58\x04" + bytes([*m, 24, 8]) for m in ((3, 2), (0, 2), (3, 7)))
    later = b"\x60\xff\x58\x04\x03\x02\x18\x08\x60\xff\x58\x02\x06\x03\x00\xff\x58\x01\x06"
    file = smf.read(single(tempos + metres + later + tune()))
    assert file.notes.tempos == (Tempo(0, 500_000),)
    assert file.notes.time_signatures == (TimeSignature(0, 3, 4), TimeSignature(192, 6, 8))
    assert "does not exist (4 times)" in file.repairs[0]


# --- hostile files ----------------------------------------------------------------------------------------------------
def test_ticks_beyond_what_a_note_can_have() -> None:
    far = quantity(2**28 - 1)
    assert "tick 2147483640" not in rejected(single((far + b"\xf6") * 9 + tune()), "bad_time")
    assert rejected(single(b"\x00\x90\x3c\x40" + (far + b"\xf6") * 9), "bad_time")
    file = smf.read(single(tune() + (far + b"\xff\x51\x03\x07\xa1\x20") * 100))
    assert file.end_tick == 768 + 100 * (2**28 - 1)
    assert len(file.notes.tempos) == 7  # those behind have no notes
    assert smf.read(single(tune() + (far + b"\xf6") * 9)).notes_unended == 0


def test_millions_of_notes() -> None:
    body = b"\x00\x90\x3c\x40" + b"\x00\x3d\x40" * 3_000_000
    assert "500000" in rejected(single(body), "too_many_notes")
    file = smf.read(single(body), OPEN_LIMITS)
    assert len(file.notes) == file.notes_unended == 3_000_001


def test_as_many_tracks_as_a_header_can_name() -> None:
    data = header(65535) + chunk(note() + END) * 65535
    assert "65535 tracks" in rejected(data, "too_many_tracks")
    assert smf.read(data, OPEN_LIMITS).tracks_read == 65535
    assert smf.read(header(65535) + chunk(END) * 65534 + chunk(tune() + END)).notes.track_names == ("",)


HOSTILE = {
    "programs": b"\x00\xc0\x01" + b"\x00\x02" * 1_000_000,
    "banks": b"\x00\xb0\x00\x01" + b"\x00\x00\x7f" * 1_000_000,
    "resets": (sysex(XG_ON) + b"\x00\xb3\x00\x7f\x00\xc3\x00") * 100_000,
    "silences": b"\x00\xb0\x7b\x00" + b"\x01\x7b\x00" * 1_000_000,
    "stray note-offs": b"\x00\x80\x3c\x00" + b"\x01\x3c\x00" * 1_000_000,
    "tempos": b"\x01\xff\x51\x03\x07\xa1\x20" * 200_000,
    "packets": b"\x00\xf0\x04\x7e\x7f\x09\x01" + b"\x00\xf7\x00" * 500_000,
    "ports": b"".join(b"\x00\xff\x21\x01" + bytes([p % 256]) + b"\x00\x9f\x3c\x40" for p in range(100_000)),
    "pairs": b"\x00\x90\x3c\x40" + b"\x00\x3c\x40" * 100_000 + b"\x01\x3c\x00" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_millions_of_other_events(name: str) -> None:
    """Time grows with the number of events, not with its square; also across tracks."""
    data = header(3) + chunk(HOSTILE[name] + END) + chunk(b"\x00\x90\x3c\x40" * 1000 + tune(3) + END) + chunk(END)
    assert len(smf.read(data, OPEN_LIMITS).notes) >= 1008


# --- writing ----------------------------------------------------------------------------------------------------------
@st.composite
def music(draw: st.DrawFn) -> dict[str, Any]:
    """The columns of notes that a file can hold: their tracks do not nest notes of one pitch, and are drums or not."""
    tracks = draw(st.lists(grid_events(), min_size=1, max_size=20))
    events = sorted((*event, index) for index, track in enumerate(tracks) for event in track)
    onset, duration, pitch, track = np.array(events, np.int32).T
    size = len(events)
    program = draw(st.lists(st.integers(0, 127), min_size=size, max_size=size))
    velocity = draw(st.lists(st.integers(1, 127), min_size=size, max_size=size))
    drums = np.array(draw(st.lists(st.booleans(), min_size=len(tracks), max_size=len(tracks))), bool)
    ticks = sorted(draw(st.sets(st.integers(0, 10_000), max_size=4)))
    metres = [(3, 4), (4, 4), (6, 8), (255, 64), (1, 1)]
    return {
        "pitch": pitch.astype(np.uint8),
        "velocity": np.array(velocity, np.uint8),
        "onset_tick": onset,
        "duration_tick": duration,
        "track": track,
        "program": np.array(program, np.uint8),
        "is_drum": drums[track],
        "track_names": tuple(draw(st.text(max_size=4)) for _ in tracks),
        "ticks_per_quarter": draw(st.integers(1, 32767)),
        "tempos": tuple(Tempo(tick, draw(st.integers(1, 2**24 - 1))) for tick in ticks),
        "time_signatures": tuple(TimeSignature(tick, *metre) for tick, metre in zip(ticks, metres, strict=False)),
    }


def as_tuple(notes: Notes) -> tuple[object, ...]:
    ordered = notes.sorted()
    columns = [
        getattr(ordered, name).tolist() for name in ("onset_tick", "duration_tick", "pitch", "velocity", "track")
    ]
    names = tuple(name.encode("utf-8", "replace").decode() for name in notes.track_names)
    return (*columns, ordered.program.tolist(), ordered.is_drum.tolist(), names, *_changes(notes))


def _changes(notes: Notes) -> tuple[object, ...]:
    return notes.ticks_per_quarter, notes.tempos, notes.time_signatures


@settings(max_examples=150)
@given(music(), st.one_of(st.none(), st.integers(0, 20_000)))
def test_what_is_written_is_read(columns: dict[str, Any], end_tick: int | None) -> None:
    notes = Notes(**columns)
    data = smf.write(notes, end_tick)
    file = smf.read(data)
    assert as_tuple(file.notes) == as_tuple(notes)
    assert file.repairs == ()
    assert (file.tracks_declared, file.notes_unended) == (file.tracks_read, 0)
    last = max(notes.end_tick, *(event.tick for event in (*notes.tempos, *notes.time_signatures)), 0)
    assert file.end_tick == (last + 1 if end_tick is None else max(last, end_tick))
    assert smf.write(notes, end_tick) == data
    check(file, meaning(as_mido_reads(data)))


@settings(max_examples=30)
@given(st.lists(grid_events(), min_size=1, max_size=8))
def test_other_readers_read_what_is_written(tracks: list[list[tuple[int, int, int]]]) -> None:
    """Plain files, on which symusic and pretty_midi are right."""
    notes = notes_of(*tracks, programs=tuple(range(len(tracks))), drums=tuple(i == 2 for i in range(len(tracks))))
    data = smf.write(notes, 64 * 480)
    score = core.ScoreTick.from_midi(data)
    by_symusic = [(t.name, n.start, n.duration, n.pitch) for t in score.tracks for n in t.notes]
    file = pretty_midi.PrettyMIDI(io.BytesIO(data))
    tick = file.time_to_tick
    by_pretty_midi = [
        (i.name, tick(n.start), tick(n.end) - tick(n.start), n.pitch) for i in file.instruments for n in i.notes
    ]
    assert sorted(by_symusic) == sorted(by_pretty_midi) == events_of(notes)
    assert {(t.name, t.program, t.is_drum) for t in score.tracks} == {
        (f"track {i}", i, i == 2) for i in range(len(tracks))
    }
    assert {(i.name, i.program, i.is_drum) for i in file.instruments} == {
        (t.name, t.program, t.is_drum) for t in score.tracks
    }


@settings(max_examples=150)
@given(streams())
def test_what_is_read_can_be_written(tracks: list[list[Message]]) -> None:
    """The writer says what the reader said; tracks with drums and other notes become two."""
    if not meaning(tracks).notes:
        return
    file = smf.read(file_of(tracks))
    data = smf.write(file.notes, file.end_tick)
    again = smf.read(data)
    assert again.repairs == ()
    assert sorted(row[4:] for row in rows(again)) == sorted(row[4:] for row in rows(file))
    assert [row[0] for row in rows(again)] == [row[0] for row in rows(file)]
    assert smf.write(again.notes, again.end_tick) == smf.write(smf.read(data).notes, again.end_tick)
    assert smf.read(smf.write(again.notes)).notes.program.tolist() == again.notes.program.tolist()


def test_a_hand_made_file_comes_back() -> None:
    notes = smf.read(hand_made()).notes
    assert events_of(smf.read(smf.write(notes)).notes) == events_of(notes)


def channels_of(data: bytes) -> list[tuple[int, int, int]]:
    """(port, channel, program) of each track, as mido reads them."""
    found = []
    for track in as_mido_reads(data):
        port = [m.port for m in track if m.type == "midi_port"]
        found += [(port[0] if port else 0, m.channel, m.program) for m in track if m.type == "program_change"]
    return found


def test_more_parts_than_channels_take_more_ports() -> None:
    notes = notes_of(*[[(0, 480 * (i + 1), 60)] for i in range(33)], programs=tuple(range(33)))
    data = smf.write(notes)
    places = channels_of(data)
    assert len({place[:2] for place in places}) == 33
    assert [place[2] for place in places] == list(range(33))
    assert all(channel != 9 for _, channel, _ in places)
    assert events_of(smf.read(data).notes) == events_of(notes)


def test_drums_and_other_notes_of_one_track_become_two() -> None:
    notes = notes_of([(0, 480, 60), (480, 480, 36)], [(0, 480, 62)], names=("a", "b"))
    is_drum = np.array([False, True, False])
    again = smf.read(smf.write(replace(notes, is_drum=is_drum))).notes
    assert again.track_names == ("a", "a", "b")
    assert again.is_drum.tolist() == is_drum.tolist()
    assert channels_of(smf.write(again)) == [(0, 0, 0), (0, 9, 0), (0, 1, 0)]


def test_drum_kits_share_a_channel_only_if_they_are_one() -> None:
    notes = notes_of(*[[(0, 480, 36)]] * 3, programs=(0, 8, 0), drums=(True,) * 3)
    assert channels_of(smf.write(notes)) == [(0, 9, 0), (1, 9, 8), (0, 9, 0)]


@pytest.mark.parametrize(
    ("notes", "end_tick", "words"),
    [
        (notes_of(*[[(0, 1, 60)]] * 1921), None, "1921 melodic tracks"),
        (notes_of([(-1, 2, 60)]), None, "before tick 0"),
        (notes_of([(2**28, 2, 60)]), None, "268435456 ticks"),
        (notes_of([(0, 2, 200)]), None, "above 127"),
        (notes_of([(0, 2, 60)], ticks_per_quarter=2**15), None, "32768 ticks per quarter"),
        (notes_of([(0, 2, 60)], tempos=(Tempo(0, 2**24),)), None, "16777216 microseconds"),
        (notes_of([(0, 2, 60)], time_signatures=(TimeSignature(0, 3, 5),)), None, "3/5"),
        (notes_of([(0, 2, 60)]), 2**28, "end on tick"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(notes: Notes, end_tick: int | None, words: str) -> None:
    with pytest.raises(MidiError, match=words):
        smf.write(notes, end_tick)


@pytest.mark.parametrize("tracks", [[], [[]], [[(0, 480, 60)], []]])
def test_a_sample_ends_where_its_length_says(tracks: list[list[tuple[int, int, int]]]) -> None:
    data = smf.write(notes_of(*tracks, time_signatures=(TimeSignature(0, 3, 4),)), 16 * 480)
    read = mido.MidiFile(file=io.BytesIO(data))
    assert len(read.tracks) == max(1, len(tracks))
    assert {sum(message.time for message in track) for track in read.tracks} == {16 * 480}
    assert read.length == pytest.approx(8.0)
    assert [m.numerator for m in read.tracks[0] if m.type == "time_signature"] == [3]


def test_nested_notes_exchange_their_ends() -> None:
    notes = notes_of([(0, 960, 60), (240, 240, 60)])
    assert [row[:2] for row in rows(smf.read(smf.write(notes)))] == [(0, 480), (240, 960)]


@pytest.mark.parametrize(
    ("value", "coded"), [(0, "00"), (127, "7f"), (128, "8100"), (0x3FFF, "ff7f"), (0x4000, "818000")]
)
def test_times_as_the_standard_writes_them(value: int, coded: str) -> None:
    assert bytes.fromhex(coded) + bytes([0x90, 60, 90]) in smf.write(notes_of([(value, 480, 60)]))


def test_write_never_switches_a_note_off_by_its_velocity() -> None:
    silent = replace(notes_of([(0, 120, 60)]), velocity=np.zeros(1, np.uint8))
    assert len(smf.read(smf.write(silent)).notes) == 1


# --- beside pretty_midi -----------------------------------------------------------------------------------------------
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
    notes = smf.read(hand_made()).notes
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


@pytest.mark.parametrize(
    ("events", "ours", "theirs"),
    [
        # (status, ticks since the event before); first on, first off: pretty_midi ends both with the first note-off
        (((0x90, 0), (0x90, 10), (0x80, 10), (0x80, 10)), [(0, 20), (10, 20)], [(0, 20), (10, 10)]),
        # the second note is never switched off: it ends with the track
        (((0x90, 0), (0x90, 10), (0x80, 10), (0xB0, 30)), [(0, 20), (10, 40)], [(0, 20), (10, 10)]),
        # a note of length 0 is kept
        (((0x90, 0), (0x80, 0), (0x90, 10), (0x80, 10)), [(0, 0), (10, 10)], [(10, 10)]),
        # off and on again on one tick: two notes that abut
        (((0x90, 0), (0x80, 10), (0x90, 0), (0x80, 10)), [(0, 10), (10, 10)], [(0, 10), (10, 10)]),
    ],
)
def test_the_documented_differences_from_pretty_midi(
    events: tuple[tuple[int, int], ...], ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    data = single(b"".join(bytes([delta, status, 60, 64]) for status, delta in events))
    assert [event[1:3] for event in events_of(smf.read(data).notes)] == ours
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
            ours, theirs = events_of(smf.read(data).notes), as_pretty_midi_reads(data)
            assert len(ours) == len(theirs)
            # rule 2 may change the length of notes that overlap another of their pitch, and nothing else
            assert sorted((n, o, p) for n, o, _, p in ours) == sorted((n, o, p) for n, o, _, p in theirs)
            different += ours != theirs
        assert different <= 1


@pytest.mark.parametrize(
    ("limit", "code"),
    [({"max_bytes": 20}, "too_large"), ({"max_notes": 10}, "too_many_notes"), ({"max_tracks": 2}, "too_many_tracks")],
)
def test_limits_are_kept(limit: dict[str, int], code: str) -> None:
    with pytest.raises(MidiError, match=r"ingest\.limits\.max_\w+ is \d+") as caught:
        smf.read(hand_made(), IngestLimits(**limit))
    assert caught.value.code == code


# --- damaged bytes ----------------------------------------------------------------------------------------------------
def originals() -> list[bytes]:
    """Files with every kind of event."""
    setup = sysex(GS_ON) + sysex(rhythm_part(3, True)) + sysex(XG_ON) + b"\x00\xb3\x00\x7f\x00\xc3\x00"
    metas = b"\x00\xff\x51\x03\x07\xa1\x20\x00\xff\x58\x04\x03\x02\x18\x08\x00\xff\x59\x02\x00\x00\x00\xff\x21\x01\x01"
    every = (
        metas + setup + tune(3) + b"\x00\xff\x03\x04name" + tune(9) + b"\x10\xb3\x7b\x00" + packets(bytes(range(60)), 3)
    )
    several = header(3) + chunk(every + END) + chunk(tune(3) + END) + chunk(b"\x00\x90\x3c\x40" * 9 + END)
    return [hand_made(), several, riff(several), single(b"\x00\x90" + b"\x3c\x40\x10\x3c\x00\x00" * 30), smf.write(
        notes_of(*[[(0, 480, 60)]] * 17)
    )]  # fmt: skip


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """Files with flipped, cut, repeated, inserted and exchanged bytes."""
    rng = random.Random(seed)
    files = originals()
    for _ in range(count):
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            at = rng.randrange(len(data) + 1)
            until = min(len(data), at + rng.choice((1, 2, 8, 40)))
            kind = rng.randrange(7)
            if kind == 0 and until > at:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1 and until > at:
                data[at] = rng.choice((0, 0x7F, 0x80, 0x90, 0xF0, 0xF7, 0xFF, rng.randrange(256)))
            elif kind == 2:
                del data[at:until]
            elif kind == 3:
                data[at:at] = data[at:until] * rng.choice((1, 3))
            elif kind == 4:
                other = rng.choice(files)
                begin = rng.randrange(len(other))
                data[at:until] = other[begin : begin + rng.choice((4, 30, 400))]
            elif kind == 5:
                data[at:at] = rng.randbytes(rng.choice((1, 3)))
            elif kind == 6 and rng.random() < 0.2:
                del data[at:]
        yield bytes(data)


def try_all(count: int, seed: int) -> int:
    """Reads damaged files; how many could be read. What is read is sound, and what is not has a reason."""
    readable = 0
    for data in mutations(count, seed):
        try:
            file = smf.read(data)
        except MidiError as error:
            assert error.code in REASONS, error
            assert len(error.detail) > 10, error
            continue
        readable += 1
        notes = file.notes
        assert len(notes) <= len(data) / 3
        assert (notes.onset_tick >= 0).all()
        assert (notes.duration_tick >= 0).all()
        assert notes.end_tick <= max(file.end_tick, 0)
        assert (notes.pitch < 128).all()
        assert ((notes.velocity > 0) & (notes.velocity < 128)).all()
        assert (notes.program < 128).all()
        assert (np.diff(notes.track, prepend=0) >= 0).all()
        assert len(notes.track_names) == notes.track[-1] + 1
        assert 0 <= file.notes_unended <= len(notes)
    return readable


def checked(count: int, seed: int, **environment: str) -> None:
    """`try_all` in a process of its own where every index is checked."""
    program = f"from music.test_smf import try_all; print(try_all({count}, {seed}))"
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])
    env = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > count / 20


def test_damaged_files() -> None:
    assert try_all(3_000, 0) > 300


def test_damaged_files_with_checked_indices() -> None:
    """As Python, in which numpy checks what numba does not: no time to compile."""
    checked(1_000, 1, NUMBA_DISABLE_JIT="1")


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files(tmp_path: Path) -> None:
    """Compiled with checks, into a folder of its own: what is compiled without them must not be loaded."""
    checked(100_000, 2, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))
