"""What arms cost, and the sentence on the smallest that is not worse."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from transfuse.results.network_sizes import RISING, Answer, ArmSize, Name, Sizes, Timing, Timings, sizes
from transfuse.results.smallest_network import amount, sentences
from transfuse.statistics.arm import Arm, arm_of_scores
from transfuse.statistics.comparison import compare_arms, estimate_arm
from transfuse.statistics.pareto import front

Names = tuple[str, str]


def arm(effect: float, seed: int, seeds: int = 3) -> Arm:
    generator = np.random.default_rng(seed)
    target = np.arange(120) % 2
    return arm_of_scores(target, target * effect + generator.normal(size=(seeds, 120)), np.arange(120) // 2)


def table(costs: Mapping[Names, tuple[int, int | None]]) -> pd.DataFrame:
    rows = [
        {"model": model, "arm": label, "seed": seed, "role": "arm", "parameters": parameters, "macs": macs}
        for (model, label), (parameters, macs) in costs.items()
        for seed in range(3)
    ]
    source = {"model": "net", "arm": "source", "seed": 0, "role": "source", "parameters": 1, "macs": 1}
    return pd.DataFrame([*rows, source])


ONE = {("net", "full"): arm(2.5, 0), ("net", "cut"): arm(2.5, 1), ("net", "stub"): arm(0.3, 2)}
COSTS = {("net", "full"): (9_000_000, 900), ("net", "cut"): (2_000_000, 500), ("net", "stub"): (10_000, 100)}


def test_rows_hold_what_the_statistics_say() -> None:
    found = sizes(ONE, table(COSTS), 0.05)
    assert found is not None
    assert [row.name.arm for row in found.rows] == ["stub", "cut", "full"]
    placed = {row.name: row.not_dominated for row in front({k[1]: v for k, v in ONE.items()}, PARAMETERS).rows}
    best = max(ONE, key=lambda name: estimate_arm(ONE[name]).value)
    for row in found.rows:
        estimate = estimate_arm(ONE[row.name])
        assert (row.value, row.low, row.high) == (estimate.value, estimate.low, estimate.high)
        assert row.not_dominated == dict.fromkeys(("parameters", "macs"), placed[row.name.arm])
        assert row.in_network == {}  # there is one network only
        assert row.costs == dict(zip(("parameters", "macs"), COSTS[row.name], strict=True))
        if row.name == best:
            assert row.not_worse == 1
        else:
            assert row.not_worse == 1 - compare_arms(ONE[row.name], ONE[best], 0.05).p_not_worse
    (parameters, macs) = found.answers
    assert (parameters.cost, macs.cost) == ("parameters", "macs")
    assert parameters.best == macs.best == best


PARAMETERS = {label: float(costs[0]) for (_, label), costs in COSTS.items()}


def test_arms_of_one_cost_have_no_answer() -> None:
    same = dict.fromkeys(ONE, (5, 7))
    assert sizes(ONE, table(same), 0.05) is None
    assert sizes({}, table(COSTS), 0.05) is None
    assert sizes(ONE, pd.DataFrame(), 0.05) is None


def test_records_without_macs_are_judged_by_parameters() -> None:
    older = {**COSTS, ("net", "cut"): (2_000_000, None)}
    for runs in (table(older), table(older).drop(columns="macs")):
        found = sizes(ONE, runs, 0.05)
        assert found is not None
        assert {answer.cost for answer in found.answers} == {"parameters"}
        assert all(set(row.not_dominated) == {"parameters"} for row in found.rows)
    assert sizes(ONE, table(dict.fromkeys(ONE, (5, None))), 0.05) is None


def test_latency_is_a_cost_where_every_arm_was_timed() -> None:
    timed = {("net", "full"): Timing(3.0, 2.9, 3.1), ("net", "cut"): Timing(4.0, 3.9, 4.1), ("net", "stub"): FAST}
    found = sizes(ONE, table(COSTS), 0.05, timings=Timings(timed, "On this machine."))
    assert found is not None
    assert found.timed == "On this machine."
    assert {row.name: row.timing for row in found.rows} == timed
    assert [answer.cost for answer in found.answers] == ["parameters", "macs", "latency"]
    names = {name[1]: name for name in ONE}
    by_latency = front({label: ONE[name] for label, name in names.items()}, {k[1]: t.median for k, t in timed.items()})
    chances = {row.name: row.not_dominated for row in by_latency.rows}
    assert {row.name.arm: row.not_dominated["latency"] for row in found.rows} == chances
    del timed["net", "stub"]
    some = sizes(ONE, table(COSTS), 0.05, timings=Timings(timed, "Not timed: net · stub."))
    assert some is not None
    assert [answer.cost for answer in some.answers] == ["parameters", "macs"]
    assert some.timed == "Not timed: net · stub."


FAST = Timing(0.5, 0.4, 0.6)


def test_networks_are_judged_together_and_by_themselves() -> None:
    two = {**ONE, ("other", "full"): arm(2.6, 3), ("other", "cut"): arm(1.0, 4), ("third", "full"): arm(1.0, 5)}
    costs = {**COSTS, ("other", "full"): (700_000, 50), ("other", "cut"): (600_000, 50), ("third", "full"): (5, 5)}
    found = sizes(two, table(costs), 0.05)
    assert found is not None
    assert [(answer.model, answer.cost) for answer in found.answers] == [
        ("", "parameters"),
        ("", "macs"),
        ("net", "parameters"),
        ("net", "macs"),
        ("other", "parameters"),  # its arms have the same MACs, and the third network has one arm
    ]
    rows = {row.name: row for row in found.rows}
    alone = sizes(ONE, table(COSTS), 0.05)
    assert alone is not None
    by_itself = {row.name: row.not_dominated for row in alone.rows}
    assert {name: row.in_network for name, row in rows.items() if name.model == "net"} == by_itself
    assert set(rows[Name("other", "cut")].in_network) == {"parameters"}
    assert rows[Name("third", "full")].in_network == {}
    said = sentences(found)
    assert said[0].endswith(".")
    assert any(line.startswith("Of net: ") for line in said)


def test_no_answer_rests_on_an_arm_that_was_still_learning() -> None:
    best = max(ONE, key=lambda name: estimate_arm(ONE[name]).value)
    found = sizes(ONE, table(COSTS), 0.05, {best})
    assert found is not None
    row = next(row for row in found.rows if row.name == best)
    assert row.reason == RISING
    assert math.isnan(row.not_worse)
    assert row.not_dominated == {}
    assert all(best not in (answer.best, answer.smallest) for answer in found.answers)
    everything = sizes(ONE, table(COSTS), 0.05, set(ONE))
    assert everything is not None
    assert everything.answers == ()
    assert {row.reason for row in everything.rows} == {RISING}
    assert sentences(everything) == []


def test_one_seed_an_arm_is_no_test() -> None:
    single = {name: arm(1.0, place, seeds=1) for place, name in enumerate(ONE)}
    found = sizes(single, table(COSTS), 0.05)
    assert found is not None
    assert all("one seed" in row.reason for row in found.rows)
    (said, *_) = sentences(found)
    assert "could be tested" in said or "smallest arm too" in said


LESS = "that is shown to be less than 0.02 AUROC worse than the best, big, is"
FEWER = "2.00\xa0M parameters instead of 9.00\xa0M"
FEWER_MACS = "5.00\xa0k MACs instead of 9.00\xa0k"
ALONE = "By its own test alone, not corrected for looking at 4 arms (Holm), it would be tiny."
BOTH = "2 parameters instead of 9 and 7 MACs instead of 90."
FASTER = "1.23\xa0ms an image instead of 12.0\xa0ms."
BIG, SMALL, TINY = Name("net", "big"), Name("net", "small"), Name("net", "tiny")


def answer(cost: str, smallest: Name, alone: Name, ends: tuple[float, float], **changes: object) -> Answer:
    given = {"model": "", "probability": 0.97, "less": 4, "tested": 4, **changes}
    return Answer(cost=cost, best=BIG, smallest=smallest, alone=alone, costs=ends, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            [answer("parameters", SMALL, SMALL, (2_000_000, 9_000_000)), answer("macs", SMALL, SMALL, (5_000, 9_000))],
            [f"The smallest arm {LESS} small (probability 97 %): {FEWER} and {FEWER_MACS}."],
        ),
        (
            [answer("parameters", SMALL, TINY, (2, 9)), answer("macs", BIG, TINY, (90, 90))],
            [
                f"The arm of the fewest parameters {LESS} small (probability 97 %): 2 parameters instead of 9. {ALONE}",
                f"No arm of fewer MACs than the best, big, is shown to be less than 0.02 AUROC worse. {ALONE}",
            ],
        ),
        (
            [answer("parameters", BIG, BIG, (900, 900)), answer("macs", BIG, BIG, (9, 9), less=0, tested=0)],
            [
                "No arm of fewer parameters than the best, big, is shown to be less than 0.02 AUROC worse.",
                "The best arm, big, is the arm of the fewest MACs too.",
            ],
        ),
        (
            [
                answer("parameters", TINY, TINY, (2, 9)),
                answer("macs", TINY, TINY, (7, 90)),
                answer("latency", SMALL, SMALL, (1.234, 12.0)),
            ],
            [
                f"The arm of the fewest parameters and the fewest MACs {LESS} tiny (probability 97 %): {BOTH}",
                f"The arm of the least latency {LESS} small (probability 97 %): {FASTER}",
            ],
        ),
        (
            [answer("parameters", SMALL, SMALL, (2, 9)), answer("latency", BIG, TINY, (5.0, 5.0), less=5, tested=3)],
            [
                f"The arm of the fewest parameters {LESS} small (probability 97 %): 2 parameters instead of 9.",
                "No arm of less latency than the best, big, is shown to be less than 0.02 AUROC worse. "
                + ALONE.replace("4", "3"),
            ],
        ),
        ([answer("macs", BIG, BIG, (9, 9), tested=0)], ["No arm smaller than the best, big, could be tested."]),
        ([answer("macs", BIG, BIG, (9, 9), less=0)], ["The best arm, big, is the smallest arm too."]),
        (
            [answer("macs", BIG, BIG, (9, 9), model="net")],
            ["Of net: no arm smaller than the best, big, is shown to be less than 0.02 AUROC worse."],
        ),
    ],
)
def test_the_sentence(answers: list[Answer], expected: list[str]) -> None:
    rows = (ArmSize(BIG, {"parameters": 900}, 0.9, 0.8, 1.0),)
    assert sentences(Sizes("auroc", 0.02, rows, tuple(answers))) == expected


LEFT = "Of the arms that had levelled off, the best arm, big, is the smallest arm too."


@pytest.mark.parametrize(
    ("value", "reason", "metric", "expected"),
    [
        (0.95, RISING, "auroc", f"{LEFT} By the mean huge was better, but had not levelled off."),
        (0.85, RISING, "auroc", LEFT),
        (0.95, RISING, "brier", LEFT),
        (
            0.95,
            "one seed",
            "auroc",
            LEFT.replace("had levelled off", "could be compared")
            + " By the mean huge was better, but could not be compared.",
        ),
    ],
)
def test_a_better_arm_that_was_left_out_is_named(value: float, reason: str, metric: str, expected: str) -> None:
    """The best of those that count is not the best arm."""
    rows = (
        ArmSize(BIG, {"parameters": 900}, 0.9, 0.8, 1.0),
        ArmSize(Name("net", "huge"), {"parameters": 9_000}, value, 0.8, 1.0, reason=reason),
    )
    nothing_smaller = answer("parameters", BIG, BIG, (900, 900), less=0, tested=0)
    assert sentences(Sizes(metric, 0.02, rows, (nothing_smaller,))) == [expected]


def test_amounts_have_three_digits() -> None:
    for value in (1, 12, 999, 1_000, 9_994, 9_996, 99_960, 999_600, 999_400, 1.5e9, 12e12, 999.6e6):
        number, _, unit = amount(value).partition("\xa0")
        scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[unit]
        assert float(number) * scale == pytest.approx(value, rel=0.0051)
        assert len(number.replace(".", "")) == (3 if unit else len(str(round(value))))
