"""MIDI bytes -> sound files: OGG, FLAC or WAV, with packages that pip installs.

The synthesiser is midirenderer. The sound font is `TimGM6mb.sf2` in the installed pretty_midi; its licence is the GPL,
so it is never copied. Each file is rendered in a child process: a file that crashes it, hangs or fills the memory does
not stop the other files. The synthesiser gets the notes that `smf.read` accepts, not the file.

Conventions: sound is float, [frames, 2], `RATE` frames a second. A file lasts to the end of the last note and `TAIL_S`
more, in which that note fades. It is scaled to the peak `PEAK`, so it is never clipped, and all files have about the
same loudness.

Offers: `render`, `Source` and `Rendered`; `FORMATS`.
"""

from __future__ import annotations

import io
import math
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
from midivae.music import smf
from midivae.music.notes import DEFAULT_TEMPO, Notes, Tempo
from midivae.workers.child import Beat
from midivae.workers.parallel import fan_out

Sound = Float[np.ndarray, "L 2"]

FORMATS = ("ogg", "flac", "wav")
RATE = 48_000  # frames a second, fixed by midirenderer
TAIL_S = 1.5
PEAK = 10 ** (-1 / 20)  # -1 dB of full scale: decoding OGG may raise peaks a little
LONGEST_S = 3600.0  # of the music; an hour of sound has 700 MB before compression
TIME_LIMIT_S = 300.0  # for one file; the longest takes about two minutes
MEMORY_BYTES = 6 * 2**30
_SUBTYPES = {"ogg": "VORBIS", "flac": "PCM_16", "wav": "PCM_16"}
_LOUDEST = 2**15 - 1  # of 16 bits; midirenderer clips what is louder
_QUIETEST = 8  # of 16 bits; a lower peak counts as silence
_SOFTER = 0.5  # factor of the velocities, applied until nothing is clipped


@dataclass(frozen=True)
class Source:
    """The MIDI bytes of a file, its name in messages, and the format to render it to."""

    name: str
    data: bytes
    format: str


class Rendered(NamedTuple):
    """The bytes of a sound file, the duration of its music and of the whole, and its peak before compression."""

    data: bytes
    music_s: float
    seconds: float
    peak: float


def render(files: Sequence[Source], compute: Compute) -> Iterator[tuple[int, Rendered | MidivaeError]]:
    """Renders files in child processes.

    Yields:
        The index of each file with its sound, or with the error that prevents it, in the order in which they end.

    Raises:
        InputError: pretty_midi has no sound font.
    """
    font = sound_font()
    specs = [(str(font), file) for file in files]
    smf.compile_loops()  # here, so that no child has to under its time limit
    for index, outcome in fan_out(
        _render, specs, compute, time_limit_s=TIME_LIMIT_S, memory_bytes=MEMORY_BYTES, label="render"
    ):
        failure = outcome.failure
        if failure is not None:
            reason = f"the synthesiser {failure.kind} ({failure.detail}); the file is left out"
            yield index, InputError(f"{files[index].name}: {reason}")
        elif isinstance(outcome.value, str):
            yield index, InputError(f"{files[index].name}: {outcome.value}")
        else:
            yield index, outcome.get()


def sound_font() -> Path:
    """The sound font inside the installed pretty_midi.

    Raises:
        InputError: it is missing.
    """
    package = find_spec("pretty_midi")  # finds it without importing it, which is slow
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    for folder in folders:
        if (font := Path(folder) / "TimGM6mb.sf2").is_file():
            return font
    raise InputError(f"TimGM6mb.sf2 is not in the package pretty_midi {folders}; reinstall it: pip install pretty_midi")


# --- in the child -----------------------------------------------------------------------------------------------------
def _render(spec: tuple[str, Source], beat: Beat) -> Rendered | str:
    """A sound file, or the reason why there is none."""
    font, file = spec
    try:
        notes = smf.read(file.data, IngestLimits()).notes
    except MidiError as error:
        if error.code == "no_notes":
            return "silent: it has no notes, so there is nothing to render"
        return f"{error} ({error.code}); `midivae ingest --explain` says more of a file"
    music_s = notes.duration_s
    if music_s > LONGEST_S:
        return f"lasts {music_s:.0f} s; at most {LONGEST_S:.0f} s are rendered; cut it into shorter files"
    sound = _synthesise(Path(font).read_bytes(), notes)
    peak = float(np.abs(sound).max())
    if peak * _LOUDEST < _QUIETEST:
        return "silent: the sound font has nothing to play for its notes"
    sound *= PEAK / peak
    return Rendered(_encode(sound, file.format), music_s, len(sound) / RATE, PEAK)


def _synthesise(font: bytes, notes: Notes) -> Sound:
    """The sound of some notes and of `TAIL_S` after them, not clipped."""
    import midirenderer
    import soundfile

    while True:
        wave = midirenderer.render_wave_from(font, _with_tail(notes))
        data, rate = soundfile.read(io.BytesIO(wave), dtype="int16", always_2d=True)
        if rate != RATE or data.shape[1] != 2:
            raise InputError(f"midirenderer gave {data.shape[1]} channels at {rate} Hz instead of 2 at {RATE}")
        if int(np.abs(data.astype(np.int32)).max(initial=0)) < _LOUDEST or notes.velocity.max() <= 1:
            break
        notes = replace(notes, velocity=np.maximum(notes.velocity * _SOFTER, 1).astype(np.uint8))
    frames = round((notes.duration_s + TAIL_S) * RATE)
    sound = np.zeros((frames, 2))
    sound[: len(data)] = data[:frames] / 2**15
    fade = min(frames, round(TAIL_S * RATE / 2))  # a note that still sounds ends without a click
    sound[frames - fade :] *= np.linspace(1, 0, fade)[:, None]
    return sound


def _with_tail(notes: Notes) -> bytes:
    """The notes as MIDI whose tracks end `TAIL_S` after the last note: midirenderer stops at the end of all tracks."""
    end = notes.end_tick
    tempos = tuple(tempo for tempo in notes.tempos if tempo.tick <= end) or (Tempo.from_qpm(DEFAULT_TEMPO),)
    tail = math.ceil((TAIL_S + 0.1) * 1e6 / tempos[-1].us_per_quarter * notes.ticks_per_quarter)
    signatures = tuple(signature for signature in notes.time_signatures if signature.tick <= end)
    return smf.write(replace(notes, tempos=tempos, time_signatures=signatures), end + tail)


def _encode(sound: Sound, form: str) -> bytes:
    """The bytes of a sound file, written second by second: libsndfile cannot write a long OGG at once."""
    import soundfile

    target = io.BytesIO()
    options: dict[str, Any] = {"format": form.upper(), "subtype": _SUBTYPES[form]}
    with soundfile.SoundFile(target, "w", RATE, sound.shape[1], **options) as file:
        for first in range(0, len(sound), RATE):
            file.write(sound[first : first + RATE])
    return target.getvalue()
