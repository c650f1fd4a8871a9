"""Bring volumes `(D, H, W)` to cubes of one size, by the physical size of their voxels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from transfuse.data.cache import pixel_type

ISOTROPIC = 0.01
"""Sides of a voxel that differ by less than this share count as equal."""

OF_A_VOLUME = " of a volume"
"""Part of the name of a cache file: volumes of the same bytes as images have another."""


class Volume(NamedTuple):
    """One volume: `voxels` `(D, H, W)`, uint8 or uint16, and the sides of a voxel along these axes, in mm.

    Where a file does not say how large its voxels are, they count as cubes.
    """

    voxels: np.ndarray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


class VolumeSource(Protocol):
    """Where volumes come from; picklable and small (paths or recipes, never voxels)."""

    def volumes(self) -> Iterator[Volume]:
        """All volumes in the order of the samples.

        Raises:
            DataError: volumes cannot be read; all of them are listed at once.
        """
        ...


def is_isotropic(spacing: Sequence[float]) -> bool:
    """Whether voxels are cubes, by `ISOTROPIC`.

    >>> is_isotropic((1.0, 1.0, 1.0)), is_isotropic((5.0, 0.7, 0.7))
    (True, False)
    """
    return max(spacing) <= (1 + ISOTROPIC) * min(spacing)


def to_voxels(volume: Volume, *, size: int, channels: int, fit: str, white: int) -> np.ndarray:
    """One volume as it is stored: `(channels, size, size, size)`, uint8 if white is 255, else uint16.

    The cube is one of millimetres: what is stored has cubic voxels, whatever the file's are. Resampling is that of
    images (antialiased, linear, axis by axis), so values never leave their range.

    Args:
        volume: the volume.
        size: voxels a side.
        channels: how often the grey values are repeated.
        fit: "crop" keeps the largest central cube, "pad" adds black to make one, "squash" stretches each axis by itself
            and so ignores the size of voxels.
        white: the value that is 1.0.

    >>> flat = Volume(np.full((10, 40, 40), 7, np.uint8), (4.0, 1.0, 1.0))  # 40 mm a side
    >>> to_voxels(flat, size=20, channels=1, fit="crop", white=255).shape
    (1, 20, 20, 20)
    """
    voxels = volume.voxels
    boxes = box_of(voxels.shape, volume.spacing, fit)
    for axis in sorted(range(3), key=lambda axis: size / voxels.shape[axis]):  # what shrinks most, first
        count, (start, stop) = voxels.shape[axis], boxes[axis]
        if (start, stop, count) == (0, count, size):
            continue
        weights = _weights(count, start, stop, size, padded=fit == "pad")
        voxels = np.moveaxis(np.tensordot(weights, voxels.astype(np.float32, copy=False), (1, axis)), 0, axis)
    if voxels.dtype == np.float32:
        voxels = np.rint(voxels).clip(0, white)
    return np.repeat(voxels.astype(pixel_type(white))[None], channels, axis=0)


def box_of(shape: Sequence[int], spacing: Sequence[float], fit: str) -> list[tuple[float, float]]:
    """Where along each axis, counted in its voxels, the cube begins and ends that `fit` makes of a volume.

    >>> box_of((10, 20, 20), (4.0, 1.0, 1.0), "crop"), box_of((4, 8, 8), (1.0, 1.0, 1.0), "pad")
    ([(2.5, 7.5), (0.0, 20.0), (0.0, 20.0)], [(-2.0, 6.0), (0.0, 8.0), (0.0, 8.0)])
    """
    if fit == "squash":
        return [(0.0, float(count)) for count in shape]
    sides = [count * width for count, width in zip(shape, spacing, strict=True)]
    side = min(sides) if fit == "crop" else max(sides)
    boxes = []
    for count, width in zip(shape, spacing, strict=True):
        length = side / width
        start = (count - length) / 2
        if is_isotropic(spacing):  # whole voxels, so that nothing is blurred by half of one
            start, length = math.trunc(start), round(length)
        boxes.append((float(start), float(start + length)))
    return boxes


def _weights(count: int, start: float, stop: float, size: int, *, padded: bool) -> np.ndarray:
    """How much each of `count` voxels gives to each of `size` new ones, `(size, count)` float32: a triangle filter.

    As Pillow's bilinear filter: as wide as a new voxel, or an old one if that is wider; only what lies in the box
    counts, and beyond the volume's ends it is black.
    """
    scale = (stop - start) / size
    first, last = math.floor(start + 1e-6), math.ceil(stop - 1e-6)
    if not padded:
        first, last = max(first, 0), min(last, count)
    centres = start + (np.arange(size) + 0.5) * scale
    old = np.arange(first, last)
    weights = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - (old + 0.5)) / max(1.0, scale))
    weights /= weights.sum(axis=1, keepdims=True)
    result = np.zeros((size, count), np.float32)
    inside = (old >= 0) & (old < count)
    result[:, old[inside]] = weights[:, inside]
    return result
