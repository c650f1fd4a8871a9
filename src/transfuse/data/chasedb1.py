"""CHASE_DB1 (Kingston University, CC BY 4.0): fundus photographs with the vessels as two observers drew them.

28 photographs of 999 x 960 pixels, both eyes of 14 children: `Image_01L.jpg`, with `Image_01L_1stHO.png` and
`Image_01L_2ndHO.png` (Fraz et al., IEEE Transactions on Biomedical Engineering 59(9), 2012). The number is the patient.
"""

from __future__ import annotations

import re
from pathlib import Path

from transfuse.data.files import ImageFiles, channels_and_white, file_notes, median_side, usable_files
from transfuse.data.masks import BACKGROUND, read_masks
from transfuse.data.records import Records
from transfuse.errors import DataError

NAME = "chasedb1"
CLASSES = (BACKGROUND, "vessel")
OBSERVERS = {"first": "1stHO", "second": "2ndHO"}
_IMAGE = re.compile(r"(Image_(\d+)[LR])\.jpg", re.IGNORECASE)


def read_chasedb1(folder: Path, *, observer: str = "first", bad_images: str, fit: str, cache: Path) -> Records:
    """Read the folder; a sample's id is `Image_01L`, its patient `01`.

    Args:
        folder: with the photographs and masks, side by side.
        observer: whose masks, "first" (as most papers train and test) or "second".
        bad_images: "raise", or "exclude" to leave out images that cannot be read, or whose mask cannot.
        fit: how oblong images become square, for the notes.
        cache: folder of the cache.

    Raises:
        DataError: no such photographs, or files that are missing, broken or of another size.
    """
    found = sorted((match[1], match[2], path) for path in folder.iterdir() if (match := _IMAGE.fullmatch(path.name)))
    if not found:
        raise DataError(f"{folder} holds no photographs of CHASE_DB1. Expected Image_01L.jpg, Image_01L_1stHO.png, ...")
    names, paths = [name for name, _, _ in found], [path for _, _, path in found]
    readable, scanned, unreadable = usable_files(paths, names, bad_images, cache)
    masks = read_masks(
        [folder / f"{names[i]}_{OBSERVERS[observer]}.png" for i in readable],
        [names[i] for i in readable],
        [paths[i] for i in readable],
        scanned,
        NAME,
        classes=CLASSES,
        bad_images=bad_images,
        cache=cache,
    )
    good, files = [readable[i] for i in masks.good], [scanned[i] for i in masks.good]
    exclusions = (*unreadable, *masks.exclusions)
    ids = tuple(names[i] for i in good)
    channels, white = channels_and_white(files)
    return Records(
        name=NAME,
        task="segmentation",
        classes=masks.classes,
        targets=masks.present,
        sample_ids=ids,
        images=ImageFiles(tuple(str(paths[i]) for i in good), tuple(file.sha256 for file in files)),
        image_hashes=tuple(file.sha256 for file in files),
        channels=channels,
        white=white,
        side=median_side(files, fit),
        patient_ids=tuple(found[i][1] for i in good),
        source=f"CHASE_DB1, Kingston University; vessels as the {observer} observer drew them",
        licence="CC BY 4.0",
        notes=file_notes(files, exclusions, fit, ids),
        exclusions=exclusions,
        masks=masks.source,
        mask_hashes=masks.hashes,
    )
