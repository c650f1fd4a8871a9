"""The first layer's filters, before and after training, as arrays and as pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transfuse.analysis.knn import plain_array
from transfuse.analysis.states import State, refuse_shared, state_of
from transfuse.analysis.tiles import tile
from transfuse.analysis.weights import weight_of
from transfuse.errors import AnalysisError, nearest

__all__ = ["FirstLayer", "filter_grid", "first_layer", "first_layer_filters"]

SCALES = ("shared", "filter")


@dataclass(frozen=True)
class FirstLayer:
    """The filters of a network's first convolution, `(F, C, *kernel)` float64, before and after training."""

    initial: np.ndarray
    trained: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """`trained - initial`."""
        change: np.ndarray = self.trained - self.initial
        return change


def first_layer(before: State, after: State, name: str | None = None) -> FirstLayer:
    """The first filters at initialisation and after training, for pictures of both and of their difference.

    Args:
        before: network or state dict at initialisation (a copy), and `after` the same after training.
        after: see `before`.
        name: as in `first_layer_filters`.

    Raises:
        AnalysisError: as `first_layer_filters`; filters of different shapes; both sides in the same memory.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 5))
    >>> before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    >>> bool((first_layer(before, net).difference == 0).all())
    True
    """
    refuse_shared(state_of(before), state_of(after), "before", "after")
    filters = FirstLayer(first_layer_filters(before, name), first_layer_filters(after, name))
    if filters.initial.shape != filters.trained.shape:
        raise AnalysisError(
            f"the first filters have shape {filters.initial.shape} before and {filters.trained.shape} after; expected "
            "the same: compare the states of one network (after its first layer was fitted to the images' channels)"
        )
    return filters


def first_layer_filters(weights: State, name: str | None = None) -> np.ndarray:
    """The filters of the convolution that sees the image, `(F, C, *kernel)` float64; of a ViT, its patch embedding.

    Args:
        weights: a network, or a state dict (in which the first weight of 4 or 5 dimensions is taken).
        name: the entry to take instead, e.g. "stem.conv.weight".

    Raises:
        AnalysisError: no convolution, no such entry, or one that is no convolution's; NaN weights.

    >>> from torch import nn
    >>> first_layer_filters(nn.Sequential(nn.Conv2d(3, 8, 5))).shape
    (8, 3, 5, 5)
    """
    filters = weight_of(weights, name)
    if filters.ndim < 3:
        raise AnalysisError(f"{name!r} has shape {filters.shape}; expected a convolution's weight (F, C, *kernel)")
    if not np.isfinite(filters).all():
        raise AnalysisError(
            "the first filters hold NaN or infinite weights; expected finite ones: use another checkpoint"
        )
    return filters


def filter_grid(
    filters: ArrayLike,
    *,
    scale: str = "shared",
    limit: float | None = None,
    columns: int | None = None,
    magnify: int = 1,
) -> np.ndarray:
    """Filters as one picture: tiles in rows, white lines between them, weight 0 always the grey 128 (`tile`).

    A weight w is drawn as `127.5 (1 + w / limit)`. Three channels are drawn as red, green and blue; one as grey; of any
    other number each channel is a grey tile of its own (F C tiles). Of volumes the middle slice is drawn.

    Args:
        filters: `(F, C, h, w)` or `(F, C, d, h, w)`.
        scale: "shared" (default): one limit for all filters, the largest magnitude, so that their strengths can be
            compared; "filter": each filter's own, so that weak ones can be seen.
        limit: the shared limit to use instead, to draw initial, trained and difference alike; larger magnitudes are
            drawn as the limit.
        columns: tiles in a row; default: as many as make it about square.
        magnify: each weight becomes a square of so many pixels.

    Returns:
        uint8 `(H, W)`, or `(H, W, 3)` of three channels.

    Raises:
        AnalysisError: another shape, NaN, an unknown scale, a limit of 0, no columns.

    >>> filter_grid(np.ones((4, 1, 5, 5))).shape, filter_grid(np.zeros((64, 3, 7, 7)), magnify=2).shape
    ((11, 11), (119, 119, 3))
    """
    if scale not in SCALES:
        raise AnalysisError(f"unknown scale {scale!r}: {nearest(scale, SCALES)}")
    values = plain_array(filters).astype(np.float64)
    if values.ndim not in (4, 5) or not values.size or not np.isfinite(values).all():
        raise AnalysisError(
            f"filters have shape {values.shape}, {int((~np.isfinite(values)).sum())} of {values.size} NaN or infinite; "
            "expected finite (F, C, h, w) or (F, C, d, h, w)"
        )
    if limit is not None and (scale == "filter" or not (math.isfinite(limit) and limit > 0)):
        raise AnalysisError(f"limit is {limit} with scale {scale!r}; expected a number above 0, with scale 'shared'")
    if magnify < 1:
        raise AnalysisError(f"magnify is {magnify}; expected 1 or more pixels a weight")
    if values.ndim == 5:
        values = values[:, :, values.shape[2] // 2]
    own = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
    limits = own if scale == "filter" else np.full_like(own, own.max() if limit is None else limit)
    relative = np.divide(values, limits, out=np.zeros_like(values), where=limits > 0).clip(-1, 1)
    if relative.shape[1] not in (1, 3):
        relative = relative.reshape(-1, 1, *relative.shape[2:])
    return tile((0.5 + relative / 2).repeat(magnify, 2).repeat(magnify, 3), columns, scaling="unit")
