"""Lines and blobs as clouds of points that carry area: the input of `canvas.deposit`.

Positions and lengths here are pixels, so that a cloud is as dense as the size needs; chance (outlines, curls) is drawn
before anything depends on the size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_STEP = 0.7  # pixels between points
_GOLDEN = np.pi * (3.0 - 5.0**0.5)


class Points(NamedTuple):
    """Points (n,): position, the area in pixels² that each stands for, and the number of the stroke or blob."""

    x: np.ndarray
    y: np.ndarray
    area: np.ndarray
    owner: np.ndarray


class Outline(NamedTuple):
    """Shapes of blobs (n,): stretch, its direction, and the lobes' phases (n, 2)."""

    stretch: np.ndarray
    direction: np.ndarray
    phases: np.ndarray


def draw_outlines(rng: np.random.Generator, count: int, irregular: float) -> Outline:
    """Random outlines; `irregular` 0 is a disc."""
    stretch = 1.0 + 1.5 * irregular * rng.random(count)
    return Outline(stretch, rng.uniform(0, 2 * np.pi, count), rng.uniform(0, 2 * np.pi, (count, 2)))


def line_points(
    start: np.ndarray, end: np.ndarray, width: np.ndarray, *, along: np.ndarray | None = None, bead: float = 0.0
) -> Points:
    """Straight strokes with square ends.

    Args:
        start: (n, 2).
        end: (n, 2).
        width: (n,).
        along: where on its polyline a stroke starts, (n,); only for beads.
        bead: wavelength of a beaded stroke, 0 for a smooth one.
    """
    dx, dy = (end - start).T
    length = np.sqrt(dx**2 + dy**2) + 1e-9
    steps = np.ceil(length / _STEP).astype(int)
    tracks = np.ceil(width / _STEP).astype(int)
    count = steps * tracks
    owner = np.repeat(np.arange(len(width)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    track, step = np.divmod(number, steps[owner])
    forward = (step + 0.5) / steps[owner]
    aside = ((track + 0.5) / tracks[owner] - 0.5) * width[owner]
    area = (length * width / count)[owner]
    if bead > 0 and along is not None:
        swelling = 1.0 + 0.55 * np.sin(2 * np.pi * (along[owner] + forward * length[owner]) / bead)
        aside, area = aside * swelling, area * swelling
    ux, uy = dx / length, dy / length
    x = start[owner, 0] + forward * dx[owner] - aside * uy[owner]
    y = start[owner, 1] + forward * dy[owner] + aside * ux[owner]
    return Points(x, y, area, owner)


def blob_points(
    x: np.ndarray, y: np.ndarray, radius: np.ndarray, outline: Outline, *, edge: float, irregular: float
) -> Points:
    """Blobs (n,) of the given radius: coverage falls as min(1, edge * (1 - r²)) towards the outline."""
    count = np.maximum(np.ceil(np.pi * radius**2 * 4.0), 5).astype(int)
    owner = np.repeat(np.arange(len(radius)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + 0.5
    r2 = number / count[owner]
    angle = number * _GOLDEN
    lobes = np.cos(2 * angle + outline.phases[owner, 0]) + np.cos(3 * angle + outline.phases[owner, 1])
    reach = 1.0 + irregular * lobes
    distance = np.sqrt(r2) * radius[owner] * reach
    stretch = outline.stretch[owner] ** 0.5
    px, py = distance * np.cos(angle) * stretch, distance * np.sin(angle) / stretch
    c, s = np.cos(outline.direction)[owner], np.sin(outline.direction)[owner]
    area = (np.pi * radius**2 / count)[owner] * reach**2 * np.minimum(1.0, edge * (1.0 - r2))
    return Points(x[owner] + c * px - s * py, y[owner] + s * px + c * py, area, owner)


def draw_curls(rng: np.random.Generator, strands: int, points: int, bend: float) -> np.ndarray:
    """`strands` curled paths (strands, points, 2) from the origin, about one unit long in all directions."""
    heading = rng.uniform(0, 2 * np.pi, (strands, 1)) + np.cumsum(rng.normal(0, bend, (strands, points)), axis=1)
    return np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=-1) * (1.4 / points), axis=1)
