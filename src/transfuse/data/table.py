"""Tables (.csv, .tsv, .parquet) with an image column, one or several label columns, a patient and a part column."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transfuse.data.files import image_files_below
from transfuse.data.label_groups import named_columns
from transfuse.data.opened import Wanted, masks_of, open_files
from transfuse.data.records import PART_NAMES, Exclusion, Records, listed, order_classes, positive_note, refuse_repeated
from transfuse.errors import DataError, SpecError, nearest

if TYPE_CHECKING:
    import pandas as pd

IMAGE_COLUMNS = (
    "image",
    "image_path",
    "path",
    "file",
    "file_path",
    "filename",
    "file_name",
    "image_id",
    "image_name",
    "image_file",
)
LABEL_COLUMNS = ("label", "class", "target", "diagnosis", "grade")
PATIENT_COLUMNS = ("patient_id", "patient", "patientid", "subject_id", "subject")
_GENERIC = ("data", "labels", "label", "metadata", "index", "images", "table")  # file names that say nothing
UNCERTAIN = ("refuse", "positive", "negative", "ignore")
BLANK = ("ignore", "negative")
_MISSING = ("", "nan", "none", "<na>")


def read_table(
    path: Path,
    *,
    image_column: str | None,
    label_columns: str | Sequence[str],
    patient_column: str | None,
    part_column: str | None,
    mask_column: str | None = None,
    mask_classes: Sequence[str] = (),
    wanted: Wanted,
    uncertain_labels: str = "refuse",
    blank_labels: str = "ignore",
) -> Records:
    """Read a table; a sample's id is the value of the image column, samples are sorted by it.

    One label column gives classes (two values: binary), several give a multilabel task of 0, 1 and empty (unlabelled).
    A group of `LABEL_GROUPS` stands for its columns. Of labels of 0 and 1, `uncertain_labels` says what -1 is and
    `blank_labels` what an empty cell is.
    Images are found relative to the table, by path, or by a name that is unique below the table's folder; NIfTI files
    are volumes.

    A mask column instead of labels makes a segmentation: it names a mask file for each image, found as images are
    (see `data/masks.py` and, of volumes, `data/mask_volumes.py`). Without `mask_classes`, names in the order of
    the masks' values, the classes are "background" and "foreground", or "background", "class 1", "class 2", ...

    Raises:
        SpecError: labels beside masks, or names of classes without masks.
        DataError: columns, labels, parts or images that cannot be used; each names the column, the value and the cure.
        SpecError: a group of label columns that is none, or that the table does not hold.
    """
    frame = _read_frame(path)
    where = path.name
    label_columns = named_columns(label_columns, frame.columns)
    image_column = _column(frame, where, "image_column", image_column, IMAGE_COLUMNS)
    _check_masks(label_columns, mask_column, mask_classes)
    if mask_column:
        mask_column = _column(frame, where, "mask_column", mask_column, ())
    elif not label_columns:
        label_columns = (_column(frame, where, "label_columns", None, LABEL_COLUMNS),)
    label_columns = tuple(_column(frame, where, "label_columns", name, ()) for name in label_columns)
    guessed = () if patient_column else tuple(name for name in frame.columns if _plain(name) in PATIENT_COLUMNS)
    if patient_column or guessed:
        patient_column = _column(frame, where, "patient_column", patient_column or guessed[0], ())
    if part_column:
        part_column = _column(frame, where, "part_column", part_column, ())

    frame = frame.sort_values(image_column, kind="stable", ignore_index=True)
    ids = list(frame[image_column])
    if "" in ids:
        raise DataError(
            f"{where}: {ids.count('')} row(s) have no value in the image column {image_column!r}. Cure: remove them."
        )
    refuse_repeated(ids, where)
    frame, decided = decide_labels(frame, label_columns, uncertain_labels, blank_labels)
    every = list(range(len(ids)))
    keep, unlabelled = (every, ()) if mask_column else _labelled(frame, where, label_columns, ids, wanted.bad_images)
    frame, ids = frame.iloc[keep].reset_index(drop=True), [ids[i] for i in keep]
    paths = find_images(path.parent, ids)
    opened = open_files(paths, ids, wanted)
    good, exclusions = opened.good, (*unlabelled, *opened.exclusions)
    masks = None
    if mask_column:
        of = _mask_paths(path.parent, frame[mask_column].iloc[good]), [ids[i] for i in good], [paths[i] for i in good]
        named, rest = f"{where}, column {mask_column!r}", (mask_classes, wanted.bad_images, wanted.cache)
        masks = masks_of(opened, *of, named, *rest)
        good = [good[i] for i in masks.good]
        exclusions = (*exclusions, *masks.exclusions)
        opened = open_files([paths[i] for i in good], [ids[i] for i in good], wanted)  # as remembered, of fewer
    frame = frame.iloc[good]
    if masks is not None:
        task, classes, targets = "segmentation", masks.classes, masks.present
    else:
        task, classes, targets = _targets(frame, where, label_columns)
    notes = [
        *(positive_note(classes, f"column {label_columns[0]!r}") if task == "binary" else ()),
        *opened.notes(exclusions),
        *decided,
    ]
    if guessed:
        notes.append(f"The column {patient_column!r} was taken to name the patients.")
    if task == "multilabel" and np.isnan(targets).any():
        notes.append(
            f"{int(np.isnan(targets).sum())} of {targets.size} labels are empty; they count in no loss and no metric."
        )
    return Records(
        name=path.resolve().parent.name if path.stem.lower() in _GENERIC else path.stem,
        task=task,
        classes=classes,
        targets=targets,
        sample_ids=tuple(ids[i] for i in good),
        **opened.fields,
        patient_ids=_patients(frame, where, patient_column) if patient_column else None,
        patients_by="patient_column: with the table's column that names the patient",
        parts=_parts(frame, where, part_column) if part_column else None,
        source=f"table {where}, {f'mask column {mask_column}' if mask_column else _label_text(label_columns)}",
        notes=tuple(notes),
        exclusions=exclusions,
        masks=masks.source if masks else None,
        mask_hashes=masks.hashes if masks else (),
    )


def _label_text(columns: Sequence[str]) -> str:
    return f"label column(s) {', '.join(columns)}"


def _check_masks(label_columns: Sequence[str], mask_column: str | None, mask_classes: Sequence[str]) -> None:
    problems = []
    if mask_column and label_columns:
        problems.append(
            f"label_columns={list(label_columns)} and mask_column={mask_column!r}: a data set has labels of images or "
            "masks; give one of the two"
        )
    if mask_classes and not mask_column:
        problems.append(f"mask_classes={list(mask_classes)}: of which masks? Give mask_column too")
    if mask_classes and (len(mask_classes) < 2 or len(set(mask_classes)) < len(mask_classes)):
        problems.append(
            f"mask_classes={list(mask_classes)}: expected two or more different names, the background first"
        )
    if problems:
        raise SpecError(problems, "open_dataset")


def _mask_paths(folder: Path, names: Iterable[str]) -> list[Path | None]:
    """The file of each mask, None where the cell is empty."""
    given = [name if name.lower() not in _MISSING else "" for name in names]
    found = iter(find_images(folder, [name for name in given if name]))
    return [next(found) if name else None for name in given]


def _read_frame(path: Path) -> pd.DataFrame:
    """All columns as text; empty cells as ""."""
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
            frame = frame.astype(object).where(frame.notna(), "").map(str)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            if separator == "," and _is_semicolon_separated(path):
                separator = ";"
            rows = _rows(path, separator)
            if not rows:
                raise DataError(f"{path} is empty. Expected a header line and one row an image.")
            frame = pd.DataFrame(rows[1:], columns=rows[0], dtype=object)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}). Cure: save the table as CSV UTF-8.") from None
    except (ValueError, OSError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise DataError(f"{path} cannot be read as a table: {error}") from None
    if frame.empty:
        raise DataError(f"{path} has a header and no rows. Expected one row an image.")
    frame.columns = [str(name).strip() for name in frame.columns]
    for name in frame.columns[frame.columns.duplicated()]:
        raise DataError(f"{path}: the column name {name!r} occurs more than once. Cure: rename one of them.")
    return frame.map(str.strip)


def _is_semicolon_separated(path: Path) -> bool:
    """Whether the header says so: spreadsheets write ";" where the comma is decimal, so the rows may hold commas."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next((row for row in csv.reader(file) if any(cell.strip() for cell in row)), [])
    return len(header) == 1 and ";" in header[0]


