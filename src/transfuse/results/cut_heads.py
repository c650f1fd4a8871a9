"""Where a network may be cut, and with which head: the test metrics and the parameters of every cut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from transfuse.results.arms import ArmComparison, arm_runs
from transfuse.results.causes import Settings, apart

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Estimate

HEADS = {"average": "pooled", "none": "unpooled"}
"""What the head of a cut network sees, as `pool` says it, and what it is called."""


class Cut(NamedTuple):
    """A network that is cut after one block.

    Attributes:
        block: the last one that is kept.
        arm: its name.
        estimates: test metric -> its value; without those that it has none of.
        parameters: of the cut network with its head; None where no run has finished.
    """

    block: str
    arm: str
    estimates: Mapping[str, Estimate]
    parameters: int | None


@dataclass(frozen=True)
class CutSweep:
    """The cuts of one network with one head, from the image on.

    Args:
        sweep: name of the arm that said `truncate: every`.
        pool: `average` or `none`.
        cuts: one a block.
    """

    sweep: str
    pool: str
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class Cuts:
    """One network cut at one block after the other, with one head or both; the arms differ in nothing else.

    Args:
        model: the network.
        sweeps: one a head, the pooled one first.
        metrics: the test metrics, the study's first.
        against: block -> the unpooled head against the pooled one, as far as the study compares them.
    """

    model: str
    sweeps: tuple[CutSweep, ...]
    metrics: tuple[str, ...]
    against: Mapping[str, ArmComparison]

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks after which the network is cut, from the image on."""
        return tuple(dict.fromkeys(cut.block for sweep in self.sweeps for cut in sweep.cuts))

    @property
    def name(self) -> str:
        """The network, and the arms that were swept."""
        return f"{self.model}, {' and '.join(sweep.sweep for sweep in self.sweeps)}"


def is_cut_sweep(arm: str, settings: Settings) -> bool:
    """Whether an arm is one of those of `truncate: every`, which are called by the block they are cut after.

    >>> is_cut_sweep("ttl@layer1", {"truncate": "layer1"}), is_cut_sweep("ttl@layer1", {"freeze": "layer1"})
    (True, False)
    """
    _, at, block = arm.partition("@")
    return bool(at) and settings.get("truncate") == block


def cuts_of(
    arms: Mapping[str, Settings],
    estimates: Mapping[str, Mapping[tuple[str, str], Estimate]],
    runs: pd.DataFrame,
    comparisons: Sequence[ArmComparison] = (),
) -> list[Cuts]:
    """The sweeps over the cuts of each network, two that differ in their head alone together.

    Args:
        arms: label -> settings, single arms; those of a sweep from the image on.
        estimates: test metric -> network and arm -> its value; the study's metric first.
        runs: `model, arm, parameters[, role]`.
        comparisons: of the study; those between the two heads at one block are used.

    Returns:
        A sweep of which fewer than two cuts have a result is left out.
    """
    pairs = {(row.model, row.arm, row.baseline): row for row in comparisons}
    sizes: dict[tuple[str, str], int] = {}
    own = arm_runs(runs)
    for row in own.to_dict("records") if "parameters" in own else ():
        if pd.notna(row["parameters"]):
            sizes.setdefault((str(row["model"]), str(row["arm"])), int(row["parameters"]))
    sweeps: dict[str, list[str]] = {}
    for arm, settings in arms.items():
        if is_cut_sweep(arm, settings):
            sweeps.setdefault(arm.partition("@")[0], []).append(arm)
    found = []
    for model in dict.fromkeys(name for of_arms in estimates.values() for name, _ in of_arms):
        there: list[CutSweep] = []
        for sweep, swept in sweeps.items():
            cuts = tuple(
                Cut(arm.partition("@")[2], arm, known, sizes.get((model, arm)))
                for arm in swept
                if (known := {metric: of[model, arm] for metric, of in estimates.items() if (model, arm) in of})
            )
            if len(cuts) > 1:
                there.append(CutSweep(sweep, str(arms[cuts[0].arm].get("pool") or "average"), cuts))
        for group in _by_head(there, arms):
            against = {}
            for cut in group[-1].cuts if len(group) > 1 else ():
                pair = pairs.get((model, cut.arm, f"{group[0].sweep}@{cut.block}"))
                if pair is not None:
                    against[cut.block] = pair
            found.append(Cuts(model, group, tuple(estimates), against))
    return found


def _by_head(sweeps: Sequence[CutSweep], arms: Mapping[str, Settings]) -> list[tuple[CutSweep, ...]]:
    """The sweeps, each pooled one with the first unpooled one that is as it but for the head."""
    left, groups = list(sweeps), []
    while left:
        first = left.pop(0)
        other = next((one for one in left if _but_for_the_head(first, one, arms)), None)
        if other is not None:
            left.remove(other)
        groups.append(tuple(sorted(filter(None, (first, other)), key=lambda one: list(HEADS).index(one.pool))))
    return groups


def _but_for_the_head(one: CutSweep, other: CutSweep, arms: Mapping[str, Settings]) -> bool:
    blocks = {cut.block: cut.arm for cut in other.cuts}
    same = [(cut.arm, blocks[cut.block]) for cut in one.cuts if cut.block in blocks]
    return one.pool != other.pool and bool(same) and all(apart(arms[a], arms[b]) <= {"pool"} for a, b in same)


def best_of(found: Cuts, metric: str, smaller_is_better: bool = False) -> Mapping[str, Cut]:
    """The cut with the best mean of each head, by `pool`; without heads that have none."""
    sign = -1 if smaller_is_better else 1
    best = {}
    for sweep in found.sweeps:
        known = [cut for cut in sweep.cuts if metric in cut.estimates and math.isfinite(cut.estimates[metric].value)]
        if known:
            best[sweep.pool] = max(known, key=lambda cut: sign * cut.estimates[metric].value)
    return best
