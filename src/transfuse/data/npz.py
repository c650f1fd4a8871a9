"""NPZ files in the layout of MedMNIST: `{train,val,test}_images` and `{train,val,test}_labels`.

Beyond it, `{train,val,test}_patients`, or one array `patients` for all images, name the patient of each image.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from transfuse.data.cache import key_of, remembered
from transfuse.data.catalogue import KnownSet
from transfuse.data.images import dark_note, white_level
from transfuse.data.npz_patients import PATIENTS, patient_arrays, patients_of
from transfuse.data.records import PARTS, Records, listed, positive_note
from transfuse.data.volumes import OF_A_VOLUME, Volume
from transfuse.errors import DataError

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError)
_CHUNK = 256  # images that are in memory at once, at most
_CHUNK_BYTES = 1 << 26  # of large ones, such as volumes, fewer


@dataclass(frozen=True)
class NpzImages:
    """The images of an .npz file, read in pieces, part after part."""

    path: str
    parts: tuple[str, ...]

    def arrays(self) -> Iterator[np.ndarray]:
        """The images `(H, W)` or `(H, W, 3)` in the order of the file."""
        for part in self.parts:
            for images in _chunks(Path(self.path), f"{part}_images"):
                for image in images:
                    yield image[..., 0] if image.shape[-1:] == (1,) else image


@dataclass(frozen=True)
class NpzVolumes:
    """The volumes of an .npz file, read in pieces, part after part; such a file says nothing of the size of voxels."""

    path: str
    parts: tuple[str, ...]

    def volumes(self) -> Iterator[Volume]:
        """The volumes `(D, H, W)` in the order of the file."""
        for part in self.parts:
            for volumes in _chunks(Path(self.path), f"{part}_images"):
                for volume in volumes:
                    yield Volume(volume.reshape([count for count in volume.shape if count > 1]))


def read_npz(path: Path, *, known: KnownSet | None, fit: str, cache: Path) -> Records:
    """Read an .npz file of images, or of volumes (N, D, H, W); a sample's id is its part and its row.

    Args:
        path: the file.
        known: task, classes and licence where the data set is in the catalogue; otherwise guessed from the labels.
        fit: how images become square.
        cache: the folder where labels and hashes are remembered.

    Raises:
        DataError: no such arrays, labels that fit no task, patients of some images only, or a damaged file.
    """
    status = path.stat()
    store = cache / f"npz-{key_of(3, str(path.absolute()), status.st_size, status.st_mtime_ns)}.npz"
    facts = remembered(store, lambda: _facts(path))
    parts = tuple(part for part in PARTS if f"{part}_labels" in facts)
    tables = [facts[f"{part}_labels"].reshape(len(facts[f"{part}_labels"]), -1) for part in parts]
    if len({table.shape[1] for table in tables}) > 1:
        columns = ", ".join(f"{part} {table.shape[1]}" for part, table in zip(parts, tables, strict=True))
        raise DataError(f"{path}: the parts' labels have different numbers of columns ({columns}).")
    labels = np.concatenate(tables)
    *sides, channels = (int(number) for number in facts["shape"])
    solid = len(sides) == 3
    things, what, shape = ("volumes", "voxels", "cubes") if solid else ("images", "pixels", "square")
    measures = f"{' x '.join(map(str, sides))} {what}"
    task, classes, targets = _targets(labels, path, known)
    white = white_level(int(facts["maximum"])) if facts["depth"] == 16 else 255
    notes = list(positive_note(classes, "label 1")) if task == "binary" and known is None else []
    if facts["depth"] == 16:
        notes.append(
            f"The {things} have 16 bits, with values up to {int(facts['maximum'])}: depth is kept, and "
            f"{white} counts as white."
        )
        names = [f"{part}-{row:06d}" for part in parts for row in range(len(facts[f"{part}_labels"]))]
        notes += dark_note(np.concatenate([facts[f"{part}_maxima"] for part in parts]).tolist(), names)
    if len(set(sides)) > 1:
        notes.append(f"The {things} are {measures}, not {shape}.")
    if solid and known is None:
        notes.append("An .npz file does not say how large its voxels are: they count as cubes.")
    return Records(
        name=path.stem,
        task=task,
        classes=classes,
        targets=targets,
        sample_ids=tuple(f"{part}-{row:06d}" for part in parts for row in range(len(facts[f"{part}_labels"]))),
        images=(NpzVolumes if solid else NpzImages)(str(path.absolute()), parts),
        image_hashes=tuple(str(item) for part in parts for item in facts[f"{part}_hashes"]),
        channels=channels,
        white=white,
        side=min(sides) if fit != "pad" else max(sides),
        parts=np.concatenate([np.full(len(facts[f"{part}_labels"]), part) for part in parts])
        if len(parts) > 1
        else None,
        patient_ids=patients_of(facts, path),
        patients_by=PATIENTS,
        source=f"{path.name}, {measures}" + (" (MedMNIST v2)" if known else ""),
        licence=known.licence if known else "unknown",
        notes=tuple(notes),
        spatial_dims=len(sides),
        values=OF_A_VOLUME if solid else "",
    )


def _facts(path: Path) -> dict[str, np.ndarray]:
    """Labels, a hash and the maximum of each image, the images' shape, depth and maximum."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz file ({error}). Cure: fetch or write it again.") from None
    parts = [part for part in PARTS if {f"{part}_images", f"{part}_labels"} <= names]
    if "train" not in parts:
        raise DataError(
            f"{path} holds {listed(sorted(names)) or 'nothing'}; expected train_images and train_labels "
            "(and val_..., test_...), the layout of MedMNIST."
        )
    facts: dict[str, np.ndarray] = {}
    for name in patient_arrays(names, parts, path):
        facts[name] = next(_chunks(path, name, whole=True))
    shapes, depths = set(), set()
    for part in parts:
        labels = next(_chunks(path, f"{part}_labels", whole=True))
        shape, dtype = _header(path, f"{part}_images")
        _check_shape(path, part, shape, dtype, len(labels))
        shapes.add(_shape_of(shape))
        depths.add(dtype.itemsize * 8)
        hashes, maxima = [], []
        for images in _chunks(path, f"{part}_images"):
            maxima.append(images.max(axis=tuple(range(1, images.ndim)), initial=0))
            hashes += [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in images]
        facts |= {f"{part}_labels": labels, f"{part}_hashes": np.array(hashes)}
        facts[f"{part}_maxima"] = np.concatenate([*maxima, np.zeros(0, dtype)])
    if len(shapes) > 1 or len(depths) > 1:
        raise DataError(
            f"{path}: the parts have images of different shapes or types {sorted(shapes)}, {sorted(depths)} bits."
        )
    maximum = max(int(facts[f"{part}_maxima"].max(initial=0)) for part in parts)
    return facts | {"shape": np.array(shapes.pop()), "depth": np.array(depths.pop()), "maximum": np.array(maximum)}


