"""Natural phantoms: one global subject a picture, told by its shape, as in a synthetic, tiny stand-in for ImageNet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transfuse.data.canvas import check_request, pixel_grid, polygon_coverage, rgb, smooth_field, stream, to_bytes
from transfuse.data.silhouettes import ACCENT, DARK, HOLE, MAIN, SILHOUETTES

NATURAL_CLASSES = tuple(SILHOUETTES)

_ORDER, _SCENE, _NOISE = 21, 22, 23  # streams


@dataclass(frozen=True)
class NaturalPhantom:
    """One synthetic picture of a thing.

    Attributes:
        image: (3, size, size) uint8, RGB.
        label: index into `NATURAL_CLASSES`.
        name: the class.
        mask: area covered by the thing, 0 to 255 of a pixel, (size, size) uint8.
    """

    image: np.ndarray
    label: int
    name: str
    mask: np.ndarray


def natural_phantom(index: int, *, size: int = 64, seed: int = 0) -> NaturalPhantom:
    """The synthetic picture number `index`: a thing whose silhouette is the class, everything else varies.

    Pose, scale, proportions, colours, surface and background are random and independent of the class; the classes
    0 to 23 occur once in every 24 consecutive indices. (seed, index) is the same scene at every size (32 to 587 px).

    Raises:
        DataError: an impossible index, size or seed.

    >>> phantom = natural_phantom(5, size=64)
    >>> phantom.image.shape, phantom.name == NATURAL_CLASSES[phantom.label]
    ((3, 64, 64), True)
    """
    check_request(index, size, seed)
    label = natural_label(index, seed=seed)
    rng = stream(seed, _SCENE, index)
    hue = rng.random()
    image = _background(rng, hue, size)
    pose = _Pose.draw(rng)
    covers = [(pose.apply(part.outline), part.paint) for part in SILHOUETTES[NATURAL_CLASSES[label]]]
    drawn = [(polygon_coverage(outline, size), paint) for outline, paint in covers]
    mask: np.ndarray = np.zeros((size, size), dtype=np.float32)
    for cover, paint in drawn:
        mask = mask * (1.0 - cover) if paint == HOLE else np.maximum(mask, cover)
    _cast_shadow(image, mask, rng.uniform(-0.06, 0.06), rng.uniform(0.02, 0.09), rng.uniform(0.2, 0.5))
    behind = image.copy()
    surfaces = _surfaces(rng, hue, pose, behind)
    for cover, paint in drawn:
        image += cover * (surfaces[paint] - image)
    grain = stream(seed, _NOISE, index, size).standard_normal((3, size, size), dtype=np.float32)
    image += grain * np.float32(rng.uniform(0.008, 0.03))
    return NaturalPhantom(to_bytes(image), label, NATURAL_CLASSES[label], to_bytes(mask))


def natural_label(index: int, *, seed: int = 0) -> int:
    """The class of `natural_phantom(index, seed=seed)`, without drawing it."""
    check_request(index, 64, seed)
    return balanced_label(index, len(NATURAL_CLASSES), seed, _ORDER)


def balanced_label(index: int, classes: int, seed: int, kind: int) -> int:
    """The class of a sample: every run of `classes` consecutive indices holds each class once, in random order."""
    block, place = divmod(index, classes)
    return int(stream(seed, kind, block).permutation(classes)[place])


@dataclass(frozen=True)
class _Pose:
    """A picture point is matrix @ thing + bend * y² + shift."""

    matrix: np.ndarray
    shift: np.ndarray
    bend: float

    @staticmethod
    def draw(rng: np.random.Generator) -> _Pose:
        scale, turn = rng.uniform(0.42, 0.85), rng.normal(0.0, 0.22)
        aspect, shear = np.exp(rng.normal(0.0, 0.10)), rng.normal(0.0, 0.10)
        mirror = 1.0 if rng.random() < 0.5 else -1.0
        c, s = np.cos(turn), np.sin(turn)
        stretch = np.array([[mirror * aspect, shear], [0.0, 1.0 / aspect]])
        room = 1.0 - 0.9 * scale
        return _Pose(scale * np.array([[c, -s], [s, c]]) @ stretch, rng.uniform(-room, room, 2), rng.normal(0.0, 0.07))

    def apply(self, outline: np.ndarray) -> np.ndarray:
        """Points (n, 2) of the thing in the picture."""
        bent = outline + np.stack([self.bend * outline[:, 1] ** 2, np.zeros(len(outline))], axis=1)
        return bent @ self.matrix.T + self.shift

    def coordinates(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The thing's own (unbent) coordinates of every pixel, two arrays (size, size)."""
        right, down = pixel_grid(size)
        (a, b), (c, d) = np.linalg.inv(self.matrix).astype(np.float32)
        x, y = right - np.float32(self.shift[0]), down - np.float32(self.shift[1])
        return a * x + b * y, c * x + d * y


