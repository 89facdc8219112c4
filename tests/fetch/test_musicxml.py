"""Tests of midivae.fetch.musicxml: notes and bar lines against the XML itself, read here without verovio."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midivae.errors import InputError
from midivae.fetch import musicxml
from midivae.music import grid, smf
from midivae.music.notes import Notes, TimeSignature

BACH = Path(str(importlib.util.find_spec("music21").origin)).parent / "corpus" / "bach"  # type: ignore[union-attr]
FINE = 24  # steps per quarter note: holds every bar line of the chorales

# what each is there for
CHORALES = {
    "bwv1.6": "a pickup of one beat; horns beside the voices",
    "bwv10.7": "no pickup",
    "bwv101.7": "bars cut in two by repeats",
    "bwv119.9": "a last measure of two bars' length",
    "bwv171.6": "carriage returns in the names of parts; parts that disagree about the length of a measure",
    "bwv299": "grace notes",
    "bwv324": "a measure of ten beats",
    "bwv40.6": "ties",
}


# --- an oracle: MusicXML by hand --------------------------------------------------------------------------------------
def xml_of(name: str) -> ElementTree.Element:
    with zipfile.ZipFile(BACH / f"{name}.mxl") as archive:
        (xml,) = (n for n in archive.namelist() if n.endswith(".xml") and not n.startswith("META-INF"))
        return ElementTree.fromstring(archive.read(xml))


def midi_pitch(note: ElementTree.Element) -> int | None:
    pitch = note.find("pitch")
    if pitch is None:
        return None
    step = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[str(pitch.findtext("step"))]
    return 12 * (int(str(pitch.findtext("octave"))) + 1) + step + int(pitch.findtext("alter") or 0)


def measure_of(measure: ElementTree.Element, divisions: int) -> tuple[int, list[tuple[Fraction, Fraction, int, str]]]:
    """Divisions that hold after a measure, and its notes: onset in the measure, length, pitch, ties; rests as -1."""
    at, last, notes = Fraction(0), Fraction(0), []
    for element in measure:
        divisions = int(element.findtext("divisions") or divisions)
        if element.find("grace") is not None or element.find("duration") is None:
            continue
        length = Fraction(int(str(element.findtext("duration"))), divisions)
        if element.tag in ("backup", "forward"):
            at += length if element.tag == "forward" else -length
        elif element.find("chord") is not None:
            notes.append((last, length, midi_pitch(element) or -1, ties(element)))
        else:
            notes.append((at, length, midi_pitch(element) or -1, ties(element)))
            last, at = at, at + length
    return divisions, notes


def ties(note: ElementTree.Element) -> str:
    return " ".join(sorted(str(tie.get("type")) for tie in note.findall("tie")))


def read_by_hand(name: str) -> tuple[dict[int, list[tuple[Fraction, Fraction, int]]], list[Fraction], list[Fraction]]:
    """Notes of each part (onset, duration, pitch; tied ones merged), and starts and full lengths of measures."""
    parts = []
    for part in xml_of(name).iter("part"):
        divisions, full, measures = 1, Fraction(4), []
        for measure in part.findall("measure"):
            if (time := measure.find("attributes/time")) is not None:
                full = Fraction(4 * int(str(time.findtext("beats"))), int(str(time.findtext("beat-type"))))
            divisions, notes = measure_of(measure, divisions)
            measures.append((notes, full))
        parts.append(measures)
    lengths = [
        max(on + length for notes, _ in column for on, length, *_ in notes) for column in zip(*parts, strict=True)
    ]
    starts = [sum(lengths[:i], Fraction(0)) for i in range(len(lengths))]
    merged = {i: merge_ties(measures, starts) for i, measures in enumerate(parts)}
    return merged, starts, [full for _, full in parts[0]]


def merge_ties(measures: list, starts: list[Fraction]) -> list[tuple[Fraction, Fraction, int]]:  # type: ignore[type-arg]
    done, held = [], {}
    for (notes, _), start in zip(measures, starts, strict=True):
        for on, length, pitch, tie in notes:
            onset, end = start + on, start + on + length
            if "stop" in tie and pitch in held and held[pitch][1] == onset:
                onset = held.pop(pitch)[0]
            if "start" in tie:
                held[pitch] = onset, end
            elif pitch >= 0:
                done.append((onset, end - onset, pitch))
    return sorted(done)


def quarters(notes: Notes, track: int) -> list[tuple[Fraction, Fraction, int]]:
    mine, tpq = notes.track == track, notes.ticks_per_quarter
    columns = (notes.onset_tick[mine].tolist(), notes.duration_tick[mine].tolist(), notes.pitch[mine].tolist())
    return sorted((Fraction(a, tpq), Fraction(b, tpq), p) for a, b, p in zip(*columns, strict=True))


def bar_lines(notes: Notes, end: Fraction) -> list[Fraction]:
    rows = notes.time_signatures
    return [Fraction(int(s), FINE) for s in grid.bar_starts(rows, notes.ticks_per_quarter, FINE, int(end * FINE))]


@pytest.fixture(scope="module", params=CHORALES)
def chorale(request: pytest.FixtureRequest) -> tuple[str, Notes]:
    """A chorale, through the MIDI file and back."""
    notes = musicxml.read((BACH / f"{request.param}.mxl").read_bytes())
    return request.param, smf.read(smf.write(notes)).notes.sorted()


# --- against the XML --------------------------------------------------------------------------------------------------
def test_notes_are_those_of_the_score(chorale: tuple[str, Notes]) -> None:
    name, notes = chorale
    parts, _, _ = read_by_hand(name)
    assert len(notes.track_names) == len(parts)
    for track, wanted in parts.items():
        assert quarters(notes, track) == wanted


def test_tracks_are_named_after_the_parts(chorale: tuple[str, Notes]) -> None:
    name, notes = chorale
    wanted = [" ".join(str(part.text).split()) for part in xml_of(name).iter("part-name")]
    assert list(notes.track_names) == wanted
    assert all(text.isprintable() for text in notes.track_names)


def test_bar_lines_are_those_of_the_score(chorale: tuple[str, Notes]) -> None:
    """Every bar line begins a measure; a measure without one is the second of two short ones that fill a bar."""
    name, notes = chorale
    _, starts, full = read_by_hand(name)
    end = Fraction(notes.end_tick, notes.ticks_per_quarter)
    lines = bar_lines(notes, end)
    assert set(lines) <= set(starts)
    edges = [*starts, end]
    for i, start in enumerate(starts):
        if start not in lines:
            assert i >= 2
            assert starts[i - 1] in lines
            assert edges[i + 1] - starts[i - 1] == full[i - 1]


def test_a_pickup_is_a_short_bar_and_two_halves_are_one() -> None:
    # bwv101.7, 4/4: beats 1 | 4 4 4 3 : 1 | 4 4 4 3 : 1 | ... ; the halves 3 and 1 around a repeat sign are one bar
    notes = musicxml.read((BACH / "bwv101.7.mxl").read_bytes())
    _, starts, _ = read_by_hand("bwv101.7")
    assert np.diff(np.array(starts[:7], float)).tolist() == [1, 4, 4, 4, 3, 1]
    assert notes.time_signatures == (TimeSignature(0, 1, 4), TimeSignature(120, 4, 4))
    assert bar_lines(notes, Fraction(22)) == [0, 1, 5, 9, 13, 17, 21]


def test_compressed_and_plain_scores_read_alike() -> None:
    data = (BACH / "bwv10.7.mxl").read_bytes()
    plain = ElementTree.tostring(xml_of("bwv10.7"), encoding="utf-8")
    assert smf.write(musicxml.read(plain)) == smf.write(musicxml.read(data))


# --- bar signatures ---------------------------------------------------------------------------------------------------
FOUR_FOUR = [TimeSignature(0, 4, 4)]


@pytest.mark.parametrize(
    ("edges", "nominal", "wanted"),
    [
        pytest.param([0, 480, 960], FOUR_FOUR, [(0, 4, 4)], id="regular"),
        pytest.param([0, 120, 600, 1080], FOUR_FOUR, [(0, 1, 4), (120, 4, 4)], id="pickup"),
        pytest.param([0, 480, 840], FOUR_FOUR, [(0, 4, 4)], id="a short last measure keeps its signature"),
        pytest.param([0, 480, 1440], FOUR_FOUR, [(0, 4, 4), (480, 8, 4)], id="a long last measure does not"),
        pytest.param([0, 480, 840, 960, 1440], FOUR_FOUR, [(0, 4, 4)], id="two halves"),
        pytest.param([0, 120, 480, 600, 1080], FOUR_FOUR, [(0, 1, 4), (120, 4, 4)], id="pickup, then two halves"),
        pytest.param([0, 480, 720, 1200], FOUR_FOUR, [(0, 4, 4), (480, 2, 4), (720, 4, 4)], id="a short measure"),
        pytest.param([0, 60, 540, 1020], FOUR_FOUR, [(0, 1, 8), (60, 4, 4)], id="eighths where quarters do not fit"),
        pytest.param([0, 30, 510, 990], FOUR_FOUR, [(0, 1, 16), (30, 4, 4)], id="sixteenths"),
        pytest.param([0, 120, 240, 720], FOUR_FOUR, [(0, 1, 4), (120, 2, 8), (240, 4, 4)], id="two single beats"),
        pytest.param([0, 180, 900, 1620], [TimeSignature(0, 12, 8)], [(0, 3, 8), (180, 12, 8)], id="12/8 stays"),
        pytest.param([0, 720, 1440], [TimeSignature(0, 3, 2)], [(0, 3, 2)], id="3/2 stays"),
        pytest.param(
            [0, 480, 960, 1320], [(0, 4, 4), TimeSignature(960, 3, 4)], [(0, 4, 4), (960, 3, 4)], id="a change"
        ),
    ],
)
def test_bar_signatures(edges: list[int], nominal: list[TimeSignature], wanted: list[tuple[int, int, int]]) -> None:
    nominal = [TimeSignature(*event) for event in nominal]
    assert list(musicxml.bar_signatures(edges[:-1], edges[-1], nominal, 120)) == wanted


@given(st.lists(st.sampled_from([15, 60, 120, 240, 360, 480, 600, 960]), min_size=1, max_size=12))
def test_bar_signatures_put_lines_at_every_measure(lengths: list[int]) -> None:
    edges = np.cumsum([0, *lengths]).tolist()
    signatures = musicxml.bar_signatures(edges[:-1], edges[-1], FOUR_FOUR, 120)
    lines = grid.bar_starts(signatures, 120, 120, edges[-1]).tolist()  # a step per tick
    halves = set(edges[:-1]) - set(lines)
    assert set(lines) <= set(edges[:-1])
    for half in halves:  # 480 ticks are a 4/4 bar
        i = edges.index(half)
        assert edges[i + 1] - edges[i - 1] == 480
        assert lengths[i - 1] < 480


# --- bad input --------------------------------------------------------------------------------------------------------
def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "cannot read"),
        (b"nonsense", "cannot read"),
        (b"\xff\xfe\x00", "not sound XML"),
        (b"<a><grace", "not sound XML"),
        (b"PK nonsense", r"not a sound \.mxl file"),
        (zipped(other=b"x"), r"not a sound \.mxl file.*container"),
        (b"<score-partwise><part-list/></score-partwise>", "."),
    ],
)
def test_what_cannot_be_read_is_an_input_error(data: bytes, match: str) -> None:
    with pytest.raises(InputError, match=match):
        musicxml.read(data)
