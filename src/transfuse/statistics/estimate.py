"""One arm's metric with its interval: patients and seeds are both samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import SpecError
from transfuse.statistics.arm import Arm, arm_of_scores
from transfuse.statistics.variance import half_width, honest, spread_of

__all__ = ["Estimate", "estimate", "estimate_arm"]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Args:
        value: the estimate.
        low: lower end; -inf where no interval can be given.
        high: upper end; inf where no interval can be given.
        confidence: of the interval, in (0, 1).
        method: how the interval was made, in words.
        n: number of patients.
    """

    value: float
    low: float
    high: float
    confidence: float
    method: str
    n: int


def estimate(
    target: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[object] | np.ndarray | None,
    metric: str = "auroc",
    folds: ArrayLike | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """One arm's mean metric over its seeds, with an interval for new patients and new seeds.

    The same variance as in `compare`, with one arm. The interval is cut at the metric's bounds. With one seed it covers
    patients only, and `method` says so.

    Args:
        target: `(N,)` or `(N, C)`, as for `compare`.
        scores: `(seeds, N)` or `(seeds, N, C)`.
        patients: `(N,)` ids, or None.
        metric: key of `transfuse.metrics.METRICS`.
        folds: `(N,)` fold of each sample, under cross-validation.
        seed: of the resamples.
        confidence: in (0, 1).

    Raises:
        SpecError: a confidence outside (0, 1), an unknown metric.
        DataError: as `compare`.
    """
    if not 0 < confidence < 1:
        raise SpecError(f"confidence is {confidence!r}; expected a number between 0 and 1, as 0.95")
    return estimate_arm(arm_of_scores(target, scores, patients, metric, folds, seed), confidence)


def estimate_arm(arm: Arm, confidence: float = 0.95) -> Estimate:
    """`estimate` for an arm that was resampled before."""
    bounds = arm.metric.bounds
    spread = honest(spread_of([(part, 0) for part in arm.parts], arm.seeds, 0, bounds), arm.metric)
    half = half_width(spread, arm.seeds, 1, 0.5 + confidence / 2)
    if not math.isfinite(half):
        method = f"no interval: {spread.reason}"
    elif arm.seeds == 1:
        method = "bootstrap of patients, one seed: what another seed would give is not covered"
    else:
        df = spread.components.precision(arm.seeds, 1)[1]
        method = f"patients and seeds, Satterthwaite t with {df:.1f} degrees of freedom"
    if arm.anonymous:
        method += ", each sample taken as a patient"
    low, high = spread.difference - half, spread.difference + half
    if math.isfinite(half):
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(spread.difference, low, high, confidence, method, arm.patients)
