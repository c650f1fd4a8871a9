"""The gain split into its causes: which pair of arms isolates which, and the way from random to pretrained weights.

Pretrained less Mean Var weights is the reuse of features, Mean Var less random weights the scale of the weights
(T, section 5; M, section 4.1); a tuned arm less the same one with its transferred weights frozen is adaptation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from transfuse.results import phrases
from transfuse.results.arms import FULL, PARTIAL, RANDOM, SCALE, ArmComparison, kind_of, weights_of

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Comparison

FEATURE_REUSE, WEIGHT_SCALE = "Feature reuse", "Weight scale"
UPPER_LAYERS, ADAPTATION = "Upper layers", "Adaptation"
CAUSES = (FEATURE_REUSE, WEIGHT_SCALE, UPPER_LAYERS, ADAPTATION)
"""In the order in which they are told."""

Settings = Mapping[str, Any]

_BY_KIND = {(FULL, SCALE): FEATURE_REUSE, (SCALE, RANDOM): WEIGHT_SCALE, (PARTIAL, FULL): UPPER_LAYERS}
_OF_FREEZING = {"weights", "freeze", "norm_statistics"}


def cause_of(arm: Settings, baseline: Settings, model: Settings | None = None) -> str | None:
    """The part of the gain that an arm less a baseline isolates; None where they differ in more, or in other things.

    Adaptation is between arms that differ only in `freeze`, which keeps all that was transferred. An arm that keeps a
    part of it tells of the adaptation of this part only, so it isolates nothing here.

    Args:
        arm: settings of an arm, all that `InitSpec` has or those that are not as its defaults.
        baseline: those of the other arm, in the same way.
        model: settings of the network, of which `weights` counts for arms without weights of their own.

    >>> cause_of({"depth": "all"}, {"rest": "mean_var"}), cause_of({"rest": "mean_var"}, {})
    ('Feature reuse', 'Weight scale')
    >>> cause_of({"depth": "all"}, {"depth": "all", "freeze": "all"})
    'Adaptation'
    >>> cause_of({"depth": "all"}, {}) is None
    True
    """
    drawn = [weights_of(settings, model) for settings in (arm, baseline)]
    if all(drawn) and drawn[0] != drawn[1]:
        return None
    if _is_unfrozen(arm, baseline):
        return ADAPTATION
    return _BY_KIND.get((kind_of(arm), kind_of(baseline)))


def cause_pairs(arms: Mapping[str, Settings], model: Settings | None = None) -> list[tuple[str, str]]:
    """The pairs of a study's arms that split the gain of one network into causes, (arm, baseline) each.

    A pretrained arm is paired with one Mean Var arm of the same weights, a Mean Var arm with one random arm, a frozen
    arm with one tuned arm. Where several would do it is the one that differs in the fewest settings, and of these the
    first: each further pair would make the verdicts of all others harder to reach (`compare_all`).

    Args:
        arms: label -> settings, as `cause_of` takes them.
        model: settings of the network.

    >>> cause_pairs({"random": {}, "pretrained": {"depth": "all"}, "mean_var": {"rest": "mean_var"}})
    [('mean_var', 'random'), ('pretrained', 'mean_var')]
    """
    found: list[tuple[str, str]] = []
    for name, own in arms.items():
        for cause in (FEATURE_REUSE, WEIGHT_SCALE):
            others = [other for other in arms if cause_of(own, arms[other], model) == cause]
            found += [(name, other) for other in _most_alike(own, others, arms)]
        tuned = [other for other in arms if cause_of(arms[other], own, model) == ADAPTATION]
        found += [(other, name) for other in _most_alike(own, tuned, arms)]
    places = {WEIGHT_SCALE: 0, FEATURE_REUSE: 1, ADAPTATION: 2}
    return sorted(found, key=lambda pair: places[str(cause_of(arms[pair[0]], arms[pair[1]], model))])


@dataclass(frozen=True)
class Step:
    """One cause of the gain of a network: `arm` less `baseline`, whichever way round the two were compared.

    Args:
        cause: one of `CAUSES`.
        arm: label of the arm.
        baseline: label of what it is compared with.
        comparison: of the two.
        mirrored: whether `comparison` is of the baseline less the arm.
        why_undecided: why it decides nothing although its interval may look decided, in a word or two; else nothing.
    """

    cause: str
    arm: str
    baseline: str
    comparison: Comparison
    mirrored: bool = False
    why_undecided: str = ""

    @property
    def difference(self) -> float:
        """How much better the arm is, in units of the metric."""
        return self._sign * self.comparison.difference

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference; infinite where none can be given."""
        low, high = self.comparison.low, self.comparison.high
        return (-high, -low) if self.mirrored else (low, high)

    @property
    def verdict(self) -> str:
        """On the arm."""
        verdict = str(self.comparison.verdict)
        return {"helps": "hurts", "hurts": "helps"}.get(verdict, verdict) if self.mirrored else verdict

    @property
    def is_defined(self) -> bool:
        """Whether there is a difference at all; its interval may still be infinite."""
        return math.isfinite(self.comparison.difference)

    @property
    def start(self) -> float:
        """The metric of the baseline, the mean over its seeds."""
        return fmean(self.comparison.values_a if self.mirrored else self.comparison.values_b)

    @property
    def end(self) -> float:
        """The metric of the arm, the mean over its seeds."""
        return fmean(self.comparison.values_b if self.mirrored else self.comparison.values_a)

    def level(self, difference: float) -> float:
        """The metric of an arm that is better than the baseline by `difference`."""
        return self.start + (-difference if phrases.smaller_is_better(self.comparison.metric) else difference)

    @property
    def _sign(self) -> int:
        return -1 if self.mirrored else 1


