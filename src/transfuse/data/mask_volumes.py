"""Masks of volumes: NIfTI files whose values are class indices, one label a voxel of the volume that they belong to.

A mask lies where its volume lies: after both are turned to one orientation (`nifti.py`) they have the same shape, and
no corner of the mask is further than `APART` of a voxel from that of the volume. So what becomes of a volume (a cube of
millimetres) becomes of its mask, each new voxel with its nearest label.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from transfuse.data.cache import key_of
from transfuse.data.files import stamp_of
from transfuse.data.masks import MISSING, UNNAMED, MaskFacts, Masks, NamedMasks, remembered_masks, usable_masks
from transfuse.data.nifti import is_nifti, oriented
from transfuse.data.volumes import Volume, box_of, is_isotropic
from transfuse.errors import DataError

APART = 0.1
"""Share of a voxel's smallest side that the corners of a mask and its volume may be apart: headers are rounded."""


class MaskVolumes(NamedMasks):
    """Masks of volumes."""

    def volumes(self) -> Iterator[Volume]:
        """The label maps `(D, H, W)`, uint8, turned as their volumes are, with the sides of their voxels.

        Raises:
            DataError: a file is gone, or is another one than when the data set was opened.
        """
        for data in self.contents():
            image, spacing = oriented(data)
            yield Volume(self.classes_of(_labels_of(image)), spacing)


def cube_labels(volume: Volume, size: int, fit: str) -> np.ndarray:
    """Bring a label map `(D, H, W)` to a cube as `to_voxels` brings its volume, each voxel its nearest label.

    What `fit` "pad" adds is background, 0.

    >>> flat = Volume(np.array([[[0, 0, 1, 1]] * 4] * 2, np.uint8), (2.0, 1.0, 1.0))  # 4 mm a side
    >>> cube_labels(flat, 2, "crop").tolist()
    [[[0, 1], [0, 1]], [[0, 1], [0, 1]]]
    """
    labels = volume.voxels
    for axis, (start, stop) in enumerate(box_of(labels.shape, volume.spacing, fit)):
        count = labels.shape[axis]
        centres = start + (np.arange(size) + 0.5) * ((stop - start) / size)
        nearest = np.floor(centres + 1e-6).astype(np.int64)
        outside = (nearest < 0) | (nearest >= count)
        labels = np.take(labels, nearest.clip(0, count - 1), axis=axis)
        labels[(slice(None),) * axis + (outside,)] = 0
    return labels


def read_mask_volumes(
    paths: Sequence[Path | None],
    names: Sequence[str],
    volumes: Sequence[Path],
    where: str,
    *,
    classes: Sequence[str] = (),
    bad_images: str = "raise",
    cache: Path,
) -> Masks:
    """Look at the masks of some volumes: each is decoded once, and remembered.

    Args:
        paths: a mask for each volume; None where none is named.
        names: sample ids.
        volumes: the volumes' files, which can be read.
        where: what the message says they are of.
        classes: names in the order of the labels; without them: "background" and "foreground", or "class 1", ...
        bad_images: "raise", or "exclude" to leave out volumes whose mask cannot be used.
        cache: folder of the cache.

    Raises:
        DataError: masks that are missing, no NIfTI files, of another shape or place than their volume, or with labels
            that no class has; all of them are listed at once.
    """
    facts = _scanned(paths, volumes, cache)
    problems = {i: fact.reason for i, fact in enumerate(facts) if fact.reason}
    return usable_masks(MaskVolumes, paths, names, facts, problems, where, classes=classes, bad_images=bad_images)


def _scanned(paths: Sequence[Path | None], volumes: Sequence[Path], folder: Path) -> list[MaskFacts]:
    """What is known of each mask beside its volume, or was when both had this size and time of change."""
    store = folder / f"masks-{key_of('3d', os.path.commonpath([os.path.abspath(path) for path in volumes]))}.json"
    jobs = {}
    keys = []
    for path, volume in zip(paths, volumes, strict=True):
        stamp = "" if path is None else stamp_of(path)
        keys.append(f"{os.path.abspath(path or '')}|{stamp}|{os.path.abspath(volume)}|{stamp_of(volume)}")
        if stamp:
            jobs[keys[-1]] = (path, volume)
    known = remembered_masks(store, jobs, _scan_one)
    nothing = (UNNAMED if path is None else MISSING for path in paths)
    return [known.get(key, otherwise) for key, otherwise in zip(keys, nothing, strict=True)]


def _scan_one(job: tuple[Path, Path]) -> MaskFacts:
    path, volume = job
    sha256 = ""
    try:
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        if not is_nifti(path):
            raise DataError("is no NIfTI file, and its volume is one")
        image, spacing = oriented(data)
        own, of_volume = oriented(volume.read_bytes())
        if wrong := _elsewhere(image, spacing, own, of_volume):
            raise DataError(wrong)
        labels = _labels_of(image)
    except (DataError, OSError) as error:
        return MaskFacts(str(error), sha256, 0, 0, ())
    return MaskFacts("", sha256, 0, 0, tuple(np.unique(labels).tolist()))


def _elsewhere(mask: Any, spacing: Sequence[float], volume: Any, of_volume: Sequence[float]) -> str:
    """What is wrong with the shape and place of a mask, both turned to one orientation; empty if nothing is."""
    shape, own = mask.shape[:3], volume.shape[:3]
    if shape != own:
        return f"has {' x '.join(map(str, shape))} voxels, and its volume {' x '.join(map(str, own))}"
    corners = np.array([[*corner, 1] for corner in product(*((0, count - 1) for count in own))], np.float64)
    apart = float(np.linalg.norm((corners @ (mask.affine - volume.affine).T)[:, :3], axis=1).max())
    if apart > APART * min(of_volume):
        return f"lies elsewhere than its volume: by their affine matrices, corners are {apart:.3g} mm apart"
    if not all(is_isotropic(pair) for pair in zip(spacing, of_volume, strict=True)):
        sides, others = (" x ".join(f"{width:.3g}" for width in widths[::-1]) for widths in (spacing, of_volume))
        return f"has voxels of {sides} mm, and its volume of {others} mm"
    return ""


def _labels_of(image: Any) -> np.ndarray:
    """The labels of a turned image, `(D, H, W)` int64; DataError if they are no whole numbers."""
    try:
        values = np.asarray(image.dataobj)
    except Exception as error:  # nibabel has a dozen, of no common family
        raise DataError(f"cannot be read as NIfTI ({str(error).strip() or type(error).__name__})") from None
    values = values.reshape(values.shape[:3]).transpose(2, 1, 0)
    whole = np.isfinite(values) & (values == np.rint(values)) if values.dtype.kind == "f" else np.ones((), bool)
    if not whole.all():
        other = values[~whole][0]
        raise DataError(f"holds the value {other:g}; expected whole numbers, one class index a voxel")
    return values.astype(np.int64)
