"""What is allowed in a study and can hardly be meant, said before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from transfuse.specs import DataSpec, StudySpec, TrainSpec
from transfuse.study.few_patients import few_patients_note
from transfuse.study.lengths import lengths_of, steps_per_epoch

if TYPE_CHECKING:
    from transfuse.data import Split

FEW_IMAGES = 10
"""Training images a class below which it is said that they are few."""


def setting_notes(study: StudySpec, splits: Mapping[DataSpec, Split]) -> list[str]:
    """One sentence for each setting that does not do what it seems to do, and for what should be known of the data."""
    notes = []
    trainings = [("", study.train, study.data)]
    trainings += [(f"sources.{name}.", source.train, study.source_data(name)) for name, source in study.sources.items()]
    said = set()
    for path, train, data in trainings:
        split = splits[data]
        if data not in said:
            said.add(data)
            notes += [f"{path}data: {note}" for note in split.notes]
            notes += _of_few_images(f"{path}data", split)
        notes += _of_training(f"{path}train", train, len(split.train))
    if few := few_patients_note(study, splits[study.data].test):
        notes.append(f"margin: {few}")
    if len(study.seed_list) == 1:
        notes.append("seeds: with one training an arm, chance in training cannot be told from the arm; give 3 or more")
    return list(dict.fromkeys(notes))


def _of_few_images(path: str, split: Split) -> list[str]:
    images, classes = len(split.train), len(split.train.dataset.info.classes)
    if images >= FEW_IMAGES * classes or split.train.dataset.info.task == "segmentation":  # an image has many pixels
        return []
    return [f"{path}: the training part has {images} images for {classes} classes, too few to tell arms apart"]


def _of_training(path: str, train: TrainSpec, images: int) -> list[str]:
    notes = []
    steps, period = lengths_of(train, images)
    every, between = train.validate_every, max(1, round(period))
    if train.batch_size > images:
        notes.append(
            f"{path}.batch_size is {train.batch_size}, and the training part has {images} images: a step an epoch"
        )
    if between >= steps > 1:
        unit = "steps" if isinstance(every, int) else "epochs"
        notes.append(
            f"{path}.validate_every is {every} {unit}, and a training has {steps} steps: it is validated at its end "
            "only, so its last weights are its best and there is no learning curve"
        )
    elif isinstance(every, int) and every <= 2 and steps > 20:
        notes.append(
            f"{path}.validate_every: {every} is a whole number and counts steps, so a training is validated "
            f"{math.ceil(steps / every)} times; {every}.0 counts epochs"
        )
    warmup = train.schedule.warmup * (steps_per_epoch(train, images) if train.schedule.warmup_unit == "epochs" else 1)
    if warmup >= steps:
        notes.append(
            f"{path}.schedule.warmup is {train.schedule.warmup:g} {train.schedule.warmup_unit}, and a training has "
            f"{steps} steps: the learning rate never gets out of the warm-up"
        )
    return notes
