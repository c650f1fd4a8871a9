"""CheXpert's labels: the groups by name, and what -1 and an empty cell are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transfuse.data import open_dataset
from transfuse.data.label_groups import CHEXPERT, LABEL_GROUPS, named_columns
from transfuse.errors import DataError, SpecError
from transfuse.specs import data_from

Write = Callable[..., Path]
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT)


@pytest.fixture
def chexpert(write_table: Write) -> Path:
    """Twelve images with the header of CheXpert's train.csv: 1.0, 0.0, -1.0 and nothing in every label."""
    cells = ("1.0", "0.0", "-1.0", "")
    rows = [
        (
            f"train/patient{number // 2:05d}/study1/view{number}_frontal.jpg",
            *("Male", 50, "Frontal", "AP"),
            *(cells[(number + place) % 4] for place in range(len(CHEXPERT))),
        )
        for number in range(12)
    ]
    return write_table(HEADER, rows, "train.csv")


# S004, Table 4 as printed: ticks of shape (S), edge (E) and contrast (C), and the column of the group.
TABLE_4 = {
    "No Finding": ("", "None"),
    "Enlarged Cardiomediastinum": ("SC", "low & high"),
    "Cardiomegaly": ("SC", "low & high"),
    "Lung Opacity": ("C", "low"),
    "Lung Lesion": ("SC", "low & high"),
    "Edema": ("C", "low & high"),
    "Consolidation": ("C", "low"),
    "Pneumonia": ("C", "low"),
    "Atelectasis": ("SC", "low & high"),
    "Pneumothorax": ("EC", "low"),
    "Pleural Effusion": ("C", "low"),
    "Pleural Other": ("C", "low"),
    "Fracture": ("SEC", "low & high"),
    "Support Devices": ("SEC", "low & high"),
}


def test_the_groups_of_table_4_are_those_that_it_prints() -> None:
    assert tuple(TABLE_4) == CHEXPERT
    for group, printed in (("low", "low"), ("high", "low & high")):
        assert LABEL_GROUPS[f"chexpert-{group}:table4"] == tuple(
            name for name, (_, said) in TABLE_4.items() if said == printed
        )
    assert len(LABEL_GROUPS["chexpert-full:table4"]) == 13  # "13 types of diseases"


def test_low_is_without_a_feature_of_shape_but_for_edema() -> None:
    without_shape = {name for name, (ticks, _) in TABLE_4.items() if ticks and "S" not in ticks}
    assert without_shape - set(LABEL_GROUPS["chexpert-low:table4"]) == {"Edema"}


@pytest.mark.parametrize("preset", ["table4", "code"])
def test_low_and_high_share_nothing_and_make_up_the_whole(preset: str) -> None:
    low, high, full = (LABEL_GROUPS[f"chexpert-{group}:{preset}"] for group in ("low", "high", "full"))
    assert not set(low) & set(high)
    assert set(low) | set(high) == set(full)
    assert len(set(full)) == len(full) == {"table4": 13, "code": 14}[preset]


def test_table_and_code_disagree_about_four_labels() -> None:
    table, code = ({name: group for group in ("low", "high") for name in LABEL_GROUPS[f"chexpert-{group}:{preset}"]}
                   for preset in ("table4", "code"))  # fmt: skip
    differ = {name: (table.get(name), code.get(name)) for name in CHEXPERT if table.get(name) != code.get(name)}
    assert differ == {
        "No Finding": (None, "high"),
        "Edema": ("high", "low"),
        "Atelectasis": ("high", "low"),
        "Pneumothorax": ("low", "high"),
    }


def test_a_group_is_as_its_columns_one_by_one(chexpert: Path) -> None:
    policy = {"uncertain_labels": "positive", "blank_labels": "negative", "size": 16}
    group = open_dataset(str(chexpert), image_column="Path", label_columns="chexpert-low:table4", **policy)
    columns = open_dataset(
        str(chexpert), image_column="Path", label_columns=list(LABEL_GROUPS["chexpert-low:table4"]), **policy
    )
    assert group.info.classes == LABEL_GROUPS["chexpert-low:table4"]
    assert group.info.task == "multilabel"
    assert group.info.fingerprint == columns.info.fingerprint