def step_of(row: ArmComparison, arms: Mapping[str, Settings], model: Settings | None = None) -> Step | None:
    """A comparison as the cause that it isolates, turned round where needed; None where it isolates none.

    Args:
        row: of two of the arms.
        arms: label -> settings, as `cause_of` takes them.
        model: settings of the network.
    """
    own, other = arms[row.arm], arms[row.baseline]
    if cause := cause_of(own, other, model):
        return Step(cause, row.arm, row.baseline, row.comparison, False, row.why_undecided)
    if cause := cause_of(other, own, model):
        return Step(cause, row.baseline, row.arm, row.comparison, True, row.why_undecided)
    return None


@dataclass(frozen=True)
class Waterfall:
    """The way from random to pretrained weights, and what stands beside it.

    Args:
        steps: what the scale of the weights brings, and what the features add to it; each starts where the one before
            it ends. The first may be missing.
        beside: what adaptation brings: each ends where the steps end.
    """

    steps: tuple[Step, ...]
    beside: tuple[Step, ...]

    @property
    def bottom(self) -> str:
        """The arm where the way begins."""
        return self.steps[0].baseline

    @property
    def top(self) -> str:
        """The arm where it ends."""
        return self.steps[-1].arm

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes in which every step has a difference; none for metrics without classes."""
        every = [step.comparison.per_class for step in (*self.steps, *self.beside)]
        return tuple(
            index for index in every[0] if all(index in of and math.isfinite(of[index].difference) for of in every)
        )

    def of_class(self, index: int) -> Waterfall:
        """The same steps in one of `classes`; its verdicts are corrected together with those of the other classes."""

        def alone(step: Step) -> Step:
            own = step.comparison.per_class[index]
            of_both = step.why_undecided != phrases.why_undecided(step.comparison)  # of the arms, not of the mean
            return replace(
                step, comparison=own, why_undecided=step.why_undecided if of_both else phrases.why_undecided(own)
            )

        return Waterfall(tuple(map(alone, self.steps)), tuple(map(alone, self.beside)))


def waterfalls(
    comparisons: Sequence[ArmComparison], arms: Mapping[str, Settings], model: Settings | None = None
) -> list[Waterfall]:
    """The gain of one network as steps: for each arm that transfers all layers, where at least two steps are known.

    Args:
        comparisons: of one network, those of `cause_pairs` among them; others are left alone, and so are those without
            a difference.
        arms: label -> settings, as `cause_of` takes them.
        model: settings of the network.
    """
    known = [step for row in comparisons if (step := step_of(row, arms, model)) and step.is_defined]
    found = {(step.arm, step.baseline): step for step in known}
    steps = [found[pair] for pair in cause_pairs(arms, model) if pair in found]
    made = []
    for reuse in (step for step in steps if step.cause == FEATURE_REUSE):
        scale = [step for step in steps if step.cause == WEIGHT_SCALE and step.arm == reuse.baseline]
        beside = [step for step in steps if step.cause == ADAPTATION and step.arm == reuse.arm]
        if scale or beside:
            made.append(Waterfall((*scale, reuse), tuple(beside)))
    return made


def _most_alike(own: Settings, others: Sequence[str], arms: Mapping[str, Settings]) -> list[str]:
    """Of several arms the one that differs in the fewest settings, of these the first; nothing of none."""
    return [min(others, key=lambda other: len(apart(own, arms[other])))] if others else []


def _is_unfrozen(arm: Settings, baseline: Settings) -> bool:
    """Whether the baseline is the same arm with all that it transferred, and nothing else, frozen."""
    if not arm.get("depth") or arm.get("freeze") or baseline.get("freeze") != arm["depth"]:
        return False
    return apart(arm, baseline) <= _OF_FREEZING


def apart(one: Settings, other: Settings) -> set[str]:
    """The settings in which two arms differ; one that is missing is nothing: None, 0 or empty."""
    return {key for key in {*one, *other} if (one.get(key) or None) != (other.get(key) or None)}
