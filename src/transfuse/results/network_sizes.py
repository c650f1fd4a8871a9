"""How small the network may be: what each arm costs, how likely no other one beats it, and the smallest not worse."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from transfuse.results import arms

if TYPE_CHECKING:
    from transfuse.statistics.arm import Arm
    from transfuse.statistics.pareto import Placed

LEVEL = 0.95
"""The probability of being not worse that is asked for."""
COSTS = {"parameters": "parameters", "macs": "MACs", "latency": "latency"}
"""What a network costs, as a key and as it is written; the first two are columns of the runs table."""
RISING = "training had not levelled off"


class Name(NamedTuple):
    """An arm of a network."""

    model: str
    arm: str


class Timing(NamedTuple):
    """How long a pass of one image takes, in milliseconds: the median of many, and its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Timings:
    """What was timed of the networks of a study.

    Args:
        arms: of each arm, by network and label; without those that could not be timed.
        conditions: the machine and how it was timed, and what could not be, as a sentence.
    """

    arms: Mapping[tuple[str, str], Timing]
    conditions: str


@dataclass(frozen=True)
class ArmSize:
    """What one arm costs and gives.

    Args:
        name: network and arm.
        costs: parameters, MACs and latency (milliseconds); without what is unknown.
        value: the test metric, the mean over seeds.
        low: lower end of its 95 % interval; -inf where there is none.
        high: upper end.
        not_dominated: for each cost, the probability that no other arm of the study is at least as good at no more of
            it; NaN where it is unknown.
        in_network: the same among the arms of its network; without costs that are the same for all of them, and empty
            in a study of one network.
        not_worse: probability that it is not worse than the best arm of the study by the margin; NaN without a test.
        reason: why something is unknown.
        timing: of one image, where it was timed.
    """

    name: Name
    costs: Mapping[str, float]
    value: float
    low: float
    high: float
    not_dominated: Mapping[str, float] = field(default_factory=dict)
    in_network: Mapping[str, float] = field(default_factory=dict)
    not_worse: float = math.nan
    reason: str = ""
    timing: Timing | None = None


@dataclass(frozen=True)
class Answer:
    """The smallest arm that is not worse than the best one, by one cost.

    Args:
        model: the network whose arms were asked about; empty for the whole study.
        cost: key of `COSTS`.
        best: the arm with the best mean.
        smallest: the least costly that is shown to be not worse by the margin, with Holm's correction for the number of
            arms that cost less than the best; `best` where there is none.
        alone: the same by each arm's own test, without the correction.
        probability: that `smallest` is not worse.
        less: how many arms cost less than the best one.
        tested: how many of these have a test.
        costs: of the smallest and of the best.
    """

    model: str
    cost: str
    best: Name
    smallest: Name
    alone: Name
    probability: float
    less: int
    tested: int
    costs: tuple[float, float]


@dataclass(frozen=True)
class Sizes:
    """How small the network may be.

    Args:
        metric: of the study.
        margin: the largest difference that does not matter.
        rows: one an arm that has a result, the smallest first.
        answers: for the study, then for each network whose arms differ in a cost.
        timed: how latencies were taken, as a sentence; empty where none was.
    """

    metric: str
    margin: float
    rows: tuple[ArmSize, ...]
    answers: tuple[Answer, ...]
    timed: str = ""


