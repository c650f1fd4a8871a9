"""What the report says that an analysis compared."""

from __future__ import annotations

from typing import Any

import pytest

from transfuse.specs.analyses import ANALYSES, AnalysisSpec
from transfuse.study.compared import compared

BEFORE_AFTER = "each network at its start and trained"
ALL = "every two networks of a seed, at their start and trained"
PAIRS = "a at its start, every two seeds; a trained with b trained"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"what": "cka"}, f"{BEFORE_AFTER} · level block · view flat · 42 test images"),
        (
            {"what": "cka", "between": "all", "seeds": (0,), "level": "stage", "images": 8},
            f"{ALL} · seed 0 · level stage · view flat · 8 test images",
        ),
        (
            {"what": "svcca", "view": "pooled", "variance": 0.9, "blocks": ("layer1", "layer4"), "arms": ("a", "b")},
            f"{BEFORE_AFTER} · arms a and b · blocks layer1 and layer4 · view pooled · variance 0.9 · 42 test images",
        ),
        (
            {"what": "cca", "between": (("a:initial", "a:initial"), ("a", "b:trained")), "part": "train"},
            f"{PAIRS} · level block · view positions · up to 512 train images",
        ),
        (
            {"what": "dynamics", "measure": "cka"},
            "snapshots with the trained network · level block · CKA · view flat · 42 test images",
        ),
        ({"what": "knn", "part": "val"}, "trained networks · level block · view pooled · all val images"),
        ({"what": "fid", "source": "nat"}, "features of networks at their start · source nat · 42 test images"),
        ({"what": "l2"}, f"{BEFORE_AFTER} · level block"),
        ({"what": "filters"}, "networks at their start and trained"),
    ],
)
def test_networks_blocks_view_and_images_are_named(line: dict[str, Any], words: str) -> None:
    assert compared(AnalysisSpec(**line), {"test": 42}) == words


@pytest.mark.parametrize("what", ANALYSES)
def test_every_analysis_as_a_study_holds_it_has_words(what: Any) -> None:
    spec = AnalysisSpec(what=what, source="nat" if what == "fid" else None)
    assert compared(spec, {})
