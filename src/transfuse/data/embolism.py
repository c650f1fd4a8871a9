"""Embolism phantoms: synthetic contrast-enhanced volumes of a vessel tree, with or without filling defects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transfuse.data.canvas import stream, to_bytes
from transfuse.data.natural import balanced_label
from transfuse.data.vessel_tree import VesselTree, box_of_voxels, grow_tree, smooth_volume
from transfuse.errors import DataError

EMBOLISM_CLASSES = ("no embolism", "embolism")
SMALLEST, LARGEST = 24, 128  # voxels a side

_ORDER, _TREE, _FINDINGS, _SCAN, _NOISE = 41, 42, 43, 44, 45  # streams


@dataclass(frozen=True)
class EmbolismPhantom:
    """One synthetic volume.

    Attributes:
        image: (1, size, size, size) uint8, grey.
        label: index into `EMBOLISM_CLASSES`.
        mask: share of each voxel that an embolus fills, 0 to 255, (size, size, size) uint8; zeros without any.
        emboli: how many.
        vessels: share of each voxel that lies in a vessel, be it blood or clot, 0 to 255, as `mask`.
    """

    image: np.ndarray
    label: int
    mask: np.ndarray
    emboli: int
    vessels: np.ndarray


def embolism_phantom(index: int, *, size: int = 32, seed: int = 0) -> EmbolismPhantom:
    """The synthetic volume number `index`: bright vessels that branch three times in dark lung, as in CT angiography.

    Where there is an embolism (every second, in random order), 2 to 4 grey clots lie inside the larger vessels, which
    close round them. All volumes have as grey nodes, 1 to 3, that touch vessels from outside: grey alone tells nothing,
    but grey within bright does. (seed, index) is the same scene at every size (24 to 128 voxels a side); noise is drawn
    at each.

    Raises:
        DataError: an impossible index, size or seed.

    >>> phantom = embolism_phantom(0)
    >>> phantom.image.shape, bool(phantom.mask.any()) == bool(phantom.label) == bool(phantom.emboli)
    ((1, 32, 32, 32), True)
    """
    check_volume(index, size, seed)
    label = embolism_label(index, seed=seed)
    tree = grow_tree(stream(seed, _TREE, index))
    rng = stream(seed, _FINDINGS, index)
    nodes = _ellipsoids(rng, tree, int(rng.integers(1, 4)), outside=True)
    emboli = _ellipsoids(rng, tree, int(rng.integers(2, 5)) if label else 0, outside=False)
    lumen, clot, node = tree.coverage(size), _coverage(emboli, size), _coverage(nodes, size)
    clot *= lumen

    scan = stream(seed, _SCAN, index)
    lung, blood, tissue = scan.uniform(0.1, 0.2), scan.uniform(0.65, 0.95), scan.uniform(0.36, 0.46)
    image = lung + 0.03 * smooth_volume(scan, 5, size)
    image += (tissue - image) * node
    image += (blood * (1 + 0.04 * smooth_volume(scan, 4, size)) - image) * lumen  # contrast agent mixes unevenly
    image += (tissue - image) * clot
    image += scan.uniform(0.02, 0.05) * stream(seed, _NOISE, index, size).standard_normal(image.shape, dtype=np.float32)
    return EmbolismPhantom(to_bytes(image)[None], label, to_bytes(clot), len(emboli.radius), to_bytes(lumen))


def embolism_label(index: int, *, seed: int = 0) -> int:
    """The class of `embolism_phantom(index, seed=seed)`, without drawing it."""
    check_volume(index, SMALLEST, seed)
    return balanced_label(index, len(EMBOLISM_CLASSES), seed, _ORDER)


def check_volume(index: int, size: int, seed: int) -> None:
    """Refuse an index, size or seed that no phantom of volumes has.

    Raises:
        DataError: not whole numbers, a negative index or seed, or a size outside 24 to 128 voxels.
    """
    for name, value in (("index", index), ("size", size), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise DataError(f"The {name} of a phantom is {value!r}: expected a whole number from 0.")
    if not SMALLEST <= size <= LARGEST:
        raise DataError(
            f"Phantoms of volumes are drawn at {SMALLEST} to {LARGEST} voxels a side, not at {size}: ask for "
            f"size={min(max(size, SMALLEST), LARGEST)}."
        )


@dataclass(frozen=True)
class _Ellipsoids:
    """Things `n` of round cross-section: centre (n, 3), axis (n, 3) of length 1, half length and radius (n,)."""

    centre: np.ndarray
    axis: np.ndarray
    length: np.ndarray
    radius: np.ndarray


def _ellipsoids(rng: np.random.Generator, tree: VesselTree, count: int, *, outside: bool) -> _Ellipsoids:
    """Grey things in the vessels of the first two generations, or beside them, of one distribution of sizes."""
    large = np.flatnonzero(tree.generation <= 1)
    chosen = rng.choice(large, count)
    along, width, length = rng.uniform(0.25, 0.75, count), rng.uniform(0.65, 0.85, count), rng.uniform(1.3, 2.5, count)
    axis = tree.end[chosen] - tree.start[chosen]
    centre = tree.start[chosen] + along[:, None] * axis
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    radius = width * tree.radius[chosen]
    if outside:
        aside = np.cross(axis, rng.standard_normal((count, 3)))
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        centre = centre + aside * (tree.radius[chosen] + 0.9 * radius)[:, None]
    return _Ellipsoids(centre, axis, length * radius, radius)


def _coverage(things: _Ellipsoids, size: int) -> np.ndarray:
    """How much of each voxel they fill, (size, size, size) float32 in 0..1."""
    cover = np.zeros((size,) * 3, np.float32)
    for centre, axis, length, radius in zip(things.centre, things.axis, things.length, things.radius, strict=True):
        reach = max(length, radius)
        box, (z, y, x) = box_of_voxels(centre - reach, centre + reach, centre, size)
        along = z * np.float32(axis[0]) + y * np.float32(axis[1]) + x * np.float32(axis[2])
        across = np.maximum(z**2 + y**2 + x**2 - along**2, 0)
        # About how deep below the surface.
        depth = np.float32(radius) * (1 - np.sqrt((along / np.float32(length)) ** 2 + across / np.float32(radius**2)))
        np.maximum(cover[box], np.clip(depth * (size / 2) + 0.5, 0, 1), out=cover[box])
    return cover
