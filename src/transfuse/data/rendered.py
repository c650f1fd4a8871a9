"""Phantoms as a data set: rendered once, at the size that is wanted, straight into the pixel cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transfuse.data.cache import key_of, pixel_file, remembered, write_pixels
from transfuse.data.drawn_masks import read_drawn
from transfuse.data.phantoms import PHANTOMS, phantoms, subpixel_lesions
from transfuse.data.records import Records
from transfuse.data.vessel_volumes import VESSEL_VOLUMES
from transfuse.data.vessels import VESSELS
from transfuse.data.volumes import OF_A_VOLUME, Volume

# The modules that draw: what changes in them changes the phantoms.
_DRAWING = (
    "canvas", "embolism", "fundus", "layers", "lesions", "natural", "phantoms", "photograph", "placement", "rendered",
    "retina", "silhouettes", "strokes", "textures", "vessel_tree",
)  # fmt: skip
_DRAWING_MASKS = (*_DRAWING, "drawn_masks", "vessels", "vessel_volumes")
_WITH_MASKS = {drawn.name: drawn for drawn in (VESSELS, VESSEL_VOLUMES)}
_CHUNK = 64  # phantoms that are in memory at once


@dataclass(frozen=True)
class PhantomImages:
    """The recipe of a set of phantoms."""

    name: str
    count: int
    size: int
    seed: int

    def arrays(self) -> Iterator[np.ndarray]:
        """The images `(size, size, 3)` in order."""
        for start in range(0, self.count, _CHUNK):
            indices = range(start, min(start + _CHUNK, self.count))
            for image in phantoms(self.name, indices, size=self.size, seed=self.seed).images:
                yield image.transpose(1, 2, 0)


@dataclass(frozen=True)
class PhantomVolumes:
    """The recipe of a set of phantoms of volumes."""

    name: str
    count: int
    size: int
    seed: int

    def volumes(self) -> Iterator[Volume]:
        """The volumes in order."""
        for index in range(self.count):
            yield Volume(phantoms(self.name, [index], size=self.size, seed=self.seed).images[0, 0])


def phantom_names() -> tuple[str, ...]:
    """The phantoms that can be opened as data sets."""
    return (*PHANTOMS, *_WITH_MASKS)


def read_phantom(name: str, *, count: int | None, size: int, seed: int, cache: Path) -> Records:
    """A set of `count` phantoms (default: the phantom's own number), drawn on the first call and remembered.

    Raises:
        DataError: a size or seed that the phantom cannot be drawn at.
    """
    if name in _WITH_MASKS:
        code = _recipe(modules=_DRAWING_MASKS)
        return read_drawn(_WITH_MASKS[name], count=count, size=size, seed=seed, code=code, cache=cache)
    phantom = PHANTOMS[name]
    count = count or phantom.default_count
    store = cache / f"phantom-{key_of(name, count, size, seed, _recipe())}.npz"
    facts = remembered(store, lambda: _render(name, count, size, seed, cache))
    return Records(
        name=name,
        task=phantom.task,
        classes=phantom.classes,
        targets=facts["targets"],
        sample_ids=tuple(map(str, facts["sample_ids"])),
        patient_ids=tuple(map(str, facts["patient_ids"])),
        images=(PhantomVolumes if phantom.spatial_dims == 3 else PhantomImages)(name, count, size, seed),
        image_hashes=tuple(map(str, facts["hashes"])),
        channels=phantom.channels,
        source=f"{phantom.source} (seed {seed})",
        licence=phantom.licence,
        synthetic=True,
        notes=tuple(map(str, facts["notes"])),
        spatial_dims=phantom.spatial_dims,
        values=OF_A_VOLUME if phantom.spatial_dims == 3 else "",
    )


def _render(name: str, count: int, size: int, seed: int, cache: Path) -> dict[str, np.ndarray]:
    """Draw the phantoms into their pixel file; their targets, ids and hashes."""
    hashes: list[str] = []
    targets: list[int] = []
    patient_ids: list[str] = []
    sample_ids: list[str] = []

    def draw() -> Iterator[np.ndarray]:
        for start in range(0, count, _CHUNK):
            batch = phantoms(name, range(start, min(start + _CHUNK, count)), size=size, seed=seed)
            targets.extend(batch.targets.tolist())
            patient_ids.extend(batch.patient_ids)
            sample_ids.extend(batch.sample_ids)
            for image in batch.images:
                hashes.append(hashlib.sha256(np.ascontiguousarray(image).data).hexdigest())
                yield image

    draft = (
        cache / f"drawing-{key_of(name, count, size, seed, _recipe())}.npy"
    )  # its final name follows from the hashes
    phantom = PHANTOMS[name]
    shape = (count, phantom.channels, *(size,) * phantom.spatial_dims)
    write_pixels(draft, shape, np.dtype(np.uint8), draw())
    fit = "crop" + (OF_A_VOLUME if phantom.spatial_dims == 3 else "")
    os.replace(draft, pixel_file(cache, hashes, size, phantom.channels, fit, 255))
    return {
        "targets": np.array(targets, np.int64),
        "sample_ids": np.array(sample_ids),
        "patient_ids": np.array(patient_ids),
        "hashes": np.array(hashes),
        "notes": np.array(_notes(name, size, seed, count), dtype=str),
    }


def _notes(name: str, size: int, seed: int, count: int) -> list[str]:
    if name != "fundus-phantom":
        return []
    rows = [row for row in subpixel_lesions(size, seed, count) if row["subpixel"]]
    if not rows:
        return []
    grades = "; ".join(
        f"grade {row['grade']}: {row['subpixel']} of {row['lesions']} lesions, "
        f"{row['invisible']} of {row['images']} images with no larger one"
        for row in rows
    )
    return [f"At {size} px some lesions are smaller than a pixel and only dim it ({grades})."]


def _recipe(folder: Path = Path(__file__).parent, modules: Sequence[str] = _DRAWING) -> str:
    """A hash of the code that draws, so that changed phantoms are drawn again and other changes redraw none."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update((folder / f"{module}.py").read_bytes())
    return digest.hexdigest()
