"""`transfuse data inspect`: what is in the data, whether they can be split, and how to follow its cures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfuse.cli import inspect
from transfuse.errors import DataError, SpecError

Write = Callable[..., str]
HEADER = ("image", "label", "who")


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Writes a table of (image, label, who, ...) and its images, 16 px."""

    def write(rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER) -> str:
        rng = np.random.default_rng(0)
        for row in rows:
            Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(tmp_path / str(row[0]))
        path = tmp_path / "grades.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return str(path)

    return write


def rows(patients: int = 20, images: int = 3) -> list[list[object]]:
    return [[f"{p}_{i}.png", "ab"[p % 2], f"p{p}"] for p in range(patients) for i in range(images)]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_patients_are_counted_by_class_and_part(table: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(table(rows()), size=16, patient_column="who") == 0
    lines = said(capsys).splitlines()
    cells = {line.split()[0]: line.split("  ")[1:] for line in lines if line.lstrip().startswith(("a ", "b ", "all "))}
    cells = {name: [cell.strip() for cell in row if cell.strip()] for name, row in cells.items()}
    assert cells == {
        "a": ["30 of 10", "18 of 6", "6 of 2", "6 of 2"],
        "b": ["30 of 10", "18 of 6", "6 of 2", "6 of 2"],
        "all": ["60 of 20", "36 of 12", "12 of 4", "12 of 4"],
    }


def test_without_patients_images_are_counted_and_the_cure_is_named(
    table: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(table(rows()), size=16) == 0
    text = said(capsys)
    assert "60 images, patients unknown" in text
    assert "Cure: patient_column: with the table's column that names the patient." in text
    assert " of " not in next(line for line in text.splitlines() if line.lstrip().startswith("all "))


def test_data_that_cannot_be_split_end_with_1(table: Write, capsys: pytest.CaptureFixture[str]) -> None:
    rare = [[f"r{i}.png", "rare", "x"] for i in range(5)]
    assert inspect(table([*rows(), *rare]), size=16, patient_column="who") == 1
    text = said(capsys)
    assert "This data set cannot be split as it is, and a study of it stops here: grades: the val part" in text
    assert "'rare' has 1 patient" in text
    assert "5 of 1" in text


def test_cures_can_be_followed_on_the_command_line(table: Write, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [[*row, ("train", "val", "test")[place % 3]] for place, row in enumerate(rows())]
    path = table(parts, (*HEADER, "part"))
    assert inspect(path, size=16, patient_column="who", part_column="part") == 1
    assert "To try it here, add to the command: official_split=false." in said(capsys)
    assert inspect(path, "official_split=false", size=16, patient_column="who", part_column="part") == 0
    assert "To try it here" not in said(capsys)
    path = table([*rows(), ["x.png", "", "x"]])
    with pytest.raises(DataError, match=r"with bad_images: exclude\. To try it here, .*: bad_images=exclude\.$"):
        inspect(path, size=16, patient_column="who")
    assert inspect(path, "bad_images=exclude", size=16, patient_column="who") == 0
    assert "60 images" in said(capsys)


def test_a_study_file_stands_for_its_data(table: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(f"data: {{name: {table(rows())}, size: 16, patient_column: who}}\nmodels: not yet\n")
    assert inspect(str(study)) == 0
    assert "60 images, 20 patients" in said(capsys)
    assert inspect(str(study), "fractions=[0.4, 0.3, 0.3]") == 0
    assert "18 of 6" in next(line for line in said(capsys).splitlines() if line.lstrip().startswith("all "))


def test_settings_that_are_none_are_named_at_once(table: Write) -> None:
    with pytest.raises(SpecError) as caught:
        inspect(table(rows()), "sise=16", "bad_images=drop")
    assert "2 problems" in str(caught.value)
    assert "data.sise: unknown key; did you mean 'size'?" in str(caught.value)
    assert "data.bad_images: 'drop' is unknown" in str(caught.value)
