"""How small a network may be: the probability of being on the Pareto front, and the least costly arm that is not worse.

An arm is on the front where no other one is at least as good at no more cost. Which arms are is known with the
uncertainty of their metrics (`joint.py`), so each has a probability.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from transfuse.errors import DataError, SpecError, nearest
from transfuse.statistics.arm import Arm
from transfuse.statistics.comparison import checked_margin, compare_arms, estimate_arm
from transfuse.statistics.holm import rejected
from transfuse.statistics.joint import SAME, joint_draws, withheld

__all__ = ["Candidate", "Front", "Placed", "Smallest", "front", "smallest_not_worse"]

ONE_SEED = "one seed, so how much training varies is unknown"


@dataclass(frozen=True)
class Placed:
    """An arm's place among all arms.

    Args:
        name: of the arm.
        cost: of the arm, in the unit in which it was given.
        value: its metric, the mean over seeds.
        low: lower end of the 95 % interval of the metric; -inf where none can be given.
        high: upper end; inf where none can be given.
        seeds: how many it has.
        not_dominated: probability that no other arm is at least as good at no more cost, and strictly better in one of
            the two; in [0, 1], NaN where it is unknown.
        reason: why it is unknown; empty where it is known.
    """

    name: str
    cost: float
    value: float
    low: float
    high: float
    seeds: int
    not_dominated: float
    reason: str = ""


@dataclass(frozen=True)
class Front:
    """Arms by cost, the least costly first.

    Args:
        metric: name of the metric.
        rows: one an arm; `pandas.DataFrame(front.rows)` is the table of them.
        left_out: arms of unknown variance, which the others were not held against.
    """

    metric: str
    rows: tuple[Placed, ...]
    left_out: tuple[str, ...] = ()


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
        shown: whether this probability reaches the level.
        together: whether it is still shown when all arms that cost less than the reference are looked at together
            (Holm 1979); for arms that cost as much or more the same as `shown`.
    """

    name: str
    cost: float
    value: float
    difference: float
    low: float
    high: float
    probability: float
    shown: bool
    together: bool


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
        """The least costly arm that is shown to be not worse, by its own test; the reference where there is none."""
        return self._least("shown")

    @property
    def name_together(self) -> str:
        """The same with Holm's correction for the number of arms that cost less than the reference."""
        return self._least("together")

    def priced(self, costs: Mapping[str, float]) -> Smallest:
        """The same tests with other costs, of the same names: MACs instead of parameters, say.

        Raises:
            SpecError: costs of other names, negative or not finite.
        """
        checked = _checked_costs([row.name for row in self.rows], costs)
        rows = sorted((replace(row, cost=checked[row.name]) for row in self.rows), key=lambda row: (row.cost, row.name))
        return replace(self, rows=_corrected(rows, checked[self.reference], self.level))

    def _least(self, which: str) -> str:
        cost = next(row.cost for row in self.rows if row.name == self.reference)
        less = [row for row in self.rows if row.cost < cost and getattr(row, which)]
        return min(less, key=lambda row: (row.cost, -row.difference)).name if less else self.reference


