"""Where the gain sits: the test metric against how many blocks of a network start pretrained (WT-ST-n/m)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from transfuse.results.arms import ArmComparison, ArmEstimate, transfers, weights_of
from transfuse.results.causes import Settings, apart
from transfuse.results.depth import SweepArm, sweep_arms

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Estimate


class DepthPoint(NamedTuple):
    """An arm of the curve.

    Attributes:
        place: how many blocks it transfers.
        estimate: its test metric; None without a finished run.
        against: its comparison with the baseline; None for the baseline itself and where there is none.
    """

    place: SweepArm
    estimate: Estimate | None
    against: ArmComparison | None


@dataclass(frozen=True)
class DepthCurve:
    """The arms of one sweep over the depth of one network.

    Args:
        model: the network.
        sweep: name of the arm that said `every`.
        baseline: what the points are compared with.
        level: the baseline's test metric, the mean over seeds; NaN where it has none.
        points: from none to all blocks transferred.
    """

    model: str
    sweep: str
    baseline: str
    level: float
    points: tuple[DepthPoint, ...]

    @property
    def is_compared(self) -> bool:
        """Whether every point with a metric has an interval against the baseline, or is the baseline."""
        return math.isfinite(self.level) and all(
            point.place.arm == self.baseline
            or (point.against is not None and math.isfinite(point.against.comparison.high))
            for point in self.points
            if point.estimate is not None
        )


def curves_over_depth(
    arms: Mapping[str, Settings],
    estimates: Sequence[ArmEstimate],
    comparisons: Sequence[ArmComparison],
    baseline: str,
    models: Mapping[str, Settings] | None = None,
) -> list[DepthCurve]:
    """The curve of each sweep over the depth, network by network.

    An arm that differs from those of the sweep only in that it transfers nothing begins the curve: Mean Var weights
    where the rest of the sweep is Mean Var.

    Args:
        arms: label -> settings, all that `InitSpec` has or those that are not as its defaults.
        estimates: of every arm that was asked for, without a metric where no run has finished: they say which blocks
            each network has.
        comparisons: those with the baseline are used, the way they were asked for.
        baseline: label of the arm that the others are compared with.
        models: label -> settings of each network, of which `weights` counts.
    """
    found = {(row.model, row.arm): row.estimate for row in estimates}
    pairs = {(row.model, row.arm): row for row in comparisons if row.baseline == baseline}
    curves = []
    for model in dict.fromkeys(row.model for row in estimates):
        own = [row.arm for row in estimates if row.model == model]
        for sweep in dict.fromkeys(arm.partition("@")[0] for arm in own if "@" in arm):
            swept = [arm for arm in own if arm.startswith(f"{sweep}@")]
            if len(swept) < 2 or not all(_by_depth(arms.get(arm) or {}, arm) for arm in swept):
                continue
            none = _nothing_transferred(arms, own, swept[0], (models or {}).get(model))
            blocks = [arm.partition("@")[2] for arm in swept]
            points = tuple(
                DepthPoint(place, found[model, place.arm], pairs.get((model, place.arm)))
                for place in sweep_arms([*swept, *none], blocks, sweep, none=none[0] if none else "")
            )
            if any(point.estimate is not None for point in points if point.place.n):
                level = found.get((model, baseline))
                curves.append(DepthCurve(model, sweep, baseline, math.nan if level is None else level.value, points))
    return curves


def _by_depth(settings: Settings, arm: str) -> bool:
    """Whether an arm of a sweep is named by its depth, and is not one that is cut there."""
    return settings.get("depth") == arm.partition("@")[2] and not settings.get("truncate")


def _nothing_transferred(
    arms: Mapping[str, Settings], own: Sequence[str], one: str, model: Settings | None
) -> list[str]:
    """The first arm that is as `one` without any depth; nothing where there is none."""
    swept = arms[one]

    def alike(arm: str) -> bool:
        settings = arms.get(arm) or {}
        same = not transfers(settings) or weights_of(settings, model) == weights_of(swept, model)
        return not settings.get("depth") and apart(swept, settings) - {"weights"} == {"depth"} and same

    return [arm for arm in own if alike(arm)][:1]
