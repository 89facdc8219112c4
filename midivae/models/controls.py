"""Controls: changes of attributes along directions in latent space.

Attributes are changed by `Controls`: for each attribute a direction, added to a latent once per unit of change
(`models.fit_controls` says how they are found).

Not everything can be changed, and not everything held. An attribute of which the latents explain less than
`LEAST_EXPLAINED` of the variance is not offered: in four-part chorales four voices sing, and no direction knows more.
And attributes that go together in the music of the corpus (correlation of `TIED` or more) are not held against each
other: what the corpus never separates, no direction can. Nor are density, polyphony and the length of notes, whatever
the corpus: notes a beat times their length is the number that sounds.

A decoder answers the same move here more, there less. So `moved` takes a strength, and `misses` says how far music is
from what was asked: who can decode several strengths takes the one that misses least.

Shapes:
    B  samples    Z  latent    A  attributes as they are asked for    K  as they are computed with

Offers: `Controls` (`moved`, `read` / `write`) and `measure_changes`.
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

RELATIVE = ("density", "polyphony", "note_length")  # asked for as shares of what is there
SOUNDING = ("density", "polyphony", "note_length")  # two of them decide the third
KEY = ("fifths_x", "fifths_y")  # what a change of key is computed with
FIFTH = 2 * np.pi / 12  # one step on the circle of fifths
LEAST_EXPLAINED = 0.18  # share of an attribute's variance that latents must explain
TIED = 0.5  # correlation of attributes that cannot be changed one without the other
REACH = 1.5  # standard deviations by which attributes are changed, at most, where nobody says otherwise
KEY_SD = 2.0  # steps on the circle of fifths that count as one standard deviation
LEAK = 1 / 3  # weight of what was not asked for beside what was
CONTROLS_FILE, CONTROLS_VERSION = "controls.json", 1
_ARRAYS = ("directions", "weights", "bias", "sd", "correlation", "explained", "response")
Changes = Mapping[str, Float[np.ndarray, " B"]]


def measure_changes(
    before: Mapping[str, Float[np.ndarray, " B"]], after: Mapping[str, Float[np.ndarray, " B"]]
) -> dict[str, Float[np.ndarray, " B"]]:
    """By how much attributes (`features.attributes`) changed, in the units in which changes are asked for.

    density, polyphony, note_length: relative, 0.2 is 20 % more; syncopation and balance:<part>: in shares of the notes;
    register: in semitones; key: in steps on the circle of fifths, from -6 to 6. NaN where one of the two is undefined.
    """
    changes = {}
    for name in asked_names(tuple(before)):
        if name == "key":
            angles = [np.arctan2(each[KEY[1]], each[KEY[0]]) for each in (before, after)]
            turn = (angles[1] - angles[0]) / FIFTH
            changes[name] = (turn + 6) % 12 - 6
        elif name in RELATIVE:
            changes[name] = after[name] / np.where(before[name] > 0, before[name], np.nan) - 1
        else:
            changes[name] = after[name] - before[name]
    return changes


def asked_names(computed: Sequence[str]) -> tuple[str, ...]:
    """The attributes that can be asked for: the computed ones, the two numbers of the key as one."""
    names = [name for name in computed if name not in KEY]
    place = max((i for i, name in enumerate(names) if not name.startswith("balance:")), default=-1) + 1
    return (*names[:place], "key", *names[place:])


@dataclass(frozen=True)
class Controls:
    """Directions of attributes in the latent space of one model.

    Attributes:
        names: attributes as they are computed with.
        directions: what is added to a latent for one unit of each (a logarithm, a share, a semitone, a unit of the
            centroid of the notes on the circle of fifths).
        weights, bias: of the regression: `z @ weights + bias` foretells the attributes of what is decoded.
        sd: standard deviation of each over training windows.
        correlation: of each with each, over training windows.
        explained: share of the variance of each that the latents of windows explain, on windows that had no part in
            the regression.
        response: [asked, measured]: what the decoder made of a change by one standard deviation, in standard
            deviations, measured after calibration on windows that had no part in it.
        model_sha256: of the weights of the model.
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
        """The attributes that can be asked for."""
        known = dict(zip(self.names, self.explained, strict=True))
        known["key"] = min(known[name] for name in KEY)
        return tuple(name for name in asked_names(self.names) if known[name] >= LEAST_EXPLAINED)

    def usual(self, name: str) -> tuple[float, float]:
        """The changes of an attribute that are usual: up to `REACH` standard deviations either way."""
        if name == "key":
            return (-REACH * KEY_SD, REACH * KEY_SD)
        reach = REACH * float(self.sd[self.names.index(name)])
        return (float(np.expm1(-reach)), float(np.expm1(reach))) if name in RELATIVE else (-reach, reach)

    def tied(self, name: str) -> tuple[str, ...]:
        """The attributes, as they are asked for, that change with one: in the corpus they do, or by what they are."""
        if name == "key":
            return ()
        k = self.names.index(name)
        return tuple(other for j, other in enumerate(self.names) if j != k and other not in KEY and self._tied(k, j))

    def foretold(self, z: Float[np.ndarray, "B Z"]) -> dict[str, Float[np.ndarray, " B"]]:
        """Attributes that a latent's music should have, without decoding it; as `features.attributes` has them."""
        values = z @ self.weights + self.bias
        return {name: np.exp(values[:, k]) if name in RELATIVE else values[:, k] for k, name in enumerate(self.names)}

    def moved(self, z: Latents, changes: Changes, strength: float = 1.0) -> Latents:
        """Latents whose music is changed as asked, in the units of `measure_changes`.

        Args:
            strength: how far they are moved: 1 where a response is linear.

        Raises:
            KeyError: no such attribute.
        """
        steps = np.zeros((len(z), len(self.names)))
        for name, change in changes.items():
            if name == "key":
                here = self.foretold(z)
                x, y = here[KEY[0]], here[KEY[1]]
                cos, sin = np.cos(change * FIFTH), np.sin(change * FIFTH)
                steps[:, self.names.index(KEY[0])] += cos * x - sin * y - x
                steps[:, self.names.index(KEY[1])] += sin * x + cos * y - y
            else:
                steps[:, self.names.index(name)] += np.log1p(change) if name in RELATIVE else change
        moved: np.ndarray = z + strength * (steps @ self.directions)
        return moved.astype(np.float32)

    def misses(
        self, changes: Changes, asked: Mapping[str, Bool[np.ndarray, " B"]], found: Changes
    ) -> Float[np.ndarray, " B"]:
        """How far changes are from those asked for, in standard deviations of the attributes.

        What was not asked for, and is tied to nothing that was, should stay: it counts with weight `LEAK`. A change
        that cannot be measured misses by infinity.

        Args:
            changes: per attribute, what was asked for; 0 where it was not.
            asked: per attribute, of which rows it was asked.
            found: what was `measure_changes`.
        """
        none = np.zeros(len(next(iter(changes.values()))))
        total = none
        for name in self.offered:
            here = asked.get(name, none > 0)
            wanted = np.where(here, changes.get(name, none), 0)
            off = np.abs(self._in_sd(name, found[name]) - self._in_sd(name, wanted))
            tied = np.any([none > 0, *(asked[other] for other in self.tied(name) if other in asked)], axis=0)
            aside = np.where(tied, 0, LEAK / len(self.offered) * np.nan_to_num(off))
            total = total + np.where(here, off, aside)
        return np.where(np.isnan(total), np.inf, total)

    def _in_sd(self, name: str, change: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
        """A change in standard deviations."""
        if name == "key":
            return change / KEY_SD
        values = np.log1p(np.maximum(change, -1 + 1e-6)) if name in RELATIVE else change
        return np.asarray(values / max(self.sd[self.names.index(name)], LEAST_SD))

    def held(self) -> dict[int, list[int]]:
        """For each attribute that is offered, itself and those that are held while it is changed."""
        offered = [k for k, name in enumerate(self.names) if (name if name not in KEY else "key") in self.offered]
        return {k: [j for j in offered if j == k or not self._tied(k, j)] for k in offered}

    def _tied(self, k: int, j: int) -> bool:
        """Whether two attributes cannot be changed one without the other."""
        together = self.names[k] in SOUNDING and self.names[j] in SOUNDING
        return together or bool(abs(self.correlation[k, j]) >= TIED)

    # --- on disk
    def write(self, folder: Path) -> None:
        """Writes `controls.json` into a model's folder."""
        values = {
            "format": "midivae-controls",
            "version": CONTROLS_VERSION,
            "names": list(self.names),
            **{name: _digits(getattr(self, name)) for name in _ARRAYS},
            "model_sha256": self.model_sha256,
        }
        write_bytes(folder / CONTROLS_FILE, (json.dumps(values) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Controls:
        """The controls in a model's folder.

        Raises:
            InputError: there are none.
            CorruptError: they are not those of this release, or of these weights.
        """
        path = folder / CONTROLS_FILE
        if not path.is_file():
            raise InputError(f"{path}: no such file, so attributes cannot be changed; rerun stage `train`")
        values = read_json(path)
        try:
            if (values["format"], values["version"]) != ("midivae-controls", CONTROLS_VERSION):
                raise ValueError(f"version {values['version']}, this release reads {CONTROLS_VERSION}")
            arrays = {name: np.array(values[name], np.float64) for name in _ARRAYS}
            found = cls(tuple(values["names"]), **arrays, model_sha256=values["model_sha256"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{path}: not the controls of a model ({error}); rerun stage `train`") from error
        if found.model_sha256 != file_sha256(folder / WEIGHTS):
            raise CorruptError(f"{path}: belongs to other weights than those beside it; rerun stage `train`")
        return found


def _digits(values: np.ndarray) -> object:
    """Numbers with 7 digits, as nested lists."""
    nested: object = np.vectorize(lambda value: rounded(value, digits=7), otypes=[object])(values).tolist()
    return nested


LEAST_SD = 1e-3  # below it an attribute does not vary
