"""Whether the runs of an arm had levelled off when their training ended, or would have gained by more of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError
from transfuse.statistics.comparison import checked_margin
from transfuse.statistics.convergence import History, read_history

__all__ = ["Plateau", "kept_values", "plateau"]


@dataclass(frozen=True)
class Plateau:
    """What the runs of one arm gained over the last third of their training; positive is better.

    Args:
        plateaued: whether the mean gain is less than half the margin; None: it cannot be told, for `reason`.
        gained: mean over the runs of which it is known, in units of the metric; NaN where it cannot be told.
        margin: the largest difference that does not matter, in units of the metric.
        gains: of each run; None for a run with which it cannot be told.
        first: step of each run at which the last third of its training begins.
        last: last step of each run.
        reason: why it cannot be told, in words; empty where it can.
    """

    plateaued: bool | None
    gained: float
    margin: float
    gains: tuple[float | None, ...]
    first: tuple[float, ...]
    last: tuple[float, ...]
    reason: str = ""


def plateau(
    history: History,
    margin: float,
    higher_is_better: bool = True,
    monitored: Sequence[ArrayLike] | None = None,
) -> Plateau:
    """Whether an arm has plateaued: its mean over seeds gained less than half the margin in the last third of training.

    The question is whether longer training would change the test metric by more than that. A run is tested with the
    weights of its best validation, so its value at a step is that of the best validation so far, the one that would
    have been kept had training ended there (`kept_values`). A curve that falls at the end has levelled off, and a
    single validation that is worse by chance hides no rise. The value at two thirds of the steps is interpolated
    between the validations around it.

    Each run is measured on the last third of its own steps, counted from 0, and the gains are averaged: runs that
    stopped early, each at its own step, are each asked what their last third was worth. Leave out runs that diverged,
    as they have no test metric. Where some runs were validated too seldom to tell, the others decide if they still
    rose; if they were level, it cannot be told.

    A curve that wiggles gains a little by picking its best; how often that misleads is in docs/verdict.md.

    Args:
        history: one `(steps, values)` a run, each `(K,)`, steps ascending; NaN values (not evaluated) are skipped.
        margin: > 0, in units of the metric.
        higher_is_better: direction of the metric.
        monitored: `(K,)` a run, the quantity by which the best validation is chosen, **larger is better** (a loss
            with its sign changed); None: the metric itself.

    Raises:
        SpecError: a margin that is not positive.
        DataError: no run, unequal lengths, or steps that do not ascend.

    >>> steps = [100, 200, 300]
    >>> rising, level = (steps, [0.5, 0.6, 0.7]), (steps, [0.5, 0.8, 0.79])
    >>> plateau([rising, rising], margin=0.02).plateaued, plateau([level, level], margin=0.02).plateaued
    (False, True)
    >>> plateau([([300], [0.7])], margin=0.02).reason
    'validations on both sides of two thirds of the steps are missing in 1 of 1 run'
    """
    checked_margin(margin, "the metric")
    curves = read_history(history)
    chosen_by = [values if higher_is_better else -values for _, values in curves]
    if monitored is not None:
        chosen_by = [np.asarray(values, dtype=np.float64) for values in monitored]
    if [len(values) for values in chosen_by] != [len(values) for _, values in curves]:
        raise DataError(
            f"monitored has {[len(values) for values in chosen_by]} values and history {[len(v) for _, v in curves]}; "
            "expected one value for each validation of each run"
        )
    last = tuple(float(steps[-1]) for steps, _ in curves)
    first = tuple(2 * end / 3 for end in last)
    better = 1 if higher_is_better else -1
    gains = tuple(
        _gain(steps, better * kept_values(values, by), begin)
        for (steps, values), by, begin in zip(curves, chosen_by, first, strict=True)
    )
    known = [gain for gain in gains if gain is not None]
    rising = bool(known) and float(np.mean(known)) >= margin / 2
    if len(known) < len(gains) and not rising:
        which = f"{len(gains) - len(known)} of {len(gains)} {'run' if len(gains) == 1 else 'runs'}"
        reason = f"validations on both sides of two thirds of the steps are missing in {which}"
        return Plateau(None, math.nan, float(margin), gains, first, last, reason)
    gained = float(np.mean(known))
    return Plateau(gained < margin / 2, gained, float(margin), gains, first, last)


def kept_values(values: ArrayLike, monitored: ArrayLike) -> np.ndarray:
    """The metric of the weights that would be kept, had training ended at each validation.

    They are those of the best monitored value so far, the earliest of equals.

    Args:
        values: `(K,)`, the metric.
        monitored: `(K,)`, what the best is chosen by, larger is better; NaN is never chosen.

    Returns:
        `(K,)`; NaN before the first validation that can be chosen.

    >>> kept_values([0.5, 0.7, 0.6], [0.1, 0.3, 0.2]).tolist()
    [0.5, 0.7, 0.7]
    """
    by = np.asarray(monitored, dtype=np.float64)
    before = np.concatenate([[-np.inf], np.fmax.accumulate(by)[:-1]])
    new = by > np.where(np.isnan(before), -np.inf, before)  # False where `by` is NaN
    place = np.maximum.accumulate(np.where(new, np.arange(len(by)), -1))
    return np.where(place < 0, np.nan, np.asarray(values, dtype=np.float64)[place])


def _gain(steps: np.ndarray, kept: np.ndarray, begin: float) -> float | None:
    """What a run gained after the step `begin`; None where it was not validated both by then and later."""
    there = np.isfinite(kept)
    steps, kept = steps[there], kept[there]
    if not len(steps) or not steps[0] <= begin < steps[-1]:
        return None
    return float(kept[-1] - np.interp(begin, steps, kept))