def _pattern(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """A surface (size, size), about -1 to 1: plain, stripes, checks, dots or mottled."""
    kind, turn, waves = int(rng.integers(5)), rng.uniform(0, np.pi), rng.uniform(5.0, 14.0)
    c, s = np.float32(np.cos(turn) * waves), np.float32(np.sin(turn) * waves)
    cells = int(rng.integers(6, 24))
    if kind == 1:
        return np.sin(c * x + s * y)
    if kind == 2:
        return np.clip(3.0 * np.sin(c * x + s * y) * np.sin(s * x - c * y), -1.0, 1.0)
    if kind == 3:
        return np.clip(4.0 * (np.sin(c * x + s * y) + np.sin(s * x - c * y) - 1.0), -0.3, 1.0)
    if kind == 4:
        return smooth_field(rng, cells, size)[0]
    return np.zeros((size, size), dtype=np.float32)


def _background(rng: np.random.Generator, hue: float, size: int) -> np.ndarray:
    """(3, size, size) float32: two colours, mixed by a gradient, blotches, a horizon or a pattern."""
    right, down = pixel_grid(size)
    away = hue + rng.uniform(0.15, 0.85)  # rarely the thing's own hue
    one = rgb(away, rng.uniform(0.05, 0.55), rng.uniform(0.45, 0.98))
    two = rgb(away + rng.normal(0, 0.12), rng.uniform(0.05, 0.6), rng.uniform(0.25, 0.85))
    kind, turn, level = int(rng.integers(4)), rng.uniform(0, 2 * np.pi), rng.uniform(-0.1, 0.5)
    blotches = smooth_field(rng, int(rng.integers(3, 9)), size)[0]
    slope = np.float32(np.cos(turn)) * right + np.float32(np.sin(turn)) * down
    if kind == 0:
        mix = 0.5 + 0.4 * slope + 0.06 * blotches
    elif kind == 1:
        mix = 0.5 + 0.25 * blotches
    elif kind == 2:
        mix = np.clip((down - level) * (size / 4) + 0.5, 0.0, 1.0) * 0.8 + 0.1 * down + 0.05 * blotches
    else:
        mix = 0.5 + 0.3 * _pattern(rng, right + 0 * down, down + 0 * right, size) + 0.08 * blotches
    mix = np.clip(mix, 0.0, 1.0).astype(np.float32)
    fine = 1.0 + smooth_field(rng, 28, size)[0] * np.float32(rng.uniform(0.01, 0.07))
    return (one[:, None, None] + (two - one)[:, None, None] * mix).astype(np.float32) * fine


def _surfaces(rng: np.random.Generator, hue: float, pose: _Pose, behind: np.ndarray) -> dict[int, np.ndarray]:
    """What each paint looks like, (3, size, size) each; a hole shows what lies behind."""
    size = behind.shape[-1]
    x, y = pose.coordinates(size)
    light = rng.uniform(0, 2 * np.pi)
    shade = 1.0 + 0.22 * np.clip(np.float32(np.cos(light)) * x + np.float32(np.sin(light)) * y, -1.2, 1.2)
    grain = 1.0 + _pattern(rng, x, y, size) * np.float32(rng.uniform(0.06, 0.28))
    main = rgb(hue, rng.uniform(0.35, 0.95), rng.uniform(0.35, 0.95))
    accent = rgb(hue + rng.choice([0.0, 0.08, 0.5]) + rng.normal(0, 0.04), rng.uniform(0.1, 0.9), rng.uniform(0.6, 1.0))
    dark = rgb(hue + rng.normal(0, 0.1), rng.uniform(0.1, 0.6), rng.uniform(0.06, 0.28))
    return {
        MAIN: main.astype(np.float32)[:, None, None] * (shade * grain),
        ACCENT: accent.astype(np.float32)[:, None, None] * shade,
        DARK: dark.astype(np.float32)[:, None, None] * shade,
        HOLE: behind,
    }


def _cast_shadow(image: np.ndarray, mask: np.ndarray, right: float, down: float, depth: float) -> None:
    """Darken the background where the thing, moved a little, would lie."""
    size = len(mask)
    dx, dy = round(right * size), round(down * size)
    moved = np.zeros_like(mask)
    rows, columns = slice(max(dy, 0), size + min(dy, 0)), slice(max(dx, 0), size + min(dx, 0))
    source = slice(max(-dy, 0), size + min(-dy, 0)), slice(max(-dx, 0), size + min(-dx, 0))
    moved[rows, columns] = mask[source]
    image *= 1.0 - np.float32(depth) * moved
