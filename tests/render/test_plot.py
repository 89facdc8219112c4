"""Rolls for pages and papers: the same bytes each time, colours where notes are, hostile names as text."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from four_part import piece
from pieces import notes_of
from PIL import Image

from midivae.cli import main as cli
from midivae.errors import InputError, MidiError, ParamsError
from midivae.music import smf
from midivae.music.notes import TimeSignature
from midivae.render import pictures, plot

TUNE = smf.write(piece(1, bars=4))


@pytest.mark.parametrize("form", plot.FORMATS)
def test_same_bytes_same_picture(form: str) -> None:
    assert plot.draw(TUNE, "tune", form) == plot.draw(TUNE, "tune", form)


def test_a_png_has_the_colours_of_its_parts() -> None:
    image = np.asarray(Image.open(io.BytesIO(plot.draw(TUNE, "tune", "png"))).convert("RGB")).reshape(-1, 3)
    for colour in pictures.part_colours(4):
        wanted = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)
        assert (np.abs(image.astype(int) - wanted).max(axis=1) <= 2).sum() > 50, colour


def test_an_svg_says_what_it_shows() -> None:
    text = plot.draw(TUNE, "tune", "svg").decode()
    assert "<dc:date>" not in text
    words = "\n".join("".join(node.itertext()) for node in ET.fromstring(text).iter())
    assert re.search(r"tune +[A-G][b#]? (major|minor), 96 BPM", words)
    for part in ("Soprano", "Alto", "Tenor", "Bass", "C4", "bar"):
        assert part in words


def test_hostile_names_are_text() -> None:
    name = "<script>alert(1)</script> $x^2$ \u202e"
    data = smf.write(notes_of([(0, 480, 60)], names=("</text><script>$\\frac{",)))
    text = plot.draw(data, name, "svg").decode()
    root = ET.fromstring(text)  # well-formed
    assert not [node for node in root.iter() if node.tag.endswith("script")]
    words = "\n".join("".join(node.itertext()) for node in root.iter())
    assert "<script>alert(1)</script> $x^2$" in words
    assert "\u202e" not in words


def test_bar_lines_by_hand() -> None:
    # 480 ticks a quarter: a bar of 3/4, then 4/4 from tick 1440 to the end at 3360, four quarters on
    notes = notes_of(
        [(0, 480, 60), (2880, 480, 60)], time_signatures=(TimeSignature(0, 3, 4), TimeSignature(1440, 4, 4))
    )
    assert plot._bar_lines(notes).tolist() == [0, 3, 7]
    # none in the file: 4/4; the last bar is not cut off
    assert plot._bar_lines(notes_of([(0, 480 * 5, 60)], time_signatures=())).tolist() == [0, 4, 8]
    # 1/4 for many bars is read as 4/4 (`grid.bar_starts`)
    ones = notes_of([(0, 480 * 8, 60)], time_signatures=(TimeSignature(0, 1, 4),))
    assert plot._bar_lines(ones).tolist() == [0, 4, 8]
    # one bar of 20/4
    assert plot._bar_lines(notes_of([(0, 480, 60)], time_signatures=(TimeSignature(0, 20, 4),))).tolist() == [0, 20]


def test_what_cannot_be_drawn_is_named() -> None:
    with pytest.raises(MidiError):
        plot.draw(b"no music", "tune", "png")
    with pytest.raises(ParamsError, match=r"a\.pdf"):
        plot.format_of(Path("a.pdf"))
    with pytest.raises(InputError, match="more than 400 bars"):
        plot.draw(smf.write(notes_of([(0, 480, 60), (480 * 4 * 500, 480, 60)])), "tune", "png")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tune.mid").write_bytes(TUNE)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.midivae, ["plot", "tune.mid"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(cli.midivae, ["plot", "tune.mid", "--output", "x.svg"]).exit_code == 0
    assert (tmp_path / "x.svg").read_bytes() == plot.draw(TUNE, "tune", "svg")
    (tmp_path / "again.SMF").write_bytes(TUNE)
    assert CliRunner().invoke(cli.midivae, ["plot", "again.SMF"]).exit_code == 0
    assert (tmp_path / "again.png").exists()
    refused = CliRunner().invoke(cli.midivae, ["plot", "tune.mid", "--output", "x.jpg"])
    assert refused.exit_code == 2
