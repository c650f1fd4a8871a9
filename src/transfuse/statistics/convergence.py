"""How fast runs learn: steps to a threshold and to the best value, speed-up, area under the learning curve.

A run that has no such number (it never reached the threshold, it diverged, it stopped early) is censored: it is counted
and its place kept, never dropped, since leaving it out would make a slow arm look fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError
from transfuse.statistics.seeds import Ratio, SeedMean, ratio_of_means, seed_mean

History = Sequence[tuple[ArrayLike, ArrayLike]]
"""One `(steps, values)` a run, each `(K,)`, steps ascending; NaN values were not evaluated and are skipped."""


@dataclass(frozen=True)
class StepsTo:
    """When runs of one arm reached a threshold.

    Args:
        threshold: of the metric.
        steps: first step of each run at which the metric reached the threshold; None: it never did.
        last: last step at which each run was evaluated: a run that never got there is censored here.
        reached: how many runs did.
        median: over all runs, those that never did counted as later than any; None when half or more never did.
    """

    threshold: float
    steps: tuple[float | None, ...]
    last: tuple[float, ...]
    reached: int
    median: float | None


@dataclass(frozen=True)
class StepsToBest:
    """When runs of one arm were at their best.

    Args:
        steps: first step of each run at which it had its best value; None: it has no value at all.
        best: this value; None as above.
        last: last step at which each run was evaluated.
        at_end: how many runs were best at their very last evaluation: they might have become better still, so their
            step says where training stopped rather than where learning did.
    """

    steps: tuple[float | None, ...]
    best: tuple[float | None, ...]
    last: tuple[float, ...]
    at_end: int


@dataclass(frozen=True)
class Areas:
    """The area under each run's learning curve, divided by the steps it is taken over: the mean value on the way.

    Args:
        values: in units of the metric; None: the run has no values over the whole range.
        first: step at which the common range begins.
        last: step at which it ends.
    """

    values: tuple[float | None, ...]
    first: float
    last: float


@dataclass(frozen=True)
class Speedup:
    """How many times fewer steps an arm takes than a reference.

    Args:
        value: mean steps of the reference / mean steps of the arm; above 1, the arm is faster. None where undefined.
        low: lower end of the interval over seeds; -inf where none can be given.
        high: upper end; inf where none can be given.
        bound: "exact"; "at least" where runs of the reference are censored; "at most" where runs of the arm are;
            "undefined" where both have some.
        note: what limits it, in words; empty where nothing does.
    """

    value: float | None
    low: float
    high: float
    bound: Literal["exact", "at least", "at most", "undefined"]
    note: str = ""


def steps_to(history: History, threshold: float, higher_is_better: bool = True) -> StepsTo:
    """First step at which each run's metric reaches `threshold`, and their median (METHODS MET-8).

    A run that does not reach it is censored, never dropped: leaving it out would make a slow arm look fast.

    Args:
        history: one `(steps, values)` a run, each `(K,)`, steps ascending; NaN values (not evaluated) are skipped.
        threshold: in units of the metric; reaching it exactly counts.
        higher_is_better: direction of the metric.

    Raises:
        SpecError: a threshold that is not finite.
        DataError: no run, unequal lengths, or steps that do not ascend.

    >>> steps_to([([10, 20, 30], [0.5, 0.7, 0.9]), ([10, 20, 30], [0.5, 0.6, 0.6])], 0.7).steps
    (20.0, None)
    """
    if not np.isfinite(threshold):
        raise SpecError(f"threshold is {threshold!r}; expected a finite number in units of the metric")
    first: list[float | None] = []
    last: list[float] = []
    for steps, values in read_history(history):
        there = values >= threshold if higher_is_better else values <= threshold  # False for NaN
        first.append(float(steps[there.argmax()]) if there.any() else None)
        last.append(float(steps[-1]))
    order = sorted(np.inf if step is None else step for step in first)
    upper = order[len(order) // 2]
    median = (order[(len(order) - 1) // 2] + upper) / 2 if np.isfinite(upper) else None
    return StepsTo(float(threshold), tuple(first), tuple(last), sum(s is not None for s in first), median)


def steps_to_best(history: History, higher_is_better: bool = True) -> StepsToBest:
    """First step at which each run has the best value it ever has (METHODS AN-22: "iterations until best").

    The resolution is the distance of two evaluations, and a plateau's best is chance: the more often a run is
    evaluated, the later its best tends to be. Compare arms evaluated at the same steps only.

    Args:
        history: one `(steps, values)` a run.
        higher_is_better: direction of the metric.

    Raises:
        DataError: no run, unequal lengths, or steps that do not ascend.

    >>> steps_to_best([([10, 20, 30], [0.5, 0.9, 0.9]), ([10, 20, 30], [0.5, 0.6, 0.8])]).steps
    (20.0, 30.0)
    """
    places: list[float | None] = []
    best: list[float | None] = []
    last: list[float] = []
    for steps, values in read_history(history):
        signed = values if higher_is_better else -values
        there = np.isfinite(signed)
        place = int(np.where(there, signed, -np.inf).argmax())
        places.append(float(steps[place]) if there.any() else None)
        best.append(float(values[place]) if there.any() else None)
        last.append(float(steps[-1]))
    at_end = sum(step == end for step, end in zip(places, last, strict=True))
    return StepsToBest(tuple(places), tuple(best), tuple(last), at_end)


def mean_steps(found: StepsTo | StepsToBest, confidence: float = 0.95) -> SeedMean:
    """Mean, spread and t interval over seeds of the steps.

    Where runs are censored, each counts with its last step: the value is then a **lower bound** of the mean, has no
    interval, and `reason` says how many they are.

    Raises:
        SpecError: a confidence outside (0, 1).

    >>> found = steps_to([([10, 20, 30], [0.5, 0.7, 0.9]), ([10, 20, 30], [0.5, 0.6, 0.6])], 0.7)
    >>> mean_steps(found).value, mean_steps(found).reason
    (25.0, 'at least: 1 of 2 runs has no such step and counts with its last one')
    """
    mean = seed_mean(_counted(found), confidence)
    lost = sum(step is None for step in found.steps)
    if not lost:
        return mean
    have = "has" if lost == 1 else "have"
    reason = f"at least: {lost} of {len(found.steps)} runs {have} no such step and counts with its last one"
    reason = reason if lost == 1 else reason.replace("counts with its last one", "count with their last ones")
    return SeedMean(mean.value, None, -math.inf, math.inf, confidence, mean.seeds, reason)


def speedup(reference: StepsTo | StepsToBest, arm: StepsTo | StepsToBest, confidence: float = 0.95) -> Speedup:
    """Relative speed-up of an arm: `mean steps of the reference / mean steps of the arm`.

    M, appendix F (Fig. 19) shows "relative speedups" without a definition; here iterations(reference) /
    iterations(arm), with the arm of no transferred weights as reference (METHODS AN-22 and 2.2.14), of means over
    seeds. The interval is `transfuse.statistics.seeds.ratio_of_means`.

    A censored run took at least its last step: with censored runs in the reference the value is a lower bound, with
    some in the arm an upper one, with some in both it is undefined. A bound has no interval.

    Args:
        reference: steps of the arm that is compared with.
        arm: steps of the arm in question, from the same function, threshold and evaluations.
        confidence: of the interval, in (0, 1).

    Raises:
        SpecError: a confidence outside (0, 1), or thresholds that differ.

    >>> slow = steps_to_best([([100, 200, 300], [0.1, 0.2, 0.3]), ([100, 200, 300], [0.1, 0.3, 0.2])])
    >>> fast = steps_to_best([([100, 200, 300], [0.3, 0.2, 0.1])])
    >>> speedup(slow, fast).value
    2.5
    """
    limits = {found.threshold for found in (reference, arm) if isinstance(found, StepsTo)}
    if type(reference) is not type(arm) or len(limits) > 1:
        raise SpecError(
            f"a speed-up compares the same event, not {type(reference).__name__} with {type(arm).__name__}"
            + (f" at thresholds {sorted(limits)}" if len(limits) > 1 else "")
            + ": make both with one function and one threshold"
        )
    lost = [sum(step is None for step in found.steps) for found in (reference, arm)]
    counts = f"{lost[0]} of {len(reference.steps)} runs of the reference and {lost[1]} of {len(arm.steps)} of the arm"
    if all(lost):
        return Speedup(None, -math.inf, math.inf, "undefined", f"{counts} have no such step")
    means = [sum(_counted(found)) / len(found.steps) for found in (reference, arm)]
    if min(means) <= 0:
        note = "every run of one of the arms is there at step 0, before any training"
        return Speedup(None, -math.inf, math.inf, "undefined", note)
    ratio: Ratio = ratio_of_means(_counted(reference), _counted(arm), confidence)
    if any(lost):
        return Speedup(
            ratio.value, -math.inf, math.inf, "at least" if lost[0] else "at most", f"{counts} have no such step"
        )
    note = ratio.method if not math.isfinite(ratio.low) else ""
    return Speedup(ratio.value, ratio.low, ratio.high, "exact", note)


def areas_under_curves(history: History, first: float | None = None, last: float | None = None) -> Areas:
    """Area under each learning curve by the trapezoid rule, divided by the length of the range of steps.

    All runs share one range, or a run that stopped early would be measured on its steep part only. Between two
    evaluations, and at the ends of the range, values are interpolated. The rule is exact for straight lines between
    evaluations; two arms are comparable where they are evaluated at the same steps.

    Args:
        history: one `(steps, values)` a run.
        first: begin of the range; None: the latest first step of any run that has values.
        last: end of the range; None: the earliest last step of any run that has values.

    Returns:
        One value a run, None for a run whose values do not cover the range.

    Raises:
        DataError: no run, unequal lengths, steps that do not ascend, or an empty range.

    >>> areas_under_curves([([0, 10], [0.0, 1.0]), ([0, 10, 20], [1.0, 1.0, 0.0])])
    Areas(values=(0.5, 1.0), first=0.0, last=10.0)
    """
    read = read_history(history)
    curves = [(steps[there], values[there]) for steps, values in read for there in [np.isfinite(values)]]
    spans = [(float(steps[0]), float(steps[-1])) for steps, _ in curves if len(steps)]
    if not spans and (first is None or last is None):
        raise DataError("no run has a finite value; there is no range of steps to take an area over")
    begin = max(span[0] for span in spans) if first is None else float(first)
    end = min(span[1] for span in spans) if last is None else float(last)
    if not begin < end:
        raise DataError(
            f"the range of steps begins at {begin:g} and ends at {end:g}; the runs need two evaluations in common: "
            "leave out, by name, those that stopped before the others began"
        )
    return Areas(tuple(_area(steps, values, begin, end) for steps, values in curves), begin, end)


def _area(steps: np.ndarray, values: np.ndarray, begin: float, end: float) -> float | None:
    if not len(steps) or steps[0] > begin or steps[-1] < end:
        return None
    knots = np.unique([begin, *steps[(steps > begin) & (steps < end)], end])
    return float(np.trapezoid(np.interp(knots, steps, values), knots) / (end - begin))


def _counted(found: StepsTo | StepsToBest) -> list[float]:
    """The steps, a censored run with its last one."""
    return [end if step is None else step for step, end in zip(found.steps, found.last, strict=True)]


def read_history(history: History) -> list[tuple[np.ndarray, np.ndarray]]:
    """The runs of a history as `(steps, values)`, two `(K,)` float arrays each.

    Raises:
        DataError: no run, unequal lengths, or steps that do not ascend.
    """
    if len(history) == 0:
        raise DataError("no run in the history; expected one (steps, values) a run")
    curves = []
    for number, (at, of) in enumerate(history):
        steps, values = np.asarray(at, dtype=np.float64), np.asarray(of, dtype=np.float64)
        if steps.ndim != 1 or steps.shape != values.shape or len(steps) == 0 or (np.diff(steps) <= 0).any():
            raise DataError(
                f"run number {number}: steps have shape {steps.shape} and values {values.shape}; expected two (K,) "
                "arrays, K >= 1, with ascending steps"
            )
        curves.append((steps, values))
    return curves
