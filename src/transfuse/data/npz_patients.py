"""The patients of an NPZ file's images: `train_patients`, `val_patients`, `test_patients`, or one array `patients`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from transfuse.data.records import PARTS, listed
from transfuse.errors import DataError

PATIENTS = (
    "arrays train_patients, val_patients and test_patients (or one, patients, for all images in this order) in the "
    ".npz file, one number or text an image"
)


def patient_arrays(names: Collection[str], parts: Sequence[str], path: Path) -> list[str]:
    """Those of a file's arrays that name patients; none where it has none.

    Args:
        names: all arrays of the file.
        parts: those of train, val and test that have images.
        path: the file, for messages.

    Raises:
        DataError: patients for some parts only, or said twice.

    >>> patient_arrays({"train_images", "train_labels", "train_patients"}, ["train"], Path("a.npz"))
    ['train_patients']
    """
    wanted = [f"{part}_patients" for part in parts]
    found = [name for name in (*(f"{part}_patients" for part in PARTS), "patients") if name in names]
    if found in ([], ["patients"], wanted):
        return found
    if "patients" in found:
        raise DataError(f"{path} holds {listed(found)}, which say the same twice. Cure: leave out patients.")
    missing = [name for name in wanted if name not in found]
    if not missing:
        raise DataError(
            f"{path} holds {listed(found)} and images of {listed(list(parts))} only. Cure: as many of each."
        )
    raise DataError(
        f"{path} holds {listed(found)} and no {listed(missing)}, so it cannot be told whether a patient is in two "
        "parts. Cure: name the patients of every part, or of none."
    )


def patients_of(arrays: Mapping[str, np.ndarray], path: Path) -> tuple[str, ...] | None:
    """The patient of each image, part after part; None where the file names none.

    Equal values are one patient, in whichever part they stand.

    Args:
        arrays: the file's labels and patients by name: `(n,)` or `(n, 1)` numbers or texts.
        path: the file, for messages.

    Raises:
        DataError: not one value an image, or values that name nobody (empty, NaN, fractions).

    >>> arrays = {"train_labels": np.zeros(2), "test_labels": np.zeros(1), "patients": np.array([7, 7, 8])}
    >>> patients_of(arrays, Path("a.npz"))
    ('7', '7', '8')
    """
    parts = [part for part in PARTS if f"{part}_labels" in arrays]
    counts = {f"{part}_patients": len(arrays[f"{part}_labels"]) for part in parts}
    if "patients" in arrays:
        counts = {"patients": sum(counts.values())}
    if not set(counts) <= set(arrays):
        return None
    return tuple(patient for name, count in counts.items() for patient in _texts(arrays[name], count, name, path))


def _texts(values: np.ndarray, count: int, name: str, path: Path) -> list[str]:
    if values.shape not in ((count,), (count, 1)):
        of = (
            "all images, train, val and test in this order"
            if name == "patients"
            else f"{name.partition('_')[0]}_images"
        )
        raise DataError(
            f"{path}: {name} has the shape {values.shape}; expected one value for each of the {count} of {of}."
        )
    flat = values.reshape(-1)
    if flat.dtype.kind == "f" and np.isfinite(flat).all() and (flat == np.rint(flat)).all():
        flat = flat.astype(np.int64)  # 3.0 is the patient 3
    if flat.dtype.kind not in "iuUS":
        raise DataError(
            f"{path}: {name} holds values of the type {flat.dtype} such as {flat[0]}; expected whole numbers or texts."
        )
    texts = [value.decode() if isinstance(value, bytes) else str(value).strip() for value in flat.tolist()]
    if nobody := [str(row) for row, text in enumerate(texts) if not text]:
        raise DataError(
            f"{path}: {name} is empty for {len(nobody)} image(s), row(s) {listed(nobody)}. Cure: give each an id, of "
            "its own where the patient is not known."
        )
    return texts
