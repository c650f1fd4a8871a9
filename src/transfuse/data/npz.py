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
from transfuse.errors import DataError

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError)
_CHUNK = 256  # images that are in memory at once


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


def read_npz(path: Path, *, known: KnownSet | None, fit: str, cache: Path) -> Records:
    """Read an .npz file; a sample's id is its part and its row.

    Args:
        path: the file.
        known: task, classes and licence where the data set is in the catalogue; otherwise guessed from the labels.
        fit: how images become square.
        cache: the folder where labels and hashes are remembered.

    Raises:
        DataError: no such arrays, volumes, labels that fit no task, patients of some images only, or a damaged file.
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
    height, width, channels = (int(number) for number in facts["shape"])
    task, classes, targets = _targets(labels, path, known)
    white = white_level(int(facts["maximum"])) if facts["depth"] == 16 else 255
    notes = list(positive_note(classes, "label 1")) if task == "binary" and known is None else []
    if facts["depth"] == 16:
        notes.append(
            f"The images have 16 bits, with values up to {int(facts['maximum'])}: depth is kept, and "
            f"{white} counts as white."
        )
        names = [f"{part}-{row:06d}" for part in parts for row in range(len(facts[f"{part}_labels"]))]
        notes += dark_note(np.concatenate([facts[f"{part}_maxima"] for part in parts]).tolist(), names)
    if height != width:
        notes.append(f"The images are {height} x {width} pixels, not square.")
    return Records(
        name=path.stem,
        task=task,
        classes=classes,
        targets=targets,
        sample_ids=tuple(f"{part}-{row:06d}" for part in parts for row in range(len(facts[f"{part}_labels"]))),
        images=NpzImages(str(path.absolute()), parts),
        image_hashes=tuple(str(item) for part in parts for item in facts[f"{part}_hashes"]),
        channels=channels,
        white=white,
        side=min(height, width) if fit != "pad" else max(height, width),
        parts=np.concatenate([np.full(len(facts[f"{part}_labels"]), part) for part in parts])
        if len(parts) > 1
        else None,
        patient_ids=patients_of(facts, path),
        patients_by=PATIENTS,
        source=f"{path.name}, {height} x {width} pixels" + (" (MedMNIST v2)" if known else ""),
        licence=known.licence if known else "unknown",
        notes=tuple(notes),
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
        shapes.add((shape[1], shape[2], shape[3] if len(shape) == 4 else 1))
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
    if len(shape) == 5 or (len(shape) == 4 and shape[-1] not in (1, 3, 4) and shape[1] not in (1, 3)):
        raise DataError(
            f"{text}: volumes (3D) are not supported yet. Expected (N, H, W) or (N, H, W, 3); cure: save "
            "slices or projections."
        )
    if len(shape) == 4 and shape[-1] not in (1, 3):
        raise DataError(
            f"{text}; expected (N, H, W) or (N, H, W, 3). Cure: images.transpose(0, 2, 3, 1) if channels "
            "come first, [..., :3] without alpha."
        )
    if len(shape) not in (3, 4):
        raise DataError(f"{text}; expected (N, H, W) or (N, H, W, 3).")
    if dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path}: {part}_images has the type {dtype}; expected uint8 or uint16. Cure: scale the values and convert."
        )
    if shape[0] != labels:
        raise DataError(f"{path}: {shape[0]} {part}_images and {labels} {part}_labels; there must be as many of each.")


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
            rows = max(1, shape[0]) if whole or fortran else _CHUNK
            row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
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
