"""The patient bootstrap: a metric of every run under the same resamples of patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError
from transfuse.metrics import ClassCounts, Prepared, evaluate, prepare

REPLICATES = 2000
# Samples x replicates worked on at once: arrays of 2 MB, which stay in the processor's cache.
_BLOCK = 1 << 18
# Multiplicities kept between runs; above, they are drawn again for each run from the same seed.
_KEPT = 1 << 26


@dataclass(frozen=True)
class Replicates:
    """A metric of R runs, on the sample and on B resamples of its patients.

    Args:
        classes: the defined classes. Column 0 of the arrays is the overall value, column 1 + k the k-th class.
        undefined: classes without a value.
        counts: positives and negatives of every class.
        support: `(1 + C,)` patients on which a column rests: of those with positives and those with negatives the
            fewer.
        points: `(R, 1 + C)` values on the sample.
        values: `(R, 1 + C, B)` values on the resamples, the same ones for every run; NaN where a resample lacks a
            class.
    """

    classes: tuple[int, ...]
    undefined: tuple[int, ...]
    counts: dict[int, ClassCounts]
    support: np.ndarray
    points: np.ndarray
    values: np.ndarray


def patient_codes(patients: Sequence[object] | np.ndarray | None, size: int) -> np.ndarray:
    """Number the patients, `(N,)` int from 0, in the order of their ids: then the order of samples does not matter.

    Args:
        patients: `(N,)` ids of any kind; None: every sample is its own patient.
        size: N.

    Raises:
        DataError: another number of ids than samples, missing ids, or ids that are arrays.
    """
    if patients is None:
        return np.arange(size)
    ids = list(patients)
    if len(ids) != size:
        raise DataError(f"{len(ids)} patient ids for {size} samples; expected one id a sample (or None)")
    if getattr(patients, "ndim", 1) != 1 or any(isinstance(one, list | np.ndarray) for one in ids):
        shape = np.asarray(patients, dtype=object).shape
        raise DataError(f"patients has the shape {shape}; expected ({size},), one id a sample (or None)")
    missing = sum(map(_is_missing, ids))
    if missing:
        raise DataError(
            f"{missing} of {size} patient ids are missing; a sample without its patient cannot be resampled: "
            "fill them in, or pass patients=None if every sample is a patient of its own"
        )
    array = np.asarray(patients) if hasattr(patients, "__array__") else np.empty(0)
    numbers = array.dtype.kind in "iu" or all(isinstance(one, int | np.integer) for one in ids)
    names = np.asarray(ids) if numbers else np.array([str(one) for one in ids])
    return np.unique(names, return_inverse=True)[1]


class Measured(NamedTuple):
    """A metric of one run: ready for any weights of its patients, and its values on the sample, the overall first."""

    prepared: Prepared
    points: Sequence[float]


Measure = Callable[[np.ndarray, np.ndarray], Iterator[Measured]]
"""From the samples to be used `(n,)` and the patient of each, from 0, to the metric of every run."""


def of_scores(metric: str, target: np.ndarray, runs: Sequence[np.ndarray]) -> Measure:
    """A metric of scores.

    Args:
        metric: key of `transfuse.metrics.METRICS`.
        target: `(N,)` or `(N, C)`.
        runs: R arrays of scores, `(N,)` or `(N, C)`.
    """

    def measure(rows: np.ndarray, groups: np.ndarray) -> Iterator[Measured]:
        for scores in runs:
            prepared = prepare(metric, target[rows], scores[rows], groups)
            plain = evaluate(metric, target[rows], scores[rows])
            yield Measured(prepared, [plain.value, *(plain.per_class.get(c, np.nan) for c in prepared.classes)])

    return measure


def resample(
    measure: Measure,
    rows: np.ndarray,
    groups: np.ndarray,
    seed: int | Sequence[int] = 0,
    replicates: int = REPLICATES,
) -> Replicates:
    """Every run on some samples and on `replicates` resamples of their patients, the same ones for all runs.

    A resample draws P of the P patients with replacement; a patient drawn twice counts twice with all its samples
    (Field and Welsh 2007, the cluster bootstrap). The values are exact: no run is evaluated on copied rows.

    Args:
        measure: the metric of the runs, see `of_scores`.
        rows: `(n,)` the samples.
        groups: `(n,)` patient number of each, see `patient_codes`.
        seed: of the resamples.
        replicates: B.

    Raises:
        DataError: as `transfuse.metrics.prepare`.
    """
    draws = _draws(int(groups.max()) + 1, len(groups), replicates, seed)
    prepared: Prepared | None = None
    points, values = [], []
    for prepared, plain in measure(rows, groups):
        points.append(plain)
        found = np.concatenate([prepared.values(weights) for weights in draws()], axis=1)
        # A resample that lacks a class has no overall value: a mean over the others would be one of other classes.
        values.append(np.concatenate([found.mean(axis=0, keepdims=True), found if prepared.classes else found[:0]]))
    if prepared is None:
        raise DataError("no run to evaluate; expected scores of shape (seeds, N[, C]) with seeds >= 1")
    # Classes rest on different patients, so their supports add up, though never beyond the patients there are. What a
    # mean of classes rests on depends on the variances of these, too (`transfuse.statistics.variance`).
    overall = min(1 + int((prepared.support - 1).sum()), int(groups.max()) + 1)
    support = [overall, *(prepared.support if prepared.classes else ())]
    return Replicates(
        prepared.classes,
        prepared.undefined,
        prepared.counts,
        np.array(support),
        np.array(points, dtype=np.float64),
        np.stack(values),
    )


def resample_folds(
    measure: Measure,
    size: int,
    patients: Sequence[object] | np.ndarray | None,
    folds: ArrayLike | None,
    seed: int,
) -> tuple[list[Replicates], int]:
    """Replicates of each fold (one without folds) and the number of patients, of `size` samples.

    Raises:
        SpecError: a seed that is no integer >= 0.
        DataError: as `patient_codes` and `resample`; folds of another shape, missing, fewer than two, or with a patient
            in two of them.
    """
    checked_seed(seed)
    codes = patient_codes(patients, size)
    number = int(codes.max()) + 1
    if folds is None:
        return [resample(measure, np.arange(size), codes, seed)], number
    if missing := sum(map(_is_missing, np.asarray(folds, dtype=object).reshape(-1))):
        raise DataError(f"{missing} of {size} samples have no fold; expected the fold of every sample, or folds=None")
    names, fold = np.unique(np.asarray(folds), return_inverse=True)
    if fold.shape != codes.shape or len(names) < 2:
        raise DataError(
            f"folds has shape {np.shape(folds)} and {len(names)} different value(s); expected ({size},) with at "
            "least 2 folds, or None"
        )
    both = len(np.unique(np.column_stack([codes, fold]), axis=0)) - number
    if both:
        raise DataError(
            f"{both} patient(s) are in more than one fold; a patient may be tested in one fold only: split by patient"
        )
    parts = []
    for index in range(len(names)):
        rows = np.flatnonzero(fold == index)
        inside = np.unique(codes[rows], return_inverse=True)[1]
        try:
            parts.append(resample(measure, rows, inside, (seed, index)))
        except DataError as problem:
            raise DataError(f"fold {names[index]} ({len(rows)} of {size} samples): {problem}") from None
    return parts, number


def checked_seed(seed: object) -> None:
    """Refuse a seed of the resamples that is no integer >= 0; None would draw others for each arm.

    Raises:
        SpecError: it is not.
    """
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SpecError(
            f"seed is {seed!r}; expected an integer >= 0, as 0: all arms need the same resamples of the patients"
        )


def joined(first: Replicates, second: Replicates) -> Replicates:
    """The runs of two arms on the same resamples, the first arm's first."""
    points, values = (np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("points", "values"))
    return replace(first, points=points, values=values)


