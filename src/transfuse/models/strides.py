"""How much smaller than its images a network's smallest maps are, and which sides of images that suits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from torch import nn

from transfuse.errors import BlocksError
from transfuse.models.weightless import example_images, run_weightless, trace_modules


def strides_of(model: nn.Module, image_size: int | tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The total stride of a network along each axis of its images: of its smallest map of features.

    Args:
        model: a network of images or volumes.
        image_size: at which to look; default: as `example_images`.

    Raises:
        BlocksError: the network does not run at this size.

    >>> strides_of(nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(4, 4, 1, stride=2)))
    (2, 4, 4)
    """
    images = example_images(model, image_size)
    sides, dims = tuple(images.shape[2:]), images.ndim
    shapes = [call.shape_out[2:] for call in trace_modules(model, images).values() if len(call.shape_out) == dims]
    maps = [shape for shape in shapes if max(shape) > 1]  # a global pooling takes images of any size to one value
    return tuple(max([1, *(round(side / one[axis]) for one in maps if one[axis])]) for axis, side in enumerate(sides))


def nearest_sides(model: nn.Module, wanted: Sequence[int], strides: Sequence[int], most: int) -> tuple[int, ...] | None:
    """The sides nearest to those that are wanted that are multiples of the strides and pass through the network.

    Args:
        model: a network of images or volumes.
        wanted: one side for each axis; where all are equal, those that are found are equal too.
        strides: along each axis.
        most: the largest side.

    Returns:
        The wanted ones, if they will do; None where no others do.

    >>> nearest_sides(nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(4)), (13, 5), (4, 4), 64)
    (12, 8)
    """
    multiples = [
        sorted(range(stride, most + 1, stride), key=lambda side: (abs(side - own), -side))[:_TRIED]
        for own, stride in _axes(wanted, strides)
    ]
    choices = [(side,) * len(wanted) for side in multiples[0]] if len(multiples) == 1 else list(product(*multiples))
    far = [sum(abs(side - own) for side, own in zip(sides, wanted, strict=True)) for sides in choices]
    for _, sides in sorted(zip(far, choices, strict=True), key=lambda one: one[0]):
        try:
            run_weightless(model, example_images(model, sides))
        except BlocksError:
            continue
        return sides
    return None


_TRIED = 3
"""So many multiples of each stride are tried, the nearest first."""


def _axes(wanted: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """The side and the stride of each axis; of one that stands for all, where all sides are equal."""
    if len(set(wanted)) == 1:
        return [(wanted[0], math.lcm(*strides))]
    return list(zip(wanted, strides, strict=True))
