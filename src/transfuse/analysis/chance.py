"""What canonical correlation gives for features that have nothing to do with each other: never 0."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.integrate import quad
from scipy.special import gammaln

from transfuse.errors import AnalysisError

__all__ = ["independent_level", "random_coefficients", "wachter_edges"]


def wachter_edges(samples: int, rank_x: int, rank_y: int) -> tuple[float, float]:
    """Lowest and highest canonical correlation of independent features, for many samples and dimensions.

    With g = rank / (samples - 1) the squares lie in `(sqrt(g_x (1 - g_y)) -+ sqrt(g_y (1 - g_x)))^2` (Wachter 1980);
    for equal ranks that is 0 to `2 sqrt(g (1 - g))`. Where the ranks together exceed samples - 1, the highest is 1: two
    spaces so large must share directions.

    >>> round(wachter_edges(10_000, 64, 64)[1], 3)
    0.159
    """
    n = _checked(samples, rank_x, rank_y)
    gx, gy = rank_x / n, rank_y / n
    a, b = math.sqrt(gx * (1 - gy)), math.sqrt(gy * (1 - gx))
    return abs(a - b), 1.0 if rank_x + rank_y > n else min(a + b, 1.0)


def independent_level(samples: int, rank_x: int, rank_y: int) -> float:
    """Mean canonical correlation that is expected of independent Gaussian features.

    The mean of the law of Wachter (1980), which the coefficients of independent features follow when samples and ranks
    are large; with one dimension on a side, the exact mean of a multiple correlation. In between, two dimensions a
    side get up to 10 % too much, five 2.5 %, twenty nothing that could be measured.

    Args:
        samples: N, at least 2; one is lost to the means.
        rank_x: effective dimensions of x, 1 to N - 1.
        rank_y: of y.

    Raises AnalysisError for ranks that N samples cannot have.

    >>> round(independent_level(10_000, 64, 64), 3)
    0.068
    >>> independent_level(20, 19, 5)
    1.0
    """
    n = _checked(samples, rank_x, rank_y)
    few, many = sorted((rank_x, rank_y))
    if many == n:
        return 1.0
    if few == 1:
        return _multiple_correlation(n, many)
    shared = max(0, few + many - n) / few
    low, high = (edge**2 for edge in _continuous_edges(n, few, many))
    width = high - low

    def density(angle: float) -> float:
        # r = low + width sin^2(angle) takes the roots out of both ends
        sine2, cosine2 = math.sin(angle) ** 2, math.cos(angle) ** 2
        r = low + width * sine2
        rest = (1 - high) + width * cosine2
        return 2 * width**2 * sine2 * cosine2 / (math.sqrt(r) * rest)

    integral = quad(density, 0, math.pi / 2, epsabs=1e-10)[0]
    return float(min(1.0, shared + n / (2 * math.pi * few) * integral))


def random_coefficients(
    samples: int, rank_x: int, rank_y: int, generator: np.random.Generator | None = None
) -> np.ndarray:
    """Canonical correlations of one draw of independent Gaussian features: the random features of a figure.

    Their law depends on these three numbers only, so matrices of rank_x and rank_y are drawn, not N rows.

    Args:
        samples: N.
        rank_x: effective dimensions of x, 1 to N - 1.
        rank_y: of y.
        generator: of NumPy; None is `np.random.default_rng(0)`.

    Returns:
        `(min(rank_x, rank_y),)` descending, in [0, 1].

    >>> bool(abs(random_coefficients(10_000, 64, 64).mean() - independent_level(10_000, 64, 64)) < 0.003)
    True
    """
    n = _checked(samples, rank_x, rank_y)
    generator = np.random.default_rng(0) if generator is None else generator
    few, many = sorted((rank_x, rank_y))
    inside = generator.standard_normal((many, few))  # the part of the few that lies in the span of the many
    freedom = n - many
    if freedom >= few:  # Bartlett: the Gram matrix of what lies outside
        outside = np.tril(generator.standard_normal((few, few)), -1)
        outside[np.diag_indices(few)] = np.sqrt(generator.chisquare(freedom - np.arange(few)))
        gram = outside @ outside.T
    else:
        outside = generator.standard_normal((few, freedom))
        gram = outside @ outside.T
    explained = inside.T @ inside
    factor = torch.linalg.cholesky(torch.from_numpy(explained + gram))
    half = torch.linalg.solve_triangular(factor, torch.from_numpy(explained), upper=False)
    squares = torch.linalg.eigvalsh(torch.linalg.solve_triangular(factor, half.mT.contiguous(), upper=False))
    return squares.clamp(0, 1).sqrt().flip(0).numpy()


def _checked(samples: int, rank_x: int, rank_y: int) -> int:
    for name, rank in (("rank_x", rank_x), ("rank_y", rank_y)):
        if not 1 <= rank <= samples - 1:
            raise AnalysisError(
                f"{name} is {rank} with {samples} samples; expected 1 to {samples - 1}, since one is lost to the means"
            )
    return samples - 1


def _continuous_edges(n: int, few: int, many: int) -> tuple[float, float]:
    gx, gy = few / n, many / n
    a, b = math.sqrt(gx * (1 - gy)), math.sqrt(gy * (1 - gx))
    return abs(a - b), min(a + b, 1.0)


def _multiple_correlation(n: int, predictors: int) -> float:
    """Mean of R where R^2 follows Beta(predictors / 2, (n - predictors) / 2)."""
    p, q = predictors / 2, n / 2
    return float(math.exp(gammaln(p + 0.5) - gammaln(p) + gammaln(q) - gammaln(q + 0.5)))
