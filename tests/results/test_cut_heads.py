"""Which arms are the cuts of one network, with which head, and what is known of each."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from transfuse.results.arms import ArmComparison
from transfuse.results.cut_heads import Cuts, best_of, cuts_of
from transfuse.statistics.comparison import Estimate

BLOCKS = ("stem", "layer1", "layer2")


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.05, value + 0.05, 0.95, "patients and seeds", 60)


def sweep(name: str, blocks: tuple[str, ...] = BLOCKS, **settings: Any) -> dict[str, dict[str, Any]]:
    return {f"{name}@{block}": {"depth": "all", "truncate": block, "pool": "average", **settings} for block in blocks}


ARMS: dict[str, dict[str, Any]] = {"ftl": {"depth": "all"}, **sweep("ttl"), **sweep("whole", pool="none")}


def found_of(
    arms: dict[str, dict[str, Any]], without: tuple[str, ...] = (), comparisons: tuple[ArmComparison, ...] = ()
) -> list[Cuts]:
    known = [arm for arm in arms if arm not in without]
    values = {("net", arm): estimate(0.6 + 0.01 * place) for place, arm in enumerate(known)}
    runs = pd.DataFrame(
        [
            {"model": "net", "arm": arm, "role": role, "parameters": 1000 * place + (role == "source")}
            for role in ("source", "arm")
            for place, arm in enumerate(known)
        ]
    )
    of_sweeps = {name: one for name, one in values.items() if "@" in name[1]}
    return cuts_of(arms, {"auroc": values, "auprc": of_sweeps}, runs, comparisons)


def test_two_sweeps_that_differ_in_their_head_alone_belong_together_and_the_pooled_one_comes_first() -> None:
    for arms in (ARMS, dict(reversed(ARMS.items()))):
        (found,) = found_of(arms)
        assert [(one.sweep, one.pool) for one in found.sweeps] == [("ttl", "average"), ("whole", "none")]
        assert set(found.blocks) == set(BLOCKS)
        assert found.name == "net, ttl and whole"
    assert found_of(ARMS)[0].blocks == BLOCKS


def test_a_cut_knows_its_metrics_and_the_parameters_of_its_own_runs() -> None:
    (found,) = found_of(ARMS)
    cut = found.sweeps[1].cuts[0]
    assert (cut.arm, cut.block, cut.parameters) == ("whole@stem", "stem", 4000)  # the arm's, not the source's
    assert found.metrics == ("auroc", "auprc")
    assert {metric: one.value for metric, one in cut.estimates.items()} == {"auroc": 0.64, "auprc": 0.64}


def test_sweeps_that_differ_otherwise_are_apart() -> None:
    arms = {**sweep("low", weights="run:low"), **sweep("high", weights="run:high", pool="none")}
    assert [found.name for found in found_of(arms)] == ["net, low", "net, high"]
    arms = {**sweep("one"), **sweep("two", random="he_fan_out"), **sweep("third", random="he_fan_out", pool="none")}
    assert [found.name for found in found_of(arms)] == ["net, one", "net, two and third"]


def test_no_sweep_over_cuts_is_none() -> None:
    assert found_of({"random": {}, "cut": {"truncate": "layer1"}}) == []
    assert found_of({f"fixed@{block}": {"freeze": block} for block in BLOCKS}) == []
    assert found_of({**sweep("ttl", ("layer1",))}) == []  # one cut is no curve


def test_cuts_without_a_finished_run_are_left_out() -> None:
    (found,) = found_of(ARMS, without=("whole@layer1",))
    assert [cut.block for cut in found.sweeps[1].cuts] == ["stem", "layer2"]
    (found,) = found_of(ARMS, without=("whole@layer1", "whole@stem"))
    assert [one.sweep for one in found.sweeps] == ["ttl"]


def test_the_heads_are_held_against_each_other_where_the_study_does() -> None:
    pair = ArmComparison("net", "whole@layer1", "ttl@layer1", None)  # type: ignore[arg-type]
    other = ArmComparison("net", "whole@layer2", "ttl@layer1", None)  # type: ignore[arg-type]
    (found,) = found_of(ARMS, comparisons=(pair, other))
    assert found.against == {"layer1": pair}


def test_the_best_cut_of_each_head_follows_the_metrics_direction() -> None:
    (found,) = found_of(ARMS)
    assert {pool: cut.block for pool, cut in best_of(found, "auroc").items()} == {"average": "layer2", "none": "layer2"}
    worst = best_of(found, "auroc", smaller_is_better=True)
    assert {pool: cut.block for pool, cut in worst.items()} == {"average": "stem", "none": "stem"}
    nothing = cuts_of(sweep("ttl"), {"auroc": {("net", f"ttl@{block}"): estimate(math.nan) for block in BLOCKS}},
                      pd.DataFrame())  # fmt: skip
    assert best_of(nothing[0], "auroc") == {}
    assert {cut.parameters for cut in nothing[0].sweeps[0].cuts} == {None}
