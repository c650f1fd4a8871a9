"""What a source has seen of the part that a study tests on: its patients by image and by id, and images themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfuse.errors import SpecError
from transfuse.specs import StudySpec
from transfuse.study.plan import check

MakeStudy = Callable[..., StudySpec]
COLUMNS = {"image_column": "file", "label_columns": ["grade"], "patient_column": "patient"}


def table(folder: Path, name: str, rows: list[tuple[str, str, str, str]], part: bool = True) -> dict[str, Any]:
    """A table of (file, patient, grade, part), whose images are drawn from their names where they are not yet."""
    lines = ["file,patient,grade,part", *(",".join(row) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    for file, _, grade, _ in rows:
        if not (folder / file).exists():
            rng = np.random.default_rng(list(file.encode()))
            Image.fromarray(rng.integers(0, 120, (16, 16), np.uint8) + 100 * int(grade)).save(folder / file)
    return {"name": str(folder / name), "size": 16, **COLUMNS, **({"part_column": "part"} if part else {})}


def rows(prefix: str, people: range, parts: str, each: int = 1) -> list[tuple[str, str, str, str]]:
    return [
        (f"{prefix}{number}_{view}.png", f"p{number}", str(number % 2), part)
        for number, part in zip(people, parts.split() * len(people), strict=False)
        for view in range(each)
    ]


PARTS = "train train val val test test"


def studied(make_study: MakeStudy, target: dict[str, Any], **source: Any) -> StudySpec:
    return make_study(
        data=target,
        models={"net": {"name": "cbr_demo", "padding": "same_pool", "weights": "run:s"}},
        arms={"random": {}, "p": {"depth": "all"}},
        sources={"s": {"train": {"steps": 2}, **source}},
        metric="accuracy",
        seeds=1,
    )


def problems(study: StudySpec) -> str:
    with pytest.raises(SpecError) as caught:
        check(study, device="cpu")
    return str(caught.value)


def test_another_split_of_the_same_table_is_a_leak(make_study: MakeStudy, tmp_path: Path) -> None:
    data = table(tmp_path, "all.csv", rows("a", range(30), PARTS, each=2), part=False)
    message = problems(studied(make_study, {**data, "split_seed": 1}, data=data))
    assert "sources.s.data: its training and validation parts hold" in message
    assert " patients of the test part (" in message
    assert "Cure: leave data out of sources.s" in message
    check(studied(make_study, data), device="cpu")
    check(studied(make_study, {**data, "normalise": "half"}, data=data), device="cpu")
    assert "patients of the test part" in problems(
        studied(make_study, data, data={**data, "normalise": "half", "fractions": [0.5, 0.2, 0.3]})
    )


def test_other_images_of_the_same_people_are_a_leak_where_the_ids_are_of_one_hospital(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    target = table(tmp_path, "target.csv", rows("a", range(12), PARTS))
    lateral = rows("b", range(12), "train train train train val val")
    apart = table(tmp_path, "lateral.csv", lateral)
    checked = check(studied(make_study, target, data=apart), device="cpu")  # ids alone say little: a note
    (note,) = [line for line in checked.lines if "patient ids of the test part" in line]
    assert "4 patient ids of the test part (p10, p11, p4, ... (4 in all))" in note
    together = table(tmp_path, "both.csv", [*lateral, ("a0_0.png", "p0", "0", "train")])  # one image that is known
    assert "hold 4 of the 4 patients of the test part (4 images)" in problems(
        studied(make_study, target, data=together)
    )


def test_people_by_other_names_are_known_by_an_image_in_common(make_study: MakeStudy, tmp_path: Path) -> None:
    target = table(tmp_path, "target.csv", rows("a", range(12), PARTS, each=2))
    other = [("a4_0.png", "x", "0", "test"), ("c_0.png", "x", "0", "test"), ("c_1.png", "y", "1", "test")]
    source = [*rows("s", range(100, 112), PARTS), *other]
    check(studied(make_study, target, data=table(tmp_path, "apart.csv", source)), device="cpu")
    seen = [*rows("s", range(100, 112), PARTS), *((file, who, grade, "train") for file, who, grade, _ in other)]
    message = problems(studied(make_study, target, data=table(tmp_path, "seen.csv", seen)))
    assert "hold 1 of the 4 patients of the test part (2 images), e.g. p4" in message


def test_images_without_patients_are_compared_by_content(make_study: MakeStudy, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 16, 16), np.uint8)

    def npz(name: str, first: int, second: int, third: int) -> dict[str, Any]:
        places = {
            "train": range(first, first + 20),
            "val": range(second, second + 10),
            "test": range(third, third + 10),
        }
        arrays = {f"{part}_images": images[list(where)] for part, where in places.items()}
        arrays |= {f"{part}_labels": np.arange(len(where))[:, None] % 2 for part, where in places.items()}
        np.savez(tmp_path / name, **arrays)
        return {"name": str(tmp_path / name), "size": 16}

    target = npz("target.npz", 0, 20, 30)
    check(studied(make_study, target, data=npz("apart.npz", 40, 0, 10)), device="cpu")
    assert "hold 5 of the 10 test images" in problems(studied(make_study, target, data=npz("seen.npz", 35, 0, 10)))
    assert "hold 3 of the 10 test images" in problems(studied(make_study, target, data=npz("chosen.npz", 40, 37, 0)))
    checked = check(studied(make_study, target, data=npz("val.npz", 10, 40, 50)), device="cpu")
    assert "trained on 10 of the 10 validation images" in "\n".join(checked.lines)


def test_a_source_far_up_the_chain_is_looked_at(make_study: MakeStudy, tmp_path: Path) -> None:
    data = table(tmp_path, "all.csv", rows("a", range(30), PARTS), part=False)
    study = make_study(
        data=data,
        models={"net": {"name": "cbr_demo", "padding": "same_pool", "weights": "run:second"}},
        arms={"random": {}, "p": {"depth": "all"}},
        sources={
            "second": {"train": {"steps": 2}, "init": {"depth": "all", "weights": "run:first"}},
            "first": {"train": {"steps": 2}, "data": {**data, "split_seed": 1}},
        },
        metric="accuracy",
    )
    assert "sources.first.data: its training" in problems(study)


def test_a_source_of_other_pixel_values_is_noted(make_study: MakeStudy, tiny_npz: Path) -> None:
    data = {"name": str(tiny_npz), "size": 16}
    checked = check(studied(make_study, data, data={**data, "normalise": "half"}), device="cpu")
    (note,) = [line for line in checked.lines if "normalised" in line]
    assert 'sources.s.data: the source is trained on images normalised by "half"' in note
    assert 'what starts from it by "imagenet": give both the same normalise' in note
    plain = check(studied(make_study, data), device="cpu")
    assert "normalised" not in "\n".join(plain.lines)
