"""Which networks an analysis looks at, and when two analyses are the same work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from transfuse.specs import StudySpec, study_from
from transfuse.specs.analyses import PAIRS, PICTURES
from transfuse.study.analyses import PlannedAnalysis, Side, plan_analyses
from transfuse.study.expand import PlannedRun, expand
from transfuse.study.sweeps import BlockName, unfold

Networks = set[tuple[str, ...]]
MONITORED = {"steps": 10, "monitor": "loss"}


def study_of(*analyses: Any, **keys: Any) -> StudySpec:
    return study_from(
        {
            "name": "small",
            "data": {"name": "fundus-phantom"},
            "models": {"tiny": {"name": "cbr_tiny", "weights": "run:nat"}},
            "arms": {"random": {}, "mean_var": {"rest": "mean_var"}, "imnet": {"depth": "all"}},
            "sources": {"nat": {"data": {"name": "natural-phantom"}, "train": {"epochs": 1}}},
            "train": {"steps": 10},
            "seeds": 3,
            "analyses": list(analyses),
            **keys,
        }
    )


def planned(*analyses: Any, **keys: Any) -> list[PlannedAnalysis]:
    return of_runs(study_of(*analyses, **keys))[1]


def of_runs(study: StudySpec) -> tuple[list[PlannedRun], list[PlannedAnalysis]]:
    names = tuple(BlockName(name, True) for name in ("layer1", "layer2"))
    unfolded = unfold(study, lambda model, level: names)
    runs = expand(unfolded, lambda data: data.name, lambda name, root: name, lambda model, data: None)
    return runs, plan_analyses(unfolded.study, runs)


def named(jobs: Iterable[PlannedAnalysis]) -> Networks:
    """Each analysis by its networks: `arm:state seed`."""
    found = [tuple(f"{side.name} {side.run.spec.seed}" for side in job.sides) for job in jobs]
    assert len(found) == len(set(found))
    return set(found)


def test_before_after_is_each_network_with_its_own_start() -> None:
    for what in PAIRS:
        assert named(planned(what)) == {
            (f"{arm}:initial {seed}", f"{arm} {seed}") for arm in ("random", "mean_var", "imnet") for seed in range(3)
        }


def test_seeds_are_every_two_of_an_arm() -> None:
    assert named(planned({"what": "cca", "between": "seeds"})) == {
        (f"{arm} {a}", f"{arm} {b}") for arm in ("random", "mean_var", "imnet") for a, b in ((0, 1), (0, 2), (1, 2))
    }


def test_arms_are_every_two_at_one_seed() -> None:
    arms = (("random", "mean_var"), ("random", "imnet"), ("mean_var", "imnet"))
    expected = {(f"{a} {seed}", f"{b} {seed}") for a, b in arms for seed in range(3)}
    assert named(planned({"what": "cca", "between": "arms"})) == expected


def test_all_is_every_two_of_six_networks() -> None:
    """AN-7: {random, mean_var, imnet} x {start, trained}, a map of 6 x 6 for each block."""
    jobs = planned({"what": "cca", "between": "all", "seeds": [0], "pairs": "same"})
    networks = {name for pair in named(jobs) for name in pair}
    assert networks == {f"{arm}{state} 0" for arm in ("random", "mean_var", "imnet") for state in (":initial", "")}
    assert len(jobs) == 6 * 5 // 2
    assert len({frozenset(pair) for pair in named(jobs)}) == 15
    assert len(planned({"what": "cca", "between": "all"})) == 3 * 15  # never over seeds


def test_named_pairs_are_taken_at_one_seed() -> None:
    """AN-4: two random starts are the level that one random and one pretrained network are read against."""
    jobs = planned({"what": "cca", "between": [["random", "random"], ["random", "imnet"]], "level": "stage"})
    assert named(jobs) == {
        *((f"random {a}", f"random {b}") for a, b in ((0, 1), (0, 2), (1, 2))),
        *((f"random {seed}", f"imnet {seed}") for seed in range(3)),
    }


def test_an_arm_with_itself_is_its_seeds_in_the_same_state() -> None:
    """AN-6: two networks at their start, and the same two trained."""
    jobs = planned({"what": "cca", "between": [["random:initial", "random:initial"], ["random:trained", "random"]]})
    seeds = ((0, 1), (0, 2), (1, 2))
    assert named(jobs) == {
        *((f"random:initial {a}", f"random:initial {b}") for a, b in seeds),
        *((f"random {a}", f"random {b}") for a, b in seeds),
    }


def test_an_arm_with_its_own_start_is_each_seed_with_itself() -> None:
    jobs = planned({"what": "cca", "between": [["imnet:initial", "imnet"]], "seeds": [0, 2]})
    assert named(jobs) == {("imnet:initial 0", "imnet 0"), ("imnet:initial 2", "imnet 2")}


def test_starts_of_two_arms() -> None:
    jobs = planned({"what": "cca", "between": [["imnet:initial", "random:initial"]], "seeds": [1]})
    assert named(jobs) == {("imnet:initial 1", "random:initial 1")}


@pytest.mark.parametrize("what", ["knn", "gradcam", "maximise"])
def test_what_looks_at_one_network_looks_at_the_trained_one(what: str) -> None:
    jobs = planned({"what": what, "seeds": [1, 2], "arms": ["random", "imnet"]})
    assert named(jobs) == {(f"{arm} {seed}",) for arm in ("random", "imnet") for seed in (1, 2)}


def test_fid_measures_in_the_features_that_training_starts_from() -> None:
    runs, jobs = of_runs(study_of({"what": "fid", "source": "nat", "arms": ["imnet"], "seeds": [0]}))
    assert named(jobs) == {("imnet:initial 0",)}
    (source,) = [run for run in runs if run.role == "source"]
    assert jobs[0].other_data == source.spec
    assert jobs[0].identity()["other_data"] == source.spec.identity()["data"]


def test_fid_knows_the_source_of_a_network_that_does_not_start_from_it() -> None:
    jobs = planned(
        {"what": "fid", "source": "nat", "models": ["wide"]},
        models={"tiny": {"name": "cbr_tiny", "weights": "run:nat"}, "wide": {"name": "cbr_small", "weights": "a.pt"}},
        seeds=[0],
    )
    assert named(jobs) == {("random:initial 0",), ("mean_var:initial 0",), ("imnet:initial 0",)}
    assert {job.other_data.data.name for job in jobs if job.other_data} == {"natural-phantom"}


@pytest.mark.parametrize("what", ["dynamics", "reinitialise", "filters", "histogram", "maps"])
def test_what_sees_training_has_its_start_too(what: str) -> None:
    jobs = planned({"what": what, "arms": ["imnet"], "seeds": [1]})
    assert named(jobs) == {("imnet:initial 1", "imnet 1")}


def test_pictures_are_of_the_first_seed_unless_said_otherwise() -> None:
    for what in PICTURES:
        assert {job.sides[0].run.spec.seed for job in planned(what, seeds=[4, 2])} == {4}
        assert {job.sides[0].run.spec.seed for job in planned({"what": what, "seeds": [2, 4]}, seeds=[4, 2])} == {2, 4}
    assert {job.sides[0].run.spec.seed for job in planned("knn", seeds=[4, 2])} == {2, 4}


def test_of_some_arms_networks_and_seeds_only() -> None:
    models = {"tiny": {"name": "cbr_tiny", "weights": "run:nat"}, "small": {"name": "cbr_small", "weights": "run:nat"}}
    jobs = planned({"what": "cka", "arms": ["imnet"], "models": ["small"], "seeds": [1, 2]}, models=models)
    assert {job.sides[0].run.model for job in jobs} == {"small"}
    assert named(jobs) == {(f"imnet:initial {seed}", f"imnet {seed}") for seed in (1, 2)}
    both = planned({"what": "cca", "between": "arms", "seeds": [0]}, models=models)
    assert len(both) == 2 * 3
    assert all(job.sides[0].run.model == job.sides[1].run.model for job in both)
    pairs = planned({"what": "cca", "between": [["random", "imnet"]], "models": ["small"]}, models=models)
    assert {job.sides[1].run.model for job in pairs} == {"small"}
    assert len(pairs) == 3


def test_sources_are_never_looked_at() -> None:
    runs, jobs = of_runs(study_of("cka", "knn", {"what": "cca", "between": "all"}))
    assert {run.role for run in runs} == {"source", "arm"}
    assert {side.run.role for job in jobs for side in job.sides} == {"arm"}


ARMS = {"random": {}, "mean_var": {"rest": "mean_var"}, "wt_st": {"depth": "every"}, "fixed": {"freeze": "every"}}


def test_a_sweep_by_its_name_is_all_its_arms() -> None:
    jobs = planned({"what": "cka", "arms": ["wt_st"], "seeds": [0]}, arms=ARMS)
    assert named(jobs) == {(f"wt_st@layer{n}:initial 0", f"wt_st@layer{n} 0") for n in (1, 2)}
    one = planned({"what": "knn", "arms": ["wt_st@layer2"], "seeds": [0]}, arms=ARMS)
    assert named(one) == {("wt_st@layer2 0",)}


def test_a_sweep_in_a_pair_is_all_its_arms_and_two_sweeps_meet_at_the_same_block() -> None:
    with_one = planned({"what": "cca", "between": [["wt_st", "random"]], "seeds": [0]}, arms=ARMS)
    assert named(with_one) == {("wt_st@layer1 0", "random 0"), ("wt_st@layer2 0", "random 0")}
    exact = planned({"what": "cca", "between": [["random", "wt_st@layer2:initial"]], "seeds": [0]}, arms=ARMS)
    assert named(exact) == {("random 0", "wt_st@layer2:initial 0")}
    two = planned({"what": "cca", "between": [["wt_st", "fixed"]], "seeds": [0]}, arms=ARMS)
    assert named(two) == {("wt_st@layer1 0", "fixed@layer1 0"), ("wt_st@layer2 0", "fixed@layer2 0")}
    itself = planned({"what": "cca", "between": [["wt_st", "wt_st"]], "seeds": [0, 1]}, arms=ARMS)
    assert named(itself) == {(f"wt_st@layer{n} 0", f"wt_st@layer{n} 1") for n in (1, 2)}
    moved = planned({"what": "cca", "between": [["wt_st:initial", "wt_st"]], "seeds": [0]}, arms=ARMS)
    assert named(moved) == {(f"wt_st@layer{n}:initial 0", f"wt_st@layer{n} 0") for n in (1, 2)}
    part = planned({"what": "cca", "between": [["wt_st", "wt_st@layer1"]], "seeds": [0]}, arms=ARMS)
    assert named(part) == {("wt_st@layer2 0", "wt_st@layer1 0")}  # and none with itself


def test_analyses_come_in_the_order_of_the_file() -> None:
    jobs = planned("knn", "cka", {"what": "knn", "k": 5})
    assert [job.place for job in jobs] == sorted(job.place for job in jobs)
    assert [(job.place, job.spec.what) for job in jobs[::9]] == [(0, "knn"), (1, "cka"), (2, "knn")]


def test_the_same_work_has_one_identity() -> None:
    """6 x 6 maps at a seed hold before-and-after and two arms: none of it is done twice."""
    one = {job.run_id for job in planned({"what": "cka", "seeds": [0]})}
    two = {job.run_id for job in planned({"what": "cka", "seeds": [0], "between": "arms"})}
    all_of_it = {job.run_id for job in planned({"what": "cka", "seeds": [0], "between": "all"})}
    assert len(one) == len(two) == 3
    assert one.isdisjoint(two)
    assert one | two < all_of_it
    assert {job.run_id for job in planned("l2", {"what": "l2", "arms": ["random"]})} == {
        job.run_id for job in planned("l2")
    }
    assert [job.run_id for job in planned("cka")] == [job.run_id for job in planned("knn", "cka", name="other")[9:]]


def test_other_work_has_another_identity() -> None:
    jobs = planned(
        {"what": "cka", "arms": ["random"]},
        {"what": "cka", "arms": ["imnet"]},
        {"what": "cka", "arms": ["random"], "images": 64},
        {"what": "cka", "arms": ["random"], "part": "val"},
        {"what": "cka", "arms": ["random"], "pairs": "same"},
        {"what": "cca", "arms": ["random"]},
        {"what": "l2", "arms": ["random"]},
        {"what": "reinitialise", "arms": ["random"]},
    )
    assert len({job.run_id for job in jobs}) == len(jobs) == 8 * 3
    forward = planned({"what": "pwcca", "between": [["random", "imnet"]], "seeds": [0]})
    back = planned({"what": "pwcca", "between": [["imnet", "random"]], "seeds": [0]})
    assert forward[0].run_id != back[0].run_id  # PWCCA weighs by the first
    (start,) = planned({"what": "pwcca", "between": [["random:initial", "imnet"]], "seeds": [0]})
    assert start.run_id not in (forward[0].run_id, back[0].run_id)


def test_the_metric_is_part_of_what_is_measured_by_it_only() -> None:
    (drop,), (other,) = (
        planned({"what": "reinitialise", "arms": ["random"], "seeds": [0]}, metric=metric, train={**MONITORED})
        for metric in ("auroc", "accuracy")
    )
    assert drop.run_id != other.run_id
    (near,), (too,) = (
        planned({"what": "knn", "arms": ["random"], "seeds": [0]}, metric=metric, train={**MONITORED})
        for metric in ("auroc", "accuracy")
    )
    assert near.run_id == too.run_id


def test_an_identity_is_of_the_runs_and_of_nothing_that_a_study_calls_them() -> None:
    first = planned({"what": "cka", "seeds": [0], "arms": ["imnet"]})[0]
    renamed = replace(
        first,
        place=7,
        sides=tuple(Side(replace(side.run, arm="x", model="y"), side.state) for side in first.sides),
    )
    assert renamed.run_id == first.run_id
    assert renamed.title != first.title
    other = replace(first, sides=tuple(Side(replace(side.run, run_id="0" * 12), side.state) for side in first.sides))
    assert other.run_id != first.run_id


def test_what_a_person_and_a_table_call_it() -> None:
    (job,) = planned({"what": "cca", "between": [["imnet:initial", "random"]], "seeds": [1]})
    assert job.title == "cca · tiny · imnet:initial and random · seed 1"
    assert job.row() == {
        "analysis_id": job.run_id,
        "analysis": "cca",
        "place": 0,
        "title": job.title,
        "model": "tiny",
        "run_id": job.sides[0].run.run_id,
        "arm": "imnet",
        "seed": 1,
        "state": "initial",
        "other_run_id": job.sides[1].run.run_id,
        "other_arm": "random",
        "other_seed": 1,
        "other_state": "trained",
    }
    (pair,) = planned({"what": "cca", "between": [["random", "random"]], "seeds": [1, 2]})
    assert pair.title == "cca · tiny · random and random · seed 1 and 2"
    (one,) = planned({"what": "knn", "arms": ["random"], "seeds": [2]})
    assert one.title == "knn · tiny · random · seed 2"


def test_dynamics_follow_the_networks_whose_steps_are_kept() -> None:
    """AN-8: the runs that a line of `dynamics` looks at keep the weights of their steps, and only they do."""
    runs, jobs = of_runs(study_of({"what": "dynamics", "arms": ["imnet"]}))
    followed = {side.run.run_id for job in jobs for side in job.sides}
    assert followed == {run.run_id for run in runs if run.spec.train.snapshots == "log"}
    assert len(followed) == 3
