"""The hippocampus of the Medical Segmentation Decathlon (task 4, CC BY-SA 4.0): cut-out MRI volumes with two labels.

T1-weighted volumes of about 35 x 50 x 35 voxels of 1 mm around one hippocampus, head (anterior, label 1) and body and
tail (posterior, label 2) (Simpson et al. 2019, arXiv:1902.09063). Volumes and masks have the same name in two folders,
`images` and `labels`, or `imagesTr` and `labelsTr` as distributed. No file names the patients.
"""

from __future__ import annotations

from pathlib import Path

from transfuse.data.masks import BACKGROUND
from transfuse.data.nifti import is_nifti
from transfuse.data.opened import Wanted, open_with_masks
from transfuse.data.records import Records
from transfuse.errors import DataError

NAME = "hippocampus_msd"
CLASSES = (BACKGROUND, "anterior", "posterior")
FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))


def read_hippocampus(folder: Path, wanted: Wanted) -> Records:
    """Read the folder; a sample's id is `hippocampus_001`.

    Raises:
        DataError: no such folders, or files that are missing, broken or of another shape.
        ExtraNotInstalled: nibabel is missing.
    """
    images, labels = next((pair for pair in FOLDERS if (folder / pair[0]).is_dir()), FOLDERS[0])
    found = sorted((folder / images).iterdir()) if (folder / images).is_dir() else []
    paths = [path for path in found if is_nifti(path) and not path.name.startswith(".")]
    if not paths:
        raise DataError(
            f"{folder} holds no volumes of the hippocampus. Expected images/hippocampus_001.nii.gz, ... and "
            "labels/hippocampus_001.nii.gz, ... (or imagesTr and labelsTr)."
        )
    names = [path.name.partition(".")[0] for path in paths]
    _, fields = open_with_masks(paths, [folder / labels / path.name for path in paths], names, wanted, NAME, CLASSES)
    return Records(
        **fields,
        source="Medical Segmentation Decathlon, task 4: MRI of the hippocampus",
        licence="CC BY-SA 4.0",
    )
