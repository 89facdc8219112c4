"""MIDI files for tests: hypothesis strategies for streams of events, their bytes, and what they mean by the rules.

`meaning` reads the events of tracks, as mido gives them, by the rules in `smf.py`: slowly, and written independently of
it. So mido judges how bytes become events, and `meaning` how events become notes.
"""

from __future__ import annotations

import io
import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import mido
from hypothesis import strategies as st

Message = mido.Message | mido.MetaMessage
GM_ON, GM2_ON = (0x7E, 0x7F, 9, 1), (0x7E, 0x7F, 9, 3)
XG_ON, GS_ON = (0x43, 0x10, 0x4C, 0, 0, 0x7E, 0), (0x41, 0x10, 0x42, 0x12, 0x40, 0, 0x7F, 0, 0x41)
RESETS = {GM_ON: "gm", GM2_ON: "gm2", XG_ON: "xg", GS_ON: "gs"}


# --- bytes ------------------------------------------------------------------------------------------------------------
def quantity(value: int) -> bytes:
    """A variable-length quantity."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(0x80 | value & 0x7F)
    return bytes(reversed(digits))


def header(tracks: int = 1, resolution: int = 96, kind: int = 1, more: bytes = b"") -> bytes:
    return b"MThd" + struct.pack(">IHHH", 6 + len(more), kind, tracks, resolution) + more


def chunk(body: bytes, length: int | None = None, name: bytes = b"MTrk") -> bytes:
    return name + struct.pack(">I", len(body) if length is None else length) + body


def rhythm_part(channel: int, on: bool) -> tuple[int, ...]:
    """GS "use for rhythm part" of the part that plays on a channel (from 0)."""
    part = 0 if channel == 9 else channel + 1 if channel < 9 else channel
    body = (0x40, 0x10 | part, 0x15, 2 if on else 0)
    return (0x41, 0x10, 0x42, 0x12, *body, -sum(body) % 128)


@dataclass(frozen=True)
class Style:
    """How events are written: all styles mean the same."""

    running: bool = False  # running status, ended by sysex and meta events as the standard says
    lapsed: bool = False  # running status that goes on behind these
    zero_offs: bool = False  # note-offs as note-ons with velocity 0
    packets: int = 1  # of a system exclusive message
    end: bytes = b"\x00\xff\x2f\x00"


def body_of(track: Sequence[Message], style: Style = Style()) -> bytes:
    """The bytes of a track's events."""
    written, running = [], None
    for message in track:
        raw = message.bytes()
        written.append(quantity(message.time))
        if message.type == "sysex":
            written.append(packets(bytes(raw[1:]), style.packets))
            running = running if style.lapsed else None
        elif message.is_meta:
            written.append(bytes(raw))
            running = running if style.lapsed else None
        else:
            if style.zero_offs and message.type == "note_off":
                raw = [0x90 | message.channel, message.note, 0]
            same = (style.running or style.lapsed) and raw[0] == running
            written.append(bytes(raw[1:] if same else raw))
            running = raw[0]
    return b"".join(written) + style.end


def packets(data: bytes, n: int) -> bytes:
    """A system exclusive event in so many packets, all on one tick."""
    n = min(n, len(data))
    cuts = [len(data) * i // n for i in range(n + 1)]
    events = [
        (b"\xf0" if i == 0 else b"\xf7") + quantity(cuts[i + 1] - cuts[i]) + data[cuts[i] : cuts[i + 1]]
        for i in range(n)
    ]
    return b"\x00".join(events)


def file_of(tracks: Sequence[Sequence[Message]], style: Style = Style(), resolution: int = 96) -> bytes:
    bodies = [chunk(body_of(track, style)) for track in tracks]
    return header(len(tracks), resolution) + b"".join(bodies)


# --- strategies -------------------------------------------------------------------------------------------------------
_CHANNELS = st.sampled_from([0, 1, 9])
_PITCHES = st.integers(60, 62)
_DELTAS = st.one_of(st.just(0), st.integers(0, 5), st.sampled_from([96, 127, 128, 16384, 300_000]))
_KNOWN = st.one_of(
    st.sampled_from(list(RESETS)), st.builds(rhythm_part, st.sampled_from([0, 1, 9]), st.booleans()),
    st.builds(lambda c, v: (0x43, 0x10, 0x4C, 8, c, 7, v), st.sampled_from([0, 1, 9]), st.integers(0, 3)),
)  # fmt: skip


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.integers(0, 20))
    time, channel, value = draw(_DELTAS), draw(_CHANNELS), draw(st.integers(0, 127))
    if kind < 6:
        return mido.Message(
            "note_on", channel=channel, note=draw(_PITCHES), velocity=draw(st.integers(0, 127)), time=time
        )
    if kind < 11:
        return mido.Message("note_off", channel=channel, note=draw(_PITCHES), velocity=0, time=time)
    if kind == 11:
        return mido.Message("program_change", channel=channel, program=value, time=time)
    if kind == 12:
        control = draw(st.sampled_from([0, 0, 32, 7, 64, 120, 121, 123, 126]))
        if control == 0:
            value = draw(st.sampled_from([0, 8, 120, 121, 126, 127]))
        return mido.Message("control_change", channel=channel, control=control, value=value, time=time)
    if kind == 13:
        return mido.Message("sysex", data=draw(_KNOWN), time=time)
    if kind == 14:
        return mido.Message("sysex", data=draw(st.lists(st.integers(0, 127), max_size=40)), time=time)
    if kind == 15:
        kinds = [
            mido.Message("pitchwheel", channel=channel, pitch=draw(st.integers(-8192, 8191)), time=time),
            mido.Message("aftertouch", channel=channel, value=value, time=time),
            mido.Message("polytouch", channel=channel, note=draw(_PITCHES), value=value, time=time),
        ]
        return kinds[draw(st.integers(0, 2))]
    return draw(metas(time))


