"""The `analyses` of a study file: what can be said, what is refused and with which advice, what decides the numbers."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest

from transfuse.analysis.views import VIEWS
from transfuse.errors import SpecError
from transfuse.specs import AnalysisSpec, RunSpec, StudySpec, load_study, read_yaml, study_from, to_yaml
from transfuse.specs.analyses import ANALYSES, PAIRS, PICTURES
from transfuse.study.expand import PlannedRun, expand
from transfuse.study.measurements import MEASURES
from transfuse.study.sweeps import BlockName, unfold

SMALL = """
name: small
data: {name: fundus-phantom}
models: {tiny: {name: cbr_tiny, weights: "run:natural"}, wide: {name: cbr_small, weights: "run:natural"}}
arms: {random: {}, pretrained: {depth: all}, wt_st: {depth: every}}
sources: {natural: {data: {name: natural-phantom}, train: {epochs: 1}}}
train: {steps: 10}
seeds: 2
"""


def small(*analyses: Any, **keys: Any) -> StudySpec:
    return study_from({**read_yaml(SMALL), **keys, "analyses": list(analyses)}, "study.yaml")


def problems(*analyses: Any, **keys: Any) -> str:
    with pytest.raises(SpecError) as caught:
        small(*analyses, **keys)
    return str(caught.value)


def runs(study: StudySpec) -> list[PlannedRun]:
    names = tuple(BlockName(name, True) for name in ("layer1", "layer2"))
    unfolded = unfold(study, lambda model, level: names)
    return expand(unfolded, lambda data: "f" * 64, lambda name, root: "0" * 64, lambda model, data: None)


def test_a_bare_name_is_an_analysis_with_its_defaults() -> None:
    bare = small("cka", {"what": "knn", "k": 20}).analyses
    assert bare == (AnalysisSpec(what="cka"), AnalysisSpec(what="knn", k=20))
    assert study_from({**read_yaml(SMALL), "analyses": "cka"}).analyses == (AnalysisSpec(what="cka"),)
    assert study_from(read_yaml(SMALL)).analyses == ()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("analyses=[cka, l2]", (AnalysisSpec(what="cka"), AnalysisSpec(what="l2"))),
        ("analyses=knn", (AnalysisSpec(what="knn"),)),
        ("analyses=[{what: cca, between: seeds}]", (AnalysisSpec(what="cca", between="seeds"),)),
        ("analyses=[]", ()),
    ],
)
def test_the_command_line_replaces_the_list(tmp_path: Path, override: str, expected: tuple[AnalysisSpec, ...]) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(SMALL + "analyses: [attention]\n", encoding="utf-8")
    assert load_study(path).analyses == (AnalysisSpec(what="attention"),)
    assert load_study(path, [override]).analyses == expected


def test_every_setting_comes_back_from_yaml() -> None:
    study = small(
        "cka",
        {"what": "cka", "between": [["pretrained", "random"], ["random:initial", "random"]], "pairs": "same"},
        {"what": "cka", "average": "mean_of_ratios", "kernel": "rbf", "view": "pooled", "arms": ["wt_st"]},
        {"what": "svcca", "variance": 0.9, "between": "seeds", "models": ["tiny"], "seeds": [0, 1]},
        {"what": "cca_patches", "p": 4000, "d": 16, "repeats": 2, "share_channels": False, "between": "all"},
        {"what": "l2", "reduce": "tensor_mean", "level": "layer", "blocks": ["layer1"]},
        {"what": "attention", "reduce": "mean", "part": "val", "images": 10},
        {"what": "dynamics", "measure": "cka"},
        {"what": "knn", "k": 5, "temperature": 0.2, "vote": "majority"},
        {"what": "fid", "source": "natural"},
        {"what": "maximise", "channels": 3, "steps": 9, "jitter": 2, "frequency_prior": True},
    )
    assert study_from(read_yaml(to_yaml(study))) == study
    assert {"between: seeds", "variance: 0.9", "share_channels: false"} <= {
        line.strip("- ") for line in to_yaml(study).splitlines()
    }
    assert "analyses" not in to_yaml(small())


@pytest.mark.parametrize(
    ("analysis", "expected"),
    [
        ("cca_patch", "analyses.0.what: 'cca_patch' is unknown; did you mean 'cca_patches'?"),
        ({"between": "seeds"}, "analyses.0.what: missing"),
        ({"what": "knn", "kk": 3}, "analyses.0.kk: unknown key; did you mean 'k'?"),
        ({"what": "cka", "k": 3}, "analyses.0: k does not go with cka; it is a setting of knn"),
        ({"what": "knn", "between": "seeds"}, "between does not go with knn; it is a setting of cca, cca_patches, cka"),
        ({"what": "cka", "variance": 0.9}, "variance does not go with cka; it is a setting of svcca"),
        ({"what": "cca", "measure": "cka"}, "measure does not go with cca; it is a setting of dynamics"),
        ({"what": "l2", "images": 5}, "images does not go with l2; it is a setting of attention, cca"),
        ({"what": "l2", "part": "val"}, "part does not go with l2"),
        ({"what": "filters", "level": "stage"}, "level does not go with filters"),
        ({"what": "attention", "blocks": ["a"]}, "blocks does not go with attention"),
        ({"what": "cka_", "images": 0}, "did you mean 'cka'?"),
        ({"what": "cka", "images": 0}, "images is 0; expected 1 or more"),
        ({"what": "cca_patches", "p": 1}, "p is 1; expected 2 or more"),
        ({"what": "cca_patches", "d": 0}, "d is 0; expected 1 or more"),
        ({"what": "cca_patches", "repeats": 0}, "repeats is 0; expected 1 or more"),
        ({"what": "knn", "k": -1}, "k is -1; expected 1 or more"),
        ({"what": "knn", "temperature": 0.0}, "temperature is 0.0; expected a positive number, such as 0.1"),
        ({"what": "knn", "temperature": float("nan")}, "analyses.0.temperature: nan is not a number"),
        ({"what": "svcca", "variance": 1.5}, "variance is 1.5; expected a share in (0, 1], such as 0.99"),
        ({"what": "maximise", "steps": 0}, "steps is 0; expected 1 or more"),
        ({"what": "maps", "channels": 0}, "channels is 0; expected 1 or more"),
        ({"what": "l2", "reduce": "mean"}, "reduce of l2 is 'mean'; Choices: concatenated, tensor_mean"),
        ({"what": "attention", "reduce": "concatenated"}, "reduce of attention is 'concatenated'"),
        ({"what": "maximise", "jitter": -1}, "jitter is -1; expected 0 or more"),
        ({"what": "cka", "view": "positions"}, "view of cka is 'positions'; Choices: flat, pooled, cls, patches, both"),
        ({"what": "pwcca", "view": "flat"}, "view of pwcca is 'flat'; Choices: positions, pooled"),
        ({"what": "knn", "view": "flat"}, "view of knn is 'flat'; Choices: pooled, cls"),
        ({"what": "dynamics", "view": "flat"}, "view of cca is 'flat'; Choices: positions"),
        ({"what": "fid"}, "give source: NAME, one of sources"),
        ({"what": "fid", "source": "naturl"}, "analyses.0: 'naturl' is not a source; did you mean 'natural'?"),
        ({"what": "cka", "arms": ["pretraned"]}, "'pretraned' is not an arm; did you mean 'pretrained'?"),
        ({"what": "cka", "models": ["tin"]}, "analyses.0: 'tin' is not a network; did you mean 'tiny'?"),
        ({"what": "cka", "seeds": [7]}, "analyses.0: 7 is not a seed of the study"),
        ({"what": "cka", "between": "arm"}, "did you mean 'arms'?"),
        ({"what": "cka", "between": []}, "between: no pair given"),
        ({"what": "cka", "between": [["random", "randm"]]}, "'randm' is not an arm; did you mean 'random'?"),
        (
            {"what": "cka", "between": [["random", "random:inital"]]},
            "'random:inital' is no network; expected an arm, arm:initial or arm:trained (did you mean 'initial'?",
        ),
        ({"what": "cka", "between": [["random"]]}, "analyses.0.between"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_nearest_choice(analysis: Any, expected: str) -> None:
    assert expected in problems(analysis)


@pytest.mark.parametrize(
    ("what", "module"),
    [
        ("cka", "cka_matrix"),
        ("cca", "cca_matrix"),
        ("svcca", "cca_matrix"),
        ("pwcca", "cca_matrix"),
        ("dynamics", "cca_matrix"),
        ("knn", "layerwise_knn"),
    ],
)
def test_views_are_those_of_the_functions(what: Any, module: str) -> None:
    allowed = set()
    for view in VIEWS:
        try:
            allowed.add(AnalysisSpec(what=what, view=view).view)
        except SpecError:
            continue
    assert allowed == set(importlib.import_module(f"transfuse.analysis.{module}").VIEWS)
    assert AnalysisSpec(what="dynamics", measure="cka", view="flat").view == "flat"


def test_several_mistakes_are_listed_at_once_each_at_its_line() -> None:
    message = problems("cka", {"what": "cka", "k": 3, "arms": ["x"]}, {"what": "l2", "p": 7}, {"what": "knn", "k": 0})
    assert "analyses.1: k does not go with cka" in message
    assert "analyses.2: p does not go with l2" in message
    assert "analyses.3: k is 0" in message
    assert "analyses.0" not in message


@pytest.mark.parametrize(
    "analysis",
    [
        {"what": "cca", "between": "seeds"},
        {"what": "cca", "between": [["random", "random"]]},
        {"what": "cca", "between": [["random", "random:trained"]]},
        {"what": "cca", "between": [["random:initial", "random:initial"]]},
    ],
)
def test_seeds_against_each_other_need_two(analysis: dict[str, Any]) -> None:
    assert "over its seeds, and there is only one; give two or more" in problems(analysis, seeds=1)
    assert "over its seeds" in problems({**analysis, "seeds": [1]})
    assert small(analysis).analyses[0].compares


def test_a_network_against_its_own_start_needs_one_seed() -> None:
    assert len(small({"what": "cca", "between": [["random:initial", "random"]]}, seeds=1).analyses) == 1


def test_arms_of_a_sweep_can_be_named() -> None:
    study = small({"what": "cka", "arms": ["wt_st"]}, {"what": "cka", "arms": ["wt_st@layer1"]})
    names = tuple(BlockName(name, True) for name in ("layer1", "layer2"))
    unfolded = unfold(study, lambda model, level: names).study
    assert unfolded.analyses == study.analyses
    astray = small({"what": "cka", "arms": ["wt_st@layr1"]})  # only the network knows its blocks
    with pytest.raises(SpecError, match="'wt_st@layr1' is not an arm; did you mean 'wt_st@layer1'"):
        unfold(astray, lambda model, level: names)


def test_covers_names_of_the_study() -> None:
    spec = AnalysisSpec(what="cka", arms=("wt_st", "random"), models=("tiny",), seeds=(1,))
    assert spec.covers("tiny", "wt_st@layer1", 1)
    assert spec.covers("tiny", "random", 1)
    assert not spec.covers("wide", "random", 1)
    assert not spec.covers("tiny", "pretrained", 1)
    assert not spec.covers("tiny", "random", 0)
    assert AnalysisSpec(what="cka").covers("any", "thing", 9)


def test_only_what_decides_numbers_is_the_identity() -> None:
    plain = AnalysisSpec(what="cka")
    assert plain.identity() == {"what": "cka"}
    named = AnalysisSpec(what="cka", between="seeds", arms=("random",), models=("tiny",), seeds=(0,))
    assert named.identity() == plain.identity()
    assert AnalysisSpec(what="cka", level="block", part="test").identity() == plain.identity()
    for other in (
        {"view": "pooled"},
        {"level": "stage"},
        {"blocks": ("layer1",)},
        {"part": "val"},
        {"images": 64},
        {"pairs": "same"},
        {"average": "mean_of_ratios"},
        {"kernel": "rbf"},
    ):
        assert AnalysisSpec(what="cka", **other).identity() == {"what": "cka", **other}  # type: ignore[arg-type]


def test_settings_reach_the_function_only_if_given() -> None:
    spec = AnalysisSpec(what="cca_patches", p=400, share_channels=False)
    assert spec.given("p", "d", "share_channels") == {"p": 400, "share_channels": False}


def test_run_ids_do_not_depend_on_analyses() -> None:
    every = [{"what": what, **({"source": "natural"} if what == "fid" else {})} for what in ANALYSES]
    without = [run.run_id for run in runs(small())]
    assert [run.run_id for run in runs(small(*every))] == without


def test_dynamics_keeps_snapshots_of_the_networks_that_it_follows() -> None:
    plain, followed = runs(small()), runs(small({"what": "dynamics", "arms": ["random"], "models": ["tiny"]}))
    assert [run.run_id for run in plain] == [run.run_id for run in followed]
    snapshots: dict[str, set[Any]] = {}
    for run in followed:
        snapshots.setdefault(f"{run.model} {run.arm}", set()).add(run.spec.train.snapshots)
    assert snapshots.pop("tiny random") == {"log"}
    assert all(kept == {()} for kept in snapshots.values())
    own = runs(small("dynamics", train={"steps": 10, "snapshots": [5]}))
    assert {run.spec.train.snapshots for run in own if run.role == "arm"} == {(5,)}


def test_snapshots_are_steps() -> None:
    assert "snapshots are [0, 5]; expected steps of 1 or more, or log" in problems(
        train={"steps": 10, "snapshots": [0, 5]}
    )
    assert small(train={"steps": 10, "snapshots": "log"}).train.snapshots == "log"
    spec = runs(small())[-1].spec
    one = dataclasses.replace(spec, train=dataclasses.replace(spec.train, snapshots=(5,)))
    assert isinstance(one, RunSpec)
    assert one.run_id == spec.run_id  # they change no number


def test_every_analysis_is_done_somewhere_and_explained() -> None:
    from transfuse.report.explanations import EXPLANATIONS

    assert set(ANALYSES) == set(MEASURES) == set(EXPLANATIONS)
    assert set(PAIRS) | set(PICTURES) <= set(ANALYSES)
    assert {AnalysisSpec(what=what).compares for what in PAIRS} == {True}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("analysis", "problem"),
    [
        ({"what": "cka", "images": 3}, "analyses.0: images is 3; cka needs 4 or more"),
        ({"what": "fid", "source": "natural", "images": 1}, "analyses.0: images is 1; fid needs 2 or more"),
    ],
)
def test_too_few_images_are_said_at_once(analysis: dict[str, Any], problem: str) -> None:
    assert problem in problems(analysis)
