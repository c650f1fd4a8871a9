"""What to do, read aloud: for every verdict one or two sentences without numbers, which say the choice."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from transfuse.results.arms import ArmComparison
from transfuse.results.recommend import recommend
from transfuse.statistics.comparison import Comparison
from transfuse.statistics.planning import Components
from transfuse.statistics.plateau import Plateau

STUDY: dict[str, Any] = {
    "metric": "auroc",
    "margin": 0.02,
    "baseline": "random",
    "arms": {"random": {}, "pretrained": {"depth": "all"}, "tl": {"depth": "middle"}},
    "models": {"small": {}},
}


def row(verdict: Any, arm: str = "pretrained", model: str = "small", **changes: Any) -> ArmComparison:
    found = Comparison(
        difference=0.038,
        low=0.011,
        high=0.065,
        verdict=verdict,
        margin=0.02,
        metric="auroc",
        standard_error=0.01,
        df=8.0,
        patients=60,
        seeds_a=3,
        seeds_b=3,
        values_a=(),
        values_b=(),
        equivalence=(0.015, 0.06),
        components=Components(1e-4, 0.0, 0.0, 1e-5, 1e-5),
        needed_patients=2200,
        needed_seeds=7,
    )
    return ArmComparison(model, arm, "random", replace(found, **changes))


RISING = {"random": Plateau(False, 0.1, 0.02, (0.1,), (200.0,), (300.0,))}
YET = "Don't decide yet for small: "
OPEN = "Don't decide yet for small: these runs can't tell whether pretrained weights help."


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            row("helps", low=0.03),
            (
                "Use pretrained weights for small. They did better than random weights, by more than luck "
                "explains, by enough to matter."
            ),
        ),
        (
            row("helps"),
            (
                "Use pretrained weights for small. They did better than random weights, by more than luck explains, "
                "though perhaps by less than what matters to you."
            ),
        ),
        (
            row("helps", "tl", low=0.03),
            (
                "Use pretrained weights up to the middle (arm tl) for small. They did better than "
                "random weights, by more than luck explains, by enough to matter."
            ),
        ),
        (
            row("hurts", difference=-0.05),
            (
                "For small, use random weights, not pretrained weights. The latter did worse, by "
                "more than luck explains."
            ),
        ),
        (
            row("equivalent"),
            (
                "For small either will do: pretrained weights and random weights differ by less than what "
                "matters to you, and luck does not explain that. Choose by what it costs; random weights are enough."
            ),
        ),
        (row("undecided"), (f"{OPEN} Test on more patients or train more seeds first.")),
        (row("undecided", needed_seeds=None), (f"{OPEN} Test on more patients first.")),
        (row("undecided", needed_patients=None), (f"{OPEN} Train more seeds first.")),
        (
            row("undecided", needed_patients=None, needed_seeds=None),
            (f"{OPEN} Test on more patients and train more seeds first."),
        ),
        (
            row("undecided", needed_patients=50),
            (f"{OPEN} If they differ, it is by about what matters to you, and more data would help only slowly."),
        ),
        (
            row("undecided", seeds_a=1),
            (
                f"{YET}one training says nothing of what the next would give, so these runs can't "
                "tell whether pretrained weights help. Train more seeds."
            ),
        ),
        (row("undecided", low=-math.inf, high=math.inf), (f"{OPEN} Test on more patients.")),
        (
            row("undecided", p_difference=0.02, family=5),
            (
                f"{YET}pretrained weights seem to help, but several comparisons were made, and among so many one like "
                "this may be luck. Repeat this one alone, with new patients, before you rely on it."
            ),
        ),
        (
            replace(row("undecided"), rising=RISING),
            (
                f"{YET}training was still improving when it stopped, so these runs "
                "can't tell whether pretrained weights help. Train longer."
            ),
        ),
    ],
)
def test_every_verdict_has_advice_without_numbers(found: ArmComparison, said: str) -> None:
    advice = recommend(STUDY, [found]).advice
    assert advice == said
    assert not re.search(r"\d", advice)


def test_several_networks_are_advised_side_by_side() -> None:
    study = {**STUDY, "models": {"small": {}, "large": {}}}
    both = recommend(study, [row("helps"), row("helps", model="large")])
    assert both.advice == "Use pretrained weights, for both networks."
    mixed = recommend(study, [row("helps"), row("undecided", model="large")])
    assert mixed.advice == "For small, use pretrained weights; for large, don't decide yet."
    assert [part.advice.split(".")[0] for part in mixed.models] == [
        "Use pretrained weights for small",
        "Don't decide yet for large: these runs can't tell whether pretrained weights help",
    ]
    assert (
        recommend(study, [row("helps")]).advice
        == "For small, use pretrained weights; for large, there is no result yet."
    )


def test_holm_is_the_reason_in_the_card_the_chart_and_the_caveat() -> None:
    taken = row("undecided", p_difference=0.02, family=5)
    found = recommend(STUDY, [taken, row("helps", "tl")])
    assert taken.why_undecided == "Holm, 5 comparisons"
    assert (
        "For pretrained weights, we can't tell (+0.038, 95 % interval +0.011 to +0.065; not evidence enough among 5 "
        "comparisons, by Holm)."
    ) in found.sentence
    alone = recommend(STUDY, [taken])
    assert (
        "By itself the comparison of pretrained weights with random weights would be called a gain: its own interval "
        "excludes zero. It is one of 5 comparisons of this network, and among so many that is not evidence enough "
        "(Holm's correction)."
    ) in alone.sentence
    named = "In 1 of 2 comparisons (pretrained − random): By itself"
    assert any(caveat.startswith(named) for caveat in found.caveats)
    near = row("undecided", p_equivalence=0.02, p_difference=0.4, difference=0.001, low=-0.01, high=0.012, family=5)
    said = recommend(STUDY, [near])
    assert "would be called equivalent: its 90 % interval lies within the margin." in said.sentence
    assert "pretrained weights and random weights seem to be alike, but several comparisons" in said.advice
    assert row("undecided", low=-0.01).why_undecided == ""


def test_few_test_patients_are_a_caveat() -> None:
    (caveat,) = recommend(STUDY, [row("helps", patients=8)]).caveats
    assert caveat.startswith("8 test patients: the intervals of differences are wider than they need be")
    assert recommend(STUDY, [row("helps", patients=30)]).caveats == ()
