from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from typing import Any

import pytest

from transfuse.report import data_facts
from transfuse.specs import DataSpec

RECORDED: dict[str, Any] = {
    "dataset": "fundus-phantom",
    "task": "ordinal",
    "classes": ["1 none", "2 mild"],
    "image_size": 64,
    "channels": 3,
    "source": "drawn by a program",
    "licence": "Apache-2.0",
    "synthetic": True,
    "fingerprint": "3146156dc08222350cb93ccaed86bbb8c206",
    "images": {"train": 1280, "val": 320, "test": 400},
    "patients": {"train": 640, "val": 160, "test": 200},
}


def test_a_study_of_defaults_says_only_what_matters() -> None:
    data = {**asdict(DataSpec(name="fundus-phantom")), **RECORDED}
    assert data_facts.lines(data, {"test": (400, 200)}) == [
        ("data set", "fundus-phantom, synthetic"),
        ("origin", "drawn by a program"),
        ("task", "classes in an order (grades)"),
        ("2 classes", "1 none; 2 mild"),
        ("images", "64 × 64 pixels, colour"),
        ("pixel values", "ImageNet's mean and spread"),
        ("training part", "1,280 images of 640 patients"),
        ("validation part", "320 images of 160 patients"),
        ("test part", "400 images of 200 patients"),
        ("licence", "Apache-2.0"),
        ("fingerprint of images and labels", "3146156dc082"),
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"name": "folder/data.csv"}, ("read from", "folder/data.csv")),
        (
            {"fractions": [0.5, 0.2, 0.3]},
            ("shares of the patients", "50 % / 20 % / 30 % (training / validation / test)"),
        ),
        ({"patients_known": False}, ("test part", "400 images, patients unknown")),
        ({"train_fraction": 0.1}, ("used of the training patients", "10 %")),
        ({"duplicates": "drop"}, ("identical images in two parts", "dropped from the earlier part")),
        ({"bad_images": "exclude"}, ("unreadable images", "left out")),
        ({"permute_labels": True}, ("labels", "permuted over patients: a negative control")),
        ({"official_split": False}, ("the data's own split", "not used")),
        ({"fit": "pad"}, ("oblong images", "padded with black")),
        ({"count": 4000}, ("images drawn", "4,000")),
        ({"seed": 3}, ("seed of the data", "3")),
        ({"split_seed": 4}, ("seed of the split", "4")),
        ({"channels": 1}, ("images", "64 × 64 pixels, grey")),
        ({"normalise": [[0.5], [0.25]]}, ("pixel values", "mean 0.5, spread 0.25 taken out")),
        (
            {"image_column": "file", "label_columns": ["a", "b"], "patient_column": "id"},
            ("columns of the table", "image: file; label: a, b; patient: id"),
        ),
        ({"uncertain_labels": "positive"}, ("uncertain labels (−1)", "positive (U-Ones)")),
        ({"blank_labels": "negative"}, ("labels without a value", "negative")),
        ({"scanner": "two models"}, ("scanner", "two models")),
    ],
)
def test_what_was_changed_is_said(changes: dict[str, Any], line: tuple[str, str]) -> None:
    plain = {**asdict(DataSpec(name="fundus-phantom")), **RECORDED}
    assert line not in data_facts.lines(plain)
    assert line in data_facts.lines({**plain, **changes})


def test_parts_that_are_not_recorded_are_counted() -> None:
    assert data_facts.lines({}, {"test": (120, 60), "val": (1, 1)}) == [
        ("validation part", "1 image of 1 patient"),
        ("test part", "120 images of 60 patients"),
    ]
    assert data_facts.lines({}) == []


def test_the_defaults_are_those_of_a_study_file() -> None:
    named = {each.name: each.default for each in fields(DataSpec) if each.default is not MISSING}
    assert named == data_facts.DEFAULTS


def test_every_setting_has_its_place() -> None:
    changed = {name: f"value of {name}" for name in data_facts.DEFAULTS if name != "root"}
    special: dict[str, Any] = {"fractions": (0.5, 0.2, 0.3), "train_fraction": 0.5, "count": 10, "channels": 4}
    special |= {"label_columns": ("a",), "official_split": False, "permute_labels": True}
    special |= {"window": (-100.0, 900.0)}
    labels = [label for label, _ in data_facts.lines({**changed, **special})]
    own = {"task"}  # called by its own name
    assert not ({name.replace("_", " ") for name in data_facts.DEFAULTS} - own) & set(labels)
