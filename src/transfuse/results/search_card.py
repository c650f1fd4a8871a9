"""What the card of a network tells of the search that found it."""

from __future__ import annotations

from transfuse.results import phrases
from transfuse.results.cut_search import HOW, Search
from transfuse.results.search_answer import cost_of, cut_at, difference_of, probability_of, within


def search_warning(search: Search) -> list[str]:
    """A line for the top of the card of a network that is not shown to be as good as the whole one."""
    if search.is_shown:
        return []
    return [
        "> **A GUESS.** It is not shown that this network is as good as the whole one: see How it was found.\n",
    ]


def title_of_cut(search: Search) -> str:
    """The cut as part of a title, by the name of its block: `, cut after layer2`; empty for the whole network."""
    arm = str(search.to_use)
    return "" if arm == search.whole else f", {cut_at(search, arm)}"


def search_rows(search: Search, seed: int) -> list[tuple[str, str]]:
    """Rows of (what, in words) for a card.

    Args:
        search: that chose the network.
        seed: of the training that is handed over.
    """
    arm = str(search.to_use)
    chosen = f"{cut_at(search, arm)}; {cost_of(search, arm)}"
    if arm == search.whole:
        chosen += "; no cut is shown to be as good"
    rows = [
        ("question", "the smallest network that is as good as the whole one"),
        ("strategy", f"`{search.strategy}`: {HOW[search.strategy]}"),
        ("looked at", f"{phrases.counted(len(search.cuts), 'cut')}, the whole network among them"),
        ("chosen", chosen),
        ("margin", f"{within(search)}: a smaller loss does not matter (set in the study)"),
    ]
    return [*rows, *_tested(search, arm, seed)]


def _tested(search: Search, arm: str, seed: int) -> list[tuple[str, str]]:
    verdict = search.verdict
    if verdict is None:
        return [("compared with the whole network", "not yet: the trainings of the comparison have not all ended")]
    metric, seeds = phrases.metric_name(search.test_metric), phrases.counted(verdict.seeds, "seed")
    mean = f"test {metric} {phrases.number(verdict.of(arm).value)}, the mean over {seeds}"
    tested = phrases.counted(verdict.patients, f"test {verdict.unit}")
    alone = "the only one" if verdict.seeds == 1 else f"the best of {verdict.seeds} on validation data"
    own = ("this file", f"seed {seed}, {alone}; what this seed alone does stands under Results on the test part")
    if arm == search.whole:
        return [("all seeds", f"{mean} ({tested})"), own]
    whole = phrases.number(verdict.of(search.whole).value)
    shown = "shown" if search.is_shown else "**not shown, the best guess**"
    return [
        ("all seeds", f"{mean}; of the whole network {whole}; {difference_of(search, arm)} ({tested})"),
        ("as good as the whole one", f"{shown}. {probability_of(search, arm)}"),
        own,
    ]
