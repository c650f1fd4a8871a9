"""The probability of being on the Pareto front of a metric and a cost.

An arm is on the front where no other one is at least as good at no more cost. Which arms are is known with the
uncertainty of their metrics (`joint.py`), so each has a probability.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from transfuse.errors import DataError, SpecError, nearest
from transfuse.statistics.arm import Arm
from transfuse.statistics.comparison import estimate_arm
from transfuse.statistics.joint import SAME, joint_draws, withheld

__all__ = ["Front", "Placed", "checked_arms", "checked_costs", "front"]

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
    checked = checked_arms(arms, costs)
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


def checked_arms(arms: Mapping[str, Arm], costs: Mapping[str, float]) -> dict[str, float]:
    """The costs of the arms, where both can be used.

    Raises:
        DataError: no arm, or arms that cannot be compared.
        SpecError: costs of other names, negative or not finite.
    """
    if not arms:
        raise DataError("there is no arm; expected at least one, by name")
    checked = checked_costs(arms, costs)
    first, *others = arms.items()
    for name, arm in others:
        try:
            first[1].beside(arm)
        except DataError as error:
            raise DataError(f"arms {first[0]!r} and {name!r} cannot stand side by side: {error}") from None
    return checked


def checked_costs(names: Collection[str], costs: Mapping[str, float]) -> dict[str, float]:
    """The costs as they are, where each name has one.

    Raises:
        SpecError: costs of other names, negative or not finite.
    """
    for name in names:
        if name not in costs:
            raise SpecError(f"arm {name!r} has no cost; {nearest(name, costs)}")
    for name, cost in costs.items():
        if name not in names:
            raise SpecError(f"there is a cost of {name!r}, which is no arm; {nearest(name, names)}")
        if not (math.isfinite(cost) and cost >= 0):
            raise SpecError(f"the cost of {name!r} is {cost!r}; expected a finite number >= 0")
    return {name: float(costs[name]) for name in names}


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
