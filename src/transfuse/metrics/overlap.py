"""Dice and Jaccard, from the counted pixels of each image and class (METHODS MET-6).

Of one image and class, with true positives TP, false positives FP and false negatives FN in pixels or voxels, Dice is
`2 TP / (2 TP + FP + FN)` and Jaccard `TP / (TP + FP + FN)`. Where nothing is there and nothing is predicted both are 1;
where nothing is there and something is predicted both are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError, nearest
from transfuse.metrics.cases import ClassCounts
from transfuse.metrics.table import COUNT_METRICS, MetricValue

__all__ = ["mean_overlap", "overlap", "overlap_terms"]


def overlap(counts: ArrayLike, metric: str = "dice") -> np.ndarray:
    """Dice or Jaccard of counts `(..., 3)`; 1 where nothing is there and nothing is predicted.

    >>> overlap([[8, 2, 2], [0, 0, 0], [0, 5, 0]]).tolist()
    [0.8, 1.0, 0.0]
    """
    top, bottom = overlap_terms(np.asarray(counts, dtype=np.float64), metric)
    return np.divide(top, bottom, out=np.ones_like(top), where=bottom > 0)


def overlap_terms(counts: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of Dice or Jaccard of counts `(..., 3)`."""
    found = counts[..., 0] * (2 if metric == "dice" else 1)
    return found, found + counts[..., 1] + counts[..., 2]


def mean_overlap(counts: ArrayLike, metric: str = "dice", *, background: bool = True) -> MetricValue:
    """Dice or Jaccard of a set of images: the mean over images of each class, and the mean of these over the classes.

    Args:
        counts: `(N, C, 3)`: true positives, false positives and false negatives of each image and class.
        metric: "dice" or "jaccard".
        background: whether class 0 is the background, which is left out of the mean and of `per_class`.

    Returns:
        The value; `per_class` by the index among the C classes; `counts` are images with and without the class.

    Raises:
        SpecError: an unknown metric.
        DataError: counts of another shape, or no class but the background.

    >>> mean_overlap([[[90, 2, 2], [8, 2, 2]], [[100, 0, 0], [0, 0, 0]]]).value  # the second mask is empty
    0.9
    """
    if metric not in COUNT_METRICS:
        raise SpecError(f"unknown metric {metric!r} of counts: {nearest(metric, COUNT_METRICS)}")
    array = np.asarray(counts, dtype=np.float64)
    first = int(background)
    if array.ndim != 3 or array.shape[-1] != 3 or len(array) == 0 or array.shape[1] <= first:
        raise DataError(
            f"{metric}: counts have shape {array.shape}; expected (N, C, 3) of N images and "
            f"{'the background and one more class' if background else 'one class'} or more"
        )
    each = overlap(array, metric).mean(axis=0)
    there = (array[..., 0] + array[..., 2] > 0).sum(axis=0)
    classes = range(first, array.shape[1])
    return MetricValue(
        value=float(each[first:].mean()),
        per_class={c: float(each[c]) for c in classes},
        undefined=(),
        counts={c: ClassCounts(int(there[c]), len(array) - int(there[c])) for c in classes},
    )