def _check_shape(path: Path, part: str, shape: tuple[int, ...], dtype: np.dtype, labels: int) -> None:
    text = f"{path}: {part}_images has the shape {shape}"
    if len(_shape_of(shape)) == 4:
        if len(shape) == 5 and 1 not in (shape[1], shape[-1]):
            raise DataError(f"{text}: volumes of several channels cannot be read; expected (N, D, H, W).")
        if min(_shape_of(shape)[:3]) < 2:
            raise DataError(f"{text}: a volume has two voxels or more along each axis; expected (N, D, H, W).")
    elif len(shape) == 4 and shape[-1] not in (1, 3):
        raise DataError(
            f"{text}; expected (N, H, W) or (N, H, W, 3). Cure: images.transpose(0, 2, 3, 1) if channels "
            "come first, [..., :3] without alpha."
        )
    elif len(shape) not in (3, 4):
        raise DataError(f"{text}; expected (N, H, W), (N, H, W, 3), or (N, D, H, W) of volumes.")
    if dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path}: {part}_images has the type {dtype}; expected uint8 or uint16. Cure: scale the values and convert."
        )
    if shape[0] != labels:
        raise DataError(f"{path}: {shape[0]} {part}_images and {labels} {part}_labels; there must be as many of each.")


def _shape_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of one image, (H, W, channels), or of one volume, (D, H, W, 1): where the last axis (or first) cannot be colour.

    >>> _shape_of((9, 28, 28, 3)), _shape_of((9, 28, 28, 28))
    ((28, 28, 3), (28, 28, 28, 1))
    """
    if len(shape) == 5:
        return (*(shape[1:4] if shape[-1] == 1 else shape[2:]), 1)
    if len(shape) == 4 and shape[-1] not in (1, 3, 4) and shape[1] not in (1, 3):
        return (*shape[1:], 1)
    return (*shape[1:], 1)[:3]


def _targets(table: np.ndarray, path: Path, known: KnownSet | None) -> tuple[str, tuple[str, ...], np.ndarray]:
    if not np.issubdtype(table.dtype, np.number) and table.dtype != np.bool_:
        raise DataError(
            f"{path}: labels have the type {table.dtype}; expected whole numbers. Cure: class indices 0, 1, 2, ..."
        )
    whole = (
        np.array_equal(table, np.rint(table))
        if table.shape[1] == 1
        else bool(np.isin(table[~np.isnan(table)], (0, 1)).all())
    )
    if not whole or table.min(initial=0) < 0:
        wanted = "class indices 0, 1, 2, ..." if table.shape[1] == 1 else "0 and 1 (one column a class)"
        raise DataError(f"{path}: labels hold the values {listed(list(np.unique(table)), 6)}; expected {wanted}.")
    found = int(table.max(initial=0)) + 1 if table.shape[1] == 1 else table.shape[1]
    if known is not None and found > len(known.classes):
        raise DataError(
            f"{path}: labels for {found} classes, where {path.stem} has {len(known.classes)}. Is it "
            "another file of that name?"
        )
    if table.shape[1] > 1:
        names = known.classes if known else tuple(f"label {column}" for column in range(table.shape[1]))
        return "multilabel", names, table.astype(np.float32)
    if found < 2:
        raise DataError(f"{path}: all labels are 0; two classes are needed.")
    names = known.classes if known else tuple(str(index) for index in range(found))
    task = known.task if known else ("binary" if found == 2 else "multiclass")
    return task, names, table[:, 0].astype(np.int64)


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, _, dtype = _read_header(file)
    except _DAMAGED as error:
        raise _damaged(path, name, error) from None
    return shape, dtype


def _damaged(path: Path, name: str, error: Exception) -> DataError:
    return DataError(f"{path}: {name} cannot be read ({error}). Cure: fetch or write the file again.")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _chunks(path: Path, name: str, *, whole: bool = False) -> Iterator[np.ndarray]:
    """The rows of one array of the archive, some at a time (large sets do not fit into memory)."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, fortran, dtype = _read_header(file)
            if dtype.hasobject:
                kind = "numbers, or text as np.array(ids, dtype=str)" if "patients" in name else "numbers"
                raise DataError(f"{path}: {name} holds Python objects; save plain {kind}.")
            row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
            rows = max(1, shape[0]) if whole or fortran else max(1, min(_CHUNK, _CHUNK_BYTES // max(1, row_bytes)))
            for start in range(0, max(1, shape[0]) if whole else shape[0], rows):
                count = min(rows, shape[0] - start)
                data = _read_exactly(file, count * row_bytes)
                flat = np.frombuffer(data, dtype)
                yield flat.reshape((count, *shape[1:]), order="F" if fortran else "C")
    except _DAMAGED as error:
        raise _damaged(path, name, error) from None


def _read_exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise EOFError(f"{count} bytes expected, {len(data)} found")
    return data
