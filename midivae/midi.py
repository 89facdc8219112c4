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

Offers: `read`, `write` and `REASONS`, the codes of `errors.MidiError`.
"""

from __future__ import annotations

import io
import math
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
from symusic import core

from midivae.errors import MidiError
from midivae.notes import Notes, Tempo, TimeSignature
from midivae.params import IngestLimits

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
    for sanitise in (False, True):
        try:
            score = core.ScoreTick.from_midi(data, sanitise)
        except (RuntimeError, ValueError, UnicodeDecodeError):
            continue
        return _from_symusic(score, limits), "symusic-sanitised" if sanitise else "symusic"
    return _read_pretty_midi(data, limits), "pretty_midi"


def _has_header(data: bytes) -> bool:
    """Whether the bytes begin as a MIDI file does, bare or in a RIFF wrapper (RMID)."""
    return data[:4] == b"MThd" or (data[:4] == b"RIFF" and data[8:12] == b"RMID")


def _from_symusic(score: Any, limits: IngestLimits) -> Notes:
    resolution = int(score.ticks_per_quarter)
    _check_resolution(resolution)
    tracks = [(track, notes, len(notes)) for track in score.tracks if len(notes := track.notes)]
    counts = [n for _, _, n in tracks]
    _check_counts(counts, limits)
    notes = tracks[0][1]  # one long list, and one conversion to arrays, for all tracks
    for _, more, _ in tracks[1:]:
        notes.extend(more)
    columns = notes.numpy()
    tempos, signatures = score.tempos.numpy(), score.time_signatures.numpy()
    return _checked(
        pitch=columns["pitch"],
        velocity=columns["velocity"],
        onset_tick=columns["time"],
        duration_tick=columns["duration"],
        counts=counts,
        programs=[track.program for track, _, _ in tracks],
        drums=[track.is_drum for track, _, _ in tracks],
        names=tuple(track.name for track, _, _ in tracks),
        resolution=resolution,
        tempos=list(zip(tempos["time"].tolist(), tempos["mspq"].tolist(), strict=True)),
        signatures=list(zip(*(signatures[k].tolist() for k in ("time", "numerator", "denominator")), strict=True)),
    )


def _read_pretty_midi(data: bytes, limits: IngestLimits) -> Notes:
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
    counts = np.bincount(notes.track, minlength=len(notes.track_names)).tolist()
    _check_counts([n for n in counts if n], limits)
    return _checked(
        pitch=notes.pitch,
        velocity=notes.velocity,
        onset_tick=notes.onset_tick,
        duration_tick=notes.duration_tick,
        counts=counts,
        programs=notes.program[np.cumsum([0, *counts[:-1]])].tolist(),
        drums=notes.is_drum[np.cumsum([0, *counts[:-1]])].tolist(),
        names=notes.track_names,
        resolution=notes.ticks_per_quarter,
        tempos=[tuple(event) for event in notes.tempos],
        signatures=[tuple(event) for event in notes.time_signatures],
    )


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


def _checked(
    *,
    pitch: np.ndarray,
    velocity: np.ndarray,
    onset_tick: np.ndarray,
    duration_tick: np.ndarray,
    counts: list[int],
    programs: list[int],
    drums: list[bool],
    names: tuple[str, ...],
    resolution: int,
    tempos: list[Any],
    signatures: list[Any],
) -> Notes:
    """`Notes` from what a reader gave, once every value is known to be sound."""
    pitch, velocity = pitch.view(np.uint8), velocity.view(np.uint8)
    if pitch.max() > 127:
        raise MidiError("bad_pitch", REASONS["bad_pitch"])
    last = int(onset_tick.max()) + int(duration_tick.max())  # an upper bound of the end, in Python's integers
    if onset_tick.min() < 0 or duration_tick.min() < 0 or last > _MAX_TICK:
        first = int(onset_tick.min())
        raise MidiError("bad_time", f"{REASONS['bad_time']} (first tick {first}, last {last}, most {_MAX_TICK})")
    return Notes(
        pitch=pitch,
        velocity=velocity,
        onset_tick=onset_tick,
        duration_tick=duration_tick,
        track=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        program=np.repeat(np.array(programs, np.uint8), counts),
        is_drum=np.repeat(np.array(drums, bool), counts),
        track_names=names,
        ticks_per_quarter=resolution,
        tempos=_sound_tempos(tempos),
        time_signatures=_sound_signatures(signatures),
    )


def _sound_tempos(events: list[Any]) -> tuple[Tempo, ...]:
    """Finite, positive tempi in order, the last of each tick."""
    sound = {t: Tempo(t, int(us)) for t, us in sorted(events, key=_tick) if t >= 0 and math.isfinite(us) and us > 0}
    return tuple(sound.values())


def _sound_signatures(events: list[Any]) -> tuple[TimeSignature, ...]:
    """Signatures that name a bar, in order, the last of each tick; those that repeat the one before are left out."""
    sound = {
        t: TimeSignature(t, n, d)
        for t, n, d in sorted(events, key=_tick)
        if t >= 0 and n > 0 and d in (1, 2, 4, 8, 16, 32, 64)
    }
    kept: list[TimeSignature] = []
    for event in sound.values():
        if not kept or event[1:] != kept[-1][1:]:
            kept.append(event)
    return tuple(kept)


def _tick(event: Any) -> Any:
    return event[0]


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
        mine = np.flatnonzero(notes.track == index)
        program, is_drum = (int(notes.program[mine[0]]), bool(notes.is_drum[mine[0]])) if len(mine) else (0, False)
        track = core.TrackTick(name, program, is_drum)
        track.notes = core.NoteTickList.from_numpy(*(np.ascontiguousarray(column[mine]) for column in columns))
        score.tracks.append(track)
    data: bytes = score.dumps_midi()
    return data
