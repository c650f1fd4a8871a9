"""How much of a map lies where it should: inside a mask of the lesions, against what chance would give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from transfuse.errors import AnalysisError

__all__ = ["MassInside", "mass_inside"]


@dataclass(frozen=True)
class MassInside:
    """How much of each image's map lies inside its mask.

    Args:
        shares: (K,) in [0, 1], of the images that have both.
        chance: (K,) the mask's share of the image's area: what an even map would give.
        images: (K,) their numbers among the N images.
        empty_masks: images left out because nothing is marked in them.
        zero_maps: images with a mask that were left out because their map is 0 everywhere.
    """

    shares: np.ndarray
    chance: np.ndarray
    images: np.ndarray
    empty_masks: int
    zero_maps: int

    @property
    def value(self) -> float:
        """The mean share."""
        return float(self.shares.mean())

    @property
    def level(self) -> float:
        """The mean of `chance`, to be read beside `value`."""
        return float(self.chance.mean())

    def __float__(self) -> float:
        return self.value


def mass_inside(maps: Tensor | np.ndarray, masks: Tensor | np.ndarray) -> MassInside:
    """The share of each map's mass that lies inside a mask: sum(map * mask) / sum(map).

    Args:
        maps: (N, H, W) or (N, D, H, W), at least 0, as `gradcam` returns them.
        masks: the same shape: bool or 0 and 1, or the share of a pixel that is covered, in [0, 1] (as
            `transfuse.data.phantoms.phantom_masks` gives it).

    Images with an empty mask or a map of zeros have no share: they are left out and counted.

    Raises AnalysisError for shapes that differ, values out of range or not finite, and where no image is left.

    >>> found = mass_inside(np.array([[[3.0, 1.0]], [[0.0, 0.0]]]), np.array([[[1, 0]], [[1, 0]]]))
    >>> found.value, found.level, found.zero_maps
    (0.75, 0.5, 1)
    """
    maps, masks = _numbers(maps), _numbers(masks)
    if maps.shape != masks.shape or maps.ndim < 3 or not maps.size:
        raise AnalysisError(f"maps of shape {maps.shape} and masks of shape {masks.shape}: expected the same (N, H, W)")
    for name, values, most in (("maps", maps, math.inf), ("masks", masks, 1.0)):
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > most:
            raise AnalysisError(
                f"{name} range from {values.min():.4g} to {values.max():.4g}: expected finite values "
                + ("of at least 0" if most > 1 else "in [0, 1]; of a mask of bytes take mask > 127 or mask / 255")
            )
    axes = tuple(range(1, maps.ndim))
    mass, area = maps.sum(axes), masks.mean(axes)
    empty, flat = area == 0, (area > 0) & (mass == 0)
    kept = np.flatnonzero(~empty & ~flat)
    if not len(kept):
        raise AnalysisError(
            f"none of {len(maps)} images has a share of its mass inside: {int(empty.sum())} masks are empty, and "
            f"{int(flat.sum())} maps of the others are 0 everywhere. Take images with lesions, or another target"
        )
    shares = (maps * masks).sum(axes)[kept] / mass[kept]
    return MassInside(shares, area[kept], kept, int(empty.sum()), int(flat.sum()))


def _numbers(values: Tensor | np.ndarray) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
