"""Notes -> Standard MIDI File, the mirror of `smf.read`.

Source: RP-001, "Standard MIDI Files 1.0". Rules:
    1. Format 1 ("MIDI File Formats 0, 1 and 2"): one track for each track of the notes; two where some of its notes are
       drums and others are not. The first begins with the time signatures and the tempi of tick 0 ("Meta-Events"), and
       has the later ones among its events; each track has its name and, on tick 0, its first program.
    2. A melodic track has a channel for itself: 1 to 9 and 11 to 16 of port 0, then of port 1, and so on. Drums play on
       channel 10, those with other programs on that of the next port. With more than one port each track names its own
       (meta event 21, in no standard; readers that do not know it play all ports on the same 16 channels).
    3. On one tick: note-offs of notes that began before; then notes in their order, each behind its program if that is
       another than the one before, and a note of length 0 with its note-off.
    4. Every track ends on `end_tick`, or with its last event where that comes later; without `end_tick` one tick
       behind its last event.
    5. Velocity 0 would be a note-off: it is written as 1. A note-off has the velocity of its note.
    6. Running status ("MTrk Events"): a status byte that repeats the one of the event before it is left out.

`read(write(notes, end))` gives the notes back if those of a track have one `is_drum`, and no note of a pitch starts and
ends within another of that pitch and track: such notes exchange their ends (first on, first off).

Offers: `write`.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt8

from midivae.errors import MidiError
from midivae.music.notes import Notes

MAX_DELTA = 2**28 - 1  # RP-001 "Variable-length quantity"
MAX_PORTS = 128  # of the port meta event
MELODIC = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15)
DRUMS = 9
_END_OF_TRACK = b"\xff\x2f\x00"

Ints = Int[np.ndarray, " E"]


class _Place(NamedTuple):
    port: int
    channel: int


def write(notes: Notes, end_tick: int | None = None) -> bytes:
    """The bytes of a Standard MIDI File; the same notes give the same bytes.

    Args:
        notes: what to write; the tracks in the order of their names, those without notes too.
        end_tick: where the tracks end, if no event of theirs comes later; None: one tick behind their last events.

    Raises:
        MidiError: the format cannot hold the notes; nothing is written.
    """
    _check(notes, end_tick)
    notes = _unmixed(notes)
    bodies = _bodies(notes, _places(notes), end_tick)
    head = struct.pack(">4sIHHH", b"MThd", 6, 1, len(bodies), notes.ticks_per_quarter)
    return head + b"".join(struct.pack(">4sI", b"MTrk", len(body)) + body for body in bodies)


def _check(notes: Notes, end_tick: int | None) -> None:
    """Raises MidiError where a value does not fit into its field."""
    if end_tick is not None and not 0 <= end_tick <= MAX_DELTA:
        raise MidiError("bad_time", f"an end on tick {end_tick}; it must lie between 0 and {MAX_DELTA}")
    if not 0 < notes.ticks_per_quarter < 2**15:
        raise MidiError(
            "bad_resolution", f"{notes.ticks_per_quarter} ticks per quarter note; the standard has 1 to 32767"
        )
    if len(notes.track_names) > 2**16 - 2:
        raise MidiError("too_many_tracks", f"{len(notes.track_names)} tracks; a file holds 65534 and the tempi")
    if len(notes):
        if max(notes.pitch.max(), notes.velocity.max(), notes.program.max()) > 127:
            raise MidiError("bad_pitch", "a pitch, velocity or program above 127")
        if notes.onset_tick.min() < 0 or notes.duration_tick.min() < 0:
            raise MidiError("bad_time", "a note starts before tick 0, or ends before it starts")
        if notes.track.min() < 0 or notes.track.max() >= len(notes.track_names):
            raise MidiError(
                "too_many_tracks", f"a note of track {notes.track.max()}, and {len(notes.track_names)} names"
            )
    for tick, us in notes.tempos:
        if tick < 0 or not 0 < us < 2**24:
            raise MidiError(
                "bad_time", f"{us} microseconds a quarter note at tick {tick}; the standard has 1 to 16777215"
            )
    for tick, numerator, denominator in notes.time_signatures:
        if tick < 0 or not 0 < numerator < 256 or denominator not in (1, 2, 4, 8, 16, 32, 64):
            raise MidiError("bad_time", f"a time signature of {numerator}/{denominator} at tick {tick}")


def _unmixed(notes: Notes) -> Notes:
    """The same notes, the drums of tracks that have other notes too in tracks of their own behind these."""
    n_tracks = len(notes.track_names)
    drums, others = (np.bincount(notes.track[mine], minlength=n_tracks) > 0 for mine in (notes.is_drum, ~notes.is_drum))
    mixed = drums & others
    if not mixed.any():
        return notes
    first = np.arange(n_tracks) + np.cumsum(mixed) - mixed  # the new index of each track
    track = first[notes.track] + (notes.is_drum & mixed[notes.track])
    names = [name for name, is_mixed in zip(notes.track_names, mixed, strict=True) for _ in range(1 + is_mixed)]
    return replace(notes, track=track, track_names=tuple(names))


def _places(notes: Notes) -> list[_Place]:
    """Port and channel of each track.

    Raises:
        MidiError: there are more tracks than channels.
    """
    places: list[_Place] = []
    kits: dict[tuple[int, int | None], int] = {}  # port by program, and by track where that changes
    melodic = 0
    order = np.argsort(notes.track, kind="stable")
    bounds = np.searchsorted(notes.track[order], np.arange(len(notes.track_names) + 1)).tolist()
    for index, (begin, end) in enumerate(pairwise(bounds)):
        program, drums = notes.program[order[begin:end]], notes.is_drum[order[begin:end]]
        if begin == end:
            places.append(_Place(0, 0))
        elif drums[0]:
            kit = (int(program[0]), index if (program != program[0]).any() else None)
            places.append(_Place(kits.setdefault(kit, len(kits)), DRUMS))
        else:
            port, channel = divmod(melodic, len(MELODIC))
            places.append(_Place(port, MELODIC[channel]))
            melodic += 1
    if max((place.port for place in places), default=0) >= MAX_PORTS:
        most = f"{MAX_PORTS * len(MELODIC)} and {MAX_PORTS} fit"
        raise MidiError("too_many_tracks", f"{melodic} melodic tracks and {len(kits)} drum kits; {most}")
    return places


class _Events(NamedTuple):
    """Events in any order; `phase` orders those of one track and tick."""

    track: Int64[np.ndarray, " E"]
    tick: Int64[np.ndarray, " E"]
    phase: Int64[np.ndarray, " E"]
    data: UInt8[np.ndarray, "E 7"]
    length: Int64[np.ndarray, " E"]  # bytes of data


def _bodies(notes: Notes, places: list[_Place], end_tick: int | None) -> list[bytes]:
    """The events of each track."""
    tables = [_map(notes)]
    if len(notes):
        channel = np.array([place.channel for place in places], np.uint8)[notes.track]
        tables += [_programs(notes, channel), *_ons_and_offs(notes, channel)]
    track, tick, phase, data, length = (np.concatenate(column) for column in zip(*tables, strict=True))
    order = np.lexsort((phase, tick, track))
    tick, data, length = tick[order], data[order], length[order]
    bounds = np.searchsorted(track[order], np.arange(max(1, len(places)) + 1))
    opens = bounds[:-1][bounds[:-1] < bounds[1:]]
    encoded, ends = _encoded(_deltas(tick, opens), data, length, _repeated_status(data, opens))
    n_setup = sum(tick == 0 for tick, *_ in (*notes.tempos, *notes.time_signatures))
    bodies = []
    for index, (begin, end) in enumerate(pairwise(bounds.tolist())):
        last = int(tick[end - 1]) if end > begin else 0
        rest = 1 if end_tick is None else max(0, end_tick - last)
        behind = begin + (n_setup if index == 0 else 0)
        setup, music = encoded[ends[begin] : ends[behind]].tobytes(), encoded[ends[behind] : ends[end]].tobytes()
        bodies.append(setup + _opening(notes, places, index) + music + _quantity(rest) + _END_OF_TRACK)
    return bodies


def _opening(notes: Notes, places: list[_Place], index: int) -> bytes:
    """Name and port of a track."""
    if not places:
        return b""
    name = notes.track_names[index].encode("utf-8", "replace")
    several = any(place.port for place in places)
    port = b"\x00\xff\x21\x01" + bytes([places[index].port]) if several else b""
    return b"\x00\xff\x03" + _quantity(len(name)) + name + port


def _map(notes: Notes) -> _Events:
    """Tempi and time signatures: events of the first track, before all others on their tick."""
    rows = [
        (s.tick, (0xFF, 0x58, 4, s.numerator, s.denominator.bit_length() - 1, 24, 8)) for s in notes.time_signatures
    ]
    rows += [(t.tick, (0xFF, 0x51, 3, *t.us_per_quarter.to_bytes(3), 0)) for t in notes.tempos]
    ticks, data = np.array([tick for tick, _ in rows], np.int64), np.array([data for _, data in rows], np.uint8)
    data = data.reshape(-1, 7)
    return _Events(np.zeros(len(rows), np.int64), ticks, np.full(len(rows), -2), data, 3 + data[:, 2].astype(np.int64))


def _programs(notes: Notes, channel: UInt8[np.ndarray, " N"]) -> _Events:
    """The first program of each track on tick 0, and each that is another than the one before, before its note."""
    order = np.lexsort((notes.onset_tick, notes.track))
    track, program = notes.track[order], notes.program[order]
    opens = np.append(True, track[1:] != track[:-1])
    changes = opens | np.append(True, program[1:] != program[:-1])
    note, opens = order[changes], opens[changes]
    tick, phase = np.where(opens, 0, notes.onset_tick[note]), np.where(opens, -1, 3 * note + 1)
    return _events(notes.track[note], tick, phase, (0xC0 | channel[note], notes.program[note]))


def _ons_and_offs(notes: Notes, channel: UInt8[np.ndarray, " N"]) -> tuple[_Events, _Events]:
    index, end = np.arange(len(notes)), notes.onset_tick.astype(np.int64) + notes.duration_tick
    velocity = np.maximum(notes.velocity, 1)
    ons = _events(notes.track, notes.onset_tick, 3 * index + 2, (0x90 | channel, notes.pitch, velocity))
    phase = np.where(notes.duration_tick > 0, 0, 3 * index + 3)
    return ons, _events(notes.track, end, phase, (0x80 | channel, notes.pitch, velocity))


def _events(track: Ints, tick: Ints, phase: Ints, data: tuple[UInt8[np.ndarray, " E"], ...]) -> _Events:
    table = np.zeros((len(track), 7), np.uint8)
    for place, column in enumerate(data):
        table[:, place] = column
    size = np.full(len(track), len(data))
    return _Events(track.astype(np.int64), tick.astype(np.int64), phase.astype(np.int64), table, size)


def _deltas(tick: Int64[np.ndarray, " E"], opens: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " E"]:
    """Ticks from the event before in the track, or from its start; `opens`: the first event of each track.

    Raises:
        MidiError: one is more than a file can say.
    """
    delta = np.diff(tick, prepend=0)
    delta[opens] = tick[opens]
    if len(delta) and delta.max() > MAX_DELTA:
        raise MidiError("bad_time", f"{delta.max()} ticks without an event; the standard has at most {MAX_DELTA}")
    return delta


def _repeated_status(data: UInt8[np.ndarray, "E 7"], opens: Int64[np.ndarray, " K"]) -> Bool[np.ndarray, " E"]:
    """Which events need no status byte: those of channels with that of the event before in their track."""
    status = data[:, 0]
    repeated: np.ndarray = (status == np.append(0, status[:-1])) & (status < 0xF0)
    repeated[opens] = False
    return repeated


def _encoded(
    delta: Int64[np.ndarray, " E"],
    data: UInt8[np.ndarray, "E 7"],
    length: Int64[np.ndarray, " E"],
    without_status: Bool[np.ndarray, " E"],
) -> tuple[UInt8[np.ndarray, " _"], list[int]]:
    """Events with their deltas, end to end; and where each begins, with the end of the last."""
    digits = np.stack([delta >> shift & 0x7F for shift in (21, 14, 7, 0)], axis=1)
    used = np.stack([delta >= 1 << 21, delta >= 1 << 14, delta >= 1 << 7, delta >= 0], axis=1)
    digits[:, :3] |= 0x80
    table = np.concatenate([digits.astype(np.uint8), data], axis=1)
    used = np.concatenate([used, np.arange(7) < length[:, None]], axis=1)
    used[without_status, 4] = False
    return table[used], np.append(0, np.cumsum(used.sum(axis=1))).tolist()


def _quantity(value: int) -> bytes:
    """RP-001 "Variable-length quantity"."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(0x80 | value & 0x7F)
    return bytes(reversed(digits))
