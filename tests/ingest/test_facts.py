"""What is known of one file, also of files that break the standard, and how it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from music.smf_files import chunk, header
from pieces import notes_of

from midivae.config.ingest import Ingest, Parts
from midivae.ingest.facts import Row, describe_file, explain
from midivae.music import smf

END = b"\x00\xff\x2f\x00"
MERGED = Ingest(parts=Parts(rule="merged"))


def tune(channel: int = 0, *, ends: bool = True) -> bytes:
    """Sixteen quarter notes of 96 ticks, upwards from pitch 48."""
    off = [bytes([0x80 | channel, 48 + i, 0]) if ends else bytes([0xB0 | channel, 7, 100]) for i in range(16)]
    return b"".join(bytes([0, 0x90 | channel, 48 + i, 100, 96]) + off[i] for i in range(16))


def facts_of(data: bytes, ingest: Ingest = MERGED) -> Row:
    facts, roll = describe_file("0" * 64, data, ingest)
    assert (roll is not None) == facts["accepted"]
    return facts


def test_a_plain_file() -> None:
    facts = facts_of(header(1, kind=0) + chunk(tune() + END))
    assert (facts["format"], facts["tracks_declared"], facts["notes_found"], facts["notes_unended"]) == (0, 1, 16, 0)
    assert (facts["steps"], facts["off_grid"], facts["detail"]) == (64, 0.0, None)


def test_repairs_are_told_in_the_detail_of_an_accepted_file(tmp_path: Path) -> None:
    data = header(1) + chunk(tune(), 1000) + chunk(tune(1) + END)
    facts = facts_of(data)
    assert facts["accepted"]
    assert facts["notes_found"] == 32
    assert "track 1, byte 18: the length of the track is wrong" in facts["detail"]
    assert "header: it declares 1 track(s); the file has 2" in facts["detail"]
    path = tmp_path / "x.mid"
    path.write_bytes(data)
    assert "repaired: header: it declares 1 track(s); the file has 2\n" in explain(path, MERGED)


def test_notes_that_are_never_switched_off_are_counted(tmp_path: Path) -> None:
    data = header() + chunk(tune(ends=False) + END)
    facts = facts_of(data)
    assert (facts["accepted"], facts["notes_found"], facts["notes_unended"]) == (True, 16, 16)
    path = tmp_path / "x.mid"
    path.write_bytes(data)
    assert "16 of the notes are never switched off" in explain(path, MERGED)


@pytest.mark.parametrize(("away", "expected"), [(0, 0.0), (30, 0.25), (-30, 0.25), (60, 0.5), (90, 0.25)])
def test_the_mean_distance_from_the_grid_is_in_steps(away: int, expected: float) -> None:
    # a step has 120 ticks; 60 lie as far from both steps
    notes = notes_of([(120 * i + away, 120, 60 + i % 12) for i in range(1, 33)])
    assert facts_of(smf.write(notes))["off_grid"] == pytest.approx(expected)


def test_rule_program_goes_by_the_notes() -> None:
    setup = chunk(b"\x00\xc0\x21" + END)  # a bass, in a track without notes
    drums = b"\x00\xf0\x0a\x41\x10\x42\x12\x40\x1a\x15\x01\x10\xf7"  # GS: channel 11 is a rhythm part
    data = header(3) + chunk(tune() + END) + setup + chunk(drums + tune(10) + END)
    facts = facts_of(data, Ingest(parts=Parts(rule="program"), pitch_low=0, pitches=128))
    _, roll = describe_file("0" * 64, data, Ingest(parts=Parts(rule="program"), pitch_low=0, pitches=128))
    assert facts["notes_kept"] == 32
    assert roll is not None
    assert [program for program in roll["programs"] if program >= 0] == [0, 33]  # drums and bass alone have notes


def test_a_track_whose_program_changes_is_told_by_instrument(tmp_path: Path) -> None:
    notes = notes_of([(120 * i, 120, 60 + i % 12) for i in range(32)], names=("solo",))
    program = np.where(np.arange(32) < 8, 0, 33).astype(np.uint8)
    path = tmp_path / "x.mid"
    path.write_bytes(smf.write(replace(notes, program=program)))
    told = explain(path, Ingest(parts=Parts(rule="program")))
    assert "track 'solo': 8 notes, program 0, to piano" in told
    assert "track 'solo': 24 notes, program 33, to bass" in told


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (header(2, kind=2) + chunk(tune() + END) * 2, "bad_format", "format 2: its tracks are patterns"),
        (header(resolution=0xE728) + chunk(tune() + END), "bad_resolution", "25 SMPTE frames a second of 40 ticks"),
        (header() + chunk(b"\x00\x3c\x64"), "unreadable", "track 1, byte 23: a data byte"),
    ],
)
def test_a_reason_says_what_is_wrong_and_where(data: bytes, code: str, words: str) -> None:
    facts = facts_of(data)
    assert facts["reason"] == code
    assert words in facts["detail"]
    assert facts["format"] is None
