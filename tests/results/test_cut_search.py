"""A search for the smallest network in words: what was done, chosen and found on the test part."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transfuse.errors import StoreError
from transfuse.results.cut_search import FILE, HOW, Search, read_search
from transfuse.results.search_verdict import verdict_on
from transfuse.specs.search import STRATEGIES
from transfuse.statistics.arm import Arm, arm_of_scores

CUTS = ("cut@a", "cut@b", "whole")
ENTRY: dict[str, Any] = {
    "model": "net",
    "arm": "cut",
    "strategy": "halving",
    "metric": "auroc",
    "test_metric": "auroc",
    "margin": 0.05,
    "slack": 0.5,
    "seeds": 1,
    "cuts": list(CUTS),
    "whole": "whole",
    "stopped": "",
    "rounds": [
        {
            "round": "rung 1",
            "arm": "cut@a",
            "quantity": "auroc",
            "value": 0.8,
            "low": 0.7,
            "high": 0.9,
            "steps": 10,
            "kept": True,
        },
        {
            "round": "rung 1",
            "arm": "whole",
            "quantity": "auroc",
            "value": None,
            "low": None,
            "high": None,
            "steps": 10,
            "kept": False,
        },
    ],
    "best": "cut@b",
    "smallest": "cut@a",
    "sizes": [
        {"arm": "cut@a", "parameters": 1000, "macs": 10_000},
        {"arm": "cut@b", "parameters": 20_000, "macs": 300_000},
        {"arm": "whole", "parameters": 400_000, "macs": 2_000_000},
    ],
    "macs": 2.0e9,
    "macs_exhaustive": 1.0e10,
}


def search(folder: Path, **changes: Any) -> Search:
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(json.dumps([{**ENTRY, **changes}]), encoding="utf-8")
    (found,) = read_search(folder)
    return found


def arms_of(effects: Mapping[str, float], patients: int = 300) -> dict[tuple[str, str], Arm]:
    target = np.arange(patients) % 2
    shared = np.random.default_rng(0).normal(size=patients)
    arms = {}
    for place, (name, effect) in enumerate(effects.items()):
        own = np.random.default_rng([1, place]).normal(size=(4, patients))
        arms["net", name] = arm_of_scores(target, effect * target + 0.95 * shared + 0.3 * own, range(patients))
    return arms


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = search(tmp_path)
    assert (found.best, found.smallest, found.cuts) == ("cut@b", "cut@a", CUTS)
    assert found.share_of_exhaustive == pytest.approx(0.2)
    assert math.isnan(found.seen[1].value)
    assert not found.seen[1].kept
    assert (found.parameters["cut@a"], found.macs_of["whole"]) == (1000, 2_000_000)
    assert read_search(tmp_path / "other") == []


@pytest.mark.parametrize("content", ["[", "{}", '[{"model": "net"}]'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    if content == "{}":
        assert read_search(tmp_path) == []
        return
    with pytest.raises(StoreError, match=r"search\.json cannot be read .*; start the study again"):
        read_search(tmp_path)


def test_a_search_that_goes_on_says_so(tmp_path: Path) -> None:
    (said,) = search(tmp_path, best=None, smallest=None).sentences()
    assert said.endswith("(successive halving); the search has not ended.")


def test_a_search_that_can_choose_nothing_says_why(tmp_path: Path) -> None:
    (said,) = search(tmp_path, best=None, smallest=None, stopped="the whole network diverged").sentences()
    assert said.endswith("; it chose nothing: the whole network diverged.")


def test_the_test_part_is_told_in_the_metric_of_the_study(tmp_path: Path) -> None:
    found = search(tmp_path, metric="brier")
    found = replace(found, verdict=verdict_on(found, arms_of({"cut@a": 2.0, "cut@b": 2.0, "whole": 2.0})))
    assert found.sentences()[2].startswith("On the test part the whole network has AUROC")


def test_every_strategy_is_told() -> None:
    assert set(HOW) == set(STRATEGIES)


def test_the_smaller_cut_is_named_where_it_is_shown(tmp_path: Path) -> None:
    found = search(tmp_path)
    found = replace(found, verdict=verdict_on(found, arms_of({"cut@a": 2.0, "cut@b": 2.0, "whole": 2.0})))
    first, second, third, last = found.sentences()
    assert "20 % of the multiply-accumulate operations of training every cut" in first
    assert "cut@b (20.0 k parameters, 5 % of the whole network's; 300 k MACs) is best" in second.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "is the smallest that is at most 0.025 below it" in second
    assert third.startswith("On the test part the whole network has AUROC ")
    assert "cut@a 0." in third
    assert "cut@b 0." in third
    assert last == "So cut@a is shown to be less than 0.05 worse than the whole network."
    assert (found.to_use, found.is_shown) == ("cut@a", True)


def test_a_worse_cut_is_not_named(tmp_path: Path) -> None:
    found = search(tmp_path)
    found = replace(found, verdict=verdict_on(found, arms_of({"cut@a": 0.5, "cut@b": 2.0, "whole": 2.0})))
    assert found.verdict is not None
    assert found.verdict.smallest == found.to_use == "cut@b"
    assert "cut@a 0." in found.sentences()[2]
    assert found.sentences()[-1].startswith("So cut@b is shown to be less than 0.05 worse")


def test_where_nothing_is_shown_the_best_cut_is_a_guess(tmp_path: Path) -> None:
    found = search(tmp_path)
    found = replace(found, verdict=verdict_on(found, arms_of({"cut@a": 0.5, "cut@b": 2.0, "whole": 2.0}, patients=40)))
    assert found.verdict is not None
    assert (found.verdict.smallest, found.to_use, found.is_shown) == ("whole", "cut@b", False)
    assert found.outcome == "guess"
    assert found.sentences()[-1].startswith(
        "So no cut is shown to be less than 0.05 worse than the whole network: cut@b"
    )


def test_a_cut_that_is_significantly_worse_is_no_guess(tmp_path: Path) -> None:
    found = search(tmp_path)
    arms = arms_of({"cut@a": 0.5, "cut@b": 0.5, "whole": 2.0})
    found = replace(found, verdict=verdict_on(found, arms))
    assert (found.outcome, found.to_use, found.is_shown) == ("worse", "whole", True)
    assert found.sentences()[-1] == "So cut@b is worse than the whole network, which is the one to use."
    still = replace(found, verdict=verdict_on(found, arms, rising={("net", "cut@b")}))
    assert (still.outcome, still.to_use) == ("guess", "cut@b")


@pytest.mark.parametrize("rising", ["cut@a", "whole"])
def test_nothing_is_shown_of_a_training_that_had_not_levelled_off(tmp_path: Path, rising: str) -> None:
    found = search(tmp_path)
    arms = arms_of({"cut@a": 2.0, "cut@b": 2.0, "whole": 2.0})
    verdict = verdict_on(found, arms, rising={("net", rising), ("other", "cut@b")})
    assert verdict is not None
    assert verdict.smallest == ("cut@b" if rising == "cut@a" else "whole")
    assert set(verdict.held) == ({"cut@a"} if rising == "cut@a" else {"cut@a", "cut@b"})
    told = replace(found, verdict=verdict).sentences()
    assert rising == "cut@a" or told[-1].endswith("cut@b is the best guess (training had not levelled off).")


def test_two_networks_that_learned_nothing_are_not_as_good_as_each_other(tmp_path: Path) -> None:
    found = search(tmp_path)
    arms = arms_of({"cut@a": 2.0, "cut@b": 2.0, "whole": 2.0})
    low = {("net", "cut@a"), ("net", "whole")}
    verdict = verdict_on(found, arms, at_chance=low)
    assert verdict is not None
    assert (verdict.smallest, set(verdict.held)) == ("cut@b", {"cut@a"})
    alone = verdict_on(found, arms, at_chance={("net", "cut@a")})
    assert alone is not None
    assert (alone.smallest, alone.held) == ("cut@a", {})


def rounds(*values: tuple[str, str, float, float, float]) -> list[dict[str, Any]]:
    names = ("round", "arm", "value", "low", "high")
    return [{**dict(zip(names, one, strict=True)), "quantity": "auroc", "steps": 5, "kept": True} for one in values]


def test_what_the_search_could_not_tell_is_said(tmp_path: Path) -> None:
    first = [("one", "cut@a", 0.80, 0.7, 0.9), ("one", "cut@b", 0.85, 0.78, 0.9), ("one", "whole", 0.7, 0.6, 0.8)]
    found = search(tmp_path, rounds=rounds(*first, ("two", "cut@b", 0.99, 0.98, 1.0)))
    assert (found.alike, found.is_told) == ((1, 2), True)
    assert "1 of the other 2 lies within the 95 % interval of the best one" in found.how_chosen()[-1]
    blind = search(tmp_path, rounds=rounds(*first[:2], ("one", "whole", 0.79, 0.6, 0.8)))
    assert (blind.alike, blind.is_told) == ((2, 2), False)
    assert "hardly tell the cuts apart: all others lie within" in blind.how_chosen()[-1]
    less = search(tmp_path, metric="brier", rounds=rounds(*first))  # less is better: whole is the best
    assert less.alike == (1, 2)
    sharp = search(tmp_path, rounds=rounds(first[0], ("one", "cut@b", 0.95, 0.9, 1.0)))
    assert (sharp.alike, sharp.is_told) == ((0, 1), True)
    assert len(sharp.how_chosen()) == 2


def test_differences_are_to_the_whole_network_with_its_sign(tmp_path: Path) -> None:
    found = search(tmp_path)
    verdict = verdict_on(found, arms_of({"cut@a": 1.0, "cut@b": 3.0, "whole": 2.0}))
    assert verdict is not None
    rows = {row.name: row for row in verdict.rows}
    assert rows["cut@a"].difference < 0 < rows["cut@b"].difference
    assert rows["cut@b"].difference == pytest.approx(rows["cut@b"].value - rows["whole"].value)


def test_one_cut_is_said_once(tmp_path: Path) -> None:
    found = search(tmp_path, best="cut@a", smallest="cut@a")
    found = replace(found, verdict=verdict_on(found, arms_of({"cut@a": 2.0, "whole": 2.0})))
    assert len(found.sentences()) == 4
    assert "It chose cut@a" in found.sentences()[1]


def test_a_smaller_cut_than_the_chosen_one_is_named_too(tmp_path: Path) -> None:
    found = search(tmp_path, strategy="exhaustive", best="whole", smallest="whole")
    found = replace(found, verdict=verdict_on(found, arms_of({"cut@a": 2.0, "cut@b": 2.0, "whole": 2.0})))
    assert found.sentences()[-1].startswith("So cut@a is shown to be less than 0.05 worse")


def test_of_an_exhaustive_search_the_smallest_of_all_cuts_is_named(tmp_path: Path) -> None:
    found = search(tmp_path, strategy="exhaustive", best="whole", smallest="cut@b")
    found = replace(found, verdict=verdict_on(found, arms_of({"cut@a": 2.0, "cut@b": 2.0, "whole": 2.0})))
    assert found.verdict is not None
    assert found.verdict.smallest == "cut@a"
    assert found.sentences()[-1].startswith("So cut@a is shown to be less than 0.05 worse")


def test_without_the_chosen_runs_there_is_no_verdict(tmp_path: Path) -> None:
    found = search(tmp_path)
    assert verdict_on(found, arms_of({"cut@b": 2.0, "whole": 2.0})) is None
    assert verdict_on(search(tmp_path, best=None), arms_of({"cut@b": 2.0})) is None
