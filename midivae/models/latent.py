"""Moves in latent space: near a point, between points, and along attributes.

Moves are made where latents are spread like a standard normal: in the *noise* of which a fitted prior makes latents
(`models.flow`), or among the latents themselves for a model that has the standard normal alone. There a point's
distance from the origin says nothing and its direction everything, so that moves keep the distance: halfway between two
pieces, and around a piece, lie points that are as likely as pieces are.

Attributes are changed by `Controls`: for each attribute a direction, added to a latent once per unit of change. They
are estimated from the latents of training windows. With A the attributes of the windows (relative ones as logarithms,
the key as the notes' centroid on the circle of fifths), W the coefficients of a ridge regression of A on latents, and S
the covariance of the latents, the direction of attribute k is

    d_k = S W_H (W_H' S W_H)^-1 e_k

the shortest way, in the metric of the latents themselves, by which attribute k changes by one while all that is held
(H) stays. What a regression says and what a decoder does are two things: windows are decoded with and without each
change, and the directions multiplied by the inverse of the response that was measured.

Not everything can be changed, and not everything held. An attribute of which the latents explain less than
`LEAST_EXPLAINED` of the variance is not offered: in four-part chorales four voices sing, and no direction knows more.
And attributes that go together in the music of the corpus (correlation of `TIED` or more) are not held against each
other: what the corpus never separates, no direction can. Nor are density, polyphony and the length of notes, whatever
the corpus: notes a beat times their length is the number that sounds.

A decoder answers the same move here more, there less. So `moved` takes a strength, and `misses` says how far music is
from what was asked: who can decode several strengths takes the one that misses least.

Shapes:
    B  samples    Z  latent    M  parents    A  attributes as they are asked for    K  as they are computed with

Offers: `Space` (`noise` / `latent`), `vary`, `slerp`, `barycentre`; `Controls` (`fit`, `moved`, `read` / `write`) and
`measured`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32
from tqdm import tqdm

from midivae.config.streams import Stream
from midivae.errors import CorruptError, InputError
from midivae.measures import features
from midivae.models import coding
from midivae.models.base import Chance, WindowModel
from midivae.models.flow import Prior
from midivae.storage.files import file_sha256, read_json, rounded, write_bytes
from midivae.storage.paths import WEIGHTS
from midivae.windows import loader
from midivae.windows.loader import Corpus

RELATIVE = ("density", "polyphony", "note_length")  # asked for as shares of what is there
SOUNDING = ("density", "polyphony", "note_length")  # two of them decide the third
KEY = ("fifths_x", "fifths_y")  # what a change of key is computed with
FIFTH = 2 * np.pi / 12  # one step on the circle of fifths
WINDOWS = 8192  # training windows that directions are estimated from, at most
LEAST_EXPLAINED = 0.18  # share of an attribute's variance that latents must explain
TIED = 0.5  # correlation of attributes that cannot be changed one without the other
CALIBRATED_ON = 128  # windows that are decoded to measure a response
REACH = 1.5  # standard deviations by which attributes are changed, at most, where nobody says otherwise
KEY_SD = 2.0  # steps on the circle of fifths that count as one standard deviation
LEAK = 1 / 3  # weight of what was not asked for beside what was
ROUNDS = 1  # of calibration
RIDGE = 1e-3  # of the variance of latents
FILE, VERSION = "controls.json", 1
_ARRAYS = ("directions", "weights", "bias", "sd", "correlation", "explained", "response")

Latents = Float32[np.ndarray, "B Z"]
Changes = Mapping[str, Float[np.ndarray, " B"]]


# --- near a point, between points -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Space:
    """Where moves are made; `prior` None: among the latents themselves."""

    prior: Prior | None

    def noise(self, z: Latents) -> Latents:
        """Latents as points of this space."""
        return z if self.prior is None else coding.noise(self.prior, z)

    def latent(self, noise: Latents) -> Latents:
        """The latents of points of this space."""
        return noise if self.prior is None else coding.latents(self.prior, noise)


def vary(noise: Latents, radius: Float[np.ndarray, " B"], other: Latents) -> Latents:
    """Points around others: (noise + radius * other) / sqrt(1 + radius**2).

    With `other` a draw of a standard normal this keeps the spread of a standard normal. Radius 0 is the point itself,
    and with a radius far above 1 little of it is left.
    """
    r = radius[:, None]
    moved: np.ndarray = (noise + r * other) / np.sqrt(1 + r**2)
    return moved.astype(np.float32)


def slerp(start: Latents, end: Latents, share: Float[np.ndarray, " B"]) -> Latents:
    """Points on the way from `start` (share 0) to `end` (share 1) along the sphere (Shoemake 1985), evenly spaced.

    Lengths, which differ a little, are interpolated; between points in one direction the way is straight.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    long_a, long_b = (np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    unit_a, unit_b = a / np.maximum(long_a, 1e-12), b / np.maximum(long_b, 1e-12)
    angle = np.arccos(np.clip((unit_a * unit_b).sum(1, keepdims=True), -1, 1))
    t = share[:, None]
    sine = np.sin(angle)
    straight = sine < 1e-6
    weight_a = np.where(straight, 1 - t, np.sin((1 - t) * angle) / np.where(straight, 1, sine))
    weight_b = np.where(straight, t, np.sin(t * angle) / np.where(straight, 1, sine))
    found: np.ndarray = (weight_a * unit_a + weight_b * unit_b) * ((1 - t) * long_a + t * long_b)
    return found.astype(np.float32)


def barycentre(parents: Float32[np.ndarray, "B M Z"], weights: Float[np.ndarray, "B M"]) -> Latents:
    """Weighted sums of parents, with the length that sums of independent normals would otherwise lose.

    A weight of 1 gives that parent.
    """
    total: np.ndarray = np.einsum("bmz,bm->bz", parents.astype(np.float64), weights)
    total /= np.linalg.norm(weights, axis=1, keepdims=True)
    return total.astype(np.float32)


# --- attributes -------------------------------------------------------------------------------------------------------
def measured(
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


def _computed(attributes: Mapping[str, Float[np.ndarray, " B"]]) -> Float[np.ndarray, "B K"]:
    """Attributes as directions are computed with: relative ones as logarithms."""
    columns = [
        np.log(np.where(values > 0, values, np.nan)) if name in RELATIVE else values
        for name, values in attributes.items()
    ]
    return np.stack(columns, axis=1)


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
        """Latents whose music is changed as asked, in the units of `measured`.

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
            found: what was `measured`.
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

    @classmethod
    def fit(
        cls, model: WindowModel, train: Corpus, valid: Corpus | None, seed: int, model_sha256: str, chance: Chance
    ) -> Controls:
        """Directions estimated from the windows of `train`, calibrated by decoding, and their response on `valid`.

        Args:
            valid: None: the response is measured on `train`.
            chance: how the cells are decided of what is decoded.
        """
        rng = Stream.CONTROLS.rng(seed)
        z, attributes = _encoded(model, train, WINDOWS, rng)
        test_z, test = _encoded(model, valid, WINDOWS, rng) if valid is not None else (z, attributes)
        names, values, test_values = tuple(attributes), _computed(attributes), _computed(test)
        there = ~np.isnan(values).any(axis=1)
        z, values = z[there], values[there]
        sd = values.std(axis=0)
        unit = np.maximum(sd, LEAST_SD)
        away = (values - values.mean(axis=0)) / unit
        draft = cls(
            names=names,
            directions=np.zeros((len(names), z.shape[1])),
            weights=np.zeros((z.shape[1], len(names))),
            bias=values.mean(axis=0),
            sd=sd,
            correlation=away.T @ away / len(away),
            explained=np.zeros(len(names)),
            response=np.eye(len(names)),
            model_sha256=model_sha256,
        )
        draft = draft._regressed(z.astype(np.float64), away)
        missed = test_values - (test_z @ draft.weights + draft.bias)
        spread = np.nanvar(test_values, axis=0)
        varies = (sd > LEAST_SD) & (spread > LEAST_SD**2)  # what never varies cannot be changed
        explained = 1 - np.nanmean(missed**2, axis=0) / np.where(varies, spread, np.inf)
        draft = replace(draft, explained=np.where(varies, np.clip(explained, 0, 1), 0))
        draft = draft._directed(z.astype(np.float64))
        for _ in range(ROUNDS):
            response = _response(draft, model, z, rng, chance)
            draft = replace(draft, directions=_corrected(draft, response))
        return replace(draft, response=_response(draft, model, test_z, rng, chance))

    def _regressed(self, z: Float[np.ndarray, "B Z"], away: Float[np.ndarray, "B K"]) -> Controls:
        """With the coefficients of the ridge regression; `away`: attributes in standard deviations from their mean."""
        centre = z.mean(axis=0)
        covariance = _covariance(z)
        ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        weights = np.linalg.pinv(covariance + ridge) @ ((z - centre).T @ away / len(z)) * self.sd
        return replace(self, weights=weights, bias=self.bias - centre @ weights)

    def _directed(self, z: Float[np.ndarray, "B Z"]) -> Controls:
        """With the directions d_k of those attributes that are offered."""
        covariance = _covariance(z)
        w = self.weights / np.maximum(self.sd, LEAST_SD)
        directions = np.zeros_like(self.directions)
        for k, held in self._held().items():
            spread = covariance @ w[:, held]
            inner = w[:, held].T @ spread
            inner += 1e-3 * np.trace(inner) / len(held) * np.eye(len(held))  # shares of all parts sum to one
            step = spread @ (np.linalg.pinv(inner) @ np.eye(len(held))[held.index(k)])  # for a standard deviation
            far = np.abs(step / np.maximum(np.sqrt(np.diag(covariance)), 1e-9)).max()
            directions[k] = step * min(1.0, FARTHEST / max(far, 1e-9)) / self.sd[k]
        return replace(self, directions=directions)

    def _held(self) -> dict[int, list[int]]:
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
            "version": VERSION,
            "names": list(self.names),
            **{name: _digits(getattr(self, name)) for name in _ARRAYS},
            "model_sha256": self.model_sha256,
        }
        write_bytes(folder / FILE, (json.dumps(values) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Controls:
        """The controls in a model's folder.

        Raises:
            InputError: there are none.
            CorruptError: they are not those of this release, or of these weights.
        """
        path = folder / FILE
        if not path.is_file():
            raise InputError(f"{path}: no such file, so attributes cannot be changed; rerun stage `train`")
        values = read_json(path)
        try:
            if (values["format"], values["version"]) != ("midivae-controls", VERSION):
                raise ValueError(f"version {values['version']}, this release reads {VERSION}")
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


# --- how directions are found -----------------------------------------------------------------------------------------
LEAST_SD = 1e-3  # below it an attribute does not vary
_AT_ONCE = 256  # windows
FARTHEST = 3.0  # standard deviations by which a latent dimension is moved at most, for one of an attribute


def _encoded(
    model: WindowModel, corpus: Corpus, most: int, rng: np.random.Generator
) -> tuple[Latents, dict[str, Float[np.ndarray, " B"]]]:
    """The latents of windows of a corpus, at most so many, and their attributes."""
    view = model.config.view
    windows = loader.windows(corpus, view)
    index = np.sort(rng.permutation(len(windows))[:most])
    both = view.model_copy(update={"planes": "onset+frame"})
    z, attributes = [], []
    with tqdm(total=len(index), desc=f"{model.name}: latents", unit="window", disable=None, file=sys.stderr) as bar:
        for some in np.array_split(index, -(-len(index) // _AT_ONCE)):
            block = loader.planes(corpus, windows, some, both)
            z.append(coding.encode(model, block))
            attributes.append(features.attributes(block, model.config.layout))
            bar.update(len(some))
    return np.concatenate(z), {name: np.concatenate([each[name] for each in attributes]) for name in attributes[0]}


def _covariance(z: Float[np.ndarray, "B Z"]) -> Float[np.ndarray, "Z Z"]:
    away = z - z.mean(axis=0)
    return np.asarray(away.T @ away / len(z))


def _response(
    controls: Controls, model: WindowModel, z: Latents, rng: np.random.Generator, chance: Chance
) -> Float[np.ndarray, "K K"]:
    """By how many standard deviations attributes change, [changed, measured], per standard deviation asked for."""
    layout, names = model.config.layout, controls.names
    z = z[rng.permutation(len(z))[:CALIBRATED_ON]]
    uniform = None
    if chance.temperature is not None:
        uniform = rng.random((len(z), *model.config.window_shape), dtype=np.float32)
    base = _computed(features.attributes(coding.decode(model, z, chance, uniform), layout))
    response, unit = np.eye(len(names)), np.maximum(controls.sd, LEAST_SD)
    held = controls._held()
    for k in tqdm(held, desc=f"{model.name}: attributes", unit="attribute", disable=None, file=sys.stderr):
        asked = rng.uniform(-REACH, REACH, len(z))
        moved = (z + np.outer(asked * unit[k], controls.directions[k])).astype(np.float32)
        found = _computed(features.attributes(coding.decode(model, moved, chance, uniform), layout)) - base
        there = ~np.isnan(found).any(axis=1)
        if there.any():
            response[k] = asked[there] @ (found[there] / unit) / (asked[there] @ asked[there])
    return response


def _corrected(controls: Controls, response: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K Z"]:
    """Directions whose response to a change of their own attribute is one.

    Only lengths are corrected: what a change does to other attributes is measured too roughly to be taken out.
    """
    answers = np.clip(np.diag(response), 0.25, 4)
    corrected: np.ndarray = controls.directions / answers[:, None]
    return corrected
