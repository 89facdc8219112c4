"""Kept samples are a catalog with their lineage, and can be opened again."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from explored import PARAMS, some
from four_part import piece

from midivae.catalog import read
from midivae.cli import main as cli
from midivae.errors import CorruptError, FolderError, InputError
from midivae.explorer.session import Session
from midivae.explorer.settings import Settings
from midivae.music import smf
from midivae.storage import folders, tables
from midivae.storage.files import file_sha256

pytestmark = pytest.mark.numerical


def test_a_kept_sample_is_in_the_catalog_with_its_lineage(session: Session, data: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in (data / "samples").rglob("*"))
    settings = some(session, at=[0.25, 0.5], radius=0.3, seed=12, changes={"register": 3}, tempo_qpm=77)
    assert session.keep(settings) == {"sample_id": "kept-0000000", "new": True}
    assert session.keep(settings) == {"sample_id": "kept-0000000", "new": False}
    assert session.keep(some(session, seed=13))["sample_id"] == "kept-0000001"
    listed = CliRunner().invoke(cli.midivae, ["catalog", "--data", str(data), "--json", "--where", "job = 'kept'"])
    row, other = (json.loads(line) for line in listed.stdout.splitlines())
    assert row["sample_id"] == "kept-0000000"
    assert row["mode"] == "explore"
    assert row["parents"] == list(settings.parents)
    assert row["weights"] == [0.375, 0.125, 0.375, 0.125]
    assert (row["radius"], row["seed"], row["method"]) == (0.3, 12, "barycentre")
    assert json.loads(row["edits"])["asked"] == {"register": 3.0}
    assert row["model_sha256"] == file_sha256(data / "model" / "model.safetensors")
    assert row["params_sha256"] != other["params_sha256"]
    assert row["tempo_qpm"] == 77
    assert other["edits"] is None
    kept = pd.read_parquet(data / "kept" / "catalog")
    assert kept["midi"][0]["bytes"] == session.make(settings).file
    assert kept["midi"][0]["path"] == "midi/kept/kept-0000000.mid"
    assert np.array_equal(kept["z"][0], session.make(settings).samples.z[0])
    assert len(read.samples(data)) == 3 + 2  # with those of stage generate, which nobody touched
    assert len(read.samples(data / "samples")) == 3
    assert sorted(path.stat().st_mtime_ns for path in (data / "samples").rglob("*")) == before
    assert folders.verify(data / "kept") == []


@pytest.mark.parametrize("parents", [1, 2, 3, 4])
def test_what_was_kept_can_be_opened_again_and_is_the_same_music(session: Session, data: Path, parents: int) -> None:
    upload = session.upload("mine.mid", smf.write(piece(78)))
    values: dict[str, Any] = {"parents": [upload["parent"], "sample:a-0000002", *some(session).parents][:parents]}
    values |= {"at": [0.7, 0.1], "radius": 0.33, "seed": 5, "changes": {"register": -1.7, "key": 1}}
    settings = Settings.parse(values)
    name, file = session.keep(settings)["sample_id"], session.make(settings).file
    session.close()
    later = Session(PARAMS, data)  # it knows the upload from the sample's folder alone
    again = Settings.parse(later.reopen(name))
    assert later.make(again).file == file
    assert later.keep(again) == {"sample_id": name, "new": False}
    later.close()


def test_a_kept_sample_is_a_parent_too(session: Session) -> None:
    name = session.keep(some(session))["sample_id"]
    child = session.make(Settings.parse({"parents": [f"sample:{name}"]}))
    assert np.array_equal(child.samples.z, session.make(some(session)).samples.z)
    assert session.kept.list()[0]["sample_id"] == name


def test_a_sample_of_other_weights_is_not_opened(session: Session) -> None:
    name = session.keep(some(session))["sample_id"]
    loaded = session._loaded(session.models[0])
    loaded.model_sha256 = "0" * 64
    with pytest.raises(InputError, match="has other weights now"):
        session.reopen(name)
    with pytest.raises(InputError, match="made by mode sample, not kept"):
        session.reopen("a-0000000")


def test_what_is_kept_stays_when_keeping_fails(session: Session, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session.keep(some(session))
    before = (data / "kept" / "catalog" / "kept-00000-of-00001.parquet").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write", full)
        with pytest.raises(FolderError, match="No space"):
            session.keep(some(session, seed=1))
    assert (data / "kept" / "catalog" / "kept-00000-of-00001.parquet").read_bytes() == before
    damaged = bytearray(before)
    damaged[len(before) // 2] ^= 1
    (data / "kept" / "catalog" / "kept-00000-of-00001.parquet").write_bytes(damaged)
    with pytest.raises(CorruptError, match="sha256 differs"):
        session.keep(some(session, seed=1))
    assert (data / "kept" / "catalog" / "kept-00000-of-00001.parquet").read_bytes() == damaged


def test_many_at_once_keep_each_its_own(session: Session) -> None:
    threads = [threading.Thread(target=session.keep, args=(some(session, seed=i % 4),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["sample_id"] for row in session.kept.list()) == [f"kept-000000{i}" for i in range(4)]
