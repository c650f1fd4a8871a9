"""Names beside points of a scatter chart, where there is room for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Box = tuple[float, float, float, float]
"""Left, right, top and bottom in pixels, from the upper left corner."""
_LETTER, _LINE = 6.8, 15.0
"""Width of a letter and height of a line of text in pixels, about."""
_POINT = 9.0
"""Pixels that a point needs to each side."""


class Label(NamedTuple):
    """A name, and where it stands from its point, in pixels."""

    text: str
    dx: float = 0.0
    dy: float = 0.0
    align: str = "left"


def place_labels(
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    spans: Sequence[tuple[float, float]],
    size: tuple[float, float],
    order: Iterable[int],
    obstacles: Iterable[Box] = (),
) -> list[Label]:
    """Each name to the right of its point, to the left, above or below its interval; empty where all of it is taken.

    Args:
        names: of the points.
        points: across and down in pixels.
        spans: upper and lower end of each interval, down in pixels.
        size: width and height of the chart.
        order: of the points, those that matter most first.
        obstacles: what else is drawn.

    >>> place_labels(["one", "two"], [(20, 50), (40, 50)], [(40, 60), (40, 60)], (100, 100), range(2))
    [Label(text='one', dx=0.0, dy=-19.0, align='center'), Label(text='two', dx=12.0, dy=0.0, align='left')]
    """
    taken = list(obstacles)
    for (x, y), (top, bottom) in zip(points, spans, strict=True):
        taken += [(x - 4, x + 4, top, bottom), (x - _POINT, x + _POINT, y - _POINT, y + _POINT)]
    found = [Label("")] * len(names)
    for index in order:
        (x, y), (top, bottom) = points[index], spans[index]
        wide = _LETTER * len(names[index])
        above, below = min(top, y - _POINT) - y - 9, max(bottom, y + _POINT) - y + 10
        # Above and below it stands in the middle, but inside the chart.
        middle = min(max(0.0, wide / 2 - x), size[0] - wide / 2 - x)
        beside = [(12.0, 0.0, "left"), (-12.0, 0.0, "right"), (middle, above, "center"), (middle, below, "center")]
        for dx, dy, align in beside:
            left = x + dx - {"left": 0.0, "right": wide, "center": wide / 2}[align]
            box = (left, left + wide, y + dy - _LINE / 2, y + dy + _LINE / 2)
            inside = box[0] >= 0 and box[1] <= size[0] and box[2] >= 0 and box[3] <= size[1]
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                found[index] = Label(names[index], float(dx), float(dy), align)
                break
    return found


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
