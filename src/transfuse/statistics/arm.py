"""One arm on its test samples: the metric of every seed, on the sample and on resamples of its patients.

Arms with the same samples, patients and seed of resampling have the same resamples, so each is resampled once, however
many comparisons it is part of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError
from transfuse.metrics import Metric, find_metric
from transfuse.statistics.bootstrap import Replicates, joined, of_scores, read_runs, resample_folds

__all__ = ["Arm", "arm_of_scores"]


@dataclass(frozen=True)
class Arm:
    """An arm's metric.

    Args:
        metric: which, with its bounds and direction.
        seeds: number of seeds.
        parts: of each fold (one without folds) the metric of each seed on the sample and on the resamples.
        patients: number of patients.
        anonymous: whether each sample stands for a patient, for lack of ids.
        classes: the width of its scores, which two arms have to share: () for one score a sample.
        seed: of the resamples.
        notes: what is to be said of its samples.
    """

    metric: Metric
    seeds: int
    parts: tuple[Replicates, ...]
    patients: int
    anonymous: bool
    classes: tuple[int, ...]
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The metric of the arm: the mean over its seeds, and over folds."""
        return float(np.mean([part.points[:, 0] for part in self.parts]))

    def beside(self, other: Arm) -> list[Replicates]:
        """The runs of both arms, this one's first.

        Raises:
            DataError: arms of other classes, metrics, patients, folds or resamples.
        """
        if self.classes != other.classes:
            raise DataError(
                f"arm A has scores of shape {(self.seeds, 'N', *self.classes)} and arm B of "
                f"{(other.seeds, 'N', *other.classes)}; both arms need the same classes: (seeds, N[, C])"
            )
        for name in ("metric", "patients", "anonymous", "seed"):
            if getattr(self, name) != getattr(other, name):
                raise DataError(
                    f"the arms differ in {name} ({_told(self, name)} and {_told(other, name)}); two arms are compared "
                    "on the same samples, patients and resamples"
                )
        if len(self.parts) != len(other.parts) or any(
            one.classes != two.classes or one.counts != two.counts
            for one, two in zip(self.parts, other.parts, strict=False)
        ):
            raise DataError("the arms were tested on other samples or folds; two arms are compared on the same ones")
        return [joined(one, two) for one, two in zip(self.parts, other.parts, strict=True)]


def arm_of_scores(
    target: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[object] | np.ndarray | None,
    metric: str = "auroc",
    folds: ArrayLike | None = None,
    seed: int = 0,
    *,
    name: str = "scores",
) -> Arm:
    """An arm from its scores.

    Args:
        target: `(N,)` class index, or `(N, C)` of 0, 1, NaN (unlabelled).
        scores: `(seeds, N)` or `(seeds, N, C)`.
        patients: `(N,)` patient id of each sample, or None.
        metric: key of `transfuse.metrics.METRICS`.
        folds: `(N,)` fold in which a sample was tested, under cross-validation.
        seed: of the resamples.
        name: of the scores in messages.

    Raises:
        SpecError: an unknown metric, a seed that is no integer >= 0.
        DataError: shapes that do not fit, NaN scores, a metric that no class defines, a patient in two folds.
    """
    kind, labels = find_metric(metric), np.asarray(target)
    runs = read_runs(name, scores, labels)
    if kind.two_classes and (labels.ndim == 2 or runs.shape[2:] in ((), (1,), (2,))):
        kind = replace(kind, bounds=kind.two_classes)
    parts, number = resample_folds(of_scores(metric, labels, list(runs)), len(labels), patients, folds, seed)
    return Arm(kind, len(runs), tuple(parts), number, patients is None, runs.shape[2:], seed)


def _told(arm: Arm, name: str) -> object:
    return arm.metric.name if name == "metric" else getattr(arm, name)
