"""Embolism phantoms with their vessels and clots as masks: a segmentation of volumes without a download."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transfuse.data.cache import key_of, mask_file, pixel_file, remembered, write_pixels
from transfuse.data.embolism import embolism_phantom
from transfuse.data.masks import BACKGROUND
from transfuse.data.phantoms import PHANTOMS, phantom_ids
from transfuse.data.records import Records
from transfuse.data.volumes import OF_A_VOLUME, Volume

NAME = "embolism-vessels"
CLASSES = (BACKGROUND, "blood", "clot")
DEFAULT_COUNT = 200


@dataclass(frozen=True)
class VesselVolumes:
    """The recipe of a set of phantoms: its volumes, or its masks."""

    count: int
    size: int
    seed: int
    masks: bool = False

    def volumes(self) -> Iterator[Volume]:
        """The volumes, or the masks of 0, 1 and 2, in order."""
        for image, mask in _drawn(self.count, self.size, self.seed):
            yield Volume(mask if self.masks else image[0])


def read_vessel_volumes(*, count: int | None, size: int, seed: int, recipe: str, cache: Path) -> Records:
    """The volumes of `embolism-phantom` with blood and clots as masks, drawn on the first call and remembered.

    A voxel is of a vessel where that covers more than half of it, and there of a clot where a clot does; so the finest
    vessels are no part of the mask at a size at which they are thinner than that. Every second volume has no clot.

    Raises:
        DataError: a size or seed that the phantom cannot be drawn at.
    """
    count = count or DEFAULT_COUNT
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    store = cache / f"phantom-{key_of(NAME, count, size, seed, recipe, own)}.npz"
    facts = remembered(store, lambda: _render(count, size, seed, cache))
    patients, samples = phantom_ids("embolism-phantom", list(range(count)))
    return Records(
        name=NAME,
        task="segmentation",
        classes=CLASSES,
        targets=facts["present"],
        sample_ids=samples,
        patient_ids=patients,
        images=VesselVolumes(count, size, seed),
        image_hashes=tuple(map(str, facts["hashes"])),
        channels=1,
        source=f"synthetic volumes of vessels with blood and clots, drawn by transfuse: no real patient (seed {seed})",
        licence=PHANTOMS["embolism-phantom"].licence,
        synthetic=True,
        masks=VesselVolumes(count, size, seed, masks=True),
        mask_hashes=tuple(map(str, facts["mask_hashes"])),
        spatial_dims=3,
        values=OF_A_VOLUME,
    )


def _drawn(count: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for index in range(count):
        phantom = embolism_phantom(index, size=size, seed=seed)
        yield phantom.image, (phantom.vessels > 127) * (1 + (phantom.mask > 127)).astype(np.uint8)


def _render(count: int, size: int, seed: int, cache: Path) -> dict[str, np.ndarray]:
    """Draw volumes and masks into their files; what a data set says of them."""
    hashes: list[str] = []
    masks: list[np.ndarray] = []

    def draw() -> Iterator[np.ndarray]:
        for image, mask in _drawn(count, size, seed):
            hashes.append(hashlib.sha256(np.ascontiguousarray(image).data).hexdigest())
            masks.append(mask)
            yield image

    draft = cache / f"drawing-{key_of(NAME, count, size, seed)}.npy"  # its final name follows from the hashes
    write_pixels(draft, (count, 1, size, size, size), np.dtype(np.uint8), draw())
    os.replace(draft, pixel_file(cache, hashes, size, 1, f"crop{OF_A_VOLUME}", 255))
    mask_hashes = [hashlib.sha256(mask.data).hexdigest() for mask in masks]
    path = mask_file(cache, mask_hashes, (size, size, size), "crop", len(CLASSES))
    write_pixels(path, (count, size, size, size), np.dtype(np.uint8), masks)
    present = [[float((mask == k).any()) for k in range(len(CLASSES))] for mask in masks]
    return {
        "present": np.array(present, np.float32),
        "hashes": np.array(hashes),
        "mask_hashes": np.array(mask_hashes),
    }
