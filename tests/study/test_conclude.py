from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from transfuse.results.store import Tables
from transfuse.specs import StudySpec, study_from
from transfuse.study.conclude import _pairs, _tested


def study_of(**changes: Any) -> StudySpec:
    arms = {
        "random": {},
        "pretrained": {"depth": "all"},
        "mean_var": {"rest": "mean_var"},
        "frozen": {"depth": "all", "freeze": "all"},
    }
    train = {"steps": 1}
    sources = {"x": {"train": train}, "y": {"train": train}}
    models = {"small": {"name": "cbr_demo", "weights": "run:x"}, "large": {"name": "cbr_small", "weights": "run:y"}}
    content = {"name": "s", "data": {"name": "fundus-phantom"}, "train": train, "models": models, "arms": arms}
    return study_from({**content, "sources": sources, **changes})


AGAINST_RANDOM = [("pretrained", "random"), ("mean_var", "random"), ("frozen", "random")]


def test_pairs_that_split_the_gain_are_compared_without_being_listed() -> None:
    assert _pairs(study_of(), "small") == [*AGAINST_RANDOM, ("pretrained", "mean_var"), ("pretrained", "frozen")]


@pytest.mark.parametrize("pair", [("pretrained", "mean_var"), ("mean_var", "pretrained")])
def test_a_pair_and_its_mirror_are_compared_once_the_way_the_study_says(pair: tuple[str, str]) -> None:
    found = _pairs(study_of(pairs=[list(pair)]), "small")
    assert found == [*AGAINST_RANDOM, pair, ("pretrained", "frozen")]
    turned = _pairs(study_of(baseline="pretrained"), "small")
    assert turned == [(arm, "pretrained") for arm in ("random", "mean_var", "frozen")] + [("mean_var", "random")]


def test_each_network_is_split_by_its_own_weights() -> None:
    arms = {"random": {}, "pretrained": {"depth": "all"}, "of_x": {"rest": "mean_var", "weights": "run:x"}}
    study = study_of(arms=arms)
    assert ("pretrained", "of_x") in _pairs(study, "small")
    assert ("pretrained", "of_x") not in _pairs(study, "large")


def test_one_label_that_is_unlabelled_in_places_stays_a_label() -> None:
    """NaN is no class; as a number it would be one far below 0."""
    rows = [
        (f"run{seed}", "test", f"s{k}", f"p{k}", [label], [0.1 * k + 0.01 * seed])
        for seed in range(2)
        for k, label in enumerate([0.0, 1.0, math.nan, 1.0, 0.0, 1.0])
    ]
    predictions = pd.DataFrame(rows, columns=["run_id", "part", "sample_id", "patient_id", "target", "scores"])
    runs = pd.DataFrame({"run_id": ["run0", "run1"], "model": "net", "arm": "random", "seed": [0, 1]})
    tables = Tables(runs, pd.DataFrame(), predictions, pd.DataFrame())
    found = _tested(study_of(), tables, runs["run_id"] != "")
    (part,) = found["net", "random"].arm.parts
    assert part.counts[0] == (3, 2)
