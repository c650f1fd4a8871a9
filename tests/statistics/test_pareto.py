"""The probability of being on the Pareto front, against its definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from transfuse.errors import DataError, SpecError
from transfuse.statistics import pareto
from transfuse.statistics.arm import Arm, arm_of_scores
from transfuse.statistics.comparison import compare_arms
from transfuse.statistics.joint import joint_draws
from transfuse.statistics.pareto import front
from transfuse.statistics.smallest import smallest_not_worse

Make = Callable[..., dict[str, Arm]]


EFFECTS = {"tiny": 0.9, "small": 1.4, "middle": 1.3, "large": 1.6}
COSTS = {"tiny": 1.0, "small": 2.0, "middle": 2.0, "large": 9.0}


def test_the_share_is_that_of_draws_in_which_no_arm_dominates(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, EFFECTS)
    drawn = joint_draws(list(arms.values()))
    names = list(arms)
    count = dict.fromkeys(names, 0)
    for values in drawn.T:  # every draw, every pair, from the definition
        own = dict(zip(names, values, strict=True))
        for name in names:
            count[name] += not any(
                own[other] >= own[name]
                and COSTS[other] <= COSTS[name]
                and (own[other] > own[name] or COSTS[other] < COSTS[name])
                for other in names
                if other != name
            )
    found = {row.name: row.not_dominated for row in front(arms, COSTS).rows}
    assert found == pytest.approx({name: times / drawn.shape[1] for name, times in count.items()}, abs=1e-12)
    assert found["tiny"] == 1
    assert 0.05 < found["middle"] < 0.95
    assert found["small"] + found["middle"] <= 1  # they cost the same, so one of them is dominated


@pytest.mark.parametrize("with_folds", [False, True], ids=["one test set", "folds"])
@pytest.mark.parametrize("seeds", [3, 5])
def test_a_difference_of_two_draws_is_distributed_as_compare_says(
    generator: np.random.Generator, seeds: int, with_folds: bool, study: Make
) -> None:
    folds = np.arange(60) // 12 if with_folds else None
    for _ in range(3):
        arms = study(generator, {"a": 1.5, "b": 1.2}, seeds=seeds, folds=folds)
        found = compare_arms(arms["a"], arms["b"], 0.05)
        one, other = joint_draws([arms["a"], arms["b"]])
        apart = (one - other - found.difference) / found.standard_error
        p_value = stats.t.cdf(found.difference / found.standard_error, found.df)
        assert np.mean(one > other) == pytest.approx(p_value, abs=0.06)
        # Satterthwaite's t is an approximation of this sum of t's. A normal distribution has 3 % here, not 10 %.
        outside = np.mean(np.abs(apart) > stats.t.ppf(0.95, found.df))
        assert 0.05 < outside < 0.2


def test_with_many_seeds_and_patients_the_variance_is_that_of_compare(
    generator: np.random.Generator, study: Make
) -> None:
    arms = study(generator, {"a": 1.5, "b": 1.2}, seeds=24, patients=60, spread=0.4)
    found = compare_arms(arms["a"], arms["b"], 0.05)
    one, other = joint_draws([arms["a"], arms["b"]])
    # 2,000 draws know a standard deviation to 1.6 %, and t with 23 degrees of freedom has 5 % more of it.
    assert np.std(one - other) == pytest.approx(found.standard_error, rel=0.1)
    patients_only = math.sqrt(found.components.patients)
    assert np.std(one - other) > 1.2 * patients_only, "the seeds are a part of it that can be seen"


def test_an_equal_costlier_arm_is_called_better_at_the_rate_of_a_test(study: Make) -> None:
    generator = np.random.default_rng(3)
    found = []
    for _ in range(80):
        arms = study(generator, {"a": 1.2, "b": 1.2}, seeds=4, patients=30)
        found.append({row.name: row.not_dominated for row in front(arms, {"a": 1, "b": 2}).rows})
    assert all(one["a"] == 1 for one in found)
    chances = np.array([one["b"] for one in found])
    # Uniform without a difference: 10 % lie outside 5 to 95 %; at most 18 of 80 within Monte-Carlo error.
    assert np.sum((chances < 0.05) | (chances > 0.95)) <= 18
    assert stats.kstest(chances, "uniform").pvalue > 0.01


def test_a_known_front_is_found(study: Make) -> None:
    generator = np.random.default_rng(5)
    truth = {"tiny": 0.5, "waste": 0.4, "small": 2.0, "poor": 0.5, "large": 4.5}
    costs = {"tiny": 1.0, "waste": 2.0, "small": 3.0, "poor": 4.0, "large": 5.0}
    on_it = {"tiny", "small", "large"}
    right = []
    for _ in range(4):
        rows = front(study(generator, truth, patients=60, spread=0.1), costs).rows
        right += [(row.not_dominated > 0.5) == (row.name in on_it) for row in rows if row.name != "waste"]
        assert [row.cost for row in rows] == sorted(costs.values())
    assert np.mean(right) > 0.9


def test_names_order_and_scale_do_not_matter_and_copies_count_once(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, EFFECTS)
    found = {row.name: row.not_dominated for row in front(arms, COSTS).rows}
    turned = dict(reversed(list(arms.items())))
    again = front(turned, {name: 1e6 * cost for name, cost in COSTS.items()}).rows
    assert {row.name: row.not_dominated for row in again} == found
    renamed = {f"x{name}": arm for name, arm in arms.items()}
    for row in front(renamed, {f"x{name}": cost for name, cost in COSTS.items()}).rows:
        assert row.not_dominated == found[row.name[1:]]
    copied = front({**arms, "copy": arms["large"]}, {**COSTS, "copy": COSTS["large"]}).rows
    assert {row.name: row.not_dominated for row in copied} == {**found, "copy": found["large"]}
    dearer = {row.name: row.not_dominated for row in front({**arms, "copy": arms["large"]}, {**COSTS, "copy": 10}).rows}
    assert dearer["copy"] == 0  # the same network for more
    # An arm that costs more than all others takes nothing from them.
    assert {name: dearer[name] for name in found} == found


def test_where_lower_is_better_the_lower_arm_dominates(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, {"poor": 0.2, "good": 4.0}, metric="brier")
    rows = front(arms, {"good": 1, "poor": 2}).rows
    assert rows[0].value < rows[1].value
    assert [row.not_dominated for row in rows] == [1, pytest.approx(0, abs=0.02)]
    found = smallest_not_worse(arms, {"good": 2, "poor": 1}, margin=0.02)
    assert (found.reference, found.name) == ("good", "good")
    assert found.rows[0].difference < 0


def test_a_row_is_the_estimate_of_its_arm_and_the_rows_are_a_table(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, EFFECTS)
    found = front(arms, COSTS)
    table = pd.DataFrame(found.rows)
    assert list(table["name"]) == ["tiny", "middle", "small", "large"]
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    assert found.metric == "auroc"
    assert table["seeds"].eq(4).all()


def test_an_arm_of_one_seed_is_left_out_and_named(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, EFFECTS)
    one = study(np.random.default_rng(7), {"single": 5.0}, seeds=1)
    found = front({**arms, **one}, {**COSTS, "single": 0.5})
    assert found.left_out == ("single",)
    assert math.isnan(found.rows[0].not_dominated)
    assert found.rows[0].reason == pareto.ONE_SEED
    assert {row.name: row.not_dominated for row in found.rows[1:]} == {
        row.name: row.not_dominated for row in front(arms, COSTS).rows
    }
    alone = front(one, {"single": 1})
    assert [math.isnan(row.not_dominated) for row in alone.rows] == [True]


def test_arms_at_the_bound_cannot_be_told_apart_but_beat_others(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, {"low": 0.5, "perfect": 60.0, "also": 60.0}, spread=0.0)
    costs = {"low": 3, "perfect": 2, "also": 1}
    both = {row.name: row for row in front(arms, costs).rows}
    assert math.isnan(both["perfect"].not_dominated)
    assert "every run reaches 1 on every resample" in both["also"].reason
    assert both["low"].not_dominated == 0
    del arms["also"], costs["also"]
    one = {row.name: row.not_dominated for row in front(arms, costs).rows}
    assert one == {"perfect": 1, "low": 0}


def test_too_few_patients_give_no_probability() -> None:
    target, who = np.array([0, 0, 0, 1, 1, 1]), [0, 1, 2, 3, 3, 3]
    scores = np.random.default_rng(0).random((2, 3, 6))
    arms = {name: arm_of_scores(target, own, who) for name, own in zip("ab", scores, strict=True)}
    for row in front(arms, {"a": 1, "b": 2}).rows:
        assert math.isnan(row.not_dominated)
        assert "fewer than two patients" in row.reason or "of the patients" in row.reason


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"costs": {"tiny": 1.0}}, SpecError, "arm 'small' has no cost; .*Choices: tiny"),
        ({"costs": {**COSTS, "smal": 1.0}}, SpecError, "cost of 'smal', which is no arm; did you mean 'small'"),
        ({"costs": {**COSTS, "tiny": -1.0}}, SpecError, "cost of 'tiny' is -1.0; expected a finite number >= 0"),
        ({"costs": {**COSTS, "tiny": math.nan}}, SpecError, "cost of 'tiny' is nan"),
        ({"arms": {}}, DataError, "there is no arm; expected at least one"),
    ],
)
def test_what_cannot_be_meant_is_named(
    generator: np.random.Generator, study: Make, change: dict[str, object], error: type[Exception], message: str
) -> None:
    given = {"arms": study(generator, EFFECTS, patients=12), "costs": COSTS, **change}
    with pytest.raises(error, match=message):
        front(**given)  # type: ignore[arg-type]


def test_arms_of_other_patients_are_refused(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, {"a": 1.0}) | study(generator, {"b": 1.0}, patients=40)
    with pytest.raises(DataError, match="arms 'a' and 'b' cannot stand side by side: the arms differ in patients"):
        front(arms, {"a": 1, "b": 2})
