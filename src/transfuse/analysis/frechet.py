"""The Fréchet distance between two sets of features: how far two sets of images lie apart for a network."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from transfuse.analysis.activations import NO_BATCHES, Taps, checked_batches
from transfuse.analysis.knn import plain_array
from transfuse.analysis.layerwise_knn import raised
from transfuse.analysis.moments import Moments
from transfuse.errors import AnalysisError, AnalysisWarning, nearest

__all__ = ["Frechet", "Gaussian", "frechet_between", "frechet_distance", "frechet_of", "gaussian_of"]

VIEWS = ("pooled", "positions", "cls", "patches", "both")


class Gaussian(NamedTuple):
    """Mean `(D,)`, covariance `(D, D)` (divided by N - 1), both float64, and the number of samples N behind them."""

    mean: np.ndarray
    covariance: np.ndarray
    samples: int


@dataclass(frozen=True)
class Frechet:
    """A squared Fréchet distance, with what is needed to read the number. `float(frechet)` is its value.

    Args:
        value: `means + covariances`, in the square of the features' unit; 0 or more.
        means: the part of the means, `|m_x - m_y|^2`.
        covariances: the part of the covariances.
        samples: of x and of y.
        rank: effective ranks of the two covariances.
        by_chance: about what two sets of these sizes would give if both came from one distribution: the estimate is
            biased upwards by about this much. To first order in 1 / N: within 10 % from 5 samples a dimension on, too
            little below (0.4 to 0.7 of the bias with fewer samples than dimensions), and too little where samples are
            no independent draws (positions of one image).
    """

    value: float
    means: float
    covariances: float
    samples: tuple[int, int]
    rank: tuple[int, int]
    by_chance: float

    def __float__(self) -> float:
        return self.value


def frechet_distance(x: ArrayLike | Tensor, y: ArrayLike | Tensor) -> Frechet:
    """The squared Fréchet distance between Gaussians fitted to two sets of features, the FID of Heusel et al. 2017.

    `|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))` (Dowson and Landau 1982), in float64. The trace of the root is
    the sum of the singular values of `F_x' F_y` with `S = F F'`: no root of a matrix that is not symmetric, so nothing
    complex, and no ridge where a covariance lacks rank.

    It is called FID only on the pooled features of one certain Inception network; on other features it is another
    number, to be compared within those features only.

    Args:
        x: `(N, D)` features of the first set, N at least 2.
        y: `(M, D)` of the second.

    Raises:
        AnalysisError: shapes that do not fit, fewer than 2 samples, NaN or infinite features.

    Warns:
        AnalysisWarning: fewer samples than dimensions; see `Frechet.by_chance`.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(float(frechet_distance(x, x + [3.0, 4.0, 0.0])), 9)
    25.0
    """
    return _distance(gaussian_of([x], "x"), gaussian_of([y], "y"), stacklevel=3)


def frechet_of(x: Gaussian, y: Gaussian) -> Frechet:
    """`frechet_distance` of two sets of which mean and covariance are known, as from `gaussian_of`."""
    return _distance(x, y, stacklevel=3)


def gaussian_of(batches: Iterable[ArrayLike | Tensor], name: str = "features") -> Gaussian:
    """Mean and covariance of features that come in batches `(n, D)`; memory D x D, however many there are.

    Args:
        batches: arrays or tensors `(n, D)`, of any n, on any device.
        name: for messages.

    Raises:
        AnalysisError: another shape, fewer than 2 samples in all, NaN or infinite features.

    >>> gaussian_of([[[0.0, 1.0]], [[2.0, 1.0], [4.0, 1.0]]]).mean
    array([2., 1.])
    """
    moments = Moments()
    for batch in checked_batches(batches, what="features"):
        moments.add({name: batch if isinstance(batch, Tensor) else plain_array(batch)})
    return _gaussian(moments, name)


def frechet_between(
    model: nn.Module, batches_a: Iterable[Any], batches_b: Iterable[Any], block: str, *, view: str = "pooled"
) -> Frechet:
    """The squared Fréchet distance between two sets of images in the features of one block, in one pass over each.

    Args:
        model: any module; its mode and the random generators are left as they were.
        batches_a: images, or sequences that begin with them.
        batches_b: the same of the other set.
        block: name of a module; name it beside the number.
        view: of the block's output (`features`): "pooled" (default), "positions", "cls", "patches" or "both".

    Raises:
        AnalysisError: as `frechet_distance`; an unknown block or view.

    >>> import torch
    >>> images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> round(float(frechet_between(nn.Sequential(nn.Conv2d(3, 2, 1)), [images], [images], "0")), 9)
    0.0
    """
    if view not in VIEWS:
        raise AnalysisError(f"unknown view {view!r} for the Fréchet distance: {nearest(view, VIEWS)}")
    x, y = (
        _gaussian_at(model, batches, block, view, side)
        for side, batches in (("batches_a", batches_a), ("batches_b", batches_b))
    )
    return _distance(x, y, stacklevel=3)


def _gaussian_at(model: nn.Module, batches: Iterable[Any], block: str, view: str, side: str) -> Gaussian:
    name, moments = f"block {block!r} of {side}", Moments()
    taps = Taps(model, [block], lambda _, out: moments.add({name: taps.features(block, raised(out), view, VIEWS)}))
    for batch in checked_batches(batches, side):
        taps.run(batch)
        if len(taps.names) > 1:
            raise AnalysisError(f"block {block!r} runs {len(taps.names)} times in a pass; name one that runs once")
    if not moments.samples:
        raise AnalysisError(f"{side}: {NO_BATCHES}")
    return _gaussian(moments, name)


def _gaussian(moments: Moments, name: str) -> Gaussian:
    if (count := moments.samples) < 2:
        raise AnalysisError(f"{name}: {count} sample(s); a covariance needs 2, and 10 a dimension to be trusted")
    covariance = moments.covariance(name) * (count / (count - 1))
    return Gaussian(moments.mean(name).cpu().numpy(), covariance.cpu().numpy(), count)


def _distance(x: Gaussian, y: Gaussian, stacklevel: int) -> Frechet:
    for name, side in (("x", x), ("y", y)):
        size = len(side.mean)
        if side.mean.shape != x.mean.shape or side.covariance.shape != (size, size) or side.samples < 2:
            raise AnalysisError(
                f"{name} has mean {side.mean.shape}, covariance {side.covariance.shape} and {side.samples} samples; "
                f"expected ({len(x.mean)},), ({len(x.mean)}, {len(x.mean)}) and at least 2: the same features of both"
            )
        if not (np.isfinite(side.mean).all() and np.isfinite(side.covariance).all()):
            raise AnalysisError(f"{name} has a mean or covariance that is NaN or infinite; expected finite ones")
    roots_x, factor_x = _factor(x.covariance)
    roots_y, factor_y = _factor(y.covariance)
    overlap = (
        float(np.linalg.svd(factor_x.T @ factor_y, compute_uv=False).sum()) if len(roots_x) and len(roots_y) else 0
    )
    means = float(((x.mean - y.mean) ** 2).sum())
    # Rounding leaves sets that are alike a little below 0.
    covariances = max(0.0, float(roots_x.sum() + roots_y.sum()) - 2 * overlap)
    chance = _chance(roots_x, x.samples) + _chance(roots_y, y.samples)
    value, few, size = means + covariances, min(x.samples, y.samples), len(x.mean)
    if few < size:
        warnings.warn(
            f"{few} samples for {size} dimensions: the Fréchet distance of {value:.4g} is biased upwards. Two sets of "
            f"these sizes from one and the same distribution would already be about {chance:.4g} apart, or more; take "
            f"at least {size} samples (better {10 * size}) of both, or a block with fewer channels",
            AnalysisWarning,
            stacklevel=stacklevel,
        )
    return Frechet(value, means, covariances, (x.samples, y.samples), (len(roots_x), len(roots_y)), chance)


def _factor(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positive eigenvalues (R,) and F (D, R) with S = F F'; what is rounding of the largest eigenvalue is left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return values[kept], vectors[:, kept] * np.sqrt(values[kept])


def _chance(values: np.ndarray, samples: int) -> float:
    """The upward bias that the sampling of one side brings, to first order in 1 / N.

    tr(S) / N of its mean, and 1 / (2 N) sum_ij (1 + [i = j]) l_i l_j / (l_i + l_j) of its covariance, l the eigenvalues
    of S: the second-order term of the distance at S (Bures metric) under the variances of a Wishart matrix.
    """
    if not len(values):
        return 0.0
    mean = values.sum() / samples
    pairs = values[:, None] * values / (values[:, None] + values)
    return float(mean + (pairs.sum() + pairs.trace()) / (2 * samples))
