"""The lesions of a synthetic diabetic retina: what they are, where they lie, and the grade that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from transfuse.errors import DataError

QUADRANTS = ("superior-temporal", "superior-nasal", "inferior-temporal", "inferior-nasal")
GRADES = ("1 no apparent DR", "2 mild", "3 moderate", "4 severe", "5 proliferative")

Counts = tuple[int, int, int, int]
NONE: Counts = (0, 0, 0, 0)


@dataclass(frozen=True)
class Findings:
    """How many lesions of each kind lie in each of the four `QUADRANTS` of one eye.

    Attributes:
        microaneurysms: dots of less than 125 µm.
        haemorrhages: intraretinal haemorrhages, dot and blot.
        hard_exudates: single exudates, most of them in clusters.
        cotton_wool_spots: soft exudates.
        venous_beading: 1 where the veins of the quadrant are definitely beaded.
        irma: all intraretinal microvascular abnormalities, faint and prominent.
        prominent_irma: those of them that are prominent.
        neovascularisation: tufts of new vessels, at the disc or elsewhere.
        preretinal_haemorrhages: preretinal or vitreous haemorrhages.
    """

    microaneurysms: Counts = NONE
    haemorrhages: Counts = NONE
    hard_exudates: Counts = NONE
    cotton_wool_spots: Counts = NONE
    venous_beading: Counts = NONE
    irma: Counts = NONE
    prominent_irma: Counts = NONE
    neovascularisation: Counts = NONE
    preretinal_haemorrhages: Counts = NONE

    def __post_init__(self) -> None:
        for field in fields(self):
            counts = getattr(self, field.name)
            if len(counts) != 4 or any(int(count) != count or count < 0 for count in counts):
                raise DataError(
                    f"Findings.{field.name} is {counts!r}: give four whole numbers of at least 0, one a quadrant "
                    f"({', '.join(QUADRANTS)})."
                )
        if any(prominent > every for prominent, every in zip(self.prominent_irma, self.irma, strict=True)):
            raise DataError(
                f"Findings.prominent_irma is {self.prominent_irma!r}, more than irma {self.irma!r}: irma "
                "counts all of "
                "them, so add the prominent ones to it."
            )


def dr_grade(findings: Findings) -> int:
    """The grade 1 to 5 of one eye by the international clinical diabetic retinopathy disease severity scale.

    1 no abnormalities; 2 mild: microaneurysms only; 3 moderate: more than that but less than severe; 4 severe: any of
    more than 20 intraretinal haemorrhages in each of four quadrants, definite venous beading in two or more quadrants,
    prominent IRMA in one or more, and no sign of proliferation; 5 proliferative: neovascularisation, or vitreous or
    preretinal haemorrhage. Source: Wilkinson et al., Ophthalmology 110 (2003) 1677, table 2; the numbering 1 to 5 is
    that of T (referable = 3 and more).

    >>> dr_grade(Findings(microaneurysms=(3, 0, 0, 0)))
    2
    >>> dr_grade(Findings(haemorrhages=(21, 21, 21, 20))), dr_grade(Findings(haemorrhages=(21, 21, 21, 21)))
    (3, 4)
    """
    if any(findings.neovascularisation) or any(findings.preretinal_haemorrhages):
        return 5
    four = all(count > 20 for count in findings.haemorrhages)
    two = sum(count > 0 for count in findings.venous_beading) >= 2
    one = any(findings.prominent_irma)
    if four or two or one:
        return 4
    beyond_mild = (
        findings.haemorrhages,
        findings.hard_exudates,
        findings.cotton_wool_spots,
        findings.venous_beading,
        findings.irma,
    )
    if any(any(counts) for counts in beyond_mild):
        return 3
    return 2 if any(findings.microaneurysms) else 1


# Each kind of lesion is one layer of the picture and one mask.
BLOBS = ("microaneurysms", "haemorrhages", "hard_exudates", "cotton_wool_spots", "preretinal_haemorrhages")
KINDS = (*BLOBS, "irma", "neovascularisation", "venous_beading")


@dataclass(frozen=True)
class Lesions:
    """All placed lesions of one eye, one row each.

    Lengths are in units of the retina's radius, x towards the nose, y downwards, from the centre of the picture.

    Attributes:
        kind: index into `KINDS`, (n,).
        x: (n,).
        y: (n,).
        radius: half the diameter of a blob, half the extent of a tuft or of an IRMA, (n,).
        calibre: the diameter that has to be resolved to see the lesion: of a blob its own, otherwise that of its
            vessels, (n,).
        prominent: of IRMA, (n,) bool.
    """

    kind: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    calibre: np.ndarray
    prominent: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    def select(self, name: str) -> np.ndarray:
        """Row numbers of the lesions of a kind, in order."""
        return np.flatnonzero(self.kind == KINDS.index(name))

    def quadrant(self) -> np.ndarray:
        """Index into `QUADRANTS`, (n,)."""
        return quadrant_of(self.x, self.y)

    def findings(self) -> Findings:
        """The lesions counted by kind and quadrant."""
        table = np.zeros((len(KINDS), 4), dtype=int)
        quadrant = self.quadrant()
        np.add.at(table, (self.kind, quadrant), 1)
        counted = {name: _counts(table[row]) for row, name in enumerate(KINDS)}
        return Findings(**counted, prominent_irma=_counts(np.bincount(quadrant[self.prominent], minlength=4)))


def quadrant_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Index into `QUADRANTS` of positions (x towards the nose, y downwards)."""
    return 2 * (y > 0) + (x > 0)


def _counts(values: np.ndarray) -> Counts:
    a, b, c, d = (int(value) for value in values)
    return a, b, c, d