def sizes(
    tested: Mapping[tuple[str, str], Arm],
    runs: pd.DataFrame,
    margin: float,
    rising: Collection[tuple[str, str]] = (),
    timings: Timings | None = None,
) -> Sizes | None:
    """What the arms of a study cost, and the smallest of them that is not worse; None where all cost the same.

    MACs count where each arm has them: records of earlier versions lack them. So do latencies, which are taken as they
    are: that their medians are known to some percent only is in no probability.

    Args:
        tested: the arms on the same test samples, by network and label.
        runs: `model, arm, parameters[, macs, role]`.
        margin: > 0, in units of the metric.
        rising: arms whose training had not levelled off; they are shown, and no answer rests on them.
        timings: how long a pass takes, where that was asked for.
    """
    from transfuse.statistics.comparison import estimate_arm

    timed = timings.arms if timings else {}
    known = _known_costs(runs, timed)
    names = [Name(*key) for key in tested if Name(*key) in known]
    costs = [cost for cost in COSTS if all(cost in known[name] for name in names)]
    if not any(_differ(known, names, cost) for cost in costs):
        return None
    usable = [name for name in names if name not in rising]
    whole = _group(usable, tested, known, costs, margin)
    models = list(dict.fromkeys(name.model for name in names))
    parts = [
        _group([name for name in usable if name.model == model], tested, known, costs, margin, model)
        for model in (models if len(models) > 1 else ())
    ]
    within = {name: places for part in parts for name, places in part.places.items()}
    rows = []
    for name in sorted(names, key=lambda name: [known[name][cost] for cost in costs]):
        placed, found = whole.places.get(name, {}), estimate_arm(tested[name])
        rows.append(
            ArmSize(
                name,
                known[name],
                found.value,
                found.low,
                found.high,
                {cost: row.not_dominated for cost, row in placed.items()},
                {cost: row.not_dominated for cost, row in within.get(name, {}).items()},
                whole.not_worse.get(name, math.nan),
                RISING if name in rising else next((row.reason for row in placed.values()), ""),
                timed.get(name),
            )
        )
    answers = [answer for part in (whole, *parts) for answer in part.answers]
    metric = next(iter(tested.values())).metric.name
    return Sizes(metric, margin, tuple(rows), tuple(answers), timings.conditions if timings else "")


class _Group(NamedTuple):
    """Some arms among themselves: the place of each by cost, the probability of each to be not worse, and answers."""

    places: Mapping[Name, Mapping[str, Placed]]
    not_worse: Mapping[Name, float]
    answers: Sequence[Answer]


def _group(
    names: Sequence[Name],
    tested: Mapping[tuple[str, str], Arm],
    known: Mapping[Name, Mapping[str, float]],
    costs: Sequence[str],
    margin: float,
    model: str = "",
) -> _Group:
    from transfuse.statistics.pareto import front
    from transfuse.statistics.smallest import smallest_not_worse

    counted = [cost for cost in costs if _differ(known, names, cost)]
    if not counted:
        return _Group({}, {}, ())
    of_key = {str(name): name for name in names}
    arms_of = {key: tested[name] for key, name in of_key.items()}
    prices = {cost: {key: float(known[name][cost]) for key, name in of_key.items()} for cost in counted}
    places: dict[Name, dict[str, Placed]] = {name: {} for name in names}
    for cost in counted:
        for row in front(arms_of, prices[cost]).rows:
            places[of_key[row.name]][cost] = row
    found = smallest_not_worse(arms_of, prices[counted[0]], margin=margin, level=LEVEL)
    answers = []
    for cost in counted:
        by_cost = found.priced(prices[cost])
        best, smallest, alone = (of_key[key] for key in (found.reference, by_cost.name, by_cost.name_alone))
        chance = {row.name: row.probability for row in by_cost.rows}
        less = [chance[key] for key, price in prices[cost].items() if price < prices[cost][found.reference]]
        ends = (known[smallest][cost], known[best][cost])
        tests = sum(not math.isnan(one) for one in less)
        answers.append(Answer(model, cost, best, smallest, alone, chance[by_cost.name], len(less), tests, ends))
    return _Group(places, {of_key[row.name]: row.probability for row in found.rows}, answers)


def _known_costs(runs: pd.DataFrame, timed: Mapping[tuple[str, str], Timing]) -> dict[Name, dict[str, float]]:
    """The costs of each arm, as its first run has recorded them and its network was timed."""
    found: dict[Name, dict[str, float]] = {}
    own = arms.arm_runs(runs)
    if own.empty or "parameters" not in own:
        return found
    for run in own.to_dict("records"):
        name = Name(str(run["model"]), str(run["arm"]))
        costs: dict[str, float] = {cost: int(run[cost]) for cost in COSTS if cost in run and pd.notna(run[cost])}
        if name in timed:
            costs["latency"] = timed[name].median
        if "parameters" in costs:
            found.setdefault(name, costs)
    return found


def _differ(known: Mapping[Name, Mapping[str, float]], names: Sequence[Name], cost: str) -> bool:
    return len({known[name][cost] for name in names}) > 1
