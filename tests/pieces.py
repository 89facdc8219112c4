"""Small pieces of music for tests, written by hand or drawn by hypothesis."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import mido
import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from midivae.music import grid
from midivae.music.notes import Notes, Tempo, TimeSignature
from midivae.music.roll import FRAME, ONSET, Layout
from midivae.storage import folders, tables
from midivae.storage.files import write_bytes
from midivae.storage.schema import CORPUS

Event = tuple[int, int, int]  # onset_tick, duration_tick, pitch


def notes_of(
    *tracks: list[Event],
    names: tuple[str, ...] | None = None,
    programs: tuple[int, ...] | None = None,
    drums: tuple[bool, ...] | None = None,
    ticks_per_quarter: int = 480,
    tempos: tuple[Tempo, ...] = (Tempo(0, 500_000),),
    time_signatures: tuple[TimeSignature, ...] = (TimeSignature(0, 4, 4),),
) -> Notes:
    """`Notes` from lists of events, one per track."""
    n = len(tracks)
    counts = [len(track) for track in tracks]
    events = np.array([event for track in tracks for event in track], np.int64).reshape(-1, 3)
    return Notes(
        pitch=events[:, 2].astype(np.uint8),
        velocity=np.full(len(events), 90, np.uint8),
        onset_tick=events[:, 0].astype(np.int32),
        duration_tick=events[:, 1].astype(np.int32),
        track=np.repeat(np.arange(n, dtype=np.int32), counts),
        program=np.repeat(np.array(programs or [0] * n, np.uint8), counts),
        is_drum=np.repeat(np.array(drums or [False] * n, bool), counts),
        track_names=names or tuple(f"track {i}" for i in range(n)),
        ticks_per_quarter=ticks_per_quarter,
        tempos=tempos,
        time_signatures=time_signatures,
    )


def events_of(notes: Notes) -> list[tuple[str, int, int, int]]:
    """The notes as sorted (track name, onset_tick, duration_tick, pitch)."""
    return sorted(
        (notes.track_names[t], int(o), int(d), int(p))
        for t, o, d, p in zip(notes.track, notes.onset_tick, notes.duration_tick, notes.pitch, strict=True)
    )


def hand_made() -> bytes:
    """A file written message by message: 3/4, then 4/4; a tempo change; repeated and abutting notes, a chord, drums.

    480 ticks a quarter, so a sixteenth is 120 ticks. The melody is C4 C4 (repeated, abutting eighths) D4 (quarter);
    the chord C3 E3 G3 lasts the first bar of three quarters; the drums beat on every quarter of that bar.
    """
    file = mido.MidiFile(ticks_per_beat=480)
    meta, melody, chord, drums = (mido.MidiTrack() for _ in range(4))
    file.tracks.extend([meta, melody, chord, drums])
    meta.append(mido.MetaMessage("time_signature", numerator=3, denominator=4, time=0))
    meta.append(mido.MetaMessage("set_tempo", tempo=500_000, time=0))
    meta.append(mido.MetaMessage("time_signature", numerator=4, denominator=4, time=1440))
    meta.append(mido.MetaMessage("set_tempo", tempo=1_000_000, time=0))
    melody.append(mido.MetaMessage("track_name", name="Soprano", time=0))
    for pitch, length in ((60, 240), (60, 240), (62, 480), (64, 480), (65, 1920)):
        melody.append(mido.Message("note_on", channel=0, note=pitch, velocity=80, time=0))
        melody.append(mido.Message("note_off", channel=0, note=pitch, velocity=0, time=length))
    chord.append(mido.MetaMessage("track_name", name="Bass", time=0))
    chord.append(mido.Message("program_change", channel=1, program=32, time=0))
    for pitch in (48, 52, 55):
        chord.append(mido.Message("note_on", channel=1, note=pitch, velocity=70, time=0))
    for i, pitch in enumerate((48, 52, 55)):
        chord.append(mido.Message("note_on", channel=1, note=pitch, velocity=0, time=0 if i else 1440))
    drums.append(mido.MetaMessage("track_name", name="Kit", time=0))
    for _ in range(3):
        drums.append(mido.Message("note_on", channel=9, note=38, velocity=100, time=0))
        drums.append(mido.Message("note_off", channel=9, note=38, velocity=0, time=480))
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


@st.composite
def grid_events(draw: st.DrawFn, step: int = 120, max_step: int = 64, low: int = 36, high: int = 83) -> list[Event]:
    """Notes on the grid of which none overlaps another of its pitch; abutting and repeated notes are common."""
    events: list[Event] = []
    for pitch in draw(st.lists(st.integers(low, high), min_size=1, max_size=6, unique=True)):
        at = draw(st.integers(0, 8))
        for gap, length in draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=6)):
            if at + gap + length > max_step:
                break
            events.append(((at + gap) * step, length * step, pitch))
            at += gap + length
    return events or [(0, step, low)]


def as_fetched(data: Path, files: dict[str, bytes], splits: dict[str, str] | None = None) -> None:
    """`corpus/` below `data` with these files, as stage `fetch` leaves it; `splits` are the corpus's own."""
    with folders.publishing(data / "corpus") as staging:
        rows = []
        for path in sorted(files):
            write_bytes(staging / "midi" / path, files[path])
            sha256 = hashlib.sha256(files[path]).hexdigest()
            row = {"path": path, "sha256": sha256, "bytes": len(files[path]), "source": "test", "origin": path}
            rows.append(row | {"split": (splits or {}).get(path)})
        tables.write(staging / "corpus.parquet", pa.Table.from_pylist(rows, CORPUS.columns), CORPUS)


def slow_roll(notes: Notes, part: np.ndarray, layout: Layout) -> np.ndarray:
    """The planes of a roll, cell by cell, as the rules in music/roll.py say; `part` of each note, -1 for none."""
    onset, offset = grid.quantise(notes.onset_tick, notes.duration_tick, notes.ticks_per_quarter, layout.steps_per_beat)
    mine = np.flatnonzero(part >= 0)
    planes = np.zeros((int(offset[mine].max(initial=0)), len(layout.parts), 2, layout.pitches), bool)
    for i in mine:
        row = int(notes.pitch[i]) - layout.pitch_low
        if 0 <= row < layout.pitches:
            planes[onset[i], part[i], ONSET, row] = True
            planes[onset[i] : offset[i], part[i], FRAME, row] = True
    return planes
