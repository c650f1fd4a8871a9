"""The fundus phantoms with masks of their vessels: drawn by one program, so that every vessel's place is known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transfuse.data.cache import key_of, mask_file, pixel_file, remembered, write_pixels
from transfuse.data.fundus import fundus_phantom
from transfuse.data.masks import BACKGROUND
from transfuse.data.phantoms import PHANTOMS, phantom_ids
from transfuse.data.records import Records

NAME = "fundus-vessels"
CLASSES = (BACKGROUND, "vessel")
DEFAULT_COUNT = 400


@dataclass(frozen=True)
class VesselPhantoms:
    """The recipe of a set of phantoms: its images, or its masks."""

    count: int
    size: int
    seed: int
    masks: bool = False

    def arrays(self) -> Iterator[np.ndarray]:
        """The images `(size, size, 3)`, or the masks `(size, size)` of 0 and 1, in order."""
        for image, mask in _drawn(self.count, self.size, self.seed):
            yield mask if self.masks else image.transpose(1, 2, 0)


def read_vessels(*, count: int | None, size: int, seed: int, recipe: str, cache: Path) -> Records:
    """The images of `fundus-phantom` with their vessels as masks, drawn on the first call and remembered.

    A pixel is of the class where a vessel covers more than half of it; so the finest vessels are no part of the mask at
    a size at which they are thinner than that.

    Raises:
        DataError: a size or seed that the phantom cannot be drawn at.
    """
    count = count or DEFAULT_COUNT
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    store = cache / f"phantom-{key_of(NAME, count, size, seed, recipe, own)}.npz"
    facts = remembered(store, lambda: _render(count, size, seed, cache))
    patients, samples = phantom_ids("fundus-phantom", list(range(count)))
    shown = PHANTOMS["fundus-phantom"]
    return Records(
        name=NAME,
        task="segmentation",
        classes=CLASSES,
        targets=facts["present"],
        sample_ids=samples,
        patient_ids=patients,
        images=VesselPhantoms(count, size, seed),
        image_hashes=tuple(map(str, facts["hashes"])),
        channels=3,
        source=f"synthetic fundus photographs with their vessels, drawn by transfuse: no real patient (seed {seed})",
        licence=shown.licence,
        synthetic=True,
        masks=VesselPhantoms(count, size, seed, masks=True),
        mask_hashes=tuple(map(str, facts["mask_hashes"])),
    )


def _drawn(count: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for index in range(count):
        phantom = fundus_phantom(index, size=size, seed=seed)
        yield phantom.image, (phantom.masks["vessels"] > 127).astype(np.uint8)


def _render(count: int, size: int, seed: int, cache: Path) -> dict[str, np.ndarray]:
    """Draw images and masks into their files; what a data set says of them."""
    hashes: list[str] = []
    masks: list[np.ndarray] = []

    def draw() -> Iterator[np.ndarray]:
        for image, mask in _drawn(count, size, seed):
            hashes.append(hashlib.sha256(np.ascontiguousarray(image).data).hexdigest())
            masks.append(mask)
            yield image

    draft = cache / f"drawing-{key_of(NAME, count, size, seed)}.npy"  # its final name follows from the hashes
    write_pixels(draft, (count, 3, size, size), np.dtype(np.uint8), draw())
    os.replace(draft, pixel_file(cache, hashes, size, 3, "crop", 255))
    mask_hashes = [hashlib.sha256(mask.data).hexdigest() for mask in masks]
    path = mask_file(cache, mask_hashes, (size, size), "crop", len(CLASSES))
    write_pixels(path, (count, size, size), np.dtype(np.uint8), masks)
    present = [[float((mask == k).any()) for k in range(len(CLASSES))] for mask in masks]
    return {
        "present": np.array(present, np.float32),
        "hashes": np.array(hashes),
        "mask_hashes": np.array(mask_hashes),
    }
