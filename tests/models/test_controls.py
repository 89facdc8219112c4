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


def test_measure_changes_by_hand() -> None:
    before = {name: np.array([2.0]) for name in NAMES} | {"balance:bass": np.array([0.25])}
    after = {name: np.array([3.0]) for name in NAMES} | {"balance:bass": np.array([0.30])}
    before |= {"fifths_x": np.array([1.0]), "fifths_y": np.array([0.0])}
    after |= {"fifths_x": np.array([0.0]), "fifths_y": np.array([1.0])}  # a quarter of the circle: three fifths up
    changes = measure_changes(before, after)
    assert list(changes) == ["density", "polyphony", "note_length", "syncopation", "register", "key", "balance:bass"]
    expected = {"density": 0.5, "syncopation": 1.0, "register": 1.0, "key": 3.0, "balance:bass": 0.05}
    for name, value in expected.items():
        assert changes[name][0] == pytest.approx(value)
    silent = measure_changes(before | {"density": np.array([0.0])}, after)
    assert np.isnan(silent["density"][0])


def test_a_step_on_the_circle_of_fifths_is_one_more_sharp() -> None:
    # the notes of C major, then of G major
    layout = Layout(("a", "b"), 60, 24, 4)
    planes = np.zeros((2, 32, 2, 2, 24), bool)
    for roll, tonic in enumerate((0, 7)):
        for i, tone in enumerate((0, 2, 4, 5, 7, 9, 11)):
            planes[roll, 4 * i, 0, :, (tone + tonic) % 12] = True
    attributes = [features.attributes(planes[i : i + 1], layout) for i in range(2)]
    assert measure_changes(*attributes)["key"][0] == pytest.approx(1.0)


def by_hand() -> Controls:
    """Controls of all attributes but the polyphony; a standard deviation of the register is 4 semitones."""
    n = len(NAMES)
    explained = np.array([0.5 if name != "polyphony" else 0.1 for name in NAMES])
    sd = np.array([4.0 if name == "register" else 0.5 for name in NAMES])
    directions = np.arange(3.0 * n).reshape(n, 3) / 7
    return Controls(NAMES, directions, directions.T / 3, sd, sd, np.eye(n), explained, np.eye(n), "none")


def test_deviations_by_hand() -> None:
    controls = by_hand()
    none = {name: np.zeros(2) for name in attribute_names(controls.names)}
    changes, requested = {"register": np.array([2.0, 2.0])}, {"register": np.array([True, True])}

    def deviations(**measured: list[float]) -> list[float]:
        return controls.deviations(changes, requested, none | {k: np.array(v) for k, v in measured.items()}).tolist()

    assert deviations(register=[2.0, 6.0]) == pytest.approx([0.0, 1.0])  # one standard deviation
    assert deviations(register=[np.nan, 2.0]) == [np.inf, 0.0]
    # the attributes that should stay count a third together
    expected = OTHERS_WEIGHT / len(controls.offered)
    assert deviations(register=[2.0, 2.0], key=[KEY_SD, 0.0]) == pytest.approx([expected, 0])


def test_what_is_offered_and_coupled_by_hand() -> None:
    controls = by_hand()
    assert controls.offered == ("density", "note_length", "syncopation", "register", "key")
    assert controls.coupled("density") == ("polyphony", "note_length")
    assert controls.coupled("register") == controls.coupled("key") == ()
    correlation = controls.correlation.copy()
    correlation[3, 4] = correlation[4, 3] = -0.6
    controls = replace(controls, correlation=correlation)
    assert controls.coupled("register") == ("syncopation",)
    assert controls.held()[4] == [0, 2, 4, 5, 6]


def test_controls_on_disk(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    controls = replace(by_hand(), model_sha256=file_sha256(tmp_path / "model.safetensors"))
    controls.write(tmp_path)
    read = Controls.read(tmp_path)
    assert read.names == controls.names
    assert np.allclose(read.directions, controls.directions, rtol=1e-6)
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
