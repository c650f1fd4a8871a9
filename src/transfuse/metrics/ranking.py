"""Metrics of the order of the scores (AUROC, AUPRC), exact under group weights, many weightings at once.

A *group* is a patient: all samples of a group share a weight, as in a bootstrap that draws patients. A column of
`weights` `(G, B)` is one weighting, so a column of ones is the plain metric. Two exact ways to the weighted AUROC:

- presorted: one sort, then per weighting a running sum over the samples; time B x N, memory linear in N;
- patient kernel: `U[p, q]` = sum over positives i of p and negatives j of q of `1[s_i > s_j] + 1/2 1[s_i = s_j]`;
  `AUROC(w) = w'Uw / ((w'm)(w'n))` with m, n the positives and negatives per patient; time B x P^2. Faster where a
  patient has many samples, or where there are few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from transfuse.metrics.cases import OneClass

# Measured (benchmarks/bootstrap.py), at 2,000 weightings: one sample of the running sum costs as much as this many
# cells of the kernel, and comparing this many pairs of samples while the kernel is built costs as much as one cell.
_CELLS_PER_SAMPLE, _PAIRS_PER_CELL = 60, 30
_KERNEL_MOST = 5000
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Kernel:
    """Patient kernel of one class: `wins` `(P+, P-)` of the groups with positives and with negatives."""

    wins: np.ndarray
    positive_groups: np.ndarray
    negative_groups: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """AUROC `(B,)` under `weights` `(G, B)`; NaN where a side has no weight."""
        up, down = weights[self.positive_groups], weights[self.negative_groups]
        won = np.einsum("pb,pb->b", up, self.wins @ down)
        return _divide(won, (self.positives @ up) * (self.negatives @ down))


def kernel_of(one: OneClass, groups: np.ndarray) -> Kernel:
    """Patient kernel of one class against the rest.

    Args:
        one: labels and scores of the class, `(M,)`.
        groups: `(M,)` int group of each sample.
    """
    up_groups, up = np.unique(groups[one.positive], return_inverse=True)
    down_groups, down = np.unique(groups[~one.positive], return_inverse=True)
    high, low = one.score[one.positive], one.score[~one.positive]
    order = np.argsort(down, kind="stable")
    low, starts = low[order], np.searchsorted(down[order], np.arange(len(down_groups)))
    wins = np.zeros((len(up_groups), len(down_groups)))
    rows = max(1, _BLOCK // max(1, len(low)))
    for first in range(0, len(high), rows):
        block = high[first : first + rows, None]
        won = (block > low) + 0.5 * (block == low)
        np.add.at(wins, up[first : first + rows], np.add.reduceat(won, starts, axis=1))
    return Kernel(
        wins,
        up_groups,
        down_groups,
        np.bincount(up, minlength=len(up_groups)).astype(np.float64),
        np.bincount(down, minlength=len(down_groups)).astype(np.float64),
    )


@dataclass
class Auroc:
    """Weighted area under the ROC curve of one class; ties count one half (Hanley and McNeil 1982)."""

    one: OneClass
    groups: np.ndarray
    _kernel: Kernel | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        positive, score = self.one.positive, self.one.score
        high, low = np.argsort(score[positive], kind="stable"), np.argsort(score[~positive], kind="stable")
        self._high_groups = self.groups[positive][high]
        self._low_groups = self.groups[~positive][low]
        above, below = score[positive][high], score[~positive][low]
        self._left = np.searchsorted(below, above, side="left")
        self._right = np.searchsorted(below, above, side="right")
        up, down = len(np.unique(self._high_groups)), len(np.unique(self._low_groups))
        cells, pairs = up * down, len(above) * len(below)
        self._prefers_kernel = max(
            up, down
        ) <= _KERNEL_MOST and cells + pairs / _PAIRS_PER_CELL < _CELLS_PER_SAMPLE * len(score)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """AUROC `(B,)` under `weights` `(G, B)`."""
        if self._prefers_kernel and weights.shape[1] >= 32:
            if self._kernel is None:
                self._kernel = kernel_of(self.one, self.groups)
            return self._kernel.auroc(weights)
        return self.presorted(weights)

    def presorted(self, weights: np.ndarray) -> np.ndarray:
        """The same value by running sums over the sorted samples: memory linear in the samples."""
        below = np.empty((len(self._low_groups) + 1, weights.shape[1]))
        below[0] = 0.0
        np.cumsum(weights[self._low_groups], axis=0, out=below[1:])
        mine = weights[self._high_groups]
        won = np.einsum("ib,ib->b", mine, below[self._left])
        if not np.array_equal(self._left, self._right):
            won = 0.5 * (won + np.einsum("ib,ib->b", mine, below[self._right]))
        return _divide(won, mine.sum(axis=0) * below[-1])


@dataclass
class PrecisionRecall:
    """Weighted area under the precision-recall curve of one class.

    `trapezoid=True`: the trapezoid over the curve's points, which is what Peng et al. 2023 report (their code:
    `auc(recall, precision)`); False: average precision, the step sum `sum (R_k - R_{k-1}) P_k`.
    """

    one: OneClass
    groups: np.ndarray
    trapezoid: bool

    def __post_init__(self) -> None:
        order = np.argsort(-self.one.score, kind="stable")
        score, positive = -self.one.score[order], self.one.positive[order]
        self._groups, self._hit_groups = self.groups[order], self.groups[order][positive]
        found = score[positive]
        self._starts = np.flatnonzero(np.r_[True, found[1:] != found[:-1]])
        # The curve's area changes only at scores that some positive has: where their run of ties begins and ends.
        self._before = np.searchsorted(score, found[self._starts], side="left")
        self._after = np.searchsorted(score, found[self._starts], side="right")

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Area `(B,)` under `weights` `(G, B)`."""
        called = np.zeros((len(self._groups) + 1, weights.shape[1]))
        np.cumsum(weights[self._groups], axis=0, out=called[1:])
        hits = np.add.reduceat(weights[self._hit_groups], self._starts, axis=0)
        found = np.cumsum(hits, axis=0)
        precision = _precision(found, called[self._after])
        if self.trapezoid:
            precision = 0.5 * (precision + _precision(found - hits, called[self._before]))
        return _divide((hits * precision).sum(axis=0), found[-1])


@dataclass(frozen=True)
class Ranked:
    """One curve per class: `values(weights (G, B)) -> (C, B)`."""

    curves: tuple[Callable[[np.ndarray], np.ndarray], ...]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Values `(C, B)`; NaN where a class has no positives or no negatives under a weighting."""
        return np.stack([curve(weights) for curve in self.curves])


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def _precision(found: np.ndarray, called: np.ndarray) -> np.ndarray:
    # Before anything is called the curve stands at recall 0, precision 1 (scikit-learn's convention).
    return np.divide(found, called, out=np.ones_like(found), where=called > 0)
