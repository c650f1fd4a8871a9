"""What a study says of its images: `DataSpec`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transfuse.specs.refuse import STRICT, refuse

SEGMENTATIONS = ("fundus-vessels", "embolism-vessels", "chasedb1", "hippocampus_msd")
"""The catalogue names of sets with masks."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which images, at which size, cut into which parts.

    Attributes:
        name: a catalogue name (`fundus-phantom`, `pneumoniamnist`, ...) or the path of an `.npz`, a folder of class
            folders or a table (`.csv`, `.tsv`, `.parquet`).
        root: folder that relative names start from; else the environment variable `TRANSFUSE_DATA`.
        size: side of the square images in pixels, or of the cubes in voxels.
        channels: 1 or 3; None keeps what the files have.
        count: number of phantoms to draw; None is the phantom's default. Only for phantoms.
        seed: which phantoms are drawn, and which labels are permuted.
        image_column, label_columns, patient_column, part_column: columns of a table. Label columns may be named by a
            group: `chexpert-low:table4`, `chexpert-high:table4`, `chexpert-full:table4`, or `:code` (P, app. C.2).
        uncertain_labels: labels of -1 (CheXpert's): `refuse` them, or count them as `positive` (U-Ones), `negative`
            (U-Zeros) or unlabelled (`ignore`). Only for tables.
        blank_labels: labels without a value: unlabelled (`ignore`), or `negative`. Only for tables.
        mask_column: column of a table that names a mask for each image, instead of labels: a segmentation.
        mask_classes: names of the masks' classes, the background (0) first.
        observer: of `chasedb1`, whose masks: `first` (the default) or `second`.
        task: what class labels mean where the files cannot say: grades from a table are `ordinal`.
        bad_images: `raise` lists them; `exclude` leaves them out, named and counted.
        duplicates: what to do about identical images in two parts: `note`, `raise` or `drop`.
        permute_labels: negative control: labels are permuted over patients, and said so everywhere.
        normalise: `imagenet`, `half` ((x - 0.5) / 0.5) or `[[mean, ...], [std, ...]]` of images in [0, 1].
        fit: how an oblong image becomes square: `crop` the centre, `pad` with black, or `squash`.
        window: the values of NIfTI files that become 0 and 1; None is the 0.5 % and 99.5 % percentiles of each.
        split_seed, fractions: the split by patient into train, val and test, the same for every seed of the study.
        official_split: keep the parts that the source ships, where it ships any.
        train_fraction: share of the training patients, in nested sub-samples.
    """

    __pydantic_config__ = STRICT
    name: str
    root: str | None = None
    size: int = 64
    channels: int | None = None
    count: int | None = None
    seed: int = 0
    image_column: str | None = None
    label_columns: str | tuple[str, ...] = ()
    patient_column: str | None = None
    part_column: str | None = None
    uncertain_labels: Literal["refuse", "positive", "negative", "ignore"] = "refuse"
    blank_labels: Literal["ignore", "negative"] = "ignore"
    mask_column: str | None = None
    mask_classes: tuple[str, ...] = ()
    observer: Literal["first", "second"] | None = None
    task: Literal["binary", "multiclass", "ordinal"] | None = None
    bad_images: Literal["raise", "exclude"] = "raise"
    duplicates: Literal["note", "raise", "drop"] = "note"
    permute_labels: bool = False
    normalise: Literal["imagenet", "half"] | tuple[tuple[float, ...], tuple[float, ...]] = "imagenet"
    fit: Literal["crop", "pad", "squash"] = "crop"
    window: tuple[float, float] | None = None
    split_seed: int = 0
    fractions: tuple[float, float, float] = (0.64, 0.16, 0.2)
    official_split: bool = True
    train_fraction: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.label_columns, str):  # one column, or a group of them
            object.__setattr__(self, "label_columns", (self.label_columns,))
        problems = []
        if not 8 <= self.size <= 2048:
            problems.append(f"size is {self.size}; expected 8 to 2048 pixels")
        if self.channels not in (None, 1, 3):
            problems.append(f"channels is {self.channels}; expected 1, 3 or nothing (as in the files)")
        if self.count is not None and self.count < 10:
            problems.append(f"count is {self.count}; expected at least 10 images")
        if abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions) <= 0:
            problems.append(
                f"fractions are {list(self.fractions)}; expected three positive shares (train, val, test) that sum to 1"
            )
        if self.window is not None and not self.window[0] < self.window[1]:
            problems.append(f"window is {list(self.window)}; expected two values, the lower first, e.g. [-100, 900]")
        if not 0 < self.train_fraction <= 1:
            problems.append(f"train_fraction is {self.train_fraction}; expected a share in (0, 1]")
        refuse(problems)
