"""Drawing on small arrays in plain numpy: what all phantoms are painted with.

Everything is described in units of the picture and rasterised by *area*: a thing smaller than a pixel adds its share
of that pixel and is never enlarged, so the same scene at two sizes differs only by resolution.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from transfuse.errors import DataError

SMALLEST, LARGEST = 32, 587  # pixels; 587 is the size of T (Raghu et al. 2019), section 2


def stream(seed: int, kind: int, *numbers: int) -> np.random.Generator:
    """An independent generator for (seed, kind, numbers): the only source of chance in the phantoms."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, kind, *numbers])))


def check_request(index: int, size: int, seed: int) -> None:
    """Refuse an index, size or seed that no phantom has.

    Raises:
        DataError: not whole numbers, a negative index or seed, or a size outside 32 to 587 px.
    """
    for name, value in (("index", index), ("size", size), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise DataError(f"A phantom's {name} is a whole number, not {value!r}: pass an int.")
    if index < 0:
        raise DataError(f"Phantom index {index} is negative: phantoms are numbered from 0 upwards, without an end.")
    if seed < 0:
        raise DataError(f"Phantom seed {seed} is negative: use 0 or any larger whole number.")
    if not SMALLEST <= size <= LARGEST:
        raise DataError(
            f"Phantoms are drawn at {SMALLEST} to {LARGEST} px, not at {size} px: ask for "
            f"size={min(max(size, SMALLEST), LARGEST)} and resize the images if you need another size."
        )


@lru_cache(maxsize=8)
def pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres (1, size) and (size, 1) in picture units: -1 to 1, x to the right, y downwards; read-only."""
    centres = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    centres.flags.writeable = False
    return centres[None, :], centres[:, None]


@lru_cache(maxsize=64)
def cosines(cells: int, size: int) -> np.ndarray:
    """The first `cells` cosine waves over `size` pixels, (size, cells), damped towards the short waves."""
    position = (np.arange(size) + 0.5) / size
    order = np.arange(cells)
    height = 1.0 / (1.0 + 2.0 * order / cells)
    power = (height[1:] ** 2).sum() / 2.0 + 1.0
    return (np.cos(np.pi * position[:, None] * order) * height / np.sqrt(power)).astype(np.float32)


def smooth_field(rng: np.random.Generator, cells: int, size: int, *, fields: int = 1) -> np.ndarray:
    """Random smooth fields (fields, size, size) of about unit variance with `cells` half-waves across the picture.

    The same generator state gives the same field at every size.
    """
    waves = rng.standard_normal((fields, cells, cells), dtype=np.float32)
    waves[:, 0, 0] = 0.0  # no offset: a field only redistributes
    basis = cosines(cells, size)
    return np.matmul(np.matmul(basis, waves), basis.T)


def deposit(x: np.ndarray, y: np.ndarray, area: np.ndarray, layer: np.ndarray, size: int, layers: int) -> np.ndarray:
    """Coverage (layers, size, size), float32 in 0..1, of points that each bring `area` (in pixels²) to a layer.

    Points are shared between their four nearest pixels (bilinear); what lies off the canvas is lost; where points
    overlap the coverage saturates at 1. `x` and `y` are in pixels, 0 to size, y downwards.
    """
    padded = size + 2
    left, top = np.floor(x - 0.5), np.floor(y - 0.5)
    right_share, lower_share = x - 0.5 - left, y - 0.5 - top
    inside = (left >= -1) & (left < size) & (top >= -1) & (top < size)
    area = np.where(inside, area, 0.0)
    corner = np.where(inside, (top + 1) * padded + left + 1, 0).astype(np.int64) + layer * (padded * padded)
    lower, right = area * lower_share, right_share
    upper = area - lower
    cover = np.bincount(
        np.concatenate([corner, corner + 1, corner + padded, corner + padded + 1]),
        np.concatenate([upper * (1 - right), upper * right, lower * (1 - right), lower * right]),
        minlength=layers * padded * padded,
    )[: layers * padded * padded]
    cover = cover.reshape(layers, padded, padded)[:, 1:-1, 1:-1]
    return np.minimum(cover, 1.0).astype(np.float32)


def polygon_coverage(vertices: np.ndarray, size: int, *, scanlines: int = 4) -> np.ndarray:
    """Coverage (size, size), float32 in 0..1, of a closed polygon (n, 2) in picture units (-1 to 1).

    Signed-area scan conversion: exact along x, `scanlines` samples a pixel along y; winding number 0 is outside.

    >>> square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    >>> float(polygon_coverage(square, 32).mean())  # a quarter of the picture
    0.25
    """
    points = (vertices + 1.0) * (size / 2.0)
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    lines = (np.arange(size * scanlines) + 0.5) / scanlines
    first = np.searchsorted(lines, np.minimum(y0, y1))  # the lines that each edge crosses are consecutive
    count = np.searchsorted(lines, np.maximum(y0, y1)) - first
    edge = np.repeat(np.arange(len(points)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (x1 - x0) / np.where(y1 == y0, 1.0, y1 - y0)
    crossing = np.clip(x0[edge] + (lines[line] - y0[edge]) * slope[edge], 0.0, size)
    direction = np.where(y1 > y0, 1.0, -1.0)[edge] / scanlines
    column = np.minimum(crossing.astype(np.int64), size - 1)
    share = crossing - column
    place = (line // scanlines) * (size + 1) + column
    steps = np.bincount(
        np.concatenate([place, place + 1]),
        np.concatenate([direction * (1.0 - share), direction * share]),
        minlength=size * (size + 1),
    )
    winding = np.cumsum(steps.reshape(size, size + 1), axis=1)[:, :size]
    return np.minimum(np.abs(winding), 1.0).astype(np.float32)


def ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """One colour (3,) in 0..1 from hue, saturation and value in 0..1 (hue wraps around).

    >>> rgb(0.0, 1.0, 1.0).tolist()
    [1.0, 0.0, 0.0]
    """
    position = (np.array([5.0, 3.0, 1.0]) + hue * 6.0) % 6.0
    return value - value * saturation * np.clip(np.minimum(position, 4.0 - position), 0.0, 1.0)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """A float image in 0..1 as uint8, rounded."""
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
