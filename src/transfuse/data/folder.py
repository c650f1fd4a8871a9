"""Class folders: `root/<class>/*.png`, or `root/{train,val,test}/<class>/*.png` for an official split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transfuse.data.files import VOLUMES, image_files_below
from transfuse.data.images import EXTENSIONS
from transfuse.data.opened import Wanted, open_files
from transfuse.data.records import PART_NAMES, Records, listed, order_classes, positive_note
from transfuse.errors import DataError


def read_folder(root: Path, wanted: Wanted) -> Records:
    """Read a folder of class folders; a sample's id is its path below `root`. NIfTI files are volumes.

    Raises:
        DataError: no class folders, a single class, a class folder without images, other folders beside those of an
            official split, or images that cannot be used.
    """
    folders = _visible_folders(root)
    part_folders = {folder: PART_NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in PART_NAMES}
    official = bool(part_folders) and len(part_folders) == len(folders)
    others = [folder.name for folder in folders if folder not in part_folders]
    if others and {"train", "test"} <= set(part_folders.values()):
        raise DataError(
            f"{root} holds the parts {listed([folder.name for folder in part_folders])} and beside them "
            f"{listed(others)}, so the parts would count as classes. Cure: move the other folders elsewhere, or give "
            "the path of the folder that holds the classes."
        )
    rows: list[tuple[str, Path, str, str]] = []  # sample id, path, class, part
    empty = []
    for folder in sorted(part_folders) if official else [root]:
        for class_folder in _visible_folders(folder):
            files = image_files_below(class_folder)
            if not files:
                empty.append(class_folder.relative_to(root).as_posix())
            part = part_folders.get(folder, "")
            rows += [(file.relative_to(root).as_posix(), file, class_folder.name, part) for file in files]
    if not rows:
        raise DataError(f"{root} has no class folders with images. {_hint(root)}")
    if empty:
        raise DataError(
            f"{root}: the class folder(s) {listed(empty)} hold no images ({', '.join((*EXTENSIONS, *VOLUMES))}). "
            "Cure: convert the images, or remove the folder."
        )
    classes = order_classes(row[2] for row in rows)
    if len(classes) < 2:
        raise DataError(f"{root} has a single class folder with images, {classes[0]!r}; two are needed. {_hint(root)}")
    rows.sort()
    ids = [row[0] for row in rows]
    opened = open_files([row[1] for row in rows], ids, wanted)
    good = opened.good
    return Records(
        name=root.name,
        task="binary" if len(classes) == 2 else "multiclass",
        classes=classes,
        targets=np.array([classes.index(rows[i][2]) for i in good], np.int64),
        sample_ids=tuple(ids[i] for i in good),
        **opened.fields,
        parts=np.array([rows[i][3] for i in good]) if official else None,
        source=f"class folders {root.name}",
        patients_by="a table (.csv) of these images with a column for the patient, which patient_column: names",
        notes=(
            *positive_note(classes, "by the names of the folders"),
            *opened.notes(opened.exclusions),
        ),
        exclusions=opened.exclusions,
    )


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _hint(root: Path) -> str:
    tables = sorted(path.name for path in root.iterdir() if path.suffix.lower() in (".csv", ".tsv", ".parquet", ".npz"))
    if tables:
        return f"It holds {listed(tables)}: give the path of that file instead."
    return "Expected <folder>/<class>/*.png, <folder>/train/<class>/*.png, or the path of a .csv table."
