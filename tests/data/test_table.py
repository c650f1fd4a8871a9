from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfuse.data import open_dataset
from transfuse.errors import DataError

Write = Callable[..., Path]
ROWS = [(f"{number}.png", "no" if number % 2 else "yes", f"p{number // 2}") for number in range(8)]


def test_binary_table(write_table: Write) -> None:
    path = write_table(("image", "label", "pid"), ROWS[::-1])
    dataset = open_dataset(str(path), size=16, patient_column="pid")
    assert (dataset.info.task, dataset.info.classes, dataset.info.name) == ("binary", ("no", "yes"), "set")
    assert dataset.sample_ids == tuple(row[0] for row in ROWS)
    assert dataset.patient_ids == tuple(row[2] for row in ROWS)
    assert dataset.targets.tolist() == [1, 0] * 4
    np.testing.assert_array_equal(dataset.pixels()[5, 0], np.asarray(Image.open(path.parent / "5.png")))
    assert not any("Without patient ids" in note for note in dataset.notes)


def test_order_of_rows_does_not_matter(write_table: Write) -> None:
    one = open_dataset(str(write_table(("image", "label", "pid"), ROWS)), patient_column="pid")
    other = open_dataset(str(write_table(("image", "label", "pid"), ROWS[::-1], name="o.csv")), patient_column="pid")
    assert one.info.fingerprint == other.info.fingerprint


@pytest.mark.parametrize(("name", "delimiter"), [("t.tsv", "\t"), ("t.csv", ";"), ("t.CSV", ",")])
def test_delimiters(write_table: Write, name: str, delimiter: str) -> None:
    assert len(open_dataset(str(write_table(("image", "label", "pid"), ROWS, name, delimiter)))) == 8


