"""The variance of a difference of two arms, split into patients, seeds, their interaction, and folds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from transfuse.metrics import Metric
from transfuse.statistics.bootstrap import Replicates
from transfuse.statistics.planning import Components, t_quantile

# Fewer usable resamples than this give no variance.
_FEWEST_REPLICATES = 200
# Values of a metric that are nearer than this are the same: what lies between them is rounding.
SAME = 1e-9
_UNKNOWN = Components(math.nan, math.nan, math.nan, math.nan, math.nan, patients_df=math.nan)


@dataclass(frozen=True)
class Spread:
    """A difference with the components of its variance.

    Args:
        difference: mean over A's seeds less mean over B's; one arm's mean without B.
        points: `(R,)` the metric of each run, A's seeds first.
        components: of the variance.
        reason: why no interval can be given; empty where one can.
        cure: what would give one; empty where there is one.
        lost_resamples: share of resamples of patients without a value, in [0, 1].
        by_class: whether a class is what they lacked.
    """

    difference: float
    points: np.ndarray
    components: Components
    reason: str
    lost_resamples: float
    cure: str = ""
    by_class: bool = True


def column_of(part: Replicates, index: int) -> int:
    """Column of a class in the replicates; -1 where it is undefined there."""
    return 1 + part.classes.index(index) if index in part.classes else -1


def spread_of(columns: list[tuple[Replicates, int]], seeds_a: int, seeds_b: int, bounds: tuple[float, float]) -> Spread:
    """The difference of two arms (or, with `seeds_b` 0, one arm's mean) and the components of its variance.

    Args:
        columns: of each fold (one without folds) the replicates and the column that is meant, -1 if undefined there.
        seeds_a: of the runs, how many are arm A's; they come first.
        seeds_b: how many are arm B's.
        bounds: of the metric.
    """
    there = [(part.points[:, k], part.values[:, k], int(part.support[k])) for part, k in columns if k >= 0]
    by_class = any(part.classes for part, _ in columns)
    points = np.mean([one[0] for one in there], axis=0)
    values = np.mean([one[1] for one in there], axis=0)
    usable = np.isfinite(values).all(axis=0)
    kept = values[:, usable]
    sign = np.r_[np.full(seeds_a, 1 / seeds_a), np.full(seeds_b, -1 / max(seeds_b, 1))]
    difference, lost = float(sign @ points), 1 - float(usable.mean())
    reason, cure = _reason(there, kept, usable.size, bounds, len(columns), by_class), "Test on more patients"
    if not reason and seeds_b > 0 and _all_the_same(there, kept):
        reason = (
            f"the arms give the same value on every resample ({points[0]:.3g} on the sample): the networks predict the "
            "same for everybody, or they are copies of each other, and neither says how far two trainings differ"
        )
        cure = "Look at whether the networks have learned anything, and whether their seeds differ"
    if reason:
        return Spread(difference, points, _UNKNOWN, reason, lost, cure, by_class)
    rests = [rests_on(part, k, sign) for part, k in columns if k >= 0]
    df = sum(one[0] for one in rests)
    # A bootstrap variance of n patients is too small by (n - 1) / n.
    scale = sum(one[1] for one in rests) / df
    total = scale * float((sign @ kept).var(ddof=1))
    seeds, interaction, alone = [], [], []
    for rows in (slice(0, seeds_a), slice(seeds_a, seeds_a + seeds_b)):
        spread, mixed = _seed_terms(points[rows], kept[rows], scale)
        seeds.append(spread)
        interaction.append(mixed)
        if count := len(points[rows]):
            alone.append(max(0.0, scale * float(kept[rows].mean(axis=0).var(ddof=1)) - mixed / count))
        else:
            alone.append(math.nan)
    folds, folds_df = _fold_term(there, sign)
    components = Components(
        patients=max(0.0, total - interaction[0] / seeds_a - interaction[1] / max(seeds_b, 1)),
        interaction_a=interaction[0],
        interaction_b=interaction[1],
        seeds_a=seeds[0],
        seeds_b=seeds[1],
        folds=folds,
        patients_df=df,
        folds_df=folds_df,
        alone_a=alone[0],
        alone_b=alone[1],
        levels=_levels(points, seeds_a, bounds),
        span=bounds[1] - bounds[0],
    )
    return Spread(difference, points, components, "", lost, by_class=by_class)


def rests_on(part: Replicates, column: int, sign: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom of the variance over patients of a column, and these times what it is too small by.

    Of a class that n patients carry, n - 1 and n. Of a mean over classes Satterthwaite's, by the share that each class
    has in the variance: where nearly all of it is that of a class with three positive patients, it has two degrees of
    freedom, however many patients carry the others.
    """
    support = int(part.support[column])
    known = [k for k in range(1, 1 + len(part.classes)) if part.support[k] > 1] if column == 0 else []
    if len(part.classes) < 2 or not known:
        return support - 1, support
    n = part.support[known].astype(np.float64)
    plain = np.array([np.nanvar(sign @ part.values[:, k], ddof=1) for k in known])
    scaled = plain * n / (n - 1)
    if not (total := float(scaled.sum())) > 0:
        return support - 1, support
    df = min(total**2 / float((scaled**2 / (n - 1)).sum()), support - 1)
    return df, df * total / float(plain.sum())


def _levels(points: np.ndarray, seeds_a: int, bounds: tuple[float, float]) -> tuple[float, float]:
    """Where the means of the two arms lie between the bounds of the metric."""
    means = [float(rows.mean()) if len(rows) else math.nan for rows in (points[:seeds_a], points[seeds_a:])]
    low, high = bounds
    return (means[0] - low) / (high - low), (means[1] - low) / (high - low)


def _reason(
    there: list[tuple[np.ndarray, np.ndarray, int]],
    kept: np.ndarray,
    drawn: int,
    bounds: tuple[float, float],
    folds: int,
    by_class: bool,
) -> str:
    """Why these replicates give no variance over patients, or nothing."""
    where = " of a fold" if folds > 1 else ""
    fewest = min(one[2] for one in there)
    if fewest < 2:
        what = "a class has positives or negatives of" if by_class else "there are samples of"
        return f"{what} {fewest} of the patients{where} only; it takes at least 2"
    if kept.shape[1] < _FEWEST_REPLICATES:
        lack = "of all classes" if by_class else "of the metric"
        return (
            f"only {kept.shape[1]} of {drawn} resamples of patients have a value {lack}; it takes {_FEWEST_REPLICATES}"
        )
    if folds > 1 and len(there) == 1:
        return "the class is there in one fold only"
    if any((kept == bound).all() for bound in bounds):
        # All resamples agree at the edge of the scale: a variance of 0 would claim a certainty that is not there.
        return f"every run reaches {kept[0, 0]:g} on every resample, so these patients cannot tell the arms apart"
    return ""


def _all_the_same(there: list[tuple[np.ndarray, np.ndarray, int]], kept: np.ndarray) -> bool:
    """Whether all runs of both arms have one value, on the sample and on each resample.

    The variance is then 0 over patients and over seeds, and any margin would be met with certainty. It is withheld for
    identical predictions that are not constant too: trainings that differ in nothing were not drawn independently (a
    run compared with itself, copies, or no training at all), so they are no sample of how training varies.
    """
    return bool(np.ptp(kept, axis=0).max() <= SAME and all(np.ptp(one[0]) <= SAME for one in there))


def _seed_terms(points: np.ndarray, values: np.ndarray, scale: float) -> tuple[float, float]:
    """Variance of one seed's metric on infinitely many patients, and its patient x seed interaction on these."""
    if len(points) == 0:
        return 0.0, 0.0
    if len(points) == 1:
        return math.nan, 0.0
    apart = values - values.mean(axis=0)
    interaction = scale * float(apart.var(axis=1, ddof=1).sum()) / (len(points) - 1)
    # The variance between seeds on these patients holds the interaction too: subtract it once, never below 0.
    return max(0.0, float(points.var(ddof=1)) - interaction), interaction


def _fold_term(there: list[tuple[np.ndarray, np.ndarray, int]], sign: np.ndarray) -> tuple[float, float]:
    """Variance of the mean over folds that comes from their training sets (Nadeau and Bengio 2003, section 3)."""
    folds = len(there)
    if folds == 1:
        return 0.0, 0.0
    differences = np.array([sign @ points for points, _, _ in there])
    of_patients = np.mean([np.nanvar(sign @ values, ddof=1) for _, values, _ in there])
    extra = max(0.0, float(differences.var(ddof=1) - of_patients))
    return extra * (1 / folds + 1 / (folds - 1)), folds - 1


def half_width(spread: Spread, seeds_a: int, seeds_b: int, probability: float) -> float:
    """Half the width of the interval whose upper end has this probability below it; inf where there is none."""
    if spread.reason:
        return math.inf
    error, df = spread.components.precision(seeds_a, seeds_b)
    return t_quantile(probability, df) * error


def honest(spread: Spread, metric: Metric) -> Spread:
    """The same without an interval where the metric's own bias would make it a wrong one."""
    if spread.reason or not metric.no_interval:
        return spread
    return replace(spread, reason=metric.no_interval, cure="Compare the Brier score, whose mean has no such bias")
