"""A margin that a test part can hardly decide on is said before anything is trained."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfuse.specs import StudySpec
from transfuse.statistics.planning import Components, needed_patients
from transfuse.study.few_patients import LEVEL, SHARED, few_patients_note, hanley_mcneil
from transfuse.study.plan import check
from transfuse.study.sources import open_data, split_data

MakeStudy = Callable[..., StudySpec]


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes `patients` patients of five images each, every third of them positive; the first are the test part."""

    def write(patients: int, test: int, *, grades: int = 2, known: bool = True) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        rows = []
        for patient in range(patients):
            part = "test" if patient < test else "val" if patient < test + 6 else "train"
            grade = patient % 3 // 2 if grades == 2 else patient % grades
            for image in range(5):
                name = f"{patient}_{image}.png"
                Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(tmp_path / name)
                rows.append((name, grade, f"p{patient}", part))
        path = tmp_path / "grades.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("image", "label", "who", "part"), *rows])
        return {"name": str(path), "size": 16, "part_column": "part", **({"patient_column": "who"} if known else {})}

    return write


def note(study: StudySpec) -> str:
    return few_patients_note(study, split_data(study.data, open_data(study.data)).test)


def test_check_says_that_a_few_patients_cannot_decide(make_study: MakeStudy, table: Callable[..., Any]) -> None:
    data = table(24, 9)
    study = make_study(data=data, margin=0.05)
    (said,) = [line for line in check(study, device="cpu").lines if "whatever the number of seeds" in line]
    assert said.startswith(
        "note: margin: the test part has 9 patients (3 of '1'): whatever the number of seeds, hardly a"
    )
    assert (
        "difference below 0.2 in test AUROC will be told from none, and the margin is 0.05, which takes about" in said
    )
    assert note(make_study(data=data, margin=0.4)) == ""


def test_images_of_unknown_patients_are_called_images(make_study: MakeStudy, table: Callable[..., Any]) -> None:
    said = note(make_study(data=table(24, 9, known=False)))
    assert "the test part has 45 images (15 of '1')" in said
    assert "patient" not in said


def test_the_number_is_that_of_the_planning(make_study: MakeStudy, table: Callable[..., Any]) -> None:
    study = make_study(data=table(24, 9), margin=0.05)
    variance = 2 * (1 - SHARED) * hanley_mcneil(LEVEL, 3, 6)
    needed = needed_patients(Components(variance, 0.0, 0.0, 0.0, 0.0, patients_df=7), 0.05, 9, 1, 1)
    found = re.search(r"takes about ([\d,]+) patients", note(study))
    assert needed is not None
    assert found is not None
    said = int(found[1].replace(",", ""))
    assert needed <= said < 1.1 * needed


@pytest.mark.parametrize(
    ("metric", "grades", "few"),
    [
        ("accuracy", 2, "9 patients: whatever"),
        ("macro_recall", 3, "(3 of '0')"),
        ("auroc", 3, "(3 of '0')"),
        ("referable_auroc", 5, "(4 without referable disease)"),
        ("kappa", 3, None),  # nothing simple is known of it
    ],
)
def test_other_metrics(
    make_study: MakeStudy, table: Callable[..., Any], metric: str, grades: int, few: str | None
) -> None:
    said = note(make_study(data=table(30, 9, grades=grades), metric=metric, margin=0.01))
    assert (few in said) if few else (said == "")


def test_the_more_patients_the_less_is_said(make_study: MakeStudy, table: Callable[..., Any]) -> None:
    told = []
    for test in (9, 18, 36):
        found = re.search(r"below ([\d.]+) in", note(make_study(data=table(test + 15, test))))
        assert found is not None
        told.append(float(found[1]))
    assert told == sorted(told, reverse=True)
    assert told[0] > told[-1]


def test_the_variance_of_an_area_is_that_of_its_model() -> None:
    # Hanley and McNeil's Q1 and Q2 hold exactly for scores that are exponential in both classes.
    rng, positives, negatives = np.random.default_rng(0), 12, 30
    high, low = rng.exponential(9.0, (20_000, positives, 1)), rng.exponential(1.0, (20_000, 1, negatives))
    areas = (high > low).mean(axis=(1, 2))
    assert areas.mean() == pytest.approx(0.9, abs=0.003)
    assert areas.var() == pytest.approx(hanley_mcneil(0.9, positives, negatives), rel=0.05)
