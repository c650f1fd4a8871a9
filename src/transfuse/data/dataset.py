"""Data sets: `open_dataset` finds, reads and checks one; a `Dataset` holds its labels and gives its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from transfuse.data.arguments import check_arguments, check_observer, normalisation_of, refuse_columns
from transfuse.data.cache import cache_folder, mask_file, pixel_file, pixel_type, shared_pixels
from transfuse.data.catalogue import MEDMNIST, TABLES, find_medmnist, find_path
from transfuse.data.chasedb1 import NAME as CHASEDB1
from transfuse.data.chasedb1 import read_chasedb1
from transfuse.data.folder import read_folder
from transfuse.data.hippocampus import NAME as HIPPOCAMPUS
from transfuse.data.hippocampus import read_hippocampus
from transfuse.data.images import to_pixels
from transfuse.data.mask_volumes import cube_labels
from transfuse.data.masks import square_labels
from transfuse.data.nifti import NiftiFiles
from transfuse.data.npz import read_npz
from transfuse.data.opened import Wanted
from transfuse.data.records import TASKS, Exclusion, Records, fingerprint, with_task
from transfuse.data.rendered import phantom_names, read_phantom
from transfuse.data.table import read_table
from transfuse.data.volumes import to_voxels
from transfuse.errors import DataError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["TASKS", "Dataset", "DatasetInfo", "Exclusion", "Sample", "dataset_names", "open_dataset"]


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is, in words and one fingerprint.

    Attributes:
        name: the name it was opened by, or its file's.
        task: one of `TASKS`.
        classes: names in the order of the class index; for a binary task (negative, positive).
        channels: 1 or 3, as delivered.
        spatial_dims: 2 for images, 3 for volumes.
        source: where it comes from, in words.
        licence: of the images, as far as known.
        fingerprint: sha256 of the content (images, targets, ids, parts); it depends on no path.
        synthetic: made by a program, no patient was ever involved.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    channels: int
    spatial_dims: int
    source: str
    licence: str
    fingerprint: str
    synthetic: bool = False


class Sample(NamedTuple):
    """One image `(C, H, W)`, float32, normalised, with its target (a class index, `(C,)` floats, or a mask) and ids.

    A volume is `(C, D, H, W)`, here and in all that follows.
    """

    image: Tensor
    target: int | np.ndarray
    sample_id: str
    patient_id: str


@final
class Dataset:
    """Labels and ids in memory, pixels in a memory-mapped cache file; made by `open_dataset`.

    Attributes:
        info: a `DatasetInfo`.
        targets: `(N,)` int64 class indices, or `(N, C)` float32 with NaN for unlabelled (multilabel); of a segmentation
            `(N, C)` float32, 1 where a class has a pixel in the image's mask.
        sample_ids, patient_ids: N texts each; sample ids are unique.
        patients_known: whether the files name the patients; if not, each image counts as one, and `patient_ids` are the
            sample ids.
        parts: `(N,)` "train", "val" or "test" where the source ships an official split, else None.
        exclusions: samples that were left out, with the reason.
        notes: sentences that a report must show.
        size: pixels (voxels) a side.
        white: the pixel value that is 1.0.
        mean, std: normalisation of images in [0, 1], one value a channel.
    """

    def __init__(
        self, records: Records, info: DatasetInfo, targets: np.ndarray, patient_ids: tuple[str, ...],
        notes: tuple[str, ...], *, size: int, fit: str, mean: tuple[float, ...], std: tuple[float, ...], cache: Path,
        mask_order: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.info, self.targets, self.patient_ids, self.notes = info, targets, patient_ids, notes
        self.sample_ids, self.parts, self.exclusions = records.sample_ids, records.parts, records.exclusions
        self.patients_known = records.patient_ids is not None
        self.image_hashes, self.white = records.image_hashes, records.white
        self.size, self.mean, self.std = size, mean, std
        self._images, self._fit, self._cache = records.images, fit, cache
        self._mask_source, self._mask_hashes, self._mask_order = records.masks, records.mask_hashes, mask_order
        self._values = records.values
        self._pixels: np.ndarray | None = None
        self._masks: np.ndarray | None = None
        self.targets.flags.writeable = False

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __repr__(self) -> str:
        what = "volumes" if self.info.spatial_dims == 3 else "images"
        return f"Dataset({self.info.name!r}, {len(self)} {what} {'x'.join(map(str, self.shape))}, {self.info.task})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, `(C, size, size)`, or one volume, `(C, size, size, size)`."""
        return (self.info.channels, *(self.size,) * self.info.spatial_dims)

    def pixels(self) -> np.ndarray:
        """All images `(N, C, size, size)`, uint8 or uint16, read-only, shared between processes by the cache file.

        Volumes are `(N, C, size, size, size)`.

        Raises:
            DataError: image files are cut short, missing or changed; all of them are listed at once.
            StoreError: the cache cannot be written.
        """
        if self._pixels is None:
            fit = self._fit + self._values
            path = pixel_file(self._cache, self.image_hashes, self.size, self.info.channels, fit, self.white)
            self._pixels = shared_pixels(path, (len(self), *self.shape), pixel_type(self.white), self._render)
        return self._pixels

    def masks(self) -> np.ndarray:
        """All masks `(N, size, size)` of a segmentation, uint8 class indices, read-only and shared as `pixels` are.

        Those of volumes are `(N, size, size, size)`. Each is brought to the size of its image by the same crop, padding
        or squashing, with the nearest label.

        Raises:
            DataError: the data set has no masks, or mask files are missing or changed.
            StoreError: the cache cannot be written.
        """
        order = self._mask_order
        if self._mask_source is None:
            raise DataError(f"{self.info.name} has no masks: its task is {self.info.task!r}, with labels of images")
        if self._masks is None:
            shape, hashes = (len(self), *self.shape[1:]), self._mask_hashes

            def stored(hashes: Sequence[str], render: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
                path = mask_file(self._cache, hashes, shape[1:], self._fit, len(self.info.classes))
                return shared_pixels(path, shape, np.dtype(np.uint8), render)

            masks = stored(hashes, self._render_masks)
            if order is not None:
                masks = stored([hashes[i] for i in order], lambda own=masks: (own[i] for i in order))  # type: ignore[misc]
            self._masks = masks
        return self._masks

    def _render_masks(self) -> Iterator[np.ndarray]:
        source: Any = self._mask_source
        if self.info.spatial_dims == 3:
            return (cube_labels(volume, self.size, self._fit) for volume in source.volumes())
        return (square_labels(mask, self.size, self._fit) for mask in source.arrays())

    def _render(self) -> Iterator[np.ndarray]:
        how: Any = {"size": self.size, "channels": self.info.channels, "fit": self._fit, "white": self.white}
        images: Any = self._images
        if self.info.spatial_dims == 3:
            return (to_voxels(volume, **how) for volume in images.volumes())
        return (to_pixels(image, **how) for image in images.arrays())

    def __getitem__(self, i: int) -> Sample:
        from transfuse.data.splits import Part

        part = Part(self, np.array([range(len(self))[i]]))
        target = self.targets[i]
        image = part.normalise(part.tensors(np.array([0])))[0]
        truth = self.masks()[i] if self.info.task == "segmentation" else int(target) if target.ndim == 0 else target
        return Sample(image, truth, self.sample_ids[i], self.patient_ids[i])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pixels": None, "_masks": None}  # the other process maps the same file


def dataset_names() -> tuple[str, ...]:
    """The data sets known by name: phantoms first, then the sets of MedMNIST, then sets with masks."""
    return (*phantom_names(), *MEDMNIST, CHASEDB1, HIPPOCAMPUS)


def open_dataset(
    name: str,
    *,
    root: str | Path | None = None,
    size: int = 64,
    channels: int | None = None,
    count: int | None = None,
    seed: int = 0,
    image_column: str | None = None,
    label_columns: str | Sequence[str] = (),
    patient_column: str | None = None,
    part_column: str | None = None,
    uncertain_labels: str = "refuse",
    blank_labels: str = "ignore",
    mask_column: str | None = None,
    mask_classes: Sequence[str] = (),
    observer: str | None = None,
    bad_images: str = "raise",
    permute_labels: bool = False,
    normalise: str | tuple[Sequence[float], Sequence[float]] = "imagenet",
    fit: str = "crop",
    cache: str | Path | None = None,
    task: str | None = None,
    window: tuple[float, float] | None = None,
) -> Dataset:
    """Open a data set by its name, or by the path of an .npz file, a folder of class folders, or a table.

    Args:
        name: see `dataset_names`, or a path: absolute, or relative to `root`, $TRANSFUSE_DATA or the current folder.
        root: a folder to look in first.
        size: pixels a side of the square images, or voxels a side of the cubes, that are delivered.
        channels: 1 or 3; None keeps what the images have.
        count: phantoms only: how many samples.
        seed: of phantoms, and of `permute_labels`.
        image_column, label_columns, patient_column, part_column: tables only; see `read_table`. A name of
            `LABEL_GROUPS` stands for the label columns of a group.
        uncertain_labels: tables only: labels of -1, as CheXpert has: "refuse" them, or count them as "positive"
            (U-Ones), "negative" (U-Zeros) or unlabelled ("ignore").
        blank_labels: tables only: labels without a value: unlabelled ("ignore"), or "negative".
        mask_column: tables only: the column of mask files, instead of labels; makes the task "segmentation".
        mask_classes: names of the masks' classes in the order of their values; see `read_table`.
        observer: of "chasedb1": whose masks, "first" (default) or "second".
        bad_images: "raise" stops at images that cannot be read, "exclude" leaves them out by name and count.
        permute_labels: a negative control: labels are shuffled over patients, which no method should learn from.
        normalise: "imagenet", "half" (to [-1, 1]) or (means, standard deviations), for images in [0, 1].
        fit: "crop" (largest central square), "pad" (black borders) or "squash"; of volumes cubes, in millimetres.
        cache: folder of the pixel cache; default $TRANSFUSE_CACHE, else ~/.cache/transfuse.
        task: what the class labels mean where the source does not say: "ordinal" for grades (three or more, numbers in
            their order), "multiclass", "binary" for two; None takes the source's own, else binary or multiclass.
        window: NIfTI files only: the values that become 0 and 1, such as (-100, 900) Hounsfield units; None: the 0.5 %
            and 99.5 % percentiles of each volume.

    Raises:
        SpecError: arguments that cannot be meant, all of them at once.
        DataError: the data cannot be used as they are; the message names what, where and the cure.
    """
    label_columns = (label_columns,) if isinstance(label_columns, str) else tuple(label_columns)
    columns = (
        *(image_column, *label_columns, patient_column, part_column, mask_column, *mask_classes),
        None if uncertain_labels == "refuse" else f"uncertain_labels {uncertain_labels}",
        None if blank_labels == "ignore" else f"blank_labels {blank_labels}",
    )
    check_arguments(size, channels, count, bad_images, normalise, fit, uncertain_labels, blank_labels, window)
    check_observer(observer, name)
    folder = cache_folder(cache)
    if name in phantom_names():
        refuse_columns(columns, name, "a phantom")
        records = read_phantom(name, count=count, size=size, seed=seed, cache=folder)
    else:
        if count is not None:
            raise SpecError(
                f"count={count} is for phantoms ({', '.join(phantom_names())}); cure: train_fraction of "
                f"a split for a smaller {name!r}"
            )
        path = find_medmnist(name, root, size) if name in MEDMNIST else find_path(name, root, dataset_names())
        known = MEDMNIST.get(name) or next(
            (item for key, item in MEDMNIST.items() if path.is_file() and path.stem.split("_")[0] == key), None
        )
        suffix, wanted = path.suffix.lower(), Wanted(bad_images, fit, folder, size, window)
        if name == CHASEDB1 and path.is_dir():
            refuse_columns(columns, name, "a folder of photographs and masks")
            records = read_chasedb1(path, wanted, observer=observer or "first")
        elif name == HIPPOCAMPUS and path.is_dir():
            refuse_columns(columns, name, "folders of volumes and masks")
            records = read_hippocampus(path, wanted)
        elif path.is_dir():
            refuse_columns(columns, name, "a folder of class folders")
            records = read_folder(path, wanted)
        elif suffix in TABLES:
            records = read_table(
                path, image_column=image_column, label_columns=label_columns, patient_column=patient_column,
                part_column=part_column, mask_column=mask_column, mask_classes=tuple(mask_classes), wanted=wanted,
                uncertain_labels=uncertain_labels, blank_labels=blank_labels,
            )  # fmt: skip
        elif suffix == ".npz":
            refuse_columns(columns, name, "an .npz file")
            records = read_npz(path, known=known, fit=fit, cache=folder)
        else:
            raise DataError(f"{path} is of a kind that cannot be read; expected a folder, .npz, {', '.join(TABLES)}")
    if window is not None and not isinstance(records.images, NiftiFiles):
        raise SpecError(f"window={window}: {name!r} holds no NIfTI files, whose values it would be of. Leave it out.")
    records = with_task(records, task)
    return _finished(records, name, size, channels, seed, permute_labels, normalise, fit, folder)


def _finished(
    records: Records, name: str, size: int, channels: int | None, seed: int, permute_labels: bool,
    normalise: str | tuple[Sequence[float], Sequence[float]], fit: str, cache: Path,
) -> Dataset:  # fmt: skip
    patient_ids = records.patient_ids or records.sample_ids
    notes = list(records.notes)
    if records.synthetic:
        notes.insert(0, f"{name} is synthetic: drawn by a program, no patient was involved.")
    if records.patient_ids is None:
        notes.append(
            "Without patient ids each image counts as a patient: images of one patient may fall into different parts"
            f"{f'. Cure: {records.patients_by}' if records.patients_by else ''}."
        )
    if 0 < records.side < size:
        what = "Volumes" if records.spatial_dims == 3 else "Images"
        notes.append(f"{what} of {records.side} px were enlarged to {size} px: no detail is gained.")
    if records.masks is not None and 0 < size < records.side:
        notes.append(f"Masks were reduced to {size} px with the images: what is measured is measured at that size.")
    targets, order = records.targets, None
    if permute_labels:
        order = permuted(np.arange(len(targets)), patient_ids, records.parts, np.random.default_rng(seed))
        targets = targets[order]
        notes.insert(
            0,
            f"NEGATIVE CONTROL: the labels were shuffled over patients (seed {seed}); nothing can be "
            "learned from them.",
        )
    channels = channels or records.channels
    mean, std = normalisation_of(normalise, channels)
    info = DatasetInfo(
        name=name if name in dataset_names() else records.name, task=records.task, classes=records.classes,
        channels=channels,
        spatial_dims=records.spatial_dims, source=records.source, licence=records.licence,
        fingerprint=fingerprint(_with_masks_in(records, order), targets, patient_ids), synthetic=records.synthetic,
    )  # fmt: skip
    return Dataset(
        records, info, targets.copy(), patient_ids, tuple(notes), size=size, fit=fit, mean=mean, std=std, cache=cache,
        mask_order=order if records.masks is not None else None,
    )  # fmt: skip


def _with_masks_in(records: Records, order: np.ndarray | None) -> Records:
    if order is None or not records.mask_hashes:
        return records
    return replace(records, mask_hashes=tuple(records.mask_hashes[i] for i in order))


def permuted(
    targets: np.ndarray, patient_ids: Sequence[str], parts: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Targets dealt out to other patients, each official part by itself, so that the counts of every part stay.

    Patients are put into random order and get the labels in the old order: where all have equally many images, patients
    exchange their labels as wholes.
    """
    result = targets.copy()
    ids = np.asarray(patient_ids)
    for part in [None] if parts is None else np.unique(parts):
        rows = np.arange(len(targets)) if part is None else np.flatnonzero(parts == part)
        patients, of_row = np.unique(ids[rows], return_inverse=True)
        order = rng.permutation(len(patients))
        giving = np.argsort(of_row, kind="stable")
        taking = np.argsort(order[of_row], kind="stable")
        result[rows[taking]] = targets[rows[giving]]
    return result
