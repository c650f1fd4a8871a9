"""The strategies of search: which cuts are trained next, and which are chosen, from what is on disk.

A strategy is a plain function of a `Cuts`: it asks for trainings and measurements as if they were there. Where one is
not there yet, the function ends, and is called again from its start once it is: it comes to the same place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transfuse.study.cuts import Cuts, resampled
from transfuse.study.lengths import Lengths

if TYPE_CHECKING:
    import pandas as pd

    from transfuse.statistics.arm import Arm

WORSE = 0.05
"""A cut leaves the race where so small a share of resamples of the validation patients has it close to the best."""


class Chosen(NamedTuple):
    """The cut with the best value, and the smallest that is little worse, by the names of their arms."""

    best: str
    smallest: str


def chosen(cuts: Cuts, values: Mapping[str, float]) -> Chosen:
    """The cut with the best value, of equals the smallest; and the smallest that loses no more than the slack."""
    known = {arm: cuts.sign * values[arm] for arm in cuts.arms if arm in values and not math.isnan(values[arm])}
    if not known:
        return Chosen(cuts.whole, cuts.whole)
    best = max(known, key=lambda arm: known[arm])
    allowed = known[best] - cuts.spec.slack * cuts.margin
    return Chosen(best, next(arm for arm in known if known[arm] >= allowed))


def _exhaustive(cuts: Cuts) -> Chosen:
    found = cuts.train(cuts.arms, "every cut")
    return chosen(cuts, _values(found))


def _two_stage(cuts: Cuts) -> Chosen:
    """METHODS FT-9: the ends of the stages, then every block inside of the best stage."""
    order = list(cuts.stages)
    ends = [arm for arm in order if cuts.stages[arm] is not None]
    coarse = cuts.train(ends, "ends of stages")
    best = chosen(cuts, _values(coarse)).best
    cuts.drop("ends of stages", [arm for arm in ends if arm != best])
    at, before = order.index(best), ends[: ends.index(best)]
    inside = order[order.index(before[-1]) + 1 if before else 0 : at]
    fine = cuts.train(inside, "inside of the best stage") if inside else {}
    return chosen(cuts, {**_values(fine), best: _values(coarse)[best]})


def _halving(cuts: Cuts) -> Chosen:
    """Successive halving (Jamieson and Talwalkar 2016): all a little, the better ones longer; none starts anew."""
    alive: Sequence[str] = cuts.arms
    values: dict[str, float] = {}
    for number, steps in enumerate(rungs(cuts.lengths, cuts.spec.rungs, cuts.spec.keep), 1):
        name = f"rung {number}"
        found = cuts.train(alive, name, steps)
        values = _values(found)
        if steps is None:
            break
        left = survivors(cuts, found, race=number > 1)
        cuts.drop(name, [arm for arm in alive if arm not in left])
        alive = left
    return chosen(cuts, values)


def survivors(cuts: Cuts, found: Mapping[str, Arm | None], *, race: bool) -> list[str]:
    """The cuts that go on: the best ones, at most the share that is kept, and the smallest that is close to the best.

    In a `race`, one that is significantly worse than the best less the slack does not go on. After the shortest
    trainings there is none: chance in the patients is then not what separates the cuts, but how fast each begins.
    """
    ranked = sorted(
        ((arm, one) for arm, one in found.items() if one is not None and math.isfinite(one.value)),
        key=lambda pair: -cuts.sign * pair[1].value,
    )
    most = max(1, math.ceil(cuts.spec.keep * len(found)))
    allowed = cuts.spec.slack * cuts.margin
    if not ranked:
        return []
    best = ranked[0][1]
    level = [arm for arm, one in ranked if not race or one is best or not _worse(one, best, cuts.sign, allowed)]
    close = {arm for arm, one in ranked if cuts.sign * (one.value - best.value) >= -allowed}
    smallest = next(arm for arm in cuts.arms if arm in close)  # what is looked for; it costs the least, too
    return [arm for arm in cuts.arms if arm in (*level[:most], smallest)]


def _worse(arm: Arm, best: Arm, sign: int, allowed: float) -> bool:
    """Whether an arm is worse than the best one by more than is allowed and chance in the patients explains."""
    ahead = sign * (resampled(arm) - resampled(best)) + allowed
    return float(np.mean(ahead[np.isfinite(ahead)] >= 0)) < WORSE


def rungs(lengths: Lengths, count: int, keep: float) -> list[int | None]:
    """The lengths of training of successive halving, ascending; each ends at a validation, the last is the whole.

    >>> rungs(Lengths(900, 50), 3, 1 / 3)
    [100, 300, None]
    >>> rungs(Lengths(10, 5), 4, 0.5)
    [5, None]
    """
    found = []
    for number in range(count - 1, 0, -1):
        periods = max(1, round(lengths.steps * keep**number / lengths.period))
        found.append(round(periods * lengths.period))
    shorter: list[int | None] = [steps for steps in sorted(set(found)) if 0 < steps < lengths.steps]
    return [*shorter, None]


def _rank(cuts: Cuts) -> Chosen:
    """By what the pretrained features of each cut tell of the training images, before any training."""
    quantity = cuts.spec.score
    rows = cuts.measured()
    rows = rows[rows["quantity"] == quantity]
    return _by_rows(cuts, rows, "features before training", by_margin=quantity != "logme")


def _screen(cuts: Cuts) -> Chosen:
    """By the heads of one training that has one at every cut."""
    rows = cuts.measured()
    return _by_rows(cuts, rows[rows["quantity"] == cuts.metric], "one training, a head at every cut", by_margin=True)


def _overlap(cuts: Cuts) -> Chosen:
    """METHODS FT-10: the blocks up to where training leaves the features at the similarity of random ones."""
    rows = cuts.measured()
    for row in rows[rows["quantity"] == "overlap"].to_dict("records"):
        if (arm := cuts.blocks.get(row["block"])) is not None:
            cuts.note("before and after training", arm, "overlap", row["value"], math.nan, math.nan)
    # a block without an arm is the last one: its cut is the whole network
    picked = cuts.blocks.get(str(rows[rows["quantity"] == "chosen"]["block"].iloc[0]), cuts.whole)
    cuts.drop("before and after training", [arm for arm in cuts.arms if arm != picked])
    return Chosen(picked, picked)


def _by_rows(cuts: Cuts, rows: pd.DataFrame, name: str, *, by_margin: bool) -> Chosen:
    values = {}
    for row in rows.to_dict("records"):
        arm = cuts.blocks.get(row["block"])
        if arm is not None:
            values[arm] = float(row["value"])
            low, high = (math.nan if row[end] is None else float(row[end]) for end in ("low", "high"))
            cuts.note(name, arm, str(row["quantity"]), values[arm], low, high)
    if by_margin:
        found = chosen(cuts, values)
    else:  # on no metric's scale: more is better, and no margin can be said
        usable = {arm: values[arm] for arm in cuts.arms if math.isfinite(values.get(arm, math.nan))}
        best = max(usable, key=lambda arm: usable[arm]) if usable else cuts.whole
        found = Chosen(best, best)
    cuts.drop(name, [arm for arm in cuts.arms if arm not in found])
    return found


def _values(found: Mapping[str, Arm | None]) -> dict[str, float]:
    return {arm: math.nan if one is None else one.value for arm, one in found.items()}


STRATEGIES: dict[str, Callable[[Cuts], Chosen]] = {
    "exhaustive": _exhaustive,
    "two_stage": _two_stage,
    "overlap": _overlap,
    "rank": _rank,
    "screen": _screen,
    "halving": _halving,
}
