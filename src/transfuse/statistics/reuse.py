"""How much of a transfer's benefit is reuse of features: shares and gains between three arms, and depth sweeps.

WT is transfer of pretrained weights, ST of their statistics only (Mean Var, METHODS INIT), RI random initialisation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError
from transfuse.metrics import find_metric
from transfuse.statistics.bootstrap import Replicates, of_scores, read_runs, resample_folds
from transfuse.statistics.seeds import Ratio, checked_confidence, positive_mean, ratio_of_means
from transfuse.statistics.variance import half_width, spread_of


def reuse_share(wt: ArrayLike, st: ArrayLike, confidence: float = 0.95) -> Ratio:
    """Feature-reuse share `(WT - ST) / WT` of means over seeds, with an interval over seeds (METHODS MET-9; M, Fig. 1).

    Below 0 where statistics alone do better. The share is of the metric itself: AUROC begins at 0.5, not at 0, so even
    a transfer that owes everything to its features stays below 0.5 there.

    Args:
        wt: `(S,)` metric of each seed of the arm with pretrained weights; higher is better, mean > 0.
        st: `(T,)` the same of the arm with their mean and variance only.
        confidence: of the interval, in (0, 1).

    Raises:
        DataError: no seed, values that are not finite, a mean that is not positive.
        SpecError: a confidence outside (0, 1).

    >>> round(reuse_share([0.80, 0.82, 0.78], [0.72, 0.70, 0.74]).value, 3)
    0.1
    """
    return _share(ratio_of_means(wt, st, confidence))


def relative_gain(wt: ArrayLike, ri: ArrayLike, confidence: float = 0.95) -> Ratio:
    """Relative gain `WT / RI` of means over seeds, with an interval over seeds (METHODS MET-9; M, Fig. 1).

    Args:
        wt: `(S,)` metric of each seed of the arm with pretrained weights; higher is better, mean > 0.
        ri: `(T,)` the same of the arm with random weights.
        confidence: of the interval, in (0, 1).

    Raises:
        DataError: no seed, values that are not finite, a mean that is not positive.
        SpecError: a confidence outside (0, 1).

    >>> round(relative_gain([0.80, 0.82, 0.78], [0.50, 0.48, 0.52]).value, 3)
    1.6
    """
    return ratio_of_means(wt, ri, confidence)


def reuse_share_over_patients(
    target: ArrayLike,
    wt: ArrayLike,
    st: ArrayLike,
    patients: Sequence[object] | np.ndarray | None,
    metric: str = "auroc",
    confidence: float = 0.95,
    seed: int = 0,
) -> Ratio:
    """`reuse_share` from the test predictions, with an interval over patients and seeds.

    Args:
        target: `(N,)` class index, or `(N, C)` of 0, 1, NaN (unlabelled).
        wt: `(seeds, N)` or `(seeds, N, C)` scores of the arm with pretrained weights.
        st: the same of the arm with their mean and variance only.
        patients: `(N,)` patient id of each sample; None: each sample is its own patient, and the method says so.
        metric: key of `transfuse.metrics.METRICS`; higher has to be better.
        confidence: of the interval, in (0, 1).
        seed: of the resamples of patients.

    Raises:
        SpecError: an unknown metric, one of which less is better, a confidence outside (0, 1).
        DataError: shapes that do not fit, NaN scores, a metric whose mean is not positive.
    """
    return _share(_tested_ratio(target, {"wt": wt, "st": st}, patients, metric, confidence, seed))


def relative_gain_over_patients(
    target: ArrayLike,
    wt: ArrayLike,
    ri: ArrayLike,
    patients: Sequence[object] | np.ndarray | None,
    metric: str = "auroc",
    confidence: float = 0.95,
    seed: int = 0,
) -> Ratio:
    """`relative_gain` from the test predictions, with an interval over patients and seeds.

    Args:
        target: as for `reuse_share_over_patients`.
        wt: scores of the arm with pretrained weights.
        ri: scores of the arm with random weights.
        patients: as for `reuse_share_over_patients`.
        metric: key of `transfuse.metrics.METRICS`; higher has to be better.
        confidence: of the interval, in (0, 1).
        seed: of the resamples of patients.

    Raises:
        SpecError: as `reuse_share_over_patients`.
        DataError: as `reuse_share_over_patients`.
    """
    return _tested_ratio(target, {"wt": wt, "ri": ri}, patients, metric, confidence, seed)


def min_max(values: ArrayLike) -> np.ndarray:
    """Shares or gains of several settings, stretched to [0, 1]: the smallest is 0, the largest 1 (M, Fig. 1).

    What one setting gets depends on all the others: a picture's scale, never a result of its own.

    Args:
        values: `(K,)` finite, at least two of them different.

    Raises:
        DataError: another shape, values that are not finite, or all the same.

    >>> min_max([0.1, 0.3, 0.2]).round(3).tolist()
    [0.0, 1.0, 0.5]
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or len(array) < 2 or np.ptp(array) == 0:
        raise DataError(
            f"cannot stretch {array.tolist()} to 0 to 1; expected (K,) finite values of K >= 2 settings, not all equal"
        )
    return (array - array.min()) / np.ptp(array)


