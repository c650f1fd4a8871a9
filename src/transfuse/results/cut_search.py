"""What a search for the smallest network found: the cuts it looked at, those that it chose, and the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfuse.errors import StoreError
from transfuse.results import phrases
from transfuse.results.search_verdict import Verdict
from transfuse.results.smallest_network import amount, share

FILE = "search.json"

HOW = {
    "exhaustive": "every cut was trained with every seed",
    "two_stage": "the ends of the stages were trained, and then the blocks inside of the best one",
    "overlap": "the whole network was trained, and cut where training had left the features like random ones (SVCCA)",
    "rank": "nothing was trained: the pretrained features of each cut were probed",
    "screen": "one network was trained with a head at every cut",
    "halving": "all cuts were trained a little, and the better ones longer (successive halving)",
}


@dataclass(frozen=True)
class Seen:
    """What was seen of a cut in a round of a search.

    Args:
        round: its name.
        arm: the cut.
        quantity: a metric of the validation part, or a score.
        value: NaN where the training diverged.
        low, high: 95 % interval over patients alone; NaN where there is none.
        steps: of training; None where nothing was trained.
        kept: whether the cut went on to the next round, or was chosen.
    """

    round: str
    arm: str
    quantity: str
    value: float
    low: float = math.nan
    high: float = math.nan
    steps: int | None = None
    kept: bool = True


@dataclass(frozen=True)
class Search:
    """The search over the cuts of one network.

    Args:
        model: the network's label.
        arm: the arm that was cut at every block.
        strategy: how.
        metric: of the validation part.
        test_metric: of the test part, the study's.
        margin: of the study.
        slack: share of it that the smaller cut was allowed to lose on validation data.
        seeds: the search trained with.
        cuts: the arms among which was chosen, the smallest network first.
        whole: the one of them that is the whole network.
        seen: what was seen of them, round by round.
        best: the cut with the best value; None while the search goes on.
        smallest: the smallest that lost no more than was allowed.
        parameters, macs_of: of each cut, once the search has ended.
        macs: multiply-accumulate operations of the search, the training of the chosen cut left out.
        macs_exhaustive: of training every cut with as many seeds, that of the chosen cut left out.
        verdict: on the test part, once the chosen cuts are trained.
        stopped: why it can choose nothing; empty where it can, or may yet.
    """

    model: str
    arm: str
    strategy: str
    metric: str
    test_metric: str
    margin: float
    slack: float
    seeds: int
    cuts: tuple[str, ...]
    whole: str
    seen: tuple[Seen, ...]
    best: str | None = None
    smallest: str | None = None
    parameters: Mapping[str, int] = field(default_factory=dict)
    macs_of: Mapping[str, int] = field(default_factory=dict)
    macs: float = math.nan
    macs_exhaustive: float = math.nan
    verdict: Verdict | None = None
    stopped: str = ""

    @property
    def share_of_exhaustive(self) -> float:
        """The work of the search as a share of an exhaustive one's; NaN while it goes on."""
        return self.macs / self.macs_exhaustive if self.macs_exhaustive else math.nan

    @property
    def outcome(self) -> str:
        """How it ended.

        `open` and `stopped` without a choice, `untested` before the chosen cuts are trained; `shown`: a cut is shown to
        be as good as the whole network; `whole`: that is best on validation data too; `worse`: the cut that was best
        there is significantly worse on the test part; `guess`: the test part leaves that open.
        """
        if self.best is None or self.smallest is None:
            return "stopped" if self.stopped else "open"
        if self.verdict is None:
            return "untested"
        if self.verdict.smallest != self.whole:
            return "shown"
        if self.best == self.whole:
            return "whole"
        return "worse" if self.best not in self.verdict.held and self.verdict.of(self.best).high < 0 else "guess"

    @property
    def to_use(self) -> str | None:
        """The cut to use: the smallest that is shown to be as good as the whole network, or that; else the best guess.

        It is the whole network where the cut that was best on validation data is significantly worse.
        """
        return self.verdict.smallest if self.verdict is not None and self.is_shown else self.best

    @property
    def is_shown(self) -> bool:
        """Whether the cut to use is shown to be less than the margin worse than the whole network, or is that."""
        return self.outcome in ("shown", "whole", "worse")

    @property
    def alike(self) -> tuple[int, int]:
        """How many cuts lie within the 95 % interval of the best one, and of how many others.

        Of the round that saw most cuts; (0, 0) where no interval was seen. The intervals are over patients alone.
        """
        names = [one.round for one in self.seen]
        first = [one for one in self.seen if names and one.round == max(names, key=names.count)]
        known = [one for one in first if math.isfinite(one.value) and math.isfinite(one.low + one.high)]
        if not known:
            return 0, 0
        best = max(known, key=lambda one: self._sign * one.value)
        return sum(best.low <= one.value <= best.high for one in known) - 1, len(known) - 1

    @property
    def is_told(self) -> bool:
        """Whether the search could tell any cut from the best one."""
        inside, others = self.alike
        return inside < others or not others

    @property
    def _sign(self) -> int:
        return -1 if phrases.smaller_is_better(self.metric) else 1

    def sentences(self) -> list[str]:
        """What was done, what it chose, and what the test part says of that."""
        return self.how_chosen() + self._on_the_test_part()

    def how_chosen(self) -> list[str]:
        """What was done, what it chose, and how well it could tell the cuts apart."""
        looked = f"{phrases.counted(len(self.cuts), 'cut')} of {self.model} ({self.arm})"
        how = f"To find the smallest network among {looked}, {HOW[self.strategy]}"
        if self.best is None or self.smallest is None:
            return [f"{how}; {f'it chose nothing: {self.stopped}' if self.stopped else 'the search has not ended'}."]
        cost = ""
        if math.isfinite(self.share_of_exhaustive):
            cost = (
                f", which took {share_of_work(self.share_of_exhaustive)} of the multiply-accumulate operations of "
                "training every cut (the final training left out of both)"
            )
        said = [f"{how}{cost}."]
        name = phrases.metric_name(self.metric)
        if self.best == self.smallest:
            said.append(f"It chose {self.best} ({self._size(self.best)}).")
        else:
            gap = phrases.trimmed(self.slack * self.margin)
            said.append(
                f"By validation {name} {self.best} ({self._size(self.best)}) is best; {self.smallest} "
                f"({self._size(self.smallest)}) is the smallest that is at most {gap} below it."
            )
        inside, others = self.alike
        if others and 2 * inside >= others:
            which = "all others" if inside == others > 1 else f"{inside} of the other {others}"
            which = "the other one" if others == 1 else which
            verb = "lies" if inside == 1 else "lie"
            said.append(
                f"It could hardly tell the cuts apart: {which} {verb} within the 95 % interval of the best one, so on "
                "other patients it might have chosen another."
            )
        return said

    def _on_the_test_part(self) -> list[str]:
        if self.verdict is None:
            return []
        name, gap = phrases.metric_name(self.test_metric), phrases.trimmed(self.margin)
        rows = {row.name: row for row in self.verdict.rows}
        said = [f"On the test part the whole network has {name} {phrases.number(rows[self.whole].value)}"]
        for row in self.verdict.rows:
            if row.name in (self.best, self.smallest, self.verdict.smallest) and row.name != self.whole:
                off = f"{phrases.signed(row.difference)}, {phrases.interval(row.low, row.high)}"
                chance = f"probability that it is less than {gap} worse: {share(row.probability)}"
                said.append(f"{row.name} {phrases.number(row.value)} (difference to it {off}; {chance})")
        text = "; ".join(said) + "."
        if self.outcome == "shown":
            return [text, f"So {self.verdict.smallest} is shown to be less than {gap} worse than the whole network."]
        if self.outcome == "whole":
            return [text]
        if self.outcome == "worse":
            if self.verdict.seeds < 2:
                alone = "in the one training of each; the whole one is the one to use"
                return [text, f"So {self.best} is worse than the whole network {alone}."]
            return [text, f"So {self.best} is worse than the whole network, which is the one to use."]
        guess = f"So no cut is shown to be less than {gap} worse than the whole network: {self.best} is the best guess"
        why = self.verdict.held.get(str(self.best), "")
        return [text, f"{guess}{f' ({why})' if why else ', and more test patients or seeds would tell'}."]

    def _size(self, arm: str) -> str:
        size, whole = self.parameters[arm], self.parameters[self.whole]
        part = f", {share_of_work(size / whole)} of the whole network's" if size < whole else ""
        return f"{amount(size)} parameters{part}; {amount(self.macs_of[arm], 'macs')} MACs"


def share_of_work(value: float) -> str:
    """A share in percent, in two digits or whole.

    >>> share_of_work(0.2874), share_of_work(0.0042), share_of_work(1.0)
    ('29 %', '0.42 %', '100 %')
    """
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"


def read_search(folder: Path) -> list[Search]:
    """The searches of a study, one a network; none where the study does not search.

    Args:
        folder: the study's.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [_search(entry) for entry in content]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); start the study again: finished runs are kept") from None


def _search(entry: Mapping[str, Any]) -> Search:
    same = (
        *("model", "arm", "strategy", "metric", "test_metric", "margin", "slack", "seeds"),
        *("whole", "stopped", "best", "smallest"),
    )
    sizes = entry.get("sizes", [])
    return Search(
        **{name: entry[name] for name in same},
        cuts=tuple(entry["cuts"]),
        seen=tuple(Seen(**_numbers(one)) for one in entry["rounds"]),
        parameters={one["arm"]: one["parameters"] for one in sizes},
        macs_of={one["arm"]: one["macs"] for one in sizes},
        macs=entry.get("macs", math.nan),
        macs_exhaustive=entry.get("macs_exhaustive", math.nan),
    )


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if key in ("value", "low", "high") and value is None else value for key, value in row.items()}
