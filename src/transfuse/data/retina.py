"""The anatomy of a synthetic retina: disc, fovea, pigment and the tree of vessels, as geometry without pixels.

Lengths are in units of the retina's radius, x towards the nose, y downwards, from the centre of the picture; so an eye
is the same at every size, and a left eye is a right one mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Anatomy:
    """The landmarks of one eye.

    Attributes:
        disc: x, y, horizontal and vertical radius of the optic disc, (4,).
        cup: radius of the cup over that of the disc.
        fovea: x, y, (2,).
        pigment: 0 (light) to 1 (dark fundus).
        calibre: of the vessels, 1 is usual.
        tortuosity: of the vessels, 0 is straight.
    """

    disc: np.ndarray
    cup: float
    fovea: np.ndarray
    pigment: float
    calibre: float
    tortuosity: float


@dataclass(frozen=True)
class Vessels:
    """Polylines as one list of straight segments.

    Attributes:
        start: (n, 2).
        end: (n, 2).
        width: calibre, (n,).
        vein: (n,) bool; the others are arteries.
        along: distance of the segment from the root of its branch, (n,).
    """

    start: np.ndarray
    end: np.ndarray
    width: np.ndarray
    vein: np.ndarray
    along: np.ndarray


@dataclass(frozen=True)
class _Branches:
    """Branches of one generation: points (n, p, 2), heading, width (n, p), vein (n,)."""

    points: np.ndarray
    heading: np.ndarray
    width: np.ndarray
    vein: np.ndarray


def draw_anatomy(patient: np.random.Generator, eye: np.random.Generator) -> Anatomy:
    """The landmarks of an eye: what both eyes of a patient share comes from the patient's stream."""
    shared = patient.random(8)
    own = eye.random(6)
    radius = 0.125 + 0.03 * shared[1] + 0.006 * own[1]
    disc = np.array(
        [0.50 + 0.08 * shared[2] + 0.05 * own[2], -0.08 + 0.1 * own[3], radius * 0.93, radius * (1 + 0.08 * shared[3])]
    )
    return Anatomy(
        disc=disc,
        cup=0.3 + 0.35 * shared[6] + 0.05 * own[5],
        fovea=np.array([disc[0] - 0.66, disc[1] + 0.06 + 0.05 * own[4]]),
        pigment=0.85 * shared[0] + 0.15 * own[0],
        calibre=0.85 + 0.3 * shared[4],
        tortuosity=0.4 + 1.0 * shared[5] ** 2,
    )


def draw_vessels(eye: np.random.Generator, anatomy: Anatomy) -> Vessels:
    """The tree of arteries and veins: trunks from the disc and two generations of branches."""
    bends = anatomy.tortuosity
    trunks = _trunks(eye, anatomy.disc[:2], anatomy.fovea, anatomy.calibre, bends)
    first = _sprout(eye, trunks, 8, (0.25, 0.75), 16, bends)
    second = _sprout(eye, first, 4, (0.10, 0.32), 9, bends)
    parts = [_segments(branches) for branches in (second, first, trunks)]
    start, end, width, vein, along = (np.concatenate(column) for column in zip(*parts, strict=True))
    middle = (start + end) / 2
    width = width * np.clip((_length(middle - anatomy.fovea) - 0.08) / 0.15, 0.0, 1.0)  # the foveal avascular zone
    seen = (_length(middle) < 1.02) & (width > 0.002)
    return Vessels(start[seen], end[seen], width[seen], vein[seen], along[seen])


# End points of the trunks as offsets (x, y) for upper vessels: three Bézier controls, the first two from the disc, the
# last two from the fovea for temporal trunks and from the disc for nasal ones; then the calibre of the vein.
_ROUTES = np.array(
    [  #  first control    second control   end             from fovea, lower?, calibre
        [-0.06, -0.42, 0.10, -0.72, -0.72, -0.50, 1, 0, 1.0],  # superior temporal arcade
        [-0.06, 0.42, 0.10, 0.72, -0.72, 0.50, 1, 1, 1.0],  # inferior temporal arcade
        [0.06, -0.26, 0.16, -0.48, 0.36, -0.85, 0, 0, 0.75],  # superior nasal
        [0.06, 0.26, 0.16, 0.48, 0.36, 0.85, 0, 1, 0.75],  # inferior nasal
        [0.12, -0.08, 0.25, -0.14, 0.50, -0.22, 0, 0, 0.45],  # nasal
        [-0.16, -0.06, -0.28, -0.12, -0.42, -0.10, 0, 0, 0.32],  # to the macula
        [-0.16, 0.10, -0.28, 0.16, -0.42, 0.20, 0, 1, 0.32],  # to the macula
    ]
)