@st.composite
def metas(draw: st.DrawFn, time: int) -> mido.MetaMessage:
    kind = draw(st.integers(0, 5))
    text = draw(st.text(st.characters(max_codepoint=255), max_size=5))
    if kind == 0:
        return mido.MetaMessage("set_tempo", tempo=draw(st.integers(1, 2**24 - 1)), time=time)
    if kind == 1:
        numerator, power = draw(st.integers(1, 255)), draw(st.integers(0, 6))
        return mido.MetaMessage("time_signature", numerator=numerator, denominator=2**power, time=time)
    if kind == 2:
        return mido.MetaMessage("key_signature", key=draw(st.sampled_from(["C", "Ebm", "F#", "Am", "Cb"])), time=time)
    if kind == 3:
        return mido.MetaMessage("track_name", name=text, time=time)
    if kind == 4:
        return mido.MetaMessage("midi_port", port=draw(st.sampled_from([0, 1, 127])), time=time)
    return mido.MetaMessage("text", text=text, time=time)


def streams() -> st.SearchStrategy[list[list[Message]]]:
    """The events of one to four tracks; with many notes that overlap, and that nothing ends."""
    return st.lists(st.lists(messages(), max_size=25), min_size=1, max_size=4)


# --- meaning ----------------------------------------------------------------------------------------------------------
@dataclass
class Note:
    chunk: int
    port: int
    channel: int
    pitch: int
    velocity: int
    onset: int
    rank: int
    end: int | None = None
    loose: bool = False
    at_end: bool = False
    program: int = 0
    drum: bool = False


@dataclass
class Meaning:
    notes: list[Note] = field(default_factory=list)
    tempos: dict[int, int] = field(default_factory=dict)
    metres: dict[int, tuple[int, int]] = field(default_factory=dict)
    end: int = 0


def meaning(tracks: Sequence[Sequence[Message]]) -> Meaning:
    """What the events of tracks mean by the rules of `smf.py`."""
    found = Meaning()
    settings, offs, silences, changes = [], [], [], []
    for index, track in enumerate(tracks):
        tick, rank, port = 0, 1, 0
        mine: list[Note] = []
        for order, message in enumerate(track):
            tick, rank = tick + message.time, 1 if message.time else rank
            where = (tick, rank, index, order)
            if message.type == "midi_port":
                port = message.port
            elif message.type == "note_on" and message.velocity:
                mine.append(Note(index, port, message.channel, message.note, message.velocity, tick, rank))
                rank += 1
            elif message.type in ("note_on", "note_off"):
                same = [
                    n
                    for n in mine
                    if n.end is None and (n.port, n.channel, n.pitch) == (port, message.channel, message.note)
                ]
                if same:
                    same[0].end = tick
                else:
                    offs.append((tick, port, message.channel, message.note))
            elif message.type == "program_change":
                settings.append((where, "program", (port, message.channel), message.program))
            elif message.type == "control_change" and message.control == 0:
                settings.append((where, "bank", (port, message.channel), message.value))
            elif message.type == "control_change" and (message.control == 120 or message.control >= 123):
                silences.append((tick, port, message.channel))
                for note in mine:
                    if note.end is None and (note.port, note.channel) == (port, message.channel):
                        note.end, note.loose = tick, True
            elif message.type == "sysex":
                settings += _said(tuple(message.data), where, port)
            elif message.type in ("set_tempo", "time_signature"):
                changes.append((where[:3], message))
            elif message.type == "end_of_track":
                break
        for note in mine:
            if note.end is None:
                note.end, note.loose, note.at_end = tick, True, True
        found.notes += mine
        found.end = max(found.end, tick)
    for (tick, *_), message in sorted(changes, key=lambda change: change[0]):
        if message.type == "time_signature":
            found.metres[tick] = (message.numerator, message.denominator)
        elif message.tempo:
            found.tempos[tick] = message.tempo
    if len(tracks) > 1:
        _across(found.notes, offs, silences)
    _settle(found.notes, settings)
    return found


