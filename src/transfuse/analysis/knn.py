"""Weighted k-nearest-neighbour scores of features: what a layer knows, without training anything on it."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from transfuse.errors import AnalysisError, AnalysisWarning, nearest

__all__ = ["knn_scores"]

VOTES = ("weighted", "majority")

# Similarities held at once: 64 MB of float32, which a bank of 50,000 fills with 335 queries.
_CELLS = 1 << 24
_GROUP = 16


def knn_scores(
    queries: ArrayLike | Tensor,
    bank: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    k: int = 200,
    temperature: float = 0.1,
    *,
    vote: str = "weighted",
    classes: int | None = None,
    chunk: int | None = None,
    patients: tuple[ArrayLike, ArrayLike] | None = None,
) -> np.ndarray:
    """Class scores of queries by their k nearest neighbours in a bank, in cosine similarity.

    The score of a class is the sum of `exp(similarity / temperature)` over those of the k neighbours that have it,
    divided by the sum over all k (Wu et al. 2018, section 3.4; Matsoukas et al. 2022, appendix B, with k = 200 and
    temperature 0.1, as their code has it). Multi-label: the mean of the neighbours' label vectors under these weights;
    a label that is NaN (unlabelled) leaves its neighbour out of that class only.

    Neighbours that are equally near as the k-th, to rounding, share its place and those that are left in equal parts,
    so the scores depend on the order of the bank as little as on `chunk`. Similarities are float64 where queries and
    bank are, float32 else (float16 and bfloat16 are raised to it). Memory: a normalised copy of both and the
    similarities of `chunk` queries.

    Args:
        queries: `(Q, D)`; arrays or tensors on any device.
        bank: `(M, D)`; it decides the device.
        labels: `(M,)` class indices, or `(M, C)` of 0, 1 and NaN (unlabelled).
        k: neighbours. A bank of fewer is used whole, with a warning.
        temperature: of the weights; small values let the nearest decide.
        vote: "weighted" (default), or "majority": every neighbour counts 1, which is how the paper's text reads.
        classes: C of class indices; default: the largest index and one more.
        chunk: queries at once; default: as many as make 64 MB of similarities.
        patients: whose each query `(Q,)` and each point of the bank `(M,)` is: nobody votes on the own patient, so a
            bank may be asked about itself. k is at most what the bank has of other patients than the largest.

    Returns:
        `(Q, C)` float64 in [0, 1]; rows of class indices sum to 1.

    Raises:
        AnalysisError: shapes that do not fit; NaN, infinite or zero vectors; labels that cannot be meant; a class
            that none of a query's neighbours is labelled for; an unknown vote; a bank of nobody but a query's patient.

    >>> knn_scores([[1.0, 0.1]], [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], [0, 0, 1], k=3, vote="majority").round(3)
    array([[0.667, 0.333]])
    """
    if vote not in VOTES:
        raise AnalysisError(f"unknown vote {vote!r}: {nearest(vote, VOTES)}")
    if not (isinstance(temperature, float | int) and 0 < temperature < math.inf):
        raise AnalysisError(f"temperature is {temperature!r}; expected a number above 0, 0.1 by default")
    points, asked = _features("bank", bank), _features("queries", queries)
    if points.shape[1] != asked.shape[1]:
        raise AnalysisError(
            f"queries have {asked.shape[1]} features and the bank {points.shape[1]}; expected the same features: take "
            "both from one layer and view"
        )
    answers = _labels(labels, len(points), classes)
    own = None if patients is None else _own(patients, len(asked), len(points))
    k = neighbours_of(k, len(points) - (0 if own is None else own.most), stacklevel=3)
    exact = torch.float64 if points.dtype == asked.dtype == torch.float64 else torch.float32
    points, asked = _directions("bank", points.to(exact)), _directions("queries", asked.to(points.device, exact))
    if chunk is not None and chunk < 1:
        raise AnalysisError(f"chunk is {chunk}; expected at least 1 query at once")
    width = chunk or max(1, _CELLS // max(len(points), k * (answers.classes if answers.multilabel else 1)))
    sharpness = 0.0 if vote == "majority" else 1 / temperature
    room = points.new_empty(min(width, len(asked)), len(points))  # the same memory again and again
    found = []
    for start in range(0, len(asked), width):
        part = asked[start : start + width]
        similar = torch.mm(part, points.T, out=room[: len(part)])
        if own is not None:
            mask = own.queries[start : start + width, None] == own.bank
            similar.masked_fill_(mask.to(similar.device), -math.inf)
        found.append(_votes(similar, k, answers, sharpness))
    result = torch.cat(found)
    if bad := torch.isnan(result).sum(0).nonzero()[:, 0].tolist():
        count = int(torch.isnan(result).any(1).sum())
        raise AnalysisError(
            f"{count} of {len(result)} queries have no neighbour that is labelled for class {bad[0]} among their {k} "
            f"(so for {len(bad)} of {result.shape[1]} classes); take a larger k, or leave out of the bank what is not "
            "labelled for it"
        )
    scores: np.ndarray = result.clamp(max=1.0).numpy()  # sums of k shares may round to a little more
    return scores


class _Answers(NamedTuple):
    """Labels of the bank, (M,) int64 or (M, C) float64, and C."""

    labels: Tensor
    classes: int

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2


class _Own(NamedTuple):
    """The number of the patient of each query (Q,) and each point (M,), and the most points of one query's patient."""

    queries: Tensor
    bank: Tensor
    most: int


