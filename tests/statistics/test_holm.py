"""Holm's procedure against the closure principle, and the verdicts of many comparisons."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from transfuse import compare, compare_all
from transfuse.errors import DataError, SpecError
from transfuse.statistics.comparison import Comparison
from transfuse.statistics.holm import rejected


def closed(p_values: np.ndarray, level: float) -> np.ndarray:
    """By definition (Marcus, Peritz and Gabriel 1976): each set of hypotheses that can be true is tested at the level.

    Of a comparison at most one hypothesis is true. A hypothesis is rejected where every set that holds it is, a set
    where its smallest p-value is at most level / size.
    """
    count, kinds = p_values.shape
    found = np.ones(p_values.shape, dtype=bool)
    for chosen in itertools.product(range(-1, kinds), repeat=count):  # -1: none of this comparison
        members = [(k, kind) for k, kind in enumerate(chosen) if kind >= 0]
        if members and min(p_values[one] for one in members) > level / len(members):
            for one in members:
                found[one] = False
    return found


@pytest.mark.parametrize("kinds", [1, 2])
def test_holm_is_the_shortcut_of_the_closed_test(kinds: int) -> None:
    generator = np.random.default_rng(0)
    more = 0
    for _ in range(300):
        p_values = generator.beta(0.3, 3, size=(4, kinds))
        ours, definition = rejected(p_values), closed(p_values, 0.05)
        if kinds == 1:
            assert (ours == definition).all()
        assert not (ours & ~definition).any(), "never more than the closed test allows"
        more += int(ours.sum() - rejected(p_values.reshape(-1, 1)).sum())
    assert (more > 0) == (kinds == 2)  # that a comparison can be wrong in one way only is made use of


def test_without_any_difference_one_study_in_twenty_claims_something() -> None:
    generator = np.random.default_rng(1)
    wrong = np.mean([rejected(generator.random((6, 1))).any() for _ in range(4000)])
    assert wrong == pytest.approx(0.05, abs=0.012)  # 3.5 times its Monte-Carlo error


def test_untested_hypotheses_are_not_rejected_and_do_not_count() -> None:
    found = rejected([[0.02, math.nan], [math.nan, math.nan], [0.6, 0.9]])
    assert found.tolist() == [[True, False], [False, False], [False, False]]
    assert rejected(np.empty((0, 2))).shape == (0, 2)


@pytest.mark.parametrize(
    ("p_values", "level", "error", "message"),
    [
        ([0.1, 0.2], 0.05, DataError, r"shape \(2,\); expected \(K, hypotheses\)"),
        ([[1.2]], 0.05, DataError, r"numbers in \[0, 1\] or NaN"),
        ([[0.1]], 5, SpecError, "level is 5; expected a number between 0 and 1"),
    ],
)
def test_bad_p_values_are_named(p_values: object, level: float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rejected(p_values, level)


def arms(generator: np.random.Generator, *effects: float) -> tuple[np.ndarray, list[np.ndarray]]:
    target = np.repeat([0, 1], 60)
    return target, [target * effect + generator.normal(size=(4, 120)) for effect in effects]


@pytest.fixture
def found() -> dict[str, Comparison]:
    target, (base, same, better) = arms(np.random.default_rng(3), 1.0, 1.0, 3.0)
    return {
        name: compare(target, scores, base, range(120), 0.3) for name, scores in (("same", same), ("better", better))
    }


def test_verdicts_are_corrected_and_numbers_stay(found: dict[str, Comparison]) -> None:
    barely = replace(found["same"], p_difference=0.03, p_equivalence=0.4, verdict="helps", difference=0.1)
    many = {**found, "barely": barely, **{f"none {k}": replace(barely, p_difference=0.9) for k in range(8)}}
    corrected = compare_all(many)
    assert list(corrected) == list(many)
    assert corrected["same"].verdict == "equivalent"
    assert corrected["barely"].verdict == "undecided"
    assert corrected["barely"].family == 11
    (told,) = [text for text in corrected["barely"].caveats if "Holm" in text]
    assert told == (
        "By itself this comparison would be called 'helps'; among 11 comparisons that is no evidence enough (Holm's "
        "correction)."
    )
    for name, one in corrected.items():
        assert (one.low, one.high, one.p_difference) == (many[name].low, many[name].high, many[name].p_difference)


def test_one_comparison_is_itself_and_a_list_gives_a_list(found: dict[str, Comparison]) -> None:
    for one in found.values():
        assert compare_all([one]) == [one]
    twice = compare_all(compare_all(found))  # corrected from the p-values: again changes nothing
    assert twice == compare_all(found)
    assert compare_all([]) == []
    assert compare_all({}) == {}


def test_the_classes_of_all_comparisons_are_one_family() -> None:
    generator = np.random.default_rng(5)
    target = generator.integers(0, 3, 150)
    one, other, base = (np.eye(3)[target] * effect + generator.random((4, 150, 3)) for effect in (0.8, 0.8, 0.1))
    pair = [compare(target, scores, base, range(150), 0.02) for scores in (one, other)]
    assert {of_class.family for comparison in pair for of_class in comparison.per_class.values()} == {3}
    corrected = compare_all(pair)
    assert {of_class.family for comparison in corrected for of_class in comparison.per_class.values()} == {6}
    assert [comparison.family for comparison in corrected] == [2, 2]


def test_what_is_no_comparison_is_named(found: dict[str, Comparison]) -> None:
    with pytest.raises(DataError, match="'helps' is no comparison; expected what `compare` or `compare_counts`"):
        compare_all([found["same"], "helps"])
    with pytest.raises(SpecError, match="level is 2"):
        compare_all(found, level=2)


def test_one_comparison_alone_is_not_said_to_be_corrected(found: dict[str, Comparison]) -> None:
    """At another level it may lose its verdict, but Holm had no part in that; nor is it significant at 5 % then."""
    sure = replace(found["better"], p_difference=0.005)
    (strict,) = compare_all([sure], level=1e-6)
    assert strict.verdict == "undecided"
    assert not any("Holm" in text for text in strict.caveats)
    near = replace(found["same"], p_difference=0.03, p_equivalence=1e-9)
    assert any("statistically significant" in text for text in near.caveats)
    assert not any("statistically significant" in text for text in compare_all([near], level=0.01)[0].caveats)


def test_the_same_scores_twice_are_pointed_at() -> None:
    target, (scores, other) = arms(np.random.default_rng(0), 1.0, 1.0)
    assert any("one file was read twice" in text for text in compare(target, scores, scores, range(120), 0.4).caveats)
    assert not any("read twice" in text for text in compare(target, scores, other, range(120), 0.4).caveats)
