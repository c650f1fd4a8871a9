from __future__ import annotations

import subprocess
import sys

import pytest

from transfuse.cli.show import show_blocks, show_models
from transfuse.models import PUBLISHED_NETWORKS


def test_networks_of_volumes_are_marked_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    show_models()
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("volumes") == sum(row.spatial_dims == 3 for row in PUBLISHED_NETWORKS)


def test_the_letters_of_the_papers_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    show_models()
    said = " ".join(capsys.readouterr().out.split())
    for letter, paper in {"T": "Raghu", "V": "its first version", "M": "Matsoukas", "P": "Peng"}.items():
        assert f"{letter}: {paper}" in said


def test_no_cut_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    show_blocks("resnet18", level="layer")
    assert "no cut here: truncate cannot end at this block; depth and freeze can" in capsys.readouterr().out


def test_the_package_runs_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "transfuse", "show", "networks", "resnet20"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout.split()) == (0, ["resnet20"])
