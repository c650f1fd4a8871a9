"""Targets and scores, checked once, in the one shape that every metric reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError


class ClassCounts(NamedTuple):
    """How many labelled samples of a class are positive and negative."""

    positives: int
    negatives: int


class OneClass(NamedTuple):
    """One class against the rest: `positive` and `score` of the labelled samples `rows`, each `(M,)`."""

    label: int
    rows: np.ndarray
    positive: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Cases:
    """Checked targets and scores.

    Args:
        target: `(N,)` int64 class index, or `(N, C)` float64 of 0, 1 and NaN (unlabelled) for multi-label.
        scores: `(N, C)` float64; a binary problem has two columns, the second is the positive class.
        multilabel: whether every column is a question of its own.
    """

    target: np.ndarray
    scores: np.ndarray
    multilabel: bool

    @property
    def binary(self) -> bool:
        """Two exclusive classes: the positive one is class 1."""
        return not self.multilabel and self.scores.shape[1] == 2

    def counts(self) -> dict[int, ClassCounts]:
        """Positives and negatives of every class."""
        if self.multilabel:
            positives, negatives = (self.target == 1).sum(axis=0), (self.target == 0).sum(axis=0)
        else:
            positives = np.bincount(self.target, minlength=self.scores.shape[1])
            negatives = len(self.target) - positives
        return {
            index: ClassCounts(int(p), int(n)) for index, (p, n) in enumerate(zip(positives, negatives, strict=True))
        }

    def one_against_rest(self) -> Iterator[OneClass]:
        """Each class as a two-class question; of a binary problem only class 1 (class 0 is its mirror)."""
        everything = np.arange(len(self.target))
        for index in (1,) if self.binary else range(self.scores.shape[1]):
            if self.multilabel:
                rows = np.flatnonzero(~np.isnan(self.target[:, index]))
                yield OneClass(index, rows, self.target[rows, index] == 1, self.scores[rows, index])
            else:
                yield OneClass(index, everything, self.target == index, self.scores[:, index])

    def predicted(self) -> np.ndarray:
        """`(N,)` class of the largest score (the lowest index wins a tie); `(N, C)` of score > 0.5 if multi-label."""
        return self.scores > 0.5 if self.multilabel else self.scores.argmax(axis=1)


def read_cases(metric: str, target: ArrayLike, scores: ArrayLike, *, probabilities: bool) -> Cases:
    """Check `target` `(N,)` or `(N, C)` and `scores` `(N,)`, `(N, C)` and bring them into one shape.

    Args:
        metric: name used in messages.
        target: class indices `(N,)`, or `(N, C)` of 0, 1 and NaN (= unlabelled).
        scores: `(N,)` score of the positive class, or `(N, C)`.
        probabilities: whether the metric needs scores in [0, 1].

    Raises:
        DataError: shapes that do not fit, NaN or infinite scores, labels that are no class of the scores.
    """
    labels, values = np.asarray(target), np.asarray(scores)
    if values.dtype.kind not in "fiub" or labels.dtype.kind not in "fiub":
        raise DataError(
            f"{metric}: target and scores must be numbers, got dtypes {labels.dtype} and {values.dtype}; "
            "turn class names into class indices 0, 1, ... first"
        )
    values = values.astype(np.float64)
    if labels.ndim not in (1, 2) or values.ndim not in (1, 2) or len(labels) != len(values) or len(labels) == 0:
        raise DataError(
            f"{metric}: target has shape {labels.shape} and scores {values.shape}; expected target (N,) or (N, C) "
            "and scores (N,) or (N, C) with the same N >= 1"
        )
    check_scores(metric, values, probabilities=probabilities)
    if labels.ndim == 2:
        return _multilabel(metric, labels.astype(np.float64), values)
    if values.ndim == 1 or values.shape[1] == 1:
        positive = values.reshape(-1)
        # The complement keeps the order for any score and is the probability of class 0 for a probability.
        values = np.column_stack([1.0 - positive, positive])
    numbers = labels.astype(np.float64)
    if np.isnan(numbers).any():
        raise DataError(
            f"{metric}: {int(np.isnan(numbers).sum())} of {len(numbers)} targets are NaN; only multi-label targets "
            "(N, C) may hold NaN (= unlabelled): leave these samples out"
        )
    classes = values.shape[1]
    wrong = (numbers != np.round(numbers)) | (numbers < 0) | (numbers >= classes)
    if wrong.any():
        raise DataError(
            f"{metric}: target holds {numbers[wrong][0]:g} ({int(wrong.sum())} of {len(numbers)} such), but scores "
            f"have {classes} classes: expected class indices 0 to {classes - 1}"
        )
    return Cases(labels.astype(np.int64), values, multilabel=False)


def check_scores(metric: str, values: np.ndarray, *, probabilities: bool) -> None:
    """Refuse NaN and infinite scores, and scores outside [0, 1] where probabilities are needed.

    Raises:
        DataError: naming how many scores are unusable.
    """
    for what, bad in (("NaN", np.isnan(values)), ("infinite", np.isinf(values))):
        if bad.any():
            raise DataError(
                f"{metric}: {int(bad.sum())} of {values.size} scores are {what}; a run that diverged has no "
                "metric: leave the run out, or look at why it diverged"
            )
    # The tolerance allows for probabilities that were rounded to float16.
    outside = (values < -1e-3) | (values > 1 + 1e-3)
    if probabilities and outside.any():
        raise DataError(
            f"{metric}: {int(outside.sum())} of {values.size} scores lie outside [0, 1] (the first: "
            f"{values[outside][0]:g}); {metric} needs probabilities: apply softmax or sigmoid first"
        )


def _multilabel(metric: str, labels: np.ndarray, values: np.ndarray) -> Cases:
    values = values[:, None] if values.ndim == 1 else values
    if labels.shape != values.shape:
        raise DataError(
            f"{metric}: multi-label target has shape {labels.shape} and scores {values.shape}; expected the same "
            "(N, C), or a target (N,) of class indices"
        )
    wrong = ~(np.isnan(labels) | (labels == 0) | (labels == 1))
    if wrong.any():
        raise DataError(
            f"{metric}: multi-label target holds {labels[wrong][0]:g} ({int(wrong.sum())} of {labels.size} such); "
            "expected 0, 1 or NaN (= unlabelled)"
        )
    return Cases(labels, values, multilabel=True)
