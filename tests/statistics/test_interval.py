"""The interval and the tests that go with it: they agree, stay in bounds, and do not know which arm is called A."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import t

from transfuse import compare
from transfuse.statistics import interval
from transfuse.statistics.arm import arm_of_scores
from transfuse.statistics.planning import Components, Term, equivalence_power


def study(
    metric_seed: int, seeds: tuple[int, int] = (4, 2), size: int = 58
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(metric_seed)
    target = generator.integers(0, 2, size)
    arms = [
        1
        / (
            1
            + np.exp(
                -((target - 0.5) * separation + generator.normal(size=size) + 0.5 * generator.normal(size=(s, size)))
            )
        )
        for s, separation in zip(seeds, (1.0, 1.5), strict=True)
    ]
    return target, arms[0], arms[1]


@pytest.mark.parametrize(
    ("levels", "of_a", "of_b", "of_both", "pieces"),
    [
        ((0.85, 0.80), 0.001, 0.001, 0.001, 1),
        ((0.388, 0.977), 0.02832, 0.00517, 0.01853, 2),
        ((0.032, 0.704), 0.00619, 0.00412, 0.00445, 2),
    ],
)
def test_the_end_is_the_last_difference_that_is_not_contradicted(
    levels: tuple[float, float], of_a: float, of_b: float, of_both: float, pieces: int
) -> None:
    """By brute force over a fine grid, also where those that are not contradicted are of two pieces; and the tests
    agree with it: a margin lies beyond the interval where its test rejects, and only there."""
    grid = np.linspace(-1, 1, 20_001)
    components = Components(of_both, 0, 0, 0, 0, patients_df=57.0, alone_a=of_a, alone_b=of_b, levels=levels)
    tested = interval.Tested(levels[0] - levels[1], components, 4, 2)
    low, high = tested.interval(0.95)
    kept = np.abs(tested.difference - grid) <= t.ppf(0.95, 57) * components.error_at(grid, 4, 2)
    assert (np.diff(np.r_[0, kept.astype(int)]) == 1).sum() == pieces
    assert (low, high) == pytest.approx((grid[kept][0], grid[kept][-1]), abs=2e-4)
    for margin in np.linspace(0.01, 0.99, 99):
        if min(abs(high - margin), abs(low + margin)) > 1e-3:
            assert (high < margin) == (tested.p_value(margin, -1) <= 0.05)
            assert (low > -margin) == (tested.p_value(-margin, 1) <= 0.05)


def test_no_interval_leaves_the_range_of_a_difference() -> None:
    components = Components(0.6, 0, 0, 0, 0, patients_df=3.0, levels=(0.9, 0.1))
    assert interval.Tested(0.8, components, 3, 3).interval(0.975) == (-1.0, 1.0)


def test_swapping_arms_of_other_seeds_keeps_the_planned_numbers() -> None:
    for number in range(3):
        target, a, b = study(number, (5, 2), 60)
        for metric in ("accuracy", "brier"):
            one, other = (compare(target, *pair, None, 0.05, metric=metric) for pair in ((a, b), (b, a)))
            assert (one.needed_patients, one.needed_seeds) == (other.needed_patients, other.needed_seeds)
    terms = [Term(0.0004, 2.0, 0.0001), Term(0.0002, 6.0), Term(0.0003, 57.0)]
    assert equivalence_power(0.06, 0.03, terms) == equivalence_power(0.06, 0.03, terms[::-1])


def test_planning_warns_of_nothing() -> None:
    """A part that comes out as 0 in some draws, as the interaction is subtracted, is no division by 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 <= equivalence_power(0.05, 0.01, [Term(0.0001, 1.0, 0.0001), Term(0.00005, 1.0, 0.00005)]) <= 1


def test_brier_of_two_classes_and_of_labels_lies_between_0_and_1() -> None:
    target, a, _ = study(0)
    both = np.stack([1 - a, a], axis=-1)
    three = np.stack([1 - a, a / 2, a / 2], axis=-1)
    for labels, scores, bounds in (
        (target, a, (0, 1)),
        (target, both, (0, 1)),
        (np.stack([target, 1 - target], axis=-1), both, (0, 1)),
        (target, three, (0, 2)),
    ):
        assert arm_of_scores(labels, scores, None, "brier").metric.bounds == bounds
    found = compare(target, a, 1 - a, None, 0.1, metric="brier")
    assert found.components.span == 1
    assert found.components.levels == pytest.approx((np.mean(found.values_a), np.mean(found.values_b)))
