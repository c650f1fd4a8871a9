"""The verdict on two arms of a segmentation, from the true and false positives and false negatives of every image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError, nearest
from transfuse.metrics import COUNT_METRICS, ClassCounts, Prepared, overlap, overlap_terms
from transfuse.statistics.arm import Arm
from transfuse.statistics.bootstrap import Measure, Measured, resample_folds
from transfuse.statistics.comparison import Comparison, checked_margin, compare_arms

__all__ = ["COUNT_METRICS", "arm_of_counts", "compare_counts", "overlap"]

Average = Literal["image", "pooled"]
Empty = Literal["one", "leave_out"]


def compare_counts(
    counts_a: ArrayLike,
    counts_b: ArrayLike,
    patients: Sequence[object] | np.ndarray | None,
    margin: float,
    metric: str = "dice",
    average: Average = "image",
    empty: Empty = "one",
    folds: ArrayLike | None = None,
    seed: int = 0,
) -> Comparison:
    """`compare` for segmentation: Dice or Jaccard of two arms from the counted pixels of each image.

    Counts are all that has to be stored of a segmentation: a verdict can be computed again without network or masks.

    Args:
        counts_a: `(seeds, N, 3)` or `(seeds, N, C, 3)`: true positives, false positives and false negatives, in pixels
            or voxels, of each image and class of arm A.
        counts_b: the same of arm B, on the same images; the numbers of seeds may differ.
        patients: `(N,)` patient id of each image; None: each is its own patient, which becomes a caveat.
        margin: > 0, in units of the metric.
        metric: "dice" or "jaccard".
        average: "image" takes the metric of each image and their mean, so that a small lesion counts as much as a
            large one; "pooled" takes it of the summed counts of all images, and leaves out classes that have no true
            pixel.
        empty: of "image", what an image is worth whose true mask is empty: "one" gives 1 to an empty prediction and 0
            to any other; "leave_out" leaves such images out, whatever was predicted, and a caveat says how many
            (MONAI's `ignore_empty`).
        folds: `(N,)` fold in which an image was tested, under cross-validation.
        seed: of the resamples of patients.

    Returns:
        The comparison; `per_class` for each class where there are several, of which the overall value is the mean.

    Raises:
        SpecError: a margin that is not between 0 and 1, an unknown metric, average or treatment of empty masks, a seed
            that is no integer >= 0.
        DataError: shapes that do not fit, counts that are negative or not finite, true masks of different sizes (TP +
            FN) in two arms or seeds, no image with a mask where one is needed, a patient in two folds.

    >>> generator = np.random.default_rng(0)
    >>> size = generator.integers(50, 200, 60)
    >>> hit = [np.round(size * generator.uniform(low, low + 0.1, (4, 60))) for low in (0.8, 0.6)]
    >>> a, b = (np.stack([tp, 0.2 * tp, size - tp], axis=-1) for tp in hit)
    >>> compare_counts(a, b, patients=range(60), margin=0.02).verdict
    'helps'
    """
    if metric not in COUNT_METRICS:
        raise SpecError(f"unknown metric {metric!r} of counts: {nearest(metric, COUNT_METRICS)}")
    checked_margin(margin, metric, COUNT_METRICS[metric].bounds)
    patients = None if patients is None else patients if hasattr(patients, "__array__") else list(patients)
    one, two = _read("counts_a", counts_a), _read("counts_b", counts_b)
    if one.shape[1:] != two.shape[1:]:
        raise DataError(
            f"counts_a has shape {np.shape(counts_a)} and counts_b {np.shape(counts_b)}; both arms need the same "
            "images and classes, and may differ in seeds: (seeds, N[, C], 3)"
        )
    if not np.allclose(_truth(one), _truth(two)):
        raise DataError(
            "counts_a and counts_b have true masks of different sizes (TP + FN): the arms were tested on other images, "
            "or on the same ones in another order or size"
        )
    first = arm_of_counts(counts_a, patients, metric, average, empty, folds, seed, name="counts_a")
    second = arm_of_counts(counts_b, patients, metric, average, empty, folds, seed, name="counts_b")
    return compare_arms(first, second, margin)


def arm_of_counts(
    counts: ArrayLike,
    patients: Sequence[object] | np.ndarray | None,
    metric: str = "dice",
    average: Average = "image",
    empty: Empty = "one",
    folds: ArrayLike | None = None,
    seed: int = 0,
    *,
    background: bool = False,
    name: str = "counts",
) -> Arm:
    """An arm of a segmentation, for several comparisons; arguments and errors as of `compare_counts`.

    With `background` the first class is the background: it has no part in the metric, and classes keep their numbers.
    """
    if metric not in COUNT_METRICS:
        raise SpecError(f"unknown metric {metric!r} of counts: {nearest(metric, COUNT_METRICS)}")
    for what, given, known in (("average", average, get_args(Average)), ("empty", empty, get_args(Empty))):
        if given not in known:
            raise SpecError(f"unknown {what} {given!r}: {nearest(str(given), known)}")
    array = _read(name, counts)
    if background and array.shape[2] < 2:
        raise DataError(f"{name} has shape {np.shape(counts)}: one class, so none is left beside the background")
    leave_out = average == "image" and empty == "leave_out"
    measure = _of_counts(array, metric, average, leave_out, int(background))
    parts, number = resample_folds(measure, array.shape[1], patients, folds, seed)
    notes = []
    truth = _truth(array)[:, int(background) :]
    if leave_out and (left := int((truth == 0).sum())):
        of = "images" if truth.shape[1] == 1 else "pairs of an image and a class"
        notes.append(f"{left} of {truth.size} {of} without a true mask are left out, whatever was predicted there.")
    classes = array.shape[2:3] if np.ndim(counts) == 4 else ()
    return Arm(COUNT_METRICS[metric], len(array), tuple(parts), number, patients is None, classes, seed, tuple(notes))


def _truth(counts: np.ndarray) -> np.ndarray:
    """The size of the true masks, `(N, C)`, of the first seed."""
    size: np.ndarray = counts[0, ..., 0] + counts[0, ..., 2]
    return size


def _read(name: str, counts: ArrayLike) -> np.ndarray:
    """Checked counts, `(seeds, N, C, 3)`."""
    try:
        array = np.asarray(counts, dtype=np.float64)
    except (TypeError, ValueError) as problem:
        raise DataError(f"{name} is no array of counts (seeds, N[, C], 3): {problem}") from None
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise DataError(
            f"{name} has shape {array.shape}; expected (seeds, N, 3) or (seeds, N, C, 3): true positives, false "
            f"positives and false negatives of each image; for one seed pass {name}[None]"
        )
    if not np.isfinite(array).all() or (array < 0).any():
        bad = np.argwhere(~np.isfinite(array) | (array < 0))[0]
        raise DataError(
            f"{name}[{', '.join(map(str, bad))}] is {array[tuple(bad)]}; expected numbers of pixels, finite and >= 0"
        )
    if array.ndim == 3:
        array = array[:, :, None]
    truth = array[..., 0] + array[..., 2]
    if not np.allclose(truth, truth[:1]):
        seed, image, _ = np.argwhere(~np.isclose(truth, truth[:1]))[0]
        raise DataError(
            f"{name}: the true mask of image {image} has {truth[seed, image].sum():g} pixels (TP + FN) in seed {seed} "
            f"and {truth[0, image].sum():g} in seed 0; all seeds have to be tested on the same masks"
        )
    return array


def _of_counts(counts: np.ndarray, metric: str, average: Average, leave_out: bool, first: int = 0) -> Measure:
    """The metric of the classes from `first` on."""

    def measure(rows: np.ndarray, groups: np.ndarray) -> Iterator[Measured]:
        truth = _truth(counts[:, rows])
        used = truth > 0 if leave_out else np.ones_like(truth, dtype=bool)
        if average == "pooled":  # without any true pixel there is nothing to overlap with
            used &= (truth > 0).any(axis=0)
        there = {
            c: ClassCounts(int((one > 0).sum()), int((one == 0).sum())) for c, one in enumerate(truth.T) if c >= first
        }
        classes = tuple(c for c in there if used[:, c].any())
        if not classes:
            raise DataError(
                f"{metric} is undefined, because no image has a true mask; count empty masks (average='image', "
                "empty='one'), or test on images with something to find"
            )
        support = np.array([len(np.unique(groups[used[:, c]])) for c in classes])
        for run in counts[:, rows][:, :, list(classes)]:
            top, bottom = overlap_terms(run, metric)
            if average == "image":
                top, bottom = overlap(run, metric) * used[:, list(classes)], used[:, list(classes)].astype(np.float64)
            values = _ratio(_summed(top, groups), _summed(bottom, groups))
            single = len(there) == 1
            prepared = Prepared(
                () if single else classes, tuple(c for c in there if c not in classes), there, support, values
            )
            each = values(np.ones((int(groups.max()) + 1, 1)))[:, 0]
            yield Measured(prepared, [float(each.mean())] if single else [float(np.nanmean(each)), *each])

    return measure


def _summed(terms: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Terms `(n, C)` summed within each patient, `(C, patients)`."""
    return np.stack([np.bincount(groups, column, minlength=int(groups.max()) + 1) for column in terms.T])


def _ratio(top: np.ndarray, bottom: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def values(weights: np.ndarray) -> np.ndarray:
        over, under = top @ weights, bottom @ weights
        return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)

    return values
