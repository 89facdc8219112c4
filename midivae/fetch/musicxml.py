"""Engraved scores to Notes: MusicXML, compressed (.mxl) or plain, read by verovio. Only this module uses verovio.

verovio is fast and its notes are right, but it writes MIDI for listening. The notes returned here differ in five ways:

    1. Bar lines are where the score has them. verovio writes a pickup bar under the full time signature, which shifts
       all later bar lines. Here the signature of every bar has the length of the bar: a pickup may be a 1/4 at tick 0.
       Effect: 282 of the 408 Bach chorales.
    2. Two short measures in a row that together fill one bar are one bar. A repeat sign in the middle of a bar divides
       it, and as repeats are written once (difference 5), the halves follow each other. Effect: 363 bars of the
       chorales.
    3. A note ends where the next one may start. verovio ends each note one tick early (119 of 120 for a quarter note).
    4. Grace notes are left out. verovio gives them time of the following note, which then starts off the grid.
       Effect: two chorales.
    5. Repeats and endings are written once, in the order of the page.

Signatures and keys that verovio repeats in every track are left out, and so are tracks without notes. Errors of verovio
stay. In the chorales these are a tie between notes five beats apart in bwv362, and two voices in the first oboe of
bwv248.23-2 that hold one pitch at once, which a MIDI track cannot distinguish.

Offers: `read`, `bar_signatures` and `READER_VERSION`.
"""

from __future__ import annotations

import base64
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from midivae.errors import InputError
from midivae.music import smf
from midivae.music.notes import Notes, TimeSignature

READER_VERSION = f"verovio {version('verovio')}"  # the notes depend on it


def read(data: bytes) -> Notes:
    """The notes in the bytes of a MusicXML file, one track per staff, named after its part.

    Raises:
        InputError: the bytes cannot be read, or hold no notes.
    """
    toolkit = _toolkit()
    if not toolkit.loadData(_without_grace_notes(_musicxml(data))):
        raise InputError("verovio cannot read the score; is it MusicXML?")
    raw = smf.read(base64.b64decode(toolkit.renderToMIDI())).notes
    moments = toolkit.renderToTimemap({"includeMeasures": True})
    ticks = [round(moment["qstamp"] * raw.ticks_per_quarter) for moment in moments]
    starts = [tick for tick, moment in zip(ticks, moments, strict=True) if "measureOn" in moment]
    signatures = raw.time_signatures or (TimeSignature(0, 4, 4),)
    return replace(
        raw,
        duration_tick=raw.duration_tick + 1,
        track_names=tuple(" ".join(name.split()) for name in raw.track_names),  # some hold carriage returns
        time_signatures=bar_signatures(starts, ticks[-1], signatures, raw.ticks_per_quarter),
    ).sorted()


@cache
def _toolkit() -> Any:
    """verovio; one object reads all scores, as it takes time to load its fonts."""
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    toolkit.setOptions({"expandNever": True, "breaks": "none"})  # no page breaks: they take half of the time
    return toolkit


# --- XML --------------------------------------------------------------------------------------------------------------
def _musicxml(data: bytes) -> bytes:
    """The XML of a score, decompressed if needed."""
    if not data.startswith(b"PK"):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            container = ElementTree.fromstring(archive.read("META-INF/container.xml"))  # noqa: S314 - see below
            root = container.find(".//{*}rootfile")
            return archive.read(root.attrib["full-path"]) if root is not None else b""
    except (zipfile.BadZipFile, zlib.error, KeyError, ElementTree.ParseError) as error:
        raise InputError(f"not a sound .mxl file: {error}") from error


def _without_grace_notes(xml: bytes) -> str:
    """The XML as text, without its grace notes.

    The standard library's parser expands no external entities, and a score is read in a child of limited memory.
    """
    try:
        if b"<grace" not in xml:
            return xml.decode()
        root = ElementTree.fromstring(xml)  # noqa: S314 - see above
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise InputError(f"not sound XML: {error}") from error
    for measure in root.iter("measure"):
        for note in measure.findall("note"):
            if note.find("grace") is not None:
                measure.remove(note)
    return ElementTree.tostring(root, encoding="unicode")


# --- bars -------------------------------------------------------------------------------------------------------------
def bar_signatures(
    starts: Sequence[int], end: int, nominal: Sequence[TimeSignature], ticks_per_quarter: int
) -> tuple[TimeSignature, ...]:
    """The time signatures that put a bar line at the start of every measure, except of second halves of bars.

    Args:
        starts: the tick at which each measure starts, in order.
        end: the tick at which the last measure ends.
        nominal: the signatures that the score shows; a measure of that length keeps it.
        ticks_per_quarter: the resolution of all ticks.
    """
    starts = _whole_bars([*starts, end], nominal, ticks_per_quarter)
    signatures: list[TimeSignature] = []
    for start, stop in pairwise([*starts, end]):
        shown = _shown(nominal, start)
        full = _bar_ticks(shown, ticks_per_quarter)
        last_and_short = stop == end and stop - start < full  # no later bar could be shifted
        bar = shown if last_and_short else _signature(stop - start, shown, ticks_per_quarter)
        if signatures and bar[1:] == signatures[-1][1:] and bar.numerator == 1:
            bar = TimeSignature(start, 2, 2 * bar.denominator)  # `grid` joins bars of one beat into bars of four
        if not signatures or bar[1:] != signatures[-1][1:]:
            signatures.append(bar._replace(tick=start))
    return tuple(signatures)


def _whole_bars(edges: Sequence[int], nominal: Sequence[TimeSignature], ticks_per_quarter: int) -> list[int]:
    """The starts of measures, except of the second of two short ones that fill a bar; a pickup is never joined."""
    starts = list(edges[:1])
    for before, start, stop in zip(edges, edges[1:], edges[2:], strict=False):
        is_half = before == starts[-1] and before != edges[0]
        full = _bar_ticks(_shown(nominal, before), ticks_per_quarter)
        if not (is_half and start - before < full and stop - before == full):
            starts.append(start)
    return starts


def _shown(nominal: Sequence[TimeSignature], tick: int) -> TimeSignature:
    """The signature that the score shows at `tick`."""
    return next((event for event in reversed(nominal) if event.tick <= tick), nominal[0])


def _bar_ticks(signature: TimeSignature, ticks_per_quarter: int) -> int:
    return 4 * ticks_per_quarter * signature.numerator // signature.denominator


def _signature(length: int, shown: TimeSignature, ticks_per_quarter: int) -> TimeSignature:
    """The signature of a bar of `length` ticks: the one in the score if it fits, else in quarters, eighths, ..."""
    if length == _bar_ticks(shown, ticks_per_quarter):
        return shown
    for denominator in (4, 8, 16, 32, 64):
        numerator, rest = divmod(length * denominator, 4 * ticks_per_quarter)
        if rest == 0 and 0 < numerator < 256:
            return TimeSignature(0, numerator, denominator)
    return shown  # no signature fits; the next bar has its own
