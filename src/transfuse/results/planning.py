"""What a difference's variance is made of, and how many patients and seeds would make it small enough to decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

POWER = 0.8
MOST_PATIENTS = 10_000_000
MOST_SEEDS = 1000


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
    """

    patients: float
    interaction_a: float
    interaction_b: float
    seeds_a: float
    seeds_b: float
    folds: float = 0.0
    patients_df: float = 1.0
    folds_df: float = 0.0

    def precision(self, seeds_a: float, seeds_b: float, more_patients: float = 1.0) -> tuple[float, float]:
        """Standard error and Satterthwaite degrees of freedom with these seeds and `more_patients` times the patients.

        Satterthwaite 1946: `df = SE^4 / sum of term^2 / df of term`. The terms are the mean squares as they are
        estimated: the variance over patients given the seeds, and the variance between seeds, each with the
            interaction in it.
        """
        terms: list[tuple[float, float]] = [(self.folds, self.folds_df)] if self.folds > 0 else []
        given_seeds = self.patients / more_patients
        between = 0.0
        for count, spread, interaction in (
            (seeds_a, self.seeds_a, self.interaction_a / more_patients),
            (seeds_b, self.seeds_b, self.interaction_b / more_patients),
        ):
            given_seeds += interaction / count
            if spread > 0:  # not so for NaN, the one seed whose spread is unknown
                between += spread / count
                terms.append(((spread + interaction) / count, count - 1))
        terms.append((given_seeds, self.patients_df * more_patients))
        variance = given_seeds + between + self.folds
        if variance == 0:
            return 0.0, self.patients_df
        return math.sqrt(variance), variance**2 / sum(term**2 / df for term, df in terms if term > 0)


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t; of the normal distribution beyond a million degrees of freedom.

    >>> round(t_quantile(0.975, 10), 4)
    2.2281
    """
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if df > 1e6 else stdtrit(df, probability))


def equivalence_power(margin: float, standard_error: float, df: float) -> float:
    """Probability that two one-sided tests at 5 % call a true difference of 0 equivalent within `margin`.

    `mean over s of 2 Phi(m / SE - t(0.95, df) s) - 1` where positive; `s^2 = chi^2(df) / df` is the estimated over
    the true variance (Schuirmann 1987). At 80 % power and many degrees of freedom `SE = m / (z.95 + z.9)`.

    >>> round(equivalence_power(0.05, 0.05 / (1.645 + 1.2816), 1e5), 2)
    0.8
    """
    from scipy.special import gammaincinv, ndtr

    if standard_error == 0:
        return 1.0
    middle = (np.arange(128) + 0.5) / 128
    ratio = np.sqrt(2 * gammaincinv(df / 2, middle) / df) if df < 1e5 else np.ones(1)
    reach = margin / standard_error - t_quantile(0.95, df) * ratio
    return float(np.maximum(0.0, 2 * ndtr(reach) - 1).mean())


def needed_patients(components: Components, margin: float, patients: int, seeds_a: int, seeds_b: int) -> int | None:
    """Fewest patients, at these seeds, at which a true difference of 0 is called equivalent with 80 % power.

    At that precision a true difference of `margin` is also found significant with about 80 % power (1.96 + 0.84 <
    1.645 + 1.28), so it is the number that decides either way. None: the seeds alone are too few for any number of
    patients, or their spread is unknown.
    """
    if math.isnan(components.seeds_a + components.seeds_b):
        return None

    def power(number: int) -> float:
        return equivalence_power(margin, *components.precision(seeds_a, seeds_b, number / patients))

    return _fewest(power, 2, MOST_PATIENTS)


def needed_seeds(components: Components, margin: float) -> int | None:
    """Fewest seeds an arm, at these patients, for the same power as `needed_patients`; None if no number would do."""
    if math.isnan(components.seeds_a + components.seeds_b):
        return None

    def power(number: int) -> float:
        return equivalence_power(margin, *components.precision(number, number))

    return _fewest(power, 2, MOST_SEEDS)


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
