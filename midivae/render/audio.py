"""MIDI bytes -> sound files: OGG, FLAC or WAV, from packages that pip installs and nothing else.

The synthesiser is midirenderer, the sound font the `TimGM6mb.sf2` that comes inside pretty_midi: it is found there, and
never copied, as its licence is the GPL. Every file is rendered in a guarded child, so that one that crashes, hangs or
fills memory costs itself and nothing more.

What is rendered is the music as `midi.read` gives it: what breaks the standard does not reach the synthesiser.

Conventions: sound is float, [frames, 2], `RATE` frames a second. A file lasts as long as its music, to the end of the
last note, and `TAIL_S` more, in which that note dies away. It is scaled so that its highest peak is `PEAK`, of which 1
is the most that a file can hold: never clipped, and files are about as loud as each other.

Offers: `render`, `Wanted` and `Rendered`; `FORMATS`.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from midivae.config.compute import Compute
from midivae.config.ingest import IngestLimits
from midivae.errors import InputError, MidiError, MidivaeError
from midivae.music import midi
from midivae.music.notes import Notes
from midivae.workers.child import Beat
from midivae.workers.parallel import fan_out

Sound = Float[np.ndarray, "L 2"]

FORMATS = ("ogg", "flac", "wav")
RATE = 48_000  # frames a second, as midirenderer has it
TAIL_S = 1.5
PEAK = 10 ** (-1 / 20)  # -1 dB of full scale: what OGG adds when it is decoded stays below 1
LONGEST_S = 3600.0  # of the music; an hour of sound is 700 MB before it is packed
TIME_LIMIT_S = 300.0  # for one file: the longest takes about two minutes
MEMORY_BYTES = 6 * 2**30
_SUBTYPES = {"ogg": "VORBIS", "flac": "PCM_16", "wav": "PCM_16"}
_LOUDEST = 2**15 - 1  # of midirenderer's 16 bits; where it is reached, sound was clipped
_QUIETEST = 8  # of the same: below it there is nothing to hear
_SOFTER = 0.5  # what velocities are multiplied by until nothing is clipped


@dataclass(frozen=True)
class Wanted:
    """A file to be rendered: what it is called, its MIDI bytes, and as what."""

    name: str
    data: bytes
    format: str


class Rendered(NamedTuple):
    """A sound file: its bytes, how long its music and the whole are, and its highest peak before it is packed."""

    data: bytes
    music_s: float
    seconds: float
    peak: float


def render(files: Sequence[Wanted], compute: Compute) -> Iterator[tuple[int, Rendered | MidivaeError]]:
    """Renders files in guarded children.

    Yields:
        The index of each with its sound, or with the error that says why there is none, in the order in which they end.

    Raises:
        InputError: the sound font is not where pretty_midi has it.
    """
    font = sound_font()
    specs = [(str(font), file) for file in files]
    for index, outcome in fan_out(
        _render, specs, compute, time_limit_s=TIME_LIMIT_S, memory_bytes=MEMORY_BYTES, label="render"
    ):
        failure = outcome.failure
        if failure is not None:
            why = f"the synthesiser came to grief ({failure.kind}: {failure.detail}); the file is left out"
            yield index, InputError(f"{files[index].name}: {why}")
        elif isinstance(outcome.value, str):
            yield index, InputError(f"{files[index].name}: {outcome.value}")
        else:
            yield index, outcome.get()


def sound_font() -> Path:
    """The sound font inside the installed pretty_midi.

    Raises:
        InputError: there is none.
    """
    package = find_spec("pretty_midi")  # finds it without importing it, which is slow
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    for folder in folders:
        if (font := Path(folder) / "TimGM6mb.sf2").is_file():
            return font
    raise InputError(f"TimGM6mb.sf2 is not in the package pretty_midi {folders}; reinstall it: pip install pretty_midi")


# --- in the child -----------------------------------------------------------------------------------------------------
def _render(spec: tuple[str, Wanted], beat: Beat) -> Rendered | str:
    """A sound file, or a sentence that says why there is none."""
    font, file = spec
    try:
        notes = midi.read(file.data, IngestLimits())
    except MidiError as error:
        if error.code == "no_notes":
            return "silent: it has no notes, so there is nothing to render"
        return f"{error} ({error.code}); `midivae ingest --explain` says more of a file"
    music_s = duration_s(notes)
    if music_s > LONGEST_S:
        return f"lasts {music_s:.0f} s; at most {LONGEST_S:.0f} s are rendered; cut it into shorter files"
    sound = _synthesise(Path(font).read_bytes(), notes, music_s)
    peak = float(np.abs(sound).max())
    if peak * _LOUDEST < _QUIETEST:
        return "silent: the sound font has nothing to play for its notes"
    sound *= PEAK / peak
    return Rendered(_encode(sound, file.format), music_s, len(sound) / RATE, PEAK)


def duration_s(notes: Notes) -> float:
    """Seconds to the end of the last note, by the file's tempi."""
    end = int((notes.onset_tick.astype(np.int64) + notes.duration_tick).max())
    changes = [(0, 500_000), *((t.tick, t.us_per_quarter) for t in notes.tempos if t.tick < end)]
    ticks = np.array([tick for tick, _ in changes] + [end])
    return float((np.diff(ticks) * [us for _, us in changes]).sum() / notes.ticks_per_quarter / 1e6)