def front(arms: Mapping[str, Arm], costs: Mapping[str, float]) -> Front:
    """The probability of each arm that no other one dominates it, in its metric and in a cost.

    An arm is dominated where another is at least as good and at most as costly, and strictly better in one. The
    probability is the share of the joint draws (`transfuse.statistics.joint`) in which it is not. So the least costly
    arm has 1 unless another costs the same, and of many equally good arms a costly one has a small probability even
    though no test would call any of them worse: this describes what is known, and decides nothing. An arm of one seed
    is left out, and `reason` and `left_out` say so. Where several arms reach the bound of the metric on every resample,
    these patients cannot tell them apart, and theirs is unknown. Arms that are copies of one another count as one
    training.

    Args:
        arms: on the same samples, patients and resamples, by name.
        costs: one a name, finite and >= 0: parameters, MACs or seconds.

    Raises:
        DataError: no arm, or arms with other samples, patients, metrics or resamples.
        SpecError: costs of other names, negative or not finite.

    >>> from transfuse.statistics.arm import arm_of_scores
    >>> generator, target = np.random.default_rng(0), np.repeat([0, 1], 100)
    >>> arms = {
    ...     name: arm_of_scores(target, target * effect + generator.normal(size=(4, 200)), range(200))
    ...     for name, effect in {"small": 1.0, "middle": 3.0, "large": 1.0}.items()
    ... }
    >>> found = front(arms, {"small": 1e6, "middle": 5e6, "large": 20e6})
    >>> [(row.name, round(row.not_dominated, 2)) for row in found.rows]
    [('small', 1.0), ('middle', 1.0), ('large', 0.0)]
    """
    checked = _checked(arms, costs)
    order = sorted(arms, key=lambda name: (checked[name], name))
    known = [name for name in order if arms[name].seeds > 1]
    drawn = joint_draws([arms[name] for name in known]) if known else np.empty((0, 0))
    reasons = dict.fromkeys(order, ONE_SEED) | _reasons({name: arms[name] for name in known}, drawn)
    shares = dict(zip(known, _not_dominated(drawn, np.array([checked[name] for name in known])), strict=True))
    rows = []
    for name in order:
        found, why = estimate_arm(arms[name]), reasons[name]
        share = math.nan if why else shares[name]
        rows.append(Placed(name, checked[name], found.value, found.low, found.high, arms[name].seeds, share, why))
    left_out = tuple(name for name in order if name not in known)
    return Front(arms[order[0]].metric.name, tuple(rows), left_out)


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
    - The least costly of all arms that pass is one chance in 20 for each arm that is worse by the margin. `name` is the
      answer by each arm's own test, `name_together` that with Holm's correction, which names an arm that is worse by
      the margin or more in at most 1 - `level` of studies, however many arms there are.

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
    checked = _checked(arms, costs)
    first = next(iter(arms.values()))
    checked_margin(margin, first.metric.name)
    if not 0 < level < 1:
        raise SpecError(f"level is {level!r}; expected a number between 0 and 1, as 0.95")
    better = 1 if first.metric.higher_is_better else -1
    means = {name: _mean(arm) for name, arm in arms.items()}
    if reference is None:
        tried = [name for name in arms if arms[name].seeds > 1] or list(arms)
        reference = min(tried, key=lambda name: (-better * means[name], checked[name], name))
    elif reference not in arms:
        raise SpecError(f"reference is {reference!r}, which is no arm; {nearest(reference, arms)}")
    rows = []
    for name in sorted(arms, key=lambda name: (checked[name], name)):
        if name == reference:
            rows.append(Candidate(name, checked[name], means[name], 0.0, 0.0, 0.0, 1.0, True, True))
            continue
        found = compare_arms(arms[name], arms[reference], margin)
        shown = found.p_not_worse <= 1 - level
        ends = (found.difference, found.low, found.high)
        rows.append(Candidate(name, checked[name], means[name], *ends, 1 - found.p_not_worse, shown, shown))
    return Smallest(first.metric.name, reference, float(margin), level, _corrected(rows, checked[reference], level))


def _corrected(rows: Sequence[Candidate], cost: float, level: float) -> tuple[Candidate, ...]:
    """The rows with `together` for those that cost less: the others cannot be the answer."""
    less = [row for row in rows if row.cost < cost]
    sure = rejected(np.array([1 - row.probability for row in less]).reshape(len(less), 1), 1 - level)
    found = {row.name: bool(one) for row, one in zip(less, sure[:, 0], strict=True)}
    return tuple(replace(row, together=found.get(row.name, row.shown)) for row in rows)


def _checked(arms: Mapping[str, Arm], costs: Mapping[str, float]) -> dict[str, float]:
    """The costs of the arms, where both can be used.

    Raises:
        DataError: no arm, or arms that cannot be compared.
        SpecError: costs of other names, negative or not finite.
    """
    if not arms:
        raise DataError("there is no arm; expected at least one, by name")
    checked = _checked_costs(arms, costs)
    first, *others = arms.items()
    for name, arm in others:
        try:
            first[1].beside(arm)
        except DataError as error:
            raise DataError(f"arms {first[0]!r} and {name!r} cannot stand side by side: {error}") from None
    return checked


def _checked_costs(names: Collection[str], costs: Mapping[str, float]) -> dict[str, float]:
    for name in names:
        if name not in costs:
            raise SpecError(f"arm {name!r} has no cost; {nearest(name, costs)}")
    for name, cost in costs.items():
        if name not in names:
            raise SpecError(f"there is a cost of {name!r}, which is no arm; {nearest(name, names)}")
        if not (math.isfinite(cost) and cost >= 0):
            raise SpecError(f"the cost of {name!r} is {cost!r}; expected a finite number >= 0")
    return {name: float(costs[name]) for name in names}


def _mean(arm: Arm) -> float:
    return float(np.mean([part.points[:, 0] for part in arm.parts]))


def _reasons(arms: Mapping[str, Arm], drawn: np.ndarray) -> dict[str, str]:
    """Why the place of each arm is unknown; empty where it is known."""
    found = {name: withheld(arm) for name, arm in arms.items()}
    if drawn.shape[1] == 0:
        return {
            name: why or "too few resamples of patients on which every arm has a value" for name, why in found.items()
        }
    # An arm at the bound of its metric on every resample has no variance, but a difference to another arm has one.
    perfect = [name for name, row in zip(arms, drawn, strict=True) if found[name] and np.ptp(row) <= SAME]
    return found | ({perfect[0]: ""} if len(perfect) == 1 else {})


def _not_dominated(drawn: np.ndarray, costs: np.ndarray) -> list[float]:
    """The share of draws `(A, B)` in which no arm dominates each one."""
    shares = []
    for own, cost in zip(drawn, costs, strict=True):
        by_less = (drawn[costs < cost] >= own - SAME).any(axis=0)
        by_equal = (drawn[costs == cost] > own + SAME).any(axis=0)
        shares.append(float(1 - (by_less | by_equal).mean()) if len(own) else math.nan)
    return shares