@pytest.mark.parametrize(
    ("uncertain", "blank", "minus_one", "empty"),
    [
        ("positive", "negative", 1, 0),
        ("negative", "negative", 0, 0),
        ("ignore", "negative", np.nan, 0),
        ("positive", "ignore", 1, np.nan),
        ("ignore", "ignore", np.nan, np.nan),
    ],
)
def test_what_uncertain_and_empty_labels_are(
    chexpert: Path, uncertain: str, blank: str, minus_one: float, empty: float
) -> None:
    found = open_dataset(
        str(chexpert), size=16, image_column="Path", label_columns=("chexpert-full:code",), uncertain_labels=uncertain,
        blank_labels=blank,
    )  # fmt: skip
    meaning = (1, 0, minus_one, empty)
    order = [int(Path(name).stem.partition("view")[2].partition("_")[0]) for name in found.sample_ids]
    expected = [[meaning[(number + place) % 4] for place in range(14)] for number in order]
    np.testing.assert_array_equal(found.targets, np.array(expected, np.float32))
    said = " ".join(found.notes)
    assert "42 of 168 labels are uncertain (-1); they count as " in said
    assert ("42 of 168 labels are empty; they count as negative." in said) == (blank == "negative")


def test_uncertain_labels_are_refused_unless_the_study_says_what_they_are(chexpert: Path) -> None:
    with pytest.raises(DataError, match=r"column 'Lung Opacity' holds '-1\.0'.*uncertain_labels: positive, negative"):
        open_dataset(str(chexpert), image_column="Path", label_columns="chexpert-low:code")


def test_one_column_alone_is_binary_once_its_cells_are_decided(chexpert: Path) -> None:
    arguments = {"size": 16, "image_column": "Path", "label_columns": "Edema", "blank_labels": "negative"}
    found = open_dataset(str(chexpert), uncertain_labels="positive", **arguments)  # type: ignore[arg-type]
    assert (found.info.task, found.info.classes) == ("binary", ("0", "1"))
    assert np.bincount(found.targets).tolist() == [6, 6]
    fewer = open_dataset(str(chexpert), uncertain_labels="ignore", bad_images="exclude", **arguments)  # type: ignore[arg-type]
    assert (len(fewer), len(fewer.exclusions)) == (9, 3)


def test_a_row_without_any_label_of_the_group_stays_where_empty_means_negative(write_table: Write) -> None:
    rows = [("a.png", *[""] * 14), ("b.png", "1", *[""] * 13), ("c.png", *["0"] * 13, "1")]
    path = str(write_table(("image", *CHEXPERT), rows))
    assert len(open_dataset(path, label_columns="chexpert-low:code", blank_labels="negative")) == 3
    with pytest.raises(DataError, match=r"2 row\(s\) have no value in any of the columns"):
        open_dataset(path, label_columns="chexpert-low:code")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chexpert-low", r"'chexpert-low' is neither a column nor a group; did you mean 'chexpert-low:"),
        ("chexpert-lwo:code", r"did you mean 'chexpert-low:code'\? Choices: chexpert-low:table4, "),
        ("CheXpert-low:Table4", r"did you mean 'chexpert-low:table4'"),
        (["chexpert-low:code", "Edema"], r"'Edema' named more than once; expected each once"),
        (["chexpert-low:code", "chexpert-high:table4"], r"'Edema', 'Atelectasis' named more than once"),
    ],
)
def test_mistakes_are_answered(name: str | list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        named_columns(name, HEADER)


def test_a_table_without_chexperts_columns_is_told_which_it_lacks() -> None:
    there = ["Path", "lung opacity", *CHEXPERT[4:]]
    with pytest.raises(SpecError, match=r"7 columns of CheXpert, .* lacks 'Lung Opacity' \(did you mean 'lung opac"):
        named_columns("chexpert-low:code", there)


def test_a_column_that_is_called_like_a_group_is_meant_itself() -> None:
    assert named_columns("chexpert-low:code", ["chexpert-low:code"]) == ("chexpert-low:code",)


def test_policies_are_of_tables_alone(class_folders: Write) -> None:
    with pytest.raises(SpecError, match=r"has no columns \(uncertain_labels positive\)"):
        open_dataset(str(class_folders()), uncertain_labels="positive")
    with pytest.raises(SpecError, match=r"uncertain_labels='ones': Choices: refuse, positive, negative, ignore"):
        open_dataset("fundus-phantom", uncertain_labels="ones")
    with pytest.raises(SpecError, match=r"blank_labels='negativ': did you mean 'negative'"):
        open_dataset("fundus-phantom", blank_labels="negativ")


def test_a_study_names_a_group_by_one_word() -> None:
    spec = data_from("train.csv", {"label_columns": "chexpert-low:table4", "uncertain_labels": "positive"})
    assert spec.label_columns == ("chexpert-low:table4",)
    with pytest.raises(SpecError, match=r"data\.label_columns: expected text or a list, e\.g\. \[grade\], found 3"):
        data_from("train.csv", {"label_columns": 3})
