"""How the directions of `models.controls` are found: from the latents of training windows.

Let A be the attributes of the windows (relative ones as logarithms, the key as the centroid of the notes on the circle
of fifths), W the coefficients of a ridge regression of A on the latents, and S the covariance of the latents. The
direction of attribute k is

    d_k = S W_H (W_H' S W_H)^-1 e_k

In the metric of the latents this is the shortest move that changes attribute k by one and keeps all others that are
held (H, with k). The decoder may respond more or less than the regression predicts. So windows are decoded with and
without each change, and each direction is divided by the measured response.

Shapes:
    B  windows    Z  latent    K  attributes as they are computed

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
from midivae.models.base import WindowModel
from midivae.models.chance import Chance
from midivae.models.conditions import Conditions
from midivae.models.controls import LEAST_SD, REACH, RELATIVE, Controls
from midivae.models.moves import Latents
from midivae.windows.corpus import Corpus
from midivae.windows.windows import cut_planes, find_windows

MOST_WINDOWS = 8192  # windows that the regression is fitted to, at most
CALIBRATED_ON = 128  # windows that are decoded to measure a response
RIDGE = 1e-3  # of the variance of the latents
FARTHEST = 3.0  # standard deviations by which a latent dimension is moved, at most, for one of an attribute
_AT_ONCE = 256  # windows


def fit_controls(
    model: WindowModel,
    train: Corpus,
    valid: Corpus | None,
    seed: int,
    model_sha256: str,
    chance: Chance,
    coarse: bool = False,
) -> Controls:
    """Directions fitted to windows of `train`, calibrated by decoding; their response is measured on `valid`.

    Args:
        valid: None: the response is measured on `train`.
        chance: how cells are decided when windows are decoded.
        coarse: whether directions lie in the coarse dimensions alone, and windows are decoded without the fine ones.
    """
    rng = Stream.CONTROLS.rng(seed)
    z, values, names = _encode_windows(model, train, rng)
    test_z, test_values, _ = _encode_windows(model, valid, rng) if valid is not None else (z, values, names)
    if coarse:
        for latents in (z, test_z):
            latents[:, model.coarse :] = 0
    defined = ~np.isnan(values).any(axis=1)
    z, values = z[defined], values[defined]
    sd = values.std(axis=0)
    scores = (values - values.mean(axis=0)) / np.maximum(sd, LEAST_SD)
    weights = _regress(z.astype(np.float64), scores) * sd
    controls = Controls(
        names=names,
        directions=np.zeros((len(names), z.shape[1])),
        weights=weights,
        bias=values.mean(axis=0) - z.astype(np.float64).mean(axis=0) @ weights,
        sd=sd,
        correlation=scores.T @ scores / len(scores),
        explained=np.zeros(len(names)),
        response=np.eye(len(names)),
        model_sha256=model_sha256,
    )
    residuals = test_values - (test_z @ controls.weights + controls.bias)
    variance = np.nanvar(test_values, axis=0)
    varies = (sd > LEAST_SD) & (variance > LEAST_SD**2)  # a constant attribute cannot be changed
    explained = 1 - np.nanmean(residuals**2, axis=0) / np.where(varies, variance, np.inf)
    controls = replace(controls, explained=np.where(varies, np.clip(explained, 0, 1), 0))
    controls = replace(controls, directions=_directions(controls, _covariance(z.astype(np.float64))))
    # only lengths are calibrated: the response of other attributes is too noisy to be removed
    response = np.diag(_response(controls, model, z, rng, chance, coarse)).clip(0.25, 4)
    controls = replace(controls, directions=controls.directions / response[:, None])
    return replace(controls, response=_response(controls, model, test_z, rng, chance, coarse))


def _encode_windows(
    model: WindowModel, corpus: Corpus, rng: np.random.Generator
) -> tuple[Latents, Float[np.ndarray, "B K"], tuple[str, ...]]:
    """The latents of at most `MOST_WINDOWS` windows, their attributes, and the names of these."""
    view = model.config.view.model_copy(update={"planes": "onset+frame"})
    windows = find_windows(corpus, view)
    index = np.sort(rng.permutation(len(windows))[:MOST_WINDOWS])
    z, attributes = [], []
    with tqdm(total=len(index), desc=f"{model.name}: latents", unit="window", disable=None, file=sys.stderr) as bar:
        for rows in np.array_split(index, -(-len(index) // _AT_ONCE)):
            planes = cut_planes(corpus, windows, rows, view)
            z.append(coding.encode(model, planes))
            attributes.append(features.attributes(planes, model.config.layout))
            bar.update(len(rows))
    return np.concatenate(z), np.concatenate([_columns(block) for block in attributes]), tuple(attributes[0])


def _columns(attributes: Mapping[str, Float[np.ndarray, " B"]]) -> Float[np.ndarray, "B K"]:
    """Attributes as numbers on which changes add up: relative ones as logarithms."""
    columns = [
        np.log(np.where(values > 0, values, np.nan)) if name in RELATIVE else values
        for name, values in attributes.items()
    ]
    return np.stack(columns, axis=1)


def _covariance(z: Float[np.ndarray, "B Z"]) -> Float[np.ndarray, "Z Z"]:
    centred = z - z.mean(axis=0)
    return np.asarray(centred.T @ centred / len(z))


def _regress(z: Float[np.ndarray, "B Z"], scores: Float[np.ndarray, "B K"]) -> Float[np.ndarray, "Z K"]:
    """The coefficients of a ridge regression of standard scores on latents."""
    covariance = _covariance(z)
    ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weights: np.ndarray = np.linalg.pinv(covariance + ridge) @ ((z - z.mean(axis=0)).T @ scores / len(z))
    return weights


def _directions(controls: Controls, covariance: Float[np.ndarray, "Z Z"]) -> Float[np.ndarray, "K Z"]:
    """The directions d_k of the attributes that are offered; 0 for the others."""
    weights = controls.weights / np.maximum(controls.sd, LEAST_SD)
    directions = np.zeros_like(controls.directions)
    for k, held in controls.held().items():
        spread = covariance @ weights[:, held]
        inner = weights[:, held].T @ spread
        inner += 1e-3 * np.trace(inner) / len(held) * np.eye(len(held))  # the shares of all parts add up to one
        step = spread @ (np.linalg.pinv(inner) @ np.eye(len(held))[held.index(k)])  # for one standard deviation
        farthest = np.abs(step / np.maximum(np.sqrt(np.diag(covariance)), 1e-9)).max()
        directions[k] = step * min(1.0, FARTHEST / max(farthest, 1e-9)) / controls.sd[k]
    return directions


def _response(
    controls: Controls, model: WindowModel, z: Latents, rng: np.random.Generator, chance: Chance, coarse: bool
) -> Float[np.ndarray, "K K"]:
    """How attributes of decoded music change, [changed, measured], in standard deviations per standard deviation."""
    z = z[rng.permutation(len(z))[:CALIBRATED_ON]]
    uniform = None
    if chance.temperature is not None:
        uniform = rng.random((len(z), *model.config.window_shape), dtype=np.float32)
    conditions = Conditions(fidelity=np.full(len(z), 0.0 if coarse else 1.0))

    def decoded(z: Latents) -> Float[np.ndarray, "B K"]:
        planes = coding.decode(model, z, chance, uniform, conditions)
        return _columns(features.attributes(planes, model.config.layout))

    unchanged = decoded(z)
    response, unit = np.eye(len(controls.names)), np.maximum(controls.sd, LEAST_SD)
    for k in tqdm(controls.held(), desc=f"{model.name}: attributes", unit="attribute", disable=None, file=sys.stderr):
        requested = rng.uniform(-REACH, REACH, len(z))
        moved = z + np.outer(requested * unit[k], controls.directions[k])
        changes = decoded(moved.astype(np.float32)) - unchanged
        defined = ~np.isnan(changes).any(axis=1)
        if defined.any():
            requested = requested[defined]
            response[k] = requested @ (changes[defined] / unit) / (requested @ requested)
    return response
