"""Patches of volumes: boxes of voxels that a network is trained on, cut out at random with their masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transfuse.errors import DataError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from transfuse.data.dataset import Dataset

Sides = tuple[int, int, int]


@dataclass(frozen=True)
class Patches:
    """Patches of one size.

    Args:
        sides: of a patch in voxels, (D, H, W), or one number for all three.
        foreground: so large a share of patches lie around a voxel of a class, the others anywhere. Such a patch has a
            class of the volume's mask other than the background, each as likely as another, and a voxel of it, each as
            likely as another, in its middle, or as near to it as the volume's borders allow.

    Raises:
        DataError: sides or a share that cannot be meant.

    >>> Patches(32).sides, Patches((16, 32, 32)).foreground
    ((32, 32, 32), 0.5)
    """

    sides: int | Sides
    foreground: float = 0.5

    def __post_init__(self) -> None:
        sides = (self.sides,) * 3 if isinstance(self.sides, int) else tuple(self.sides)
        if len(sides) != 3 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides):
            raise DataError(f"A patch of {self.sides!r}: expected one side or (D, H, W), whole numbers of at least 1")
        if not 0 <= self.foreground <= 1:
            raise DataError(f"The share of patches around a class is {self.foreground}; expected 0 to 1, such as 0.5")
        object.__setattr__(self, "sides", sides)

    @property
    def box(self) -> Sides:
        """The sides (D, H, W)."""
        assert not isinstance(self.sides, int)  # one number became three
        return self.sides

    def __str__(self) -> str:
        return " x ".join(map(str, self.box))

    def drawn(self, volumes: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """A patch of each volume, and the same box of its mask.

        Args:
            volumes: (n, C, D, H, W).
            masks: (n, D, H, W), class indices.
            generator: of the places; patch i is a function of its state and of i, whatever the volumes are, but for
                those around a class, which the mask decides too.

        Returns:
            (n, C, d, h, w) and (n, d, h, w), copies.
        """
        import torch

        numbers = torch.rand((len(volumes), 6), generator=generator, dtype=torch.float64, device=generator.device)
        pairs = []
        for volume, mask, row in zip(volumes, masks, numbers.tolist(), strict=True):
            room = [side - own for side, own in zip(mask.shape, self.box, strict=True)]
            corner = [_pick(left + 1, number) for left, number in zip(room, row[:3], strict=True)]
            classes = _classes_of(mask) if row[3] < self.foreground else []
            if classes:  # an empty mask has no class to lie around
                voxels = (mask == classes[_pick(len(classes), row[4])]).nonzero()
                middle = voxels[_pick(len(voxels), row[5])].tolist()
                corner = [
                    min(max(place - own // 2, 0), left) for place, own, left in zip(middle, self.box, room, strict=True)
                ]
            box = tuple(slice(start, start + own) for start, own in zip(corner, self.box, strict=True))
            pairs.append((volume[(slice(None), *box)], mask[box]))
        return torch.stack([patch for patch, _ in pairs]), torch.stack([mask for _, mask in pairs])


def _classes_of(mask: Tensor) -> list[int]:
    """The classes of a mask but the background, ascending; counted, as `unique` would sort all voxels."""
    present: list[int] = mask.flatten().bincount().nonzero().flatten().tolist()
    return [number for number in present if number > 0]


def _pick(count: int, number: float) -> int:
    """One of so many, by a number in [0, 1)."""
    return min(math.floor(number * count), count - 1)


def check_patches(patches: Patches, dataset: Dataset) -> None:
    """Refuse patches of data that have none, and patches that are larger than the volumes.

    Raises:
        DataError: why, and the cure.
    """
    info = dataset.info
    if info.spatial_dims != 3:
        raise DataError(f"Patches are of volumes, and {info.name} holds images; leave the patch out")
    if info.task != "segmentation":
        raise DataError(
            f"Patches are for masks, of which each patch has its part; a label of {info.name} is of a whole volume, "
            "and a patch may not show what it is for. Leave the patch out"
        )
    if max(patches.box) > dataset.size:
        raise DataError(
            f"A patch of {patches} voxels is larger than the volumes of {info.name} as delivered: expected at most "
            f"{dataset.size} a side, or larger volumes (data.size)"
        )
