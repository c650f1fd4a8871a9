"""The headline of a study that searches: as good or not, which cut, at what share, and what it rests on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from transfuse.results.cut_search import Search, Seen
from transfuse.results.recommend import Recommendation
from transfuse.results.search_answer import answered, is_no_cut
from transfuse.results.search_verdict import verdict_on
from transfuse.statistics.arm import arm_of_scores

FOUND = Recommendation("x", "helps", "Pretrained weights help.", "They help.", caveats=("Few patients.",))
LEVEL = {"cut@a": 2.0, "cut@b": 2.0, "whole": 2.0}


def search(**changes: Any) -> Search:
    sizes = {"cut@a": (1000, 10_000), "cut@b": (20_000, 300_000), "whole": (400_000, 2_000_000)}
    one = Search(
        model="net",
        arm="cut",
        strategy="halving",
        metric="auroc",
        test_metric="auroc",
        margin=0.05,
        slack=0.5,
        seeds=1,
        cuts=("cut@a", "cut@b", "whole"),
        whole="whole",
        seen=(),
        best="cut@b",
        smallest="cut@a",
        parameters={arm: parameters for arm, (parameters, _) in sizes.items()},
        macs_of={arm: macs for arm, (_, macs) in sizes.items()},
        macs=2e9,
        macs_exhaustive=1e10,
    )
    return replace(one, **changes)


def judged(one: Search, effects: dict[str, float], patients: int = 300, seeds: int = 4, **held: Any) -> Search:
    """With a verdict on arms whose scores differ by so many standard deviations between the classes."""
    target = np.arange(patients) % 2
    shared = np.random.default_rng(0).normal(size=patients)
    arms = {}
    for place, (name, effect) in enumerate(effects.items()):
        own = np.random.default_rng([1, place]).normal(size=(seeds, patients))
        arms["net", name] = arm_of_scores(target, effect * target + 0.95 * shared + 0.3 * own, range(patients))
    return replace(one, verdict=verdict_on(one, arms, **held))


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_cut_that_is_as_good_is_named_with_its_share() -> None:
    one = judged(search(), LEVEL)
    said = answered(FOUND, [one])
    assert said.headline == (
        "Cut after a, net is as good (within 0.05 AUROC), with 0.25 % of its parameters and 0.5 % of its MACs."
    )
    assert said.advice.startswith(
        "Use net cut after a: the smallest network that is shown to lose less than what matters"
    )
    assert one.verdict is not None
    row = one.verdict.of("cut@a")
    whole = one.verdict.of("whole")
    assert f"Cut after a, net has test AUROC {row.value:.3f}; whole, {whole.value:.3f}: difference" in said.sentence
    assert "95 % interval" in said.sentence
    assert "(300 test patients, 4 seeds each)" in said.sentence
    assert "The probability that it is less than 0.05 worse is > 99 %." in said.sentence
    assert plain(said.sentence).endswith(
        "It has 1.00 k of 400 k parameters (0.25 %) and 10.0 k of 2.00 M MACs (0.5 %)."
    )
    assert said.reasons[0].startswith("Cut after b: difference")
    assert (said.choice, said.verdict, said.caveats) == ("cut@a", "as_good", ("Few patients.",))
    assert [part.model for part in said.models] == ["net"]


def test_where_nothing_is_shown_the_cut_is_a_guess() -> None:
    said = answered(FOUND, [judged(search(), LEVEL, patients=40)])
    assert said.headline == "Can't tell whether net is as good when it is cut; the best guess is after b."
    assert (said.choice, said.verdict) == ("can't tell", "undecided")
    assert said.advice.endswith("Test on more patients or train more seeds.")
    assert "less than 0.05 worse is" in said.sentence


def test_where_validation_data_could_not_tell_either_it_is_a_mere_guess() -> None:
    values = {"cut@a": 0.8, "cut@b": 0.85, "whole": 0.75}
    seen = tuple(Seen("one", arm, "auroc", value, 0.7, 0.9) for arm, value in values.items())
    said = answered(FOUND, [judged(search(seen=seen), LEVEL, patients=40)])
    assert said.headline == "Can't tell whether net is as good when it is cut, nor where; after b is a guess."


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({"rising": {("net", "whole")}}, "training was still improving when it stopped. Train longer."),
        ({"at_chance": {("net", arm) for arm in LEVEL}}, "neither it nor the whole network is shown to have learned"),
    ],
)
def test_good_numbers_that_show_nothing_are_no_answer(held: dict[str, Any], why: str) -> None:
    said = answered(FOUND, [judged(search(), LEVEL, **held)])
    assert said.headline.startswith("Can't tell")
    assert why in said.advice
    assert ", which shows nothing: " in said.sentence


def test_one_seed_shows_nothing() -> None:
    one = judged(search(), LEVEL, seeds=1)
    said = answered(FOUND, [one])
    assert said.headline.startswith("Can't tell")
    assert said.advice.endswith("Train more seeds.")
    assert "No test says whether it is less than 0.05 worse. It has" in said.sentence
    assert "Holm" not in " ".join((said.sentence, *said.reasons))


def test_one_seed_says_nothing_of_another_training() -> None:
    one = judged(search(), {"cut@a": 0.5, "cut@b": 0.5, "whole": 2.0}, seeds=1)
    said = answered(FOUND, [one])
    assert (said.choice, said.verdict) == ("whole", "whole")  # of the two networks there are, the whole one is better
    assert said.headline == "Keep net whole: cut after b it is worse in the one training of each."
    assert said.advice.endswith("luck in the patients explains; what another training would give, one does not say.")
    assert one.sentences()[-1] == (
        "So cut@b is worse than the whole network in the one training of each; the whole one is the one to use."
    )


def test_the_whole_network_is_kept_where_it_is_best_or_the_cut_is_worse() -> None:
    worse = answered(FOUND, [judged(search(), {"cut@a": 0.5, "cut@b": 0.5, "whole": 2.0})])
    assert worse.headline == "Keep net whole: cut after b it is worse."
    assert worse.advice.endswith("by more than luck explains.")
    assert (worse.choice, worse.verdict) == ("whole", "whole")
    best = answered(FOUND, [judged(search(best="whole"), {"cut@a": 0.5, "whole": 2.0})])
    assert best.headline == "Keep net whole: no cut is shown to be as good."
    assert best.advice.endswith("Of the cuts that were tested none is shown to be as good.")
    assert best.sentence.startswith("The whole net has test AUROC")
    assert best.reasons[0].startswith("Cut after a: difference")
    alone = answered(FOUND, [judged(search(best="whole", smallest="whole"), {"whole": 2.0})])
    assert alone.advice.endswith("No cut came close enough to it there to be tested.")


def test_there_is_no_answer_before_the_end() -> None:
    begun = answered(FOUND, [search(best=None, smallest=None)])
    assert begun.headline == "No answer yet: the search over the cuts of net goes on."
    assert (begun.choice, begun.verdict) == ("no result", "none")
    chosen = answered(FOUND, [search()])
    assert chosen.headline == "No answer yet: the chosen cuts of net are not all trained."
    assert chosen.sentence.startswith("Best on validation data is net cut after b; the comparison")
    stopped = answered(FOUND, [search(best=None, smallest=None, stopped="net diverged")])
    assert stopped.headline == "No answer: the search chose no cut of net."
    assert stopped.advice == "The reason: net diverged."


def test_several_networks_have_an_answer_each() -> None:
    one = judged(search(), LEVEL)
    said = answered(FOUND, [one, replace(search(best=None, smallest=None), model="other")])
    assert said.headline == "net is as good cut after a, with 0.25 % of its parameters; no answer yet for other."
    assert [part.model for part in said.models] == ["net", "other"]
    assert (said.choice, said.verdict) == ("by network", "mixed")
    open_ = search(best=None, smallest=None)
    both = answered(FOUND, [open_, replace(open_, model="other")])
    assert both.headline == "No answer yet for net and other."


def test_other_arms_of_the_study_are_told_too() -> None:
    one = judged(search(), LEVEL)
    part = Recommendation("p", "helps", "They help.", "Pretrained weights help.", ("Speed: fast.",), model="net")
    said = answered(FOUND, [one], replace(part, model="", models=(part,)))
    assert said.reasons[-2:] == ("Pretrained weights help.", "Speed: fast.")
    kept = is_no_cut([one])
    assert [kept("net", arm) for arm in ("cut@a", "whole", "random")] == [False, True, True]
