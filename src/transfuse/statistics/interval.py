"""The interval of a difference, and the tests that go with it: all true differences that a study does not contradict.

A difference D0 is contradicted where the estimate lies more than t standard errors from it, and the standard error is
the one at D0 (`Components.error_at`): near the bounds of a metric the interval is not symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transfuse.statistics.planning import Components, t_quantile

_STEPS = 257
"""Differences that are looked at between the symmetric end and the bound, before the end is found between two."""


@dataclass(frozen=True)
class Tested:
    """An estimated difference, with the variance it has; in the metric's own direction, arm A less arm B.

    Args:
        difference: estimated.
        components: of its variance.
        seeds_a: of arm A.
        seeds_b: of arm B.
    """

    difference: float
    components: Components
    seeds_a: int
    seeds_b: int

    def error_at(self, difference: float) -> float:
        """Standard error if the true difference were this."""
        return float(self.components.error_at(difference, self.seeds_a, self.seeds_b)[0])

    def interval(self, probability: float) -> tuple[float, float]:
        """Ends of the interval; `probability` is that below the upper end (0.975 for a 95 % interval)."""
        error, df = self.components.precision(self.seeds_a, self.seeds_b)
        times = t_quantile(probability, df)
        return self._end(-1, times, times * error), self._end(1, times, times * error)

    def p_value(self, difference: float, side: int) -> float:
        """That the estimate is as far above (`side` 1) or below (-1) `difference`, were it true; one-sided.

        The largest of `difference` and all that are farther off: the standard error may grow faster than the distance,
        and the test has to agree with the interval. 0 or 1 where there is no variance at all.
        """
        from scipy.special import stdtr

        away, error = side * (self.difference - difference), self.error_at(difference)
        if error == 0:
            return float(away <= 0)
        _, df = self.components.precision(self.seeds_a, self.seeds_b)
        ratio = away / error
        if ratio > 0:
            farther = np.linspace(difference, -side * self.components.span, _STEPS)[1:]
            errors = self.components.error_at(farther, self.seeds_a, self.seeds_b)
            ratio = min(ratio, float((side * (self.difference - farther) / errors).min()))
        return float(stdtr(df, -ratio))

    def _end(self, side: int, times: float, half: float) -> float:
        """The last difference on a side that is not contradicted; where contradicted ones lie before it, these too.

        It is at least `half` away, as no error is less than the estimate's, and never beyond the metric's bounds.
        """
        from scipy.optimize import brentq

        def excess(away: float) -> float:
            return away - times * self.error_at(self.difference + side * away)

        bound = self.components.span - side * self.difference
        if half >= bound:
            return side * self.components.span
        places = np.linspace(half, bound, _STEPS)
        beyond = places - times * self.components.error_at(self.difference + side * places, self.seeds_a, self.seeds_b)
        beyond[0] = excess(half)
        inside = beyond <= 0
        inside[0] = beyond[0] < -1e-12 * half  # rounding apart, the error there is the estimate's
        if not inside.any():
            return self.difference + side * half
        last = _STEPS - 1 - int(np.argmax(inside[::-1]))
        if last == _STEPS - 1:
            return side * self.components.span
        return self.difference + side * float(brentq(excess, places[last], places[last + 1], xtol=1e-10))
