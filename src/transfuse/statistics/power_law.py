"""Power laws `value(n) = c - a n^-b`, fitted to many rows at once: a data set and all its resamples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["RATES", "PowerLaw", "fit_power_law"]

RATES = (0.05, 3.0)
"""The range of b: below, the curve cannot be told from a logarithm; above, from a step after the first size."""
_COARSE, _FINE, _PASSES = 65, 9, 2


@dataclass(frozen=True)
class PowerLaw:
    """R curves `value(n) = limit - left (n / largest)^-rate`; so a is `left largest^rate`.

    Args:
        limit: `(R,)` c, the value of infinitely many patients.
        left: `(R,)` what is missing to it at the largest size.
        rate: `(R,)` b.
        largest: the largest n of the fit.
    """

    limit: np.ndarray
    left: np.ndarray
    rate: np.ndarray
    largest: float

    def at(self, patients: ArrayLike) -> np.ndarray:
        """Values `(R,)` at a number of patients, or `(R, G)` at G of them."""
        ratio = np.asarray(patients, dtype=np.float64) / self.largest
        shape = (-1,) + (1,) * ratio.ndim
        limit, left, rate = (part.reshape(shape) for part in (self.limit, self.left, self.rate))
        return limit - left * ratio**-rate


def fit_power_law(patients: ArrayLike, values: ArrayLike, weights: ArrayLike, bounds: tuple[float, float]) -> PowerLaw:
    """Weighted least squares of each row, with c within `bounds` and b within `RATES`.

    For a given b the curve is a straight line in n^-b, so that c and a have a closed form; b is looked for on a grid
    that is refined twice around its best point, to 0.4 %. That finds the best fit of thousands of rows in a fraction of
    a second, and no local one. A row with NaN has a fit of NaN.

    Args:
        patients: `(K,)` positive.
        values: `(R, K)`.
        weights: `(K,)` positive.
        bounds: of the values.

    >>> n = np.array([10, 40, 160])
    >>> law = fit_power_law(n, [0.9 - 1.0 / np.sqrt(n)], np.ones(3), (0.0, 1.0))
    >>> law.limit.round(3), law.rate.round(3), law.at(1000).round(3)
    (array([0.9]), array([0.5]), array([0.868]))
    """
    sizes, rows = np.asarray(patients, dtype=np.float64), np.asarray(values, dtype=np.float64)
    share = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    ratio = sizes / sizes.max()
    limit, left, rate = _fit(ratio, rows, share, bounds)
    return PowerLaw(limit, left, rate, float(sizes.max()))


def _fit(ratio: np.ndarray, rows: np.ndarray, share: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Limit, left and rate of each row, `(3, R)`."""
    rates = np.geomspace(*RATES, _COARSE)
    rates[[0, -1]] = RATES
    rate = np.broadcast_to(rates, (len(rows), _COARSE))
    limit, left, missed = _lines(ratio ** -rates[:, None], rows, share, bounds)
    every = np.arange(len(rows))
    for _ in range(_PASSES):
        best = np.argmin(np.nan_to_num(missed, nan=np.inf), axis=1)
        low, high = (rate[every, np.clip(best + step, 0, rate.shape[1] - 1)] for step in (-1, 1))
        rate = np.clip(np.geomspace(low, high, _FINE, axis=1), *RATES)
        limit, left, missed = _lines(ratio ** -rate[:, :, None], rows, share, bounds)
    best = np.argmin(np.nan_to_num(missed, nan=np.inf), axis=1)
    found = np.stack([part[every, best] for part in (limit, left, rate)])
    found[:, ~np.isfinite(rows).all(axis=1)] = np.nan
    return found


def _lines(
    x: np.ndarray, rows: np.ndarray, share: np.ndarray, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best lines `limit - left x` of each row, with `limit` within bounds, and the squares that they miss.

    Args:
        x: `(G, K)` the same for all rows, or `(R, G, K)`.
        rows: `(R, K)`.
        share: `(K,)` weights that sum to 1.
        bounds: of the limit.

    Returns:
        limit, left and missed, each `(R, G)`.
    """
    level = rows @ share
    y = rows - level[:, None]  # small numbers, so that their squares keep their digits
    product = (y * share) @ x.T if x.ndim == 2 else np.einsum("rk,rgk->rg", y * share, x)
    middle, square = x @ share, x**2 @ share
    slope = product / (square - middle**2)
    limit = np.clip(level[:, None] - slope * middle, *bounds) - level[:, None]
    # Where the limit is at a bound, the best slope is that of the lines through it: least squares are convex.
    left = (limit * middle - product) / square
    missed = (y**2 @ share)[:, None] + limit**2 + left**2 * square + 2 * left * (product - limit * middle)
    return limit + level[:, None], left, missed
