"""The embedded synthetic data sets: their table, and batches of them as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from transfuse.data.canvas import check_request
from transfuse.data.embolism import EMBOLISM_CLASSES, EmbolismPhantom, check_volume, embolism_label, embolism_phantom
from transfuse.data.fundus import FundusPhantom, fundus_grade, fundus_phantom, subpixel_lesions
from transfuse.data.lesions import GRADES, KINDS, Findings, dr_grade
from transfuse.data.natural import NATURAL_CLASSES, NaturalPhantom, natural_label, natural_phantom
from transfuse.data.textures import (
    SOURCE_CLASSES,
    TARGET_CLASSES,
    TexturePhantom,
    texture_label,
    texture_phantom,
)
from transfuse.errors import DataError, nearest

__all__ = [
    "PHANTOMS",
    "EmbolismPhantom",
    "Findings",
    "FundusPhantom",
    "NaturalPhantom",
    "PhantomBatch",
    "PhantomLabels",
    "PhantomSet",
    "TexturePhantom",
    "dr_grade",
    "embolism_phantom",
    "fundus_grade",
    "fundus_phantom",
    "natural_phantom",
    "phantom_labels",
    "phantom_masks",
    "phantoms",
    "subpixel_lesions",
    "texture_phantom",
]

_LICENCE = "Apache-2.0"


class PhantomSet(NamedTuple):
    """What is known of a synthetic data set before anything is drawn."""

    task: str
    classes: tuple[str, ...]
    default_count: int  # samples, if no number is asked for
    licence: str
    source: str
    channels: int = 3
    spatial_dims: int = 2


class PhantomLabels(NamedTuple):
    """Labels without pixels: targets (N,) int64 from 0, and ids."""

    targets: np.ndarray
    patient_ids: tuple[str, ...]
    sample_ids: tuple[str, ...]


class PhantomBatch(NamedTuple):
    """Samples: images (N, 3, size, size) or volumes (N, 1, size, size, size) uint8, targets (N,) int64 from 0, ids."""

    images: np.ndarray
    targets: np.ndarray
    patient_ids: tuple[str, ...]
    sample_ids: tuple[str, ...]


def phantom_labels(name: str, indices: Iterable[int], *, seed: int = 0) -> PhantomLabels:
    """Targets and ids of phantoms, without rendering them (about ten times faster than `phantoms`).

    Raises:
        DataError: an unknown name, an impossible index or seed.

    >>> phantom_labels("fundus-phantom", [6, 7]).patient_ids
    ('p000003', 'p000003')
    """
    _known(name)
    numbers = list(indices)
    targets = [_label(name, index, seed) for index in numbers]
    return PhantomLabels(np.array(targets, dtype=np.int64), *phantom_ids(name, numbers))


def phantoms(name: str, indices: Iterable[int], *, size: int = 64, seed: int = 0) -> PhantomBatch:
    """Synthetic images by number, with targets and ids; the same whatever else is asked for, in any order.

    Args:
        name: a key of `PHANTOMS`.
        indices: sample numbers from 0; every set goes on without an end.
        size: 32 to 587 px; of volumes 24 to 128 voxels.
        seed: another seed is another population.

    Raises:
        DataError: an unknown name, an impossible index, size or seed.

    >>> batch = phantoms("natural-phantom", range(3), size=32)
    >>> batch.images.shape, batch.images.dtype, batch.sample_ids[2]
    ((3, 3, 32, 32), dtype('uint8'), 's000002')
    """
    _known(name)
    phantom = PHANTOMS[name]
    (check_volume if phantom.spatial_dims == 3 else check_request)(0, size, seed)
    numbers = list(indices)
    images = np.empty((len(numbers), phantom.channels, *(size,) * phantom.spatial_dims), dtype=np.uint8)
    targets = np.empty(len(numbers), dtype=np.int64)
    for row, index in enumerate(numbers):
        images[row], targets[row] = _draw(name, index, size, seed)
    return PhantomBatch(images, targets, *phantom_ids(name, numbers))


def phantom_masks(
    name: str, indices: Iterable[int], *, size: int = 64, seed: int = 0, kinds: Sequence[str] | None = None
) -> np.ndarray:
    """Where in the images of `phantoms` the class is to be seen: the share of each pixel that is covered.

    Of a fundus it is the lesions, of a natural phantom the thing. Lesions smaller than a pixel cover a part of it, so
    `mask > 0.5` would lose them.

    Args:
        name: "fundus-phantom" or "natural-phantom".
        indices: sample numbers, as in `phantoms`; sample id "s000012" has number 12.
        size: as in `phantoms`.
        seed: as in `phantoms`.
        kinds: of a fundus: which kinds of lesions; None takes all. "vessels" and "disc" are no lesions, but have masks.

    Returns:
        (N, size, size) float32 in [0, 1]; zeros for an eye without lesions.

    Raises:
        DataError: a phantom without masks, an unknown kind, an impossible index, size or seed.

    >>> masks = phantom_masks("fundus-phantom", range(4), size=64)
    >>> masks.shape, (masks.max((1, 2)) > 0).tolist()
    ((4, 64, 64), [True, True, True, True])
    """
    _known(name)
    if name not in ("fundus-phantom", "natural-phantom"):
        raise DataError(f"{name!r} has no masks of images; choices: fundus-phantom, natural-phantom")
    choices = (*KINDS, "vessels", "disc") if name == "fundus-phantom" else ()
    wanted = tuple(KINDS if kinds is None else kinds)
    if kinds is not None and not (wanted and set(wanted) <= set(choices)):
        unknown = next((kind for kind in wanted if kind not in choices), "")
        raise DataError(f"{name!r} has no masks of lesions of kind {unknown!r}; {nearest(unknown, choices)}")
    check_request(0, size, seed)
    numbers = list(indices)
    masks = np.empty((len(numbers), size, size), dtype=np.float32)
    for row, index in enumerate(numbers):
        if name == "natural-phantom":
            masks[row] = natural_phantom(index, size=size, seed=seed).mask
        else:
            covers = fundus_phantom(index, size=size, seed=seed).masks
            masks[row] = np.max([covers[kind] for kind in wanted], axis=0)
    return masks / np.float32(255)


def _draw(name: str, index: int, size: int, seed: int) -> tuple[np.ndarray, int]:
    if name == "fundus-phantom":
        fundus = fundus_phantom(index, size=size, seed=seed)
        return fundus.image, fundus.grade - 1
    if name == "natural-phantom":
        natural = natural_phantom(index, size=size, seed=seed)
        return natural.image, natural.label
    if name == "embolism-phantom":
        volume = embolism_phantom(index, size=size, seed=seed)
        return volume.image, volume.label
    texture = texture_phantom(index, role=name.removeprefix("texture-"), size=size, seed=seed)
    return texture.image, texture.label


def _label(name: str, index: int, seed: int) -> int:
    if name == "fundus-phantom":
        return fundus_grade(index, seed=seed) - 1
    if name == "natural-phantom":
        return natural_label(index, seed=seed)
    if name == "embolism-phantom":
        return embolism_label(index, seed=seed)
    return texture_label(index, role=name.removeprefix("texture-"), seed=seed)


def phantom_ids(name: str, numbers: list[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Patient and sample ids; only fundus phantoms have two samples a patient."""
    samples = tuple(f"s{index:06d}" for index in numbers)
    return (tuple(f"p{index // 2:06d}" for index in numbers) if name == "fundus-phantom" else samples), samples


