"""Arms that have learned nothing are alike: no equivalence is read off them, where the metric has a known chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from transfuse.results import chance
from transfuse.results.arms import ArmComparison, ArmEstimate
from transfuse.results.recommend import recommend
from transfuse.statistics.comparison import Comparison, compare, estimate
from transfuse.statistics.plateau import Plateau

STUDY: dict[str, Any] = {
    "metric": "auroc",
    "margin": 0.15,
    "baseline": "random",
    "arms": {"random": {}, "pretrained": {"depth": "all"}},
    "models": {"small": {}},
    "data": {"name": "mine"},
}


def study_of(effect: float, margin: float = 0.15, seeds: int = 3, patients: int = 300) -> tuple[Any, Any]:
    """A real comparison of two arms of one effect, and the estimates of both."""
    rng = np.random.default_rng(3)
    target, who = np.arange(patients) % 2, np.arange(patients)
    scores = {arm: rng.normal(effect * target, 1.0, (seeds, patients)) for arm in STUDY["arms"]}
    found = compare(target, scores["pretrained"], scores["random"], who, margin)
    estimates = [ArmEstimate("small", arm, estimate(target, own, who), {}) for arm, own in scores.items()]
    return ArmComparison("small", "pretrained", "random", found), estimates


def test_two_arms_at_chance_are_alike_and_nothing_is_said_of_transfer() -> None:
    row, estimates = study_of(0.0)
    assert row.comparison.verdict == "equivalent"
    found = recommend(STUDY, [row], estimates)
    assert (found.verdict, found.choice) == ("undecided", "can't tell")
    assert found.headline == (
        "Nothing learned that can be told from chance, so nothing can be said of pretrained weights."
    )
    assert "neither arm is shown to be better than chance, AUROC 0.5, and arms that have not learned" in found.sentence
    assert "no difference that matters" not in found.sentence + found.headline + found.advice
    assert "neither arm is shown to have learned the task. First get one to learn it: train longer" in found.advice
    (caveat,) = found.caveats
    assert caveat.startswith("2 of 2 arms are not shown to be better than chance, test AUROC 0.5: train longer")
    (evidence,) = found.evidence
    assert evidence.why_undecided == "not above chance"
    assert np.isnan(evidence.comparison.p_equivalence)
    assert evidence.comparison.needed_patients is None


def test_arms_that_learned_are_equivalent_as_before() -> None:
    row, estimates = study_of(2.0)
    found = recommend(STUDY, [row], estimates)
    assert found.verdict == "equivalent"
    assert found.caveats == ()
    assert found.evidence == (row,)


def test_one_arm_at_chance_is_named_and_takes_no_verdict_away() -> None:
    row, estimates = study_of(2.0)
    low = replace(estimates[0], estimate=replace(estimates[0].estimate, value=0.42, low=0.3, high=0.48))
    found = recommend(STUDY, [row], [low, estimates[1]])
    assert found.verdict == "equivalent"
    (caveat,) = found.caveats  # below chance is no learning either
    assert caveat.startswith("1 of 2 arms is not shown to be better than chance")
    assert caveat.endswith("(random: 0.420, 0.300 to 0.480).")


def test_an_undecided_pair_at_chance_asks_for_learning_and_not_for_patients() -> None:
    row, estimates = study_of(0.0, margin=0.01)
    assert row.comparison.verdict == "undecided"
    found = recommend(STUDY, [row], estimates)
    assert "nothing can be said of pretrained weights" in found.headline
    assert "test patients are needed" not in found.sentence


def test_a_difference_at_chance_keeps_its_verdict_and_is_not_ready_for_use() -> None:
    row, estimates = study_of(0.0)
    apart: Comparison = replace(row.comparison, verdict="helps", low=0.01)
    found = recommend(STUDY, [replace(row, comparison=apart)], estimates)
    assert found.verdict == "helps"
    assert found.advice.endswith("But neither is shown to be better than chance, so neither is ready for use.")


def test_a_pair_at_chance_that_still_rises_is_told_to_train_longer() -> None:
    row, estimates = study_of(0.0)
    rising = {"random": Plateau(False, 0.1, 0.15, (0.1,), (200.0,), (300.0,))}
    held = replace(row, rising=rising, comparison=replace(row.comparison, verdict="undecided"))
    found = recommend(STUDY, [held], estimates)
    assert found.headline == "Can't tell whether pretrained weights help."
    assert "Train longer." in found.advice


def test_networks_at_chance_are_said_beside_others() -> None:
    row, estimates = study_of(0.0)
    good, better = study_of(2.0)
    rows = [row, replace(good, model="large")]
    found = recommend(
        {**STUDY, "models": {"small": {}, "large": {}}},
        rows,
        [*estimates, *(replace(e, model="large") for e in better)],
    )
    assert found.headline == (
        "Pretrained weights make no difference that matters for large; "
        "nothing learned that can be told from chance for small."
    )
    assert found.advice == (
        "For small, get an arm to learn the task before you decide; "
        "for large, either will do, and random weights are enough."
    )


@pytest.mark.parametrize(
    ("metric", "data", "level"),
    [
        ("auroc", {}, 0.5),
        ("referable_auroc", {"classes": list("abcde")}, 0.5),
        ("kappa", {}, 0.0),
        ("macro_recall", {"classes": list("abcde")}, 0.2),
        ("macro_recall", {"classes": list("abcde"), "task": "multilabel"}, None),
        ("macro_recall", {}, None),
        ("auprc", {"classes": ["a", "b"]}, None),
        ("ece", {}, None),
    ],
)
def test_chance_is_known_of_some_metrics(metric: str, data: dict[str, Any], level: float | None) -> None:
    assert chance.chance_level(metric, data) == level
    _, estimates = study_of(0.0)
    assert bool(chance.at_chance(estimates, level)) == (level in (0.5,))
