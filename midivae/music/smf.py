"""Standard MIDI Files: bytes -> notes (`read`) and notes -> bytes (`write`, in `smf_write`).

Source: RP-001, "Standard MIDI Files 1.0" of the MIDI Manufacturers Association, cited by its headings here and at the
lines of `smf_events` and `smf_columns` that follow it. Conventions: ticks and pitches as in `Notes`; sentences count
tracks from 1, and bytes from 0.

Rules:
    1. Chunks ("Chunks", "Header Chunks"): a header longer than six bytes and chunks of other types are skipped by their
       length. All tracks that are there are read, however many the header declares. A second header ends the file.
       The `data` chunk of a RIFF file of type RMID (RP-029) is read as the file.
    2. Formats 0 and 1 are read alike. Format 2 is rejected: its tracks are patterns, which nothing plays together.
    3. Divisions ("Header Chunks"): SMPTE and 0 give no ticks per quarter note, and are rejected as `bad_resolution`.
    4. Ends of tracks ("Track Chunks", "Meta-Events"): the end-of-track event ends a track, else its length, where the
       file ends or another chunk begins there. Else the length is wrong, and the events are read on, up to the end of
       track, the next track or the end of the file. What stands in a chunk behind its end of track is skipped.
    5. A file that is cut: all complete events count, and the event that is cut does not. An event that does not fit
       into its track while another chunk follows rejects the file, and so does anything else that is no event.
    6. Running status ("MTrk Events"): by the standard sysex and meta events end it. Files exist that go on behind them,
       and all players with them: the last status byte of a channel message holds to the end of the track.
    7. F0 and F7 ("MTrk Events") are read with their lengths. F7 goes on with a message that F0 started and no F7 byte
       ended, else it is an escape; of an escape only a system exclusive message counts. System common and real-time
       messages, which the standard has in escapes only, are skipped by the lengths that MIDI 1.0 gives.
    8. Data bytes above 127: a pitch rejects the file, a velocity is read as 127, other messages are left out.
    9. A note ends with a note-off of its track, port, channel and pitch: first on, first off. A note-off that ends no
       note of its track ends the one of its port, channel and pitch in another track that began first, if no note-off
       of its own track does. (Tracks often share a channel: their notes are not mixed up by this.)
    10. Controllers 120 and 123 to 127 (MIDI 1.0, "Channel Mode Messages") end the notes of their port and channel: of
       their own track those before them, of others those that began on an earlier tick. Notes that still sound end with
       their track. Both are counted as `notes_unended`. The sustain pedal is not applied.
    11. Programs and banks belong to channels, in the order of time over all tracks. On one tick those count first that
       stand before the first note-on of their track on this tick, in the order of the tracks; then those before the
       second; and so on. Resets come before all of them.
    12. Drums: channel 10, and what the file says of channels, as in 11: GS "use for rhythm part"; XG "part mode"; a
       bank, from the next program change on: 126 and 127 in XG (others: melody), 120 in GM2 (121: melody), all three
       where the file has no reset. A reset (GM, GM2, GS, XG) sets drums and banks back, and leaves the programs.
    13. Ports (meta event 21, in no standard): each has its own 16 channels; a track without one plays on port 0.
    14. A track of `Notes` is made of the notes of one chunk, port and channel. Its name is the first in its chunk that
       is not empty, in UTF-8 or else Latin-1, at most `NAME_BYTES` long.
    15. Tempi of 0, time signatures with a numerator of 0 or a denominator above 64, and keys of more than seven sharps
       or flats are left out. Of several on one tick the last counts. A time signature that repeats the one before is
       left out.

Offers: `read`, `File`, `KeySignature`, `compile_loops`; and `write`, its mirror.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from midivae.config.ingest import IngestLimits
from midivae.errors import MidiError
from midivae.music import smf_columns as columns
from midivae.music import smf_events as events
from midivae.music import smf_tables as code
from midivae.music.notes import Notes, Tempo, TimeSignature
from midivae.music.reasons import REASONS
from midivae.music.smf_write import write

__all__ = ["File", "KeySignature", "compile_loops", "read", "write"]

NAME_BYTES = 1024  # of a track's name
_LIMITS = IngestLimits()
_HEADER = 14  # bytes of a header chunk with six bytes of data

_REJECTED = {
    code.NO_STATUS: ("unreadable", "a data byte ({value}) where an event with a status byte must come first"),
    code.LONG_QUANTITY: ("unreadable", "a variable-length quantity of more than four bytes"),
    code.UNDEFINED: ("unreadable", "status byte {value}, which MIDI does not define"),
    code.INCOMPLETE: ("unreadable", "an event that does not fit into its track, which ends at byte {value}"),
    code.BAD_PITCH: ("bad_pitch", "pitch {value}; the highest is 127"),
    code.BAD_TIME: ("bad_time", f"a note at tick {{value}}; the last is {code.MAX_TICK}"),
    code.TOO_MANY_NOTES: ("too_many_notes", "more than {value} notes; ingest.limits.max_notes is {value}"),
}
_REPAIRED = {
    code.NO_END: "no end of track",
    code.BAD_LENGTH: "the length of the track is wrong; read by its events",
    code.CUT: "the file ends within an event",
    code.AFTER_END: "bytes between the end of the track and the end of its chunk",
    code.HIGH_BYTE: "a data byte above 127",
    code.LAPSED_STATUS: "running status behind a system exclusive or meta event",
    code.JUNK: "bytes that are no chunk",
    code.TRAILING: "bytes behind the last track",
    code.BAD_META: "a tempo, time signature or key that does not exist",
}


class KeySignature(NamedTuple):
    """From `tick` on the key has so many sharps (negative: flats), and is minor or major."""

    tick: int
    sharps: int
    minor: bool


@dataclass(frozen=True)
class File:
    """What a Standard MIDI File holds.

    Attributes:
        notes: its notes, track after track.
        format: 0 or 1, as the header says.
        tracks_declared: number of tracks that the header says.
        tracks_read: number of track chunks that are there; those without notes count.
        notes_unended: notes that no note-off ended.
        end_tick: the last tick of the longest track, its end of track where it has one.
        key_signatures: changes of key, in order of their ticks.
        repairs: sentences about what is wrong with the file, and was read in spite of it.
    """

    notes: Notes
    format: int
    tracks_declared: int
    tracks_read: int
    notes_unended: int
    end_tick: int
    key_signatures: tuple[KeySignature, ...] = ()
    repairs: tuple[str, ...] = ()


class _Header(NamedTuple):
    format: int
    tracks: int
    resolution: int
    begin: int  # byte behind the header
    end: int  # byte behind the last chunk


def read(data: bytes, limits: IngestLimits | None = None) -> File:
    """The notes in the bytes of a Standard MIDI File.

    Raises:
        MidiError: the bytes cannot be used; `code` is one of `reasons.REASONS`, `detail` says what is wrong and where.
    """
    limits = limits or _LIMITS
    header = _header(data, limits)
    scan = _scan(data, header, limits.max_notes)
    notes, chunks = scan.notes, scan.chunks
    if len(notes) == 0:
        raise MidiError("no_notes", "; ".join([REASONS["no_notes"], *scan.repairs]))
    others = scan.others[np.argsort(scan.others[:, code.WHEN], kind="stable")]
    if scan.n_offs and len(chunks) > 1:
        _across_tracks(notes, others)
    per_note, chunk_of, n_unended = columns.gather(notes, chunks, others, 16 * scan.n_ports)
    if len(chunk_of) > limits.max_tracks:
        most = f"ingest.limits.max_tracks is {limits.max_tracks}"
        raise MidiError("too_many_tracks", f"{len(chunk_of)} tracks have notes; {most}")
    tempos, signatures, keys = _changes(others)
    pitch, velocity, onset_tick, duration_tick, track, program, is_drum = per_note
    return File(
        Notes(
            pitch=pitch,
            velocity=velocity,
            onset_tick=onset_tick,
            duration_tick=duration_tick,
            track=track,
            program=program,
            is_drum=is_drum,
            track_names=_names(data, chunks, chunk_of),
            ticks_per_quarter=header.resolution,
            tempos=tempos,
            time_signatures=signatures,
        ),
        header.format,
        header.tracks,
        len(chunks),
        n_unended,
        scan.end_tick,
        keys,
        scan.repairs + _miscounted(header.tracks, len(chunks)),
    )


def compile_loops() -> None:
    """Reads a file that needs all compiled loops, so that they are compiled, or loaded from numba's cache.

    Call it before files are read under a time limit: compiling takes some ten seconds.
    """
    unended, offs = b"\0\x90\x3c\x40\0\x3d\x40\1\x3e\x40\0\xff\x2f\0", b"\1\x80\x3c\x40\0\xb0\x7b\0\0\xff\x2f\0"
    tracks = b"".join(b"MTrk" + len(body).to_bytes(4) + body for body in (unended, offs))
    read(b"MThd\0\0\0\x06\0\1\0\2\0\x60" + tracks)


class _Scan(NamedTuple):
    """The tables of `smf_events.scan`, and of its state what counts."""

    notes: Int32[np.ndarray, "C 6"]
    others: Int64[np.ndarray, "E 2"]
    chunks: Int64[np.ndarray, "J 3"]
    repairs: tuple[str, ...]
    n_ports: int
    n_offs: int
    end_tick: int


def _scan(data: bytes, header: _Header, max_notes: int) -> _Scan:
    """The events of all tracks.

    Raises:
        MidiError: something in them cannot be read.
    """
    raw = np.frombuffer(data, np.uint8)
    for most_ports in (1, 256):  # nearly all files have one; place for 256 takes time
        notes, others, chunks, state = events.scan(raw, header.begin, header.end, max_notes, most_ports)
        told = state[: code.TICK].tolist()
        if told[code.STATUS] != code.MORE_PORTS:
            break
    if told[code.STATUS] != code.OK:
        reason, sentence = _REJECTED[told[code.STATUS]]
        where = f"track {told[code.TRACK]}, byte {told[code.BYTE]}: "
        raise MidiError(reason, where + sentence.format(value=told[code.VALUE]))
    return _Scan(
        notes[: told[code.N_NOTES]],
        others[: told[code.N_OTHERS]],
        chunks[: told[code.N_CHUNKS]],
        _repairs(state) if told[code.N_FAULTS] else (),
        told[code.N_PORTS],
        told[code.N_OFFS],
        told[code.LAST_TICK],
    )


def _header(data: bytes, limits: IngestLimits) -> _Header:
    """What the header chunk says, and where the chunks behind it lie.

    Raises:
        MidiError: the file cannot be one that we read.
    """
    if not data:
        raise MidiError("empty", REASONS["empty"])
    if len(data) > limits.max_bytes:
        raise MidiError("too_large", f"{len(data)} bytes; ingest.limits.max_bytes is {limits.max_bytes}")
    begin, end = _wrapped(data) if data[:4] == b"RIFF" and data[8:12] == b"RMID" else (0, len(data))
    if data[begin : begin + 4] != b"MThd":
        start = data[begin : begin + 4]
        raise MidiError("not_midi", f"byte {begin}: begins with {start!r}; a MIDI file begins with b'MThd'")
    if end - begin < _HEADER:
        raise MidiError("unreadable", f"byte {begin}: the file ends within its header, which has {_HEADER} bytes")
    length, kind, tracks, division = (
        int.from_bytes(data[begin + at : begin + until]) for at, until in ((4, 8), (8, 10), (10, 12), (12, 14))
    )
    if division >= 0x8000:
        frames, ticks = 256 - (division >> 8), division & 0xFF
        told = f"{frames} SMPTE frames a second of {ticks} ticks each, and no ticks per quarter note"
        raise MidiError("bad_resolution", f"byte {begin + 12}: the division {division:#06x} says {told}")
    if division == 0:
        raise MidiError("bad_resolution", f"byte {begin + 12}: 0 ticks per quarter note; the standard has 1 to 32767")
    if kind == 2:
        raise MidiError(
            "bad_format", f"byte {begin + 8}: format 2: its tracks are patterns of their own, not one piece"
        )
    if kind > 2:
        raise MidiError("bad_format", f"byte {begin + 8}: format {kind}; the standard has 0, 1 and 2")
    after = begin + 8 + length
    if length < 6 or after > end:  # a wrong length: the events decide
        after = begin + _HEADER
    return _Header(kind, tracks, division, after, end)


def _wrapped(data: bytes) -> tuple[int, int]:
    """Where the `data` chunk of a RIFF file begins and ends (RP-029); chunks start at even bytes.

    Raises:
        MidiError: there is none.
    """
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"data":
            return at + 8, min(at + 8 + length, len(data))
        at += 8 + length + length % 2
    raise MidiError("not_midi", "a RIFF file of type RMID without a chunk `data`")


def _repairs(state: Int64[np.ndarray, " _"]) -> tuple[str, ...]:
    """A sentence for each kind of fault."""
    rows = state[code.FAULTS : code.PACKET_AT].reshape(-1, 3).tolist()
    found = [(_REPAIRED[kind], *row) for kind, row in enumerate(rows) if row[0]]
    return tuple(
        f"track {track}, byte {byte}: {sentence}" + (f" ({count} times)" if count > 1 else "")
        for sentence, count, track, byte in found
    )


def _miscounted(declared: int, there: int) -> tuple[str, ...]:
    """A sentence where the header counts other tracks than there are."""
    return () if declared == there else (f"header: it declares {declared} track(s); the file has {there}",)


def _across_tracks(notes: Int32[np.ndarray, "C 6"], others: Int64[np.ndarray, "E 2"]) -> None:
    """Ends notes by note-offs and controllers of other tracks."""
    kind, what = others[:, code.WHAT] >> code.KIND_BITS, others[:, code.WHAT] & (2**code.KIND_BITS - 1)
    tick = others[:, code.WHEN] >> code.RANK_BITS
    offs, loose = kind == code.NOTE_OFF, np.flatnonzero(notes[:, code.LOOSE])
    if len(loose) and offs.any():
        slot = np.concatenate([what[offs], notes[loose, code.SLOT]])
        at = np.concatenate([tick[offs], notes[loose, code.ONSET]])
        index = np.concatenate([np.full(int(offs.sum()), -1), loose])
        order = np.lexsort((index >= 0, at, slot))
        columns.pair_across(notes, slot[order], at[order], index[order], np.empty(len(order), np.int64))
    ends = kind == code.ALL_OFF
    if ends.any():
        key, tick = what[ends] >> code.KEY_BITS, tick[ends]
        order = np.lexsort((tick, key))
        columns.cut(notes, key[order], tick[order])


def _names(data: bytes, chunks: Int64[np.ndarray, "J 3"], chunk_of: Int32[np.ndarray, " K"]) -> tuple[str, ...]:
    return tuple(_decoded(data[at : at + length]) for _, at, length in chunks[chunk_of].tolist())


def _decoded(name: bytes) -> str:
    """Text from the first bytes of a name in any encoding."""
    try:
        if len(name) <= NAME_BYTES:
            return name.decode()
        return getincrementaldecoder("utf-8")().decode(name[:NAME_BYTES])  # the last character may be cut
    except UnicodeDecodeError:
        return name[:NAME_BYTES].decode("latin-1")


def _changes(
    others: Int64[np.ndarray, "E 2"],
) -> tuple[tuple[Tempo, ...], tuple[TimeSignature, ...], tuple[KeySignature, ...]]:
    """Tempi, time signatures and keys; the last of each tick."""
    tempos: dict[int, int] = {}
    metres: dict[int, int] = {}
    keys: dict[int, int] = {}
    by_kind = {code.TEMPO: tempos, code.METRE: metres, code.KEY: keys}
    mine = others[others[:, code.WHAT] >= code.TEMPO << code.KIND_BITS]
    for when, what in zip(mine[:, code.WHEN].tolist(), mine[:, code.WHAT].tolist(), strict=True):
        by_kind[what >> code.KIND_BITS][when >> code.RANK_BITS] = what & (2**code.KEY_BITS - 1)
    return tuple(map(Tempo._make, tempos.items())), _time_signatures(metres), _key_signatures(keys)


def _time_signatures(metres: dict[int, int]) -> tuple[TimeSignature, ...]:
    """Those that are not the one before; each value is 256 * numerator + the denominator's power of two."""
    distinct = [next(same) for _, same in groupby(metres.items(), key=itemgetter(1))]
    return tuple(TimeSignature(tick, value >> 8, 1 << (value & 0xFF)) for tick, value in distinct)


def _key_signatures(keys: dict[int, int]) -> tuple[KeySignature, ...]:
    """Each value is 256 * sharps, as a byte with a sign, + 1 where the key is minor."""
    return tuple(KeySignature(tick, (value >> 8) - 256 * (value >> 15), value & 1 == 1) for tick, value in keys.items())
