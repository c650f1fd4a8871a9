"""The answer of a study that searches: is a cut network as good as the whole one, which cut, and at what share of cost.

What is claimed is what `search_verdict` shows on the test part; where that is nothing, the answer is called a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from transfuse.results import phrases
from transfuse.results.cut_search import Search, share_of_work
from transfuse.results.network_sizes import RISING
from transfuse.results.recommend import CANT_TELL, NOTHING, Recommendation
from transfuse.results.smallest_network import amount, share

AS_GOOD, KEEP = "as_good", "whole"
"""Verdicts of a search: a cut network is shown to be as good as the whole one; the whole one is to be used."""

_VERDICTS = {"shown": AS_GOOD, "whole": KEEP, "worse": KEEP, "guess": "undecided"}


def answered(found: Recommendation, searches: Sequence[Search], beside: Recommendation | None = None) -> Recommendation:
    """A study's recommendation with the answer of its searches as its headline, advice and sentence.

    Args:
        found: what `recommend` made of all its arms: its caveats and its evidence stay.
        searches: one a network.
        beside: what `recommend` made of the arms that are no cuts, told as reasons.
    """
    told = {part.model: part for part in (beside.models if beside is not None else ())}
    parts = tuple(_of_network(one, told.get(one.model)) for one in searches)
    if len(parts) == 1:
        return replace(parts[0], evidence=found.evidence, caveats=found.caveats, model="", models=parts)
    choices, verdicts = ({getattr(part, name) for part in parts} for name in ("choice", "verdict"))
    return Recommendation(
        choice=choices.pop() if len(choices) == 1 else "by network",
        verdict=verdicts.pop() if len(verdicts) == 1 else "mixed",
        headline=_joint_headline(searches),
        sentence=" ".join(part.sentence for part in parts),
        evidence=found.evidence,
        caveats=found.caveats,
        models=parts,
    )


def _of_network(search: Search, beside: Recommendation | None) -> Recommendation:
    outcome = search.outcome
    choice = CANT_TELL if outcome == "guess" else search.to_use if outcome in _VERDICTS else NOTHING
    others = () if beside is None or beside.verdict == "none" else (beside.sentence, *beside.reasons)
    return Recommendation(
        choice=str(choice),
        verdict=_VERDICTS.get(outcome, "none"),
        headline=_headline(search),
        advice=_advice(search),
        sentence=_sentence(search),
        reasons=(*_other_cuts(search), *others),
        model=search.model,
    )


def _main(search: Search) -> str:
    """The cut that the answer is about: the one to use, or where that is the whole network, the best other one."""
    assert search.best is not None
    return search.best if search.outcome == "worse" else str(search.to_use)


def cut_at(search: Search, arm: str) -> str:
    """A cut in words: `cut after layer2`, or `the whole network`."""
    return "the whole network" if arm == search.whole else f"cut after {arm.partition('@')[2] or arm}"


def within(search: Search) -> str:
    """The margin with its unit: `0.02 AUROC`."""
    return f"{phrases.trimmed(search.margin)} {phrases.metric_name(search.test_metric)}"


def _headline(search: Search) -> str:
    model = search.model
    if search.outcome == "shown":
        where, cost = cut_at(search, _main(search)), _shares(search, _main(search))
        return f"{phrases.sentence(where)[:-1]}, {model} is as good (within {within(search)}), with {cost}."
    if search.outcome == "guess":
        where = cut_at(search, _main(search)).removeprefix("cut ")
        start = f"Can't tell whether {model} is as good when it is cut"
        return f"{start}; the best guess is {where}." if search.is_told else f"{start}, nor where; {where} is a guess."
    if search.outcome == "worse":
        alone = "" if _by_seeds(search) else " in the one training of each"
        return f"Keep {model} whole: {cut_at(search, _main(search))} it is worse{alone}."
    return {
        "whole": f"Keep {model} whole: no cut is shown to be as good.",
        "stopped": f"No answer: the search chose no cut of {model}.",
        "untested": f"No answer yet: the chosen cuts of {model} are not all trained.",
    }.get(search.outcome, f"No answer yet: the search over the cuts of {model} goes on.")


def _joint_headline(searches: Sequence[Search]) -> str:
    """The headlines of several networks in one line, those of the same outcome together."""
    groups: dict[str, list[str]] = {}
    for one in searches:
        groups.setdefault(_in_few_words(one), []).append(one.model)
    said = "; ".join(words.format(phrases.listed(names)) for words, names in groups.items())
    return f"{said}." if next(iter(groups)).startswith("{}") else phrases.sentence(said)  # a name stays as it is


def _in_few_words(search: Search) -> str:
    """The headline as one of several, with a place for the network's name."""
    if search.outcome == "shown":
        arm = _main(search)
        size = share_of_work(search.parameters[arm] / search.parameters[search.whole])
        where = cut_at(search, arm).replace("{", "{{").replace("}", "}}")
        return f"{{}} is as good {where}, with {size} of its parameters"
    return {
        "guess": "can't tell of {} whether a cut is as good",
        "whole": "keep {} whole",
        "worse": "keep {} whole",
    }.get(search.outcome, f"no answer {'' if search.outcome == 'stopped' else 'yet '}for {{}}")


def _shares(search: Search, arm: str) -> str:
    """What a cut costs, as shares of the whole network.

    Of a network whose cut costs more (the head of an early one can be larger than what was cut off) the share is more
    than 100 %.
    """
    parts = [(search.parameters, "parameters"), (search.macs_of, "MACs")]
    said = [f"{share_of_work(of[arm] / of[search.whole])} of its {what}" for of, what in parts]
    return phrases.listed(said)