def _own(patients: tuple[ArrayLike, ArrayLike], queries: int, bank: int) -> _Own:
    ids = [np.asarray(one) for one in patients]
    if len(ids) != 2 or ids[0].shape != (queries,) or ids[1].shape != (bank,):
        raise AnalysisError(
            f"patients have shapes {', '.join(str(one.shape) for one in ids)}; expected two arrays, "
            f"({queries},) of the queries and ({bank},) of the bank"
        )
    numbers = np.unique(np.concatenate(ids), return_inverse=True)[1]
    most = int(np.bincount(numbers[queries:], minlength=int(numbers.max()) + 1)[numbers[:queries]].max())
    if most == bank:
        raise AnalysisError(
            f"all {bank} samples of the bank are of one patient, who is asked about too: no neighbour is left. "
            "Take images of more patients"
        )
    return _Own(torch.from_numpy(numbers[:queries]), torch.from_numpy(numbers[queries:]), most)


def _votes(similar: Tensor, k: int, answers: _Answers, sharpness: float) -> Tensor:
    """Scores (Q, C) from similarities (Q, M); votes weigh exp(sharpness * similarity)."""
    count = similar.shape[1]
    values, indices = _largest(similar, min(k + 1, count))
    scores = _weighed(values[:, :k], indices[:, :k], 0.0, answers, sharpness)
    if k < count:
        # Copies of an image, or features that are all alike: no order among them would be anything but chance.
        rounding = 4 * torch.finfo(similar.dtype).eps
        for row in (values[:, k - 1] - values[:, k] <= rounding).nonzero()[:, 0].tolist():
            last = values[row, k - 1]
            near = (similar[row] >= last - rounding).nonzero()[:, 0]
            among = similar[row, near]
            level = (among <= last + rounding).cpu()
            share = math.log((k - int((~level).sum())) / int(level.sum()))
            scores[row] = _weighed(among[None], near[None], level * share, answers, sharpness)[0]
    return scores


