"""Centred kernel alignment of two representations of the same samples (Kornblith et al. 2019)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from transfuse.analysis.grams import centred_, check_kernel, linear_gram, rbf_gram
from transfuse.analysis.knn import plain_array
from transfuse.analysis.similarity import Similarity
from transfuse.errors import AnalysisError, AnalysisWarning

FEWEST = {True: 4, False: 3}
"""The fewest samples, debiased or not: 1 / (N (N - 3)) below; any two biased representations of two samples agree."""

# A direction counts as one from this share of the largest singular value on (METHODS 4.1).
_RANK = 1e-6
# A centred kernel whose squares sum to less than this share of what they were before has only rounding left.
_NOTHING = 1e-13
# Elements of a product of features that is only summed.
_PIECE = 2**24
_WARN_BYTES = 8 * 2**30


def cka(x: Any, y: Any, debiased: bool = True, *, kernel: str = "linear", bandwidth: float = 1.0) -> Similarity:
    """The similarity of two representations of the same N samples: 1 for the same up to rotation and scale.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K and L the samples' Gram matrices. Invariant to rotations and
    permutations of the features and to one scale for all, not to other invertible maps. All sums are in float64. The
    linear one takes products of samples or of features, whichever are fewer, so 50,000 samples of few features need
    no matrix of 50,000 x 50,000; `rank` is the number of singular values above 1e-6 of the largest.

    Args:
        x: (N, D) array or tensor, the features of N samples; any floating type, integers too.
        y: (N, E), of the same samples in the same order.
        debiased: the unbiased estimate of HSIC (Song et al. 2012, equation 5; Nguyen et al. 2021), which is 0 on
            average for independent features and can be slightly below 0. False: the estimate of the first paper, which
            grows with the number of features and approaches 1 even for independent ones; what they would give is in
            `independent`, exactly (the mean over all permutations of the samples of y).
        kernel: `linear`, or `rbf`: exp(-d^2 / (2 s^2)) on the distances d of samples, N x N in memory.
        bandwidth: s of the RBF kernel as a fraction of the median distance; the paper tried 0.2 to 0.8.

    Returns:
        `Similarity`, usable as a float, measure "cka" or "rbf_cka".

    Raises AnalysisError for inputs that are not (N, D), other numbers of samples, fewer than 4 (3 if not debiased),
    NaN or infinite values, and representations that do not vary over the samples, whose CKA would be 0 / 0.

    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> round(float(cka(x, -3 * x.flip(1))), 6), cka(x, x).rank
    (1.0, (8, 8))
    """
    check_kernel(kernel, bandwidth)
    first, second = _features("x", x), _features("y", y)
    count = len(first)
    if count != len(second):
        raise AnalysisError(
            f"x has {count} samples and y has {len(second)}; expected the same samples in the same order"
        )
    if count < FEWEST[debiased]:
        estimate = "the debiased CKA" if debiased else "CKA"
        raise AnalysisError(f"x and y have {count} samples; {estimate} needs at least {FEWEST[debiased]}")
    second = second.to(first.device)
    by_samples = kernel == "rbf" or count <= min(first.shape[1], second.shape[1])
    _warn_of_memory(count, first, second, by_samples)
    ranks = []
    if by_samples:
        kernels = []
        for name, features in (("x", first), ("y", second)):
            gram = linear_gram(features)
            ranks.append(_rank(gram))
            gram = rbf_gram(gram, bandwidth) if kernel == "rbf" else gram
            before = float(gram.square().sum())
            kernels.append(centred_(gram, debiased=debiased))
            _check_varies(name, float(gram.square().sum()), before, debiased)
        k, m = kernels
        across, within, other = (float((a * b).sum()) for a, b in ((k, m), (k, k), (m, m)))
        traces = float(k.trace() * m.trace())
    else:
        first, second = (features - features[0] for features in (first, second))
        first, second = first - first.mean(0), second - second.mean(0)
        norms = first.square().sum(1), second.square().sum(1)
        squares = []
        for features in (first, second):
            gram = features.T @ features if features.shape[1] <= count else features @ features.T
            ranks.append(_rank(gram))
            squares.append(float(gram.square().sum()))
        across = _hsic(_squared_products(first, second), norms[0], norms[1], debiased)
        within = _hsic(squares[0], norms[0], norms[0], debiased)
        other = _hsic(squares[1], norms[1], norms[1], debiased)
        _check_varies("x", within, squares[0], debiased)
        _check_varies("y", other, squares[1], debiased)
        traces = float(norms[0].sum() * norms[1].sum())
    scale = within**0.5 * other**0.5
    return Similarity(
        value=across / scale,
        measure="rbf_cka" if kernel == "rbf" else "cka",
        samples=count,
        rank=(ranks[0], ranks[1]),
        independent=0.0 if debiased else traces / (count - 1) / scale,
    )


def _hsic(squares: float, norms: Tensor, others: Tensor, debiased: bool) -> float:
    """N (N - 3) HSIC from centred features: the sum of (K L)_ij over all pairs, less what the diagonals bring in.

    Centred features have Gram matrices whose rows sum to 0, and so -norms once the diagonal is out; with that, the
    three terms of Song et al. 2012, equation 5, need no N x N matrix.
    """
    if not debiased:
        return squares
    count = len(norms)
    both = float(norms @ others) * count / (count - 2)
    return squares - both + float(norms.sum() * others.sum()) / ((count - 1) * (count - 2))


def _squared_products(first: Tensor, second: Tensor) -> float:
    """The sum of the squares of first^T second, a piece of it at a time."""
    piece = max(1, _PIECE // second.shape[1])
    return sum(float((part.T @ second).square().sum()) for part in first.split(piece, dim=1))


def _rank(gram: Tensor) -> int:
    values = torch.linalg.eigvalsh(gram)
    return int((values > values[-1] * _RANK**2).sum()) if values[-1] > 0 else 0


def tensor_of(name: str, given: Any) -> Tensor:
    """Features as a tensor without gradients; AnalysisError for arrays that hold no numbers."""
    if isinstance(given, Tensor):
        return given.detach()
    array = plain_array(given)
    if array.dtype.kind not in "fiubc":
        raise AnalysisError(f"{name} has type {array.dtype}; expected numbers, features (N, D)")
    return torch.from_numpy(array)


def _features(name: str, given: Any) -> Tensor:
    features = tensor_of(name, given)
    shape = tuple(features.shape)
    if features.is_complex():
        raise AnalysisError(f"{name} is complex; expected real features (N, D)")
    if features.ndim == 2 and not features.numel():
        raise AnalysisError(
            f"{name} has shape {shape}; expected (N, D) with at least {FEWEST[True]} samples and 1 feature: a filter "
            "or slice that leaves nothing looks so"
        )
    if features.ndim != 2 or not features.numel():
        raise AnalysisError(
            f"{name} has shape {shape}; expected features (N, D), one row a sample. Flatten what is larger, "
            f"{name}.reshape({shape[0] if shape else 'N'}, -1), or take a view of it: transfuse.analysis.features"
        )
    if features.device.type == "mps":
        features = features.cpu()
    features = features.to(torch.float64)
    if bad := int((~torch.isfinite(features)).sum()):
        raise AnalysisError(
            f"{name} has {bad} of {features.numel()} values that are NaN or infinite; expected finite ones"
        )
    return features


def _check_varies(name: str, after: float, before: float, debiased: bool) -> None:
    if not after > _NOTHING * before:
        also = ", or only one sample differs from the others" if debiased else ""
        raise AnalysisError(
            f"{name} does not vary: its features are constant over the samples{also}, so CKA is 0 / 0. "
            "Expected features that differ between samples; look for a dead layer or repeated samples."
        )


def _warn_of_memory(count: int, first: Tensor, second: Tensor, by_samples: bool) -> None:
    sides = [count, count] if by_samples else [min(count, features.shape[1]) for features in (first, second)]
    if (needed := 4 * 8 * max(sides) ** 2) > _WARN_BYTES:
        warnings.warn(
            f"CKA of {count} samples of {first.shape[1]} and {second.shape[1]} features takes about "
            f"{needed / 2**30:.0f} GiB of memory for a matrix of {max(sides)} x {max(sides)}; "
            "MinibatchCKA and cka_matrix need only the samples of one batch at a time",
            AnalysisWarning,
            stacklevel=3,
        )
