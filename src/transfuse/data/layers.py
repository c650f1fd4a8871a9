"""The layers of a synthetic fundus photograph: how much of each pixel every kind of thing covers."""

from __future__ import annotations

import numpy as np

from transfuse.data.canvas import deposit
from transfuse.data.lesions import BLOBS, KINDS, Lesions, quadrant_of
from transfuse.data.retina import Vessels
from transfuse.data.strokes import blob_points, draw_curls, draw_outlines, line_points

# Vessels, then one layer per kind of lesion, then what has no bearing on the grade.
LAYERS = ("arteries", "veins", *KINDS, "drusen", "specks", "reflex")

_LAYER = {name: number for number, name in enumerate(LAYERS)}
_BEAD = 0.075  # wavelength of venous beading, of the retina's radius
_SHAPES = {  # of blobs: steepness of the edge (1 soft), irregularity of the outline
    "microaneurysms": (2.0, 0.0),
    "haemorrhages": (1.8, 0.13),
    "hard_exudates": (4.0, 0.15),
    "cotton_wool_spots": (1.3, 0.25),
    "preretinal_haemorrhages": (6.0, 0.06),
    "drusen": (1.5, 0.10),
    "specks": (1.5, 0.05),
}

_Layered = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, y, area, layer of points


def draw_layers(
    rng: np.random.Generator, tree: Vessels, lesions: Lesions, *, radius: float, size: int, mirror: bool
) -> dict[str, np.ndarray]:
    """Coverage of every layer by name, (size, size) float32 in 0..1 each.

    Args:
        rng: outlines of the lesions, and drusen; drawn in the same way whatever the size.
        tree: the vessels.
        lesions: the lesions.
        radius: of the retina, in pixels.
        size: of the picture, in pixels.
        mirror: draw a left eye.
    """
    blobs = [_blobs(name, lesions, rng, radius) for name in BLOBS]
    others = [_curls(lesions, rng, radius), _drusen(rng, radius), _specks(rng, radius)]
    vessels = [_vessels(tree, lesions, radius), _reflex(tree, radius)]
    x, y, area, layer = _joined([*blobs, *others, *vessels])
    covers = deposit((-x if mirror else x) + size / 2, y + size / 2, area, layer, size, len(LAYERS))
    return dict(zip(LAYERS, covers, strict=True))


def _vessels(tree: Vessels, lesions: Lesions, scale: float) -> _Layered:
    """The tree; in beaded quadrants the larger veins swell and narrow, and are in the layer of beading as well."""
    quadrants = np.zeros(4, dtype=bool)
    quadrants[lesions.quadrant()[lesions.select("venous_beading")]] = True
    beaded = tree.vein & (tree.width > 0.011) & quadrants[quadrant_of(*((tree.start + tree.end) / 2).T)]
    parts = []
    for chosen, wave in ((~beaded, 0.0), (beaded, _BEAD))[: 1 + int(beaded.any())]:
        points = line_points(
            tree.start[chosen] * scale,
            tree.end[chosen] * scale,
            tree.width[chosen] * scale,
            along=tree.along[chosen] * scale,
            bead=wave * scale,
        )
        depth = np.minimum(0.55 + 22.0 * tree.width[chosen], 1.0)  # thin vessels hold less blood
        layer = np.where(tree.vein[chosen], _LAYER["veins"], _LAYER["arteries"])
        parts.append((points.x, points.y, points.area * depth[points.owner], layer[points.owner]))
        if wave:
            parts.append((points.x, points.y, points.area, np.full(len(points.x), _LAYER["venous_beading"])))
    return _joined(parts)


def _reflex(tree: Vessels, scale: float) -> _Layered:
    """The light streak along the middle of the larger vessels; nothing where it is far below a pixel."""
    chosen = tree.width * scale > 2.0
    if not chosen.any():
        return _joined([])
    points = line_points(tree.start[chosen] * scale, tree.end[chosen] * scale, tree.width[chosen] * scale * 0.28)
    return points.x, points.y, points.area, np.full(len(points.x), _LAYER["reflex"])


def _blobs(name: str, lesions: Lesions, rng: np.random.Generator, scale: float) -> _Layered:
    edge, irregular = _SHAPES[name]
    rows = lesions.select(name)
    if not len(rows):
        return _joined([])
    outline = draw_outlines(rng, len(rows), irregular)
    centre = lesions.x[rows] * scale, lesions.y[rows] * scale
    points = blob_points(*centre, lesions.radius[rows] * scale, outline, edge=edge, irregular=irregular)
    x, y, area = points.x, points.y, points.area
    if name == "preretinal_haemorrhages":  # blood settles: a level surface above, a round belly below
        above = y < centre[1][points.owner]
        y = np.where(above, centre[1][points.owner] + 0.12 * (y - centre[1][points.owner]), y)
        area = np.where(above, 0.12 * area, area)
    return x, y, area, np.full(len(x), _LAYER[name])


def _curls(lesions: Lesions, rng: np.random.Generator, scale: float) -> _Layered:
    """IRMA as a few winding strands, new vessels as lacy fans."""
    parts = []
    for name, strands, points, bend in (("irma", 3, 14, 0.7), ("neovascularisation", 24, 18, 0.65)):
        for row in lesions.select(name):
            path = draw_curls(rng, strands, points, bend) * lesions.radius[row]
            path = (path + np.array([lesions.x[row], lesions.y[row]])) * scale
            start, end = path[:, :-1].reshape(-1, 2), path[:, 1:].reshape(-1, 2)
            drawn = line_points(start, end, np.full(len(start), lesions.calibre[row] * scale))
            parts.append((drawn.x, drawn.y, drawn.area, np.full(len(drawn.x), _LAYER[name])))
    return _joined(parts)


def _drusen(rng: np.random.Generator, scale: float) -> _Layered:
    """Pale spots of age round the macula, in two eyes of five; they have no bearing on the grade."""
    n = int(rng.integers(4, 40)) if rng.random() < 0.4 else 0
    x, y = rng.normal(0, 0.33, (2, n))
    return _nuisance("drusen", rng, x * scale, y * scale, rng.uniform(0.008, 0.02, n) * scale)


def _specks(rng: np.random.Generator, scale: float) -> _Layered:
    """Dark specks of pigment or of dust on the lens, in half of the eyes; they have no bearing on the grade."""
    n = int(rng.integers(1, 9)) if rng.random() < 0.5 else 0
    x, y = rng.normal(0, 0.5, (2, n))
    return _nuisance("specks", rng, x * scale, y * scale, (0.009 + 0.022 * rng.random(n) ** 2) * scale)


def _nuisance(name: str, rng: np.random.Generator, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> _Layered:
    edge, irregular = _SHAPES[name]
    points = blob_points(x, y, radius, draw_outlines(rng, len(x), irregular), edge=edge, irregular=irregular)
    return points.x, points.y, points.area, np.full(len(points.x), _LAYER[name])


def _joined(parts: list[_Layered]) -> _Layered:
    if not parts:
        return np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, dtype=int)
    x, y, area, layer = (np.concatenate(column) for column in zip(*parts, strict=True))
    return x, y, area, layer
