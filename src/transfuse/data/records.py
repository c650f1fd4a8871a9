"""What a reader of a file format hands over: labels, ids and where the images come from; and their fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from transfuse.data.volumes import VolumeSource
from transfuse.errors import DataError, SpecError, nearest

TASKS = ("binary", "multiclass", "multilabel", "ordinal", "segmentation")
PARTS = ("train", "val", "test")
# How people call the parts.
PART_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Of two class names, these are the negative one.
_NEGATIVE = {
    "normal",
    "negative",
    "neg",
    "healthy",
    "benign",
    "control",
    "controls",
    "none",
    "no",
    "false",
    "absent",
    "0",
}


@dataclass(frozen=True)
class Exclusion:
    """A sample that was left out because the user asked to leave out what cannot be read."""

    sample_id: str
    reason: str


class ImageSource(Protocol):
    """Where images come from; picklable and small (paths or recipes, never pixels)."""

    def arrays(self) -> Iterator[np.ndarray]:
        """All images in the order of the samples: `(H, W)` or `(H, W, 3)`, uint8 or uint16.

        Raises:
            DataError: images cannot be read; all of them are listed at once.
        """
        ...


@dataclass(frozen=True)
class Records:
    """A data set as its reader found it."""

    name: str
    task: str
    classes: tuple[str, ...]
    targets: np.ndarray
    sample_ids: tuple[str, ...]
    images: ImageSource | VolumeSource
    image_hashes: tuple[str, ...]  # sha256 of the content of each image (file bytes, array bytes)
    channels: int  # 1 if all images are grey, else 3
    white: int = 255  # the pixel value that is 1.0
    side: int = 0  # median over images of the side, in stored pixels, of their square; 0: drawn at any size
    patient_ids: tuple[str, ...] | None = None
    patients_by: str = ""  # without patient_ids: how files of this kind would name the patients, "a table ..."
    parts: np.ndarray | None = None
    source: str = ""
    licence: str = "unknown"
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    masks: ImageSource | VolumeSource | None = (
        None  # of a segmentation: label maps, uint8; `targets` say which classes are in them
    )
    mask_hashes: tuple[str, ...] = ()
    spatial_dims: int = 2  # 3: `images` gives volumes
    values: str = ""  # of volumes: what decides the voxels beside the files, such as a window of values


def with_task(records: Records, task: str | None) -> Records:
    """The records with their class labels read as another task: grades as "ordinal", two classes as "binary".

    Raises:
        SpecError: a task that these labels cannot have; the message holds the nearest that they can.
    """
    if task is None or task == records.task:
        return records
    if records.task == "segmentation":
        raise SpecError(f"task={task!r}: {records.name} has masks, which are the task 'segmentation'; leave task out")
    count = len(records.classes)
    possible: tuple[str, ...] = ("multilabel",)
    if records.task != "multilabel":
        possible = ("binary", "multiclass") if count == 2 else ("multiclass", "ordinal")
    if task not in possible:
        what = (
            "several label columns of 0 and 1"
            if records.task == "multilabel"
            else f"one label a sample, of {count} classes"
        )
        raise SpecError(f"task={task!r}: {records.name} has {what}; {nearest(task, possible)}")
    if task == "ordinal" and not are_numbered(records.classes):
        raise SpecError(
            f"task='ordinal': the classes of {records.name} ({listed(records.classes, 5)}) have names that do "
            "not say which is the higher grade. Cure: grades as numbers (0, 1, 2, ...), or names that begin "
            "with them ('0_none', '1_mild'), or task='multiclass'."
        )
    notes = records.notes
    numbers = [float(name) for name in records.classes if task == "ordinal" and re.fullmatch(r"-?\d+", name)]
    if any(high - low > 1 for low, high in pairwise(numbers)):
        notes += (f"Of the grades only {listed(records.classes)} occur: they count as neighbours of each other.",)
    return replace(records, task=task, notes=notes)


def fingerprint(records: Records, targets: np.ndarray, patient_ids: Sequence[str]) -> str:
    """The sha256 of the content of a data set: images, targets, ids, parts; no path, no time, no name."""
    digest = hashlib.sha256(json.dumps([1, records.task, records.classes, str(targets.dtype)]).encode())
    parts: Iterable[str] = records.parts if records.parts is not None else [""] * len(targets)
    rows = zip(records.sample_ids, patient_ids, parts, records.image_hashes, targets, strict=True)
    for sample_id, patient_id, part, image_hash, target in rows:
        digest.update(json.dumps([sample_id, patient_id, str(part), image_hash]).encode())
        digest.update(np.ascontiguousarray(target).tobytes())
    for mask_hash in records.mask_hashes:
        digest.update(mask_hash.encode())
    return digest.hexdigest()


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their index: numbers by value, else alphabetical; of two, the negative one first.

    >>> order_classes(["10", "9", "1"]), order_classes(["malignant", "normal"]), order_classes(["pa", "ap"])
    (('1', '9', '10'), ('normal', 'malignant'), ('ap', 'pa'))
    >>> order_classes(["DR", "No_DR"])
    ('No_DR', 'DR')
    """
    unique = sorted(set(names))
    try:
        unique.sort(key=float)
    except ValueError:
        if len(unique) == 2 and _is_negative(unique[1], unique[0]) and not _is_negative(unique[0], unique[1]):
            unique.reverse()
    return tuple(unique)


def are_numbered(names: Sequence[str]) -> bool:
    """Whether classes are in the order of numbers: they are numbers, or begin with them ("0_none", "1_mild").

    >>> are_numbered(["0", "1", "10"]), are_numbered(["0_none", "1_mild"]), are_numbered(["mild", "none"])
    (True, True, False)
    """
    first = [re.match(r"-?\d+(\.\d+)?", name) for name in names]
    numbers = [float(found[0]) for found in first if found]
    return len(numbers) == len(names) and all(low < high for low, high in pairwise(numbers))


def _is_negative(name: str, other: str) -> bool:
    """Whether a class is the negative one by its name alone ("healthy"), or as the other's denial ("non-COVID")."""
    denial = rf"(no|non|not|without)[ _-]*{re.escape(other)}"
    return name.lower() in _NEGATIVE or re.fullmatch(denial, name, re.IGNORECASE) is not None


def positive_note(classes: tuple[str, ...], how: str) -> tuple[str, ...]:
    """For two classes, the sentence that says which one counts as positive."""
    return (
        (f"Of {classes[0]!r} and {classes[1]!r}, {classes[1]!r} counts as positive ({how}).",)
        if len(classes) == 2
        else ()
    )


def refuse_repeated(sample_ids: Sequence[str], what: str) -> None:
    """Raise a DataError that lists sample ids that occur more than once."""
    seen: dict[str, int] = {}
    for sample_id in sample_ids:
        seen[sample_id] = seen.get(sample_id, 0) + 1
    repeated = [f"{sample_id!r} ({times} times)" for sample_id, times in seen.items() if times > 1]
    if repeated:
        raise DataError(
            f"{what}: {len(repeated)} sample id(s) occur more than once: {listed(repeated)}. "
            "Cure: one row an image; merge the labels of rows that belong to the same image."
        )


def listed(items: Sequence[object], most: int = 10) -> str:
    """The first few of many for a message.

    >>> listed(["a", "b", "c"], most=2)
    'a, b, ... (3 in all)'
    """
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown}, ... ({len(items)} in all)"
