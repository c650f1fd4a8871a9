"""Metrics that are a function of sums over samples: accuracy, recall, kappa, calibration error, Brier score.

Each metric states its *terms*, `(N, K)` one row a sample, and how the sums `(K, B)` become values `(C, B)`. Under a
bootstrap of patients the terms are summed per patient once and every replicate is one column of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfuse.errors import DataError
from transfuse.metrics.cases import Cases

BINS = 15  # Guo et al. 2017, section 4


@dataclass(frozen=True)
class Terms:
    """Terms `(N, K)` of the samples and the `finish` that turns sums `(K, B)` into values `(C, B)`."""

    terms: np.ndarray
    finish: Callable[[np.ndarray], np.ndarray]

    def summed(self, groups: np.ndarray, count: int) -> Summed:
        """The terms summed within each of `count` groups."""
        sums = np.stack([np.bincount(groups, column, minlength=count) for column in self.terms.T])
        return Summed(sums, self.finish)


@dataclass(frozen=True)
class SparseTerms:
    """Terms of which a sample has few: sample `samples[m]` adds `values[m]` to the sum `rows[m]` of K.

    The same as `Terms` of a dense `(N, K)`, in the memory of what is not 0.
    """

    samples: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    size: int
    finish: Callable[[np.ndarray], np.ndarray]

    def summed(self, groups: np.ndarray, count: int) -> Summed:
        """The terms summed within each of `count` groups."""
        from scipy.sparse import csr_array

        place = (self.rows, groups[self.samples])
        return Summed(csr_array((self.values, place), shape=(self.size, count)), self.finish)  # adds up what coincides


@dataclass(frozen=True)
class Summed:
    """Sums `(K, G)` per group, an array or a sparse one: `values(weights (G, B)) -> (C, B)`."""

    sums: Any
    finish: Callable[[np.ndarray], np.ndarray]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Values `(C, B)` under `weights` `(G, B)`."""
        return self.finish(self.sums @ weights)


def accuracy_terms(cases: Cases) -> Terms:
    """Share of right predictions (largest score; score > 0.5 per class if multi-label, labelled cells only)."""
    right = cases.predicted() == cases.target
    if cases.multilabel:
        return _ratios(right.astype(float), ~np.isnan(cases.target))
    return _ratios(right[:, None], np.ones((len(right), 1)))


def top5_terms(cases: Cases) -> Terms:
    """Share of samples whose class is among the five of the largest scores (METHODS MET-11).

    Of equal scores the lower index comes first, as in accuracy, so that top-5 is never below top-1.

    Raises:
        DataError: multi-label targets, or fewer than six classes, where it would be (nearly) always 1.
    """
    classes = cases.scores.shape[1]
    if cases.multilabel:
        raise DataError("top5 needs one class a sample: target (N,), not a multi-label (N, C); use 'auroc'")
    if classes < 6:
        raise DataError(
            f"top5 needs at least 6 classes, and there are {classes}: the true one is among the first five whatever is "
            "predicted; use 'accuracy'"
        )
    own = np.take_along_axis(cases.scores, cases.target[:, None], axis=1)
    earlier = np.arange(classes) < cases.target[:, None]
    before = ((cases.scores > own) | ((cases.scores == own) & earlier)).sum(axis=1)
    return _ratios((before < 5)[:, None], np.ones((len(before), 1)))


def recall_terms(cases: Cases) -> Terms:
    """Per class: the share of its positives that are predicted."""
    if cases.multilabel:
        positive = cases.target == 1
        return _ratios(positive & cases.predicted(), positive)
    positive = cases.target[:, None] == np.arange(cases.scores.shape[1])
    return _ratios(positive & (cases.predicted() == cases.target)[:, None], positive)


def brier_terms(cases: Cases) -> Terms:
    """Mean squared distance of probabilities and outcome (Brier 1950).

    Three or more exclusive classes: summed over classes, in [0, 2]. Binary: of the positive class; multi-label: of each
    class; both in [0, 1].
    """
    if cases.multilabel:
        labelled = ~np.isnan(cases.target)
        return _ratios(np.where(labelled, (cases.scores - cases.target) ** 2, 0.0), labelled)
    if cases.binary:
        error = (cases.scores[:, 1] - cases.target) ** 2
    else:
        error = ((cases.scores - np.eye(cases.scores.shape[1])[cases.target]) ** 2).sum(axis=1)
    return _ratios(error[:, None], np.ones((len(error), 1)))


def kappa_terms(cases: Cases) -> Terms:
    """Cohen's kappa with quadratic weights (Cohen 1968): `1 - sum (i - j)^2 O_ij / sum (i - j)^2 E_ij`.

    With quadratic weights both sums follow from six moments of the grades i (true) and j (predicted), without a
    confusion matrix: `n sum E = n sum i^2 + n sum j^2 - 2 sum i sum j`.
    """
    i, j = cases.target.astype(float), cases.predicted().astype(float)

    def finish(sums: np.ndarray) -> np.ndarray:
        observed, first, first_square, second, second_square, count = sums
        expected = count * (first_square + second_square) - 2 * first * second
        kappa = np.divide(observed * count, expected, out=np.full_like(observed, np.nan), where=expected > 0)
        return (1 - kappa)[None]

    return Terms(np.column_stack([(i - j) ** 2, i, i**2, j, j**2, np.ones_like(i)]), finish)


def calibration_terms(cases: Cases) -> SparseTerms:
    """Expected calibration error in 15 equal bins (Guo et al. 2017, eq. 3): `sum_b n_b/n |accuracy_b - confidence_b|`.

    Exclusive classes: of the predicted class; multi-label: of each class's probability against its outcome.
    """
    if cases.multilabel:
        weight = (~np.isnan(cases.target)).astype(float)
        confidence, outcome = cases.scores, np.where(weight > 0, cases.target, 0.0)
    else:
        confidence = cases.scores.max(axis=1)[:, None]
        outcome = (cases.predicted() == cases.target).astype(float)[:, None]
        weight = np.ones_like(confidence)
    rows, classes = confidence.shape
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    cell = (np.arange(classes) * BINS + bins).reshape(-1)

    def finish(sums: np.ndarray) -> np.ndarray:
        table = sums.reshape(2, classes, BINS, -1)
        top, bottom = np.abs(table[0]).sum(axis=1), table[1].sum(axis=1)
        return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)

    return SparseTerms(
        samples=np.tile(np.repeat(np.arange(rows), classes), 2),
        rows=np.concatenate([cell, classes * BINS + cell]),
        values=np.concatenate([(weight * (outcome - confidence)).reshape(-1), weight.reshape(-1)]),
        size=2 * classes * BINS,
        finish=finish,
    )


def _ratios(top: np.ndarray, bottom: np.ndarray) -> Terms:
    half = top.shape[1]

    def finish(sums: np.ndarray) -> np.ndarray:
        return np.divide(sums[:half], sums[half:], out=np.full_like(sums[:half], np.nan), where=sums[half:] > 0)

    return Terms(np.concatenate([top, bottom], axis=1).astype(np.float64), finish)
