"""The outlines of the natural phantoms: 24 things, each a few polygons in a box from -1 to 1, y downwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

MAIN, ACCENT, DARK, HOLE = 0, 1, 2, 3  # what a part is painted with; a hole shows the background


class Part(NamedTuple):
    """One polygon (n, 2) and its paint; later parts lie on earlier ones."""

    outline: np.ndarray
    paint: int


def _polygon(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=float).reshape(-1, 2)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return _polygon(left, top, right, top, right, bottom, left, bottom)


def _ellipse(x: float, y: float, across: float, down: float, turn: float = 0.0) -> np.ndarray:
    angle = np.arange(28) * (2 * np.pi / 28)
    a, b = across * np.cos(angle), down * np.sin(angle)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([x + a * c - b * s, y + a * s + b * c], axis=1)


def _smooth(outline: np.ndarray) -> np.ndarray:
    """Round the corners (Chaikin, twice)."""
    for _ in range(2):
        after = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * after, 0.25 * outline + 0.75 * after], axis=1).reshape(-1, 2)
    return outline


def _mirrored(outline: np.ndarray) -> np.ndarray:
    return outline * [-1.0, 1.0]


def _polar(radius: Callable[[np.ndarray], np.ndarray], y: float = 0.0, points: int = 60) -> np.ndarray:
    angle = np.arange(points) * (2 * np.pi / points)
    return np.stack([radius(angle) * np.sin(angle), y - radius(angle) * np.cos(angle)], axis=1)


def _thing(*parts: tuple[np.ndarray, int]) -> tuple[Part, ...]:
    return tuple(Part(outline, paint) for outline, paint in parts)


def _both(outline: np.ndarray, paint: int) -> Sequence[tuple[np.ndarray, int]]:
    return (outline, paint), (_mirrored(outline), paint)


_TOOTH = _polygon(-0.10, 0.45, 0.18, 0.45, 0.18, 0.57, -0.10, 0.57)

SILHOUETTES: dict[str, tuple[Part, ...]] = {
    "airplane": _thing(
        (_smooth(_polygon(-0.12, -0.1, 0.12, -0.1, 0.95, 0.30, 0.95, 0.45, 0.0, 0.25, -0.95, 0.45, -0.95, 0.30)), MAIN),
        (_polygon(0.0, 0.55, 0.40, 0.82, 0.40, 0.92, -0.40, 0.92, -0.40, 0.82), MAIN),
        (_ellipse(0.0, 0.0, 0.14, 0.95), MAIN),
        (_ellipse(0.0, -0.70, 0.07, 0.11), DARK),
    ),
    "bird": _thing(
        (_polygon(0.40, 0.05, 0.98, 0.30, 0.90, 0.48, 0.30, 0.35), MAIN),
        (_smooth(_polygon(-0.60, -0.15, -0.1, -0.30, 0.55, 0.0, 0.60, 0.30, 0.0, 0.60, -0.55, 0.35)), MAIN),
        (_ellipse(-0.50, -0.32, 0.27, 0.25), MAIN),
        (_polygon(-0.73, -0.40, -1.0, -0.26, -0.73, -0.20), ACCENT),
        (_smooth(_polygon(-0.25, -0.02, 0.30, 0.0, 0.75, 0.35, 0.15, 0.38)), ACCENT),
        (_ellipse(-0.57, -0.38, 0.05, 0.05), DARK),
        (_polygon(-0.02, 0.50, 0.06, 0.50, 0.06, 0.90, -0.02, 0.90), DARK),
        (_polygon(0.16, 0.48, 0.24, 0.48, 0.24, 0.90, 0.16, 0.90), DARK),
    ),
    "bottle": _thing(
        (_smooth(_polygon(-0.14, -0.85, 0.14, -0.85, 0.14, -0.35, 0.36, -0.05, 0.36, 0.92, -0.36, 0.92, -0.36, -0.05,
                          -0.14, -0.35)), MAIN),
        (_box(-0.35, 0.20, 0.35, 0.65), ACCENT),
        (_box(-0.16, -0.98, 0.16, -0.80), DARK),
    ),
    "butterfly": _thing(
        *_both(_smooth(_polygon(0.0, -0.1, 0.35, -0.75, 0.95, -0.75, 0.90, -0.1, 0.25, 0.1)), MAIN),
        *_both(_smooth(_polygon(0.0, 0.0, 0.70, 0.05, 0.75, 0.55, 0.40, 0.80, 0.10, 0.45)), ACCENT),
        *_both(_ellipse(0.58, -0.42, 0.14, 0.12), DARK),
        (_ellipse(0.0, 0.05, 0.07, 0.55), DARK),
    ),
    "car": _thing(
        (_smooth(_polygon(-0.98, 0.35, -0.95, 0.0, -0.60, -0.08, -0.38, -0.45, 0.35, -0.45, 0.62, -0.06, 0.95, 0.02,
                          0.98, 0.35)), MAIN),
        (_polygon(-0.48, -0.06, -0.32, -0.34, -0.04, -0.34, -0.04, -0.06), ACCENT),
        (_polygon(0.06, -0.06, 0.06, -0.34, 0.30, -0.34, 0.48, -0.06), ACCENT),
        (_ellipse(-0.55, 0.34, 0.21, 0.21), DARK),
        (_ellipse(0.55, 0.34, 0.21, 0.21), DARK),
    ),
    "cat": _thing(
        *_both(_polygon(0.22, -0.48, 0.70, -0.95, 0.78, -0.10), MAIN),
        (_ellipse(0.0, 0.10, 0.80, 0.70), MAIN),
        *_both(_ellipse(0.30, -0.02, 0.13, 0.17), ACCENT),
        *_both(_ellipse(0.30, -0.02, 0.05, 0.15), DARK),
        (_polygon(-0.11, 0.28, 0.11, 0.28, 0.0, 0.42), DARK),
    ),
    "chair": _thing(
        (_box(-0.55, -0.95, -0.40, 0.95), DARK),
        (_box(0.40, 0.10, 0.55, 0.95), DARK),
        (_box(-0.25, 0.10, -0.14, 0.80), DARK),
        (_box(-0.52, -0.90, -0.30, -0.15), MAIN),
        (_polygon(-0.55, -0.02, 0.55, -0.02, 0.62, 0.20, -0.55, 0.20), MAIN),
    ),
    "fir": _thing(
        (_box(-0.12, 0.60, 0.12, 0.98), DARK),
        (_polygon(0.0, -0.20, 0.75, 0.70, -0.75, 0.70), MAIN),
        (_polygon(0.0, -0.60, 0.58, 0.22, -0.58, 0.22), MAIN),
        (_polygon(0.0, -0.98, 0.40, -0.25, -0.40, -0.25), MAIN),
    ),
    "fish": _thing(
        (_smooth(_polygon(0.35, 0.0, 0.95, -0.55, 0.80, 0.0, 0.95, 0.55)), ACCENT),
        (_polygon(-0.20, -0.30, 0.25, -0.68, 0.30, -0.15), ACCENT),
        (_smooth(_polygon(-0.98, 0.05, -0.55, -0.40, 0.10, -0.42, 0.62, 0.0, 0.10, 0.42, -0.55, 0.42)), MAIN),
        (_ellipse(-0.58, -0.08, 0.07, 0.08), DARK),
    ),
    "flower": _thing(
        (_polygon(-0.05, 0.1, 0.05, 0.1, 0.08, 0.98, -0.02, 0.98), DARK),
        (_smooth(_polygon(0.04, 0.75, 0.30, 0.45, 0.60, 0.48, 0.35, 0.78)), DARK),
        (_polar(lambda a: 0.44 + 0.17 * np.cos(6 * a), y=-0.30), MAIN),
        (_ellipse(0.0, -0.30, 0.19, 0.19), ACCENT),
    ),
    "guitar": _thing(
        (_box(-0.07, -0.90, 0.07, 0.10), DARK),
        (_smooth(_polygon(-0.12, -0.98, 0.12, -0.98, 0.13, -0.72, -0.13, -0.72)), ACCENT),
        (_smooth(_polygon(-0.30, -0.12, 0.30, -0.12, 0.38, 0.12, 0.24, 0.32, 0.55, 0.55, 0.45, 0.98, -0.45, 0.98,
                          -0.55, 0.55, -0.24, 0.32, -0.38, 0.12)), MAIN),
        (_ellipse(0.0, 0.32, 0.15, 0.15), DARK),
        (_box(-0.20, 0.66, 0.20, 0.74), DARK),
    ),
    "hammer": _thing(
        (_box(-0.09, -0.50, 0.09, 0.98), ACCENT),
        (_smooth(_polygon(-0.62, -0.82, 0.25, -0.82, 0.68, -0.60, 0.70, -0.50, 0.25, -0.48, -0.62, -0.42)), MAIN),
        (_box(-0.70, -0.86, -0.52, -0.38), MAIN),
    ),
    "heart": _thing(
        (_smooth(_polygon(0.0, -0.42, 0.28, -0.85, 0.82, -0.80, 0.98, -0.25, 0.60, 0.30, 0.0, 0.98, -0.60, 0.30,
                          -0.98, -0.25, -0.82, -0.80, -0.28, -0.85)), MAIN),
    ),
    "house": _thing(
        (_box(0.32, -0.85, 0.52, -0.30), DARK),
        (_box(-0.72, -0.12, 0.72, 0.85), MAIN),
        (_polygon(0.0, -0.90, 0.95, -0.05, -0.95, -0.05), ACCENT),
        (_box(-0.16, 0.30, 0.16, 0.85), DARK),
        (_box(-0.56, 0.15, -0.28, 0.42), DARK),
        (_box(0.28, 0.15, 0.56, 0.42), DARK),
    ),
    "key": _thing(
        (_box(-0.10, -0.20, 0.10, 0.98), MAIN),
        (_TOOTH + np.array([0.28, 0.10]), MAIN),
        (_TOOTH + np.array([0.20, 0.36]), MAIN),
        (_ellipse(0.0, -0.52, 0.45, 0.45), MAIN),
        (_ellipse(0.0, -0.56, 0.21, 0.21), HOLE),
    ),
    "lamp": _thing(
        (_box(-0.06, -0.20, 0.06, 0.90), DARK),
        (_smooth(_polygon(-0.42, 0.98, -0.30, 0.80, 0.30, 0.80, 0.42, 0.98)), ACCENT),
        (_polygon(-0.30, -0.95, 0.30, -0.95, 0.68, -0.05, -0.68, -0.05), MAIN),
    ),
    "leaf": _thing(
        (_polygon(-0.04, 0.40, 0.04, 0.40, 0.10, 0.99, 0.03, 0.99), DARK),
        (_smooth(_polygon(0.0, -0.98, 0.35, -0.60, 0.62, -0.05, 0.45, 0.48, 0.0, 0.72, -0.45, 0.48, -0.62, -0.05,
                          -0.35, -0.60)), MAIN),
        (_polygon(-0.02, -0.80, 0.02, -0.80, 0.04, 0.70, -0.04, 0.70), ACCENT),
        *_both(_polygon(0.0, 0.25, 0.42, -0.08, 0.44, -0.03, 0.0, 0.33), ACCENT),
        *_both(_polygon(0.0, -0.15, 0.34, -0.44, 0.36, -0.39, 0.0, -0.07), ACCENT),
    ),
    "mug": _thing(
        (_ellipse(0.48, 0.05, 0.40, 0.42), MAIN),
        (_ellipse(0.50, 0.05, 0.23, 0.25), HOLE),
        (_smooth(_polygon(-0.72, -0.70, 0.48, -0.70, 0.46, 0.30, 0.40, 0.80, -0.64, 0.80, -0.70, 0.30)), MAIN),
        (_ellipse(-0.12, -0.62, 0.50, 0.11), DARK),
    ),
    "mushroom": _thing(
        (_smooth(_polygon(-0.20, -0.10, 0.20, -0.10, 0.22, 0.55, 0.36, 0.95, -0.36, 0.95, -0.22, 0.55)), ACCENT),
        (_smooth(_polygon(-0.95, 0.10, -0.88, -0.40, -0.35, -0.85, 0.35, -0.85, 0.88, -0.40, 0.95, 0.10)), MAIN),
        (_ellipse(-0.40, -0.30, 0.14, 0.11), ACCENT),
        (_ellipse(0.08, -0.52, 0.12, 0.09), ACCENT),
        (_ellipse(0.48, -0.22, 0.15, 0.12), ACCENT),
    ),
    "rabbit": _thing(
        *_both(_ellipse(0.26, -0.55, 0.15, 0.48, 0.18), MAIN),
        *_both(_ellipse(0.27, -0.55, 0.07, 0.34, 0.18), ACCENT),
        (_ellipse(0.0, 0.35, 0.56, 0.55), MAIN),
        *_both(_ellipse(0.22, 0.22, 0.07, 0.09), DARK),
        (_ellipse(0.0, 0.45, 0.08, 0.06), DARK),
    ),
    "sailboat": _thing(
        (_box(-0.04, -0.98, 0.04, 0.50), DARK),
        (_polygon(0.08, -0.92, 0.75, 0.32, 0.08, 0.32), MAIN),
        (_polygon(-0.08, -0.75, -0.08, 0.32, -0.62, 0.32), ACCENT),
        (_smooth(_polygon(-0.95, 0.42, 0.95, 0.42, 0.62, 0.88, -0.62, 0.88)), DARK),
    ),
    "star": _thing(
        (_polygon(*np.stack([np.where(np.arange(10) % 2, 0.42, 0.98) * np.sin(np.arange(10) * np.pi / 5),
                             -np.where(np.arange(10) % 2, 0.42, 0.98) * np.cos(np.arange(10) * np.pi / 5)],
                            axis=1).ravel()), MAIN),
    ),
    "turtle": _thing(
        (_ellipse(-0.82, 0.05, 0.19, 0.16), ACCENT),
        (_smooth(_polygon(-0.55, 0.20, -0.25, 0.20, -0.30, 0.72, -0.58, 0.72)), ACCENT),
        (_smooth(_polygon(0.25, 0.20, 0.55, 0.20, 0.62, 0.72, 0.34, 0.72)), ACCENT),
        (_polygon(0.65, 0.15, 0.98, 0.38, 0.60, 0.38), ACCENT),
        (_smooth(_polygon(-0.75, 0.42, -0.62, -0.25, -0.15, -0.58, 0.25, -0.58, 0.65, -0.20, 0.75, 0.42)), MAIN),
        (_ellipse(-0.88, 0.0, 0.04, 0.04), DARK),
    ),
    "umbrella": _thing(
        (_box(-0.04, -0.98, 0.04, 0.75), DARK),
        (_smooth(_polygon(-0.04, 0.70, 0.04, 0.70, 0.08, 0.84, 0.24, 0.84, 0.28, 0.66, 0.36, 0.66, 0.34, 0.96, 0.0,
                          0.98)), DARK),
        (_smooth(_polygon(-0.98, 0.06, -0.85, -0.45, -0.40, -0.82, 0.40, -0.82, 0.85, -0.45, 0.98, 0.06, 0.66, -0.10,
                          0.34, 0.06, 0.0, -0.10, -0.34, 0.06, -0.66, -0.10)), MAIN),
        (_polygon(0.0, -0.80, 0.22, -0.35, 0.33, 0.02, 0.0, -0.08, -0.33, 0.02, -0.22, -0.35), ACCENT),
    ),
}  # fmt: skip
