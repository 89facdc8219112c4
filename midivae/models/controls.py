"""Controls: attributes of the music changed along directions in latent space.

For each attribute a model has a direction, which is added to a latent for each unit of change. `models.fit_controls`
finds the directions.

An attribute is offered if the latents explain at least `LEAST_EXPLAINED` of its variance. In four-part chorales, for
example, the number of notes that sound hardly varies, and no direction changes it.

While one attribute is changed, the others that are offered are held, except those *coupled* with it: their correlation
in the training music is at least `COUPLED`, or both are among density, polyphony and note length, of which any two
determine the third.

The decoder's response to the same move varies. So `move` has a strength, and `deviations` says how far the music is
from the request: a caller that can decode several strengths takes the best.

Shapes:
    B  samples    Z  latent    K  attributes as they are computed: the key as two coordinates

Offers: `Controls` (`move`, `deviations`, `predict`, `read` / `write`), `measure_changes` and `attribute_names`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from midivae.errors import CorruptError, InputError
from midivae.models.moves import Latents
from midivae.storage.files import file_sha256, read_json, rounded, write_bytes
from midivae.storage.paths import WEIGHTS

RELATIVE = ("density", "polyphony", "note_length")  # changed by a share of their value; two determine the third
KEY_AXES = ("fifths_x", "fifths_y")  # the key: the centroid of the notes on the circle of fifths
FIFTH = 2 * np.pi / 12  # the angle of one step on the circle of fifths
LEAST_EXPLAINED = 0.18  # share of an attribute's variance
COUPLED = 0.5  # absolute correlation
REACH = 1.5  # standard deviations up to which an attribute is usually changed
KEY_SD = 2.0  # steps on the circle of fifths that count as one standard deviation
OTHERS_WEIGHT = 1 / 3  # in `deviations`: of the attributes that should stay
LEAST_SD = 1e-3  # an attribute that varies less counts as constant
CONTROLS_FILE, COARSE_FILE, CONTROLS_VERSION = "controls.json", "controls-coarse.json", 2
_ARRAYS = ("directions", "weights", "bias", "sd", "correlation", "explained", "response")
Changes = Mapping[str, Float[np.ndarray, " B"]]


def measure_changes(
    before: Mapping[str, Float[np.ndarray, " B"]], after: Mapping[str, Float[np.ndarray, " B"]]
) -> dict[str, Float[np.ndarray, " B"]]:
    """How attributes (`features.attributes`) changed, in the units of a request; NaN where one value is undefined.

    Units:
        density, polyphony, note_length: a share; 0.2 is 20 % more
        syncopation, balance:<part>: shares of the notes
        register: semitones
        key: steps on the circle of fifths, from -6 to 6
    """
    changes = {}
    for name in attribute_names(tuple(before)):
        if name == "key":
            x, y = KEY_AXES
            turn = (np.arctan2(after[y], after[x]) - np.arctan2(before[y], before[x])) / FIFTH
            changes[name] = (turn + 6) % 12 - 6
        elif name in RELATIVE:
            changes[name] = after[name] / np.where(before[name] > 0, before[name], np.nan) - 1
        else:
            changes[name] = after[name] - before[name]
    return changes


def attribute_names(computed: Sequence[str]) -> tuple[str, ...]:
    """The attributes that can be requested: those that are computed, with the two coordinates of the key as one."""
    names = [name for name in computed if name not in KEY_AXES]
    last = max((i for i, name in enumerate(names) if not name.startswith("balance:")), default=-1) + 1
    return (*names[:last], "key", *names[last:])


def controls_file(coarse: bool) -> str:
    """The file of controls in a model's folder; `coarse`: of those of the coarse latent alone."""
    return COARSE_FILE if coarse else CONTROLS_FILE


