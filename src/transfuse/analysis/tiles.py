"""Many small pictures as one: filters, activation maps and optimised inputs side by side, as pixels of 0 to 255."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from transfuse.errors import AnalysisError, nearest

SCALINGS = ("shared", "each", "unit")
_GAP = 255  # white between the tiles


def tile(
    images: Tensor | np.ndarray,
    columns: int | None = None,
    *,
    scaling: str = "shared",
    symmetric: bool = False,
    gap: int = 1,
) -> np.ndarray:
    """Images in rows, from left to right and from top to bottom, as one uint8 picture with white lines between them.

    Args:
        images: (K, H, W) grey, or (K, C, H, W) with C = 1 or 3, of any number type.
        columns: how many in a row; None gives a square, or nearly one.
        scaling: "shared": the least value of all images is 0 and the greatest 255, so that images can be compared;
            "each": the same for each image by itself, so that faint ones can be seen; "unit": values lie in [0, 1] and
            are shown as they are. Where all values are equal there is nothing to scale, and they are mid-grey (128).
        symmetric: 0 is mid-grey, and the greatest magnitude is 0 or 255: for weights and differences.
        gap: pixels between two tiles.

    Returns:
        (rows * (H + gap) - gap, columns * (W + gap) - gap), with a last dimension of 3 for images of three channels.

    Raises AnalysisError for shapes that are no images, for values that are not finite or (with "unit") outside [0, 1],
    and for an unknown scaling.

    >>> tile(np.arange(8.0).reshape(2, 2, 2), columns=2)
    array([[  0,  36, 255, 146, 182],
           [ 73, 109, 255, 219, 255]], dtype=uint8)
    """
    if scaling not in SCALINGS:
        raise AnalysisError(f"Unknown scaling {scaling!r}: {nearest(scaling, SCALINGS)}")
    values = _images(images)
    count, height, width, channels = values.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1 or gap < 0:
        raise AnalysisError(f"columns={columns}, gap={gap}: expected at least 1 column and a gap of 0 pixels or more")
    rows = math.ceil(count / columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), _GAP, dtype=np.uint8)
    for place, pixels in enumerate(_bytes(values, scaling, symmetric)):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        grid[top : top + height, left : left + width] = pixels
    return grid if channels == 3 else grid[..., 0]


def _images(images: Tensor | np.ndarray) -> np.ndarray:
    """Images as (K, H, W, C) float64."""
    found = images.detach().cpu().double().numpy() if isinstance(images, Tensor) else np.asarray(images, np.float64)
    values = found[:, None] if found.ndim == 3 else found
    if values.ndim != 4 or values.shape[1] not in (1, 3) or 0 in values.shape:
        raise AnalysisError(
            f"Images of shape {found.shape} cannot be tiled: expected (K, H, W), or (K, C, H, W) with 1 or 3 channels; "
            "of volumes take one slice, of other channels one at a time"
        )
    if not np.isfinite(values).all():
        raise AnalysisError("Images with NaN or infinite values cannot be tiled: find where they come from first")
    return values.transpose(0, 2, 3, 1)


def _bytes(values: np.ndarray, scaling: str, symmetric: bool) -> np.ndarray:
    if scaling == "unit":
        if values.min() < 0 or values.max() > 1:
            raise AnalysisError(
                f"scaling='unit' shows values in [0, 1], got {values.min():.3g} to {values.max():.3g}: use 'shared' "
                "or 'each'"
            )
        low, high = np.zeros(1), np.ones(1)
    else:
        axes = (0, 1, 2, 3) if scaling == "shared" else (1, 2, 3)
        low, high = values.min(axis=axes, keepdims=True), values.max(axis=axes, keepdims=True)
    if symmetric:
        high = np.maximum(np.abs(low), np.abs(high))
        low = -high
    span = high - low
    scaled = np.where(span > 0, (values - low) / np.where(span > 0, span, 1.0), 0.5)
    return np.rint(255 * scaled).astype(np.uint8)