def _largest(similar: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`similar.topk(k)` in 0.6 of the time: the k largest lie in the k groups whose maxima are the largest."""
    count = similar.shape[1]
    groups = count // _GROUP
    if groups < 4 * k:
        values, indices = similar.topk(k)
        return values, indices
    table = similar[:, : groups * _GROUP].unflatten(1, (_GROUP, groups))
    best = table.amax(1).topk(k, sorted=False).indices
    inside = table.gather(2, best[:, None].expand(-1, _GROUP, -1)).flatten(1)
    values, places = torch.cat([inside, similar[:, groups * _GROUP :]], 1).topk(k)
    member = best.gather(1, places % k) + places // k * groups
    return values, torch.where(places < _GROUP * k, member, places + groups * _GROUP - _GROUP * k)


def _weighed(values: Tensor, indices: Tensor, log_share: Tensor | float, answers: _Answers, sharpness: float) -> Tensor:
    """Scores (Q, C) of neighbours (Q, k); NaN for a class that none of them is labelled for."""
    # A softmax is the same ratio of exponentials, and never overflows, however small the temperature.
    logits = sharpness * values.cpu().double() + log_share
    found = answers.labels[indices.cpu()]
    if answers.multilabel:
        # Each class has its own weights: those of the neighbours that are labelled for it.
        weights = logits[:, :, None].masked_fill(found.isnan(), -math.inf).softmax(1)
        return (weights * found.nan_to_num()).sum(1)
    scores = torch.zeros(len(values), answers.classes, dtype=torch.float64)
    return scores.scatter_add_(1, found, logits.softmax(1))


def _features(name: str, values: ArrayLike | Tensor) -> Tensor:
    if not isinstance(values, Tensor) and plain_array(values).dtype.kind not in "fiub":
        raise AnalysisError(f"{name} has type {plain_array(values).dtype}; expected numbers, features (N, D)")
    tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(plain_array(values))
    if tensor.ndim != 2 or not tensor.numel() or tensor.is_complex():
        raise AnalysisError(
            f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype}; expected features (N, D) of at least one "
            "sample: take a view of an activation first (transfuse.analysis.features)"
        )
    return tensor


def _directions(name: str, vectors: Tensor) -> Tensor:
    """Vectors of length 1."""
    length = vectors.norm(dim=1, keepdim=True)
    if not bool(((length > 1e-15) & (length < 1e15)).all()):
        # Squares may have over- or underflown: scale by the largest entries first.
        largest = vectors.abs().amax(1, keepdim=True)
        _refuse_without_direction(name, largest[:, 0])
        vectors = vectors / largest
        length = vectors.norm(dim=1, keepdim=True)
    return vectors / length


def _refuse_without_direction(name: str, largest: Tensor) -> None:
    if bad := int((~torch.isfinite(largest)).sum()):
        raise AnalysisError(
            f"{bad} of {len(largest)} vectors of the {name} are NaN or infinite; expected finite features. Look for "
            "diverged weights, images that are not normalised, or half precision that overflows"
        )
    if bad := int((largest == 0).sum()):
        first = int((largest == 0).nonzero()[0, 0])
        raise AnalysisError(
            f"{bad} of {len(largest)} vectors of the {name} are zero (the first: number {first}), which have no cosine "
            "similarity. Blank images or dead layers give them: leave these samples out, or take another layer"
        )


def _labels(labels: ArrayLike | Tensor, count: int, classes: int | None) -> _Answers:
    given = plain_array(labels)
    if given.ndim not in (1, 2) or len(given) != count or given.dtype.kind not in "fiub" or not given.size:
        raise AnalysisError(
            f"labels have shape {given.shape} and type {given.dtype} for a bank of {count}; expected ({count},) class "
            f"indices or ({count}, C) of 0, 1, NaN"
        )
    numbers = given.astype(np.float64)
    if given.ndim == 2:
        if (wrong := ~(np.isnan(numbers) | (numbers == 0) | (numbers == 1))).any():
            raise AnalysisError(
                f"multi-label labels hold {numbers[wrong][0]:g} ({int(wrong.sum())} of {numbers.size} such); expected "
                "0, 1 or NaN (unlabelled), or class indices (N,)"
            )
        if classes not in (None, given.shape[1]):
            raise AnalysisError(f"classes is {classes}, and the labels have {given.shape[1]} columns; leave it out")
        return _Answers(torch.from_numpy(numbers), given.shape[1])
    limit = math.inf if classes is None else classes
    if (wrong := ~((numbers >= 0) & (numbers < limit) & (numbers == np.round(numbers)))).any():
        raise AnalysisError(
            f"labels hold {numbers[wrong][0]:g} ({int(wrong.sum())} of {count} such); expected class indices from 0"
            + (f" to {classes - 1}" if classes else "")
            + "; leave samples without a class out of the bank"
        )
    return _Answers(torch.from_numpy(numbers.astype(np.int64)), classes or int(numbers.max()) + 1)


def neighbours_of(k: int, count: int, stacklevel: int) -> int:
    """k, checked, and at most the size of the bank (with a warning)."""
    if isinstance(k, bool) or k != int(k) or k < 1:
        raise AnalysisError(f"k is {k!r}; expected a number of neighbours, 1 or more (200 in the papers)")
    if k > count:
        warnings.warn(
            f"k is {k} and the bank has {count} samples: each query votes by the whole bank, k = {count}",
            AnalysisWarning,
            stacklevel=stacklevel,
        )
    return min(int(k), count)


def plain_array(values: ArrayLike | Tensor) -> np.ndarray:
    """A writeable array that torch can take, of what may be a tensor on a device."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    array = np.ascontiguousarray(values)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)  # long doubles, which torch does not have
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))  # of a file from another kind of machine
    # torch warns about memory that it could write to and must not.
    return array if array.flags.writeable else array.copy()
