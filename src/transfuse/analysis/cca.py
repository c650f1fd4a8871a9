"""Canonical correlation of two representations of the same samples: CCA, SVCCA and PWCCA.

CCA asks which directions of x's neurons and of y's go together, whatever the neurons' scales and mixtures: it is the
same after any invertible linear map of either side. All three measures come from means and second moments alone, so
extra memory is that of a few matrices D x D, not of copies of the features.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from transfuse.analysis.chance import independent_level
from transfuse.analysis.moments import Matrix, Moments, as_rows, cross_product
from transfuse.analysis.similarity import Similarity
from transfuse.analysis.whitening import TOLERANCE, Whitened, principal, whitened
from transfuse.errors import AnalysisError, AnalysisWarning

__all__ = ["cca", "pwcca", "svcca"]

FLOAT32_CONDITION = 1e2
"""Up to this ratio of singular values products in float32 give the value to 1e-6 (measured in benchmarks/cca.py)."""
_FLOAT32_RANGE = 1e-12, 1e12


def cca(x: Matrix, y: Matrix, *, tolerance: float = TOLERANCE) -> Similarity:
    """Mean canonical correlation of two sets of features of the same samples (Raghu et al. 2019, "Transfusion").

    The mean is over all `min(rank_x, rank_y)` coefficients, as the paper has it, not the leading 98 % of their sum that
    the code of its authors returns as "mean".

    Products are taken in float32 (and added up in float64) for float32 and half-precision features whose standardised
    singular values differ by at most a factor of 1e2, otherwise in float64. All else is float64.

    Args:
        x: (N, D) array or tensor of any floating type, N samples in rows.
        y: (N, E), the same samples in the same order.
        tolerance: directions whose singular value is below this part of the greatest, columns scaled to unit variance,
            are noise and are cut. Constant columns always are. `rank` in the result says what was kept.

    Returns:
        Similarity: value in [0, 1], and beside it `independent`, the value for features that have nothing to do with
        each other, which is far from 0 unless N is many times the ranks.

    Raises AnalysisError for other shapes, numbers of samples that differ, NaN or infinite values, and features that
    are all constant. Warns (AnalysisWarning) of fewer than 10 samples a neuron.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 8))
    >>> result = cca(x, x @ rng.normal(size=(8, 8)) + 3)
    >>> round(result.value, 6), result.rank, round(result.independent, 2)
    (1.0, (8, 8), 0.11)
    >>> round(float(cca(x, rng.normal(size=(500, 8)))), 2)
    0.11
    """
    return canonical(*_pair(x, y), tolerance)


def canonical(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> Similarity:
    """`cca` of checked rows, without a warning."""
    fast = a.dtype != torch.float64 and b.dtype != torch.float64
    sides = _in_float32(a, b, tolerance) if fast else None
    if sides is None:
        sides = _in_float64(a, b, tolerance)
    return compare("cca", *sides, samples=len(a))


def svcca(x: Matrix, y: Matrix, variance: float = 0.99, *, tolerance: float = TOLERANCE) -> Similarity:
    """CCA of the principal directions that hold 99 % of each side's variance (Raghu et al. 2017).

    Variance is the sum of *squared* singular values of the *centred* features. Not invariant to all invertible maps:
    rotations and a common scale leave it as it is, scaling single neurons does not.

    Args:
        x: (N, D) array or tensor.
        y: (N, E), the same samples.
        variance: share to keep, in (0, 1]; the fewest directions that reach it.
        tolerance: directions below this part of the greatest singular value are cut, whatever the share.

    Returns and raises as `cca`; `rank` is the number of directions that were kept on each side.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 8)) * [3, 3, 1, 1, 0.01, 0.01, 0.01, 0.01]
    >>> result = svcca(x, x)
    >>> round(result.value, 6), result.rank
    (1.0, (4, 4))
    """
    a, b = _pair(x, y)
    moments = Moments()
    moments.add({"x": a, "y": b})
    sides = [principal(moments, name, variance, tolerance) for name in ("x", "y")]
    return compare("svcca", sides[0], sides[1], moments.cross("x", "y"), samples=len(a))


def pwcca(x: Matrix, y: Matrix, *, tolerance: float = TOLERANCE) -> Similarity:
    """CCA with each coefficient weighted by how much of x its direction accounts for (Morcos et al. 2018).

    `sum alpha_i rho_i / sum alpha_i` with `alpha_i = sum_j |<h_i, x_j>|`, h_i the canonical variates of x and x_j its
    centred neurons: the definition of the paper. Its authors' code leaves out a factor in h_i and gives another number.
    Not symmetric: `pwcca(x, y)` weighs by x.

    Args:
        x: (N, D) array or tensor.
        y: (N, E), the same samples.
        tolerance: as for `cca`.

    Returns and raises as `cca`; `independent` is that of CCA, since independent features weigh all directions alike.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 8)) * [5, 1, 1, 1, 1, 1, 1, 1]
    >>> y = np.hstack([x[:, :1], rng.normal(size=(500, 7))])
    >>> bool(pwcca(x, y).value > cca(x, y).value)
    True
    """
    a, b = _pair(x, y)
    return compare("pwcca", *_in_float64(a, b, tolerance), samples=len(a))


def compare(measure: str, x: Whitened, y: Whitened, cross: Tensor, samples: int) -> Similarity:
    """The similarity of two whitened sides with their cross-covariance (D, E)."""
    core = y.apply(x.apply(cross).mT)
    weights = None
    if measure == "pwcca":
        squares, directions = torch.linalg.eigh(cross_product(core, core))
        few = min(x.rank, y.rank)
        weights = (directions[:, -few:].flip(1).mT @ x.loadings()).abs().sum(1).cpu().numpy()
        squares = squares[-few:]
    else:
        small = core if x.rank <= y.rank else core.mT.contiguous()
        squares = torch.linalg.eigvalsh(cross_product(small, small))
    coefficients = squares.clamp(0, 1).sqrt().flip(0).cpu().numpy()
    value = float(np.average(coefficients, weights=weights))
    level = independent_level(samples, x.rank, y.rank)
    return Similarity(value, measure, samples, (x.rank, y.rank), coefficients, level)


def warn_of_few(samples: int, neurons: int, what: str, stacklevel: int) -> None:
    """Warns where there are fewer than 10 samples a neuron; `stacklevel` as if the caller called `warnings.warn`."""
    if samples >= 10 * neurons:
        return
    trivial = " With so few the value is 1 whatever the features are." if samples <= neurons else ""
    warnings.warn(
        f"{what}: {samples} samples of {neurons} neurons; expected at least {10 * neurons}, 10 a neuron, since fewer "
        f"make any two representations look alike.{trivial} Compare with `independent`, take more images or the "
        "positions, or fewer neurons (svcca, cca_patches).",
        AnalysisWarning,
        stacklevel=stacklevel + 1,
    )


def pair_of_rows(x: Matrix, y: Matrix) -> tuple[Tensor, Tensor]:
    """Both sides as rows on one device.

    Raises AnalysisError where they are no rows of the same samples.
    """
    a, b = as_rows(x, "x"), as_rows(y, "y")
    if len(a) != len(b):
        raise AnalysisError(
            f"x has {len(a)} samples and y {len(b)} (shapes {tuple(a.shape)} and {tuple(b.shape)}); expected the same "
            "samples in the same order, in rows"
        )
    return a, b.to(a.device)


def _pair(x: Matrix, y: Matrix) -> tuple[Tensor, Tensor]:
    a, b = pair_of_rows(x, y)
    warn_of_few(len(a), max(a.shape[1], b.shape[1]), "too few samples", stacklevel=3)
    return a, b


def _in_float64(x: Tensor, y: Tensor, tolerance: float) -> tuple[Whitened, Whitened, Tensor]:
    moments = Moments()
    moments.add({"x": x, "y": y})
    return whitened(moments, "x", tolerance), whitened(moments, "y", tolerance), moments.cross("x", "y")


def _in_float32(x: Tensor, y: Tensor, tolerance: float) -> tuple[Whitened, Whitened, Tensor] | None:
    """The same with products in float32; None where they do not suffice."""
    sides = []
    for name, rows in (("x", x), ("y", y)):
        if len(rows) <= rows.shape[1]:
            return None
        own = Moments([(name, name)], products=torch.float32)
        own.add({name: rows})
        deviation = own.covariance(name).diagonal()
        if not bool(((deviation > _FLOAT32_RANGE[0] ** 2) & (deviation < _FLOAT32_RANGE[1] ** 2)).all()):
            return None
        sides.append(whitened(own, name, tolerance))
        if sides[-1].condition > FLOAT32_CONDITION:
            return None
    both = Moments([("x", "y")], products=torch.float32)
    both.add({"x": x, "y": y})
    return sides[0], sides[1], both.cross("x", "y")
