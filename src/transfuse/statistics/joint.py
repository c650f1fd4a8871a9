"""The metrics of several arms, drawn many times from one joint distribution: that which `compare` takes its error from.

Arms share the resamples of patients, so what makes the patients easy or hard for all of them cancels, and each has its
own seeds. In the b-th draw the metric of an arm of S seeds is

    mean + c_b (mean over seeds on the b-th resample of patients, less the mean of that over resamples)
         + t_b sqrt(s^2 / S)

s^2 is the variance of one seed's metric on infinitely many patients: the variance between seeds less the
patient x seed interaction, which the resamples hold already. t_b is drawn from Student's t with S - 1 degrees of
freedom, as a few seeds tell little of s^2. c_b^2 is n / chi^2(n - 1), the same for all arms: a bootstrap variance of n
patients is too small by (n - 1) / n, and is itself known with n - 1 degrees of freedom only. So a difference of two
arms has the terms of `SE^2 = V_patients + s_A^2 / S_A + s_B^2 / S_B`, each with its own degrees of freedom; `compare`
adds them up and has Satterthwaite's for the sum. The folds of a cross-validation are one more term, as there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from transfuse.statistics.arm import Arm
from transfuse.statistics.variance import column_of, honest, rests_on, spread_of

# Fewer usable resamples than this give no distribution.
_FEWEST = 200
SAME = 1e-9
"""Values of a metric that are nearer than this are the same: what lies between them is rounding."""


def joint_draws(arms: Sequence[Arm]) -> np.ndarray:
    """Joint draws of the metrics of arms of two seeds or more, which were tested on the same samples.

    Returns:
        `(A, B)`, turned so that more is better; B is 0 where too few resamples of patients have a value for every arm.

    >>> from transfuse.statistics.arm import arm_of_scores
    >>> generator, target = np.random.default_rng(0), np.repeat([0, 1], 100)
    >>> scores = [target * effect + generator.normal(size=(4, 200)) for effect in (1.0, 1.5)]
    >>> worse, better = joint_draws([arm_of_scores(target, one, range(200)) for one in scores])
    >>> round(float(np.mean(better > worse)), 1)
    1.0
    """
    sign = 1 if arms[0].metric.higher_is_better else -1
    # Over seeds within a fold, (A, K) and (A, K, B), then over folds.
    points = np.array([[part.points[:, 0].mean() for part in arm.parts] for arm in arms])
    values = np.array([[part.values[:, 0].mean(axis=0) for part in arm.parts] for arm in arms])
    values = values[:, :, np.isfinite(values).all(axis=(0, 1))]
    count = values.shape[2]
    # Of the arm whose mean over classes rests on the fewest patients.
    rests = [[rests_on(part, 0, np.full(arm.seeds, 1 / arm.seeds)) for part in arm.parts] for arm in arms]
    df, size = min((sum(one[0] for one in parts), sum(one[1] for one in parts)) for parts in rests)
    if df < 1 or count < _FEWEST:
        return np.empty((len(arms), 0))
    shared = np.random.default_rng([arms[0].seed, count])
    over_folds = values.mean(axis=1)
    factor = np.sqrt(size / shared.chisquare(df, count))
    drawn = points.mean(axis=1)[:, None] + factor * (over_folds - over_folds.mean(axis=1, keepdims=True))
    for row, arm in zip(drawn, arms, strict=True):
        spread = spread_of([(part, 0) for part in arm.parts], arm.seeds, 0, arm.metric.bounds).components.seeds_a
        if spread > 0:  # not so for NaN, at the bound of the metric
            row += _generator(arm, 0).standard_t(arm.seeds - 1, count) * math.sqrt(spread / arm.seeds)
    if points.shape[1] > 1:
        noise = np.array([_generator(arm, 1).standard_normal(count) for arm in arms])
        folds = points.shape[1]
        drawn += np.sqrt((folds - 1) / shared.chisquare(folds - 1, count)) * (_fold_root(points, values) @ noise)
    return sign * drawn


def _fold_root(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The root of the covariance of the arms' means over folds that comes from their training sets, `(A, A)`.

    As `transfuse.statistics.variance` has it for two arms (Nadeau and Bengio 2003): what differs between folds beyond
    what the patients in them explain, times 1/K + 1/(K-1). It is that of each arm less the mean of all arms, since only
    differences count.
    """
    arms, folds = points.shape
    centred = np.eye(arms) - 1 / arms
    between = np.atleast_2d(np.cov(centred @ points))
    within = np.mean([np.atleast_2d(np.cov(centred @ values[:, k])) for k in range(folds)], axis=0)
    roots, vectors = np.linalg.eigh((between - within) * (1 / folds + 1 / (folds - 1)))
    return (vectors * np.sqrt(np.maximum(roots, 0.0))) @ vectors.T


def _generator(arm: Arm, stream: int) -> np.random.Generator:
    """A generator that depends on an arm's runs alone: neither names nor order matter, and copies share their draws."""
    digest = hashlib.sha256()
    for part in arm.parts:
        digest.update(np.ascontiguousarray(part.points[:, 0]).tobytes())
        digest.update(np.ascontiguousarray(part.values[:, 0]).tobytes())
    return np.random.default_rng([arm.seed, stream, int.from_bytes(digest.digest())])


def withheld(arm: Arm) -> str:
    """Why an arm's metric has no variance that could be trusted; empty where it has one."""
    for part in arm.parts:
        for c in part.classes:
            if part.support[column_of(part, c)] < 2:
                return f"class {c} has positives or negatives of fewer than two patients"
    return honest(spread_of([(part, 0) for part in arm.parts], arm.seeds, 0, arm.metric.bounds), arm.metric).reason
