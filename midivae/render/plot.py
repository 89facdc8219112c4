"""MIDI bytes -> a picture of the piano roll, for a page or a paper: PNG, or SVG that can be scaled.

Time runs to the right in bars, pitch upwards with names; a colour per track, those of `pictures`. A note is a bar whose
start is strong and whose rest is paler, so that repeated notes can be told from a long one. Drums are drawn at their
note numbers. Key and tempo are in the title: the key by its best scale (`features.best_scale`), drums aside.

The same bytes give the same picture: SVG has neither a date nor random ids.

Offers: `draw`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from midivae.errors import InputError, ParamsError
from midivae.measures import features
from midivae.music import midi
from midivae.music.notes import DEFAULT_TEMPO, Notes
from midivae.render import pictures

FORMATS = ("png", "svg")
MOST_BARS = 400  # drawn; more could not be told apart
_INCHES_PER_BAR, _NARROWEST, _WIDEST = 0.9, 6.0, 60.0
_INCHES_PER_PITCH, _LOWEST, _HIGHEST = 0.075, 2.4, 8.0
_START = 1 / 8  # of a quarter: how long a start is drawn


def draw(data: bytes, name: str, form: str) -> bytes:
    """A picture of the music in the bytes of a MIDI file.

    Args:
        data: the file.
        name: what the title calls it.
        form: "png" or "svg".

    Raises:
        ParamsError: another format.
        MidiError: the bytes cannot be used.
        InputError: the music is too long for a picture.
    """
    if form not in FORMATS:
        raise ParamsError(f"{form!r}: no format of pictures; name a file that ends in .png or .svg")
    notes = midi.read(data)
    bars = _bar_lines(notes)
    if len(bars) > MOST_BARS:
        raise InputError(f"{name}: has {len(bars)} bars, and a picture holds {MOST_BARS}; cut it into shorter files")
    return _figure(notes, name, bars, form)


def format_of(path: PurePath) -> str:
    """The format that a file's name asks for.

    Raises:
        ParamsError: neither .png nor .svg.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise ParamsError(f"{path}: pictures are .png or .svg; name a file that ends so")
    return form


def _end(notes: Notes) -> int:
    """The tick at which the last note ends."""
    return int((notes.onset_tick.astype(np.int64) + notes.duration_tick).max())


def _bar_lines(notes: Notes) -> list[float]:
    """Where bars start, in quarters, the end of the last one included."""
    end, quarter = _end(notes), notes.ticks_per_quarter
    changes = [(signature.tick, signature.numerator, signature.denominator) for signature in notes.time_signatures]
    if not changes or changes[0][0] > 0:
        changes = [(0, 4, 4), *changes]
    lines: list[float] = []
    for index, (tick, numerator, denominator) in enumerate(changes):
        until = changes[index + 1][0] if index + 1 < len(changes) else end
        bar = 4 * numerator / denominator * quarter
        count = min(MOST_BARS + 1, max(0, int(np.ceil((min(until, end) - tick) / bar - 1e-9))))
        lines += [(tick + i * bar) / quarter for i in range(count)]
        last = (tick + count * bar) / quarter
    return [*lines, max(last, end / quarter)]


def _title(notes: Notes, name: str) -> str:
    """Name, key and tempo."""
    counts = np.bincount(notes.pitch[~notes.is_drum] % 12, minlength=12)
    index = int(features.best_scale(counts[None])[0][0])
    key = features.KEYS[index] if index >= 0 else "no key"
    first = notes.tempos[0].qpm if notes.tempos else DEFAULT_TEMPO
    more = ", changing" if len({tempo.us_per_quarter for tempo in notes.tempos}) > 1 else ""
    return f"{_plain(name)}   {key}, {first:.0f} BPM{more}"


def _plain(text: str) -> str:
    """A name as one line of text: matplotlib would take dollars for formulas."""
    shown = "".join(letter if letter.isprintable() else "�" for letter in text[:80])
    return shown.replace("\\", "\\\\").replace("$", r"\$")


def _figure(notes: Notes, name: str, bars: Sequence[float], form: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    low, high = int(notes.pitch.min()) - 2, int(notes.pitch.max()) + 2
    width = min(_WIDEST, max(_NARROWEST, 1.2 + _INCHES_PER_BAR * len(bars)))
    height = min(_HIGHEST, max(_LOWEST, 1.1 + _INCHES_PER_PITCH * (high - low)))
    # text as text, ids from the content, no date
    with mpl.rc_context({"svg.hashsalt": "midivae", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        onset = notes.onset_tick / notes.ticks_per_quarter
        length = np.maximum(notes.duration_tick / notes.ticks_per_quarter, 1 / 32)
        for track, colour in enumerate(pictures.part_colours(len(notes.track_names))):
            mine = notes.track == track
            whole = _boxes(onset[mine], length[mine], notes.pitch[mine])
            start = _boxes(onset[mine], np.minimum(length[mine], _START), notes.pitch[mine])
            label = _plain(notes.track_names[track]) or f"track {track + 1}"
            axes.add_collection(PolyCollection(whole, facecolor=colour, alpha=0.6, linewidth=0, label=label, zorder=3))
            axes.add_collection(PolyCollection(start, facecolor=colour, linewidth=0, zorder=4))
        for pitch in range(low, high + 1):
            if pitch % 12 in pictures.BLACK_KEYS:
                axes.axhspan(pitch - 0.5, pitch + 0.5, color="#eef0f2", linewidth=0, zorder=0)
        axes.vlines(bars, low - 0.5, high + 0.5, color="#b6bcc4", linewidth=0.7, zorder=1)
        every = max(1, len(bars) // 32)
        axes.set_xticks(bars[:-1:every], [str(1 + i) for i in range(0, len(bars) - 1, every)], ha="left")
        names = [pitch for pitch in range(low, high + 1) if pitch % 12 in ((0, 7) if high - low < 30 else (0,))]
        axes.set_yticks(names, [pictures.pitch_name(pitch) for pitch in names])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlim=(0, bars[-1]), ylim=(low - 0.5, high + 0.5), xlabel="bar")
        axes.set_title(_title(notes, name), loc="left")
        if len(notes.track_names) <= 16:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, handlelength=1)
        file = io.BytesIO()
        if form == "svg":
            canvas: Any = FigureCanvasSVG(figure)
            canvas.print_svg(file, metadata={"Date": None, "Creator": "midivae"})
        else:
            canvas = FigureCanvasAgg(figure)
            canvas.print_png(file, metadata={"Software": "midivae"})
    return file.getvalue()


def _boxes(onset: np.ndarray, length: np.ndarray, pitch: np.ndarray) -> list[np.ndarray]:
    """The corners of notes, [4, 2] each."""
    left, right = onset, onset + length
    below, above = pitch - 0.42, pitch + 0.42
    corners = [(left, below), (right, below), (right, above), (left, above)]
    return list(np.stack([np.stack(corner, axis=1) for corner in corners], axis=1))
