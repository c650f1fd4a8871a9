"""The least costly arm that is not worse than another one, found by tests that are corrected for their number."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from transfuse.errors import SpecError, nearest
from transfuse.statistics.arm import Arm
from transfuse.statistics.comparison import checked_margin, compare_arms
from transfuse.statistics.holm import rejected
from transfuse.statistics.pareto import checked_arms, checked_costs

__all__ = ["Candidate", "Smallest", "smallest_not_worse"]


@dataclass(frozen=True)
class Candidate:
    """An arm against the reference.

    Args:
        name: of the arm.
        cost: of the arm.
        value: its metric, the mean over seeds.
        difference: of the arm to the reference; positive means that the arm is better.
        low: lower end of the 95 % interval of the difference; -inf where none can be given.
        high: upper end.
        probability: that it is not worse than the reference by the margin or more: 1 less the p-value of the
            one-sided test of that (the confidence distribution of the difference); NaN without a test.
        shown: whether that is shown: at the level, with Holm's correction (1979) for the number of arms that cost less
            than the reference; for those that cost as much or more, which are no candidates, by the test alone.
    """

    name: str
    cost: float
    value: float
    difference: float
    low: float
    high: float
    probability: float
    shown: bool


@dataclass(frozen=True)
class Smallest:
    """The least costly arm that is not worse than a reference, and all that were looked at.

    Args:
        metric: name of the metric.
        reference: name of the arm that the others are held against.
        margin: the largest difference that does not matter, in units of the metric.
        level: the probability that is asked for.
        rows: one an arm, the reference among them, the least costly first.
    """

    metric: str
    reference: str
    margin: float
    level: float
    rows: tuple[Candidate, ...]

    @property
    def name(self) -> str:
        """The least costly arm that is shown to be not worse; the reference where there is none."""
        return self._least({row.name for row in self.rows if row.shown})

    @property
    def name_alone(self) -> str:
        """The same by each arm's own test, without correction: wrong the more often, the more arms were looked at."""
        return self._least({row.name for row in self.rows if row.probability >= self.level})

    def priced(self, costs: Mapping[str, float]) -> Smallest:
        """The same tests with other costs, of the same names: MACs instead of parameters, say.

        Raises:
            SpecError: costs of other names, negative or not finite.
        """
        checked = checked_costs([row.name for row in self.rows], costs)
        rows = sorted((replace(row, cost=checked[row.name]) for row in self.rows), key=lambda row: (row.cost, row.name))
        return replace(self, rows=_corrected(rows, checked[self.reference], self.level))

    def _least(self, names: Collection[str]) -> str:
        cost = next(row.cost for row in self.rows if row.name == self.reference)
        less = [row for row in self.rows if row.cost < cost and row.name in names]
        return min(less, key=lambda row: (row.cost, -row.difference)).name if less else self.reference


def smallest_not_worse(
    arms: Mapping[str, Arm],
    costs: Mapping[str, float],
    *,
    margin: float,
    reference: str | None = None,
    level: float = 0.95,
) -> Smallest:
    """The least costly arm that is not worse than a reference by a margin, with a probability of at least `level`.

    Each arm is tested as `compare` does it (non-inferiority, one-sided, at 1 - `level`). Two choices are made by
    looking at the data:

    - Without `reference`, it is the arm with the best mean. That arm was lucky, on average, so all others look worse
      against it than they are. This costs power and not validity: the estimate of the truly best arm is never above
      that of the chosen one, so what is not worse than the chosen arm is not worse than the truly best one either, as
      long as both are about as precise. Where one network is in use, or the largest one is to be replaced, name it: a
      reference that is fixed before the data are seen is the sharper question.
    - The least costly of all arms that pass would be one chance in 20 for each arm that is worse by the margin. So the
      tests are corrected for the number of arms that cost less than the reference (Holm 1979), and an arm that is worse
      by the margin or more is named in at most 1 - `level` of studies, however many arms there are. `name_alone` is the
      answer without the correction.

    Args:
        arms: on the same samples, patients and resamples, by name.
        costs: one a name, finite and >= 0.
        margin: > 0, in units of the metric, chosen before training.
        reference: name of the arm to hold the others against; None: the best mean of those with two seeds or more.
        level: the probability to reach, in (0, 1).

    Raises:
        DataError: no arm, or arms with other samples, patients, metrics or resamples.
        SpecError: costs of other names, negative or not finite; an unknown reference; a margin that is not positive; a
            level outside (0, 1).

    >>> from transfuse.statistics.arm import arm_of_scores
    >>> generator, target = np.random.default_rng(0), np.repeat([0, 1], 200)
    >>> arms = {
    ...     name: arm_of_scores(target, target * effect + generator.normal(size=(4, 400)), range(400))
    ...     for name, effect in {"tiny": 1.0, "small": 3.0, "large": 3.0}.items()
    ... }
    >>> found = smallest_not_worse(arms, {"tiny": 1e6, "small": 5e6, "large": 20e6}, margin=0.02, reference="large")
    >>> found.name, [row.shown for row in found.rows]
    ('small', [False, True, True])
    """
    checked = checked_arms(arms, costs)
    first = next(iter(arms.values()))
    checked_margin(margin, first.metric.name, first.metric.bounds)
    if not 0 < level < 1:
        raise SpecError(f"level is {level!r}; expected a number between 0 and 1, as 0.95")
    better = 1 if first.metric.higher_is_better else -1
    means = {name: arm.value for name, arm in arms.items()}
    if reference is None:
        tried = [name for name in arms if arms[name].seeds > 1] or list(arms)
        reference = min(tried, key=lambda name: (-better * means[name], checked[name], name))
    elif reference not in arms:
        raise SpecError(f"reference is {reference!r}, which is no arm; {nearest(reference, arms)}")
    rows = []
    for name in sorted(arms, key=lambda name: (checked[name], name)):
        if name == reference:
            rows.append(Candidate(name, checked[name], means[name], 0.0, 0.0, 0.0, 1.0, True))
            continue
        found = compare_arms(arms[name], arms[reference], margin)
        chance, ends = 1 - found.p_not_worse, (found.difference, found.low, found.high)
        rows.append(Candidate(name, checked[name], means[name], *ends, chance, chance >= level))
    return Smallest(first.metric.name, reference, float(margin), level, _corrected(rows, checked[reference], level))


def _corrected(rows: Sequence[Candidate], cost: float, level: float) -> tuple[Candidate, ...]:
    """The rows with `shown` corrected for those that cost less: the others cannot be the answer."""
    less = [row for row in rows if row.cost < cost]
    sure = rejected(np.array([1 - row.probability for row in less]).reshape(len(less), 1), 1 - level)
    found = {row.name: bool(one) for row, one in zip(less, sure[:, 0], strict=True)}
    return tuple(replace(row, shown=found.get(row.name, row.probability >= level)) for row in rows)
