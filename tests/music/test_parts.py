"""Which part a note belongs to: by track name, by program, merged."""

from __future__ import annotations

import pytest
from pieces import notes_of

from midivae.config.ingest import Parts
from midivae.music.parts import assign_parts
from midivae.music.roll import Layout


@pytest.mark.parametrize(
    ("names", "parts", "expected"),
    [
        (("Soprano", "ALTO\rViola", "Bassoon", "Bass Continuo", "Bass"), Parts(), [0, 1, -1, 3, 3]),
        (("Soprano", "Piano"), Parts(rest="others"), [0, 4]),
        (("Soprano", "Piano"), Parts(rest="alto"), [0, 1]),
    ],
)
def test_parts_by_track_name(names: tuple[str, ...], parts: Parts, expected: list[int]) -> None:
    notes = notes_of(*([(0, 120, 60)] for _ in names), names=names)
    assert assign_parts(notes, parts).tolist() == expected


def test_parts_by_program_are_the_five_families_of_lakh() -> None:
    programs = (0, 7, 24, 31, 32, 39, 40, 8, 95, 96, 104, 112, 127, 0)
    drums = (False,) * 13 + (True,)
    notes = notes_of(*([(0, 120, 60)] for _ in programs), programs=programs, drums=drums)
    part = assign_parts(notes, Parts(rule="program"))
    assert part.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 4, -1, 4, -1, -1, 0]


def test_merged_leaves_drums_out() -> None:
    notes = notes_of([(0, 120, 60)], [(0, 120, 38)], drums=(False, True))
    assert assign_parts(notes, Parts(rule="merged")).tolist() == [0, -1]


def test_pitched_parts_are_all_but_the_drums() -> None:
    assert Layout(("drums", "piano", "bass"), 36, 48, 4).pitched == [1, 2]
