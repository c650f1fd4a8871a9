"""Texture phantoms: a pair of synthetic tasks in which the same fine local texture carries the class.

A test bed with known truth: weights trained on the source must help on the target, and weights trained on the source
with permuted labels must not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transfuse.data.canvas import check_request, pixel_grid, rgb, smooth_field, stream, to_bytes
from transfuse.data.natural import balanced_label
from transfuse.errors import DataError, nearest

ROLES = ("source", "target")
ORIENTATIONS = 12  # of the fine stripes, in steps of 15 degrees: the classes of the source
SOURCE_CLASSES = tuple(f"stripes at {180 * number // ORIENTATIONS} degrees" for number in range(ORIENTATIONS))
TARGET_CLASSES = ("stripes at 0, 30, ... degrees", "stripes at 15, 45, ... degrees")

_ORDER, _SCENE, _NOISE = 31, 32, 33  # streams; the role is added as a number
_PERIOD = 0.10  # of the stripes, in picture widths


@dataclass(frozen=True)
class TexturePhantom:
    """One synthetic picture with patches of fine stripes.

    Attributes:
        image: (3, size, size) uint8, RGB.
        label: index into `SOURCE_CLASSES` or `TARGET_CLASSES`.
        orientation: number of the stripes' orientation, 0 to 11, in steps of 15 degrees.
    """

    image: np.ndarray
    label: int
    orientation: int


def texture_phantom(index: int, *, role: str, size: int = 64, seed: int = 0) -> TexturePhantom:
    """The synthetic picture number `index` of the source or the target of the pair of texture tasks.

    Both show a few round patches of fine stripes at random places. In the source they are strong, on coloured clouds,
    and their orientation is the class (12, balanced). In the target they are faint, on a round retina-like field with
    dark curves, and the class is whether the number of the orientation is even or odd (2, balanced): nothing but the
    fine texture tells it. (seed, role, index) is the same scene at every size (32 to 587 px).

    Raises:
        DataError: an unknown role, an impossible index, size or seed.

    >>> texture_phantom(0, role="target").label in (0, 1)
    True
    """
    check_request(index, size, seed)
    number, orientation = _orientation(index, role, seed)
    rng = stream(seed, _SCENE + 10 * number, index)
    patches = _patches(rng, orientation, size)
    if role == "source":
        image = _clouds(rng, size) * (1.0 + np.float32(rng.uniform(0.14, 0.24)) * patches)
    else:
        image = _field(rng, size, 1.0 + np.float32(rng.uniform(0.12, 0.2)) * patches)
    grain = stream(seed, _NOISE + 10 * number, index, size).standard_normal((3, size, size), dtype=np.float32)
    image += grain * np.float32(0.04)
    return TexturePhantom(to_bytes(image), _class(role, orientation), orientation)


def texture_label(index: int, *, role: str, seed: int = 0) -> int:
    """The class of `texture_phantom(index, role=role, seed=seed)`, without drawing it."""
    check_request(index, 64, seed)
    return _class(role, _orientation(index, role, seed)[1])


def _orientation(index: int, role: str, seed: int) -> tuple[int, int]:
    """The number of the role and that of the stripes' orientation."""
    if role not in ROLES:
        raise DataError(f"Texture phantoms have no role {role!r}; {nearest(role, ROLES)}")
    number = ROLES.index(role)
    return number, balanced_label(index, ORIENTATIONS, seed, _ORDER + 10 * number)


def _class(role: str, orientation: int) -> int:
    return orientation if role == "source" else orientation // 2 % 2


def _patches(rng: np.random.Generator, orientation: int, size: int) -> np.ndarray:
    """Fine stripes of one orientation in a few soft discs, (size, size) in -1 to 1."""
    right, down = pixel_grid(size)
    image = np.zeros((size, size), dtype=np.float32)
    for _ in range(int(rng.integers(3, 7))):
        angle = np.pi * (orientation + rng.uniform(-0.15, 0.15)) / ORIENTATIONS
        x, y = rng.uniform(-0.65, 0.65, 2)
        wave = 2 * np.pi / (2 * _PERIOD * rng.uniform(0.9, 1.1))
        along = np.float32(np.cos(angle)) * (right - np.float32(x)) + np.float32(np.sin(angle)) * (down - np.float32(y))
        window = np.exp(-(((right - x) ** 2 + (down - y) ** 2) / np.float32(2 * rng.uniform(0.13, 0.22) ** 2)))
        image += window.astype(np.float32) * np.sin(np.float32(wave) * along + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.clip(image, -1.0, 1.0)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    one, two = (rgb(rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.4, 0.9)) for _ in range(2))
    mix = np.clip(0.5 + 0.3 * smooth_field(rng, int(rng.integers(3, 8)), size)[0], 0.0, 1.0)
    return (one[:, None, None] + (two - one)[:, None, None] * mix).astype(np.float32)


def _field(rng: np.random.Generator, size: int, texture: np.ndarray) -> np.ndarray:
    """A round orange field with dark curves, times the texture."""
    right, down = pixel_grid(size)
    pale, dark = np.array([0.88, 0.50, 0.27]), np.array([0.64, 0.30, 0.155])
    colour = (pale + rng.random() * (dark - pale)).astype(np.float32)
    shade = 1.0 + 0.10 * smooth_field(rng, 4, size)[0] + 0.06 * smooth_field(rng, 10, size)[0]
    for _ in range(int(rng.integers(3, 7))):  # curves of the thickness of a vessel, at any angle
        turn, offset, bow = rng.uniform(0, np.pi), rng.uniform(-0.7, 0.7), rng.uniform(-0.6, 0.6)
        c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        away = c * right + s * down - np.float32(offset) - np.float32(bow) * (c * down - s * right) ** 2
        shade *= 1.0 - np.float32(rng.uniform(0.1, 0.4)) * np.exp(-((away / np.float32(0.035)) ** 2))
    distance = np.sqrt(right**2 + down**2)
    inside = np.clip((0.97 - distance) * (size / 2) + 0.5, 0.0, 1.0) * (1.05 - np.float32(0.3) * distance**2)
    return colour[:, None, None] * (shade * texture * inside)
