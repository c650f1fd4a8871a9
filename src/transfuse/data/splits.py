"""Training, validation and test parts that share no patient; nested sub-samples; class-balanced weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from transfuse.data.dataset import Dataset
from transfuse.data.records import PARTS, listed
from transfuse.data.stratify import nested_groups, stratified_assignment
from transfuse.errors import DataError, SpecError, nearest

if TYPE_CHECKING:
    from torch import Generator, Tensor

DUPLICATES = ("note", "raise", "drop")
OWN_SPLIT = "official_split: false (in Python: official=False)"


class Part:
    """Some samples of a data set, in the order of the data set; a view that copies no pixels.

    Args:
        dataset: the data set.
        indices: `(n,)` positions in it; sorted here.
    """

    def __init__(self, dataset: Dataset, indices: np.ndarray) -> None:
        self.dataset = dataset
        self.indices = np.sort(np.asarray(indices, np.int64))

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"Part({len(self)} of {self.dataset!r})"

    @property
    def targets(self) -> np.ndarray:
        """`(n,)` int64 or `(n, C)` float32."""
        return self.dataset.targets[self.indices]

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The n sample ids."""
        return tuple(self.dataset.sample_ids[i] for i in self.indices)

    @property
    def patient_ids(self) -> tuple[str, ...]:
        """The patient of each sample."""
        return tuple(self.dataset.patient_ids[i] for i in self.indices)

    def tensors(self, positions: np.ndarray) -> Tensor:
        """Images `(n, C, H, W)`, float32 in [0, 1], not normalised; `positions` count within this part, any order.

        Volumes are `(n, C, D, H, W)`.
        """
        import torch

        pixels = self.dataset.pixels()[self.indices[positions]]
        if pixels.dtype == np.uint8:
            return torch.from_numpy(pixels).to(torch.float32).div_(self.dataset.white)
        return torch.from_numpy(pixels.astype(np.float32)).div_(self.dataset.white)

    def truth(self, positions: np.ndarray) -> Tensor:
        """What a network is to give: class indices `(n,)`, labels `(n, C)`, or masks `(n, H, W)`, int64.

        `positions` count within this part, any order.
        """
        import torch

        if self.dataset.info.task == "segmentation":
            return torch.from_numpy(self.dataset.masks()[self.indices[positions]].astype(np.int64))
        return torch.from_numpy(self.targets[positions])

    def normalise(self, images: Tensor) -> Tensor:
        """Images `(n, C, H, W)` in [0, 1] less the data set's mean, over its standard deviation."""
        import torch

        axes = (1, -1, *(1,) * (images.ndim - 2))
        mean = torch.tensor(self.dataset.mean, dtype=images.dtype, device=images.device).view(axes)
        std = torch.tensor(self.dataset.std, dtype=images.dtype, device=images.device).view(axes)
        return (images - mean) / std

    def views(
        self, positions: np.ndarray, views: np.ndarray, augmentation: Callable[[Tensor, Generator], Tensor]
    ) -> Tensor:
        """One of the fixed augmented views of each image, normalised, `(n, C, H, W)`.

        A view is a function of the image's place in the data set and of the view's number alone.

        Args:
            positions: `(n,)` of the images within this part, any order.
            views: `(n,)` their numbers, 0 or more.
            augmentation: (images (n, C, H, W) in [0, 1], generator) -> images.
        """
        import torch

        drawn = []
        for image, place, view in zip(self.tensors(positions), self.indices[positions], views, strict=True):
            seed = int(np.random.SeedSequence((int(place), int(view))).generate_state(1, np.uint64)[0])
            drawn.append(augmentation(image[None], torch.Generator().manual_seed(seed)))
        return self.normalise(torch.cat(drawn))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and their `truth`, in order, every sample once; the last batch may be smaller."""
        if batch_size < 1:
            raise SpecError(f"batch_size={batch_size}: expected at least 1")
        for start in range(0, len(self), batch_size):
            positions = np.arange(start, min(start + batch_size, len(self)))
            yield self.normalise(self.tensors(positions)), self.truth(positions)


@dataclass(frozen=True)
class Split:
    """Three parts that share no patient; making one proves it.

    Attributes:
        train, val, test: the parts.
        notes: sentences that a report must show, the data set's first.

    Raises:
        DataError: a part is empty, or a patient or a sample is in two parts (they are named).
    """

    train: Part
    val: Part
    test: Part
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in PARTS:
            if not len(getattr(self, name)):
                raise DataError(f"The {name} part has no samples. Cure: other fractions, or more patients.")
        for one, other in combinations(PARTS, 2):
            a: Part = getattr(self, one)
            b: Part = getattr(self, other)
            shared = sorted(set(a.patient_ids) & set(b.patient_ids))
            if shared:
                raise DataError(
                    f"{len(shared)} patient(s) are in both {one} and {other}: {listed(shared)}. Images "
                    "of one patient resemble "
                    f"each other, so the result would be too good. Cure: {OWN_SPLIT} splits by patient, or correct "
                    "the part column."
                )
            if a.dataset is b.dataset and len(np.intersect1d(a.indices, b.indices)):
                raise DataError(
                    f"{one} and {other} share samples: {listed(sorted(set(a.sample_ids) & set(b.sample_ids)))}."
                )


def split_by_patient(
    dataset: Dataset,
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.64, 0.16, 0.2),
    official: bool = True,
    train_fraction: float = 1.0,
    duplicates: str = "note",
) -> Split:
    """Split a data set into training, validation and test parts, by patient and stratified by class.

    Args:
        dataset: the data set.
        seed: which of the possible splits; the same seed gives the same split, whatever the train_fraction.
        fractions: of the patients' images, for train, val and test; they add up to 1.
        official: keep the parts that the source ships; those it lacks are cut from its training part.
        train_fraction: share of the training patients to keep; a smaller share is contained in a larger one.
        duplicates: exact copies of an image in two parts: "note" them, "raise", or "drop" them from the earlier part.

    Raises:
        SpecError: fractions that are none.
        DataError: a patient in two official parts, or a part without a class (or, multilabel, without both values).
    """
    _check_fractions(fractions, train_fraction, duplicates)
    official_parts = dataset.parts if official else None
    patients, of_row = np.unique(np.asarray(dataset.patient_ids), return_inverse=True)
    counts = _label_counts(dataset, of_row, len(patients))
    part_of_row = np.full(len(dataset), "train", dtype="<U5") if official_parts is None else official_parts.copy()
    lacking = [name for name in PARTS[1:] if not (part_of_row == name).any()]
    if not (part_of_row == "train").any():
        raise DataError(
            f"{dataset.info.name}: no sample is in the official part 'train'. Cure: {OWN_SPLIT}, or correct the part "
            "column."
        )
    if lacking:
        share = dict(zip(PARTS, fractions, strict=True))
        pool = np.unique(of_row[part_of_row == "train"])
        names = ["train", *lacking]
        weights = np.array([share[name] for name in names])
        chosen = stratified_assignment(counts[pool], weights / weights.sum(), np.random.default_rng([seed, 1]))
        new_part = dict(zip(pool.tolist(), chosen.tolist(), strict=True))
        for row in np.flatnonzero(part_of_row == "train"):
            part_of_row[row] = names[new_part[int(of_row[row])]]
    part_of_row, notes = _without_duplicates(dataset, part_of_row, duplicates)
    if lacking and official_parts is not None:
        cut = " and ".join(f"{(part_of_row == name).sum()} for {name}" for name in lacking)
        notes.append(f"The source ships no {' and no '.join(lacking)} part: images were taken from train, {cut}.")
    train = np.flatnonzero(part_of_row == "train")
    if train_fraction < 1:
        train = train[np.isin(of_row[train], nested_groups(counts, np.unique(of_row[train]), seed, train_fraction))]
        whose = f" of {len(np.unique(of_row[train]))} patients" if dataset.patients_known else ""
        who = "patients" if dataset.patients_known else "images"
        notes.append(f"{100 * train_fraction:g} % of the training {who} are used: {len(train)} images{whose}.")
    val, test = (Part(dataset, np.flatnonzero(part_of_row == name)) for name in PARTS[1:])
    split = Split(Part(dataset, train), val, test, (*dataset.notes, *notes))
    everyone = np.ones(len(dataset), bool)
    dealt = everyone if official_parts is None else official_parts == "train"
    for name, part in zip(PARTS, (split.train, val, test), strict=True):
        if official_parts is not None and name not in lacking:
            _check_classes(name, part, everyone, PARTS, OWN_SPLIT + " for a split of your own")
        else:
            cure = "another split seed, a larger fraction, merged classes, or more patients"
            _check_classes(name, part, dealt, ["train", *lacking], cure)
    return split


def _label_counts(dataset: Dataset, of_row: np.ndarray, patients: int) -> np.ndarray:
    """`(patients, K + 1)`: samples of each label and, last, all samples; multilabel: positives, then negatives."""
    if dataset.targets.ndim == 1:
        labels = np.eye(len(dataset.info.classes), dtype=np.int64)[dataset.targets]
    else:
        labels = np.concatenate([dataset.targets == 1, dataset.targets == 0], axis=1).astype(np.int64)
    counts = np.zeros((patients, labels.shape[1] + 1), np.int64)
    np.add.at(counts, of_row, np.concatenate([labels, np.ones((len(labels), 1), np.int64)], axis=1))
    return counts


def _without_duplicates(dataset: Dataset, part_of_row: np.ndarray, duplicates: str) -> tuple[np.ndarray, list[str]]:
    """Find images with equal content in two parts; note, refuse or drop them (from the earlier of the two parts)."""
    hashes = np.asarray(dataset.image_hashes)
    part_of_row, notes, problems = part_of_row.copy(), [], []
    for earlier, later in combinations(PARTS, 2):
        rows = np.flatnonzero(part_of_row == earlier)
        twins = rows[np.isin(hashes[rows], hashes[part_of_row == later])]
        if not len(twins):
            continue
        later_rows = np.flatnonzero((part_of_row == later) & np.isin(hashes, hashes[twins]))
        first_later = {hashes[i]: dataset.sample_ids[i] for i in later_rows[::-1]}
        pairs = listed([f"{dataset.sample_ids[i]} = {first_later[hashes[i]]}" for i in twins], 3)
        found = f"{len(twins)} image(s) of {earlier} are exact copies of {len(later_rows)} of {later} ({pairs})"
        if duplicates == "drop":
            part_of_row[twins] = ""
            notes.append(f"{found}: they were dropped from {earlier}.")
        else:
            notes.append(f"{found}: a leak. Cure: duplicates: drop leaves them out of {earlier}.")
            problems.append(found)
    if problems and duplicates == "raise":
        raise DataError(
            f"{dataset.info.name}: {'; '.join(problems)}. Cure: duplicates: drop, or note to keep them and say so."
        )
    return part_of_row, notes


def _check_classes(name: str, part: Part, rows: np.ndarray, parts: Sequence[str], cure: str) -> None:
    """Refuse a part without a class, with a cure that can work.

    Args:
        name: the part's.
        part: its samples.
        rows: `(N,)` the samples that a split of one's own would deal out.
        parts: the parts that it would deal them out to.
        cure: what helps where a class has a patient for each of them.
    """
    info, targets, everyone = part.dataset.info, part.targets, part.dataset.targets
    lacking: list[tuple[str, str, np.ndarray]] = []  # what the part has none of, in short, and which samples are of it
    if targets.ndim == 1:
        present = np.bincount(targets, minlength=len(info.classes))
        for k in np.flatnonzero(present == 0):
            lacking.append((f"no sample of the class {info.classes[k]!r}", repr(info.classes[k]), everyone == k))
    else:
        needed = ((1, "positive"), (0, "negative"))[: 1 if info.task == "segmentation" else 2]
        for value, word in needed:
            for k in np.flatnonzero(~(targets == value).any(axis=0)):
                label = repr(info.classes[k])
                lacking.append((f"no {word} of {label}", f"{label} ({word}s)", everyone[:, k] == value))
    if lacking:
        totals = [
            f"{info.classes[k]!r} {int((everyone == k).sum() if everyone.ndim == 1 else (everyone[:, k] == 1).sum())}"
            for k in range(len(info.classes))
        ]
        raise DataError(
            f"{info.name}: the {name} part ({len(part)} images) has {listed([what for what, _, _ in lacking])}; in all "
            f"parts: {listed(totals)}. {_too_few(part.dataset, lacking, rows, parts) or f'Cure: {cure}.'}"
        )


def _too_few(
    dataset: Dataset, lacking: Sequence[tuple[str, str, np.ndarray]], rows: np.ndarray, parts: Sequence[str]
) -> str:
    """The classes that no split by patient can put into every part, and what helps; empty if there are none."""
    patients = np.asarray(dataset.patient_ids)
    unit = "patient" if dataset.patients_known else "image"
    few = []
    for _, label, members in lacking:
        count = len(np.unique(patients[rows & members]))
        if count < len(parts):
            few.append(f"{label} has {count} {unit}{'' if count == 1 else 's'}")
    if not few:
        return ""
    return (
        f"{listed(few)}, and a split into {', '.join(parts)} takes one for each, so no seed and no fraction helps. "
        f"Cure: merge such a class with another, leave its images out, or add {unit}s of it."
    )


def _check_fractions(fractions: Sequence[float], train_fraction: float, duplicates: str) -> None:
    problems = []
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        problems.append(
            f"fractions={tuple(fractions)}: expected three positive numbers (train, val, test) that add up to 1"
        )
    if not 0 < train_fraction <= 1:
        problems.append(f"train_fraction={train_fraction}: expected a share above 0 and at most 1")
    if duplicates not in DUPLICATES:
        problems.append(f"duplicates={duplicates!r}: {nearest(duplicates, DUPLICATES)}")
    if problems:
        raise SpecError(problems, "split_by_patient")


def class_weights(targets: np.ndarray, task: str, classes: Sequence[str]) -> np.ndarray:
    """Class-balanced loss weights, from the targets of the training part only.

    Args:
        targets: `(n,)` class indices, `(n, C)` of 0, 1 and NaN (unlabelled, not counted) for multilabel, or masks
            `(n, H, W)` for segmentation.
        task: binary, multiclass and ordinal give `n / (C * n_c)`, segmentation the same of pixels; multilabel gives
            `negatives / positives`.
        classes: the C class names.

    Returns:
        `(C,)` float32.

    Raises:
        DataError: a class has no positives.

    >>> class_weights(np.array([0, 0, 0, 1]), "binary", ("no", "yes")).tolist()
    [0.666..., 2.0]
    """
    if task == "multilabel":
        positives, negatives = (targets == 1).sum(axis=0), (targets == 0).sum(axis=0)
    else:
        each = targets if task == "segmentation" else targets[None]
        positives = np.sum([np.bincount(one.reshape(-1), minlength=len(classes)) for one in each], axis=0)
        negatives = np.full(len(classes), targets.size / len(classes))
    if (positives == 0).any():
        absent = [classes[k] for k in np.flatnonzero(positives == 0).tolist()]
        raise DataError(
            f"The training part has no positives of {listed(absent)}, so no weight can balance them. "
            "Cure: merge or remove such classes."
        )
    return (negatives / positives).astype(np.float32)
