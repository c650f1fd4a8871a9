"""The smallest arm that is not worse: the test of `compare`, Holm by its definition, and what it leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from transfuse.errors import DataError, SpecError
from transfuse.statistics.arm import Arm
from transfuse.statistics.comparison import compare_arms
from transfuse.statistics.smallest import smallest_not_worse

Make = Callable[..., dict[str, Arm]]

EFFECTS = {"tiny": 0.9, "small": 1.4, "middle": 1.3, "large": 1.6}
COSTS = {"tiny": 1.0, "small": 2.0, "middle": 2.0, "large": 9.0}


def test_the_smallest_is_by_the_test_of_compare(generator: np.random.Generator, study: Make) -> None:
    arms = study(
        generator, {"tiny": 0.3, "small": 2.6, "middle": 2.7, "large": 2.8}, seeds=3, patients=200, spread=0.05
    )
    costs = {"tiny": 1, "small": 2, "middle": 2, "large": 9}
    found = smallest_not_worse(arms, costs, margin=0.05, reference="large")
    for row in found.rows:
        if row.name != "large":
            test = compare_arms(arms[row.name], arms["large"], 0.05)
            assert row.probability == 1 - test.p_not_worse
            assert (row.difference, row.low, row.high) == (test.difference, test.low, test.high)
    shown = {row.name for row in found.rows if row.shown}
    assert shown == {"small", "middle", "large"}
    # Of two that cost the same, the better one.
    assert found.name == max(("small", "middle"), key=lambda name: {row.name: row.value for row in found.rows}[name])
    by_default = smallest_not_worse(arms, costs, margin=0.05)
    assert by_default.reference == max(arms, key=lambda name: {row.name: row.value for row in found.rows}[name])
    assert smallest_not_worse(arms, costs, margin=0.05, level=1 - 1e-12, reference="large").name == "large"


def test_the_best_arm_may_be_the_answer_itself(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, {"tiny": 0.3, "large": 3.0}, patients=100)
    assert smallest_not_worse(arms, {"tiny": 1, "large": 2}, margin=0.02).name == "large"
    only = smallest_not_worse({"large": arms["large"]}, {"large": 2}, margin=0.02)
    assert (only.name, only.name_alone, only.rows[0].probability) == ("large", "large", 1)


def test_many_small_arms_are_corrected_for_together(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, {f"a{k}": 2.0 for k in range(6)}, patients=80)
    costs = {name: place + 1.0 for place, name in enumerate(arms)}
    found = smallest_not_worse(arms, costs, margin=0.1, reference="a4")
    less = [row for row in found.rows if row.cost < 5]
    p_values = np.array([1 - row.probability for row in less])
    # Holm by definition: the k-th smallest against level / (K - k), and none after the first that fails.
    alive, expected = True, set()
    for place, index in enumerate(np.argsort(p_values)):
        alive = alive and p_values[index] <= 0.05 / (len(less) - place)
        expected |= {less[index].name} if alive else set()
    assert {row.name for row in less if row.shown} == expected
    more = next(row for row in found.rows if row.name == "a5")
    assert more.shown == (more.probability >= 0.95), "what costs more is no candidate"
    assert found.name == next((row.name for row in less if row.shown), "a4")
    assert found.name_alone == next((row.name for row in less if row.probability >= 0.95), "a4")
    alone = [row.name for row in less if row.probability >= 0.95]
    assert set(alone) > expected, "the correction has something to take away here"
    only = smallest_not_worse({name: arms[name] for name in (alone[0], "a4")}, {alone[0]: 1, "a4": 2}, margin=0.1)
    assert only.name == only.name_alone


def test_other_costs_keep_the_tests(generator: np.random.Generator, study: Make) -> None:
    arms = study(generator, EFFECTS, patients=100)
    found = smallest_not_worse(arms, COSTS, margin=0.1, reference="small")
    other = {"tiny": 9.0, "small": 5.0, "middle": 2.0, "large": 1.0}
    assert found.priced(other) == smallest_not_worse(arms, other, margin=0.1, reference="small")
    with pytest.raises(SpecError, match="arm 'tiny' has no cost; did you mean 'tinny'"):
        found.priced({"tinny": 1.0})


def test_the_best_arm_as_reference_makes_no_arm_look_better(generator: np.random.Generator, study: Make) -> None:
    """So its choice by the data costs power and not validity: no arm, the truly best one included, is above it."""
    arms = study(generator, EFFECTS, patients=40)
    chosen = {row.name: row.difference for row in smallest_not_worse(arms, COSTS, margin=0.05).rows}
    for reference in arms:
        fixed = smallest_not_worse(arms, COSTS, margin=0.05, reference=reference)
        for row in fixed.rows:
            assert chosen[row.name] <= row.difference + 1e-12


def test_a_reference_of_one_seed_gives_no_test(generator: np.random.Generator, study: Make) -> None:
    arms = {**study(generator, EFFECTS), **study(np.random.default_rng(7), {"single": 5.0}, seeds=1)}
    costs = {**COSTS, "single": 20}
    assert smallest_not_worse(arms, costs, margin=0.02).reference != "single"
    against = smallest_not_worse(arms, costs, margin=0.02, reference="single")
    assert against.name == "single"
    assert all(math.isnan(row.probability) for row in against.rows if row.name != "single")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"costs": {"tiny": 1.0}}, SpecError, "arm 'small' has no cost; .*Choices: tiny"),
        ({"arms": {}}, DataError, "there is no arm; expected at least one"),
        ({"reference": "larg"}, SpecError, "reference is 'larg', which is no arm; did you mean 'large'"),
        ({"margin": 0}, SpecError, "margin is 0; expected a number > 0"),
        ({"level": 95}, SpecError, "level is 95; expected a number between 0 and 1, as 0.95"),
    ],
)
def test_what_cannot_be_meant_is_named(
    generator: np.random.Generator, study: Make, change: dict[str, object], error: type[Exception], message: str
) -> None:
    given = {"arms": study(generator, EFFECTS, patients=12), "costs": COSTS, "margin": 0.02, **change}
    arms, costs = given.pop("arms"), given.pop("costs")
    with pytest.raises(error, match=message):
        smallest_not_worse(arms, costs, **given)  # type: ignore[arg-type]
