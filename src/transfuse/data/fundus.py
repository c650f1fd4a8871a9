"""Fundus phantoms: synthetic retinas whose diabetic retinopathy grade follows from the lesions placed in them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from transfuse.data.canvas import check_request, stream, to_bytes
from transfuse.data.layers import draw_layers
from transfuse.data.lesions import GRADES, KINDS, Findings, Lesions, dr_grade
from transfuse.data.photograph import draw_disc, photograph
from transfuse.data.placement import place_lesions
from transfuse.data.retina import Anatomy, draw_anatomy, draw_vessels

EYE_CORRELATION = 0.85  # of the severity (on the normal scale) of the two eyes of a patient
FIELD = 0.97  # the retina's radius over half the picture, at most

_PATIENT, _ANATOMY, _VESSELS, _LESIONS, _LIGHT, _NOISE = 11, 12, 13, 14, 15, 16  # streams


@dataclass(frozen=True)
class FundusPhantom:
    """One synthetic photograph of a retina with everything that is true about it.

    Attributes:
        image: (3, size, size) uint8, RGB.
        grade: 1 to 5, `dr_grade(findings)`.
        patient: two eyes a patient.
        eye: "right" or "left".
        findings: lesions by kind and quadrant, as placed (whatever of them a size can show).
        masks: area covered, 0 to 255 of a pixel, (size, size) uint8, for "vessels", "disc" and each kind of lesion;
            `mask > 127` is the usual binary mask.
        subpixel: how many placed lesions have a diameter (vascular ones: a calibre) below one pixel at this size.
    """

    image: np.ndarray
    grade: int
    patient: int
    eye: str
    findings: Findings
    masks: dict[str, np.ndarray]
    subpixel: int

    @property
    def lesions(self) -> dict[str, int]:
        """How many lesions of each kind."""
        return {name: sum(getattr(self.findings, name)) for name in KINDS}


@dataclass(frozen=True)
class _Eye:
    anatomy: Anatomy
    lesions: Lesions
    field: float  # the retina's radius over half the picture


def fundus_phantom(index: int, *, size: int = 64, seed: int = 0) -> FundusPhantom:
    """The synthetic retina number `index`: indices 2p and 2p + 1 are the right and the left eye of patient p.

    The eye is a function of (seed, index) alone; `size` (32 to 587 px) only sets the resolution (the camera's noise is
    drawn at each size). Lesions smaller than a pixel darken it by their share of its area; they are never enlarged.

    Raises:
        DataError: an impossible index, size or seed.

    >>> phantom = fundus_phantom(3, size=64)
    >>> phantom.image.shape, phantom.patient, phantom.eye, phantom.grade == dr_grade(phantom.findings)
    ((3, 64, 64), 1, 'left', True)
    """
    check_request(index, size, seed)
    eye, mirror = _eye(index, seed), index % 2 == 1
    layers = draw_layers(
        stream(seed, _LESIONS, index, 1),
        draw_vessels(stream(seed, _VESSELS, index), eye.anatomy),
        eye.lesions,
        radius=eye.field * size / 2,
        size=size,
        mirror=mirror,
    )
    layers["disc"], layers["cup"] = draw_disc(eye.anatomy, field=eye.field, size=size, mirror=mirror)
    image = photograph(
        eye.anatomy,
        layers,
        field=eye.field,
        mirror=mirror,
        camera=stream(seed, _PATIENT, index // 2, 1),
        light=stream(seed, _LIGHT, index),
        noise=stream(seed, _NOISE, index, size),
    )
    masks = {"vessels": np.maximum(layers["arteries"], layers["veins"]), "disc": layers["disc"]}
    masks |= {name: layers[name] for name in KINDS}
    findings = eye.lesions.findings()
    return FundusPhantom(
        image=image,
        grade=dr_grade(findings),
        patient=index // 2,
        eye="left" if mirror else "right",
        findings=findings,
        masks={name: to_bytes(cover) for name, cover in masks.items()},
        subpixel=int((_pixels(eye, size) < 1.0).sum()),
    )


def fundus_grade(index: int, *, seed: int = 0) -> int:
    """The grade 1 to 5 of `fundus_phantom(index, seed=seed)`, without rendering it."""
    check_request(index, 64, seed)
    return dr_grade(_eye(index, seed).lesions.findings())


def subpixel_lesions(size: int, seed: int, count: int) -> list[dict[str, float]]:
    """How many lesions of the phantoms 0 to `count` - 1 are smaller than a pixel at `size`, one row a grade.

    Each row holds grade, images, lesions, subpixel (lesions with a diameter below one pixel) and invisible (images of
    that grade whose every lesion is below one pixel). Nothing is rendered.

    >>> mild = subpixel_lesions(64, seed=0, count=40)[1]
    >>> mild["grade"], mild["subpixel"] == mild["lesions"]  # at 64 px no microaneurysm fills a pixel
    (2, True)
    """
    check_request(max(count - 1, 0), size, seed)
    names = ("images", "lesions", "subpixel", "invisible")
    table = np.zeros((len(GRADES), len(names)), dtype=int)
    for index in range(count):
        eye = _eye(index, seed)
        small = _pixels(eye, size) < 1.0
        row = 1, len(small), int(small.sum()), int(len(small) > 0 and small.all())
        table[dr_grade(eye.lesions.findings()) - 1] += row
    return [{"grade": grade} | dict(zip(names, row, strict=True)) for grade, row in enumerate(table.tolist(), start=1)]


def _eye(index: int, seed: int) -> _Eye:
    """The eye without pixels."""
    patient = stream(seed, _PATIENT, index // 2)
    shared, field = float(patient.standard_normal()), FIELD - 0.05 * patient.random()
    anatomy = draw_anatomy(patient, stream(seed, _ANATOMY, index))
    rng = stream(seed, _LESIONS, index)
    latent = EYE_CORRELATION**0.5 * shared + (1 - EYE_CORRELATION) ** 0.5 * float(rng.standard_normal())
    return _Eye(anatomy, place_lesions(rng, NormalDist().cdf(latent), anatomy.disc, anatomy.fovea), field)


def _pixels(eye: _Eye, size: int) -> np.ndarray:
    """Calibre of the lesions in pixels."""
    return eye.lesions.calibre * (eye.field * size / 2)
