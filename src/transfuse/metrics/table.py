"""The metrics by name, their value on arrays, and their values under many weightings of patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError, nearest
from transfuse.metrics.cases import Cases, ClassCounts, OneClass, read_cases
from transfuse.metrics.ranking import Auroc, PrecisionRecall, Ranked
from transfuse.metrics.sums import (
    SparseTerms,
    Terms,
    accuracy_terms,
    brier_terms,
    calibration_terms,
    kappa_terms,
    recall_terms,
    top5_terms,
)

Values = Callable[[np.ndarray], np.ndarray]
Curve = Callable[[OneClass, np.ndarray], Values]


@dataclass(frozen=True)
class Metric:
    """What a metric is and how it is computed.

    Args:
        name: key of `METRICS`, column `test_<name>` of the runs table.
        title: how the report writes it.
        bounds: smallest and largest possible value.
        higher_is_better: the direction.
        probabilities: whether scores must lie in [0, 1].
        needs: what of a class must be there: "both" (positives and negatives), "positives", or "any".
        curve: of metrics of the order of scores.
        terms: of metrics that are functions of sums.
        question: turns the cases into those that the metric is about.
        two_classes: its bounds where there are two exclusive classes, or labels; None: the same.
        no_interval: why its difference has no honest interval, whatever the sample; empty where it has one.
    """

    name: str
    title: str
    bounds: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    probabilities: bool = False
    needs: str = "any"
    curve: Curve | None = None
    terms: Callable[[Cases], Terms | SparseTerms] | None = None
    question: Callable[[Cases], Cases] | None = None
    two_classes: tuple[float, float] | None = None
    no_interval: str = ""


@dataclass(frozen=True)
class MetricValue:
    """A metric's value, with what it rests on.

    Args:
        value: mean over the defined classes, or the overall value where the metric has no classes.
        per_class: value of each defined class (a binary ranking metric: class 1 only; empty for overall metrics).
        undefined: classes without a value, because they have no positives or no negatives here; never counted as 0.
        counts: positives and negatives of every class.
    """

    value: float
    per_class: dict[int, float]
    undefined: tuple[int, ...]
    counts: dict[int, ClassCounts]


@dataclass(frozen=True)
class Prepared:
    """A metric ready for many weightings of the same samples.

    Args:
        classes: the defined classes, one a row of the values; empty for an overall metric, which has one row.
        undefined: classes left out.
        counts: positives and negatives of every class.
        support: `(C,)` groups that a row's value rests on: of those with positives and those with negatives the fewer.
        values: `weights (G, B) -> (C, B)`; NaN where a weighting leaves a class without samples.
    """

    classes: tuple[int, ...]
    undefined: tuple[int, ...]
    counts: dict[int, ClassCounts]
    support: np.ndarray
    values: Values


def find_metric(name: str) -> Metric:
    """The metric called `name`: of scores (`METRICS`), or of masks (`COUNT_METRICS`).

    Raises:
        SpecError: no such metric; the message holds the nearest name.
    """
    if name not in EVERY_METRIC:
        raise SpecError(f"unknown metric {name!r}{_of_counts(name) or f': {nearest(name, EVERY_METRIC)}'}")
    return EVERY_METRIC[name]


def _of_counts(name: str) -> str:
    """For who measures a metric of masks on scores."""
    return "; of segmentations: compare_counts, from counted pixels" if str(name).lower() in _COUNTED else ""


def prepare(name: str, target: ArrayLike, scores: ArrayLike, groups: np.ndarray | None = None) -> Prepared:
    """Sort or sum once, so that the metric's value under any weighting of groups is cheap and exact.

    Args:
        name: key of `METRICS`.
        target: `(N,)` class index, or `(N, C)` of 0, 1, NaN (unlabelled).
        scores: `(N,)` or `(N, C)`; finite.
        groups: `(N,)` int, 0 to G-1: the patient of each sample; None: each sample is its own group.

    Raises:
        SpecError: an unknown metric.
        DataError: unusable targets or scores, or a metric that is defined for no class.
    """
    metric = find_metric(name)
    if name in COUNT_METRICS:
        raise SpecError(f"unknown metric {name!r}{_of_counts(name)}")
    cases = read_cases(name, target, scores, probabilities=metric.probabilities)
    if metric.question is not None:
        cases = metric.question(cases)
    member = np.arange(len(cases.target)) if groups is None else groups
    counts = cases.counts()
    if metric.curve is not None:
        return _prepare_curves(metric, metric.curve, cases, counts, member)
    return _prepare_sums(metric, cases, counts, member)


def evaluate(name: str, target: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> MetricValue:
    """A metric's value on arrays.

    Args:
        name: key of `METRICS`.
        target: `(N,)` class index, or `(N, C)` of 0, 1, NaN (unlabelled).
        scores: `(N, C)` probabilities (binary: `(N, 2)`, or `(N,)` of class 1); the metrics of order take any finite
            score.
        weights: `(N,)` non-negative sample weights; default: all one.

    Raises:
        SpecError: an unknown metric.
        DataError: unusable targets, scores or weights, or a metric that is defined for no class.

    >>> evaluate("auroc", [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).value
    0.75
    >>> evaluate("auroc", [0, 1, 1], [[.8, .1, .1], [.2, .7, .1], [.3, .6, .1]]).undefined
    (2,)
    """
    prepared = prepare(name, target, scores)
    size = len(np.asarray(target))
    weight = np.ones(size) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != (size,) or not np.isfinite(weight).all() or (weight < 0).any():
        raise DataError(
            f"{name}: weights must be {size} finite numbers >= 0, one a sample; got shape {weight.shape}"
            + (f", smallest {weight.min():g}" if weight.size else "")
        )
    values = prepared.values(weight[:, None])[:, 0]
    defined = np.isfinite(values)
    if not defined.any():
        raise DataError(_nothing_defined(METRICS[name], prepared.counts, weight))
    lost = tuple(c for c, good in zip(prepared.classes, defined, strict=False) if not good)
    return MetricValue(
        value=float(values[defined].mean()),
        per_class={c: float(v) for c, v in zip(prepared.classes, values, strict=False) if np.isfinite(v)},
        undefined=tuple(sorted(prepared.undefined + lost)),
        counts=prepared.counts,
    )


def referable_score(scores: ArrayLike, how: str = "sum") -> np.ndarray:
    """One score `(N,)` of referable disease (grade 3 or worse of 5, index >= 2) from grade scores `(N, C)`.

    The papers (T, V) do not say how five outputs become one score. "sum": `sum(p3..p5) / sum(p1..p5)`, the recommended
    reading, which also suits independent sigmoids; "max": `max(p3..p5)`.

    Raises:
        SpecError: `how` is neither.
        DataError: fewer than three grades, or grades whose scores sum to nothing.
    """
    grades = np.asarray(scores, dtype=np.float64)
    if how not in ("sum", "max"):
        raise SpecError(f"unknown referable score {how!r}: {nearest(how, ('sum', 'max'))}")
    if grades.ndim != 2 or grades.shape[1] < 3:
        raise DataError(
            f"referable disease is grade index 2 or more: expected scores (N, C) of at least 3 grades, got shape "
            f"{grades.shape}; use 'auroc' for a binary target"
        )
    if how == "max":
        return grades[:, 2:].max(axis=1)
    total = grades.sum(axis=1)
    if (total <= 0).any():
        raise DataError(
            f"the grades' probabilities of {int((total <= 0).sum())} samples sum to 0: no referable score; "
            "use 'referable_auroc_max'"
        )
    return grades[:, 2:].sum(axis=1) / total


def _referable(how: str) -> Callable[[Cases], Cases]:
    def question(cases: Cases) -> Cases:
        if cases.multilabel:
            raise DataError("referable disease needs one grade a sample: target (N,), not a multi-label (N, C)")
        score = referable_score(cases.scores, how)
        return Cases((cases.target >= 2).astype(np.int64), np.column_stack([1 - score, score]), multilabel=False)

    return question


def _prepare_curves(
    metric: Metric, curve: Curve, cases: Cases, counts: dict[int, ClassCounts], groups: np.ndarray
) -> Prepared:
    kept = [one for one in cases.one_against_rest() if one.positive.any() and not one.positive.all()]
    if not kept:
        raise DataError(_nothing_defined(metric, counts))
    asked = (1,) if cases.binary else tuple(counts)
    classes = tuple(one.label for one in kept)
    support = [
        min(len(np.unique(groups[one.rows][one.positive])), len(np.unique(groups[one.rows][~one.positive])))
        for one in kept
    ]
    return Prepared(
        classes,
        tuple(index for index in asked if index not in classes),
        counts,
        np.array(support),
        Ranked(tuple(curve(one, groups[one.rows]) for one in kept)),
    )


def _prepare_sums(metric: Metric, cases: Cases, counts: dict[int, ClassCounts], groups: np.ndarray) -> Prepared:
    if metric.terms is None:
        raise TypeError(f"metric {metric.name} has neither curve nor terms")
    if metric.name == "kappa" and cases.multilabel:
        raise DataError("kappa needs one grade a sample: target (N,), not a multi-label (N, C)")
    size = int(groups.max()) + 1
    terms = metric.terms(cases)
    by_class = cases.multilabel or metric.needs == "positives"
    if not by_class:
        return Prepared((), (), counts, np.array([len(np.unique(groups))]), terms.summed(groups, size))
    there = {index: (count.positives if metric.needs == "positives" else sum(count)) for index, count in counts.items()}
    classes = tuple(index for index, number in there.items() if number > 0)
    if not classes:
        raise DataError(_nothing_defined(metric, counts))
    summed, rows = terms.summed(groups, size), list(classes)
    members = cases.target if cases.multilabel else np.eye(len(counts))[cases.target]
    used = (members == 1) if metric.needs == "positives" else ~np.isnan(members)
    return Prepared(
        classes,
        tuple(index for index in counts if index not in classes),
        counts,
        np.array([len(np.unique(groups[used[:, index]])) for index in classes]),
        lambda weights: summed(weights)[rows],
    )


def _nothing_defined(metric: Metric, counts: dict[int, ClassCounts], weight: np.ndarray | None = None) -> str:
    """Why a metric has no value on these samples, or under these weights."""
    shown = ", ".join(f"class {c}: {n.positives} positive, {n.negatives} negative" for c, n in counts.items())
    if weight is not None and not weight.any():
        return f"{metric.name} is undefined, because all {weight.size} weights are 0; give some sample a weight above 0"
    if metric.name == "kappa":
        return (
            "kappa is undefined, because the true and the predicted grades are all one and the same grade here "
            f"({shown}); use a larger part, or a split stratified by class"
        )
    lack = {
        "both": "no class has both positives and negatives",
        "positives": "no class has positives",
        "any": "no class has labels",
    }[metric.needs]
    given = "" if weight is None or weight.all() else f" with a weight above 0, which {np.count_nonzero(weight)} have"
    return (
        f"{metric.name} is undefined for every class, because {lack} here{given} "
        f"({shown}); use a larger part, or a split stratified by class"
    )


_COUNTED = ("dice", "jaccard", "iou")
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auroc", "AUROC", needs="both", curve=Auroc),
        Metric(
            "auprc",
            "AUPRC (trapezoid)",
            needs="both",
            curve=lambda one, groups: PrecisionRecall(one, groups, trapezoid=True),
        ),
        Metric(
            "average_precision",
            "Average precision",
            needs="both",
            curve=lambda one, groups: PrecisionRecall(one, groups, trapezoid=False),
        ),
        Metric("accuracy", "Accuracy", probabilities=True, terms=accuracy_terms),
        Metric("top5", "Top-5 accuracy", terms=top5_terms),
        Metric("macro_recall", "Macro recall", probabilities=True, needs="positives", terms=recall_terms),
        Metric("kappa", "Quadratic kappa", bounds=(-1.0, 1.0), probabilities=True, terms=kappa_terms),
        Metric(
            "ece",
            "Expected calibration error",
            higher_is_better=False,
            probabilities=True,
            terms=calibration_terms,
            no_interval=(
                "the calibration error of a finite sample is too large, the more so the better calibrated the network "
                "is, so that two arms look more alike than they are (Kumar et al. 2019, Roelofs et al. 2022), and no "
                "resampling takes that out"
            ),
        ),
        Metric(
            "brier",
            "Brier score",
            bounds=(0.0, 2.0),
            two_classes=(0.0, 1.0),
            higher_is_better=False,
            probabilities=True,
            terms=brier_terms,
        ),
        Metric(
            "referable_auroc",
            "AUROC, referable disease",
            needs="both",
            probabilities=True,
            curve=Auroc,
            question=_referable("sum"),
        ),
        Metric(
            "referable_auroc_max",
            "AUROC, referable disease (max)",
            needs="both",
            probabilities=True,
            curve=Auroc,
            question=_referable("max"),
        ),
    )
}

COUNT_METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (Metric("dice", "Dice"), Metric("jaccard", "Jaccard"))
}
"""Of masks, from counted pixels; see `metrics/overlap.py`."""

EVERY_METRIC: dict[str, Metric] = METRICS | COUNT_METRICS
