"""Gram matrices of a batch: every comparison of samples within one representation, in float64, whatever came in."""

from __future__ import annotations

import torch
from torch import Tensor

from transfuse.errors import AnalysisError, nearest

KERNELS = ("linear", "rbf")

# Columns are centred and multiplied in pieces that stay in the cache of a processor; a GPU wants larger ones.
_PIECE_CPU, _PIECE_GPU = 2**19, 2**26

_PIECE_AS_IS = 2**14  # columns whose products float32 adds up by itself
_MOST_COMMON = 2.0  # the squared mean over the variance up to which float32 keeps 6 digits of what varies

# Below this, squares of float32 numbers lose digits or vanish.
_SMALL = 1e-25


def linear_gram(outputs: Tensor) -> Tensor:
    """The Gram matrix (N, N), float64, of the samples' features after the mean of each feature is subtracted.

    Products of pieces of the features are taken in float32 (in float64 for float64 features, and where float32
    overflows or vanishes) and summed in float64; the mean goes first, so `x + 1e4` is as good as `x`. Nothing is
    copied but a piece, and features are taken in the order in which they lie in memory, which no Gram matrix shows.

    Args:
        outputs: (N, ...) real numbers of any type, on any device.

    Returns:
        (N, N) on the same device (on the CPU where a device has no float64); not finite where `outputs` are not.

    >>> linear_gram(torch.tensor([[10001.0], [10003.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    if outputs.is_complex():
        raise AnalysisError("activations are complex; expected real numbers. Compare torch.view_as_real(x) instead.")
    rows = _rows(outputs)
    wide = rows.dtype == torch.float64 or not rows.is_floating_point()
    # TF32 and bfloat16 products, where the caller has allowed them, have 3 digits
    if wide or torch.get_float32_matmul_precision() != "highest":
        return _gram(rows, torch.float64)
    gram = _as_they_are(rows)
    if gram is None:
        gram = _gram(rows, torch.float32)
    largest = gram.diagonal().amax()
    return gram if _SMALL < largest < torch.inf else _gram(rows, torch.float64)


def rbf_gram(gram: Tensor, bandwidth: float) -> Tensor:
    """The Gram matrix of the kernel exp(-d^2 / (2 s^2)), from the linear one; s is `bandwidth` medians of d.

    The median is over the distances d of all pairs of different samples (Kornblith et al. 2019, section 3.1).

    Raises AnalysisError where half the samples or more are the same, so that the median is 0.
    """
    norms = gram.diagonal()
    squares = (norms[:, None] + norms - 2 * gram).clamp_(min=0).fill_diagonal_(0)
    # everything off the diagonal: each pair twice, which leaves the median as it is
    distances = squares.flatten()[1:].view(len(gram) - 1, -1)[:, :-1].flatten().sqrt_()
    middle = len(distances) // 2
    median = (distances.kthvalue(middle).values + distances.kthvalue(middle + 1).values) / 2
    if not median > 0:
        raise AnalysisError(
            f"the median distance between the {len(gram)} samples is 0; expected most of them to differ. "
            "Use kernel='linear', or leave out repeated samples."
        )
    return squares.div_(-2 * (bandwidth * median) ** 2).exp_()


def centred_(gram: Tensor, *, debiased: bool) -> Tensor:
    """Centres a Gram matrix in place: U-centred, whose diagonal is 0, or rows and columns of mean 0.

    The sum of the products of two U-centred matrices, over N (N - 3), is the unbiased estimate of the
    Hilbert-Schmidt independence criterion (Song et al. 2012, equation 5; METHODS AN-16); that of two doubly centred
    ones, over (N - 1)^2, the biased estimate.
    """
    if not debiased:
        means = gram.mean(0)
        return gram.sub_(means).sub_(means[:, None]).add_(means.mean())
    count = len(gram)
    shares = gram.fill_diagonal_(0).sum(0) / (count - 2)
    shares -= shares.sum() / (2 * (count - 1))
    return gram.sub_(shares).sub_(shares[:, None]).fill_diagonal_(0)


def check_kernel(kernel: str, bandwidth: float) -> None:
    """Raises AnalysisError for an unknown kernel, and for a bandwidth that is no positive number."""
    if kernel not in KERNELS:
        raise AnalysisError(f"unknown kernel {kernel!r}: {nearest(kernel, KERNELS)}")
    if not 0 < bandwidth < float("inf"):
        raise AnalysisError(
            f"bandwidth is {bandwidth!r}; expected a positive fraction of the median distance, such as 0.5"
        )


def _rows(outputs: Tensor) -> Tensor:
    """(N, D), a view wherever memory allows: the axes in the order in which they lie in memory."""
    order = sorted(range(1, outputs.ndim), key=outputs.stride, reverse=True)
    return outputs.permute(0, *order).reshape(len(outputs), -1)


def _as_they_are(rows: Tensor) -> Tensor | None:
    """The centred Gram matrix from products of features as they are, which copies nothing.

    The means go out in float64 afterwards. None where they outweigh what varies, since digits would be lost; after a
    ReLU they seldom do.
    """
    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return None
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for part in rows.split(_PIECE_AS_IS, dim=1):
            total += part @ part.T
    common = total.mean()
    if not common <= _MOST_COMMON * (total.diagonal().mean() - common):
        return None
    means = total.mean(0)
    return total.sub_(means).sub_(means[:, None]).add_(common)


def _gram(rows: Tensor, dtype: torch.dtype) -> Tensor:
    device = torch.device("cpu") if rows.device.type == "mps" else rows.device
    rows = rows.to(device) if dtype == torch.float64 else rows
    count = len(rows)
    piece = max(256, (_PIECE_CPU if rows.device.type == "cpu" else _PIECE_GPU) // max(count, 1))
    total = torch.zeros(count, count, dtype=torch.float64, device=device)
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        for part in rows.split(piece, dim=1):
            part = part.to(dtype)
            centred = part - part[:1]  # first a sample, so that constant features become exactly 0
            centred -= centred.mean(0)
            total += (centred @ centred.T).to(device, torch.float64)
    return total
