"""Synthetic Gabor filters for a first convolution (INIT-6; T appendix F.3; METHODS 1.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfuse.errors import TransferError

FREQUENCIES = (0.08, 0.16, 0.25, 0.32)
RESIZED = 10  # pixels to which T resizes its kernels before it crops them


def gabor_bank(
    filters: int = 64, kernel: int = 7, *, frequencies: Sequence[float] = FREQUENCIES, sigma: float = 2.0
) -> NDArray[np.float64]:
    """The Gabor filters of T, shape (filters, kernel, kernel): by frequency (in 1/pixel), then by angle.

    Each is the real part of a complex Gabor kernel cut at 3 `sigma`, resized to 10 x 10 pixels (linearly, with
    anti-aliasing) and cropped to its middle. T gives 64 filters of 7 x 7: 16 angles of 4 frequencies. Other numbers
    are our choice: ceil(filters / frequencies) angles evenly over half a turn, of which the first `filters` are taken
    (32: every second angle of T's); other kernels up to 10 pixels are cropped from the same 10 x 10, larger ones are
    resized to kernel + 3 instead.

    Raises TransferError for numbers that are not positive.

    >>> gabor_bank().shape, gabor_bank(32, 5).shape
    ((64, 7, 7), (32, 5, 5))
    >>> bool((gabor_bank(32) == gabor_bank(64)[::2]).all())
    True
    """
    if min(filters, kernel, len(frequencies)) < 1 or sigma <= 0:
        raise TransferError(
            f"gabor_bank(filters={filters}, kernel={kernel}, frequencies={tuple(frequencies)}, sigma={sigma}): "
            "expected positive numbers and at least one frequency."
        )
    angles = math.ceil(filters / len(frequencies))
    size = RESIZED if kernel <= RESIZED else kernel + 3
    start = (size - kernel) // 2
    bank = np.empty((filters, kernel, kernel))
    for index in range(filters):
        wave = _gabor(frequencies[index // angles], index % angles / angles * math.pi, sigma)
        bank[index] = _resized(wave, size)[start : start + kernel, start : start + kernel]
    return bank


def gabor_(tensor: Tensor, like: Tensor, scale: str = "std") -> Tensor:
    """Fills the weight (O, I, k, k) of a first convolution: the same bank for each input channel, times one number.

    The number gives the whole tensor the magnitude of `like`: its standard deviation ("std"), its largest absolute
    value ("max_abs") or its length ("l2"). T matches "numerical magnitudes" and does not say which.
    """
    bank = torch.from_numpy(gabor_bank(tensor.shape[0], tensor.shape[2])).unsqueeze(1).expand(tensor.shape)
    return tensor.copy_(bank * (_magnitude(like, scale) / _magnitude(bank, scale)))


def _magnitude(tensor: Tensor, scale: str) -> float:
    values = tensor.double()
    if scale == "max_abs":
        return float(values.abs().max())
    return float(values.std()) if scale == "std" else float(values.norm())


def _gabor(frequency: float, angle: float, sigma: float) -> NDArray[np.float64]:
    """The real part of a complex Gabor kernel, up to 3 sigma along its own axes (13 x 13 or smaller for sigma 2)."""
    half_width = math.ceil(max(abs(3 * sigma * math.cos(angle)), abs(3 * sigma * math.sin(angle)), 1))
    y, x = np.mgrid[-half_width : half_width + 1, -half_width : half_width + 1]
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    envelope = np.exp(-(along**2 + across**2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
    return envelope * np.cos(2 * math.pi * frequency * along)


def _resized(image: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """A square image with other sides, by linear interpolation after a Gaussian blur where it gets smaller."""
    from scipy import ndimage

    factor = image.shape[0] / size
    if factor > 1:
        image = ndimage.gaussian_filter(image, (factor - 1) / 2, mode="mirror")
    return ndimage.zoom(image, 1 / factor, order=1, mode="mirror", grid_mode=True)
