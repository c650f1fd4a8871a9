"""A tree of vessels in three dimensions: grown, and rasterised into volumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transfuse.data.canvas import cosines

GENERATIONS = 4
_TRUNK = (0.2, 0.26)  # radius, in half sides of the cube
_LENGTHS = (0.8, 0.65, 0.5, 0.4)


@dataclass(frozen=True)
class VesselTree:
    """Straight vessels; lengths are in half sides of the cube, which reaches from -1 to 1 along (D, H, W).

    Attributes:
        start, end: (n, 3).
        radius: (n,).
        generation: (n,) 0 for the trunk.
    """

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    generation: np.ndarray

    def coverage(self, size: int) -> np.ndarray:
        """How much of each voxel lies in a vessel, (size, size, size) float32 in 0..1; each is drawn in its own box."""
        cover = np.zeros((size,) * 3, np.float32)
        half = size / 2  # voxels a unit
        for start, end, radius in zip(self.start, self.end, self.radius, strict=True):
            box, (z, y, x) = box_of_voxels(
                np.minimum(start, end) - radius, np.maximum(start, end) + radius, start, size
            )
            way = (end - start).astype(np.float32)
            share = ((z * way[0] + y * way[1] + x * way[2]) / (way @ way)).clip(0, 1)
            away = np.sqrt((z - share * way[0]) ** 2 + (y - share * way[1]) ** 2 + (x - share * way[2]) ** 2)
            thin = min(1.0, (2 * radius * half) ** 2)  # a vessel thinner than a voxel fills a part of it
            np.maximum(cover[box], thin * np.clip((radius - away) * half + 0.5, 0, 1), out=cover[box])
        return cover


def grow_tree(rng: np.random.Generator) -> VesselTree:
    """A trunk from somewhere at the edge towards the middle that branches in two, three times.

    Radii follow Murray's law: the cubes of those of two branches add up to the cube of their parent's.
    """
    direction = _unit(rng.standard_normal(3))
    start = -0.95 * direction + rng.uniform(-0.15, 0.15, 3)
    tips = [(start, direction, rng.uniform(*_TRUNK))]
    rows: list[tuple[np.ndarray, np.ndarray, float, int]] = []
    for generation in range(GENERATIONS):
        grown = []
        for begin, course, radius in tips:
            end = begin + course * _LENGTHS[generation] * rng.uniform(0.85, 1.15)
            rows.append((begin, end, radius, generation))
            aside = _unit(np.cross(course, rng.standard_normal(3)))
            share = rng.uniform(0.35, 0.65)
            for sign, part in ((1, share), (-1, 1 - share)):
                angle = rng.uniform(0.4, 0.85)
                grown.append((end, np.cos(angle) * course + sign * np.sin(angle) * aside, radius * part ** (1 / 3)))
        tips = grown
    begins, ends, radii, generations = zip(*rows, strict=True)
    return VesselTree(np.array(begins), np.array(ends), np.array(radii), np.array(generations))


def box_of_voxels(
    low: np.ndarray, high: np.ndarray, origin: np.ndarray, size: int
) -> tuple[tuple[slice, ...], tuple[np.ndarray, ...]]:
    """The part of a volume that holds a box of space, and the places of its voxels from an origin, along each axis.

    Args:
        low, high: (3,) corners of the box, in half sides of the cube.
        origin: (3,).
        size: voxels a side.
    """
    first = np.floor((low + 1) * size / 2 - 1).clip(0, size).astype(int)
    last = np.ceil((high + 1) * size / 2 + 1).clip(0, size).astype(int)
    places = [
        (np.arange(a, b, dtype=np.float32) + 0.5) * np.float32(2 / size) - np.float32(1 + centre)
        for a, b, centre in zip(first, last, origin, strict=True)
    ]
    return tuple(slice(a, b) for a, b in zip(first, last, strict=True)), np.ix_(*places)


def smooth_volume(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """A random smooth field (size, size, size), float32, of about unit variance with `cells` half-waves a side.

    The same generator state gives the same field at every size.
    """
    waves = rng.standard_normal((cells, cells, cells), dtype=np.float32)
    waves[0, 0, 0] = 0.0
    basis = cosines(cells, size)
    for axis in range(3):
        waves = np.moveaxis(np.tensordot(basis, waves, (1, axis)), 0, axis)
    return waves


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
