"""What a difference's variance is made of, and how many patients and seeds would make it small enough to decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

POWER = 0.8
MOST_PATIENTS = 10_000_000
MOST_SEEDS = 1000
_MANY = 1e5
"""So many degrees of freedom are as good as all."""


class Term(NamedTuple):
    """A part of a variance as it is estimated.

    Fields:
        mean_square: its size.
        df: its degrees of freedom.
        twice: how much of it is in another term too, and is subtracted here.
    """

    mean_square: float
    df: float
    twice: float = 0.0


@dataclass(frozen=True)
class Components:
    """Variance components of `D = mean over seeds of metric(A) - mean over seeds of metric(B)`.

    `SE^2 = patients + (interaction_a + seeds_a) / S_A + (interaction_b + seeds_b) / S_B + folds`

    Args:
        patients: variance of D over patients, for the average training, at this number of patients.
        interaction_a: variance over patients by which one seed's metric departs from its arm's mean (patient x seed).
        interaction_b: the same for arm B.
        seeds_a: variance of one seed's metric on infinitely many patients; NaN with one seed.
        seeds_b: the same for arm B.
        folds: variance of D over training sets, under cross-validation; else 0.
        patients_df: degrees of freedom of the variance over patients.
        folds_df: number of folds - 1; 0 without folds.
        alone_a: variance over patients of arm A's own mean, for the average training; NaN if unknown.
        alone_b: the same for arm B.
        levels: where the two means lie between the metric's bounds, in [0, 1].
        span: the distance of the metric's bounds.
    """

    patients: float
    interaction_a: float
    interaction_b: float
    seeds_a: float
    seeds_b: float
    folds: float = 0.0
    patients_df: float = 1.0
    folds_df: float = 0.0
    alone_a: float = math.nan
    alone_b: float = math.nan
    levels: tuple[float, float] = (math.nan, math.nan)
    span: float = 1.0

    def terms(self, seeds_a: float, seeds_b: float, more_patients: float = 1.0) -> list[Term]:
        """What the variance with these seeds and `more_patients` times the patients is the sum of."""
        found = [Term(self.folds, self.folds_df)] if self.folds > 0 else []
        given_seeds = self.patients / more_patients
        for count, spread, interaction in (
            (seeds_a, self.seeds_a, self.interaction_a / more_patients),
            (seeds_b, self.seeds_b, self.interaction_b / more_patients),
        ):
            given_seeds += interaction / count
            if spread > 0:  # not so for NaN, the one seed whose spread is unknown
                found.append(Term((spread + interaction) / count, count - 1, interaction / count))
        return [*found, Term(given_seeds, self.patients_df * more_patients)]

    def precision(self, seeds_a: float, seeds_b: float, more_patients: float = 1.0) -> tuple[float, float]:
        """Standard error and Satterthwaite degrees of freedom with these seeds and `more_patients` times the patients.

        Satterthwaite 1946: `df = SE^4 / sum of term^2 / df of term`, of the mean squares as they are estimated.
        """
        terms = self.terms(seeds_a, seeds_b, more_patients)
        variance = sum(term.mean_square - term.twice for term in terms)
        if variance == 0:
            return 0.0, self.patients_df
        return math.sqrt(variance), variance**2 / sum(
            term.mean_square**2 / term.df for term in terms if term.mean_square > 0
        )

    def error_at(
        self, differences: ArrayLike, seeds_a: float, seeds_b: float, more_patients: float = 1.0
    ) -> np.ndarray:
        """Standard errors `(K,)` if the true difference were each of `differences`, never less than `precision`'s.

        A metric between two bounds varies less the nearer it is to one of them, so the variance at a difference of
        the margin is not the one at the estimate. Both arms are moved from where they are by the same step on the
        logit scale, on which their own variances are taken to be constant, to where they differ so much;
        the correlation between them stays. So do score intervals of proportions (Miettinen and Nurminen 1985).
        """
        error, _ = self.precision(seeds_a, seeds_b, more_patients)
        wanted = np.atleast_1d(np.asarray(differences, dtype=np.float64))
        (a, b), span = self.levels, self.span
        own = [
            alone / more_patients + (interaction / more_patients + (0.0 if math.isnan(spread) else spread)) / count
            for alone, interaction, spread, count in (
                (self.alone_a, self.interaction_a, self.seeds_a, seeds_a),
                (self.alone_b, self.interaction_b, self.seeds_b, seeds_b),
            )
        ]
        if not (0 < a < 1 and 0 < b < 1 and min(own) > 0):
            return np.full_like(wanted, error)
        errors = [math.sqrt(one) for one in own]
        correlation = min(1.0, max(-1.0, (sum(own) - error**2) / (2 * errors[0] * errors[1])))
        high, low = _levels_at(np.clip(wanted / span, -1.0, 1.0), a / (1 - a) * b / (1 - b))
        x, y = errors[0] * high * (1 - high) / (a * (1 - a)), errors[1] * low * (1 - low) / (b * (1 - b))
        moved = np.sqrt(np.maximum(x * x + y * y - 2 * correlation * x * y, 0.0))
        return np.maximum(moved, error)


def _levels_at(difference: np.ndarray, odds: float) -> tuple[np.ndarray, np.ndarray]:
    """Two levels in [0, 1] that differ by `difference` and whose odds have the product `odds`.

    The first solves `u (u - D) = odds (1 - u) (1 - u + D)`, a quadratic equation.

    >>> [round(float(level), 3) for level in _levels_at(np.array(0.1), 0.9 / 0.1 * 0.8 / 0.2)]
    [0.9, 0.8]
    """
    square, linear, constant = 1 - odds, odds * (2 + difference) - difference, -odds * (1 + difference)
    root = np.sqrt(np.maximum(linear * linear - 4 * square * constant, 0.0))
    upper = np.clip(-2 * constant / (linear + root), 0.0, 1.0)
    return upper, np.clip(upper - difference, 0.0, 1.0)


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t; of the normal distribution beyond a million degrees of freedom.

    >>> round(t_quantile(0.975, 10), 4)
    2.2281
    """
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if df > 1e6 else stdtrit(df, probability))


