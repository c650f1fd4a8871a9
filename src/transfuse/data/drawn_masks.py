"""Phantoms that are drawn with their masks: both rendered once, straight into the cache, as a segmentation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transfuse.data.cache import key_of, mask_file, pixel_file, remembered, write_pixels
from transfuse.data.phantoms import PHANTOMS, phantom_ids
from transfuse.data.records import ImageSource, Records
from transfuse.data.volumes import OF_A_VOLUME, VolumeSource

Draw = Callable[[int, int, int], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Draws (count, size, seed) phantoms: images `(C, ...)` uint8 with masks `(...)` uint8, class indices, in order."""


@dataclass(frozen=True)
class DrawnWithMasks:
    """A set of phantoms with masks.

    Attributes:
        name: of the set.
        phantom: the name in `PHANTOMS` of the images alone.
        classes: of the masks, the background first.
        count: how many are drawn where nothing is said.
        draw: draws them.
        recipe: makes of (count, size, seed, masks) the source of the images, or of the masks.
        what: they are, for the record.
    """

    name: str
    phantom: str
    classes: tuple[str, ...]
    count: int
    draw: Draw
    recipe: Callable[[int, int, int, bool], ImageSource | VolumeSource]
    what: str


def read_drawn(drawn: DrawnWithMasks, *, count: int | None, size: int, seed: int, code: str, cache: Path) -> Records:
    """A set of phantoms with masks, drawn on the first call and remembered.

    Args:
        drawn: which.
        count: how many; None: as many as the set says.
        size: pixels or voxels a side.
        seed: of the draws.
        code: a hash of the code that draws, so that phantoms of other code are drawn again.
        cache: folder of the cache.

    Raises:
        DataError: a size or seed that the phantom cannot be drawn at.
    """
    count, phantom = count or drawn.count, PHANTOMS[drawn.phantom]
    store = cache / f"phantom-{key_of(drawn.name, count, size, seed, code)}.npz"
    facts = remembered(store, lambda: _render(drawn, count, size, seed, cache))
    patients, samples = phantom_ids(drawn.phantom, list(range(count)))
    return Records(
        name=drawn.name,
        task="segmentation",
        classes=drawn.classes,
        targets=facts["present"],
        sample_ids=samples,
        patient_ids=patients,
        images=drawn.recipe(count, size, seed, False),
        image_hashes=tuple(map(str, facts["hashes"])),
        channels=phantom.channels,
        source=f"{drawn.what}, drawn by transfuse: no real patient (seed {seed})",
        licence=phantom.licence,
        synthetic=True,
        masks=drawn.recipe(count, size, seed, True),
        mask_hashes=tuple(map(str, facts["mask_hashes"])),
        spatial_dims=phantom.spatial_dims,
        values=OF_A_VOLUME if phantom.spatial_dims == 3 else "",
    )


def _render(drawn: DrawnWithMasks, count: int, size: int, seed: int, cache: Path) -> dict[str, np.ndarray]:
    """Draw images and masks into their files; what a data set says of them."""
    phantom, hashes, masks = PHANTOMS[drawn.phantom], list[str](), list[np.ndarray]()
    sides = (size,) * phantom.spatial_dims

    def draw() -> Iterator[np.ndarray]:
        for image, mask in drawn.draw(count, size, seed):
            hashes.append(hashlib.sha256(np.ascontiguousarray(image).data).hexdigest())
            masks.append(mask)
            yield image

    draft = cache / f"drawing-{key_of(drawn.name, count, size, seed)}.npy"  # its final name follows from the hashes
    write_pixels(draft, (count, phantom.channels, *sides), np.dtype(np.uint8), draw())
    fit = "crop" + (OF_A_VOLUME if phantom.spatial_dims == 3 else "")
    os.replace(draft, pixel_file(cache, hashes, size, phantom.channels, fit, 255))
    mask_hashes = [hashlib.sha256(mask.data).hexdigest() for mask in masks]
    path = mask_file(cache, mask_hashes, sides, "crop", len(drawn.classes))
    write_pixels(path, (count, *sides), np.dtype(np.uint8), masks)
    present = [[float((mask == k).any()) for k in range(len(drawn.classes))] for mask in masks]
    return {
        "present": np.array(present, np.float32),
        "hashes": np.array(hashes),
        "mask_hashes": np.array(mask_hashes),
    }
