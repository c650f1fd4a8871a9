"""Image files named by a table or found in folders: pictures or volumes, scanned, as a reader hands them over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transfuse.data.files import ImageFiles, ScannedFile, channels_and_white, file_notes, usable_files
from transfuse.data.files import median_side as median_side_of_pictures
from transfuse.data.mask_volumes import read_mask_volumes
from transfuse.data.masks import Masks, read_masks
from transfuse.data.nifti import WHITE, NiftiFiles, Window, is_nifti, median_side, usable_volumes, volume_notes
from transfuse.data.records import Exclusion, listed
from transfuse.data.volumes import OF_A_VOLUME
from transfuse.errors import DataError


@dataclass(frozen=True)
class Wanted:
    """What is to be done with the files.

    Attributes:
        bad_images: "raise" or "exclude".
        fit: how they become square or cubic.
        cache: where facts about files are remembered.
        size: pixels a side.
        window: of values, for NIfTI files.
    """

    bad_images: str
    fit: str
    cache: Path
    size: int
    window: Window | None = None


class Opened(NamedTuple):
    """Scanned files.

    Fields:
        good: positions of those that can be used.
        exclusions: the others.
        fields: of the `Records`: where the images come from, and what is known of them.
        notes: the sentences about them, given all samples that are left out.
        files: those that can be used, of pictures.
    """

    good: list[int]
    exclusions: tuple[Exclusion, ...]
    fields: dict[str, Any]
    notes: Callable[[Sequence[Exclusion]], tuple[str, ...]]
    files: list[ScannedFile]


def open_files(paths: Sequence[Path], sample_ids: Sequence[str], wanted: Wanted) -> Opened:
    """Scan image files, or NIfTI files as volumes.

    Raises:
        DataError: both kinds, or files that cannot be used.
        ExtraNotInstalled: nibabel is missing, and there are NIfTI files.
    """
    solid = [is_nifti(path) for path in paths]
    if any(solid) and not all(solid):
        flat = [sample_ids[i] for i, one in enumerate(solid) if not one]
        raise DataError(
            f"{sum(solid)} of {len(solid)} files are NIfTI volumes and the others are not ({listed(flat, 3)}): a data "
            "set holds images or volumes. Cure: a table for each."
        )
    hashes: tuple[str, ...]
    if any(solid):
        good, volumes, exclusions = usable_volumes(paths, sample_ids, wanted.bad_images, wanted.cache)
        hashes = tuple(file.sha256 for file in volumes)
        fields = {
            "images": NiftiFiles(tuple(str(paths[i]) for i in good), hashes, wanted.window),
            "image_hashes": hashes, "channels": 1, "white": WHITE, "side": median_side(volumes, wanted.fit),
            "spatial_dims": 3, "values": f"{OF_A_VOLUME}, {wanted.window}",
        }  # fmt: skip
        how: dict[str, Any] = {"fit": wanted.fit, "window": wanted.window, "size": wanted.size}
        return Opened(good, exclusions, fields, lambda left_out: volume_notes(volumes, left_out, **how), [])
    good, files, exclusions = usable_files(paths, sample_ids, wanted.bad_images, wanted.cache)
    hashes = tuple(file.sha256 for file in files)
    channels, white = channels_and_white(files)
    names = [sample_ids[i] for i in good]
    fields = {
        "images": ImageFiles(tuple(str(paths[i]) for i in good), hashes),
        "image_hashes": hashes, "channels": channels, "white": white,
        "side": median_side_of_pictures(files, wanted.fit),
    }  # fmt: skip
    return Opened(good, exclusions, fields, lambda left_out: file_notes(files, left_out, wanted.fit, names), files)


def masks_of(
    opened: Opened, masks: Sequence[Path | None], sample_ids: Sequence[str], paths: Sequence[Path], where: str,
    classes: Sequence[str], bad_images: str, cache: Path,
) -> Masks:  # fmt: skip
    """The masks of the files that can be used, of pictures or of volumes; arguments and errors as of `read_masks`."""
    how: dict[str, Any] = {"classes": classes, "bad_images": bad_images, "cache": cache}
    if opened.fields.get("spatial_dims") == 3:
        return read_mask_volumes(masks, sample_ids, paths, where, **how)
    return read_masks(masks, sample_ids, paths, opened.files, where, **how)


def open_with_masks(
    paths: Sequence[Path], masks: Sequence[Path], sample_ids: Sequence[str], wanted: Wanted, name: str,
    classes: Sequence[str],
) -> tuple[list[int], dict[str, Any]]:  # fmt: skip
    """Image files, or NIfTI files as volumes, each with its mask: a segmentation of files that lie in known places.

    Args:
        paths: of the images.
        masks: of the masks, in the same order.
        sample_ids: likewise.
        wanted: what is to be done with them.
        name: of the data set.
        classes: of the masks, the background first.

    Returns:
        The positions of the samples that can be used, and the fields of the `Records` that follow from the files.

    Raises:
        DataError: files that are missing, broken or of another size.
        ExtraNotInstalled: nibabel is missing, and there are NIfTI files.
    """
    opened = open_files(paths, sample_ids, wanted)
    of = [masks[i] for i in opened.good], [sample_ids[i] for i in opened.good], [paths[i] for i in opened.good]
    found = masks_of(opened, *of, name, classes, wanted.bad_images, wanted.cache)
    exclusions = (*opened.exclusions, *found.exclusions)
    good = [opened.good[i] for i in found.good]
    ids = tuple(sample_ids[i] for i in good)
    opened = open_files([paths[i] for i in good], ids, wanted)  # as remembered, of fewer
    return good, {
        "name": name, "task": "segmentation", "classes": found.classes, "targets": found.present, "sample_ids": ids,
        **opened.fields, "notes": opened.notes(exclusions), "exclusions": exclusions, "masks": found.source,
        "mask_hashes": found.hashes,
    }  # fmt: skip
