"""The smallest network that is not worse than the best one, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transfuse.results import phrases
from transfuse.results.network_sizes import COSTS, RISING, Answer, Name, Sizes

_FEWER, _FEWEST = {"latency": "less latency"}, {"latency": "the least latency"}


def sentences(found: Sizes) -> list[str]:
    """What the answers say: a sentence for the study and for each network, two where parameters and MACs differ."""
    merged: dict[tuple[object, ...], list[Answer]] = {}
    for one in found.answers:
        looked = one.tested if one.alone != one.smallest else one.less > 0
        same = (one.best, one.smallest, one.alone, looked, one.tested > 0)
        merged.setdefault((one.model, *same), []).append(one)
    alone = len({row.name.model for row in found.rows}) == 1
    said = []
    for answers in merged.values():
        model = answers[0].model
        text = _said(answers, found, len(answers) == sum(one.model == model for one in found.answers), alone)
        text = _with_those_left_out(text, answers[0], found, alone)
        said.append(f"Of {model}: {text}" if model else phrases.sentence(text))
    return said


def _said(answers: Sequence[Answer], found: Sizes, every: bool, alone: bool) -> str:
    """Answers that name the same arms; `every` where no cost has another answer, `alone` in a study of one network."""
    first = answers[0]

    def say(name: Name) -> str:
        return name.arm if alone or first.model else f"{name.model} · {name.arm}"

    best = say(first.best)
    fewer = phrases.listed([_FEWER.get(one.cost, f"fewer {COSTS[one.cost]}") for one in answers])
    fewest = phrases.listed([_FEWEST.get(one.cost, f"the fewest {COSTS[one.cost]}") for one in answers])
    less, least = ("smaller", "smallest arm") if every else (f"of {fewer}", f"arm of {fewest}")
    gap = f"{phrases.trimmed(found.margin)} {phrases.metric_name(found.metric)}"
    if not first.less:
        return f"the best arm, {best}, is the {least} too."
    if not first.tested:
        return f"no arm {less} than the best, {best}, could be tested."
    remark = ""
    if first.alone != first.smallest:
        looked = phrases.counted(first.tested, "arm")
        other = say(first.alone)
        remark = f" By its own test alone, not corrected for looking at {looked} (Holm), it would be {other}."
    if first.smallest == first.best:
        return f"no arm {less} than the best, {best}, is shown to be less than {gap} worse.{remark}"
    saved = phrases.listed(
        [f"{costing(one.costs[0], one.cost)} instead of {amount(one.costs[1], one.cost)}" for one in answers]
    )
    return (
        f"the {least} that is shown to be less than {gap} worse than the best, {best}, is {say(first.smallest)} "
        f"(probability {share(first.probability)}): {saved}.{remark}"
    )


def _with_those_left_out(text: str, answer: Answer, found: Sizes, alone: bool) -> str:
    """The answer as one of the arms that it rests on, where others were left out; better ones of these are named."""
    rows = [row for row in found.rows if answer.model in ("", row.name.model)]
    left = [row for row in rows if row.reason and row.name != answer.best]
    (best,) = [row for row in found.rows if row.name == answer.best]
    if not left or best.reason:
        return text
    level = all(row.reason == RISING for row in left)
    sign = -1 if phrases.smaller_is_better(found.metric) else 1
    ahead = [row for row in left if sign * (row.value - best.value) > 0]
    names = phrases.listed([row.name.arm if alone or answer.model else " · ".join(row.name) for row in ahead])
    why = "had not levelled off" if all(row.reason == RISING for row in ahead) else "could not be compared"
    more = f" By the mean {names} {'was' if len(ahead) == 1 else 'were'} better, but {why}." if ahead else ""
    if answer.less and not answer.tested and not level:
        return text + more  # it says so itself
    return f"of the arms that {'had levelled off' if level else 'could be compared'}, {text}{more}"


def costing(value: float, cost: str) -> str:
    """An amount with what it is of.

    >>> [costing(*one).replace(chr(160), " ") for one in ((2_114_341, "parameters"), (12.345, "latency"))]
    ['2.11 M parameters', '12.3 ms an image']
    """
    return f"{amount(value, cost)} {'an image' if cost == 'latency' else COSTS[cost]}"


def amount(value: float, cost: str = "parameters") -> str:
    """A count, or milliseconds, in three digits; no line is broken before its unit.

    >>> [amount(value).split() for value in (385_814_752, 2_114_341, 999_900_000, 950)]
    [['386', 'M'], ['2.11', 'M'], ['1.00', 'G'], ['950']]
    >>> [amount(value, "latency").split() for value in (0.04567, 1.2, 999.7)]
    [['0.0457', 'ms'], ['1.20', 'ms'], ['1000', 'ms']]
    """
    if cost == "latency":
        digits = max(0, 2 - math.floor(math.log10(1.0005 * value))) if value > 0 else 0
        return f"{value:.{digits}f}\N{NO-BREAK SPACE}ms"
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
