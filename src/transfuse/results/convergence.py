"""Steps until a validation metric reaches a threshold, with the runs that never do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError


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


def steps_to(
    history: Sequence[tuple[ArrayLike, ArrayLike]], threshold: float, higher_is_better: bool = True
) -> StepsTo:
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
    if len(history) == 0:
        raise DataError("no run in the history; expected one (steps, values) a run")
    first: list[float | None] = []
    last: list[float] = []
    for number, (at, of) in enumerate(history):
        steps, values = np.asarray(at, dtype=np.float64), np.asarray(of, dtype=np.float64)
        if steps.ndim != 1 or steps.shape != values.shape or len(steps) == 0 or (np.diff(steps) <= 0).any():
            raise DataError(
                f"run number {number}: steps have shape {steps.shape} and values {values.shape}; expected two (K,) "
                "arrays, K >= 1, with ascending steps"
            )
        there = values >= threshold if higher_is_better else values <= threshold  # False for NaN
        first.append(float(steps[there.argmax()]) if there.any() else None)
        last.append(float(steps[-1]))
    order = sorted(np.inf if step is None else step for step in first)
    upper = order[len(order) // 2]
    median = (order[(len(order) - 1) // 2] + upper) / 2 if np.isfinite(upper) else None
    return StepsTo(float(threshold), tuple(first), tuple(last), sum(s is not None for s in first), median)