def read_runs(name: str, scores: ArrayLike, target: np.ndarray) -> np.ndarray:
    """Check one arm's scores: `(seeds, N)` or `(seeds, N, C)` float64, finite.

    Raises:
        DataError: another shape, or scores that are NaN or infinite; the message names the argument and the seeds.
    """
    try:
        runs = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as problem:
        raise DataError(f"{name} is no array of numbers of shape (seeds, N[, C]): {problem}") from None
    if target.ndim > 0 and len(target) == 0:
        raise DataError(f"target has shape {target.shape}, so there is no sample; expected (N,) or (N, C) with N >= 1")
    if target.ndim not in (1, 2) or runs.ndim not in (2, 3) or runs.shape[1] != len(target) or len(runs) == 0:
        raise DataError(
            f"{name} has shape {runs.shape} and target {target.shape}; expected scores (seeds, N) or (seeds, N, C) and "
            f"target (N,) or (N, C), seeds first: for one seed pass {name}[None]"
        )
    bad = np.flatnonzero(~np.isfinite(runs).all(axis=tuple(range(1, runs.ndim))))
    if len(bad):
        raise DataError(
            f"{name}: {int((~np.isfinite(runs)).sum())} of {runs.size} scores are NaN or infinite (seed number "
            f"{', '.join(map(str, bad))}); a run that diverged has no metric: leave the run out and say so"
        )
    return runs


def _draws(
    patients: int, samples: int, replicates: int, seed: int | Sequence[int]
) -> Callable[[], Iterator[np.ndarray]]:
    width = min(replicates, max(16, _BLOCK // max(samples, patients)))

    def fresh() -> Iterator[np.ndarray]:
        generator = np.random.default_rng(seed)
        for first in range(0, replicates, width):
            count = min(width, replicates - first)
            drawn = generator.integers(patients, size=(count, patients))
            cell = drawn * count + np.arange(count)[:, None]
            times = np.bincount(cell.reshape(-1), minlength=patients * count)
            yield times.reshape(patients, count).astype(np.float64)

    if patients * replicates > _KEPT:
        return fresh
    kept = list(fresh())
    return lambda: iter(kept)


def _is_missing(one: object) -> bool:
    """Whether an id is None, NaN, pandas' NA or empty."""
    try:
        return one is None or bool(one != one) or one == ""
    except TypeError:  # pandas.NA, which is neither equal to itself nor not
        return True