def _synthesise(font: bytes, notes: Notes, music_s: float) -> Sound:
    """The sound of some notes, unclipped, as long as they are and `TAIL_S` more."""
    import midirenderer
    import soundfile

    while True:
        wave = midirenderer.render_wave_from(font, _with_tail(notes, music_s))
        data, rate = soundfile.read(io.BytesIO(wave), dtype="int16", always_2d=True)
        if rate != RATE or data.shape[1] != 2:
            raise InputError(f"midirenderer gave {data.shape[1]} channels at {rate} Hz instead of 2 at {RATE}")
        if int(np.abs(data.astype(np.int32)).max(initial=0)) < _LOUDEST or notes.velocity.max() <= 1:
            break
        notes = replace(notes, velocity=np.maximum(notes.velocity * _SOFTER, 1).astype(np.uint8))
    frames = round((music_s + TAIL_S) * RATE)
    sound = np.zeros((frames, 2))
    sound[: len(data)] = data[:frames] / 2**15
    fade = min(frames, round(TAIL_S * RATE / 2))  # whatever still sounds does not end with a click
    sound[frames - fade :] *= np.linspace(1, 0, fade)[:, None]
    return sound


def _with_tail(notes: Notes, music_s: float) -> bytes:
    """The notes as MIDI, and an empty track that ends `TAIL_S` later: midirenderer stops where the longest one ends."""
    data = midi.write(notes)
    head, tracks = data[:10], int.from_bytes(data[10:12], "big")
    end = int((notes.onset_tick.astype(np.int64) + notes.duration_tick).max())
    slowest = max((tempo.us_per_quarter for tempo in notes.tempos if tempo.tick >= end), default=0)
    last = max((t for t in notes.tempos if t.tick <= end), default=None)
    quarter_us = max(slowest, last.us_per_quarter if last is not None else 500_000)
    ticks = end + int(np.ceil((TAIL_S + 0.1) * 1e6 / quarter_us * notes.ticks_per_quarter))
    body = _varying(ticks) + b"\xff\x2f\x00"
    return head + struct.pack(">H", tracks + 1) + data[12:] + b"MTrk" + struct.pack(">I", len(body)) + body


def _varying(value: int) -> bytes:
    """A number as MIDI files write times: seven bits a byte, all but the last marked."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def _encode(sound: Sound, form: str) -> bytes:
    """The bytes of a sound file, written second by second: libsndfile's OGG takes no long sound at once."""
    import soundfile

    target = io.BytesIO()
    options: dict[str, Any] = {"format": form.upper(), "subtype": _SUBTYPES[form]}
    with soundfile.SoundFile(target, "w", RATE, sound.shape[1], **options) as file:
        for first in range(0, len(sound), RATE):
            file.write(sound[first : first + RATE])
    return target.getvalue()
