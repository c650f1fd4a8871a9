"""A study at several numbers of training patients: what is wrong with the smaller ones, before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfuse.errors import TransfuseError
from transfuse.specs import StudySpec
from transfuse.study.problems import Found, training_problems
from transfuse.study.sources import open_data, split_data

if TYPE_CHECKING:
    from transfuse.data import Split


def look_at_sizes(study: StudySpec, whole: Split) -> tuple[Found, str]:
    """What would make the smaller trainings fail or say nothing, and how many patients each has, in words.

    Args:
        study: the study, with `train_fractions`.
        whole: the split of its data.
    """
    problems: list[str] = []
    notes: list[str] = []
    of_all = len(set(whole.train.patient_ids))
    counts: list[int] = []
    for place, (share, data) in enumerate(zip(study.train_fractions, study.smaller_data, strict=False)):
        where = f"train_fractions.{place}"
        try:
            split = split_data(data, open_data(data))
        except TransfuseError as error:
            problems.append(f"{where}: {share:g} of the training patients: {error}")
            continue
        count, images = len(set(split.train.patient_ids)), len(split.train)
        if count in (*counts[-1:], of_all):
            problems.append(
                f"{where}: {share:g} of the training patients are {count}, as many as at another size; expected "
                "shares that are farther apart"
            )
        counts.append(count)
        problems += [f"{where}: {text}" for text in training_problems("train", study.train, split.train)]
        if study.train.batch_size > images:
            notes.append(
                f"{where}: train.batch_size is {study.train.batch_size}, and {share:g} of the training patients "
                f"have {images} images: a step an epoch"
            )
    return Found(problems, notes), f"train_fractions: {', '.join(map(str, counts))} and {of_all} training patients"
