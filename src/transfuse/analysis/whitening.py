"""Features with the correlations taken out, from their covariance: once a layer, used in every pair it is in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from transfuse.analysis.moments import Moments
from transfuse.errors import AnalysisError

__all__ = ["Whitened", "principal", "whitened"]

TOLERANCE = 1e-6
_CHOLESKY = 1e4  # condition in singular values up to which rounding, its square times 1e-16, does not show


@dataclass(frozen=True)
class Whitened:
    """A linear map W that makes features white, `W C W' = 1`, where C is their covariance (D, D).

    Args:
        rank: number of rows of W, so of directions that vary at all.
        width: D, dropped columns included.
        condition: greatest over smallest singular value of the standardised features, those that were cut left out.
        kept: (K,) indices of the columns that are no constants; None where that is all.
        scale: (K,) standard deviations by which columns are divided first.
        factor: lower triangular (K, K) such that W is its inverse; or W itself, (rank, K), for the scaled columns.
        variances: (rank,) eigenvalues that belong to W's rows; None where the factor is triangular.
    """

    rank: int
    width: int
    condition: float
    kept: Tensor | None
    scale: Tensor
    factor: Tensor
    variances: Tensor | None

    def apply(self, cross: Tensor) -> Tensor:
        """(rank, E) W times a cross-covariance (D, E)."""
        rows = (cross if self.kept is None else cross[self.kept]) / self.scale[:, None]
        if self.variances is None:
            return torch.linalg.solve_triangular(self.factor, rows, upper=False)
        return self.factor @ rows

    def loadings(self) -> Tensor:
        """(rank, K) W times the covariance: how much of each white direction each column holds, in its own units."""
        if self.variances is None:
            return self.factor.mT * self.scale
        return self.factor * self.variances[:, None] * self.scale


def whitened(moments: Moments, name: str, tolerance: float = TOLERANCE) -> Whitened:
    """Whitens all directions whose singular value, with columns scaled to unit variance, is not negligible.

    Columns that do not vary are dropped. Well-conditioned covariances are factored by Cholesky, others by their
    eigenvectors, of which those with a singular value below `tolerance` times the greatest are cut.

    Raises AnalysisError where nothing varies, and for a tolerance outside (0, 1).
    """
    if not 0 < tolerance < 1:
        raise AnalysisError(f"tolerance is {tolerance!r}; expected a share of the greatest singular value, as 1e-6")
    covariance = moments.covariance(name)
    kept, scale = _varying(moments, name, covariance)
    if kept is not None:
        covariance = covariance[kept][:, kept]
    covariance = covariance / scale[:, None]
    covariance /= scale
    width = len(moments.mean(name))
    if len(scale) < moments.samples:
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if not int(failed):
            condition = _condition(covariance, factor)
            if condition < min(_CHOLESKY, 0.1 / tolerance):
                return Whitened(len(scale), width, condition, kept, scale, factor, None)
    values, vectors = torch.linalg.eigh(covariance)
    most = min(len(values), moments.samples - 1)
    rank = min(int((values > tolerance**2 * values[-1]).sum()), most)
    return _of_eigenvectors(values, vectors, rank, width, kept, scale)


def principal(moments: Moments, name: str, variance: float = 0.99, tolerance: float = TOLERANCE) -> Whitened:
    """Whitens the fewest principal directions that hold `variance` of the features' total variance.

    Columns are centred and not scaled: their variances are what counts (SVCCA).

    Raises AnalysisError where nothing varies, and for a variance outside (0, 1].
    """
    if not 0 < variance <= 1:
        raise AnalysisError(f"variance is {variance!r}; expected the share of it to keep, above 0 and up to 1, as 0.99")
    covariance = moments.covariance(name)
    kept, _ = _varying(moments, name, covariance)
    width = len(covariance)
    if kept is not None:
        covariance = covariance[kept][:, kept]
    unit = covariance.diagonal().max().sqrt()  # tiny features stay clear of underflow
    values, vectors = torch.linalg.eigh(covariance / unit**2)
    share = values.flip(0).clamp_min(0).cumsum(0)
    enough = int((share < variance * share[-1] * (1 - 1e-12)).sum()) + 1
    present = int((values > tolerance**2 * values[-1]).sum())
    rank = min(enough, present, moments.samples - 1)
    return _of_eigenvectors(values, vectors, rank, width, kept, unit.expand(len(values)))


def _of_eigenvectors(
    values: Tensor, vectors: Tensor, rank: int, width: int, kept: Tensor | None, scale: Tensor
) -> Whitened:
    first = values[-rank:].flip(0)
    factor = vectors[:, -rank:].flip(1).mT / first.sqrt()[:, None]
    return Whitened(rank, width, float((first[0] / first[-1]).sqrt()), kept, scale, factor, first)


def _varying(moments: Moments, name: str, covariance: Tensor) -> tuple[Tensor | None, Tensor]:
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    if not bool(torch.isfinite(deviation).all()):
        raise AnalysisError(
            f"{name} has values whose squares are beyond float64; expected less than 1e150. Scale them."
        )
    varies = deviation > 2 * moments.rounding(name) * moments.mean(name).abs()
    if not bool(varies.any()):
        raise AnalysisError(
            f"{name} is constant: none of its {len(deviation)} columns varies over {moments.samples} samples, so its "
            "rank is 0 and no correlation is defined. Look for dead units or one image repeated."
        )
    if bool(varies.all()):
        return None, deviation
    kept = varies.nonzero()[:, 0]
    return kept, deviation[kept]


def _condition(matrix: Tensor, factor: Tensor, steps: int = 8) -> float:
    """Square root of the ratio of extreme eigenvalues, by a few block power steps each way: a few per cent too low."""
    start = torch.randn(len(matrix), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    high = low = start.to(matrix.device)
    for _ in range(steps):
        high = matrix @ (high / high.norm(dim=0))
        low = torch.cholesky_solve(low / low.norm(dim=0), factor)
    return float((high.norm(dim=0).max() * low.norm(dim=0).max()).sqrt())
