from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import auc

from transfuse.errors import DataError, SpecError
from transfuse.results.convergence_table import COLUMNS, convergence_table
from transfuse.statistics.convergence import (
    areas_under_curves,
    mean_steps,
    speedup,
    steps_to,
    steps_to_best,
)
from transfuse.statistics.seeds import ratio_of_means, seed_mean

STEPS = [100, 200, 300, 400]


def test_mean_over_seeds_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.02, size=5)
    found = seed_mean(values, 0.9)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert found.std == pytest.approx(stats.tstd(values))
    assert (found.seeds, found.confidence, found.reason) == (5, 0.9, "")


@pytest.mark.parametrize(
    ("values", "reason"), [([0.8], "one seed says nothing"), ([200, 200, 200], "all 3 seeds have the same value")]
)
def test_no_interval_where_none_can_be_given(values: list[float], reason: str) -> None:
    found = seed_mean(values)
    assert found.value == values[0]
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert reason in found.reason
    assert (found.std is None) == (len(values) == 1)


def test_ratio_is_exact_reversible_and_as_wide_as_its_logarithm() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(300, 5, size=6), rng.normal(100, 2, size=4)
    found, back = ratio_of_means(a, b), ratio_of_means(b, a)
    assert found.value == pytest.approx(a.mean() / b.mean())
    assert (back.low, back.high) == pytest.approx((1 / found.high, 1 / found.low))
    # For small spreads the delta method is Welch's interval of the difference of the logarithms.
    logs = stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(0.95)
    assert np.log([found.low, found.high]) == pytest.approx([logs.low, logs.high], abs=1e-3)


def test_ratio_interval_covers() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        found = ratio_of_means(rng.normal(300, 30, size=5), rng.normal(100, 10, size=5))
        inside += found.low < 3 < found.high
    assert 0.92 <= inside / 400 <= 0.98


def test_steps_to_best_takes_the_first_of_equals_and_skips_what_was_not_evaluated() -> None:
    found = steps_to_best(
        [(STEPS, [0.6, 0.9, 0.9, 0.7]), (STEPS, [np.nan, 0.5, np.nan, 0.8]), (STEPS[:2], [np.nan, np.nan])]
    )
    assert found.steps == (200.0, 400.0, None)
    assert found.best == (0.9, 0.8, None)
    assert found.last == (400.0, 400.0, 200.0)
    assert found.at_end == 1
    assert steps_to_best([(STEPS, [0.6, 0.2, 0.2, 0.7])], higher_is_better=False).steps == (200.0,)


def test_a_censored_run_is_counted_in_the_mean_not_dropped() -> None:
    found = steps_to([(STEPS, [0.9] * 4), (STEPS, [0.1, 0.1, 0.9, 0.9]), (STEPS, [0.1] * 4)], 0.8)
    mean = mean_steps(found)
    assert mean.value == pytest.approx((100 + 300 + 400) / 3)  # not 200, the mean of those that arrived
    assert (mean.low, mean.high, mean.std) == (-math.inf, math.inf, None)
    assert "at least: 1 of 3 runs has no such step" in mean.reason
    two = mean_steps(steps_to([(STEPS, [0.1] * 4), (STEPS, [0.1] * 4)], 0.8))
    assert "2 of 2 runs have no such step and count with their last ones" in two.reason
    whole = mean_steps(steps_to([(STEPS, [0.9] * 4), (STEPS, [0.1, 0.9, 0.9, 0.9])], 0.8))
    assert (whole.value, whole.reason) == (150, "")
    assert math.isfinite(whole.low)


def test_speedup_is_reference_over_arm_and_a_bound_where_runs_are_censored() -> None:
    slow = steps_to([(STEPS, [0.1, 0.1, 0.9, 0.9]), (STEPS, [0.1, 0.1, 0.1, 0.9])], 0.8)  # 300, 400
    fast = steps_to([(STEPS, [0.9] * 4), (STEPS, [0.1, 0.9, 0.9, 0.9])], 0.8)  # 100, 200
    never = steps_to([(STEPS, [0.9] * 4), (STEPS, [0.1] * 4)], 0.8)  # 100, beyond 400
    found = speedup(slow, fast)
    assert (found.value, found.bound, found.note) == (pytest.approx(350 / 150), "exact", "")
    assert found.low < found.value < found.high  # type: ignore[operator]
    assert (speedup(never, fast).bound, speedup(never, fast).value) == ("at least", pytest.approx(250 / 150))
    most = speedup(slow, never)
    assert (most.bound, most.value) == ("at most", pytest.approx(350 / 250))
    assert (most.low, most.high) == (-math.inf, math.inf)
    assert "0 of 2 runs of the reference and 1 of 2 of the arm" in most.note
    both = speedup(never, never)
    assert (both.value, both.bound) == (None, "undefined")
    single = steps_to([(STEPS, [0.9] * 4)], 0.8)
    assert "one seed" in speedup(slow, single).note


