"""LogME: how well features explain labels, as the evidence of a Bayesian linear model, without training."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from torch import Tensor

from transfuse.analysis.knn import plain_array
from transfuse.analysis.whitening import TOLERANCE
from transfuse.errors import AnalysisError

__all__ = ["logme"]

_RATIOS = 81
_LOWEST, _HIGHEST = 1e-10, 1e8  # alpha / beta, relative to the greatest squared singular value
_EXACT = 1e-12  # a smaller part of the labels that no weights explain is rounding


def logme(features: ArrayLike | Tensor, targets: ArrayLike | Tensor) -> float:
    """The maximum evidence of features for labels: log p(y | F) / N, the mean over classes (You et al. 2021).

    Labels are numbers y = F w + noise with w ~ N(0, 1/alpha) and noise ~ N(0, 1/beta), each class against the rest
    as y in {0, 1} (section 4). Features are taken as they are: not centred, not scaled, no bias. Higher is better; only
    features for the same labels can be compared. It is the same after a rotation of the features, a common scale,
    features that are 0, and another numbering of the classes.

    The paper finds alpha and beta by a fixed point, from the singular values s of F and z = U'y. Its fixed points are
    the stationary points of the evidence. For a given ratio t = alpha / beta the best beta is N / Q(t) with
    `Q(t) = |y|^2 - |z|^2 + sum_i t z_i^2 / (s_i^2 + t)`, which leaves one unknown:
    `log p = N/2 (log(N / (2 pi Q(t))) - 1) - 1/2 sum_i log(1 + s_i^2 / t)`. That is searched over 18 decades of t and
    then maximised, so it does not hang on a start and ends where the fixed point runs away (features that explain
    nothing, alpha = infinity; features that explain all, beta = infinity).

    Args:
        features: `(N, D)`, D may exceed N.
        targets: `(N,)` class indices, or `(N, C)` of 0, 1 and NaN (unlabelled: left out for that class only).

    Returns:
        The mean over the classes that have positives and negatives.

    Raises:
        AnalysisError: other shapes, NaN or infinite features, labels that cannot be meant, no class with both.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 2
    >>> told, noise = labels[:, None] + 0.3 * rng.normal(size=(200, 4)), rng.normal(size=(200, 4))
    >>> round(logme(told, labels), 1), round(logme(noise, labels), 1)
    (-0.3, -1.1)
    """
    return logme_of(checked_features(features), columns_of(targets))


def logme_of(features: Tensor, labels: np.ndarray) -> float:
    """`logme` of checked features `(N, D)` float64 and labels `(N, C)` of 0, 1, NaN."""
    if len(features) != len(labels):
        raise AnalysisError(f"{len(features)} features and {len(labels)} targets; expected as many")
    known = ~np.isnan(labels)
    patterns: dict[bytes, list[int]] = {}
    for column in range(labels.shape[1]):
        values = labels[known[:, column], column]
        if 0 < values.sum() < len(values):
            patterns.setdefault(known[:, column].tobytes(), []).append(column)
    if not patterns:
        raise AnalysisError("no class has both positives and negatives among the targets; expected two classes")
    found: list[float] = []
    for columns in patterns.values():  # classes that are labelled on the same images share the singular values
        rows = known[:, columns[0]]
        spectrum = _spectrum(features[torch.from_numpy(rows)], labels[rows][:, columns])
        found += [_maximum(spectrum, column) for column in range(len(columns))]
    return float(np.mean(found))


class _Spectrum(NamedTuple):
    """Squared singular values (R,), squared projections z^2 (R, C), what is left of |y|^2 (C,), and N."""

    squares: np.ndarray
    inside: np.ndarray
    outside: np.ndarray
    samples: int


def _spectrum(features: Tensor, labels: np.ndarray) -> _Spectrum:
    count, width = features.shape
    scale = float(features.abs().max())
    y = torch.from_numpy(labels).to(features.device)
    total = y.square().sum(0)
    if scale == 0:
        return _Spectrum(np.empty(0), np.empty((0, labels.shape[1])), total.cpu().numpy(), count)
    rows = features / scale  # tiny features stay clear of underflow
    squares, vectors = torch.linalg.eigh(rows.mT @ rows if width <= count else rows @ rows.mT)
    kept = squares > TOLERANCE**2 * squares[-1]
    squares, vectors = squares[kept], vectors[:, kept]
    left = (rows.mT @ y, squares[:, None]) if width <= count else (y, 1.0)
    inside = (vectors.mT @ left[0]).square() / left[1]
    outside = (total - inside.sum(0)).clamp_min(0)
    outside = torch.maximum(outside, _EXACT * total)
    return _Spectrum(squares.cpu().numpy(), inside.cpu().numpy(), outside.cpu().numpy(), count)


def _maximum(spectrum: _Spectrum, column: int) -> float:
    """The maximum of the evidence over t = alpha / beta, divided by N."""
    squares, inside = spectrum.squares, spectrum.inside[:, column]
    count, outside = spectrum.samples, float(spectrum.outside[column])

    def evidence(log_ratio: np.ndarray) -> np.ndarray:
        ratio = np.exp(log_ratio)[:, None]
        left = outside + (ratio * inside / (squares + ratio)).sum(1)
        return count / 2 * (np.log(count / (2 * math.pi * left)) - 1) - 0.5 * np.log1p(squares / ratio).sum(1)

    if not len(squares):
        return float(evidence(np.zeros(1))[0]) / count
    low, high = math.log(_LOWEST * squares[-1]), math.log(_HIGHEST * squares[-1])
    grid = np.linspace(low, high, _RATIOS)
    values = evidence(grid)
    best = int(values.argmax())
    ends = grid[max(best - 1, 0)], grid[min(best + 1, _RATIOS - 1)]
    found = minimize_scalar(
        lambda x: -evidence(np.array([x]))[0], bounds=ends, method="bounded", options={"xatol": 1e-5}
    )
    return max(float(-found.fun), float(values[best])) / count


def checked_features(features: ArrayLike | Tensor) -> Tensor:
    """Features `(N, D)` as finite float64.

    Raises:
        AnalysisError: other shapes, NaN or infinite values.
    """
    tensor = features.detach() if isinstance(features, Tensor) else torch.from_numpy(plain_array(features))
    if tensor.ndim != 2 or not tensor.numel() or tensor.is_complex():
        raise AnalysisError(f"features have shape {tuple(tensor.shape)}; expected (N, D) of at least one sample")
    tensor = tensor.double()
    if bad := int((~torch.isfinite(tensor)).sum()):
        raise AnalysisError(
            f"{bad} of {tensor.numel()} features are NaN or infinite; expected finite ones. Look for diverged weights, "
            "images that are not normalised, or half precision that overflows"
        )
    return tensor


def columns_of(targets: ArrayLike | Tensor) -> np.ndarray:
    """Class indices `(N,)`, or labels `(N, C)`, as float64 columns of 0, 1 and NaN, one a class.

    Raises:
        AnalysisError: other shapes, or values that are no class and no label.
    """
    given = plain_array(targets)
    if given.ndim not in (1, 2) or not given.size or given.dtype.kind not in "fiub":
        raise AnalysisError(
            f"targets have shape {given.shape} and type {given.dtype}; expected (N,) class indices, or (N, C) of 0, 1 "
            "and NaN"
        )
    numbers = given.astype(np.float64)
    if given.ndim == 2:
        wrong = ~(np.isnan(numbers) | (numbers == 0) | (numbers == 1))
        expected = "0, 1 or NaN (unlabelled), or class indices (N,)"
    else:
        wrong = ~((numbers >= 0) & (numbers == np.round(numbers)))
        expected = "class indices from 0; leave samples without a class out"
    if wrong.any():
        raise AnalysisError(
            f"targets hold {numbers[wrong][0]:g} ({int(wrong.sum())} of {numbers.size} such); expected {expected}"
        )
    return numbers if given.ndim == 2 else np.eye(int(numbers.max()) + 1)[numbers.astype(np.int64)]
