"""Distances between two sets of measured music, each of n rows.

Source: Yang & Lerch, "On the evaluation of generative models in music" (2018): overlapping area and KLD of densities;
Heusel et al., "GANs trained by a two time-scale update rule" (2017), equation 6: Frechet distance.

Where we differ from Yang & Lerch:
    1. Densities are of the features' values, not of distances between pairs of samples: a feature is one number per
       sample and has a density of its own, which can be drawn.
    2. All densities lie on one grid, that of the reference: of densities on two grids, the KLD says nothing. What lies
       beyond it, where the reference has nothing, counts at its ends.
    3. All densities have the bandwidth of the reference. With one for each set, a set of one value and the same with a
       single outlier would hardly overlap.
    4. Each density counts one observation more, spread evenly over the grid. Without it, one value where the other set
       has none makes the KLD infinite.

Conventions: X is the set in question, Y the reference. All but the overlapping area are 0 for equal sets and grow with
the distance; KLD and Frechet distance also grow as n shrinks, so compare only what was computed with the same n.

Offers: `grid`, `density`, `overlapping_area`, `kld_nats`, `wasserstein`, `frechet`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_POINTS = 512  # of a grid

Values = Float[np.ndarray, " M"]
Density = Float[np.ndarray, " G"]


@dataclass(frozen=True)
class Grid:
    """Evenly spaced points, and the bandwidth of densities on them."""

    low: float
    spacing: float
    bandwidth: float

    def nearest(self, values: Values) -> Int[np.ndarray, " M"]:
        """The point nearest to each value."""
        return np.clip(np.rint((values - self.low) / self.spacing), 0, _POINTS - 1).astype(np.int64)


def grid(reference: Values, n: int) -> Grid:
    """The grid for sets of n values that are compared with parts of `reference`.

    The bandwidth is Scott's (1992), sd * n**(-1/5), that of Yang & Lerch, and at least the distance of two points; the
    grid reaches four bandwidths beyond the reference, so that what lies at its ends overlaps with nothing there.
    """
    low, high = float(reference.min()), float(reference.max())
    bandwidth = float(reference.std()) * n**-0.2 or 1e-6 * max(1.0, abs(low))  # beside a single value, all is far
    spacing = (high - low + 8 * bandwidth) / (_POINTS - 1)
    return Grid(low - 4 * bandwidth, spacing, max(bandwidth, spacing))


def density(values: Values, on: Grid) -> Density:
    """The share of values at each point of a grid, smoothed by a Gaussian kernel; sums to 1.

    Values go to the nearest point first, so that the cost does not depend on n.
    """
    n = len(values)
    at_points = np.bincount(on.nearest(values), minlength=_POINTS)
    kernel = np.exp(-0.5 * (np.arange(1 - _POINTS, _POINTS) * on.spacing / on.bandwidth) ** 2)
    smooth = np.convolve(at_points, kernel)[_POINTS - 1 : 2 * _POINTS - 1]
    share: np.ndarray = (n * smooth / smooth.sum() + 1 / _POINTS) / (n + 1)
    return share


def overlapping_area(x: Density, y: Density) -> float:
    """The area under both densities: 1 where they are the same, 0 where they are apart."""
    return float(np.minimum(x, y).sum())


def kld_nats(x: Density, y: Density) -> float:
    """The Kullback-Leibler divergence KLD(Y || X) in nats: how badly X explains the reference.

    It is large where the reference has values that X misses.
    """
    return float((y * np.log(y / x)).sum())


def wasserstein(x: Values, y: Values) -> float:
    """How far values of X must move, on average, to become those of Y (Wasserstein-1), in the values' unit.

    Both sets have the same size, so the nearest pairing is that of the sorted values.
    """
    return float(np.abs(np.sort(x) - np.sort(y)).mean())


def frechet(x: Float[np.ndarray, "M D"], y: Float[np.ndarray, "M D"]) -> float:
    """The squared Frechet distance of two normal distributions fitted to the rows (Heusel et al. 2017, equation 6).

    |mean X - mean Y|**2 + tr(C_X + C_Y - 2 (C_X**(1/2) C_Y C_X**(1/2))**(1/2)); the product is symmetric, so its root
    is real, where that of C_X C_Y is complex after rounding.
    """
    apart = x.mean(axis=0) - y.mean(axis=0)
    c_x, c_y = _covariance(x), _covariance(y)
    root = _root(c_x)
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c_y @ root), 0)).sum()
    return max(0.0, float(apart @ apart + np.trace(c_x) + np.trace(c_y) - 2 * shared))


def _covariance(rows: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "D D"]:
    centred = rows - rows.mean(axis=0)
    covariance: np.ndarray = centred.T @ centred / max(1, len(rows) - 1)
    return covariance


def _root(symmetric: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(symmetric)
    root: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
