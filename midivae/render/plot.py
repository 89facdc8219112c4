"""MIDI bytes -> a picture of the piano roll, for a page or a paper: PNG or SVG.

The x axis is time in bars, the y axis pitch. Each track has a colour of `pictures`. The start of a note has the full
colour and the rest is paler, so that repeated notes look different from a long one. Drums are drawn at their note
numbers. The title has key and tempo; the key is the best scale of all notes but drums (`keys.best_scale`).

The same bytes give the same picture: SVG has neither a date nor random ids.

Offers: `draw`, `format_of`; `FORMATS`.
"""

from __future__ import annotations

import io
from pathlib import PurePath

import numpy as np

from midivae.errors import InputError, ParamsError
from midivae.measures.keys import KEYS, best_scale
from midivae.music import grid, smf
from midivae.music.notes import DEFAULT_TEMPO, Notes
from midivae.render import pictures

FORMATS = ("png", "svg")
MOST_BARS = 400  # in a picture; more would be too narrow to see
_INCHES_PER_BAR, _WIDTHS = 0.9, (6.0, 60.0)
_INCHES_PER_PITCH, _HEIGHTS = 0.075, (2.4, 8.0)
_START = 1 / 8  # of a quarter: length of the part of a note in full colour


def draw(data: bytes, name: str, form: str) -> bytes:
    """A picture of the music in the bytes of a MIDI file.

    Args:
        data: the file.
        name: its name in the title.
        form: one of `FORMATS`.

    Raises:
        MidiError: the bytes are no MIDI file, or have no notes.
        InputError: the music is too long for a picture.
    """
    notes = smf.read(data).notes
    bars = _bar_lines(notes)
    if len(bars) > MOST_BARS:
        raise InputError(f"{name}: has more than {MOST_BARS} bars, the most in a picture; cut it into shorter files")
    return _figure(notes, name, bars, form)


def format_of(path: PurePath) -> str:
    """The format of a picture, from its file's name.

    Raises:
        ParamsError: the name ends neither in .png nor in .svg.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise ParamsError(f"{path}: a picture is .png or .svg; name a file with one of these endings")
    return form


def _bar_lines(notes: Notes) -> np.ndarray:
    """Where bars start and where the last one ends, in quarters; of too long music a part with too many bars."""
    signatures, quarter = notes.time_signatures, notes.ticks_per_quarter
    longest = max([4.0, *(4 * numerator / denominator for _, numerator, denominator in signatures)])  # bar, in quarters
    end_tick = min(notes.end_tick, int(longest * quarter * (MOST_BARS + 1)))
    return grid.bar_ticks(signatures, quarter, end_tick) / quarter


def _title(notes: Notes, name: str) -> str:
    """Name, key and tempo."""
    counts = np.bincount(notes.pitch[~notes.is_drum] % 12, minlength=12)
    index = int(best_scale(counts[None])[0][0])
    key = KEYS[index] if index >= 0 else "no key"
    first = notes.tempos[0].qpm if notes.tempos else DEFAULT_TEMPO
    more = ", changing" if len({tempo.us_per_quarter for tempo in notes.tempos}) > 1 else ""
    return f"{_plain(name)}   {key}, {first:.0f} BPM{more}"


def _plain(text: str) -> str:
    """A name as one line of text; matplotlib reads text between dollars as a formula."""
    shown = "".join(letter if letter.isprintable() else "�" for letter in text[:80])
    return shown.replace("\\", "\\\\").replace("$", r"\$")


def _figure(notes: Notes, name: str, bars: np.ndarray, form: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    low, high = int(notes.pitch.min()) - 2, int(notes.pitch.max()) + 2
    width = np.clip(1.2 + _INCHES_PER_BAR * len(bars), *_WIDTHS)
    height = np.clip(1.1 + _INCHES_PER_PITCH * (high - low), *_HEIGHTS)
    # text as text, ids from the content, no date
    with mpl.rc_context({"svg.hashsalt": "midivae", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        onset = notes.onset_tick / notes.ticks_per_quarter
        length = np.maximum(notes.duration_tick / notes.ticks_per_quarter, 1 / 32)
        for track, colour in enumerate(pictures.part_colours(len(notes.track_names))):
            own = notes.track == track
            whole = _boxes(onset[own], length[own], notes.pitch[own])
            start = _boxes(onset[own], np.minimum(length[own], _START), notes.pitch[own])
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
        metadata = {"Date": None, "Creator": "midivae"} if form == "svg" else {"Software": "midivae"}
        figure.savefig(file, format=form, metadata=metadata)
    return file.getvalue()


def _boxes(onset: np.ndarray, length: np.ndarray, pitch: np.ndarray) -> list[np.ndarray]:
    """The corners of notes, [4, 2] each."""
    left, right = onset, onset + length
    below, above = pitch - 0.42, pitch + 0.42
    corners = [(left, below), (right, below), (right, above), (left, above)]
    return list(np.stack([np.stack(corner, axis=1) for corner in corners], axis=1))
