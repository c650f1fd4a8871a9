"""Where the lesions of a synthetic diabetic retina are put, by severity.

Sizes are the anatomical ones: a 45° photograph shows about 13.5 mm, so a retina's radius is 6.75 mm and 125 µm
across, the limit between microaneurysm and haemorrhage, is a radius of 0.0093.
"""

from __future__ import annotations

import numpy as np

from transfuse.data.lesions import KINDS, Lesions

# Shares of the population meant for the grades 1 to 5; the grade itself is read off the lesions that were placed.
GRADE_SHARES = (0.34, 0.16, 0.22, 0.14, 0.14)

_RADII = {  # of the retina's radius: from, to
    "microaneurysms": (0.004, 0.0093),
    "haemorrhages": (0.0095, 0.036),
    "hard_exudates": (0.005, 0.014),
    "cotton_wool_spots": (0.025, 0.055),
    "preretinal_haemorrhages": (0.11, 0.24),
}
_EDGE = 0.93  # no lesion is put farther out


class _Placer:
    """Collects the rows of one eye's lesions; all chance comes from `rng`."""

    def __init__(self, rng: np.random.Generator, disc: np.ndarray, fovea: np.ndarray) -> None:
        self.rng, self.disc, self.fovea = rng, disc, fovea
        self.rows: list[np.ndarray] = []

    def add(
        self, name: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray, calibre: np.ndarray, prominent: bool = False
    ) -> None:
        kind = np.full(len(x), float(KINDS.index(name)))
        self.rows.append(np.stack([kind, x, y, radius, calibre, np.full(len(x), float(prominent))], axis=1))

    def positions(self, counts: np.ndarray, margin: np.ndarray | float, inner: float) -> tuple[np.ndarray, np.ndarray]:
        """Uniform positions with `counts` (4,) in the quadrants, off the disc by `margin`."""
        quadrant = np.repeat(np.arange(4), counts)
        tries = 4  # the disc covers 2 % of the retina
        angle = self.rng.uniform(0.02, np.pi / 2 - 0.02, (tries, len(quadrant)))
        distance = np.sqrt(self.rng.uniform(inner**2, _EDGE**2, (tries, len(quadrant))))
        x = distance * np.cos(angle) * np.where(quadrant % 2 == 1, 1, -1)
        y = distance * np.sin(angle) * np.where(quadrant >= 2, 1, -1)
        free = np.hypot(x - self.disc[0], y - self.disc[1]) > self.disc[2] * 1.1 + margin
        chosen = free.argmax(axis=0), np.arange(len(quadrant))
        return x[chosen], y[chosen]

    def blobs(self, name: str, counts: np.ndarray, inner: float = 0.12) -> None:
        small, large = _RADII[name]
        radius = small + (large - small) * self.rng.random(int(counts.sum())) ** 3  # most are small
        x, y = self.positions(counts, radius, inner)
        self.add(name, x, y, radius, 2 * radius)

    def tangles(self, counts: np.ndarray, prominent: bool) -> None:
        n = int(counts.sum())
        radius = self.rng.uniform(0.05, 0.09, n) * (1.5 if prominent else 1.0)
        calibre = self.rng.uniform(0.008, 0.012, n) if prominent else self.rng.uniform(0.004, 0.007, n)
        x, y = self.positions(counts, radius, 0.3)
        self.add("irma", x, y, radius, calibre, prominent)

    def spread(self, total: int, evenness: float = 2.0) -> np.ndarray:
        """`total` lesions over the quadrants, unevenly."""
        return self.rng.multinomial(total, self.rng.dirichlet(np.full(4, evenness)))

    def some_quadrants(self, count: int) -> np.ndarray:
        """`count` quadrants, 0 or 1 each, (4,)."""
        return (self.rng.permutation(4) < count).astype(int)

    def exudate_cluster(self) -> None:
        """Exudates on an arc round a leak, most often near the macula."""
        rng, n = self.rng, int(self.rng.integers(6, 22))
        centre = self.fovea + rng.normal(0.0, 0.28, 2)
        ring, start, width = rng.uniform(0.05, 0.18), rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 2 * np.pi)
        angle = start + width * rng.random(n)
        distance = ring * (1 + 0.22 * rng.standard_normal(n))
        x, y = centre[0] + distance * np.cos(angle), centre[1] + distance * np.sin(angle)
        small, large = _RADII["hard_exudates"]
        radius = small + (large - small) * rng.random(n) ** 2
        seen = (np.hypot(x, y) < _EDGE) & (np.hypot(x - self.disc[0], y - self.disc[1]) > 1.1 * self.disc[2] + radius)
        self.add("hard_exudates", x[seen], y[seen], radius[seen], 2 * radius[seen])

    def beading(self, quadrants: np.ndarray) -> None:
        """One row a quadrant, in its middle; the calibre is that of a large vein."""
        which = np.flatnonzero(quadrants)
        side = np.where(which % 2 == 1, 0.5, -0.5), np.where(which >= 2, 0.5, -0.5)
        self.add("venous_beading", *side, np.full(len(which), 0.5), np.full(len(which), 0.028))

    def new_vessels(self, at_disc: bool) -> None:
        rng, n = self.rng, 1 if at_disc else int(self.rng.integers(1, 4))
        radius = rng.uniform(0.09, 0.2, n)
        if at_disc:
            angle = rng.uniform(0, 2 * np.pi, n)
            x, y = self.disc[0] + 0.8 * self.disc[2] * np.cos(angle), self.disc[1] + 0.8 * self.disc[2] * np.sin(angle)
        else:
            x, y = self.positions(self.spread(n), radius * 0.5, 0.4)
        self.add("neovascularisation", x, y, radius, rng.uniform(0.0045, 0.0075, n))