def test_speedup_from_step_0_is_undefined_not_infinite() -> None:
    at_once = steps_to_best([([0, 10], [0.9, 0.1])])
    found = speedup(steps_to_best([([0, 10], [0.1, 0.9])]), at_once)
    assert (found.value, found.bound) == (None, "undefined")
    assert "step 0" in found.note


def test_speedup_compares_like_with_like() -> None:
    curves = [(STEPS, [0.1, 0.5, 0.7, 0.9])]
    with pytest.raises(SpecError, match=r"thresholds \[0.5, 0.7\]"):
        speedup(steps_to(curves, 0.5), steps_to(curves, 0.7))
    with pytest.raises(SpecError, match="not StepsTo with StepsToBest"):
        speedup(steps_to(curves, 0.5), steps_to_best(curves))


def test_area_is_that_of_scikit_learn_over_the_common_steps() -> None:
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.integers(1, 9, size=12))
    one, two = rng.random(12), rng.random(12)
    found = areas_under_curves([(steps, one), (steps, two)])
    length = steps[-1] - steps[0]
    assert found.values == pytest.approx((auc(steps, one) / length, auc(steps, two) / length))
    short = areas_under_curves([(steps, one), (steps[:6], two[:6])])
    assert (short.first, short.last) == (steps[0], steps[5])
    assert short.values[0] == pytest.approx(auc(steps[:6], one[:6]) / (steps[5] - steps[0]))


def test_area_of_a_straight_line_does_not_depend_on_the_evaluations() -> None:
    rough, fine = [0, 100], list(range(0, 101, 10))
    found = areas_under_curves([(rough, [0, 1]), (fine, np.linspace(0, 1, 11))], 25, 75)
    assert found.values == pytest.approx((0.5, 0.5))
    with_gap = areas_under_curves([([0, 10, 20], [0.0, np.nan, 1.0])])
    assert with_gap.values == pytest.approx((0.5,))


def test_area_names_runs_that_do_not_cover_the_range() -> None:
    found = areas_under_curves([(STEPS, [1] * 4), (STEPS[:2], [1, 1]), (STEPS, [np.nan] * 4)], 100, 400)
    assert found.values == (1.0, None, None)


def test_convergence_names_bad_input() -> None:
    with pytest.raises(DataError, match="no run in the history"):
        steps_to_best([])
    with pytest.raises(DataError, match=r"run number 0.*ascending"):
        areas_under_curves([([2, 1], [0, 1])])
    with pytest.raises(DataError, match="begins at 100 and ends at 100"):
        areas_under_curves([([100], [0.5])])
    with pytest.raises(DataError, match="no run has a finite value"):
        areas_under_curves([([1, 2], [np.nan, np.nan])])
    with pytest.raises(DataError, match=r"values has shape \(0,\)"):
        seed_mean([])
    with pytest.raises(DataError, match="seed number 1 is nan"):
        seed_mean([0.5, math.nan])
    with pytest.raises(SpecError, match="confidence is 95"):
        seed_mean([0.5, 0.6], 95)
    with pytest.raises(DataError, match=r"mean of below is -1"):
        ratio_of_means([1.0, 2.0], [-1.0, -1.0])