def _advice(search: Search) -> str:
    if search.outcome == "shown":
        return (
            f"Use {search.model} {cut_at(search, _main(search))}: the smallest network that is shown to lose less than "
            "what matters to you against the whole one."
        )
    if search.outcome == "worse":
        said = "Use the whole network. The cut that did best on validation data did worse than it on the test part, by "
        if _by_seeds(search):
            return f"{said}more than luck explains."
        return f"{said}more than luck in the patients explains; what another training would give, one does not say."
    if search.outcome == "whole":
        return f"Use the whole network: it did best on validation data too. {_tested_cuts(search)}"
    if search.outcome == "guess":
        return f"Don't rely on a cut yet: {_why(search, _main(search))}"
    if search.outcome == "untested":
        return "Start the study again: what is trained is kept."
    return "" if search.outcome == "open" else f"The reason: {search.stopped}."


def _by_seeds(search: Search) -> bool:
    """Whether several trainings of each network are behind the verdict; of one, intervals are over patients alone."""
    return search.verdict is not None and search.verdict.seeds > 1


def _tested_cuts(search: Search) -> str:
    if len(_compared(search)) < 2:
        return "No cut came close enough to it there to be tested."
    return "Of the cuts that were tested none is shown to be as good."


def _why(search: Search, arm: str) -> str:
    """Why nothing is shown of a cut, and what to do."""
    assert search.verdict is not None
    held = search.verdict.held.get(arm)
    if held == RISING:
        return "training was still improving when it stopped. Train longer."
    if held:
        return (
            "neither it nor the whole network is shown to have learned the task. First get one to learn it: train "
            "longer, at other learning rates or on more data, or test on more patients."
        )
    row = search.verdict.of(arm)
    if search.verdict.seeds < 2:
        return "one training says nothing of what the next would give. Train more seeds."
    if not math.isfinite(row.low):
        return "the test part gives no interval. Test on more patients."
    if row.probability >= 0.95:
        return "several cuts were tested, and among so many one like this may be luck. Test on new patients."
    return (
        "the test part leaves open whether it loses less than what matters to you. Test on more patients or train more "
        "seeds."
    )


def _compared(search: Search) -> tuple[str, ...]:
    """The cuts on the test part that the study is about, the smallest first."""
    assert search.verdict is not None
    asked = {search.best, search.smallest, search.verdict.smallest, search.whole}
    return tuple(row.name for row in search.verdict.rows if row.name in asked)


def _sentence(search: Search) -> str:
    if search.verdict is None:
        if search.best is None:
            return "No cut is chosen, so none is compared with the whole network."
        where = cut_at(search, search.best)
        return f"Best on validation data is {search.model} {where}; the comparison on the test part is still to come."
    arm = _main(search)
    whole = search.verdict.of(search.whole)
    metric, unit = phrases.metric_name(search.test_metric), search.verdict.unit
    tested = phrases.counted(search.verdict.patients, f"test {unit}")
    seeds = phrases.counted(search.verdict.seeds, "seed")
    sample = f"{tested}{', patients unknown' if unit == 'image' else ''}, {seeds} each"
    if arm == search.whole:
        value = phrases.number(whole.value)
        return f"The whole {search.model} has test {metric} {value} ({sample}) and {cost_of(search, arm)}."
    return (
        f"{phrases.sentence(cut_at(search, arm))[:-1]}, {search.model} has test {metric} "
        f"{phrases.number(search.verdict.of(arm).value)}; whole, {phrases.number(whole.value)}: "
        f"{difference_of(search, arm)} ({sample}). {probability_of(search, arm)} It has {cost_of(search, arm)}."
    )


def difference_of(search: Search, arm: str) -> str:
    """The difference of a cut to the whole network on the test part, with its interval."""
    assert search.verdict is not None
    row = search.verdict.of(arm)
    noun = "improvement" if phrases.smaller_is_better(search.test_metric) else "difference"
    return f"{noun} {phrases.signed(row.difference)}, {phrases.interval(row.low, row.high)}"


def probability_of(search: Search, arm: str) -> str:
    """How sure it is that a cut is as good, and why that does not count where it does not."""
    assert search.verdict is not None
    row, gap = search.verdict.of(arm), phrases.trimmed(search.margin)
    if math.isnan(row.probability):
        return f"No test says whether it is less than {gap} worse."
    known = f"The probability that it is less than {gap} worse is {share(row.probability)}"
    if held := search.verdict.held.get(arm):
        return f"{known}, which shows nothing: {held}."
    if row.shown or row.probability < 0.95:
        return f"{known}."
    return f"{known}, which is not enough among so many cuts (Holm’s correction)."


def cost_of(search: Search, arm: str) -> str:
    """Parameters and MACs of a cut, of those of the whole network."""
    said = []
    for of, unit, what in ((search.parameters, "parameters", "parameters"), (search.macs_of, "macs", "MACs")):
        own, whole = of[arm], of[search.whole]
        if arm == search.whole:
            said.append(f"{amount(own, unit)} {what}")
        else:
            said.append(f"{amount(own, unit)} of {amount(whole, unit)} {what} ({share_of_work(own / whole)})")
    return phrases.listed(said)


def _other_cuts(search: Search) -> list[str]:
    """A line for each other cut that was chosen on validation data, the whole network left out."""
    if search.verdict is None:
        return []
    return [
        f"{phrases.sentence(cut_at(search, arm))[:-1]}: {difference_of(search, arm)}. {probability_of(search, arm)}"
        for arm in _compared(search)
        if arm not in (search.whole, _main(search))
    ]


def is_no_cut(searches: Sequence[Search]) -> Callable[[str, str], bool]:
    """Whether an arm of a network is none of the cuts that were searched; the whole network is none."""
    cuts = {(one.model, arm) for one in searches for arm in one.cuts if arm != one.whole}
    return lambda model, arm: (model, arm) not in cuts
