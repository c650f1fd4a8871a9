"""Data: open a data set, split it by patient, augment its batches. Names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfuse.data.augment import AUGMENTATIONS, ten_crop
    from transfuse.data.dataset import TASKS, Dataset, DatasetInfo, Exclusion, Sample, dataset_names, open_dataset
    from transfuse.data.splits import Part, Split, class_weights, split_by_patient

_HOMES = {
    "AUGMENTATIONS": "augment",
    "TASKS": "dataset",
    "Dataset": "dataset",
    "DatasetInfo": "dataset",
    "Exclusion": "dataset",
    "Part": "splits",
    "Sample": "dataset",
    "Split": "splits",
    "class_weights": "splits",
    "dataset_names": "dataset",
    "open_dataset": "dataset",
    "split_by_patient": "splits",
    "ten_crop": "augment",
}

__all__ = [
    "AUGMENTATIONS",
    "TASKS",
    "Dataset",
    "DatasetInfo",
    "Exclusion",
    "Part",
    "Sample",
    "Split",
    "class_weights",
    "dataset_names",
    "open_dataset",
    "split_by_patient",
    "ten_crop",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
