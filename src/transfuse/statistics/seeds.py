"""The mean of a number over seeds with its spread and t interval, and the ratio of two such means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError
from transfuse.statistics.planning import t_quantile


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds.

    Args:
        value: the mean.
        std: standard deviation between seeds (n - 1); None with one seed.
        low: lower end of the t interval; -inf where none can be given.
        high: upper end; inf where none can be given.
        confidence: of the interval, in (0, 1).
        seeds: how many values the mean is of.
        reason: why there is no interval; empty where there is one.
    """

    value: float
    std: float | None
    low: float
    high: float
    confidence: float
    seeds: int
    reason: str = ""


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means, or something that follows from it.

    Args:
        value: the estimate.
        low: lower end of the interval; -inf where none can be given.
        high: upper end; inf where none can be given.
        confidence: of the interval, in (0, 1).
        method: how the interval was made, or why there is none.
    """

    value: float
    low: float
    high: float
    confidence: float
    method: str


def seed_mean(values: ArrayLike, confidence: float = 0.95) -> SeedMean:
    """Mean, standard deviation and t interval of one number a seed.

    The interval holds new seeds on the same test patients; it says nothing about other patients. Values that are all
    equal (steps, read at a few validations) give no interval, since one of width 0 would claim a certainty that is not
    there.

    Args:
        values: `(S,)` finite, one a seed.
        confidence: in (0, 1).

    Raises:
        DataError: no value, another shape, or values that are not finite.
        SpecError: a confidence outside (0, 1).

    >>> found = seed_mean([0.80, 0.82, 0.84])
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.82, 0.77, 0.87)
    """
    checked_confidence(confidence)
    array = seed_values("values", values)
    mean, count = float(array.mean()), len(array)
    std = float(array.std(ddof=1)) if count > 1 else None
    if reason := _no_interval(array):
        return SeedMean(mean, std, -math.inf, math.inf, confidence, count, reason)
    half = t_quantile(0.5 + confidence / 2, count - 1) * float(std or 0) / math.sqrt(count)
    return SeedMean(mean, std, mean - half, mean + half, confidence, count)


def ratio_of_means(above: ArrayLike, below: ArrayLike, confidence: float = 0.95) -> Ratio:
    """`mean(above) / mean(below)` with an interval over the seeds of both, which are independent of each other.

    The interval is that of the ratio's logarithm by the delta method, with Welch's degrees of freedom; so it is never
    negative, and that of `below / above` is its reciprocal.

    Args:
        above: `(S,)` one value a seed, mean > 0.
        below: `(T,)` the same.
        confidence: in (0, 1).

    Raises:
        DataError: as `seed_mean`, or a mean that is not positive.
        SpecError: a confidence outside (0, 1).

    >>> round(ratio_of_means([200.0, 220.0, 240.0], [100.0, 110.0, 120.0]).value, 3)
    2.0
    """
    checked_confidence(confidence)
    parts = [seed_values("above", above), seed_values("below", below)]
    means = [positive_mean(name, part) for name, part in zip(("above", "below"), parts, strict=True)]
    value = means[0] / means[1]
    short = [reason for part in parts if (reason := _no_interval(part))]
    if short:
        return Ratio(value, -math.inf, math.inf, confidence, f"no interval: {short[0]}")
    terms = [part.var(ddof=1) / len(part) / mean**2 for part, mean in zip(parts, means, strict=True)]
    error = math.sqrt(sum(terms))
    df = sum(terms) ** 2 / sum(term**2 / (len(part) - 1) for term, part in zip(terms, parts, strict=True))
    half = t_quantile(0.5 + confidence / 2, df) * error
    method = f"seeds, t of the logarithm with {df:.1f} degrees of freedom"
    return Ratio(value, value * math.exp(-half), value * math.exp(half), confidence, method)


def checked_confidence(confidence: float) -> None:
    """Refuse a confidence outside (0, 1).

    Raises:
        SpecError: it is.
    """
    if not 0 < confidence < 1:
        raise SpecError(f"confidence is {confidence!r}; expected a number between 0 and 1, as 0.95")


def seed_values(name: str, values: ArrayLike) -> np.ndarray:
    """One finite number a seed, `(S,)` float64.

    Raises:
        DataError: no value, another shape, or values that are not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"{name} has shape {array.shape}; expected (S,) with one number for each of S >= 1 seeds")
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(
            f"{name}: seed number {place} is {array[place]}; a run that diverged has no value: leave it out and say so"
        )
    return array


def positive_mean(name: str, values: np.ndarray) -> float:
    """The mean, where a ratio can be made of it.

    Raises:
        DataError: it is not positive.
    """
    mean = float(values.mean())
    if mean <= 0:
        raise DataError(f"the mean of {name} is {mean:g}; a ratio takes means above 0")
    return mean


def _no_interval(values: np.ndarray) -> str:
    if len(values) == 1:
        return "one seed says nothing about other seeds"
    if np.ptp(values) == 0:
        return f"all {len(values)} seeds have the same value"
    return ""
