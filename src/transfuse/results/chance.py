"""Which arms are not shown to be better than chance: two arms that learned nothing are alike, which says nothing.

An arm is *at chance* where the 95 % interval of its test metric, over patients and seeds, reaches down to what a guess
gives: on few patients that may also be a good network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transfuse.results import phrases, plateaus
from transfuse.results.arms import ArmComparison, ArmEstimate

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Estimate

_FIXED = {"auroc": 0.5, "referable_auroc": 0.5, "referable_auroc_max": 0.5, "kappa": 0.0}
_BY_CLASSES = ("macro_recall", "accuracy")


def chance_level(metric: str, data: Mapping[str, Any] | None = None) -> float | None:
    """What a network that has learned nothing is expected to reach; None where that is not known.

    Of accuracy it is 1 / classes, which a guess reaches at least: where one class is frequent, naming it always reaches
    more, so an arm that is better than this may still have learned nothing. Of AUPRC it is the share of the positives,
    of Brier score and calibration error it depends on the shares too: None.

    Args:
        metric: of the study.
        data: its facts; `classes` and `task` are used.

    >>> chance_level("auroc"), chance_level("accuracy", {"classes": ["a", "b", "c", "d"]}), chance_level("brier")
    (0.5, 0.25, None)
    """
    facts = data or {}
    classes = len(facts.get("classes") or ())
    if metric in _BY_CLASSES and classes > 1 and facts.get("task") != "multilabel":
        return 1 / classes
    return _FIXED.get(metric)


def at_chance(estimates: Sequence[ArmEstimate], level: float | None) -> dict[tuple[str, str], Estimate]:
    """The arms whose interval reaches down to chance, by (network, arm); below chance counts, for it is no learning."""
    return {
        (row.model, row.arm): row.estimate
        for row in estimates
        if level is not None and row.estimate is not None and math.isfinite(row.estimate.low)
        if row.estimate.low <= level
    }


def withheld(
    comparisons: Sequence[ArmComparison], estimates: Sequence[ArmEstimate], study: Mapping[str, Any]
) -> list[ArmComparison]:
    """The comparisons with `at_chance` set where both arms are at chance; these are never equivalent.

    Of such a pair "equivalent" is withheld, and nothing is said of patients or seeds that would decide it: arms that
    have not learned the task are alike whatever they started from. A significant difference keeps its verdict.

    Args:
        comparisons: of the study.
        estimates: the test metric of every arm.
        study: `metric` and `data` are used.
    """
    level = chance_level(str(study.get("metric") or "auroc"), study.get("data"))
    low = at_chance(estimates, level)
    rows = []
    for row in comparisons:
        if not {(row.model, row.arm), (row.model, row.baseline)} <= set(low):
            rows.append(row)
        elif row.rising or row.comparison.verdict in ("helps", "hurts"):
            rows.append(replace(row, at_chance=level))
        else:
            rows.append(replace(row, at_chance=level, comparison=plateaus.untested(row.comparison)))
    return rows


def caveats(estimates: Sequence[ArmEstimate], study: Mapping[str, Any], model: str) -> list[str]:
    """What is to be said of a network's arms that are at chance."""
    metric = str(study.get("metric") or "auroc")
    level = chance_level(metric, study.get("data"))
    found = {arm: one for (net, arm), one in at_chance(estimates, level).items() if net == model}
    if not found or level is None:
        return []
    named = [
        f"{arm}: {phrases.number(one.value)}, {phrases.number(one.low)} to {phrases.number(one.high)}"
        for arm, one in found.items()
    ]
    count = phrases.counted(sum(row.model == model and row.estimate is not None for row in estimates), "arm")
    line = (
        f"{len(found)} of {count} {'is' if len(found) == 1 else 'are'} not shown to be better than chance, test "
        f"{phrases.metric_name(metric)} {phrases.trimmed(round(level, 3))}: train longer, at another learning rate or "
        f"on more data, or test on more patients ({'; '.join(named)})."
    )
    return [line]