def _trunks(rng: np.random.Generator, disc: np.ndarray, fovea: np.ndarray, calibre: float, bends: float) -> _Branches:
    routes = np.concatenate([_ROUTES, _ROUTES])
    n = len(routes)
    vein = np.arange(n) < len(_ROUTES)
    anchor = np.where(routes[:, 6:7] > 0, fovea, disc)
    root = disc + rng.normal(0, 0.02, (n, 2)) + np.where(vein[:, None], [0.0, 0.0], [-0.03, 0.0])
    beside = rng.uniform(0.76, 0.90, n) + 0.34 * (rng.random(n) < 0.4)  # arteries run inside or outside the veins
    spread = np.where(vein, 1.0, beside)[:, None]
    one = disc + routes[:, 0:2] * spread + rng.normal(0, 0.02, (n, 2))
    two = anchor + routes[:, 2:4] * spread + rng.normal(0, 0.07, (n, 2))
    end = anchor + routes[:, 4:6] * spread + rng.normal(0, 0.11, (n, 2))
    t = np.linspace(0, 1, 36)[None, :, None]
    points = (
        (1 - t) ** 3 * root[:, None]
        + 3 * t * (1 - t) ** 2 * one[:, None]
        + 3 * t**2 * (1 - t) * two[:, None]
        + t**3 * end[:, None]
    )
    heading = _headings(points)
    phase = rng.uniform(0, 2 * np.pi, (2, n, 1))
    wave = np.sin(17 * t[..., 0] + phase[0]) + 0.6 * np.sin(34 * t[..., 0] + phase[1])
    sway = 0.011 * bends * wave * np.minimum(4 * t[..., 0], 1.0)
    points = points + sway[..., None] * np.stack([-np.sin(heading), np.cos(heading)], axis=-1)
    size = np.where(vein, 0.030, 0.021) * routes[:, 8] * calibre
    width = size[:, None] * (1.0 - 0.55 * t[..., 0])
    return _Branches(points, _headings(points), width, vein)


def _sprout(
    rng: np.random.Generator, parents: _Branches, each: int, length: tuple[float, float], points: int, bends: float
) -> _Branches:
    """The next generation: `each` side branches a parent, alternating sides, bending back to the parent's course."""
    n, p = parents.width.shape
    place = (np.arange(each) + rng.random((n, each))) / each * 0.85 + 0.15  # along the parent
    place = np.minimum((place * p).astype(int), p - 1)
    rows = np.repeat(np.arange(n), each)
    seen = _length(parents.points[rows, place.ravel()]) < 1.0
    rows, place = rows[seen], place.ravel()[seen]
    spot = (rows, place)
    first_side = rng.integers(0, 2, size=(n,))
    side = np.where((np.flatnonzero(seen) + first_side[rows]) % 2 == 0, 1.0, -1.0)
    n = len(rows)
    share = rng.uniform(0.42, 0.68, n)
    width = parents.width[spot] * share
    reach = rng.uniform(*length, n) * (0.55 + 0.45 * share / 0.68)
    steps = np.linspace(0, 1, points)
    turn = side[:, None] * (rng.uniform(0.65, 1.15, n)[:, None] - 0.75 * steps)
    wander = np.cumsum(rng.normal(0, 0.16 * bends, (n, points)), axis=1)
    heading = parents.heading[spot][:, None] + turn + wander
    step = (reach / (points - 1))[:, None, None]
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=-1) * step, axis=1)
    path = parents.points[spot][:, None] + np.concatenate([np.zeros_like(path[:, :1]), path[:, :-1]], axis=1)
    return _Branches(path, heading, width[:, None] * (1.0 - 0.5 * steps), parents.vein[rows])


def _headings(points: np.ndarray) -> np.ndarray:
    step = points[:, 1:] - points[:, :-1]
    heading = np.arctan2(step[..., 1], step[..., 0])
    return np.concatenate([heading, heading[:, -1:]], axis=1)


def _segments(branches: _Branches) -> tuple[np.ndarray, ...]:
    points = branches.points
    start, end = points[:, :-1].reshape(-1, 2), points[:, 1:].reshape(-1, 2)
    width = (branches.width[:, :-1] + branches.width[:, 1:]) / 2
    step = points[:, 1:] - points[:, :-1]
    lengths = _length(step)
    along = np.cumsum(lengths, axis=1) - lengths
    return start, end, width.ravel(), np.repeat(branches.vein, width.shape[1]), along.ravel()


def _length(vectors: np.ndarray) -> np.ndarray:
    """Euclidean length along the last axis; on thousands of short vectors several times faster than hypot."""
    return np.sqrt(vectors[..., 0] ** 2 + vectors[..., 1] ** 2)
