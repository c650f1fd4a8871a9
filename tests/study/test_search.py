"""Which cuts a search trains and chooses, from runs that are on disk with known validation values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from transfuse.errors import SpecError
from transfuse.results.store import RunRecord, Store, write_table
from transfuse.specs import DataSpec, InitSpec, ModelSpec, SearchSpec, StudySpec, TrainSpec, study_from, to_yaml
from transfuse.specs.yaml_text import read_yaml
from transfuse.study.cuts import Cuts
from transfuse.study.expand import Planner, expand
from transfuse.study.lengths import Lengths
from transfuse.study.search import Choice, choices, cuts_of, searched, with_analysis
from transfuse.study.strategies import chosen, rungs
from transfuse.study.sweeps import BlockName, Unfolded, unfold

STAGES = {"stem": 1, "a.0": None, "a.1": 2, "b.0": None, "b.1": 3, "c.0": None, "c.1": 4}
"""Seven cuts in four stages."""
CUTS = tuple(f"cut@{name}" for name in STAGES)


def names(model: ModelSpec, level: str) -> tuple[BlockName, ...]:
    return tuple(BlockName(name, cut=True, stage=stage) for name, stage in STAGES.items())


def study(**search: object) -> StudySpec:
    return StudySpec(
        name="s",
        data=DataSpec(name="d"),
        models={"net": ModelSpec(name="resnet20", weights="w.safetensors")},
        arms={"random": InitSpec(), "cut": InitSpec(depth="all", level="block", truncate="every")},
        search=SearchSpec(arm="cut", **search),  # type: ignore[arg-type]
        margin=0.1,
        seeds=3,
        train=TrainSpec(steps=90, validate_every=10),
    )


def planner_of(unfolded: Unfolded) -> Planner:
    return Planner(unfolded, lambda data: "f" * 64, lambda name, root: "0" * 64, lambda model, data: None)


def look(asked: StudySpec, store: Store | None) -> Choice:
    unfolded = with_analysis(unfold(asked, names))
    return choices(unfolded, planner_of(unfolded), store, length, in_order)["net"]


def length(label: str, arm: str) -> Lengths:
    return Lengths(90, 10.0)


def in_order(label: str, arm: str) -> int:
    """Parameters that grow from block to block."""
    return CUTS.index(arm)


def finish(store: Store, found: Choice, values: Mapping[str, float], *, diverged: tuple[str, ...] = ()) -> None:
    """End every run that is asked for with scores of about this AUROC on 200 validation patients."""
    target = np.arange(200) % 2
    for run in found.searched:
        if store.record(run.run_id) is not None:
            continue
        folder = store.run_folder(run.run_id)
        folder.mkdir(parents=True)
        block = run.arm.partition("@")[2]
        if run.arm in diverged:
            store.finish(RunRecord(run.run_id, "diverged", facts={"epochs": 1.0}), [])
            continue
        noise = np.random.default_rng([run.spec.seed, *block.encode()]).normal(size=200)
        table = pd.DataFrame(
            {
                "part": "val",
                "sample_id": [f"s{number}" for number in range(200)],
                "patient_id": [f"p{number}" for number in range(200)],
                "target": [np.array([float(one)]) for one in target],
                "scores": [np.array([1 - one, one]) for one in _ranked(target, values[run.arm], noise)],
            }
        )
        write_table(folder / "predictions.parquet", table)
        store.finish(RunRecord(run.run_id, "finished", facts={"epochs": 1.0}), ["predictions.parquet"])


def _ranked(target: np.ndarray, auroc: float, noise: np.ndarray) -> np.ndarray:
    from scipy.stats import norm

    score = noise + target * math.sqrt(2) * norm.ppf(auroc)
    return 1 / (1 + np.exp(-score))


def values_of(*auroc: float) -> dict[str, float]:
    return dict(zip(CUTS, auroc, strict=True))


PEAK = values_of(0.55, 0.60, 0.70, 0.93, 0.95, 0.90, 0.80)


def test_every_cut_is_an_arm_without_a_search_and_none_with_one_that_begins() -> None:
    unfolded = unfold(study(), names)
    assert cuts_of(unfolded, "net") == CUTS
    found = look(study(), None)
    asked = searched({"net": found}, unfolded)["net"]
    assert asked.finals == ()
    runs = expand(
        unfolded,
        lambda data: "f",
        lambda name, root: "0",
        lambda model, data: None,
        None,
        lambda planner: {"net": asked},
    )
    arms = {(run.role, run.arm) for run in runs}
    assert arms == {("arm", "random"), *(("search", arm) for arm in CUTS)}
    assert len([run for run in runs if run.role == "arm"]) == 3


def test_the_whole_network_goes_by_the_name_of_an_arm_that_is_the_same() -> None:
    asked = study()
    cut = asked.arms["cut"]
    asked = replace(asked, arms={**asked.arms, "whole": replace(cut, truncate="all")}, baseline="whole")
    unfolded = unfold(asked, names)
    assert cuts_of(unfolded, "net") == (*CUTS[:-1], "whole")
    found = choices(unfolded, planner_of(unfolded), None, length, in_order)
    ones = searched(found, unfolded)["net"]
    assert (ones.cuts, ones.finals, found["net"].whole) == (CUTS, (), "whole")


def test_halving_trains_all_a_little_and_the_better_ones_longer(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="halving")
    first = look(asked, store)
    assert [(run.arm, run.spec.train.steps, run.continues) for run in first.searched] == [
        (arm, 10, None) for arm in CUTS
    ]
    finish(store, first, PEAK)
    second = look(asked, store)
    more = second.searched[len(first.searched) :]
    assert [(run.arm, run.spec.train.steps) for run in more] == [("cut@b.0", 30), ("cut@b.1", 30), ("cut@c.0", 30)]
    shorter = {run.arm: run.run_id for run in first.searched}
    assert [run.continues for run in more] == [shorter[run.arm] for run in more]
    assert second.best is None
    assert second.finals == ()
    finish(store, second, PEAK)
    third = look(asked, store)
    last = third.searched[len(second.searched) :]
    assert [(run.arm, run.spec.train.steps, run.continues) for run in last] == [
        ("cut@b.0", 90, more[0].run_id),  # the smallest that is close to the best
        ("cut@b.1", 90, more[1].run_id),
    ]
    finish(store, third, PEAK)
    end = look(asked, store)
    assert (end.best, end.smallest, end.finals) == ("cut@b.1", "cut@b.0", ("cut@b.0", "cut@b.1", "cut@c.1"))
    kept = {
        number: [row["arm"] for row in end.rounds if row["kept"] and row["round"] == f"rung {number}"]
        for number in (1, 2, 3)
    }
    assert kept == {1: ["cut@b.0", "cut@b.1", "cut@c.0"], 2: ["cut@b.0", "cut@b.1"], 3: ["cut@b.0", "cut@b.1"]}
    assert look(asked, store) == end


def test_the_last_rung_is_the_training_of_the_arm_itself(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="halving")
    for _ in range(3):
        finish(store, look(asked, store), PEAK)
    unfolded = unfold(asked, names)
    own = planner_of(unfolded).of_arm("net", "cut@b.1", 0)
    assert own.run_id == look(asked, store).searched[-1].run_id


def test_the_arm_of_a_chosen_cut_goes_on_from_its_longest_training(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="halving")
    for _ in range(3):
        finish(store, look(asked, store), PEAK)
    unfolded = unfold(asked, names)
    runs = expand(
        unfolded,
        lambda data: "f" * 64,
        lambda name, root: "0" * 64,
        lambda model, data: None,
        None,
        lambda planner: searched(choices(unfolded, planner, store, length, in_order), unfolded),
    )
    short = {run.arm: run.run_id for run in runs if run.role == "search" and run.spec.train.steps == 10}
    of_whole = [run for run in runs if run.role == "arm" and run.arm == "cut@c.1"]
    assert [run.continues for run in of_whole] == [short["cut@c.1"], None, None]


def test_without_pooling_the_smallest_network_is_the_one_of_the_fewest_parameters(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="exhaustive")
    asked = replace(asked, arms={**asked.arms, "cut": replace(asked.arms["cut"], pool="none")})
    unfolded = unfold(asked, names)

    def seen() -> Choice:
        planner = planner_of(unfolded)
        return choices(unfolded, planner, store, length, lambda label, arm: -CUTS.index(arm))["net"]

    finish(store, seen(), PEAK)
    end = seen()
    assert (end.cuts, end.whole) == (CUTS[::-1], "cut@c.1")
    assert end.cuts.index(str(end.smallest)) <= end.cuts.index(str(end.best))
    assert end.smallest == "cut@c.0"


def test_a_search_whose_whole_network_diverged_says_so(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="overlap")
    unfolded = with_analysis(unfold(asked, names))
    run = planner_of(unfolded).of_arm("net", "cut@c.1", 0)
    store.run_folder(run.run_id).mkdir(parents=True)
    store.finish(RunRecord(run.run_id, "diverged", "the loss is nan"), [])
    assert look(asked, store).stopped == "the training of the whole network (cut@c.1) diverged: the loss is nan"


def test_a_cut_that_is_significantly_worse_goes_no_further_though_there_is_room(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="halving", keep=0.9)
    values = values_of(0.55, 0.55, 0.55, 0.55, 0.55, 0.94, 0.95)
    finish(store, look(asked, store), values)
    second = look(asked, store)  # after the shortest trainings nothing is told by significance
    assert [run.arm for run in second.searched[7:]] == list(CUTS)
    finish(store, second, values)
    third = look(asked, store)
    assert [run.arm for run in third.searched[14:]] == ["cut@c.0", "cut@c.1"]


def test_cuts_that_diverge_are_left(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="exhaustive")
    found = look(asked, store)
    assert {run.spec.seed for run in found.searched} == {0, 1, 2}
    finish(store, found, PEAK, diverged=("cut@b.1", "cut@b.0"))
    end = look(asked, store)
    assert end.best == "cut@c.0"
    assert math.isnan(next(row["value"] for row in end.rounds if row["arm"] == "cut@b.1"))


def test_if_every_cut_diverges_the_whole_network_is_left(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="halving")
    finish(store, look(asked, store), PEAK, diverged=CUTS)
    end = look(asked, store)
    assert (end.best, end.smallest) == ("cut@c.1", "cut@c.1")


def test_two_stages_look_at_the_ends_of_stages_and_inside_of_the_best(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="two_stage", slack=0.0)
    first = look(asked, store)
    assert [run.arm for run in first.searched] == ["cut@stem", "cut@a.1", "cut@b.1", "cut@c.1"]
    values = values_of(0.55, 0.60, 0.70, 0.97, 0.92, 0.90, 0.80)
    finish(store, first, values)
    second = look(asked, store)
    assert [run.arm for run in second.searched[4:]] == ["cut@b.0"]
    finish(store, second, values)
    assert look(asked, store).best == "cut@b.0"


def test_the_first_stage_has_nothing_inside(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="two_stage")
    values = values_of(0.95, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6)
    finish(store, look(asked, store), values)
    end = look(asked, store)
    assert (end.best, len(end.searched)) == ("cut@stem", 4)


def test_the_smaller_cut_may_lose_a_share_of_the_margin(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), study(strategy="exhaustive", slack=0.5)
    finish(store, look(asked, store), PEAK)
    end = look(asked, store)
    seen = {row["arm"]: row["value"] for row in end.rounds}
    assert end.best == max(seen, key=lambda arm: seen[arm])
    assert end.smallest == next(arm for arm in CUTS if seen[arm] >= seen[end.best] - 0.05)
    assert end.smallest == "cut@b.0"


@pytest.mark.parametrize(
    ("metric", "best", "smallest"), [("auroc", "cut@b.1", "cut@b.0"), ("brier", "cut@a.0", "cut@a.0")]
)
def test_the_choice_follows_the_direction_of_the_metric(metric: str, best: str, smallest: str) -> None:
    unfolded = unfold(study(metric=metric), names)
    cuts = Cuts(
        spec=study(metric=metric).search or SearchSpec(arm="cut"),
        label="net",
        arms=CUTS,
        whole=CUTS[-1],
        blocks=dict(zip(STAGES, CUTS, strict=True)),
        stages=dict(zip(CUTS, STAGES.values(), strict=True)),
        seeds=(0,),
        margin=0.1,
        metric=metric,
        lengths=Lengths(90, 10.0),
        planner=planner_of(unfolded),
        store=None,
        measured_of=lambda label: None,
    )
    values = values_of(0.7, 0.2, 0.6, 0.91, 0.95, 0.9, math.nan)
    assert chosen(cuts, values) == (best, smallest)


@pytest.mark.parametrize(
    ("lengths", "count", "keep", "expected"),
    [
        (Lengths(900, 50.0), 3, 1 / 3, [100, 300, None]),
        (Lengths(900, 50.0), 2, 1 / 2, [450, None]),
        (Lengths(100, 33.4), 3, 1 / 3, [33, None]),
        (Lengths(30, 100.0), 3, 1 / 3, [None]),
        (Lengths(12, 2.5), 4, 0.5, [2, 5, None]),
    ],
)
def test_rungs_end_at_validations(lengths: Lengths, count: int, keep: float, expected: list[int | None]) -> None:
    assert rungs(lengths, count, keep) == expected
    for steps in expected[:-1]:
        assert steps is not None
        assert round(round(steps / lengths.period) * lengths.period) == steps


@pytest.mark.parametrize(
    ("strategy", "what"), [("rank", "cut_ranking"), ("screen", "cut_screen"), ("overlap", "cut_overlap")]
)
def test_a_search_by_an_analysis_asks_for_it_once_of_the_whole_network(strategy: str, what: str) -> None:
    unfolded = with_analysis(unfold(study(strategy=strategy), names))
    (own,) = unfolded.study.analyses
    assert (own.what, own.arms, own.seeds, own.level) == (what, ("cut@c.1",), (0,), "block")
    assert with_analysis(unfolded) == unfolded
    found = choices(unfolded, planner_of(unfolded), None, length, in_order)["net"]
    assert (found.searched, found.best, found.finals) == ((), None, ("cut@c.1",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arm": "cot"}, "search.arm: 'cot' is not an arm; did you mean 'cut'"),
        ({"arm": "random"}, "search.arm: 'random' is not cut at every block as 'cut' does"),
        ({"arm": "cut", "seeds": 4}, "search.seeds: 4 of the study's seeds, which are 3"),
        ({"arm": "cut", "seeds": 0}, "seeds is 0; expected 1 or more of the study's seeds"),
        ({"arm": "cut", "slack": 1.5}, r"slack is 1.5; expected a share of the margin in \[0, 1\]"),
        ({"arm": "cut", "rungs": 1}, "rungs is 1; expected 2 or more lengths of training"),
        ({"arm": "cut", "keep": 1.0}, r"keep is 1.0; expected a share in \(0, 1\)"),
        (
            {"arm": "cut", "strategy": "two_stage", "keep": 0.5},
            "keep does not go with two_stage; it is a setting of halving",
        ),
        (
            {"arm": "cut", "strategy": "rank", "seeds": 2},
            "seeds does not go with rank; it is a setting of two_stage and h",
        ),
        ({"arm": "cut", "strategy": "overlap", "slack": 0.1}, "slack does not go with overlap"),
        ({"arm": "cut", "length": 0.5}, "length does not go with halving; it is a setting of screen"),
        ({"arm": "cut", "strategy": "screen", "length": 2.0}, r"length is 2.0; expected a share of the study's steps"),
        ({"arm": "cut", "score": "knn"}, "score does not go with halving; it is a setting of rank"),
        ({"arm": "cut", "strategy": "rank", "images": 5}, "images is 5; expected 20 or more"),
        ({"arm": "cut", "strategy": "halvng"}, "did you mean 'halving'"),
        ({"strategy": "halving"}, "arm"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, object], message: str) -> None:
    content = read_yaml(to_yaml(study()))
    with pytest.raises(SpecError, match=message):
        study_from({**content, "search": settings})


def test_an_arm_that_is_not_swept_names_the_cure() -> None:
    content = read_yaml(to_yaml(replace(study(), search=None)))
    arms = {**content["arms"], "cut": {"depth": "all"}}
    with pytest.raises(SpecError, match=r"search.arm: 'cut' is not cut at every block; give arms.cut.truncate: every"):
        study_from({**content, "arms": arms, "search": {"arm": "cut"}})


def test_a_search_and_a_curve_over_patients_do_not_go_together() -> None:
    content = read_yaml(to_yaml(study()))
    with pytest.raises(
        SpecError, match="search and train_fractions: a curve over the number of patients is of networks"
    ):
        study_from({**content, "train_fractions": [0.25, 0.5, 1.0]})


def test_a_search_and_tuning_do_not_go_together() -> None:
    content = read_yaml(to_yaml(study()))
    with pytest.raises(
        SpecError, match=r"every cut would be trained at every rate first; give arms\.cut\.learning_rate"
    ):
        study_from({**content, "tune": {"learning_rates": [1e-4, 1e-3]}})


def test_a_network_without_cuts_at_the_level_is_named() -> None:
    unfolded = unfold(study(), lambda model, level: (BlockName("stem", cut=True), BlockName("a", cut=False)))
    with pytest.raises(SpecError, match="the network net has 1 cuts at level 'block', and a search takes 2 or more"):
        choices(unfolded, planner_of(unfolded), None, length, in_order)


def test_the_study_file_of_a_page_has_the_same_search() -> None:
    unfolded = with_analysis(unfold(study(strategy="screen"), names))
    again = with_analysis(unfold(study_from(read_yaml(to_yaml(unfolded.study))), names))
    assert again.study == unfolded.study
    assert cuts_of(again, "net") == CUTS
    first = choices(unfolded, planner_of(unfolded), None, length, in_order)
    assert choices(again, planner_of(again), None, length, in_order) == first


def test_a_study_that_searches_is_read_as_it_was_written() -> None:
    unfolded = with_analysis(unfold(study(strategy="screen"), names))
    for one in (study(strategy="halving", keep=0.25), unfolded.study):
        assert study_from(read_yaml(to_yaml(one))) == one
