"""Uploaded files become parents, or are refused with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from explored import EVIL
from four_part import piece
from pieces import hand_made, notes_of

from midivae.errors import InputError, ParamsError
from midivae.explorer import uploads
from midivae.explorer.session import Session
from midivae.explorer.settings import Settings
from midivae.music import smf
from midivae.workers import parallel

pytestmark = pytest.mark.numerical


def test_an_upload_becomes_a_parent(session: Session) -> None:
    upload = session.upload(f"/home/me/{EVIL}", smf.write(piece(77)))
    assert upload["name"] == EVIL.replace("\u202e", "")  # no path, nothing that turns text round; the rest is only text
    assert session.names([upload["parent"]])[0]["name"] == upload["name"]
    found = session.make(Settings.parse({"parents": [upload["parent"]]}))
    assert found.row["parents"].to_pylist() == [[upload["parent"]]]
    assert found.row["notes"][0].as_py() > 0
    later = upload["parent"].replace("@1", "@11")
    assert not np.array_equal(found.samples.z, session.make(Settings.parse({"parents": [later]})).samples.z)
    with pytest.raises(ParamsError, match=r"steps are left") as caught:
        session.make(Settings.parse({"parents": [upload["parent"].replace("@1", "@12")]}))
    assert session._scratch.name not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"RIFF", "MIDI"),
        (hand_made()[:13], "ends within its header"),
        (b"\0" * (uploads.MOST_BYTES + 1), "a MIDI file may have"),
        (smf.write(notes_of([(i * 480, 480, 60) for i in range(16)], names=("Kazoo",))), "none of its notes.*Kazoo"),
        (smf.write(notes_of([(i * 480, 480, 20) for i in range(16)], names=("Bass",))), "pitches 36 to 83"),
        (smf.write(notes_of([(0, 480, 60), (10**8, 480, 60)], names=("Bass",))), "steps long"),
    ],
)
def test_bad_uploads_are_refused_with_a_reason(session: Session, file: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.upload("x.mid", file)
    assert not list(Path(session._scratch.name).glob("*.mid"))


def test_a_file_that_kills_its_reader_kills_no_more(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "fan_out", parallel.fan_out)
    monkeypatch.setattr(uploads, "check_file", _die)
    with pytest.raises(InputError, match="the reader crashed at this file"):
        session.upload("x.mid", smf.write(piece(1)))


def _die(_spec: object, _beat: object) -> None:
    os._exit(7)