def _known(name: str) -> None:
    if name not in PHANTOMS:
        raise DataError(f"There is no phantom {name!r}; {nearest(name, PHANTOMS)}")


PHANTOMS: dict[str, PhantomSet] = {
    "fundus-phantom": PhantomSet(
        "ordinal",
        GRADES,
        2000,
        _LICENCE,
        "synthetic fundus photographs drawn by transfuse: no real patient; the grade follows from the drawn lesions by "
        "the international clinical diabetic retinopathy severity scale",
    ),
    "natural-phantom": PhantomSet(
        "multiclass",
        NATURAL_CLASSES,
        4800,
        _LICENCE,
        "synthetic pictures of 24 things drawn by transfuse: no photographs; the class is the silhouette",
    ),
    "texture-source": PhantomSet(
        "multiclass",
        SOURCE_CLASSES,
        2400,
        _LICENCE,
        "synthetic patches of fine stripes drawn by transfuse; the class is their orientation",
    ),
    "texture-target": PhantomSet(
        "binary",
        TARGET_CLASSES,
        600,
        _LICENCE,
        "synthetic faint patches of fine stripes on a retina-like field drawn by transfuse; the class is whether their "
        "orientation, in steps of 15 degrees, is even or odd",
    ),
    "embolism-phantom": PhantomSet(
        "binary",
        EMBOLISM_CLASSES,
        600,
        _LICENCE,
        "synthetic volumes of branching bright vessels drawn by transfuse, as in CT angiography of the lung: no real "
        "patient; the class is whether grey clots lie inside the vessels",
        channels=1,
        spatial_dims=3,
    ),
}
