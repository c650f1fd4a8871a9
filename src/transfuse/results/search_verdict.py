"""The cuts that a search chose, on the test part: which of them are shown to be as good as the whole network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from transfuse.results.network_sizes import RISING

if TYPE_CHECKING:
    from transfuse.results.cut_search import Search
    from transfuse.statistics.arm import Arm
    from transfuse.statistics.smallest import Candidate, Smallest

UNLEARNED = "neither it nor the whole network is shown to be better than chance"


@dataclass(frozen=True)
class Verdict:
    """The chosen cuts on the test part, held against the whole network, which was named before that part was seen.

    Args:
        whole: the arm of the whole network.
        smallest: the smallest cut that is shown to be less than the margin worse, with Holm's correction; `whole` where
            none is.
        rows: every cut that was compared, the smallest network first.
        held: why nothing is shown of an arm, whatever its numbers: it or the whole network had not levelled off, or
            both are at chance.
        patients, seeds: of the test part, and of each arm.
        unit: `patient`, or `image` where each image counts as one for lack of names.
    """

    whole: str
    smallest: str
    rows: tuple[Candidate, ...]
    held: Mapping[str, str] = field(default_factory=dict)
    patients: int = 0
    seeds: int = 0
    unit: str = "patient"

    @property
    def of_smallest(self) -> Candidate:
        """The row of the smallest cut: its difference to the whole network and the 95 % interval of that."""
        return self.of(self.smallest)

    def of(self, arm: str) -> Candidate:
        """The row of an arm."""
        return next(row for row in self.rows if row.name == arm)


def verdict_on(
    search: Search,
    tested: Mapping[tuple[str, str], Arm],
    rising: Collection[tuple[str, str]] = (),
    at_chance: Collection[tuple[str, str]] = (),
) -> Verdict | None:
    """The chosen cuts on the test part; None before they are trained.

    Args:
        search: of a network.
        tested: arms on the same test samples, by network and label.
        rising: arms whose training had not levelled off: nothing is shown of them, nor against them.
        at_chance: arms that are not shown to be better than chance: nothing is shown of two of them.
    """
    from transfuse.statistics.smallest import smallest_not_worse

    arms = {arm: tested[search.model, arm] for arm in search.cuts if (search.model, arm) in tested}
    if search.best is None or not {search.best, search.smallest, search.whole} <= set(arms):
        return None
    found: Smallest = smallest_not_worse(
        arms, {arm: float(search.parameters[arm]) for arm in arms}, margin=search.margin, reference=search.whole
    )
    held = {}
    for arm in arms:
        pair = {(search.model, arm), (search.model, search.whole)}
        if pair & set(rising):
            held[arm] = RISING
        elif pair <= set(at_chance):
            held[arm] = UNLEARNED
    rows = tuple(replace(row, shown=row.shown and row.name not in held) for row in found.rows)
    whole = arms[search.whole]
    return Verdict(
        found.reference,
        replace(found, rows=rows).name,
        rows,
        {arm: why for arm, why in held.items() if arm != search.whole},
        whole.patients,
        min(one.seeds for one in arms.values()),
        "image" if whole.anonymous else "patient",
    )
