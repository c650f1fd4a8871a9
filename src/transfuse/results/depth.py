"""Numbers against the share of a network that starts pretrained (a WT-ST-n/m sweep), and between pairs of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from transfuse.errors import DataError, nearest
from transfuse.statistics.seeds import seed_mean

SWEEP_COLUMNS = ["arm", "block", "n", "m", "fraction", "value", "low", "high", "std", "seeds", "note"]
BEST_COLUMNS = [*SWEEP_COLUMNS[:-1], "best", "note"]
PAIR_COLUMNS = [
    *("block", "arm", "value", "std", "pairs"),
    *("reference", "reference_value", "reference_std", "reference_pairs", "difference"),
]


class SweepArm(NamedTuple):
    """One arm of a depth sweep: the first `n` blocks start pretrained, the other `m` do not."""

    arm: str
    block: str
    n: int
    m: int

    @property
    def fraction(self) -> float:
        """Share of the blocks that start pretrained, in [0, 1]."""
        return self.n / (self.n + self.m)


def sweep_arms(
    arms: Sequence[str], blocks: Sequence[str], prefix: str, *, none: str = "", every: str = ""
) -> list[SweepArm]:
    """The arms of a sweep, from none to all blocks pretrained (M, Tables 2 and 3: WT-ST-n/m).

    Args:
        arms: names of the study's arms; others than the sweep's are passed over.
        blocks: names of all blocks that a sweep may end at, from the image to the head.
        prefix: of the sweep's arms, which are named `prefix@block`.
        none: the arm in which nothing starts pretrained (n = 0), where there is one.
        every: the arm in which all does, where it is not `prefix@` the last block.

    Raises:
        DataError: no arm of the sweep, or one whose block is not in `blocks`.

    >>> found = sweep_arms(["mean_var", "wt_st@conv1", "wt_st@layer1"], ["conv1", "layer1"], "wt_st", none="mean_var")
    >>> [(arm.n, arm.m, arm.fraction) for arm in found]
    [(0, 2, 0.0), (1, 1, 0.5), (2, 0, 1.0)]
    """
    total = len(blocks)
    found = []
    for arm in dict.fromkeys(arms):
        head, at, block = arm.partition("@")
        if head == prefix and at:
            if block not in blocks:
                raise DataError(f"arm {arm!r} ends at block {block!r}, which is not one; {nearest(block, blocks)}")
            n = list(blocks).index(block) + 1
            found.append(SweepArm(arm, block, n, total - n))
        elif arm == none:
            found.append(SweepArm(arm, "", 0, total))
        elif arm == every:
            found.append(SweepArm(arm, blocks[-1], total, 0))
    if not any(arm.arm.startswith(f"{prefix}@") for arm in found):
        raise DataError(f"no arm is named {prefix}@BLOCK; {nearest(f'{prefix}@', arms)}")
    return sorted(found, key=lambda arm: arm.n)


def against_depth(
    values: Mapping[str, Mapping[int, float]], sweep: Sequence[SweepArm], confidence: float = 0.95
) -> pd.DataFrame:
    """A number of each arm of a sweep against the pretrained fraction, with t intervals over seeds.

    Args:
        values: for each arm the number of each seed.
        sweep: what `sweep_arms` gave.
        confidence: of the intervals, in (0, 1).

    Returns:
        `SWEEP_COLUMNS`, one row an arm of the sweep; where no seed has a value, `value` is NaN and `note` says so.

    >>> sweep = sweep_arms(["st@a", "st@b"], ["a", "b"], "st")
    >>> frame = against_depth({"st@a": {0: 0.7, 1: 0.8}, "st@b": {0: 0.9, 1: 0.8}}, sweep)
    >>> frame[["n", "m", "value"]].round(3).values.tolist()
    [[1.0, 1.0, 0.75], [2.0, 0.0, 0.85]]
    """
    rows: list[tuple[object, ...]] = []
    for arm in sweep:
        place = (arm.arm, arm.block, arm.n, arm.m, arm.fraction)
        seeds = values.get(arm.arm) or {}
        if not seeds:
            rows.append((*place, math.nan, -math.inf, math.inf, math.nan, 0, "no finished run"))
            continue
        mean = seed_mean(list(seeds.values()), confidence)
        std = math.nan if mean.std is None else mean.std
        rows.append((*place, mean.value, mean.low, mean.high, std, mean.seeds, mean.reason))
    return pd.DataFrame(rows, columns=SWEEP_COLUMNS)


def best_over_depth(rows: pd.DataFrame, sweep: Sequence[SweepArm], confidence: float = 0.95) -> pd.DataFrame:
    """The best layer-wise k-NN of each run against the pretrained fraction (METHODS AN-18, AN-23; M, Figs. 14 and 15).

    The best block is sought in each run by itself, then averaged over seeds. A maximum over noisy blocks is too high,
    and the more so the more blocks: compare networks with like numbers of blocks.

    Args:
        rows: `arm, seed, block, value`, one row a block of a run (one network, one kind of features).
        sweep: what `sweep_arms` gave.
        confidence: of the intervals, in (0, 1).

    Returns:
        `BEST_COLUMNS`: as `against_depth`, and in `best` the best block of each seed, joined by commas.

    Raises:
        DataError: missing columns, values that are not finite, or two values of one block of a run.
    """
    _need(rows, ("arm", "seed", "block", "value"))
    bad = rows[~np.isfinite(rows["value"].to_numpy(float))]
    if len(bad):
        raise DataError(f"the value of {bad['arm'].iloc[0]!r} at block {bad['block'].iloc[0]!r} is not finite")
    twice = rows[rows.duplicated(["arm", "seed", "block"])]
    if len(twice):
        arm, seed, block = twice[["arm", "seed", "block"]].iloc[0]
        raise DataError(
            f"arm {arm!r}, seed {seed}, block {block!r} has several values; choose one quantity and one kind of "
            "features"
        )
    ordered = rows.reset_index(drop=True)
    best = ordered.loc[ordered.groupby(["arm", "seed"], sort=False)["value"].idxmax()].sort_values("seed")
    values = {str(arm): dict(zip(of["seed"], of["value"], strict=True)) for arm, of in best.groupby("arm")}
    where = {str(arm): ", ".join(map(str, of["block"])) for arm, of in best.groupby("arm")}
    frame = against_depth(values, sweep, confidence)
    frame["best"] = [where.get(arm, "") for arm in frame["arm"]]
    return frame[BEST_COLUMNS]


def pairs_against(rows: pd.DataFrame, arm: str, reference: str) -> pd.DataFrame:
    """ImNet1-ImNet2, Rand1-Rand2 and their difference, block by block (METHODS AN-5; T, Table 5).

    The similarity of two runs of one arm that differ in their seed only, its mean and standard deviation over the pairs
    of seeds, the same of a reference arm, and the difference. Pairs that share a run are not independent, so there is
    no interval: S seeds give S (S - 1) / 2 pairs, but no more than S trainings.

    Args:
        rows: `block, arm, value`, one row a pair of runs of the same arm.
        arm: usually the pretrained one.
        reference: usually the one of random weights.

    Returns:
        `PAIR_COLUMNS`, blocks in the order in which they first come; a std of one pair is NaN.

    Raises:
        DataError: missing columns, an arm that is not there, values that are not finite, other blocks in the two arms.
    """
    _need(rows, ("block", "arm", "value"))
    for name in (arm, reference):
        if name not in set(rows["arm"]):
            raise DataError(f"no pair of runs of arm {name!r}; {nearest(name, rows['arm'].unique())}")
    own = rows[rows["arm"].isin([arm, reference])]
    if not np.isfinite(own["value"].to_numpy(float)).all():
        raise DataError("a similarity of two runs is not finite; leave the pair out and say so")
    parts = {
        name: {str(block): values.to_numpy(float) for block, values in of.groupby("block", sort=False)["value"]}
        for name in (arm, reference)
        for of in [own[own["arm"] == name]]
    }
    odd = sorted(set(parts[arm]) ^ set(parts[reference]))
    if odd:
        raise DataError(f"block {odd[0]!r} was measured in one of {arm!r} and {reference!r} only")
    out = []
    for block, values in parts[arm].items():
        other = parts[reference][block]
        difference = float(values.mean() - other.mean())
        out.append((block, arm, *_mean_std(values), reference, *_mean_std(other), difference))
    return pd.DataFrame(out, columns=PAIR_COLUMNS)


def _mean_std(values: np.ndarray) -> tuple[float, float, int]:
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan, len(values)


def _need(rows: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in rows]
    if missing:
        raise DataError(
            f"the table has no column {', '.join(missing)}; expected {', '.join(columns)}, found "
            f"{', '.join(map(str, rows.columns)) or 'none'}"
        )