def test_parquet_with_numbers_gives_the_same_as_csv(write_table: Write) -> None:
    import pandas as pd

    rows = [(f"{number}.png", float(number % 3), number // 2) for number in range(9)]
    path = write_table(("image", "label", "patient_id"), rows)
    pd.DataFrame(rows, columns=["image", "label", "patient_id"]).to_parquet(path.with_suffix(".parquet"))
    csv, parquet = open_dataset(str(path)), open_dataset(str(path.with_suffix(".parquet")))
    assert csv.info.classes == ("0", "1", "2")
    assert csv.info.fingerprint == parquet.info.fingerprint


def test_multilabel_with_gaps(write_table: Write) -> None:
    rows = [("a.png", 1, "0.0", ""), ("b.png", "", "True", "NaN"), ("c.png", "0", "false", 1)]
    dataset = open_dataset(str(write_table(("image", "x", "y", "z"), rows)), label_columns=["x", "y", "z"])
    assert (dataset.info.task, dataset.info.classes) == ("multilabel", ("x", "y", "z"))
    np.testing.assert_array_equal(dataset.targets, [[1, 0, np.nan], [np.nan, 1, np.nan], [0, 0, 1]])
    assert "3 of 9 labels are empty; they count in no loss and no metric." in dataset.notes
    target = dataset[0].target
    assert isinstance(target, np.ndarray)


def test_patient_column_is_noticed(write_table: Write) -> None:
    dataset = open_dataset(str(write_table(("image", "label", "Patient_ID"), ROWS)))
    assert len(set(dataset.patient_ids)) == 4
    assert "The column 'Patient_ID' was taken to name the patients." in dataset.notes


def test_parts(write_table: Write) -> None:
    rows = [(*row, part) for row, part in zip(ROWS, ["train", "train", "Valid", "dev"] * 2, strict=True)]
    path = str(write_table(("image", "label", "pid", "part"), rows))
    dataset = open_dataset(path, part_column="part")
    assert dataset.parts is not None
    assert dataset.parts.tolist() == ["train", "train", "val", "val"] * 2
    with pytest.raises(DataError, match=r"part column 'pid' holds 'p0', 'p1'.*; expected train, val or test"):
        open_dataset(path, part_column="pid")


def test_images_by_name_below_the_folder_and_by_longer_paths(
    write_table: Write, write_image: Write, tmp_path: Path
) -> None:
    path = write_table(("image", "label"), [("", "")])
    for folder, name in (("a", "one"), ("b/c", "two")):
        write_image(tmp_path / "table" / folder / f"{name}.png")
    path.write_text("image,label\none,x\nroot-of-the-author/b/c/two.png,y\n")
    assert open_dataset(str(path)).pixels().shape[0] == 2
    write_image(tmp_path / "table" / "z" / "one.png")
    with pytest.raises(
        DataError, match=r"image 'one' fits 2 files below .*a/one\.png, z/one\.png.*Cure: write paths relative"
    ):
        open_dataset(str(path))


def test_a_missing_image_is_never_that_of_another_patient(write_table: Write) -> None:
    path = write_table(("image", "label"), [("p2/s/scan.png", "a"), ("p3/x.png", "b")])
    path.write_text("image,label\np1/s/scan.png,a\np2/s/scan.png,b\np3/x.png,a\np4/x.png,b\n")
    with pytest.raises(
        DataError, match=r"(?s)2 images cannot be used:.*p1/s/scan\.png: does not exist.*p4/x\.png: does not exist"
    ):
        open_dataset(str(path))
    dataset = open_dataset(str(path), bad_images="exclude")
    assert [item.sample_id for item in dataset.exclusions] == ["p1/s/scan.png", "p4/x.png"]
    assert dataset.sample_ids == ("p2/s/scan.png", "p3/x.png")


def test_two_rows_never_share_a_file(write_table: Write) -> None:
    path = write_table(("image", "label"), [("scan.png", "a"), ("x.png", "b")])
    path.write_text("image,label\np1/scan.png,a\np2/scan.png,b\nx.png,a\n")
    with pytest.raises(
        DataError, match=r"1 image file\(s\) would serve several rows: .*scan\.png \('p1/scan\.png', 'p2/scan\.png'\)"
    ):
        open_dataset(str(path))


def test_a_decimal_comma_between_semicolons(write_table: Write) -> None:
    path = write_table(("image", "label", "pid"), ROWS)
    path.write_text("image;label;age\n0.png;a;1,5\n1.png;b;2,5\n")
    assert open_dataset(str(path)).info.classes == ("a", "b")


@pytest.mark.parametrize("column", ["Patient ID", "PatientID", "patient-id"])
def test_usual_spellings_of_the_patient_column(write_table: Write, column: str) -> None:
    dataset = open_dataset(str(write_table(("image", "label", column), ROWS)))
    assert len(set(dataset.patient_ids)) == 4


@pytest.mark.parametrize("negative", ["non-COVID", "No COVID", "not_covid"])
def test_the_denial_of_a_class_is_the_negative_one(write_table: Write, negative: str) -> None:
    dataset = open_dataset(str(write_table(("image", "label"), [("a.png", "COVID"), ("b.png", negative)])))
    assert dataset.info.classes == (negative, "COVID")
    assert dataset.targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"label_columns": ["lable"]},
            r"set\.csv has no column 'lable' \(label_columns\); did you mean 'label'\? Choices: image, label, pid",
        ),
        ({"patient_column": "patient"}, r"has no column 'patient' \(patient_column\); Choices: image"),
        ({"image_column": "imag"}, r"has no column 'imag' \(image_column\); did you mean 'image'"),
        ({"part_column": "split"}, r"has no column 'split' \(part_column\)"),
        ({"label_columns": ["label", "pid"]}, r"the label column 'label' holds 'no', 'yes'; .*CheXpert's -1"),
        ({"label_columns": ["image"]}, r"'image' has 8 different values in 8 rows .*not a class\. Cure"),
    ],
)
def test_wrong_columns(write_table: Write, arguments: dict, message: str) -> None:
    path = write_table(("image", "label", "pid"), ROWS)
    with pytest.raises(DataError, match=message):
        open_dataset(str(path), **arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"set\.csv is empty\. Expected a header line"),
        ("image,label\n", "has a header and no rows"),
        (
            "image,label\n0.png,a\n0.png,b\n1.png,a",
            r"1 sample id\(s\) occur more than once: '0\.png' \(2 times\)\. Cure: one row an image",
        ),
        (
            "image,label\n0.png,a\n1.png,\n2.png,b",
            r"1 row\(s\) have no value in column 'label': 1\.png\. Cure: label or remove",
        ),
        ("image,label\n0.png,a\n,b", r"1 row\(s\) have no value in the image column 'image'"),
        ("image,label\n0.png,a\n1.png,a", r"the label column 'label' has the single value 'a'; two classes are needed"),
        ("image,label\n0.png,0.25\n1.png,0.5\n2.png,0.25\n3.png,0.5", "looks like a measurement"),
        (
            "image,label\n0.png,a\n9.png,b\n8.png,b",
            r"(?s)2 images cannot be used:.*8\.png: does not exist.*9\.png: does not exist",
        ),
        (
            "photo,label\n0.png,a\n",
            r"image_column is not given and .*Cure: name it by image_column \(.*--image-column\); there are 'photo'",
        ),
        (
            "image,outcome\n0.png,a\n",
            r"label_columns is not given and no column is called label.*masks instead.*mask_column",
        ),
        (
            "image,label,patient\n0.png,a,1\n1.png,b,",
            r"1 row\(s\) have no value in the patient column 'patient'.*Cure: fill",
        ),
        ("image,label\n0.png,a\n1.png,b,c\n", r"set\.csv, line 3: 3 cells, where the header has 2\. Cure: cells that"),
        ("image,image,label\n0.png,0.png,a\n", "the column name 'image' occurs more than once"),
    ],
)
def test_bad_tables(write_table: Write, text: str, message: str) -> None:
    path = write_table(("image", "label", "pid"), ROWS)
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(str(path))


def test_other_encodings_and_parquet_that_is_none(write_table: Write) -> None:
    path = write_table(("image", "label", "pid"), ROWS)
    path.write_bytes("image,label\n0.png,gesund\n1.png,Grünholz".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8 text .*Cure: save the table as CSV UTF-8"):
        open_dataset(str(path))
    broken = path.with_suffix(".parquet")
    broken.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as a table"):
        open_dataset(str(broken))


def test_rows_that_cannot_be_used_are_left_out_by_name(write_table: Write) -> None:
    path = write_table(("image", "label", "pid"), ROWS)
    path.write_text("image,label\n0.png,a\n1.png,b\n2.png,\n9.png,b\n3.png,a\n4.png,b\n5.png,a")
    dataset = open_dataset(str(path), bad_images="exclude")
    assert {item.sample_id: item.reason for item in dataset.exclusions} == {
        "2.png": "no value in column 'label'",
        "9.png": "does not exist",
    }
    assert dataset.sample_ids == ("0.png", "1.png", "3.png", "4.png", "5.png")
    assert any(note.startswith("2 of 7 samples were left out (2.png: no value") for note in dataset.notes)


def test_a_table_of_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "table.csv").write_text("image,label\na.png,x\nb.png,y\n")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("table.csv", size=8).info.name == tmp_path.name
