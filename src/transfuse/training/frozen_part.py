"""A part of the data as the features that a network's frozen blocks make of its images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from transfuse.data.splits import Part


class FrozenPart(Part):
    """A part of the data whose images have gone through frozen blocks: `tensors` are features (n, ...), float32.

    Together with a network within `models.prefix.going_on_from` it stands for the part and the network:

        with going_on_from(model, cut):
            scores = predict(model, FrozenPart(part, stored, compute))

    Args:
        part: the images.
        stored: the features of all of them (N, ...), in a memory map, or of all their views one after
            the other (views x N, ...); None: they are computed each time.
        compute: the features at some places of what would be stored.
    """

    def __init__(self, part: Part, stored: np.ndarray | None, compute: Callable[[np.ndarray], Tensor]) -> None:
        super().__init__(part.dataset, part.indices)
        self.stored, self._compute = stored, compute

    def tensors(self, positions: np.ndarray) -> Tensor:
        """Features `(n, ...)`, float32; `positions` count within this part (view by view), any order."""
        if self.stored is None:
            return self._compute(positions)
        return torch.from_numpy(self.stored[positions])

    def normalise(self, images: Tensor) -> Tensor:
        """Features as they are."""
        return images

    def views(self, positions: np.ndarray, views: np.ndarray, augmentation: object) -> Tensor:
        """Features `(n, ...)` of one of the fixed augmented views of each image."""
        return self.tensors(views * len(self) + positions)
