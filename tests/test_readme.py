"""What the README shows works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfuse.data import open_dataset, split_by_patient
from transfuse.specs import read_yaml, study_from

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[number]


@pytest.mark.slow
def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(block("python"), "README.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("epoch")
    assert 0 <= float(printed[-1]) <= 1


def test_the_study_of_the_readme_is_a_study() -> None:
    study = study_from(read_yaml(block("yaml")))
    assert list(study.arms) == ["random", "pretrained", "mean_var", "lower_half"]
    assert study.tune != "none", "everybody copies it, and the page warns of a study that does not tune"
    assert study.train.schedule.name != "constant"


def test_transfuse_is_a_command_where_the_readme_first_uses_it() -> None:
    before, _, _ = README.partition("$ transfuse ")
    assert "$ source .venv/bin/activate" in before
    assert "BIN := .venv/bin" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_letters_of_papers_are_explained_where_they_are_used(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "METHODS" not in text, "no file of this repository"
    if re.search(r"\b[TVMP], (?:Fig|Table|section|app)|\([TVMP]\)|\b[TMP]'s ", text):
        assert "../README.md#the-papers" in text or "V = its first version" in text
    assert all(f"- **{letter}**: " in README for letter in "TVMP")


def test_the_table_of_the_guide_names_the_patients_of_class_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFUSE_CACHE", str(tmp_path / "cache"))
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    (example,) = [text for text in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "write_table" in text]
    folder = tmp_path / "my-images"
    for patient in range(12):
        for image in range(2):
            path = folder / ("benign", "malignant")[patient % 2] / f"p{patient:02d}_{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 16), patient * 9 + image, np.uint8)).save(path)
    names: dict[str, Any] = {}
    exec(compile(example, "guide.md", "exec"), names)
    names["write_table"](folder)
    dataset = open_dataset(str(folder / "table.csv"), size=16, patient_column="patient")
    assert (dataset.info.name, len(dataset), len(set(dataset.patient_ids))) == ("my-images", 24, 12)
    assert dataset.info.classes == ("benign", "malignant")
    split_by_patient(dataset)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_the_python_examples_of_the_docs_run(page: Path) -> None:
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(example, page.name, "exec"), {})


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{page} links to {target}, which is not there"


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\$ make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
