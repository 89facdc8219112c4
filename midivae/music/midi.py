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

Offers: `read`, `write` and `REASONS`, the codes of `errors.MidiError`; for many files at once the two steps of `read`,
`parse` and `join`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64
from symusic import core

from midivae.config.ingest import IngestLimits
from midivae.errors import MidiError
from midivae.music.notes import Batch, Notes, Tempo, TimeSignature

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
    parsed = parse(data, limits)
    batch, refused = join([parsed])
    if refused:
        raise refused[0]
    return Notes(
        pitch=batch.pitch,
        velocity=(_records(parsed.notes, batch.track_notes)[2] >> 8).astype(np.uint8),
        onset_tick=batch.onset_tick,
        duration_tick=batch.duration_tick,
        track=np.repeat(np.arange(len(parsed.counts), dtype=np.int32), parsed.counts),
        program=np.repeat(batch.program, parsed.counts),
        is_drum=np.repeat(batch.is_drum, parsed.counts),
        track_names=tuple(batch.track_names),
        ticks_per_quarter=parsed.resolution,
        tempos=tuple(Tempo(*row) for row in batch.tempos[:, 1:].tolist()),
        time_signatures=tuple(TimeSignature(*row) for row in batch.time_signatures[:, 1:].tolist()),
    ), parsed.reader


class Parsed(NamedTuple):
    """A file as its reader gave it: within the limits, its values not yet checked."""

    reader: str
    resolution: int  # ticks per quarter
    counts: list[int]  # notes of each track that has any
    programs: list[int]
    drums: list[bool]
    names: list[str]
    notes: list[bytes]  # of each of these tracks, as symusic pickles them (`_records`)
    tempos: Any  # symusic's list
    signatures: Any  # symusic's list


def parse(data: bytes, limits: IngestLimits) -> Parsed:
    """The first step of `read`: what a reader makes of the bytes, its counts within the limits.

    Raises:
        MidiError: as `read`, but for what `join` finds.
    """
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
        return _from_symusic(score, "symusic-sanitised" if sanitise else "symusic", limits)
    return _read_pretty_midi(data, limits)


def join(files: Sequence[Parsed]) -> tuple[Batch, dict[int, MidiError]]:
    """The second step of `read`, for many files at once: their notes end to end, once every value is known to be sound.

    Returns:
        The batch, and by index the files that are refused. It holds them too: leave them out and join again.
    """
    tempos, signatures = core.TempoTickList(), core.TimeSignatureTickList()
    for file in files:
        tempos.extend(file.tempos)
        signatures.extend(file.signatures)
    track_notes = np.array([n for file in files for n in file.counts], np.int64)
    onset_tick, duration_tick, values = _records([track for file in files for track in file.notes], track_notes)
    batch = Batch(
        pitch=values.astype(np.uint8),  # the lowest byte
        onset_tick=onset_tick,
        duration_tick=duration_tick,
        track_notes=track_notes,
        program=np.array([n for file in files for n in file.programs], np.uint8),
        is_drum=np.array([d for file in files for d in file.drums], bool),
        track_names=[name for file in files for name in file.names],
        tracks=np.array([len(file.counts) for file in files], np.int64),
        ticks_per_quarter=np.array([file.resolution for file in files], np.int64),
        tempos=_sound_tempos(tempos.numpy(), [len(file.tempos) for file in files]),
        time_signatures=_sound_signatures(signatures.numpy(), [len(file.signatures) for file in files]),
    )
    return batch, _refused(batch)


def _records(tracks: list[bytes], track_notes: Int64[np.ndarray, " K"]) -> Int32[np.ndarray, "3 M"]:
    """Onsets, durations, and pitches and velocities together, of notes as symusic pickles lists of them, end to end.

    That is the number of notes (32 bits) and 12 bytes a note: onset, duration (32 bits each), pitch, velocity, two
    bytes that say nothing. To ask for arrays takes four times as long.

    Raises:
        RuntimeError: a release of symusic pickles otherwise.
    """
    words = np.frombuffer(b"".join(tracks), "<i4")
    if len(words) != len(tracks) + 3 * int(track_notes.sum()):
        raise RuntimeError(f"symusic's pickles are not what midivae reads ({READER_VERSION}); install symusic 0.6")
    is_note = np.ones(len(words), bool)
    is_note[np.arange(len(tracks)) + 3 * (np.cumsum(track_notes) - track_notes)] = False
    return np.ascontiguousarray(words[is_note].reshape(-1, 3).T)