def _said(data: tuple[int, ...], where: tuple[int, ...], port: int) -> list[tuple]:
    """Resets and drum parts in a system exclusive message."""
    tick, _, index, order = where
    reset = ((tick, 0, index, order), "reset", None)
    if len(data) == 4 and data[0] == 0x7E and data[2] == 9 and data[3] in (1, 2, 3):
        return [(*reset, {1: "gm", 2: None, 3: "gm2"}[data[3]])]
    if len(data) == 7 and data[0] == 0x43 and data[1] >> 4 == 1 and data[2] == 0x4C:
        if data[3:6] == (0, 0, 0x7E):
            return [(*reset, "xg")]
        if data[3] == 8 and data[4] < 16 and data[5] == 7:
            return [(where, "rhythm", (port, data[4]), data[6] > 0)]
    if len(data) == 9 and data[0] == 0x41 and data[2:4] == (0x42, 0x12) and sum(data[4:]) % 128 == 0:
        if data[4] in (0, 0x40) and data[5:7] == (0, 0x7F):
            return [(*reset, "gs")]
        if data[4] == 0x40 and data[5] >> 4 == 1 and data[6] == 0x15:
            part = data[5] & 15
            channel = [9, *range(9), *range(10, 16)][part]
            return [(where, "rhythm", (port, channel), data[7] > 0)]
    return []


def _across(notes: list[Note], offs: list[tuple], silences: list[tuple]) -> None:
    """Note-offs and controllers that end notes of other tracks."""
    for tick, *place in sorted(offs, key=lambda off: off[0]):
        same = [n for n in notes if n.loose and [n.port, n.channel, n.pitch] == place and n.onset < tick]
        same = [n for n in same if n.at_end or (n.end or 0) > tick]
        if same:
            first = min(same, key=lambda note: note.onset)
            first.end, first.loose, first.at_end = tick, False, False
    by_place = defaultdict(list)
    for tick, *place in sorted(silences):
        by_place[tuple(place)].append(tick)
    for note in notes:
        later = [tick for tick in by_place[note.port, note.channel] if tick > note.onset]
        if later and (note.at_end or later[0] < (note.end or 0)):
            note.end, note.loose, note.at_end = later[0], True, False


def _settle(notes: list[Note], settings: list[tuple]) -> None:
    """Programs and drums in the order of time."""
    settings = sorted(settings, key=lambda setting: setting[0])
    program, bank, drum, by_bank = {}, {}, {}, {}
    mode, at = None, 0
    for note in sorted(notes, key=lambda note: (note.onset, note.rank)):
        while at < len(settings) and settings[at][0][:2] <= (note.onset, note.rank):
            _, kind, key, value = settings[at]
            at += 1
            if kind == "reset":
                mode, bank, drum, by_bank = value, {}, {}, {}
            elif kind == "bank":
                bank[key] = value
            elif kind == "rhythm":
                drum[key], by_bank[key] = value, False
            else:
                program[key] = value
                says = _of_bank(mode, bank.get(key))
                if says is not None:
                    drum[key], by_bank[key] = says, True
                elif by_bank.get(key):
                    del drum[key], by_bank[key]
        key = (note.port, note.channel)
        note.program, note.drum = program.get(key, 0), drum.get(key, note.channel == 9)


def _of_bank(mode: str | None, bank: int | None) -> bool | None:
    if bank is None:
        return None
    if mode == "xg":
        return bank in (126, 127)
    if mode == "gm2":
        return {120: True, 121: False}.get(bank)
    return True if mode is None and bank in (120, 126, 127) else None


def as_mido_reads(data: bytes, clip: bool = False) -> list[mido.MidiTrack]:
    return mido.MidiFile(file=io.BytesIO(data), clip=clip).tracks
