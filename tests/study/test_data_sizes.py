"""A study at several numbers of training patients: its runs, what is wrong with it, and what it says when done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from transfuse.errors import SpecError
from transfuse.results.store import Store
from transfuse.specs import StudySpec, read_yaml, study_from, to_yaml
from transfuse.study.carry_out import carry_out
from transfuse.study.conclude import Conclusion, conclude
from transfuse.study.events import Event
from transfuse.study.expand import PlannedRun, expand
from transfuse.study.plan import Plan, check, read_plan
from transfuse.study.sweeps import unfold

pytestmark = pytest.mark.xdist_group("study over data sizes")  # trained once

MakeStudy = Callable[..., StudySpec]
SIZES = [0.2, 0.5, 1]
TEXT = """
name: small
data: {name: target, train_fraction: 0.5}
models: {net: {name: cbr_tiny, weights: "run:natural"}}
arms: {random: {}, pretrained: {depth: all}, lp_ft: {weights: "run:probe", depth: all, head: source}}
sources:
  natural: {data: {name: source}, train: {epochs: 1}}
  probe: {init: {depth: all, freeze: all}, train: {epochs: 2}}
train: {steps: 10}
seeds: 2
"""


def runs_of(study: StudySpec, **keys: Any) -> list[PlannedRun]:
    return expand(
        unfold(study, lambda model, level: ()), lambda data: data.name, lambda name, root: name, lambda *_: None, **keys
    )


def study_with(**keys: Any) -> StudySpec:
    return study_from({**read_yaml(TEXT), **keys})


# The runs


def test_every_arm_is_trained_at_every_size_and_the_largest_is_the_study_itself() -> None:
    plain, sized = runs_of(study_with()), runs_of(study_with(train_fractions=SIZES))
    by_role = {role: [run for run in sized if run.role == role] for role in ("arm", "size", "source")}
    assert [run.run_id for run in by_role["arm"]] == [run.run_id for run in plain if run.role == "arm"]
    assert len(by_role["size"]) == 2 * len(by_role["arm"])
    assert {run.run_id for run in plain} < {run.run_id for run in sized}
    assert len({run.run_id for run in sized}) == len(sized)
    shares = {(run.arm, run.spec.data.train_fraction) for run in by_role["size"]}
    assert shares == {(arm, share) for arm in ("random", "pretrained", "lp_ft") for share in (0.1, 0.25)}
    for run in by_role["size"]:
        twin = next(one for one in by_role["arm"] if (one.arm, one.spec.seed) == (run.arm, run.spec.seed))
        assert replace(run.spec, data=twin.spec.data, source_run=twin.spec.source_run) == twin.spec


def test_a_study_on_fewer_patients_is_the_same_runs_as_one_of_the_sizes() -> None:
    alone = study_with(data={"name": "target", "train_fraction": 0.25})
    sized = {run.run_id for run in runs_of(study_with(train_fractions=SIZES))}
    assert {run.run_id for run in runs_of(alone)} < sized


def test_a_source_keeps_its_data_whole_and_one_on_the_studys_own_data_has_no_more_patients_than_the_arm() -> None:
    runs = runs_of(study_with(train_fractions=SIZES))
    sources = {run.run_id: run for run in runs if run.role == "source"}
    natural = [run for run in sources.values() if run.arm == "natural"]
    assert [run.spec.data.train_fraction for run in natural] == [1.0]
    for run in runs:
        if run.role != "source" and run.arm == "lp_ft":
            probe = sources[run.needs or ""]
            assert probe.spec.data == run.spec.data
            assert sources[probe.needs or ""] == natural[0]
    order = [run.run_id for run in runs]
    assert all(run.needs is None or order.index(run.needs) < order.index(run.run_id) for run in runs)


def test_a_run_says_how_many_patients_it_has() -> None:
    runs = {(run.role, run.arm, run.row()["train_fraction"]): run for run in runs_of(study_with(train_fractions=SIZES))}
    assert runs["size", "random", 0.1].title == "net · random on 10 % of the patients · seed 1"
    assert runs["arm", "random", 0.5].title == "net · random · seed 1"
    assert runs["source", "probe", 0.25].title == "net · source probe on 25 % of the patients · seed 0"
    assert runs["source", "natural", 1.0].title == "net · source natural · seed 0"


def test_smaller_sizes_come_with_the_rate_that_was_chosen_for_the_arm_and_keep_no_snapshots() -> None:
    arms = {"random": {}, "fixed": {"learning_rate": 1e-2}}
    tuned = {"arms": arms, "tune": {"learning_rates": [1e-4, 1e-3]}, "models": {"net": {"name": "cbr_tiny"}}}
    study = study_with(**tuned, sources={}, train_fractions=SIZES)
    early, late = runs_of(study), runs_of(study, rates={("net", "random"): 1e-3})
    assert {run.arm for run in early if run.role == "size"} == {"fixed"}
    assert {run.learning_rate for run in late if run.role == "size" and run.arm == "random"} == {1e-3}
    looked = study_with(train_fractions=SIZES, analyses=["dynamics"])
    assert {run.spec.train.snapshots for run in runs_of(looked) if run.role == "size"} == {()}
    assert {run.spec.train.snapshots for run in runs_of(looked) if run.role == "arm"} == {"log"}


def test_sizes_are_written_and_read_again() -> None:
    study = study_with(train_fractions=SIZES)
    assert study.train_fractions == (0.2, 0.5, 1.0)
    assert study_from(read_yaml(to_yaml(study))) == study


# What is wrong


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([0, 0.5, 1], "train_fractions.0: 0 is no share of the training patients; expected a number in (0, 1]"),
        ([0.5, 0.8, 1.2], "train_fractions.2: 1.2 is no share of the training patients"),
        ([0.5, 0.2, 1], "train_fractions: [0.5, 0.2, 1] do not ascend; expected [0.2, 0.5, 1]"),
        ([0.5, 0.5, 1], "train_fractions: [0.5, 0.5, 1] do not ascend; expected [0.5, 1]"),
        (
            [0.5, 1],
            "train_fractions: [0.5, 1]; a curve over the number of patients takes at least 3 sizes, e.g. [0.1, 0.25,",
        ),
        (
            [0.1, 0.2, 0.5],
            "train_fractions: [0.1, 0.2, 0.5] end before 1; expected 1 as the last, which is the study itself",
        ),
    ],
)
def test_sizes_that_cannot_be_meant_are_named(sizes: list[float], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        study_with(train_fractions=sizes)
    assert message in str(caught.value)


def test_check_counts_runs_and_patients(make_study: MakeStudy) -> None:
    checked = check(make_study(train_fractions=SIZES), device="cpu")
    roles = [run.role for run in checked.runs]
    assert (roles.count("arm"), roles.count("size")) == (2, 4)
    assert checked.lines[-1] == "2 runs (1 network x 1 arm x 2 seeds), 4 runs on fewer patients (2 sizes below 1)"
    assert not any(line.startswith("train_fractions:") for line in check(make_study(), device="cpu").lines)
    (line,) = [line for line in checked.lines if line.startswith("train_fractions: ")]
    assert line.endswith("training patients")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train_fractions": [0.01, 0.011, 1]}, "train_fractions.1: 0.011 of the training patients are "),
        ({"train_fractions": [0.5, 0.999, 1]}, "train_fractions.1: 0.999 of the training patients are "),
    ],
)
def test_sizes_that_come_to_the_same_patients_are_found(
    make_study: MakeStudy, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        check(make_study(**keys), device="cpu")
    assert message in str(caught.value)
    assert "as many as at another size; expected shares that are farther apart" in str(caught.value)


def test_a_batch_larger_than_a_smaller_size_is_noted(make_study: MakeStudy) -> None:
    lines = check(make_study(train_fractions=SIZES, train={"steps": 4, "batch_size": 40}), device="cpu").lines
    assert any(
        line.startswith("note: train_fractions.0: train.batch_size is 40, and 0.2 of the training") for line in lines
    )


# What it says when it is done


@pytest.fixture(scope="module")
def done(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, StudySpec, Conclusion]:
    study = study_from(
        {
            "name": "sized",
            "data": {"name": str(tiny_npz), "size": 16},
            "models": {"net": {"name": "cbr_demo", "padding": "same_pool"}},
            "arms": {"random": {}, "wide": {"random": "he_fan_out"}},
            "train": {"steps": 3, "batch_size": 16, "validate_every": 3},
            "seeds": 2,
            "train_fractions": SIZES,
        }
    )
    store = Store(tmp_path_factory.mktemp("sized"))

    @contextlib.contextmanager
    def show(*_: int) -> Iterator[Callable[[Event], None]]:
        yield lambda event: None

    checked = check(study, device="cpu")
    outcome = carry_out(checked.study, checked.round, store, show=show, workers=1, device="cpu")
    assert outcome.complete
    return store, study, conclude(store, read_plan(store, "sized"))


def test_the_curves_have_all_sizes_and_seeds_of_every_arm(done: tuple[Store, StudySpec, Conclusion]) -> None:
    _, _, found = done
    (network,) = found.data_sizes
    assert [row.arm for row in network.arms] == ["random", "wide"]
    runs = found.tables.runs
    for row in network.arms:
        assert len(set(row.curve.patients)) == 3
        for patients, values in zip(row.curve.patients, row.curve.values, strict=True):
            own = runs[(runs["arm"] == row.arm) & (runs["train_patients"] == patients)].sort_values("seed")
            assert values == pytest.approx(own["test_auroc"].tolist())
    assert network.arms[0].within is None
    assert network.arms[1].within is not None


def test_the_verdict_is_that_of_the_study_without_sizes(done: tuple[Store, StudySpec, Conclusion]) -> None:
    store, study, found = done
    plan = read_plan(store, "sized")
    rows = [row for row in plan.rows if row["role"] != "size"]
    plain = conclude(store, Plan(replace(study, train_fractions=()), rows, []))
    assert plain.data_sizes == []
    assert plain.comparisons == found.comparisons
    assert plain.estimates == found.estimates
    assert plain.notes == found.notes
    assert plain.recommendation == found.recommendation
    assert len(found.tables.runs) == 3 * len(plain.tables.runs)


def test_a_size_without_a_result_leaves_the_arm_without_a_curve(done: tuple[Store, StudySpec, Conclusion]) -> None:
    store, study, _ = done
    plan = read_plan(store, "sized")
    rows = [row for row in plan.rows if (row["arm"], row["train_fraction"]) != ("wide", 0.2)]
    (network,) = conclude(store, Plan(study, rows, [])).data_sizes
    assert [row.arm for row in network.arms] == ["random"]
    assert network.missing == {"wide": "2 sizes have a result, and a curve takes 3"}


def test_a_size_at_which_training_was_cut_short_is_named(
    done: tuple[Store, StudySpec, Conclusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its validations are replaced by ones that still rise at the end; the verdict of all patients is not concerned."""
    store, _, found = done
    runs, history = found.tables.runs, found.tables.history
    (first, *_) = sorted(set(runs["train_patients"]))
    own = runs.loc[(runs["arm"] == "wide") & (runs["train_patients"] == first), "run_id"]
    rose = [(run_id, step, 0.2 * step) for run_id in own for step in (1, 2, 3)]
    rows = pd.DataFrame(rose, columns=["run_id", "step", "value"]).assign(split="val", quantity="auroc")
    changed = found.tables._replace(history=pd.concat([history[~history["run_id"].isin(own)], rows]))
    monkeypatch.setattr(Store, "tables", lambda *_: changed)
    again = conclude(store, read_plan(store, "sized"))
    (network,) = again.data_sizes
    assert network.rising == {"wide": (first,)}
    assert network.arms[1].within is None
    assert again.comparisons == found.comparisons
