"""Distances between two sets of measured music, each of n rows.

Source: Yang & Lerch, "On the evaluation of generative models in music" (2018): overlapping area and KLD of densities;
Heusel et al., "GANs trained by a two time-scale update rule" (2017), equation 6: Frechet distance.

Where we differ from Yang & Lerch:
    1. Densities are first of the features' values: a feature is one number per sample and has a density of its own,
       which can be drawn. Their densities, of distances between pairs of samples, are there too (`intra`, `inter`).
    2. All densities lie on one grid, that of the reference: the KLD of densities on two grids is meaningless.
       Values beyond the grid, where the reference has none, count at its ends.
    3. All densities have the bandwidth of the reference. If each set had its own, a set of one value and the same set
       with a single outlier would hardly overlap.
    4. Each density has one more observation, spread evenly over the grid. Without it, one value where the other set
       has none makes the KLD infinite.

Conventions: X is the compared set, Y the reference. All but the overlapping area are 0 for equal sets and grow with the
distance. KLD and Frechet distance also grow as n shrinks, so compare only values with the same n.

Offers: `evenly` (which rows, if there are too many); `grid`, `densities`, `overlapping_area`, `kld_nats`,
`wasserstein`, `frechet`; `intra`, `inter` (distances between pairs of samples); `interval` (of a
bootstrap); `spearman`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist, pdist

_POINTS = 512  # of a grid

Values = Float[np.ndarray, " M"]


def evenly(n: int, most: int) -> Int[np.ndarray, " K"]:
    """The places of all of n rows, or of `most` of them, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64)) if n else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Grid:
    """Evenly spaced points, and the bandwidth of densities on them."""

    low: float
    spacing: float
    bandwidth: float

    def nearest(self, values: Float[np.ndarray, "*M"]) -> Int[np.ndarray, "*M"]:
        """The point nearest to each value."""
        return np.asarray(np.clip(np.rint((values - self.low) / self.spacing), 0, _POINTS - 1).astype(np.int64))


def grid(reference: Values, n: int) -> Grid:
    """The grid for sets of n values that are compared with parts of `reference`.

    The bandwidth is Scott's (1992), sd * n**(-1/5), as in Yang & Lerch, and at least the distance of two points. The
    grid extends four bandwidths beyond the reference, so that values at its ends do not overlap with it.
    """
    low, high = float(reference.min()), float(reference.max())
    bandwidth = float(reference.std()) * n**-0.2 or 1e-6 * max(1.0, abs(low))  # for a single value
    spacing = (high - low + 8 * bandwidth) / (_POINTS - 1)
    return Grid(low - 4 * bandwidth, spacing, max(bandwidth, spacing))


def densities(values: Float[np.ndarray, "R M"], on: Grid) -> Float[np.ndarray, "R G"]:
    """The share of the values in each row at each point of a grid, smoothed by a Gaussian kernel; rows sum to 1.

    Values go to the nearest point first, so that the kernel's cost does not depend on n.
    """
    n_sets, n = values.shape
    places = on.nearest(values) + _POINTS * np.arange(n_sets)[:, None]
    at_points = np.bincount(places.reshape(-1), minlength=n_sets * _POINTS).reshape(n_sets, _POINTS)
    kernel = np.exp(-0.5 * (np.arange(1 - _POINTS, _POINTS) * on.spacing / on.bandwidth) ** 2)
    kernels = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(kernel, _POINTS)[::-1])
    smooth = at_points.astype(np.float64) @ kernels
    share: np.ndarray = (n * smooth / smooth.sum(axis=1, keepdims=True) + 1 / _POINTS) / (n + 1)
    return share


def overlapping_area(x: Float[np.ndarray, "*R G"], y: Float[np.ndarray, "*R G"]) -> Float[np.ndarray, "*R"]:
    """The area under both densities: 1 where they are the same, 0 where they are apart."""
    return np.asarray(np.minimum(x, y).sum(axis=-1))


def kld_nats(x: Float[np.ndarray, "*R G"], y: Float[np.ndarray, "*R G"]) -> Float[np.ndarray, "*R"]:
    """The Kullback-Leibler divergence KLD(Y || X) in nats: how badly X explains the reference.

    It is large if the reference has values that X lacks.
    """
    return np.asarray((y * np.log(y / x)).sum(axis=-1))


def wasserstein(x: Float[np.ndarray, "*R M"], y: Float[np.ndarray, "*R M"]) -> Float[np.ndarray, "*R"]:
    """How far values of X must move, on average, to become those of Y (Wasserstein-1), in the values' unit.

    Both sets have the same size, so the nearest pairing is that of the sorted values.
    """
    return np.asarray(np.abs(np.sort(x, axis=-1) - np.sort(y, axis=-1)).mean(axis=-1))


def intra(x: Float[np.ndarray, "M D"]) -> Float[np.ndarray, " _"]:
    """Euclidean distances between all pairs of rows, each pair once (Yang & Lerch's intra-set distances).

    Trap avoided: the distance of a row to itself, a spike at 0.
    """
    return np.asarray(pdist(x))


def inter(x: Float[np.ndarray, "M D"], y: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " _"]:
    """Euclidean distances of every row of X to every row of Y (Yang & Lerch's inter-set distances)."""
    return np.asarray(cdist(x, y)).reshape(-1)


def interval(value: float, resampled: Values, share: float = 0.95) -> tuple[float, float]:
    """The interval in which `share` of the bootstrap's values lie, moved so that their mean falls on `value`.

    It is moved because a resampled set has repeated values: its density is more uneven, and its distances are larger,
    than those of a set of the same size. NaN without resampled values.
    """
    if len(resampled) == 0:
        return np.nan, np.nan
    low, high = np.quantile(resampled, ((1 - share) / 2, (1 + share) / 2)) - resampled.mean() + value
    return float(low), float(high)


def spearman(x: Values, y: Values) -> float:
    """Spearman's rank correlation: 1 if y rises with x, -1 if it falls; NaN if one of them is constant.

    Trap avoided: the formula with squared differences of ranks, which is wrong for equal values.
    """
    ranks = pd.DataFrame({"x": x, "y": y}).rank()
    return float(ranks["x"].corr(ranks["y"]))


def frechet(x: Float[np.ndarray, "M D"], y: Float[np.ndarray, "M D"]) -> float:
    """The squared Frechet distance of two normal distributions fitted to the rows (Heusel et al. 2017, equation 6).

    |mean X - mean Y|**2 + tr(C_X + C_Y - 2 (C_X**(1/2) C_Y C_X**(1/2))**(1/2)); the product is symmetric, so its root
    is real, where that of C_X C_Y is complex after rounding.
    """
    apart = x.mean(axis=0) - y.mean(axis=0)
    c_x, c_y = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (x, y))
    root = _root(c_x)
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c_y @ root), 0)).sum()
    return max(0.0, float(apart @ apart + np.trace(c_x) + np.trace(c_y) - 2 * shared))


def _root(symmetric: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(symmetric)
    root: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
