"""Samples of some settings, and their parents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from explored import PARAMS, some
from floats import close

from midivae.catalog import read
from midivae.errors import InputError
from midivae.explorer.session import Session
from midivae.explorer.settings import Settings

pytestmark = pytest.mark.numerical


def test_a_corner_is_its_parent_and_the_middle_is_between(session: Session) -> None:
    corners = [session.make(some(session, at=at)) for at in ((0, 0), (1, 0), (0, 1), (1, 1))]
    for i, found in enumerate(corners):
        alone = session.make(Settings.parse({"parents": [some(session).parents[i]]}))
        assert close(found.samples.z, alone.samples.z)  # it was encoded in another place of a block
        if i == 0 or np.array_equal(found.samples.z, alone.samples.z):
            assert np.array_equal(found.samples.planes, alone.samples.planes)
    middle = session.make(some(session)).samples.z
    to_corners = [float(np.linalg.norm(middle - found.samples.z)) for found in corners]
    between = [float(np.linalg.norm(a.samples.z - b.samples.z)) for a in corners for b in corners if a is not b]
    assert max(to_corners) < max(between)


def test_the_radius_leads_away_and_the_seed_says_where(session: Session) -> None:
    here = session.make(some(session)).samples.z
    near, far = (session.make(some(session, radius=r, seed=4)).samples.z for r in (0.1, 2))
    assert 0 < np.linalg.norm(near - here) < np.linalg.norm(far - here)
    other = session.make(some(session, radius=2, seed=5)).samples.z
    assert not np.array_equal(far, other)


def test_a_knob_changes_what_it_says(session: Session) -> None:
    assert "register" in [knob["name"] for knob in session.about()["knobs"]]
    got = {}
    for asked in (-4.0, 4.0):
        row = session.make(some(session, changes={"register": asked, "key": 0})).row
        edits = json.loads(row["edits"][0].as_py())
        assert edits["asked"] == {"register": asked}
        got[asked] = edits["measured"]["register"]
    assert got[-4.0] < -1 < 1 < got[4.0]


def test_the_same_settings_are_the_same_music_in_another_session(session: Session, data: Path) -> None:
    settings = some(session, at=[0.3, 0.6], radius=0.4, seed=9, changes={"register": 2})
    other = Session(PARAMS, data)
    assert session.make(settings).file == other.make(settings).file
    other.close()


def test_other_models_and_samples_as_parents(session: Session) -> None:
    assert session.about("mlp")["model"] == "mlp"
    assert session.make(some(session, model="mlp")).row["model"].to_pylist() == ["mlp"]
    sample = read.samples(session._data, "sample_id = 'a-0000001'", latents=True)
    found = session.make(Settings.parse({"parents": ["sample:a-0000001"]}))
    own = sample["z"][0]  # its coarse latent, not what it is encoded to
    assert np.array_equal(found.samples.z[0][: len(own)], own)
    with pytest.raises(InputError, match="not in the catalog"):
        session.make(Settings.parse({"parents": ["sample:a-0000077"]}))


def test_a_sample_is_encoded_where_its_latent_is_not_that_of_its_music(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, row = session._loaded(session.models[0]), session._row("a-0000000")
    assert session._known(loaded, "a-0000000").z is not None
    for other in ({"transpose": 2}, {"lead_steps": 16}, {"method": "merged"}, {"model_sha256": "0"}):
        monkeypatch.setattr(session, "_row", lambda _, other=other: {**row, **other})
        assert session._known(loaded, "a-0000000").z is None


def test_nobody_keeps_in_a_published_version(data: Path) -> None:
    (data / "version.json").write_text("{}")
    with pytest.raises(InputError, match="a published version must not change; name another folder with --keep"):
        Session(PARAMS, data)
    Session(PARAMS, data, data.parent / "mine").close()