@dataclass(frozen=True)
class Controls:
    """Directions of attributes in the latent space of one model.

    Attributes:
        names: the attributes as they are computed.
        directions: what is added to a latent for one unit of each: of a logarithm (`RELATIVE`), a share, a semitone, a
            coordinate of the key.
        weights, bias: of the regression: `z @ weights + bias` predicts the attributes of the decoded music.
        sd: standard deviation of each over training windows.
        correlation: between each two, over training windows.
        explained: share of the variance of each that latents explain, on windows that the regression was not fitted to.
        response: [changed, measured]: how decoded music changes when an attribute is moved by one standard deviation,
            in standard deviations, measured after calibration on windows that the calibration did not use.
        model_sha256: of the model's weights.
    """

    names: tuple[str, ...]
    directions: Float[np.ndarray, "K Z"]
    weights: Float[np.ndarray, "Z K"]
    bias: Float[np.ndarray, " K"]
    sd: Float[np.ndarray, " K"]
    correlation: Float[np.ndarray, "K K"]
    explained: Float[np.ndarray, " K"]
    response: Float[np.ndarray, "K K"]
    model_sha256: str

    @property
    def offered(self) -> tuple[str, ...]:
        """The attributes that can be changed."""
        explained = dict(zip(self.names, self.explained, strict=True))
        explained["key"] = min(explained[name] for name in KEY_AXES)
        return tuple(name for name in attribute_names(self.names) if explained[name] >= LEAST_EXPLAINED)

    def usual_range(self, name: str) -> tuple[float, float]:
        """The usual changes of an attribute: at most `REACH` standard deviations down and up."""
        if name == "key":
            return (-REACH * KEY_SD, REACH * KEY_SD)
        reach = REACH * float(self.sd[self.names.index(name)])
        return (float(np.expm1(-reach)), float(np.expm1(reach))) if name in RELATIVE else (-reach, reach)

    def coupled(self, name: str) -> tuple[str, ...]:
        """The attributes that change together with this one."""
        if name == "key":
            return ()
        k = self.names.index(name)
        return tuple(
            other for j, other in enumerate(self.names) if j != k and other not in KEY_AXES and self._coupled(k, j)
        )

    def predict(self, z: Float[np.ndarray, "B Z"]) -> dict[str, Float[np.ndarray, " B"]]:
        """The attributes that a latent's music should have, without decoding it, as in `features.attributes`."""
        values = z @ self.weights + self.bias
        return {name: np.exp(values[:, k]) if name in RELATIVE else values[:, k] for k, name in enumerate(self.names)}

    def move(self, z: Latents, changes: Changes, strength: float = 1.0) -> Latents:
        """Latents whose music is changed as requested, in the units of `measure_changes`.

        Args:
            strength: factor of the move; 1 is right for a linear response.

        Raises:
            KeyError: there is no such attribute.
        """
        units = np.zeros((len(z), len(self.names)))
        for name, change in changes.items():
            if name == "key":
                predicted = self.predict(z)
                x, y = (predicted[axis] for axis in KEY_AXES)
                cos, sin = np.cos(change * FIFTH), np.sin(change * FIFTH)
                units[:, self.names.index(KEY_AXES[0])] += cos * x - sin * y - x
                units[:, self.names.index(KEY_AXES[1])] += sin * x + cos * y - y
            else:
                units[:, self.names.index(name)] += np.log1p(change) if name in RELATIVE else change
        moved: np.ndarray = z + strength * (units @ self.directions)
        return moved.astype(np.float32)

    def deviations(
        self, changes: Changes, requested: Mapping[str, Bool[np.ndarray, " B"]], measured: Changes
    ) -> Float[np.ndarray, " B"]:
        """How far measured changes are from the request, in standard deviations; infinite if one is undefined.

        Attributes that were not requested, and are not coupled with a requested one, should stay. Together they count
        with weight `OTHERS_WEIGHT`.

        Args:
            changes: of each attribute, the requested change.
            requested: of each attribute, the rows that request it.
            measured: of each attribute, the change by `measure_changes`.
        """
        none = np.zeros(len(next(iter(changes.values()))))
        total = none
        for name in self.offered:
            rows = requested.get(name, none > 0)
            target = np.where(rows, changes.get(name, none), 0)
            deviation = np.abs(self._in_sd(name, measured[name]) - self._in_sd(name, target))
            coupled = sum((requested[other] for other in self.coupled(name) if other in requested), none) > 0
            of_others = np.where(coupled, 0, OTHERS_WEIGHT / len(self.offered) * np.nan_to_num(deviation))
            total = total + np.where(rows, deviation, of_others)
        return np.where(np.isnan(total), np.inf, total)

    def _in_sd(self, name: str, change: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
        """A change in standard deviations."""
        if name == "key":
            return change / KEY_SD
        values = np.log1p(np.maximum(change, -1 + 1e-6)) if name in RELATIVE else change
        return np.asarray(values / max(self.sd[self.names.index(name)], LEAST_SD))

    def held(self) -> dict[int, list[int]]:
        """For each attribute that is offered: itself, and those that are held while it is changed, by index."""
        offered = [k for k, name in enumerate(self.names) if (name if name not in KEY_AXES else "key") in self.offered]
        return {k: [j for j in offered if j == k or not self._coupled(k, j)] for k in offered}

    def _coupled(self, k: int, j: int) -> bool:
        """Whether one of two attributes cannot be changed without the other."""
        by_definition = self.names[k] in RELATIVE and self.names[j] in RELATIVE
        return by_definition or bool(abs(self.correlation[k, j]) >= COUPLED)

    # --- on disk
    def write(self, folder: Path, coarse: bool = False) -> None:
        """Writes `controls.json` into a model's folder, or `controls-coarse.json`: of the coarse latent alone."""
        values = {
            "format": "midivae-controls",
            "version": CONTROLS_VERSION,
            "names": list(self.names),
            **{name: _digits(getattr(self, name)) for name in _ARRAYS},
            "model_sha256": self.model_sha256,
        }
        write_bytes(folder / controls_file(coarse), (json.dumps(values) + "\n").encode())

    @classmethod
    def read(cls, folder: Path, coarse: bool = False) -> Controls:
        """The controls in a model's folder; `coarse`: of the coarse latent alone, of a model that has two.

        Raises:
            InputError: there are none.
            CorruptError: they have another version, or belong to other weights.
        """
        path = folder / controls_file(coarse)
        if not path.is_file():
            raise InputError(f"{path}: no such file, so attributes cannot be changed; rerun stage `train`")
        values = read_json(path)
        try:
            if (values["format"], values["version"]) != ("midivae-controls", CONTROLS_VERSION):
                raise ValueError(f"version {values['version']}, this release reads {CONTROLS_VERSION}")
            arrays = {name: np.array(values[name], np.float64) for name in _ARRAYS}
            controls = cls(tuple(values["names"]), **arrays, model_sha256=values["model_sha256"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{path}: not the controls of a model ({error}); rerun stage `train`") from error
        if controls.model_sha256 != file_sha256(folder / WEIGHTS):
            raise CorruptError(f"{path}: belongs to other weights than those in its folder; rerun stage `train`")
        return controls


def _digits(values: np.ndarray) -> object:
    """Nested lists of numbers with 7 digits."""
    nested: object = np.vectorize(lambda value: rounded(value, digits=7), otypes=[object])(values).tolist()
    return nested
