"""What a search for the smallest network found: the cuts it looked at, those that it chose, and the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfuse.errors import StoreError
from transfuse.results import phrases
from transfuse.results.smallest_network import amount, share

if TYPE_CHECKING:
    from transfuse.statistics.arm import Arm
    from transfuse.statistics.smallest import Candidate, Smallest

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
class Verdict:
    """The chosen cuts on the test part, held against the whole network, which was named before that part was seen.

    Args:
        whole: the arm of the whole network.
        smallest: the smallest cut that is shown to be less than the margin worse, with Holm's correction; `whole` where
            none is.
        rows: every cut that was compared, the smallest network first.
    """

    whole: str
    smallest: str
    rows: tuple[Candidate, ...]

    @property
    def of_smallest(self) -> Candidate:
        """The row of the smallest cut: its difference to the whole network and the 95 % interval of that."""
        return next(row for row in self.rows if row.name == self.smallest)


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

    def sentences(self) -> list[str]:
        """What was done, what it chose, and what the test part says of that."""
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
        return said + self._on_the_test_part()

    @property
    def to_use(self) -> str | None:
        """The cut to use: the smallest that is shown to be as good as the whole network, else the best guess."""
        return self.verdict.smallest if self.verdict is not None and self.is_shown else self.best

    @property
    def is_shown(self) -> bool:
        """Whether the cut to use is shown to be less than the margin worse than the whole network, or is that."""
        return self.verdict is not None and (self.verdict.smallest != self.whole or self.best == self.whole)

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
        if self.verdict.smallest != self.whole:
            return [text, f"So {self.verdict.smallest} is shown to be less than {gap} worse than the whole network."]
        if self.best == self.whole:
            return [text]
        guess = f"So no cut is shown to be less than {gap} worse than the whole network: {self.best} is the best guess"
        return [text, f"{guess}, and more test patients or seeds would tell."]

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


def verdict_on(search: Search, tested: Mapping[tuple[str, str], Arm]) -> Verdict | None:
    """The chosen cuts on the test part; None before they are trained.

    Args:
        search: of a network.
        tested: arms on the same test samples, by network and label.
    """
    from transfuse.statistics.smallest import smallest_not_worse

    arms = {arm: tested[search.model, arm] for arm in search.cuts if (search.model, arm) in tested}
    if search.best is None or not {search.best, search.smallest, search.whole} <= set(arms):
        return None
    found: Smallest = smallest_not_worse(
        arms, {arm: float(search.parameters[arm]) for arm in arms}, margin=search.margin, reference=search.whole
    )
    return Verdict(found.reference, found.name, found.rows)
