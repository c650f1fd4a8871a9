"""How a metric changes with the number of training patients, and what more of them are worth.

A power law `value(n) = c - a n^-b` is fitted to the means over seeds at each size (Hestness et al. 2017, section 3; of
medical images Cho et al. 2015). Its interval is that of the whole fit for new test patients and new seeds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError
from transfuse.metrics import Metric, find_metric
from transfuse.statistics.arm import Arm
from transfuse.statistics.bootstrap import REPLICATES, checked_seed
from transfuse.statistics.power_law import RATES, PowerLaw, fit_power_law
from transfuse.statistics.seeds import checked_confidence, seed_values
from transfuse.statistics.variance import SAME, spread_of

__all__ = ["FARTHEST", "FEWEST_SIZES", "DataSizeCurve", "SizeEstimate", "Worth", "data_size_curve", "worth"]

FEWEST_SIZES = 3
"""A power law has three parameters."""
FARTHEST = 10
"""Nothing is said beyond so many times the largest size that was trained."""
_TREND = (-3.0, 1.0)
"""The variance between seeds is taken to be a power of the number of patients; the power is in this range."""
_LEVEL = 0.05
"""Of the test whether the means lie off the curve."""


class SizeEstimate(NamedTuple):
    """A value with its interval; -inf and inf where none can be given."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DataSizeCurve:
    """The metric of one arm against the number of training patients.

    Args:
        patients: `(K,)` numbers of training patients, ascending.
        values: at each size the metric of each seed.
        metric: which, with its bounds and direction.
        law: the fit, one row.
        replicates: the fits that the interval is of, the same resamples of test patients for every arm; no row where
            no interval can be given.
        confidence: of the intervals, in (0, 1).
        method: how they were made, or why there are none.
        notes: what is to be said of the shape.
        tested: the arm at the largest size; None where only numbers were given.
    """

    patients: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    metric: Metric
    law: PowerLaw
    replicates: PowerLaw = field(repr=False)
    confidence: float
    method: str
    notes: tuple[str, ...] = ()
    tested: Arm | None = field(default=None, repr=False)

    @property
    def largest(self) -> int:
        """The largest number of training patients."""
        return self.patients[-1]

    @property
    def better(self) -> int:
        """1 where a higher value is better, else -1."""
        return 1 if self.metric.higher_is_better else -1

    def at(self, patients: float) -> SizeEstimate:
        """The fitted value at a number of training patients.

        Raises:
            DataError: fewer patients than at the smallest size, or more than `FARTHEST` times the largest.
        """
        if not self.patients[0] <= patients <= FARTHEST * self.largest:
            raise DataError(
                f"{patients:g} training patients: the curve says nothing below {self.patients[0]} (the smallest size) "
                f"and above {FARTHEST * self.largest} ({FARTHEST} x the largest)"
            )
        return self._estimate(self.law.at(patients), self.replicates.at(patients))

    def gain(self, first: float, last: float) -> SizeEstimate:
        """How much better `last` training patients are than `first`; below 0 where they are worse."""
        one, many = (self.better * (law.at(last) - law.at(first)) for law in (self.law, self.replicates))
        return self._estimate(one, many)

    def _estimate(self, value: np.ndarray, replicates: np.ndarray) -> SizeEstimate:
        there = replicates[np.isfinite(replicates)]
        if len(there) == 0:
            return SizeEstimate(float(value[0]), -math.inf, math.inf)
        low, high = np.quantile(there, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return SizeEstimate(float(value[0]), float(low), float(high))


def data_size_curve(
    patients: ArrayLike,
    values: Sequence[Arm | ArrayLike] | np.ndarray,
    metric: str = "auroc",
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> DataSizeCurve:
    """Fit `value(n) = c - a n^-b` to one arm that was trained on several numbers of patients.

    c lies within the metric's bounds and b within `power_law.RATES`; a may be negative, as a curve may get worse. Least
    squares are weighted by how much each mean varies between seeds. A few seeds say little of that, so the variance is
    smoothed over the sizes: it is taken to be a power of n (maximum likelihood of a gamma distribution).

    The interval is that of 2,000 fits (percentiles). Each is of means that are moved as other test patients would move
    them, all sizes and arms by the same resample, and as other seeds would: by normal numbers with the variance between
    seeds, less the patient x seed interaction, which the resamples hold already. What another choice of the training
    patients would give is not covered.

    Args:
        patients: `(K,)` numbers of training patients, ascending, K >= 3.
        values: for each size an `Arm`, all tested on the same samples; or `(S,)` numbers, one a seed: the interval is
            then for other seeds on the same test patients.
        metric: key of `transfuse.metrics.METRICS`; arms have their own.
        confidence: of the intervals, in (0, 1).
        seed: of the normal numbers. Arms with other values draw others from the same seed.

    Raises:
        SpecError: an unknown metric, a confidence outside (0, 1), a seed that is no integer >= 0, fewer than three
            sizes.
        DataError: sizes that do not ascend, values that are not finite, arms that were not tested on the same samples.

    >>> sizes = [25, 50, 100, 200]
    >>> curve = data_size_curve(sizes, [[0.9 - 1.0 / n + off for off in (-0.002, 0, 0.002)] for n in sizes])
    >>> round(curve.at(200).value, 3), round(float(curve.law.limit[0]), 2), round(float(curve.law.rate[0]), 1)
    (0.895, 0.9, 1.0)
    """
    checked_confidence(confidence)
    checked_seed(seed)
    sizes = _sizes(patients, len(values))
    arms = [one for one in values if isinstance(one, Arm)]
    if arms and len(arms) < len(sizes):
        raise DataError(f"{len(arms)} of {len(sizes)} sizes are arms and the others numbers; give all in one way")
    kind = arms[0].metric if arms else find_metric(metric)
    seen = _of_arms(arms, sizes) if arms else _of_numbers(values, sizes)
    counts = np.array([len(points) for points in seen.points])
    means = np.array([points.mean() for points in seen.points])
    between = _between_seeds(seen.points, sizes)
    weights = counts / between if between.min() > 0 else np.ones(len(sizes))
    moved = np.empty((0, len(sizes)))
    if not seen.reason:
        other = _other_seeds(seen, np.maximum(between - seen.interaction, 0.0) / counts, sizes, seed)
        moved = np.clip(means + seen.patients + other, *kind.bounds)
    curve = DataSizeCurve(
        patients=tuple(int(size) for size in sizes),
        values=tuple(tuple(points.tolist()) for points in seen.points),
        metric=kind,
        law=fit_power_law(sizes, means[None], weights, kind.bounds),
        replicates=fit_power_law(sizes, moved, weights, kind.bounds),
        confidence=confidence,
        method=f"no interval: {seen.reason}" if seen.reason else seen.method,
        tested=arms[-1] if arms else None,
    )
    return replace(curve, notes=tuple(_notes(curve, means, between / counts)))


class Worth(NamedTuple):
    """What more training patients would add.

    Fields:
        patients: how many more.
        gain: how much better the metric would be, below 0 where worse; NaN where nothing can be said.
        note: how far this is beyond what was trained.
    """

    patients: int
    gain: SizeEstimate
    note: str


def worth(curve: DataSizeCurve, patients: int = 100) -> Worth:
    """What `patients` more than at the largest size would add to the metric; a forecast, as no run had so many.

    Raises:
        SpecError: a number of patients that is not positive.

    >>> curve = data_size_curve([25, 50, 100], [[0.80, 0.82], [0.85, 0.86], [0.88, 0.89]])
    >>> worth(curve, 1000).note
    '1100 training patients are beyond 10 x the largest size, 100: not said'
    """
    if patients < 1:
        raise SpecError(f"patients is {patients!r}; expected how many more there would be, e.g. 100")
    largest, total = curve.largest, curve.largest + patients
    if total > FARTHEST * largest:
        note = f"{total} training patients are beyond {FARTHEST} x the largest size, {largest}: not said"
        return Worth(patients, SizeEstimate(math.nan, -math.inf, math.inf), note)
    note = f"extrapolated from at most {largest} training patients"
    return Worth(patients, curve.gain(largest, total), note)


class _Seen(NamedTuple):
    """What is known of each size: `points` a seed; how resamples of patients move the means, `(B, K)`, with the patient
    x seed interaction of each size, `(K,)`; the method in words; and why no interval can be given, if none can."""

    points: list[np.ndarray]
    patients: np.ndarray
    interaction: np.ndarray
    method: str
    reason: str = ""


def _sizes(patients: ArrayLike, given: int) -> np.ndarray:
    sizes = np.asarray(patients, dtype=np.float64)
    if sizes.ndim != 1 or len(sizes) != given:
        raise DataError(f"patients has shape {sizes.shape} for {given} sizes; expected one number of patients a size")
    if len(sizes) < FEWEST_SIZES:
        raise SpecError(
            f"{len(sizes)} sizes; a curve over the number of training patients takes at least {FEWEST_SIZES}, better "
            "4 or 5, as a quarter, a half and all of them"
        )
    if not (np.isfinite(sizes).all() and sizes[0] >= 1 and (np.diff(sizes) > 0).all()):
        raise DataError(f"patients is {sizes.tolist()}; expected numbers of training patients >= 1, each larger")
    return sizes


def _of_numbers(values: Sequence[object] | np.ndarray, sizes: np.ndarray) -> _Seen:
    points = [
        seed_values(f"values at {size:g} patients", np.asarray(row)) for size, row in zip(sizes, values, strict=True)
    ]
    nothing = np.zeros((REPLICATES, len(sizes))), np.zeros(len(sizes))
    if max(map(len, points)) == 1:
        return _Seen(points, *nothing, "", "one seed a size says nothing about other seeds")
    return _Seen(points, *nothing, "other seeds on the same test patients")


def _of_arms(arms: list[Arm], sizes: np.ndarray) -> _Seen:
    moved, interaction, points, reasons = [], [], [], []
    for size, arm in zip(sizes, arms, strict=True):
        arms[0].beside(arm)  # refuses arms that were tested on other samples
        if len(arm.parts) > 1:
            raise DataError(f"the arm at {size:g} patients was tested in {len(arm.parts)} folds; expected none")
        part, spread = arm.parts[0], spread_of([(arm.parts[0], 0)], arm.seeds, 0, arm.metric.bounds)
        points.append(part.points[:, 0])
        mean, support = part.values[:, 0].mean(axis=0), float(part.support[0])
        if spread.reason:
            reasons.append(f"at {size:g} training patients {spread.reason}")
        elif arm.metric.no_interval:
            reasons.append(arm.metric.no_interval)
        moved.append((mean - np.nanmean(mean)) * math.sqrt(support / max(support - 1, 1)))
        interaction.append(spread.components.interaction_a)
    method = "other test patients and other seeds, percentiles of 2,000 fits"
    if max(map(len, points)) == 1:
        method = "other test patients; one seed a size, so what another seed would give is not covered"
    if arms[0].anonymous:
        method += "; each sample taken as a patient"
    return _Seen(points, np.stack(moved, axis=1), np.array(interaction), method, reasons[0] if reasons else "")


def _between_seeds(points: list[np.ndarray], sizes: np.ndarray) -> np.ndarray:
    """`(K,)` variance between the seeds of each size, smoothed to a power of n; 0 where no size has two seeds.

    The likelihood of a gamma distribution with S - 1 degrees of freedom a size; for a given power its factor has a
    closed form.
    """
    from scipy.optimize import minimize_scalar

    df = np.array([len(one) - 1 for one in points])
    found = np.array([one.var(ddof=1) if np.ptp(one) > SAME else 0.0 for one in points])
    if not (found > 0).any():
        return np.zeros(len(sizes))
    ratio = np.log(sizes / sizes[-1])

    def factor(power: float) -> float:
        return float((df * found * np.exp(-power * ratio)).sum() / df.sum())

    def misfit(power: float) -> float:
        return float((df * power * ratio).sum() + df.sum() * math.log(factor(power)))

    power = float(minimize_scalar(misfit, bounds=_TREND, method="bounded").x)
    return factor(power) * np.exp(power * ratio)


def _other_seeds(seen: _Seen, variance: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """`(B, K)` by how much the means of other seeds would differ, with the doubt about their variance in it.

    The logarithm of the variance is a line over that of n; its level and its slope are drawn as they might have been
    estimated.
    """
    degrees = np.array([len(points) - 1 for points in seen.points])
    df = degrees.sum() - 1  # one for the slope
    if df < 1:
        return np.zeros(seen.patients.shape)
    # The values are part of the seed: two arms never share their draws, but for two names of the same runs.
    generator = np.random.default_rng([seed, zlib.crc32(np.concatenate(seen.points).tobytes())])
    normal = generator.standard_normal(seen.patients.shape)
    level = df / generator.chisquare(df, (len(normal), 1))
    place = np.log(sizes) - np.average(np.log(sizes), weights=degrees)
    place /= math.sqrt(np.average(place**2, weights=degrees) * degrees.sum() / 2)
    slope = np.exp(np.clip(generator.standard_normal((len(normal), 1)) * place, -2, 2))
    return normal * np.sqrt(variance * level * slope)


def _notes(curve: DataSizeCurve, means: np.ndarray, variance: np.ndarray) -> list[str]:
    """What is to be said of the shape: flat, falling, not identified, or no power law."""
    from scipy.special import fdtrc

    change = curve.gain(curve.patients[0], curve.largest)
    if np.ptp(means) == 0 or change.low <= 0 <= change.high:
        return ["no difference between the sizes can be told from chance"] if math.isfinite(change.low) else []
    notes = []
    if change.value < 0:
        notes.append("the metric gets worse with more training patients")
    limit, rate = float(curve.law.limit[0]), float(curve.law.rate[0])
    if limit in curve.metric.bounds:
        notes.append(f"where the curve would level off is not known: the fit puts it at the metric's bound, {limit:g}")
    if rate <= 1.001 * RATES[0]:
        notes.append("it changes as the logarithm of the patients does: no levelling off can be seen")
    if rate >= RATES[1] / 1.001:
        notes.append("it levels off right after the smallest size: how fast cannot be told from these sizes")
    df = len(means) - FEWEST_SIZES
    if df == 0:
        notes.append("three sizes cannot show whether a power law fits")
    elif variance.min() > 0:
        missed = float((((means - curve.law.at(np.array(curve.patients))[0]) ** 2) / variance).sum())
        if (chance := float(fdtrc(df, sum(map(len, curve.values)) - len(means), missed / df))) < _LEVEL:
            notes.append(
                f"the means lie farther from the curve than seeds explain (p = {chance:.2g}): the choice of the "
                "patients of each size counts, or this is no power law"
            )
    return notes