def _rows(path: Path, separator: str) -> list[list[str]]:
    """The cells of a text table. (pandas silently takes surplus cells of a row for an index and shifts the columns.)"""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=separator)
        rows: list[list[str]] = []
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if rows and len(row) != len(rows[0]):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} cells, where the header has {len(rows[0])}. "
                    'Cure: cells that contain the separator go between double quotes ("a, b").'
                )
            rows.append(row)
    return rows


def _plain(name: str) -> str:
    """A column name in small letters, with "_" for spaces and hyphens ("Patient ID" of ChestX-ray14)."""
    return name.lower().replace(" ", "_").replace("-", "_")


def _column(frame: pd.DataFrame, where: str, argument: str, name: str | None, guesses: Sequence[str]) -> str:
    if name is None:
        known = [column for guess in guesses for column in frame.columns if column.lower() == guess]
        if not known:
            option = argument.replace("_", "-")
            masks = ", or, of a table that names masks instead of labels, mask_column" * (argument == "label_columns")
            raise DataError(
                f"{where}: {argument} is not given and no column is called {' or '.join(guesses[:3])}. Cure: name it "
                f"by {argument} (transfuse data inspect: --{option}){masks}; there are "
                f"{', '.join(map(repr, frame.columns))}."
            )
        return known[0]
    if name not in frame.columns:
        raise DataError(f"{where} has no column {name!r} ({argument}); {nearest(name, frame.columns, most=40)}")
    return name


