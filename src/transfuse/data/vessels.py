"""The fundus phantoms with masks of their vessels: drawn by one program, so that every vessel's place is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from transfuse.data.drawn_masks import DrawnWithMasks
from transfuse.data.fundus import fundus_phantom
from transfuse.data.masks import BACKGROUND


@dataclass(frozen=True)
class VesselPhantoms:
    """The recipe of a set of phantoms: its images, or its masks."""

    count: int
    size: int
    seed: int
    masks: bool = False

    def arrays(self) -> Iterator[np.ndarray]:
        """The images `(size, size, 3)`, or the masks `(size, size)` of 0 and 1, in order."""
        for image, mask in draw_vessels(self.count, self.size, self.seed):
            yield mask if self.masks else image.transpose(1, 2, 0)


def draw_vessels(count: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images `(3, size, size)` of `fundus-phantom` with their vessels as masks `(size, size)` of 0 and 1.

    A pixel is of the class where a vessel covers more than half of it; so the finest vessels are no part of the mask at
    a size at which they are thinner than that.
    """
    for index in range(count):
        phantom = fundus_phantom(index, size=size, seed=seed)
        yield phantom.image, (phantom.masks["vessels"] > 127).astype(np.uint8)


VESSELS = DrawnWithMasks(
    name="fundus-vessels",
    phantom="fundus-phantom",
    classes=(BACKGROUND, "vessel"),
    count=400,
    draw=draw_vessels,
    recipe=VesselPhantoms,
    what="synthetic fundus photographs with their vessels",
)
