"""A cross-validated linear probe: what a linear classifier reads from features, on patients that it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from transfuse.analysis.knn import plain_array
from transfuse.analysis.logme import checked_features, columns_of
from transfuse.data.stratify import stratified_assignment
from transfuse.errors import AnalysisError, AnalysisWarning

__all__ = ["STRENGTH", "PatientFolds", "Probe", "patient_folds", "probe", "standardised"]

STRENGTH = 20.0
"""Prior variance of a logit: the inverse penalty is this divided by the number of features."""
_CONSTANT = 1e-6  # a smaller spread than this part of its largest value is rounding of float32


class PatientFolds(NamedTuple):
    """Which images are held out together.

    Attributes:
        rows: `(M,)` the images that are used; those of a class of too few patients are not.
        target: `(M,)` class indices, or `(M, C)` of 0, 1 and NaN, of these.
        patients: `(M,)` number of the patient of each.
        fold: `(M,)` number of the fold in which it is held out, 0 to K - 1.
        classes: C.
    """

    rows: np.ndarray
    target: np.ndarray
    patients: np.ndarray
    fold: np.ndarray
    classes: int


class Probe(NamedTuple):
    """What a linear classifier says of images that it was not fitted on.

    Attributes:
        scores: `(M, C)` probabilities; 0.5 for a label, and 0 for a class, that is left out.
        macs: multiply-accumulate operations of the fits: two products with the features an iteration.
    """

    scores: np.ndarray
    macs: int


def patient_folds(
    target: ArrayLike | Tensor, patients: Sequence[object] | np.ndarray | None, folds: int = 5, seed: int = 0
) -> PatientFolds:
    """Folds of whole patients, with every label spread evenly over them (`transfuse.data`'s stratification).

    Args:
        target: `(N,)` class indices, or `(N, C)` of 0, 1 and NaN (unlabelled).
        patients: `(N,)` ids; None: each image is its own.
        folds: at least 2; no more than there are patients (warns).
        seed: breaks ties.

    Warns (AnalysisWarning) of a class that too few patients have for one of them to be in every training part: it is
    left out, as images of it (class indices) or as a label.

    Raises:
        AnalysisError: targets that cannot be meant, other shapes, one patient, fewer than two classes left.

    >>> found = patient_folds([0, 0, 1, 1, 0, 1, 0, 1], list("aabbccdd"), folds=2)
    >>> found.classes, bool(found.fold[0] == found.fold[1])
    (2, True)
    """
    labels, many = columns_of(target), plain_array(target).ndim == 2
    count = len(labels)
    ids = np.arange(count) if patients is None else np.asarray(patients)
    if ids.shape != (count,):
        raise AnalysisError(
            f"patients have shape {ids.shape} for {count} targets; expected ({count},), one id an image"
        )
    if isinstance(folds, bool) or folds != int(folds) or folds < 2:
        raise AnalysisError(f"folds is {folds!r}; expected a whole number of at least 2, 5 by default")
    numbers = np.unique(ids, return_inverse=True)[1]
    rows, labels = np.arange(count), labels.copy()
    out: dict[int, int] = {}
    while True:
        there = [column for column in range(labels.shape[1]) if _values(labels[:, column], many)]
        if len(there) < (1 if many else 2):
            few = "".join(f"; class {c} is of {_people(n)}" for c, n in sorted(out.items()))
            raise AnalysisError(
                "no class can be held out by patient: expected at least two classes (or a label with positives and "
                f"negatives) of two patients each{few}. Take more patients, or features of a larger part"
            )
        assigned = _assigned(labels, numbers[rows], min(int(folds), len(np.unique(numbers[rows]))), seed)
        bad = {
            column: _fewest(labels[:, column], numbers[rows], many)
            for column in there
            if not all(_values(labels[assigned != fold, column], many) for fold in range(int(assigned.max()) + 1))
        }
        if not bad:
            break
        out |= bad
        if many:
            labels[:, list(bad)] = np.nan
        else:
            kept = ~labels[:, list(bad)].any(1)
            rows, labels = rows[kept], labels[kept]
    _warn(out, int(folds), int(assigned.max()) + 1, len(np.unique(numbers[rows])))
    result = labels if many else labels.argmax(1)
    return PatientFolds(rows, result, numbers[rows], assigned, labels.shape[1])


def probe(features: ArrayLike | Tensor, held: PatientFolds, strength: float = STRENGTH) -> Probe:
    """Out-of-fold probabilities of logistic regression on standardised features.

    For class indices it is multinomial, for labels one regression each on the images that are labelled. Features are
    standardised over all images, without their labels; the penalty of every fit is |w|^2 D / (2 strength), which says
    that the logits vary by sqrt(strength) before the labels are seen, whatever the number of features D and images N.

    Args:
        features: `(M, D)` of the images of `held.rows`.
        held: of `patient_folds`.
        strength: above 0.

    Raises:
        AnalysisError: NaN features, features that are all constant.
    """
    from sklearn.linear_model import LogisticRegression

    if not 0 < strength < np.inf:
        raise AnalysisError(f"strength is {strength!r}; expected a variance above 0, {STRENGTH:g} by default")
    x = standardised(features)
    if len(x) != len(held.fold):
        raise AnalysisError(f"{len(x)} features for {len(held.fold)} images in folds; expected those of `rows`")
    count, width = x.shape
    macs = 0
    if width > count:  # as many coordinates as images hold all that a penalised fit can see
        x, macs = np.ascontiguousarray(np.transpose(np.linalg.qr(x.T, mode="r"))), 2 * width * count**2
    many = held.target.ndim == 2
    scores = np.full((count, held.classes), 0.5 if many else 0.0)
    for number in range(int(held.fold.max()) + 1):
        test = held.fold == number
        for column in range(held.classes) if many else (None,):
            answers = held.target if column is None else held.target[:, column]
            train = ~test & ~np.isnan(answers)
            if column is not None and not train.any():
                continue  # a label that is left out
            fit = LogisticRegression(C=strength / width, max_iter=1000).fit(x[train], answers[train].astype(int))
            found = fit.predict_proba(x[test])
            if column is None:
                scores[np.ix_(test, fit.classes_)] = found
            else:
                scores[test, column] = found[:, 1]
            outputs = 1 if len(fit.classes_) == 2 else len(fit.classes_)
            macs += 2 * int(fit.n_iter_.max()) * int(train.sum()) * x.shape[1] * outputs
    return Probe(scores, macs)


def standardised(features: ArrayLike | Tensor) -> np.ndarray:
    """`(N, K)` float64: features of mean 0 and variance 1; those that do not vary are left out.

    Raises:
        AnalysisError: NaN or infinite features, or none that varies.
    """
    x = checked_features(features).cpu().numpy()
    centred = x - x.mean(0)
    spread = centred.std(0)
    varies = spread > _CONSTANT * np.abs(x).max(0)
    if not varies.any():
        raise AnalysisError(
            f"none of the {x.shape[1]} features varies over {len(x)} images: nothing can be read from them. Look for "
            "dead units or one image repeated"
        )
    return centred[:, varies] / spread[varies]


def _values(labels: np.ndarray, many: bool) -> bool:
    """Whether a class is there: its positives; and of a label, which is fitted by itself, its negatives too."""
    return bool((labels == 1).any() and (not many or (labels == 0).any()))


def _fewest(labels: np.ndarray, patients: np.ndarray, many: bool) -> int:
    """How many patients have a class; of a label, the fewer of those with it and those without."""
    return min(len(np.unique(patients[labels == value])) for value in ((0, 1) if many else (1,)))


def _assigned(labels: np.ndarray, patients: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each image; all of one where there is one patient."""
    _, who = np.unique(patients, return_inverse=True)
    table = np.column_stack([labels == 1, labels == 0, np.ones(len(labels))]).astype(np.int64)
    counts = np.zeros((int(who.max()) + 1, table.shape[1]), dtype=np.int64)
    np.add.at(counts, who, table)
    part: np.ndarray = stratified_assignment(counts, np.full(folds, 1 / folds), np.random.default_rng(seed))[who]
    return np.unique(part, return_inverse=True)[1]


def _people(count: int) -> str:
    return f"{count} patient{'s' if count != 1 else ''}"


def _warn(out: dict[int, int], asked: int, folds: int, patients: int) -> None:
    if out:
        named = ", ".join(f"class {c} ({_people(n)})" for c, n in sorted(out.items()))
        warnings.warn(
            f"too few patients to hold some out and fit on others: {named}; left out of the probe and of its metric",
            AnalysisWarning,
            stacklevel=3,
        )
    if folds < asked:
        warnings.warn(
            f"folds is {asked} and there are {_people(patients)}: {folds} folds", AnalysisWarning, stacklevel=3
        )


def is_dead(features: Tensor) -> bool:
    """Whether none of the features (N, D) varies over the images: a head could tell nothing apart by them.

    >>> import torch
    >>> is_dead(torch.ones(4, 2)), is_dead(torch.eye(4))
    (True, False)
    """
    x = features.double().cpu().numpy()
    return bool(np.isfinite(x).all() and not (x.std(0) > _CONSTANT * np.abs(x).max(0)).any())
