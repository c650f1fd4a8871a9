"""What `compare` and its like refuse, and how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from transfuse import compare, compare_all, compare_counts, estimate
from transfuse.errors import DataError, SpecError
from transfuse.metrics import evaluate
from transfuse.statistics.arm import arm_of_scores
from transfuse.statistics.data_size import data_size_curve
from transfuse.statistics.plateau import plateau
from transfuse.statistics.reuse import relative_gain_over_patients

TARGET = np.repeat([0, 1], 40)
A, B = (TARGET + np.random.default_rng(seed).normal(size=(3, 80)) for seed in (0, 1))
COUNTS = np.stack([np.full((3, 80), 8), np.full((3, 80), 1), np.full((3, 80), 2)], axis=-1)


@pytest.mark.parametrize("seed", [None, -1, True, 1.0, "0"])
def test_a_seed_that_is_no_integer_is_refused(seed: Any) -> None:
    """None above all: each arm would draw resamples of its own, and the arms would no longer be paired."""
    calls = (
        lambda: compare(TARGET, A, B, range(80), 0.02, seed=seed),
        lambda: estimate(TARGET, A, range(80), seed=seed),
        lambda: arm_of_scores(TARGET, A, range(80), seed=seed),
        lambda: compare_counts(COUNTS, COUNTS, range(80), 0.02, seed=seed),
        lambda: relative_gain_over_patients(TARGET, A, B, range(80), seed=seed),
        lambda: data_size_curve([1, 2, 3], [[0.1, 0.2]] * 3, seed=seed),
    )
    for call in calls:
        with pytest.raises(SpecError, match=r"seed is .*; expected an integer >= 0, as 0: all arms need the same"):
            call()
    assert compare(TARGET, A, B, range(80), 0.02, seed=np.int64(0)) == compare(TARGET, A, B, range(80), 0.02)


@pytest.mark.parametrize(
    ("margin", "metric", "message"),
    [
        (5, "auroc", "margin is 5, but auroc lies between 0 and 1, .*did you mean 0.05?"),
        (1, "auroc", "margin is 1, but auroc"),
        (2, "kappa", "margin is 2, but kappa lies between -1 and 1"),
        (1.5, "brier", "margin is 1.5, but brier lies between 0 and 1"),  # of two classes
        (True, "auroc", "margin is True; expected a number > 0 in units of auroc"),
    ],
)
def test_a_margin_beyond_what_the_metric_can_differ_by_is_refused(margin: Any, metric: str, message: str) -> None:
    scores = [1 / (1 + np.exp(-one)) for one in (A, B)]
    with pytest.raises(SpecError, match=message):
        compare(TARGET, *scores, range(80), margin, metric=metric)


def test_margins_of_counts_and_of_levelling_off_are_checked_too() -> None:
    with pytest.raises(SpecError, match="margin is 2, but dice lies between 0 and 1"):
        compare_counts(COUNTS, COUNTS, None, 2)
    with pytest.raises(SpecError, match="margin is True; expected a number > 0"):
        plateau([([1, 2, 3], [0.1, 0.2, 0.3])], True)
    assert compare(TARGET, A, B, range(80), 0.9).margin == 0.9


def fold_of(missing: object) -> np.ndarray:
    folds = (np.arange(80) % 4).astype(object)
    folds[3] = missing
    return folds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target": [], "scores_a": np.zeros((2, 0)), "scores_b": np.zeros((2, 0)), "patients": []},
            "there is no sample",
        ),
        ({"patients": np.arange(80)[:, None]}, r"patients has the shape \(80, 1\); expected \(80,\)"),
        ({"patients": [[k] for k in range(80)]}, r"patients has the shape \(80, 1\); expected \(80,\)"),
        ({"patients": pd.array([pd.NA, *range(79)])}, "1 of 80 patient ids are missing"),
        ({"patients": [pd.NA, "", None, float("nan"), *range(76)]}, "4 of 80 patient ids are missing"),
        ({"folds": fold_of(np.nan)}, "1 of 80 samples have no fold"),
        ({"folds": fold_of(None)}, "1 of 80 samples have no fold"),
        ({"folds": np.arange(80) // 20}, r"fold 0 \(20 of 80 samples\): auroc is undefined for every class"),
    ],
)
def test_bad_arrays_are_named(changes: dict[str, Any], message: str) -> None:
    given = {"target": TARGET, "scores_a": A, "scores_b": B, "patients": range(80), "margin": 0.02} | changes
    with pytest.raises(DataError, match=message):
        compare(**given)


def test_patients_may_be_read_once_only() -> None:
    by_name = [f"p{k % 30}" for k in range(80)]
    assert compare(TARGET, A, B, (name for name in by_name), 0.02) == compare(TARGET, A, B, by_name, 0.02)
    assert compare_counts(COUNTS, COUNTS, iter(by_name), 0.02).patients == 30
    assert compare(TARGET, A, B, [(1, k % 30) for k in range(80)], 0.02).patients == 30


def test_one_comparison_is_no_collection_and_a_level_is_a_number() -> None:
    one = compare(TARGET, A, B, range(80), 0.02)
    with pytest.raises(DataError, match="one comparison was given; expected several"):
        compare_all(one)  # type: ignore[call-overload]
    for level in ("x", True, None):
        with pytest.raises(SpecError, match=r"level is .*; expected a number between 0 and 1"):
            compare_all([one], level)


def test_metrics_of_segmentations_and_of_other_case_are_answered() -> None:
    for name in ("dice", "Jaccard"):
        with pytest.raises(SpecError, match=f"unknown metric '{name}'; of segmentations: compare_counts"):
            compare(TARGET, A, B, range(80), 0.02, metric=name)
    with pytest.raises(SpecError, match=r"unknown metric 'AUROC': did you mean 'auroc'\?"):
        evaluate("AUROC", TARGET, A[0])