def place_lesions(rng: np.random.Generator, severity: float, disc: np.ndarray, fovea: np.ndarray) -> Lesions:
    """Put lesions into one eye, the more and the worse the higher the severity.

    Args:
        rng: the eye's stream.
        severity: 0 to 1, uniform over the population; `GRADE_SHARES` cuts it into five stages. The stage steers what
            is placed; the grade is `dr_grade` of what came of it.
        disc: x, y, radius of the optic disc (units and axes of `Lesions`).
        fovea: x, y.
    """
    bounds = np.cumsum(GRADE_SHARES)
    stage = int(np.searchsorted(bounds[:-1], severity, side="right"))
    depth = (severity - bounds[stage]) / GRADE_SHARES[stage] + 1.0  # 0 to 1 within the stage
    eye = _Placer(rng, disc, fovea)
    if stage >= 1:
        eye.blobs("microaneurysms", eye.spread(1 + rng.poisson(6.0 * depth + 3.0 if stage == 1 else 15.0)), inner=0.05)
    if stage >= 2:
        severe = stage == 3 or (stage == 4 and rng.random() < 0.5)
        signs = rng.random(3) < (0.35, 0.45, 0.55)
        signs[rng.integers(3)] |= severe
        many, beaded, tangled = signs & severe
        counts = eye.spread(1 + rng.poisson(1.0 + 12.0 * depth if stage == 2 else 18.0))
        eye.blobs("haemorrhages", counts if not many else counts // 4 + rng.integers(21, 30, 4))
        for _ in range(rng.poisson(0.5 + 0.9 * depth if stage == 2 else 1.4)):
            eye.exudate_cluster()
        eye.blobs("cotton_wool_spots", eye.spread(rng.poisson(0.9 if stage == 2 else 1.6)), inner=0.35)
        eye.beading(eye.some_quadrants(int(rng.integers(2, 5)) if beaded else int(rng.random() < 0.12)))
        eye.tangles(eye.spread(rng.poisson(0.4)), prominent=False)
        if tangled:
            eye.tangles(eye.spread(int(rng.integers(1, 5))), prominent=True)
    if stage == 4:
        bleeding, at_disc = rng.random(2) < (0.35, 0.45)
        elsewhere = rng.random() < 0.6 or not (bleeding or at_disc)
        if at_disc:
            eye.new_vessels(at_disc=True)
        if elsewhere:
            eye.new_vessels(at_disc=False)
        if bleeding:
            eye.blobs("preretinal_haemorrhages", eye.spread(1 + rng.poisson(0.3)), inner=0.3)
    table = np.concatenate(eye.rows) if eye.rows else np.zeros((0, 6))
    kind, x, y, radius, calibre, prominent = table.T
    return Lesions(kind.astype(int), x, y, radius, calibre, prominent > 0)
