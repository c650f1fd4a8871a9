"""Embolism phantoms with their vessels and clots as masks: a segmentation of volumes without a download."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from transfuse.data.drawn_masks import DrawnWithMasks
from transfuse.data.embolism import embolism_phantom
from transfuse.data.masks import BACKGROUND
from transfuse.data.volumes import Volume


@dataclass(frozen=True)
class VesselVolumes:
    """The recipe of a set of phantoms: its volumes, or its masks."""

    count: int
    size: int
    seed: int
    masks: bool = False

    def volumes(self) -> Iterator[Volume]:
        """The volumes, or the masks of 0, 1 and 2, in order."""
        for image, mask in draw_vessel_volumes(self.count, self.size, self.seed):
            yield Volume(mask if self.masks else image[0])


def draw_vessel_volumes(count: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The volumes `(1, size, size, size)` of `embolism-phantom` with blood (1) and clots (2) as masks, cubes too.

    A voxel is of a vessel where that covers more than half of it, and there of a clot where a clot does; so the finest
    vessels are no part of the mask at a size at which they are thinner than that. Every second volume has no clot.
    """
    for index in range(count):
        phantom = embolism_phantom(index, size=size, seed=seed)
        yield phantom.image, (phantom.vessels > 127) * (1 + (phantom.mask > 127)).astype(np.uint8)


VESSEL_VOLUMES = DrawnWithMasks(
    name="embolism-vessels",
    phantom="embolism-phantom",
    classes=(BACKGROUND, "blood", "clot"),
    count=200,
    draw=draw_vessel_volumes,
    recipe=VesselVolumes,
    what="synthetic volumes of vessels with blood and clots",
)