def equivalence_power(
    margin: float, standard_error: float, terms: Sequence[Term], error_at_margin: float | None = None
) -> float:
    """Probability that two one-sided tests at 5 % call a true difference of 0 equivalent within `margin`.

    `mean over s of 2 Phi((m - t(0.95, df(s)) s SE(m)) / SE) - 1` where positive (Schuirmann 1987). `s^2` is the
    estimated over the true variance: each term has a chi^2 of its own, and with few seeds a term that comes out large
    makes the degrees of freedom few as well. At 80 % power and many degrees of freedom `SE = m / (z.95 + z.9)`.

    Args:
        margin: > 0.
        standard_error: of the difference.
        terms: of its square.
        error_at_margin: the standard error at a true difference of the margin, SE(m); None: the same.

    >>> round(equivalence_power(0.05, 0.05 / (1.645 + 1.2816), [Term(0.0171**2, 1e5)]), 2)
    0.8
    """
    from scipy.special import gammaincinv, ndtr, stdtrit

    if standard_error == 0:
        return 1.0
    terms = sorted(terms, key=lambda term: term.df)  # it does not matter which of the arms is called A
    df = np.array([term.df for term in terms])[:, None]
    squares = np.array([term.mean_square for term in terms])[:, None]
    if df.min() < _MANY:
        few = np.minimum(df, _MANY)
        squares = squares * 2 * gammaincinv(few / 2, _evenly(len(terms))) / few
    parts = np.maximum(squares - np.array([term.twice for term in terms])[:, None], 0.0)
    variance = parts.sum(axis=0)
    # Where every part came out as 0, any number of degrees of freedom would do.
    spent = np.where(parts > 0, squares**2 / df, 0.0).sum(axis=0)
    own_df = np.divide(variance**2, spent, out=np.ones_like(variance), where=spent > 0)
    tested = standard_error if error_at_margin is None else error_at_margin
    half = stdtrit(np.minimum(own_df, _MANY), 0.95) * np.sqrt(variance) * tested / standard_error
    return float(np.maximum(0.0, 2 * ndtr((margin - half) / standard_error) - 1).mean())


def _evenly(dimensions: int) -> np.ndarray:
    """Points `(dimensions, 128)` that fill the unit cube evenly: a Kronecker sequence, by roots of primes."""
    steps = np.sqrt([2.0, 3.0, 5.0, 7.0][:dimensions])[:, None]
    points: np.ndarray = (0.5 + np.arange(128) * steps) % 1.0 if dimensions > 1 else (np.arange(128)[None] + 0.5) / 128
    return np.clip(points, 1e-6, 1 - 1e-6)


def needed_patients(components: Components, margin: float, patients: int, seeds_a: int, seeds_b: int) -> int | None:
    """Fewest patients, at these seeds, at which a true difference of 0 is called equivalent with 80 % power.

    At that precision a true difference of `margin` is also found significant with about 80 % power (1.96 + 0.84 <
    1.645 + 1.28), so it is the number that decides either way. None: the seeds alone are too few for any number of
    patients, or their spread is unknown.
    """
    if math.isnan(components.seeds_a + components.seeds_b):
        return None

    def power(number: int) -> float:
        return _power(components, margin, seeds_a, seeds_b, number / patients)

    return _fewest(power, 2, MOST_PATIENTS)


def needed_seeds(components: Components, margin: float) -> int | None:
    """Fewest seeds an arm, at these patients, for the same power as `needed_patients`; None if no number would do."""
    if math.isnan(components.seeds_a + components.seeds_b):
        return None

    def power(number: int) -> float:
        return _power(components, margin, number, number, 1.0)

    return _fewest(power, 2, MOST_SEEDS)


def _power(components: Components, margin: float, seeds_a: int, seeds_b: int, more_patients: float) -> float:
    """Of the equivalence test with these seeds and patients, at the less favourable of the two margins."""
    error, _ = components.precision(seeds_a, seeds_b, more_patients)
    ends = components.error_at([-margin, margin], seeds_a, seeds_b, more_patients)
    terms = components.terms(seeds_a, seeds_b, more_patients)
    return equivalence_power(margin, error, terms, float(ends.max()))


def _fewest(power: Callable[[int], float], low: int, most: int) -> int | None:
    high = low
    while power(high) < POWER:
        if high >= most:
            return None
        low, high = high + 1, min(high * 2, most)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle + 1, high)
    return high
