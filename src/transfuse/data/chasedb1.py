"""CHASE_DB1 (Kingston University, CC BY 4.0): fundus photographs with the vessels as two observers drew them.

28 photographs of 999 x 960 pixels, both eyes of 14 children: `Image_01L.jpg`, with `Image_01L_1stHO.png` and
`Image_01L_2ndHO.png` (Fraz et al., IEEE Transactions on Biomedical Engineering 59(9), 2012). The number is the patient.
"""

from __future__ import annotations

import re
from pathlib import Path

from transfuse.data.masks import BACKGROUND
from transfuse.data.opened import Wanted, open_with_masks
from transfuse.data.records import Records
from transfuse.errors import DataError

NAME = "chasedb1"
CLASSES = (BACKGROUND, "vessel")
OBSERVERS = {"first": "1stHO", "second": "2ndHO"}
_IMAGE = re.compile(r"(Image_(\d+)[LR])\.jpg", re.IGNORECASE)


def read_chasedb1(folder: Path, wanted: Wanted, *, observer: str = "first") -> Records:
    """Read the folder; a sample's id is `Image_01L`, its patient `01`.

    Args:
        folder: with the photographs and masks, side by side.
        wanted: what is to be done with them.
        observer: whose masks, "first" (as most papers train and test) or "second".

    Raises:
        DataError: no such photographs, or files that are missing, broken or of another size.
    """
    found = sorted((match[1], match[2], path) for path in folder.iterdir() if (match := _IMAGE.fullmatch(path.name)))
    if not found:
        raise DataError(f"{folder} holds no photographs of CHASE_DB1. Expected Image_01L.jpg, Image_01L_1stHO.png, ...")
    names, paths = [name for name, _, _ in found], [path for _, _, path in found]
    masks = [folder / f"{name}_{OBSERVERS[observer]}.png" for name in names]
    good, fields = open_with_masks(paths, masks, names, wanted, NAME, CLASSES)
    return Records(
        **fields,
        patient_ids=tuple(found[i][1] for i in good),
        source=f"CHASE_DB1, Kingston University; vessels as the {observer} observer drew them",
        licence="CC BY 4.0",
    )
