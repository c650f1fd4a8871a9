"""How many patients it takes, in sentences: every case of where two curves meet, and what more patients are worth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from transfuse.results.data_size import ArmDataSize, DataSizes, about, between, data_sizes, end, notes, sentences
from transfuse.statistics.arm import arm_of_scores
from transfuse.statistics.crossover import Crossover
from transfuse.statistics.data_size import SizeEstimate, Worth, data_size_curve

SIZES = [48, 120, 240, 480]
SUBJECTS = {"random": "random weights", "pretrained": "pretrained weights"}


def row(arm: str, within: Crossover | None, gain: float = 0.004, **keys: Any) -> ArmDataSize:
    curve = data_size_curve(SIZES, [[0.9 - 4 / n, 0.9 - 3 / n] for n in SIZES], **keys)
    worth = Worth(
        100, SizeEstimate(gain, gain - 0.002, gain + 0.003), "extrapolated from at most 480 training patients"
    )
    return ArmDataSize(arm, curve, worth, within, within)


def met(patients: float, low: float = 120, high: float = 900) -> Crossover:
    return Crossover(patients, low, high, 0.02, 48, 480)


def told(within: Crossover) -> str:
    found = DataSizes("net", (row("random", None), row("pretrained", within)))
    return sentences(found, "random", SUBJECTS, ["pretrained"])[0]


NEAR = "andom weights are within 0.02 AUROC of pretrained weights"
BEHIND = "Random weights stay more than 0.02 AUROC behind pretrained weights up to 4,800 training patients"
FAR = "no size that was trained is as large (up to 480), so this is extrapolated."


@pytest.mark.parametrize(
    ("within", "expected"),
    [
        (met(212.3), f"From about 210 training patients on, r{NEAR} (95 % interval 120 to 900)."),
        (
            met(1174, 620, math.inf),
            f"From about 1,200 training patients on, r{NEAR} (95 % interval 620 to more than 4,800); {FAR}",
        ),
        (
            met(math.inf, 620, math.inf),
            f"{BEHIND}, 10 x those of this study; beyond that nothing is said (95 % interval 620 to more than 4,800).",
        ),
        (
            met(48, 48, 210),
            f"R{NEAR} at every size, from 48 training patients on (95 % interval 48 or fewer to 210).",
        ),
        (met(300, 0, math.inf), f"From how many training patients on r{NEAR} can't be told: no interval can be given."),
        (
            met(300, 48, math.inf),
            (
                f"From how many training patients on r{NEAR} can't be told: the interval holds every number that could "
                "be told, 48 or fewer to more than 4,800."
            ),
        ),
        (
            met(math.inf, 48, math.inf),
            (
                f"From how many training patients on r{NEAR} can't be told: the interval holds every number that could "
                "be told, 48 or fewer to more than 4,800."
            ),
        ),
    ],
)
def test_where_scratch_comes_up_to_transfer_is_said(within: Crossover, expected: str) -> None:
    assert told(within).endswith(expected)


def test_what_more_patients_are_worth_is_said_with_intervals() -> None:
    found = DataSizes("net", (row("random", None, 0.031), row("pretrained", met(200))))
    (_, line) = sentences(found, "random", SUBJECTS, ["pretrained"])
    assert line == (
        "100 training patients more than the 480 of this study would improve test AUROC by 0.031 (0.029 to 0.034) with "
        "random weights and 0.0040 (0.0020 to 0.0070) with pretrained weights: a forecast of the curves, with 95 % "
        "intervals."
    )


def test_what_cannot_be_said_of_more_patients_is_not() -> None:
    unbounded = row("random", None)
    unbounded = replace(unbounded, worth=Worth(100, SizeEstimate(0.004, -math.inf, math.inf), ""))
    (line,) = sentences(DataSizes("net", (unbounded,)), "random", SUBJECTS, [])
    assert "by 0.0040 (no interval can be given) with random weights" in line
    far = replace(
        unbounded, worth=Worth(100, SizeEstimate(math.nan, -math.inf, math.inf), "beyond 10 x the largest size")
    )
    (line,) = sentences(DataSizes("net", (far,)), "random", SUBJECTS, [])
    assert line == "What 100 more training patients would add is not said: beyond 10 x the largest size."


def flat(arm: str, within: Crossover | None, values: Any = (0.88, 0.9, 0.92)) -> ArmDataSize:
    curve = data_size_curve(SIZES, [values] * len(SIZES))
    return ArmDataSize(arm, curve, Worth(100, SizeEstimate(0.0, -0.01, 0.01), ""), within, within)


def test_no_crossover_is_claimed_where_neither_curve_changes_with_the_size() -> None:
    found = DataSizes("net", (flat("random", None), flat("pretrained", met(210))))
    first, more = sentences(found, "random", SUBJECTS, ["pretrained"])
    assert first == (
        "From how many training patients on random weights are within 0.02 AUROC of pretrained weights can't be told: "
        "no difference between the sizes can be told from chance."
    )
    assert more.endswith("; where one holds 0 it may be nothing.")
    rising = DataSizes("net", (row("random", None), flat("pretrained", met(210))))
    assert sentences(rising, "random", SUBJECTS, ["pretrained"])[0].startswith("From about 210 training patients on")
    throughout = DataSizes("net", (flat("random", None), flat("pretrained", met(math.inf, 600, math.inf))))
    assert sentences(throughout, "random", SUBJECTS, ["pretrained"])[0].startswith("Random weights stay more than")


def test_a_curve_that_misses_the_means_of_its_seeds_is_noted_with_both_numbers() -> None:
    through = flat("pretrained", met(210))
    assert not any("misses" in note for note in notes(DataSizes("net", (through,))))
    jumps = data_size_curve(SIZES, [[value - 0.001, value + 0.001] for value in (0.9, 0.6, 0.9, 0.6)])
    (note,) = (one for one in notes(DataSizes("net", (replace(through, curve=jumps),))) if "misses" in one)
    assert note.startswith("The fitted curve of pretrained misses the means of its seeds by half the margin or more: ")
    assert f"{jumps.at(480).value:.3f} at 480 patients, where its seeds have 0.600" in note


def test_only_the_first_arms_with_transfer_are_told_of() -> None:
    arms = [f"arm{number}" for number in range(6)]
    found = DataSizes(
        "net", (row("random", None), *(row(arm, met(200)) for arm in arms)), {"lost": "no size has a result"}
    )
    lines = sentences(found, "random", SUBJECTS, arms[1:])
    assert [line.split(" of ")[1].split(" (")[0] for line in lines[:3]] == arms[1:4]
    assert len(lines) == 5
    assert lines[-1] == "No curve of lost: no size has a result."


def test_numbers_of_patients_are_rounded_and_their_ends_said() -> None:
    assert [about(number) for number in (7, 48, 123, 1174, 48_123)] == ["7", "48", "120", "1,200", "48,000"]
    assert [end(number, met(200)) for number in (48, 99.6, 2500.0, math.inf)] == [
        "48 or fewer",
        "100",
        "2,500",
        "more than 4,800",
    ]
    assert between(met(48, 48, 48)) == "48 or fewer"


def test_a_note_of_every_curve_is_said_once_and_one_of_some_with_their_names() -> None:
    one, two = row("random", None), row("pretrained", None)
    curves = [replace(one.curve, notes=("flat", "steep")), replace(two.curve, notes=("flat",))]
    found = DataSizes("net", (replace(one, curve=curves[0]), replace(two, curve=curves[1])))
    assert notes(found) == ["Flat.", "Random: steep."]


def test_the_curves_come_from_the_arms_at_each_size() -> None:
    target, rng = np.tile([0, 1], 40), np.random.default_rng(0)

    def arm(separation: float) -> Any:
        return arm_of_scores(target, rng.normal(separation * target, 1.0, (3, 80)), range(80))

    tested = {
        "random": {20: arm(0.2), 40: arm(0.5), 80: arm(0.9)},
        "pretrained": {80: arm(1.8), 20: arm(1.5), 40: arm(1.7)},
        "lost": {20: arm(0.2), 40: arm(0.2)},
    }
    found = data_sizes("net", tested, "random", 0.02)
    assert [(one.arm, one.curve.patients) for one in found.arms] == [
        ("random", (20, 40, 80)),
        ("pretrained", (20, 40, 80)),
    ]
    assert found.missing == {"lost": "2 sizes have a result, and a curve takes 3"}
    random, pretrained = found.arms
    assert random.within is None
    assert pretrained.within is not None
    assert pretrained.crossing is not None
    assert (pretrained.within.margin, pretrained.crossing.margin) == (0.02, 0.0)
    assert pretrained.within.patients <= pretrained.crossing.patients
    alone = data_sizes("net", {name: tested[name] for name in ("pretrained", "lost")}, "random", 0.02)
    assert [one.within for one in alone.arms] == [None]


def made(**sizes: dict[int, float]) -> dict[str, dict[int, Any]]:
    """Arms by number of training patients, as well as they separate 80 test patients."""
    target, rng = np.tile([0, 1], 40), np.random.default_rng(1)

    def arm(separation: float) -> Any:
        return arm_of_scores(target, rng.normal(separation * target, 1.0, (3, 80)), range(80))

    return {name: {size: arm(one) for size, one in of.items()} for name, of in sizes.items()}


def test_arms_without_a_size_in_common_are_told_and_the_others_stay() -> None:
    """As a study has it that was interrupted."""
    tested = made(
        random={40: 1.0, 80: 1.2, 160: 1.4},
        pretrained={10: 1.0, 20: 1.2, 40: 1.4},
        other={40: 1.5, 80: 1.6, 160: 1.7},
    )
    found = data_sizes("net", tested, "random", 0.02)
    assert [row.within is None for row in found.arms] == [True, True, False]
    assert found.unmet == {
        "pretrained": "random has results at 40 to 160 training patients and pretrained at 10 to 40: no range in common"
    }
    lines = sentences(found, "random", SUBJECTS, ["pretrained", "other"])
    assert (
        "From how many training patients on random weights are as good as pretrained weights is not said: random has "
        "results at 40 to 160 training patients and pretrained at 10 to 40: no range in common." in lines
    )


@pytest.mark.parametrize("still", ["random", "pretrained"])
def test_nothing_is_read_off_curves_of_trainings_that_were_cut_short(still: str) -> None:
    tested = made(random={20: 0.3, 40: 0.7, 80: 1.2}, pretrained={20: 1.5, 40: 1.7, 80: 1.8})
    free = data_sizes("net", tested, "random", 0.02)
    assert (free.unmet, free.rising) == ({}, {})
    found = data_sizes("net", tested, "random", 0.02, {still: {80, 20}})
    assert [row.curve.patients for row in found.arms] == [(20, 40, 80)] * 2
    assert all(row.within is None and row.crossing is None for row in found.arms)
    assert found.rising == {still: (20, 80)}
    lines = sentences(found, "random", SUBJECTS, ["pretrained"])
    reason = f"the training of {still} had not levelled off at 20 and 80 training patients"
    assert (
        f"From how many training patients on random weights are as good as pretrained weights is not said: {reason}."
    ) in lines
    assert not any(f"with {SUBJECTS[still]}" in line for line in lines)
    (row,) = [row for row in found.arms if row.arm == still]
    assert math.isnan(row.worth.gain.value)
    assert row.worth.note == "training had not levelled off at 20 and 80 training patients"
    assert any(
        note.startswith(f"{still.capitalize()}: training had not levelled off at 20 and 80 training patients, so")
        for note in notes(found)
    )


def test_more_patients_that_make_it_worse_are_not_said_to_improve() -> None:
    (line,) = sentences(DataSizes("net", (row("random", None, -0.023),)), "random", SUBJECTS, [])
    assert "would change (above 0 is better) test AUROC by \N{MINUS SIGN}0.023" in line
