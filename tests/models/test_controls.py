"""Changes of attributes: measured and asked for, worked by hand; and controls on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from midivae.errors import CorruptError, InputError
from midivae.measures import features
from midivae.models.controls import CONTROLS_FILE, KEY_SD, OTHERS_WEIGHT, Controls, attribute_names, measure_changes
from midivae.music.roll import Layout
from midivae.storage.files import file_sha256

pytestmark = pytest.mark.numerical

NAMES = ("density", "polyphony", "note_length", "syncopation", "register", "fifths_x", "fifths_y")


def test_measured_by_hand() -> None:
    before = {name: np.array([2.0]) for name in NAMES} | {"balance:bass": np.array([0.25])}
    after = {name: np.array([3.0]) for name in NAMES} | {"balance:bass": np.array([0.30])}
    before |= {"fifths_x": np.array([1.0]), "fifths_y": np.array([0.0])}
    after |= {"fifths_x": np.array([0.0]), "fifths_y": np.array([1.0])}  # a quarter of the circle: three fifths up
    found = measure_changes(before, after)
    assert list(found) == ["density", "polyphony", "note_length", "syncopation", "register", "key", "balance:bass"]
    expected = {"density": 0.5, "syncopation": 1.0, "register": 1.0, "key": 3.0, "balance:bass": 0.05}
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value)
    silent = measure_changes(before | {"density": np.array([0.0])}, after)
    assert np.isnan(silent["density"][0])


def test_a_step_on_the_circle_of_fifths_is_one_more_sharp() -> None:
    # the notes of C major, then of G major
    layout = Layout(("a", "b"), 60, 24, 4)
    planes = np.zeros((2, 32, 2, 2, 24), bool)
    for roll, tonic in enumerate((0, 7)):
        for i, tone in enumerate((0, 2, 4, 5, 7, 9, 11)):
            planes[roll, 4 * i, 0, :, (tone + tonic) % 12] = True
    each = [features.attributes(planes[i : i + 1], layout) for i in range(2)]
    assert measure_changes(*each)["key"][0] == pytest.approx(1.0)


def by_hand() -> Controls:
    """Controls of all attributes but the polyphony; a standard deviation of the register is 4 semitones."""
    n = len(NAMES)
    explained = np.array([0.5 if name != "polyphony" else 0.1 for name in NAMES])
    sd = np.array([4.0 if name == "register" else 0.5 for name in NAMES])
    directions = np.arange(3.0 * n).reshape(n, 3) / 7
    return Controls(NAMES, directions, directions.T / 3, sd, sd, np.eye(n), explained, np.eye(n), "none")


def test_misses_by_hand() -> None:
    found = by_hand()
    sd = found.sd[found.names.index("register")]
    none = {name: np.zeros(2) for name in attribute_names(found.names)}
    asked = {"register": np.array([2.0, 2.0])}
    on_target = none | {"register": np.array([2.0, 2.0 + sd])}
    misses = found.deviations(asked, {"register": np.array([True, True])}, on_target)
    assert misses == pytest.approx([0.0, 1.0])
    lost = found.deviations(asked, {"register": np.array([True, True])}, none | {"register": np.array([np.nan, 2.0])})
    assert lost.tolist() == [np.inf, 0.0]
    # what was not asked for counts a third, shared by all that is offered
    aside = none | {"register": np.array([2.0, 2.0]), "key": np.array([KEY_SD, 0.0])}
    expected = OTHERS_WEIGHT / len(found.offered)
    assert found.deviations(asked, {"register": np.array([True, True])}, aside) == pytest.approx([expected, 0])


def test_controls_on_disk(tmp_path: Path) -> None:
    found = by_hand()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    mine = replace(found, model_sha256=file_sha256(tmp_path / "model.safetensors"))
    mine.write(tmp_path)
    read = Controls.read(tmp_path)
    assert read.names == mine.names
    assert np.allclose(read.directions, mine.directions, rtol=1e-6)
    first = (tmp_path / CONTROLS_FILE).read_bytes()
    read.write(tmp_path)
    assert (tmp_path / CONTROLS_FILE).read_bytes() == first
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(CorruptError, match="belongs to other weights"):
        Controls.read(tmp_path)
    values = json.loads(first) | {"version": 99}
    (tmp_path / CONTROLS_FILE).write_text(json.dumps(values))
    with pytest.raises(CorruptError, match="version 99"):
        Controls.read(tmp_path)
    (tmp_path / CONTROLS_FILE).unlink()
    with pytest.raises(InputError, match="rerun stage `train`"):
        Controls.read(tmp_path)
