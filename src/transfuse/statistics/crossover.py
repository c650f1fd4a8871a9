"""From which number of training patients on one arm comes up to another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from transfuse.errors import DataError, SpecError
from transfuse.statistics.data_size import FARTHEST, DataSizeCurve
from transfuse.statistics.power_law import PowerLaw

__all__ = ["Crossover", "crossover"]

_POINTS = 400


@dataclass(frozen=True)
class Crossover:
    """From how many training patients on one arm is not behind another by more than a margin.

    Args:
        patients: the number; the smallest size where it is so from there on; inf beyond `FARTHEST` x the largest size.
        low: lower end of the interval, in the same way; 0 where none can be given.
        high: upper end, in the same way.
        margin: how far behind it may be, in units of the metric.
        smallest: the smallest number of training patients that both arms were trained on.
        largest: the largest.
        note: where the number lies, if not between these.
    """

    patients: float
    low: float
    high: float
    margin: float
    smallest: int
    largest: int
    note: str = ""


def crossover(scratch: DataSizeCurve, transfer: DataSizeCurve, margin: float = 0.0) -> Crossover:
    """The number of training patients from which on `scratch` is not behind `transfer` by more than `margin`.

    Of the fitted curves: the end of the last stretch, up to the largest size, in which transfer is ahead by more. Where
    it still is so at the largest size, the curves are followed to `FARTHEST` x that, and no farther.

    Args:
        scratch: the arm without transfer.
        transfer: the arm with it, tested on the same samples.
        margin: >= 0; 0 gives the crossing itself.

    Raises:
        SpecError: a margin below 0.
        DataError: arms with other metrics, test samples or resamples, or without a size in common range.

    >>> from transfuse.statistics.data_size import data_size_curve
    >>> n = np.array([50, 100, 200, 400])
    >>> one, other = (data_size_curve(n, (0.9 - a / n)[:, None] + [[0, 0.001]]) for a in (6.0, 2.0))
    >>> round(crossover(one, other, margin=0.02).patients)
    200
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise SpecError(f"margin is {margin!r}; expected a number >= 0 in units of {scratch.metric.name}")
    smallest, largest = _range(scratch, transfer)
    inside = np.geomspace(smallest, largest, _POINTS)
    outside = np.geomspace(largest, FARTHEST * largest, _POINTS)

    def found(one: PowerLaw, other: PowerLaw) -> np.ndarray:
        behind = [scratch.better * (other.at(grid) - one.at(grid)) - margin for grid in (inside, outside)]
        return np.where(behind[0][:, -1] <= 0, _end(behind[0], inside), _end(behind[1], outside))

    value = float(found(scratch.law, transfer.law)[0])
    low, high = 0.0, math.inf
    there = found(scratch.replicates, transfer.replicates)
    there = there[~np.isnan(there)]
    if len(there):
        tail = (1 - scratch.confidence) / 2
        # Not between two of them: one may be infinite.
        low, high = (float(end) for end in np.quantile(there, [tail, 1 - tail], method="inverted_cdf"))
    return Crossover(value, low, high, float(margin), smallest, largest, _note(value, smallest, largest))


def _end(behind: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """`(R,)` where each row is above 0 for the last time; the grid's first point where never, inf where at its end."""
    above = behind > 0
    last = above.shape[1] - 1 - np.argmax(above[:, ::-1], axis=1)
    last = np.where(above.any(axis=1), last, -1)
    rows, before = np.arange(len(behind)), np.clip(last, 0, len(grid) - 2)
    here, then = behind[rows, before], behind[rows, before + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(here > then, here / (here - then), 0.0)
    between = grid[before] * (grid[before + 1] / grid[before]) ** np.clip(step, 0.0, 1.0)
    ends = np.where(last < 0, grid[0], np.where(last == len(grid) - 1, np.inf, between))
    return np.where(np.isnan(behind).any(axis=1), np.nan, ends)


def _range(scratch: DataSizeCurve, transfer: DataSizeCurve) -> tuple[int, int]:
    if (scratch.metric.name, scratch.confidence) != (transfer.metric.name, transfer.confidence):
        raise DataError(
            f"the curves are of {scratch.metric.name} ({scratch.confidence:g}) and {transfer.metric.name} "
            f"({transfer.confidence:g}); expected the same metric and confidence"
        )
    if (scratch.tested is None) != (transfer.tested is None):
        raise DataError("one curve is of arms and the other of numbers; expected two of the same kind")
    if scratch.tested is not None and transfer.tested is not None:
        scratch.tested.beside(transfer.tested)
    smallest, largest = max(scratch.patients[0], transfer.patients[0]), min(scratch.largest, transfer.largest)
    if smallest >= largest:
        raise DataError(
            f"the arms were trained on {scratch.patients[0]} to {scratch.largest} and on {transfer.patients[0]} to "
            f"{transfer.largest} patients; expected ranges that overlap"
        )
    return smallest, largest


def _note(patients: float, smallest: int, largest: int) -> str:
    if math.isinf(patients):
        return f"beyond {FARTHEST} x the largest size, {largest}: not said"
    if patients > largest:
        return f"not within the sizes that were trained, up to {largest}: extrapolated"
    return f"from the smallest size on, {smallest}" if patients <= smallest else ""
