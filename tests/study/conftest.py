"""A study of two tiny runs, planned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfuse.specs import StudySpec, study_from

MakeStudy = Callable[..., StudySpec]


@pytest.fixture
def make_study(tiny_npz: Path) -> MakeStudy:
    """Builds the study; keyword arguments replace its keys."""

    def make(**keys: Any) -> StudySpec:
        return study_from(
            {
                "name": "spots",
                "data": {"name": str(tiny_npz), "size": 16},
                "models": {"net": {"name": "cbr_demo", "padding": "same_pool"}},
                "arms": {"random": {}},
                "train": {"steps": 4, "batch_size": 16, "validate_every": 2},
                "seeds": 2,
                **keys,
            }
        )

    return make