def study(curves: dict[tuple[str, int], list[float]], lost: tuple[tuple[str, int], ...] = ()) -> list[pd.DataFrame]:
    runs, history = [], []
    for (arm, seed), values in curves.items():
        run_id = f"{arm}-{seed}"
        status = "diverged" if (arm, seed) in lost else "finished"
        runs.append({"run_id": run_id, "model": "net", "arm": arm, "seed": seed, "role": "arm", "status": status})
        for place, value in enumerate(values):
            step = 100 * (place + 1)
            history.append({"run_id": run_id, "step": step, "split": "val", "quantity": "auroc", "value": value})
            history.append({"run_id": run_id, "step": step, "split": "train", "quantity": "auroc", "value": 1.0})
    runs.append(
        {"run_id": "source", "model": "net", "arm": "pretrained", "seed": 0, "role": "source", "status": "finished"}
    )
    history.append({"run_id": "source", "step": 7, "split": "val", "quantity": "auroc", "value": 1.0})
    return [pd.DataFrame(runs), pd.DataFrame(history)]


def test_table_of_a_study() -> None:
    runs, history = study(
        {
            ("random", 0): [0.5, 0.6, 0.7, 0.8],
            ("random", 1): [0.5, 0.6, 0.75, 0.7],
            ("pretrained", 0): [0.8, 0.9, 0.85, 0.8],
            ("pretrained", 1): [0.7, 0.8, 0.9, 0.9],
            ("broken", 0): [0.9, 0.5],
            ("broken", 1): [0.6, 0.7, 0.7, 0.6],
        },
        lost=(("broken", 0),),
    )
    frame = convergence_table(runs.sample(frac=1, random_state=0), history, "auroc", threshold=0.78, baseline="random")
    assert list(frame.columns) == COLUMNS
    rows = {(row["arm"], row["measure"]): row for row in frame.to_dict("records")}
    assert len(rows) == 3 * 5 - 2
    assert (
        rows["pretrained", "steps_to_threshold"]["value"] == 150
    )  # steps 100 and 200; the source's step 7 is no arm's
    random = rows["random", "steps_to_threshold"]
    assert (random["value"], random["bound"], random["censored"]) == (400, "at least", 1)
    assert "seed 1" in random["note"]
    assert rows["pretrained", "speedup_to_threshold"]["bound"] == "at least"
    best = rows["pretrained", "speedup_to_best"]
    assert (best["value"], best["bound"]) == (pytest.approx(350 / 250), "exact")
    assert "1 of 2 best at the last validation" in rows["random", "steps_to_best"]["note"]
    # A diverged run has reached the threshold before, but it has no best and no area.
    assert rows["broken", "steps_to_threshold"]["value"] == pytest.approx((100 + 400) / 2)
    assert rows["broken", "steps_to_best"]["censored"] == 1
    area = rows["broken", "area_under_curve"]
    assert (area["value"], area["censored"], area["seeds"]) == (pytest.approx(2 / 3), 1, 2)
    assert "over steps 100 to 400; without seed 0" in area["note"]
    assert rows["random", "area_under_curve"]["value"] == pytest.approx((1.95 / 3 + 1.95 / 3) / 2)
    assert not (frame["value"].isna() & (frame["note"] == "")).any()


def test_table_of_a_loss_goes_down() -> None:
    runs, history = study({("random", 0): [3.0, 1.0, 2.0], ("random", 1): [3.0, 2.0, 1.0]})
    history["quantity"] = "loss"
    frame = convergence_table(runs, history, "loss", threshold=1.5).set_index("measure")
    assert frame.loc["steps_to_best", "value"] == 250
    assert frame.loc["steps_to_threshold", "value"] == 250
    assert "speedup_to_best" not in frame.index


def test_table_where_nothing_was_finished() -> None:
    runs, history = study({("random", 0): [0.5, 0.6]}, lost=(("random", 0),))
    frame = convergence_table(runs, history, "auroc").set_index("measure")
    assert frame.loc["area_under_curve", "bound"] == "undefined"
    assert "fewer than two validated steps" in frame.loc["area_under_curve", "note"]
    assert frame.loc["steps_to_best", "bound"] == "at least"
    assert convergence_table(runs, history[:0], "auroc").empty


def test_table_names_what_is_not_there() -> None:
    runs, history = study({("random", 0): [0.5, 0.6]})
    with pytest.raises(SpecError, match=r"quantity is 'aurok'.*did you mean 'auroc'"):
        convergence_table(runs, history, "aurok")
    with pytest.raises(SpecError, match=r"baseline is 'randon'.*did you mean 'random'"):
        convergence_table(runs, history, "auroc", baseline="randon")
