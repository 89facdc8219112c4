"""How the directions of `models.controls` are found: from the latents of training windows.

With A the attributes of the windows (relative ones as logarithms, the key as the notes' centroid on the circle of
fifths), W the coefficients of a ridge regression of A on latents, and S the covariance of the latents, the direction of
attribute k is

    d_k = S W_H (W_H' S W_H)^-1 e_k

the shortest way, in the metric of the latents themselves, by which attribute k changes by one while all that is held
(H) stays. What a regression says and what a decoder does are two things: windows are decoded with and without each
change, and the directions multiplied by the inverse of the response that was measured.

Shapes:
    B  samples    Z  latent    K  attributes as they are computed with

Offers: `fit_controls`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from midivae.config.streams import Stream
from midivae.measures import features
from midivae.models import coding
from midivae.models.base import Chance, WindowModel
from midivae.models.controls import LEAST_SD, REACH, RELATIVE, Controls
from midivae.models.moves import Latents
from midivae.windows.corpus import Corpus
from midivae.windows.windows import cut_planes, find_windows

MOST_WINDOWS = 8192  # training windows that directions are estimated from, at most
CALIBRATED_ON = 128  # windows that are decoded to measure a response
ROUNDS = 1  # of calibration
RIDGE = 1e-3  # of the variance of latents


def _computed(attributes: Mapping[str, Float[np.ndarray, " B"]]) -> Float[np.ndarray, "B K"]:
    """Attributes as directions are computed with: relative ones as logarithms."""
    columns = [
        np.log(np.where(values > 0, values, np.nan)) if name in RELATIVE else values
        for name, values in attributes.items()
    ]
    return np.stack(columns, axis=1)


_AT_ONCE = 256  # windows
FARTHEST = 3.0  # standard deviations by which a latent dimension is moved at most, for one of an attribute


def _encoded(
    model: WindowModel, corpus: Corpus, most: int, rng: np.random.Generator
) -> tuple[Latents, dict[str, Float[np.ndarray, " B"]]]:
    """The latents of windows of a corpus, at most so many, and their attributes."""
    view = model.config.view
    windows = find_windows(corpus, view)
    index = np.sort(rng.permutation(len(windows))[:most])
    both = view.model_copy(update={"planes": "onset+frame"})
    z, attributes = [], []
    with tqdm(total=len(index), desc=f"{model.name}: latents", unit="window", disable=None, file=sys.stderr) as bar:
        for some in np.array_split(index, -(-len(index) // _AT_ONCE)):
            block = cut_planes(corpus, windows, some, both)
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
    held = controls.held()
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


def fit_controls(
    model: WindowModel, train: Corpus, valid: Corpus | None, seed: int, model_sha256: str, chance: Chance
) -> Controls:
    """Directions estimated from the windows of `train`, calibrated by decoding, and their response on `valid`.

    Args:
        valid: None: the response is measured on `train`.
        chance: how the cells are decided of what is decoded.
    """
    rng = Stream.CONTROLS.rng(seed)
    z, attributes = _encoded(model, train, MOST_WINDOWS, rng)
    test_z, test = _encoded(model, valid, MOST_WINDOWS, rng) if valid is not None else (z, attributes)
    names, values, test_values = tuple(attributes), _computed(attributes), _computed(test)
    there = ~np.isnan(values).any(axis=1)
    z, values = z[there], values[there]
    sd = values.std(axis=0)
    unit = np.maximum(sd, LEAST_SD)
    away = (values - values.mean(axis=0)) / unit
    draft = Controls(
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
    draft = _regressed(draft, z.astype(np.float64), away)
    missed = test_values - (test_z @ draft.weights + draft.bias)
    spread = np.nanvar(test_values, axis=0)
    varies = (sd > LEAST_SD) & (spread > LEAST_SD**2)  # what never varies cannot be changed
    explained = 1 - np.nanmean(missed**2, axis=0) / np.where(varies, spread, np.inf)
    draft = replace(draft, explained=np.where(varies, np.clip(explained, 0, 1), 0))
    draft = _directed(draft, z.astype(np.float64))
    for _ in range(ROUNDS):
        response = _response(draft, model, z, rng, chance)
        draft = replace(draft, directions=_corrected(draft, response))
    return replace(draft, response=_response(draft, model, test_z, rng, chance))


def _regressed(controls: Controls, z: Float[np.ndarray, "B Z"], away: Float[np.ndarray, "B K"]) -> Controls:
    """With the coefficients of the ridge regression; `away`: attributes in standard deviations from their mean."""
    centre = z.mean(axis=0)
    covariance = _covariance(z)
    ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weights = np.linalg.pinv(covariance + ridge) @ ((z - centre).T @ away / len(z)) * controls.sd
    return replace(controls, weights=weights, bias=controls.bias - centre @ weights)


def _directed(controls: Controls, z: Float[np.ndarray, "B Z"]) -> Controls:
    """With the directions d_k of those attributes that are offered."""
    covariance = _covariance(z)
    w = controls.weights / np.maximum(controls.sd, LEAST_SD)
    directions = np.zeros_like(controls.directions)
    for k, held in controls.held().items():
        spread = covariance @ w[:, held]
        inner = w[:, held].T @ spread
        inner += 1e-3 * np.trace(inner) / len(held) * np.eye(len(held))  # shares of all parts sum to one
        step = spread @ (np.linalg.pinv(inner) @ np.eye(len(held))[held.index(k)])  # for a standard deviation
        far = np.abs(step / np.maximum(np.sqrt(np.diag(covariance)), 1e-9)).max()
        directions[k] = step * min(1.0, FARTHEST / max(far, 1e-9)) / controls.sd[k]
    return replace(controls, directions=directions)
