"""Bytes <-> Notes: the only module that knows symusic, and that reads files with pretty_midi.

Reading, in this order, until one succeeds: symusic; symusic with `sanitize_data` (clamps values that break the
standard); pretty_midi, which reads a few files that symusic refuses, and is some hundred times slower. Whatever is
read is checked before anything is built from it, since all three let bad values through.

Rules:
    1. A track here is what symusic makes of it: the notes of one chunk, channel and program. Tracks without notes go.
    2. Of overlapping notes of one pitch and channel, a note-off ends the one that began first, and only that one
       (pretty_midi ends all of them at once).
    3. A note that is never switched off is left out (as in pretty_midi).
    4. A note of length 0 is kept, and lasts one step on the grid (pretty_midi drops it).
    5. Tempo events that are not finite and positive, and time signatures with a numerator of 0 or a denominator that is
       no power of two up to 64, are left out: the music is sound without them.
    6. Of several tempo events or time signatures on one tick the last counts.

Offers: `read`, `read_with_name`, `write`, and `REASONS`, the codes of `errors.MidiError`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Int32
from symusic import core

from midivae.config.ingest import IngestLimits
from midivae.errors import MidiError
from midivae.music.notes import Notes, Tempo, TimeSignature

REASONS = {
    "empty": "the file has no bytes",
    "too_large": "the file is larger than ingest.limits.max_bytes",
    "not_midi": "the file does not begin with a MIDI header",
    "unreadable": "neither symusic nor pretty_midi can parse the file",
    "bad_resolution": "the file's header gives no ticks per quarter note",
    "bad_pitch": "a note lies outside the MIDI pitches 0 to 127",
    "bad_time": "a note starts before the beginning, ends before it starts, or lies beyond any tick a file can count",
    "too_many_tracks": "more tracks have notes than ingest.limits.max_tracks",
    "too_many_notes": "the file has more notes than ingest.limits.max_notes",
    "too_long": "the roll would have more steps than ingest.limits.max_steps",
    "no_notes": "the file has no notes",
    "no_part": "none of the notes belongs to a part of the roll (ingest.parts)",
    "few_notes": "the roll has fewer notes than ingest.limits.min_notes",
    "short": "the roll has fewer steps than ingest.limits.min_steps",
    "crashed": "the reader crashed on the file",
    "timeout": "reading the file took longer than ingest.limits.time_s",
    "memory": "reading the file took more memory than ingest.limits.memory_bytes",
}
READER_VERSION = f"symusic {version('symusic')}, pretty_midi {version('pretty_midi')}"  # rolls depend on it
_MAX_TICK = 2**31 - 1
_DENOMINATORS = (1, 2, 4, 8, 16, 32, 64)


def read(data: bytes, limits: IngestLimits | None = None) -> Notes:
    """The notes in the bytes of a MIDI file.

    Raises:
        MidiError: the bytes cannot be used; `code` is one of `REASONS`.
    """
    return read_with_name(data, limits or IngestLimits())[0]


def read_with_name(data: bytes, limits: IngestLimits) -> tuple[Notes, str]:
    """The notes, and the reader that got them: "symusic", "symusic-sanitised" or "pretty_midi"."""
    if not data:
        raise MidiError("empty", REASONS["empty"])
    if len(data) > limits.max_bytes:
        raise MidiError("too_large", f"{len(data)} bytes; ingest.limits.max_bytes is {limits.max_bytes}")
    if not _has_header(data):
        raise MidiError("not_midi", f"begins with {data[:4]!r}; a MIDI file begins with b'MThd'")
    for sanitise, reader in ((False, "symusic"), (True, "symusic-sanitised")):
        try:
            score = core.ScoreTick.from_midi(data, sanitise)
        except (RuntimeError, ValueError, UnicodeDecodeError):
            continue
        return _checked(_from_symusic(score, limits)), reader
    return _checked(_from_pretty_midi(data, limits)), "pretty_midi"


def _has_header(data: bytes) -> bool:
    """Whether the bytes begin as a MIDI file does, bare or in a RIFF wrapper (RMID)."""
    return data[:4] == b"MThd" or (data[:4] == b"RIFF" and data[8:12] == b"RMID")


def _from_symusic(score: Any, limits: IngestLimits) -> Notes:
    resolution = int(score.ticks_per_quarter)
    _check_resolution(resolution)
    with_notes = [(track, notes) for track in score.tracks if (notes := track.notes)]
    tracks, counts = [track for track, _ in with_notes], [len(notes) for _, notes in with_notes]
    _check_counts(counts, limits)
    onset_tick, duration_tick, values = _records([notes.__getstate__() for _, notes in with_notes], counts)
    return Notes(
        pitch=values.astype(np.uint8),  # the lowest byte
        velocity=(values >> 8).astype(np.uint8),
        onset_tick=onset_tick,
        duration_tick=duration_tick,
        track=np.repeat(np.arange(len(tracks), dtype=np.int32), counts),
        program=np.repeat(np.array([track.program for track in tracks], np.uint8), counts),
        is_drum=np.repeat(np.array([track.is_drum for track in tracks], bool), counts),
        track_names=tuple(track.name for track in tracks),
        ticks_per_quarter=resolution,
        tempos=_sound_tempos([(e.time, e.mspq) for e in score.tempos]),
        time_signatures=_sound_signatures([(e.time, e.numerator, e.denominator) for e in score.time_signatures]),
    )


def _records(tracks: list[bytes], counts: list[int]) -> Int32[np.ndarray, "3 N"]:
    """Onsets, durations, and pitches and velocities together, of notes as symusic pickles lists of them, end to end.

    A pickle is the number of notes (32 bits) and 12 bytes a note: onset, duration (32 bits each), pitch, velocity, two
    bytes without meaning. To ask symusic for arrays takes four times as long.

    Raises:
        RuntimeError: a release of symusic pickles otherwise.
    """
    if [len(track) for track in tracks] != [4 + 12 * count for count in counts]:
        raise RuntimeError(f"symusic's pickles are not what midivae reads ({READER_VERSION}); install symusic 0.6")
    words = np.concatenate([np.frombuffer(track, "<i4", offset=4) for track in tracks])
    return np.ascontiguousarray(words.reshape(-1, 3).T)


def _from_pretty_midi(data: bytes, limits: IngestLimits) -> Notes:
    import pretty_midi  # slow to import, and needed for one file in some hundred

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            notes = Notes.from_pretty_midi(pretty_midi.PrettyMIDI(io.BytesIO(data)))
    except MemoryError:
        raise
    except Exception as error:  # mido raises whatever the bytes lead it into: IndexError, KeyError, OverflowError ...
        raise MidiError("unreadable", f"{REASONS['unreadable']}: {type(error).__name__}: {error!s:.200}") from error
    _check_resolution(notes.ticks_per_quarter)
    _check_counts(np.bincount(notes.track, minlength=len(notes.track_names)).tolist(), limits)
    tempos, signatures = _sound_tempos(notes.tempos), _sound_signatures(notes.time_signatures)
    return replace(notes, tempos=tempos, time_signatures=signatures)


def _check_resolution(resolution: int) -> None:
    if not 0 < resolution < 2**15:
        raise MidiError("bad_resolution", f"{resolution} ticks per quarter note; the standard has 1 to 32767")


def _check_counts(counts: list[int], limits: IngestLimits) -> None:
    if not counts:
        raise MidiError("no_notes", REASONS["no_notes"])
    if len(counts) > limits.max_tracks:
        raise MidiError("too_many_tracks", f"{len(counts)} tracks; ingest.limits.max_tracks is {limits.max_tracks}")
    if sum(counts) > limits.max_notes:
        raise MidiError("too_many_notes", f"{sum(counts)} notes; ingest.limits.max_notes is {limits.max_notes}")


def _checked(notes: Notes) -> Notes:
    """The same notes, whose pitches and times are possible."""
    first, shortest = int(notes.onset_tick.min()), int(notes.duration_tick.min())
    last = int(notes.onset_tick.max()) + int(notes.duration_tick.max())  # no note ends later
    if notes.pitch.max() > 127:
        raise MidiError("bad_pitch", REASONS["bad_pitch"])
    if first < 0 or shortest < 0 or last > _MAX_TICK:
        raise MidiError("bad_time", f"{REASONS['bad_time']} (first tick {first}, last {last}, most {_MAX_TICK})")
    return notes


def _sound_tempos(events: Iterable[tuple[int, int]]) -> tuple[Tempo, ...]:
    """Rules 5 and 6, from events (tick, us_per_quarter)."""
    last = {tick: us for tick, us in events if 0 <= tick <= _MAX_TICK and 0 < us <= _MAX_TICK}
    return tuple(Tempo(tick, last[tick]) for tick in sorted(last))


def _sound_signatures(events: Iterable[tuple[int, int, int]]) -> tuple[TimeSignature, ...]:
    """Rules 5 and 6, from events (tick, numerator, denominator); one that repeats the one before it is left out."""
    last = {e[0]: e for e in events if 0 <= e[0] <= _MAX_TICK and 0 < e[1] < 256 and e[2] in _DENOMINATORS}
    signatures: list[TimeSignature] = []
    for tick in sorted(last):
        if not signatures or signatures[-1][1:] != last[tick][1:]:
            signatures.append(TimeSignature(*last[tick]))
    return tuple(signatures)


def write(notes: Notes) -> bytes:
    """A Standard MIDI File (format 1) with one track per track of `notes`; the same notes give the same bytes.

    Velocity 0 would switch a note off: it is written as 1.
    """
    score = core.ScoreTick(notes.ticks_per_quarter)
    for tempo in notes.tempos:
        score.tempos.append(core.TempoTick(tempo.tick, mspq=tempo.us_per_quarter))
    for signature in notes.time_signatures:
        score.time_signatures.append(core.TimeSignatureTick(*signature))
    columns = (
        notes.onset_tick.astype(np.int32),
        notes.duration_tick.astype(np.int32),
        notes.pitch.astype(np.int8),
        np.maximum(notes.velocity, 1).astype(np.int8),
    )
    for index, name in enumerate(notes.track_names):
        rows = np.flatnonzero(notes.track == index)
        program, is_drum = (int(notes.program[rows[0]]), bool(notes.is_drum[rows[0]])) if len(rows) else (0, False)
        track = core.TrackTick(name, program, is_drum)
        track.notes = core.NoteTickList.from_numpy(*(np.ascontiguousarray(column[rows]) for column in columns))
        score.tracks.append(track)
    data: bytes = score.dumps_midi()
    return data
