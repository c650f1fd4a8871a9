"""The smallest network that is not worse than the best one, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transfuse.results import phrases
from transfuse.results.network_sizes import COSTS, Answer, Name, Sizes


def sentences(found: Sizes) -> list[str]:
    """What the answers say: a sentence for the study and for each network, two where parameters and MACs differ."""
    merged: dict[tuple[object, ...], list[Answer]] = {}
    for one in found.answers:
        same = (one.best, one.smallest, one.together, one.less > 0, one.tested > 0)
        merged.setdefault((one.model, *same), []).append(one)
    alone = len({row.name.model for row in found.rows}) == 1
    said = []
    for answers in merged.values():
        model = answers[0].model
        text = _said(answers, found, len(answers) == sum(one.model == model for one in found.answers), alone)
        said.append(f"Of {model}: {text}" if model else phrases.sentence(text))
    return said


def _said(answers: Sequence[Answer], found: Sizes, every: bool, alone: bool) -> str:
    """Answers that name the same arms; `every` where no cost has another answer, `alone` in a study of one network."""
    first = answers[0]

    def say(name: Name) -> str:
        return name.arm if alone or first.model else f"{name.model} · {name.arm}"

    best = say(first.best)
    name = COSTS[first.cost]
    less, least = ("smaller", "smallest arm") if every else (f"of fewer {name}", f"arm of the fewest {name}")
    gap = f"{phrases.trimmed(found.margin)} {phrases.metric_name(found.metric)}"
    if not first.less:
        return f"the best arm, {best}, is the {least} too."
    if not first.tested:
        return f"no arm {less} than the best, {best}, could be tested."
    if first.smallest == first.best:
        return f"no arm {less} than the best, {best}, is shown to be less than {gap} worse."
    saved = phrases.listed(
        [f"{amount(one.costs[0])} {COSTS[one.cost]} instead of {amount(one.costs[1])}" for one in answers]
    )
    text = (
        f"the {least} that is less than {gap} worse than the best, {best}, is {say(first.smallest)} (probability "
        f"{share(first.probability)}): {saved}."
    )
    if first.together != first.smallest:
        other = "none is shown" if first.together == first.best else f"it is {say(first.together)}"
        text += f" Corrected for looking at {phrases.counted(first.less, 'arm')} (Holm), {other}."
    return text


def amount(value: float) -> str:
    """A count in three digits; no line is broken before its unit.

    >>> [amount(value).split() for value in (385_814_752, 2_114_341, 999_900_000, 950)]
    [['386', 'M'], ['2.11', 'M'], ['1.00', 'G'], ['950']]
    """
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            digits = 2 - int(math.log10(1.0005 * value / size))
            return f"{value / size:.{digits}f}\N{NO-BREAK SPACE}{unit}"
    return f"{value:.0f}"


def share(probability: float) -> str:
    """A probability in percent; never 0 or 100 %, as it is known from draws or from a test.

    >>> share(0.974), share(0.9999), share(0.0), share(float("nan"))
    ('97 %', '> 99 %', '< 1 %', 'unknown')
    """
    if math.isnan(probability):
        return "unknown"
    percent = 100 * probability
    return "> 99 %" if percent > 99 else "< 1 %" if percent < 1 else f"{percent:.0f} %"