def _refused(batch: Batch) -> dict[int, MidiError]:
    """The files of a batch with a pitch or a time that there cannot be."""
    pitch, onset, duration = batch.pitch, batch.onset_tick, batch.duration_tick
    if len(pitch) == 0:
        return {}
    last = int(onset.max()) + int(duration.max())  # an upper bound of all ends, in Python's integers
    if pitch.max() <= 127 and onset.min() >= 0 and duration.min() >= 0 and last <= _MAX_TICK:
        return {}  # nearly always
    starts = batch.first_note[batch.first_track]
    highest = np.maximum.reduceat(pitch, starts).tolist()
    first, shortest = np.minimum.reduceat(onset, starts).tolist(), np.minimum.reduceat(duration, starts).tolist()
    latest, longest = np.maximum.reduceat(onset, starts).tolist(), np.maximum.reduceat(duration, starts).tolist()
    refused = {}
    for index in range(len(batch)):
        last = latest[index] + longest[index]
        if highest[index] > 127:
            refused[index] = MidiError("bad_pitch", REASONS["bad_pitch"])
        elif first[index] < 0 or shortest[index] < 0 or last > _MAX_TICK:
            at = f"first tick {first[index]}, last {last}, most {_MAX_TICK}"
            refused[index] = MidiError("bad_time", f"{REASONS['bad_time']} ({at})")
    return refused


def _has_header(data: bytes) -> bool:
    """Whether the bytes begin as a MIDI file does, bare or in a RIFF wrapper (RMID)."""
    return data[:4] == b"MThd" or (data[:4] == b"RIFF" and data[8:12] == b"RMID")


def _from_symusic(score: Any, reader: str, limits: IngestLimits) -> Parsed:
    resolution = int(score.ticks_per_quarter)
    _check_resolution(resolution)
    lists = [track.notes for track in score.tracks]
    tracks = [track for track, notes in zip(score.tracks, lists, strict=True) if notes]
    counts = [len(notes) for notes in lists if notes]
    _check_counts(counts, limits)
    return Parsed(
        reader,
        resolution,
        counts,
        [track.program for track in tracks],
        [track.is_drum for track in tracks],
        [track.name for track in tracks],
        [notes.__getstate__() for notes in lists if notes],
        score.tempos,
        score.time_signatures,
    )


def _read_pretty_midi(data: bytes, limits: IngestLimits) -> Parsed:
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
    _check_counts(counts, limits)
    first = np.cumsum([0, *counts[:-1]])
    score = core.ScoreTick(notes.ticks_per_quarter)  # whose lists take no number that its types cannot hold
    for tempo in notes.tempos:
        if 0 <= tempo.tick <= _MAX_TICK and 0 < tempo.us_per_quarter <= _MAX_TICK:
            score.tempos.append(core.TempoTick(tempo.tick, mspq=tempo.us_per_quarter))
    for tick, numerator, denominator in notes.time_signatures:
        if 0 <= tick <= _MAX_TICK and 0 < numerator < 256 and denominator in _DENOMINATORS:
            score.time_signatures.append(core.TimeSignatureTick(tick, numerator, denominator))
    columns = (notes.onset_tick, notes.duration_tick, notes.pitch.view(np.int8), notes.velocity.view(np.int8))
    return Parsed(
        "pretty_midi",
        notes.ticks_per_quarter,
        counts,
        notes.program[first].tolist(),
        notes.is_drum[first].tolist(),
        list(notes.track_names),
        [
            core.NoteTickList.from_numpy(*(column[i : i + n] for column in columns)).__getstate__()
            for i, n in zip(first, counts, strict=True)
        ],
        score.tempos,
        score.time_signatures,
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


def _sound_tempos(events: dict[str, np.ndarray], counts: list[int]) -> Int64[np.ndarray, "E 3"]:
    """Rows (file, tick, us_per_quarter): positive tempi in order, the last of each tick."""
    piece = np.repeat(np.arange(len(counts)), counts)
    rows = np.stack([piece, events["time"], events["mspq"]], axis=1, dtype=np.int64)
    return _last_of_each_tick(rows[(rows[:, 1] >= 0) & (rows[:, 2] > 0)])


def _sound_signatures(events: dict[str, np.ndarray], counts: list[int]) -> Int64[np.ndarray, "E 4"]:
    """Rows (file, tick, numerator, denominator): signatures that name a bar, in order, the last of each tick.

    Those that repeat the one before are left out.
    """
    piece = np.repeat(np.arange(len(counts)), counts)
    columns = [events[name] for name in ("time", "numerator", "denominator")]
    rows = np.stack([piece, *columns], axis=1, dtype=np.int64)
    names_a_bar = (rows[:, 2] > 0) & np.isin(rows[:, 3], _DENOMINATORS)
    rows = _last_of_each_tick(rows[(rows[:, 1] >= 0) & names_a_bar])
    repeats = (rows[1:, [0, 2, 3]] == rows[:-1, [0, 2, 3]]).all(axis=1)
    return np.asarray(rows[np.append(True, ~repeats)[: len(rows)]])


def _last_of_each_tick(rows: Int64[np.ndarray, "E _"]) -> Int64[np.ndarray, "D _"]:
    """Events by file and tick; of several on one tick the last."""
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    followed = (rows[1:, :2] == rows[:-1, :2]).all(axis=1)
    return np.asarray(rows[np.append(~followed, True)[: len(rows)]])


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
