"""Whether a source was trained on people, or on images, that a study tests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from transfuse.specs import DataSpec, StudySpec

if TYPE_CHECKING:
    from transfuse.data import Dataset, Part, Split


class Leak(NamedTuple):
    """What a source has seen of a part of the study's split.

    Fields:
        patients: those of the part of whom an image is among the source's, the same one or another.
        images: how many images of the part are theirs.
        copies: how many of these are themselves among the source's.
    """

    patients: tuple[str, ...]
    images: int
    copies: int


def leak(seen: Sequence[Part], target: Split, part: Part) -> Leak:
    """Look for the patients and the images of a part of the study's split in what a source has seen.

    Images are the same if their content is, whatever they are called. Two patients are the same if they have an image
    in common; and, in data sets that have such an image under the same patient id, if their ids are equal (elsewhere
    `patient 1` may be anybody). Copies of an image in two parts of the study's own split are left out: what becomes of
    those, `duplicates` says.

    Args:
        seen: parts of the source's split.
        target: the study's split.
        part: one of its parts.
    """
    theirs, ours = seen[0].dataset, part.dataset
    own = [{ours.image_hashes[i] for i in one.indices} for one in (target.train, target.val, target.test)]
    repeated = (own[0] & own[1]) | (own[0] & own[2]) | (own[1] & own[2])
    rows = [i for one in seen for i in one.indices]
    images = {theirs.image_hashes[i] for i in rows} - repeated
    patients = {theirs.patient_ids[i] for i in rows}
    # All images of these patients, of any part: by an image in common two data sets have the same person.
    of_them = {h for h, one in zip(theirs.image_hashes, theirs.patient_ids, strict=True) if one in patients} - repeated
    people = {one for h, one in zip(ours.image_hashes, ours.patient_ids, strict=True) if h in of_them}
    if _same_naming(theirs, ours):
        people |= patients
    leaked = [i for i in part.indices if ours.patient_ids[i] in people]
    copies = sum(ours.image_hashes[i] in images for i in leaked)
    return Leak(tuple(dict.fromkeys(ours.patient_ids[i] for i in leaked)), len(leaked), copies)


def leak_problems(study: StudySpec, splits: Mapping[DataSpec, Split]) -> list[str]:
    """Sources, however far up the chain, whose training or validation part holds what the study tests on."""
    from transfuse.data.records import listed

    problems = []
    for name, split, target in _others(study, splits):
        found = leak((split.train, split.val), target, target.test)
        if not found.images:
            continue
        what = f"{found.images} of the {len(target.test)} test images"
        if _has_patients(target.test.dataset):
            of_all = len(set(target.test.patient_ids))
            what = f"{len(found.patients)} of the {of_all} patients of the test part ({found.images} images)"
        problems.append(
            f"sources.{name}.data: its training and validation parts hold {what}, e.g. {listed(found.patients, 3)}, so "
            "all that starts from it has seen them and would score too well. Cure: leave data out of "
            f"sources.{name}, which then has the study's own split; or give both the same split_seed, fractions and "
            "official_split; or leave these patients out of its images"
        )
    return problems


def leak_notes(study: StudySpec, splits: Mapping[DataSpec, Split]) -> list[str]:
    """What may be no leak: validation images that a source was trained on, and patient ids that only look the same."""
    from transfuse.data.records import listed

    notes = []
    for name, split, target in _others(study, splits):
        found = leak((split.train,), target, target.val)
        if found.images:
            notes.append(
                f"sources.{name} is trained on {found.images} of the {len(target.val)} validation images or on others "
                "of their patients: what starts from it is chosen on images that it knows."
            )
        theirs, ours = split.train.dataset, target.test.dataset
        if _same_naming(theirs, ours) or not (_has_patients(theirs) and _has_patients(ours)):
            continue
        shared = sorted({*split.train.patient_ids, *split.val.patient_ids} & set(target.test.patient_ids))
        if shared:
            notes.append(
                f"sources.{name}.data has {len(shared)} patient ids of the test part ({listed(shared, 3)}), though no "
                "image in common: if they are the same people, leave them out of it, or the result is too good."
            )
    return notes


def _others(study: StudySpec, splits: Mapping[DataSpec, Split]) -> Iterator[tuple[str, Split, Split]]:
    """Every source that has a split of its own, with that and the study's."""
    for name in study.sources:
        data = study.source_data(name)
        if data != study.data and data in splits and study.data in splits:
            yield name, splits[data], splits[study.data]


def _same_naming(one: Dataset, other: Dataset) -> bool:
    """Whether two data sets have an image in common, of the same patient id."""
    return not set(zip(one.image_hashes, one.patient_ids, strict=True)).isdisjoint(
        zip(other.image_hashes, other.patient_ids, strict=True)
    )


def _has_patients(dataset: Dataset) -> bool:
    """Whether the patient ids are people's: not of phantoms, nor each image's own for want of any."""
    return not dataset.info.synthetic and tuple(dataset.patient_ids) != tuple(dataset.sample_ids)