def _labelled(
    frame: pd.DataFrame, where: str, columns: Sequence[str], ids: Sequence[str], bad_images: str
) -> tuple[list[int], tuple[Exclusion, ...]]:
    """Rows that carry a label at all, and the others as exclusions (or an error)."""
    missing = np.all([frame[column].str.lower().isin(_MISSING).to_numpy() for column in columns], axis=0)
    rows = np.flatnonzero(missing).tolist()
    named = f"column {columns[0]!r}" if len(columns) == 1 else f"any of the columns {', '.join(map(repr, columns))}"
    if len(rows) == len(frame) or (len(rows) and bad_images == "raise"):
        raise DataError(
            f"{where}: {len(rows)} row(s) have no value in {named}: {listed([ids[i] for i in rows])}. "
            "Cure: label or remove them, or leave them out by name and count with bad_images: exclude."
        )
    return np.flatnonzero(~missing).tolist(), tuple(Exclusion(ids[i], f"no value in {named}") for i in rows)


def decide_labels(
    frame: pd.DataFrame, columns: Sequence[str], uncertain: str, blank: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table with its uncertain (-1) and its empty labels as the study says, and the sentences that a report shows.

    Args:
        frame: texts, a row an image.
        columns: the label columns.
        uncertain: "refuse" leaves -1 as it is, "positive" (U-Ones) and "negative" (U-Zeros) count it as 1 or 0,
            "ignore" (U-Ignore) as unlabelled.
        blank: "ignore" leaves empty cells unlabelled, "negative" counts them as 0.
    """
    labels = frame[list(columns)]
    unsure = labels.isin(("-1", "-1.0")) & (uncertain != "refuse")
    empty = labels.apply(lambda column: column.str.lower().isin(_MISSING)) & (blank == "negative")
    of, notes = f"of {labels.size:,} labels", []
    if unsure.to_numpy().any():
        what = {"positive": "positive (U-Ones)", "negative": "negative (U-Zeros)", "ignore": "unlabelled (U-Ignore)"}
        notes.append(f"{int(unsure.to_numpy().sum()):,} {of} are uncertain (-1); they count as {what[uncertain]}.")
    if empty.to_numpy().any():
        notes.append(f"{int(empty.to_numpy().sum()):,} {of} are empty; they count as negative.")
    decided = labels.mask(empty, "0").mask(unsure, {"positive": "1", "negative": "0"}.get(uncertain, ""))
    return frame.assign(**{str(name): decided[name] for name in columns}), tuple(notes)


def _targets(frame: pd.DataFrame, where: str, columns: Sequence[str]) -> tuple[str, tuple[str, ...], np.ndarray]:
    if len(columns) > 1:
        return "multilabel", tuple(columns), np.stack([_zero_one(frame[name], where) for name in columns], axis=1)
    values = _tidy_numbers(frame[columns[0]])
    classes = order_classes(values)
    if len(classes) < 2:
        raise DataError(
            f"{where}: the label column {columns[0]!r} has the single value {classes[0]!r}; two classes are needed."
        )
    fractions = [value for value in classes if _is_number(value) and "." in value]
    if fractions or len(classes) > max(2, len(values) // 2):
        raise DataError(
            f"{where}: the label column {columns[0]!r} has {len(classes)} different values in {len(values)} rows "
            f"({listed(classes, 4)}): it looks like a measurement or an id, not a class. Cure: another "
            "column, or group its values."
        )
    index = {name: position for position, name in enumerate(classes)}
    task = "binary" if len(classes) == 2 else "multiclass"
    return task, classes, np.array([index[value] for value in values], np.int64)


def _zero_one(column: pd.Series, where: str) -> np.ndarray:
    meaning = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0} | dict.fromkeys(_MISSING, np.nan)
    lower = [value.lower() for value in column]
    wrong = sorted({value for value in lower if value not in meaning})
    if wrong:
        raise DataError(
            f"{where}: the label column {column.name!r} holds "
            f"{listed([repr(value) for value in wrong], 5)}; with several label "
            "columns each holds 0, 1 or nothing (unlabelled). Cure: say what uncertain labels (CheXpert's -1) are by "
            "uncertain_labels: positive, negative or ignore; replace other values by 0, 1 or nothing."
        )
    return np.array([meaning[value] for value in lower], np.float32)


def _tidy_numbers(column: Iterable[str]) -> list[str]:
    """Whole numbers without ".0" (a spreadsheet's float column), if all values are numbers."""
    values = list(column)
    if not all(_is_number(value) for value in values):
        return values
    return [str(int(float(value))) if float(value).is_integer() else value for value in values]


def _is_number(value: str) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False


def _patients(frame: pd.DataFrame, where: str, column: str) -> tuple[str, ...]:
    values = [value if value.lower() not in _MISSING else "" for value in frame[column]]
    if "" in values:
        rows = [str(i + 1) for i, value in enumerate(values) if not value]
        raise DataError(
            f"{where}: {len(rows)} row(s) have no value in the patient column {column!r}, so it cannot be told "
            "which images belong to one patient. Cure: fill the column, or give such rows ids of their own."
        )
    return tuple(values)


def _parts(frame: pd.DataFrame, where: str, column: str) -> np.ndarray:
    wrong = sorted({value for value in frame[column] if value.lower() not in PART_NAMES})
    if wrong:
        raise DataError(
            f"{where}: the part column {column!r} holds {listed([repr(v) for v in wrong])}; expected "
            "train, val or test."
        )
    return np.array([PART_NAMES[value.lower()] for value in frame[column]])


def find_images(folder: Path, names: Sequence[str]) -> list[Path]:
    """The file of each name: relative to `folder`; less leading folders; else the only file below of that name or stem.

    The last is for bare names: `p1/image.png` that is missing must not become the image of `p2`.

    Raises:
        DataError: a name without its folder or extension fits several files, or several names lead to one file.
    """
    direct = [_direct(folder, name) for name in names]
    below: dict[str, list[Path]] = {}
    for file in image_files_below(folder) if None in direct else ():
        below.setdefault(file.name, []).append(file)
        below.setdefault(file.name.removesuffix(".gz").rpartition(".")[0], []).append(file)
    found = []
    for name, path in zip(names, direct, strict=True):
        fitting = [path] if path else below.get(name, [])
        if len(fitting) > 1:
            raise DataError(
                f"The image {name!r} fits {len(fitting)} files below {folder}: "
                f"{listed([file.relative_to(folder) for file in fitting], 4)}. "
                "Cure: write paths relative to the table into the image column."
            )
        found.append(fitting[0] if fitting else folder / name)
    _refuse_shared(names, found)
    return found


def _refuse_shared(names: Sequence[str], paths: Sequence[Path]) -> None:
    """Raise a DataError that lists files to which several names lead."""
    leading: dict[Path, list[str]] = {}
    for name, path in zip(names, paths, strict=True):
        leading.setdefault(path, []).append(name)
    shared = [f"{path} ({', '.join(map(repr, several))})" for path, several in leading.items() if len(several) > 1]
    if shared:
        raise DataError(
            f"{len(shared)} image file(s) would serve several rows: {listed(shared, 3)}. Cure: write paths relative "
            "to the table into the image column, and remove rows without an image."
        )


def _direct(folder: Path, name: str) -> Path | None:
    parts = Path(name).parts
    candidates = (folder.joinpath(*parts[start:]) for start in range(max(1, len(parts))))
    return next((path for path in candidates if path.is_file()), None)