def area_above_random(coefficients: ArrayLike, random: ArrayLike) -> float:
    """Area between the sorted CCA coefficients and those of random features (METHODS AN-25).

    Both are sorted, largest first, over the rank stretched to [0, 1] (first coefficient 0, last 1), and joined by
    straight lines; the area is signed and lies in [-1, 1]. Differing numbers of coefficients are no obstacle. The
    random features have to have the shape of the real ones, since their level rises with channels / samples.

    Args:
        coefficients: `(K,)` of the features, in [0, 1].
        random: `(R,)` of random features of the same shape, in [0, 1].

    Raises:
        DataError: none, another shape, or values outside [0, 1].

    >>> area_above_random([1.0, 0.5, 0.0], [0.2, 0.1, 0.0])
    0.4
    """
    curves = []
    for name, values in (("coefficients", coefficients), ("random", random)):
        array = np.asarray(values, dtype=np.float64)
        # Coefficients of an eigensolver leave [0, 1] by rounding.
        if array.ndim != 1 or len(array) == 0 or not ((array >= -1e-4) & (array <= 1 + 1e-4)).all():
            raise DataError(
                f"{name} has shape {array.shape} and holds {array.min() if array.size else 'nothing'} to "
                f"{array.max() if array.size else 'nothing'}; expected (K,), K >= 1, canonical correlations in [0, 1]"
            )
        curves.append(np.sort(np.clip(array, 0.0, 1.0))[::-1])
    places = [np.linspace(0.0, 1.0, len(curve)) for curve in curves]
    knots = np.unique(np.r_[0.0, places[0], places[1], 1.0])  # exact: both curves are straight between knots
    above, below = (np.interp(knots, x, y) for x, y in zip(places, curves, strict=True))
    return float(np.trapezoid(above - below, knots))


def _share(ratio: Ratio) -> Ratio:
    """`(WT - ST) / WT = 1 - 1 / (WT / ST)`, which rises with the ratio, so its interval goes over as it is."""
    low, high = ((1 - 1 / end) if math.isfinite(end) else end for end in (ratio.low, ratio.high))
    return dataclasses.replace(ratio, value=1 - 1 / ratio.value, low=low, high=high)


def _tested_ratio(
    target: ArrayLike,
    scores: dict[str, ArrayLike],
    patients: Sequence[object] | np.ndarray | None,
    metric: str,
    confidence: float,
    seed: int,
) -> Ratio:
    """Ratio of mean metrics with the variance components of `transfuse.statistics.comparison`, on the logarithm.

    To first order the logarithm of a mean varies as the mean divided by itself; so each arm's runs are divided by the
    arm's mean, and their difference has the variance of the log ratio over patients, seeds and their interaction.
    """
    checked_confidence(confidence)
    kind = find_metric(metric)
    if not kind.higher_is_better:
        raise SpecError(f"metric is {metric!r}, of which less is better; a share or a gain needs one of which more is")
    labels = np.asarray(target)
    arms = {name: read_runs(name, values, labels) for name, values in scores.items()}
    (first, above), (second, below) = arms.items()
    if above.shape[2:] != below.shape[2:]:
        raise DataError(f"{first} has shape {above.shape} and {second} {below.shape}; both need the same classes")
    measure = of_scores(metric, labels, [*above, *below])
    parts, _ = resample_folds(measure, len(labels), patients, None, seed)
    (part,) = parts
    count = len(above)
    means = [
        positive_mean(f"{metric} of {name}", part.points[rows, 0])
        for name, rows in ((first, slice(0, count)), (second, slice(count, None)))
    ]
    scale = np.r_[np.full(count, means[0]), np.full(len(below), means[1])]
    relative: Replicates = dataclasses.replace(
        part, points=part.points / scale[:, None], values=part.values / scale[:, None, None]
    )
    # Whether there is a variance at all is asked of the metric itself, which has bounds; a ratio of it has none.
    spread = spread_of([(part, 0)], count, len(below), kind.bounds)
    if not spread.reason:
        spread = spread_of([(relative, 0)], count, len(below), (-math.inf, math.inf))
    half = half_width(spread, count, len(below), 0.5 + confidence / 2)
    value = means[0] / means[1]
    single = min(count, len(below)) == 1
    if not math.isfinite(half):
        return Ratio(value, -math.inf, math.inf, confidence, f"no interval: {spread.reason}")
    df = spread.components.precision(count, len(below))[1]
    method = f"patients and seeds, t of the logarithm with {df:.1f} degrees of freedom"
    if single:
        method = "patients; an arm has one seed, so what another seed would give is not covered"
    if patients is None:
        method += ", each sample taken as a patient"
    return Ratio(value, value * math.exp(-half), value * math.exp(half), confidence, method)
