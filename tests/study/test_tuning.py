"""Learning rates of arms: tried on validation data, chosen, and used for every seed, round by round."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transfuse.errors import SpecError
from transfuse.results.store import RunRecord, Store
from transfuse.specs import StudySpec, TuneSpec, read_yaml, study_from, to_yaml
from transfuse.study.carry_out import Outcome, carry_out
from transfuse.study.conclude import conclude
from transfuse.study.events import Ended, Event
from transfuse.study.plan import Checked, check, read_plan, replaced, status
from transfuse.study.tuning import choices, still_to_name

pytestmark = pytest.mark.xdist_group("tuned study")  # trained once

MakeStudy = Callable[..., StudySpec]
RATES = [1e-6, 3e-3, 1e-2]
ARMS = {"random": {}, "wide": {"random": "he_fan_out"}, "fixed": {"random": "glorot_normal", "learning_rate": 1e-3}}


class Tuned:
    """A study with tuned rates that was carried out, and what was trained in which order."""

    def __init__(self, study: StudySpec, root: Path) -> None:
        self.study, self.store, self.events = study, Store(root), list[Event]()
        self.checked: Checked = check(study, device="cpu")
        self.outcome: Outcome = self.again()

    def again(self) -> Outcome:
        @contextlib.contextmanager
        def show(*_: int) -> Iterator[Callable[[Event], None]]:
            yield self.events.append

        return carry_out(self.checked.study, self.checked.round, self.store, show=show, workers=1, device="cpu")

    def trained(self) -> list[str]:
        return [event.title for event in self.events if isinstance(event, Ended)]


@pytest.fixture(scope="module")
def done(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    study = study_from(
        {
            "name": "tuned",
            "data": {"name": str(tiny_npz), "size": 16},
            "models": {"net": {"name": "cbr_demo", "padding": "same_pool"}},
            "arms": ARMS,
            "train": {"steps": 12, "batch_size": 16, "validate_every": 6},
            "tune": {"learning_rates": RATES},
            "seeds": 2,
        }
    )
    return Tuned(study, tmp_path_factory.mktemp("tuned"))


def test_every_arm_is_tried_at_every_rate_and_trained_at_the_best(done: Tuned) -> None:
    assert done.outcome.complete
    titles = done.trained()
    assert [title for title in titles if "at rate" in title] == [
        f"net · {arm} at rate {rate:g} · seed 0" for arm in ("random", "wide") for rate in RATES
    ]
    rows = done.outcome.plan.rows
    for arm in ("random", "wide"):
        best = {
            row["learning_rate"]: done.store.record(row["run_id"]).facts["best_value"]
            for row in rows
            if row["role"] == "trial" and row["arm"] == arm
        }
        chosen = max(best, key=lambda rate: (best[rate], -rate))
        finals = [row for row in rows if row["role"] == "arm" and row["arm"] == arm]
        assert [(row["seed"], row["learning_rate"]) for row in finals] == [(0, chosen), (1, chosen)]
        (trial,) = [
            row for row in rows if row["role"] == "trial" and row["arm"] == arm and row["learning_rate"] == chosen
        ]
        assert trial["run_id"] == finals[0]["run_id"], "the trial at the chosen rate is the run of the first seed"
        assert f"net · {arm} · seed 0" not in titles
        assert f"net · {arm} · seed 1" in titles
    assert [row["learning_rate"] for row in rows if row["arm"] == "fixed"] == [1e-3, 1e-3]


def test_the_runs_that_are_still_to_be_named_are_counted(done: Tuned) -> None:
    study, first = done.checked.study, [run.row() for run in done.checked.runs]
    last = {row["run_id"] for row in done.outcome.plan.rows}
    known = {row["run_id"] for row in first}
    assert known < last
    assert still_to_name(study, first) == len(last - known) == 2  # the second seed of two arms
    assert still_to_name(study, done.outcome.plan.rows) == 0, "all is named"
    half = [row for row in done.outcome.plan.rows if row["role"] == "trial" or row["arm"] == "wide"]
    assert still_to_name(study, half) == 1, "of an arm whose rate is chosen nothing more comes"
    larger = replace(study, seeds=3, train_fractions=(0.25, 0.5, 1.0))
    assert still_to_name(larger, first) == 2 * (2 + 3 * 2), "two seeds more, and all at two sizes below 1"
    same = [{**row, "run_id": str(row["learning_rate"])} if row["role"] == "trial" else row for row in first]
    assert still_to_name(study, same) == 1, "arms that are tried in the same runs share what follows"
    assert still_to_name(replace(study, tune="none"), first) == 0


def test_started_again_nothing_is_done_and_nothing_is_lost(done: Tuned) -> None:
    before = len(done.trained())
    assert replaced(done.store, done.checked.study, done.checked.round(done.store)) == []
    assert done.again().complete
    assert len(done.trained()) == before
    assert read_plan(done.store, "tuned").study == done.checked.study


def test_what_was_chosen_is_said(done: Tuned) -> None:
    (line,) = [line for line in done.checked.lines if "trial" in line]
    assert line == (
        "6 runs (1 network x 3 arms x 2 seeds), after 6 trial runs (2 arms x 3 learning rates x 1 seed); the trials at "
        "the chosen rates count as runs"
    )
    found = conclude(done.store, done.outcome.plan)
    rates = {one.arm: one.rate for one in choices(done.outcome.plan.rows, done.store)}
    text = "\n".join(found.recommendation.caveats)
    assert (
        "Each arm was trained at the learning rate of 1e-06, 0.003 and 0.01 that was best in validation AUROC" in text
    )
    assert f"random {rates['random']:g}; wide {rates['wide']:g}." in text
    assert ("at the edge of those that were tried for" in text) == any(rate != 3e-3 for rate in rates.values())
    assert {row.arm for row in found.comparisons} == {"wide", "fixed"}
    assert all(len(row.seeds) == 2 for row in found.estimates), "trials are no seeds of an arm"
    assert {one.row["role"] for one in status(done.store, done.outcome.plan.rows)} == {"trial", "arm"}


def test_untuned_studies_say_so(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(arms={"random": {}, "wide": {"random": "he_fan_out"}})
    assert study.tune == "none"
    assert study_from({**read_yaml(to_yaml(study)), "tune": "none"}) == study
    untuned = Tuned(study, tmp_path)
    assert not any("rate" in title for title in untuned.trained())
    text = "\n".join(conclude(untuned.store, untuned.outcome.plan).recommendation.caveats)
    assert "Learning rates were not tuned, as in the papers" in text


class Records(Store):
    """A store of made-up records."""

    def __init__(self, values: dict[str, float | str | None]) -> None:
        self.values = values

    def record(self, run_id: str) -> RunRecord | None:
        value = self.values[run_id]
        if value is None:
            return None
        if isinstance(value, str):
            return RunRecord(run_id=run_id, status=value, facts={"monitor": "loss"})
        return RunRecord(run_id=run_id, status="finished", facts={"monitor": "loss", "best_value": value})


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ([0.5, 0.2, 0.9], 0.1),  # of a loss the lowest
        ([0.5, 0.5, 0.9], 0.01),  # of equals the smallest rate
        (["diverged", 0.7, 0.9], 0.1),
        ([0.5, 0.2, "diverged"], 0.1),
        (["diverged"] * 3, 0.01),
        ([0.5, None, 0.9], None),  # not yet
    ],
)
def test_the_best_of_the_trials(values: list[Any], rate: float | None) -> None:
    rates = (0.01, 0.1, 1.0)
    rows = [
        {"role": "trial", "model": "net", "arm": "a", "run_id": str(place), "learning_rate": one}
        for place, one in enumerate(rates)
    ]
    found = choices(rows, Records({str(place): value for place, value in enumerate(values)}))
    assert [one.rate for one in found] == ([] if rate is None else [rate])
    if found:
        assert found[0].at_the_edge == (rate != 0.1)


def test_the_mean_over_seeds_counts() -> None:
    rows = [
        {"role": "trial", "model": "net", "arm": "a", "run_id": f"{rate}-{seed}", "learning_rate": rate}
        for rate in (0.1, 1.0)
        for seed in (0, 1)
    ]
    (found,) = choices(rows, Records({"0.1-0": 0.1, "0.1-1": 0.9, "1.0-0": 0.4, "1.0-1": 0.4}))
    assert (found.rate, found.values) == (1.0, {0.1: 0.5, 1.0: 0.4})
    (found,) = choices(rows, Records({"0.1-0": 0.1, "0.1-1": 0.9, "1.0-0": 0.4, "1.0-1": "diverged"}))
    assert found.rate == 0.1, "a rate that diverges in one seed is out"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tune": {"learning_rates": [1e-3]}}, r"learning_rates are \[0.001\]; expected two or more different ones"),
        ({"tune": {"learning_rates": [1e-3, 1e-3]}}, "expected two or more different ones"),
        ({"tune": {"learning_rates": [0.0, 1e-3]}}, "expected positive numbers"),
        ({"tune": {"learning_rates": [1e-4, 1e-3], "seeds": 0}}, "seeds is 0; expected 1 or more of the study's seeds"),
        ({"tune": {"learning_rates": [1e-4, 1e-3], "seeds": 5}}, "tune.seeds: 5 of the study's seeds, which are 2"),
        ({"tune": "auto"}, r"tune: 'auto' is unknown; expected none, or \{learning_rates: \[1e-4, 3e-4, 1e-3\]\}$"),
        ({"tune": [1e-4, 1e-3]}, r"tune: \[0.0001, 0.001\] is unknown; expected none, or \{learning_rates"),
        (
            {"tune": {"learning_rate": [1e-4, 1e-3]}},
            "tune.learning_rate: unknown key; did you mean 'learning_rates'\\? Choices: learning_rates, seeds$",
        ),
        ({"tune": {}}, r"tune.learning_rates: missing; it has no default, e.g. \[1e-4, 3e-4, 1e-3\]$"),
        ({"tune": {"learning_rates": [1e-4, "x"]}}, r"tune.learning_rates.1: expected a number, found 'x'$"),
        (
            {"tune": {"learning_rates": [1e-4, 1e-3]}, "arms": {"random": {"learning_rate": 1e-3}}},
            "tune: every arm has a learning_rate of its own, which it keeps; leave tune out",
        ),
    ],
)
def test_what_cannot_be_meant_is_named_once(make_study: MakeStudy, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        make_study(**keys)
    assert len(caught.value.problems) == 1
    assert "literal" not in str(caught.value)


def test_a_head_rate_of_the_arm_stays_its_own(make_study: MakeStudy) -> None:
    study = make_study(arms={"random": {"head_learning_rate": 0.05}}, tune={"learning_rates": [1e-4, 1e-3]})
    rates = {
        (run.spec.train.optimizer.learning_rate, run.spec.train.optimizer.head_learning_rate)
        for run in check(study, device="cpu").runs
        if run.role == "trial"
    }
    assert rates == {(1e-4, 0.05), (1e-3, 0.05)}
    assert replace(study, tune=TuneSpec(learning_rates=(1e-2, 1e-1))).tune != study.tune
