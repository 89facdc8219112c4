"""Notes: the music of one MIDI file, as columns.

Conventions: one array per field, one entry per note, in the order of the file (`Notes.sorted` gives the canonical
one); times in ticks, `ticks_per_quarter` of them to a quarter note; pitches and programs as MIDI numbers them (60 is
middle C).

Shapes:
    N  notes of a piece

Offers: `Notes`, and with `Notes.to_pretty_midi` / `Notes.from_pretty_midi` the bridge for people who work in
pretty_midi (imported only when one of the two is called).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int, UInt8

if TYPE_CHECKING:
    import pretty_midi

PER_NOTE = ("pitch", "velocity", "onset_tick", "duration_tick", "track", "program", "is_drum")
DEFAULT_TEMPO = 120.0  # quarter notes a minute, where a file names none (Standard MIDI File 1.0)


class Tempo(NamedTuple):
    """From `tick` on, a quarter note lasts `us_per_quarter` microseconds."""

    tick: int
    us_per_quarter: int

    @property
    def qpm(self) -> float:
        """Quarter notes a minute."""
        return 60e6 / self.us_per_quarter

    @classmethod
    def from_qpm(cls, qpm: float, tick: int = 0) -> Tempo:
        """The tempo event nearest to `qpm` quarter notes a minute."""
        return cls(tick, round(60e6 / qpm))


class TimeSignature(NamedTuple):
    """From `tick` on, a bar holds `numerator` notes of 1/`denominator`."""

    tick: int
    numerator: int
    denominator: int


Event = TypeVar("Event", Tempo, TimeSignature)


@dataclass(frozen=True)
class Notes:
    """The notes of one piece.

    Attributes:
        pitch, velocity: 0 to 127.
        onset_tick, duration_tick: when the note starts and how long it sounds.
        track: index into `track_names`.
        program: the General MIDI program of the note's channel when it starts, 0 to 127.
        is_drum: whether that channel plays percussion when it starts.
        track_names: one name per track that has notes, as the file gives them.
        ticks_per_quarter: the file's resolution.
        tempos, time_signatures: changes, in order of their ticks.
    """

    pitch: UInt8[np.ndarray, " N"]
    velocity: UInt8[np.ndarray, " N"]
    onset_tick: Int[np.ndarray, " N"]
    duration_tick: Int[np.ndarray, " N"]
    track: Int[np.ndarray, " N"]
    program: UInt8[np.ndarray, " N"]
    is_drum: Bool[np.ndarray, " N"]
    track_names: tuple[str, ...]
    ticks_per_quarter: int
    tempos: tuple[Tempo, ...] = field(default=())
    time_signatures: tuple[TimeSignature, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.pitch)

    @cached_property
    def end_tick(self) -> int:
        """The tick at which the last note ends; 0 without notes."""
        return int((self.onset_tick.astype(np.int64) + self.duration_tick).max(initial=0))

    @property
    def tempo_qpm(self) -> float:
        """The tempo that holds longest, in quarter notes a minute."""
        return self._longest(self.tempos or (Tempo.from_qpm(DEFAULT_TEMPO),)).qpm

    @property
    def time_signature(self) -> TimeSignature:
        """The time signature that holds longest; 4/4 where the file names none."""
        return self._longest(self.time_signatures or (TimeSignature(0, 4, 4),))

    def _longest(self, events: tuple[Event, ...]) -> Event:
        """Of events that hold until the next, the one that holds longest."""
        if len(events) == 1:
            return events[0]
        ends = [event.tick for event in events[1:]] + [max(self.end_tick, events[-1].tick)]
        return events[int(np.argmax([end - event.tick for event, end in zip(events, ends, strict=True)]))]

    @property
    def duration_s(self) -> float:
        """Seconds from tick 0 to the end of the last note; summed in integers."""
        end = self.end_tick
        tempos = [Tempo.from_qpm(DEFAULT_TEMPO), *self.tempos]
        ticks = [min(tempo.tick, end) for tempo in tempos] + [end]
        spans = [until - tick for tick, until in pairwise(ticks)]
        weighted = sum(span * tempo.us_per_quarter for span, tempo in zip(spans, tempos, strict=True))
        return weighted / (1e6 * self.ticks_per_quarter)

    def sorted(self) -> Notes:
        """The same notes ordered by (onset_tick, track, pitch, duration_tick)."""
        order = np.lexsort((self.duration_tick, self.pitch, self.track, self.onset_tick))
        return replace(self, **{name: getattr(self, name)[order] for name in PER_NOTE})

    def seconds(self, ticks: Int[np.ndarray, " K"]) -> np.ndarray:
        """The time of each tick in seconds, following the tempo changes."""
        events = [event for event in self.tempos if event.tick > 0]
        first = [event.us_per_quarter for event in self.tempos if event.tick <= 0]
        starts = np.array([0, *(event.tick for event in events)], np.float64)
        rates = np.array([first[-1] if first else 60e6 / DEFAULT_TEMPO, *(event.us_per_quarter for event in events)])
        rates = rates / (1e6 * self.ticks_per_quarter)  # seconds per tick
        at_start = np.concatenate([[0.0], np.cumsum(np.diff(starts) * rates[:-1])])
        which = np.searchsorted(starts, ticks, side="right") - 1
        seconds: np.ndarray = at_start[which] + (ticks - starts[which]) * rates[which]
        return seconds

    def to_pretty_midi(self) -> pretty_midi.PrettyMIDI:
        """The same notes as a `pretty_midi.PrettyMIDI`, one instrument per track and program."""
        import pretty_midi

        midi = pretty_midi.PrettyMIDI(resolution=self.ticks_per_quarter, initial_tempo=DEFAULT_TEMPO)
        tempos = self.tempos if self.tempos and self.tempos[0].tick == 0 else (Tempo(0, 500_000), *self.tempos)
        midi._tick_scales = [(t.tick, t.us_per_quarter / (1e6 * self.ticks_per_quarter)) for t in tempos]
        midi._update_tick_to_time(self.end_tick + 1)
        midi.time_signature_changes = [
            pretty_midi.TimeSignature(s.numerator, s.denominator, midi.tick_to_time(s.tick))
            for s in self.time_signatures
        ]
        onsets = self.seconds(self.onset_tick)
        offsets = self.seconds(self.onset_tick.astype(np.int64) + self.duration_tick)
        instruments = np.unique([self.track, self.is_drum, self.program], axis=1, return_inverse=True)
        for index, (track, is_drum, program) in enumerate(instruments[0].T.tolist()):
            instrument = pretty_midi.Instrument(program, bool(is_drum), self.track_names[track])
            instrument.notes = [
                pretty_midi.Note(int(self.velocity[i]), int(self.pitch[i]), float(onsets[i]), float(offsets[i]))
                for i in np.flatnonzero(instruments[1].ravel() == index)
            ]
            midi.instruments.append(instrument)
        return midi

    @classmethod
    def from_pretty_midi(cls, midi: pretty_midi.PrettyMIDI) -> Notes:
        """The notes of a `pretty_midi.PrettyMIDI`, at its resolution; seconds go to the nearest tick."""
        played = [instrument for instrument in midi.instruments if instrument.notes]
        counts = [len(instrument.notes) for instrument in played]
        flat = [note for instrument in played for note in instrument.notes]
        onset = np.array([midi.time_to_tick(note.start) for note in flat], np.int32)
        offset = np.array([midi.time_to_tick(note.end) for note in flat], np.int32)
        return cls(
            pitch=np.array([note.pitch for note in flat], np.uint8),
            velocity=np.array([note.velocity for note in flat], np.uint8),
            onset_tick=onset,
            duration_tick=offset - onset,
            track=np.repeat(np.arange(len(played), dtype=np.int32), counts),
            program=np.repeat(np.array([i.program for i in played], np.uint8), counts),
            is_drum=np.repeat(np.array([i.is_drum for i in played], bool), counts),
            track_names=tuple(str(i.name) for i in played),
            ticks_per_quarter=int(midi.resolution),
            tempos=tuple(Tempo(int(tick), round(scale * midi.resolution * 1e6)) for tick, scale in midi._tick_scales),
            time_signatures=tuple(
                TimeSignature(int(midi.time_to_tick(s.time)), s.numerator, s.denominator)
                for s in midi.time_signature_changes
            ),
        )
