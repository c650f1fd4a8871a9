"""Tables on how fast arms learn, and how much is reuse of features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pytest

from transfuse.report.drawings import Table
from transfuse.report.html import Contents, render
from transfuse.report.learning import MOST_CLASSES, class_curves, convergence, reuse
from transfuse.report.palette import arm_styles
from transfuse.results.recommend import recommend

RANDOM, PRETRAINED, MEAN_VAR = {}, {"depth": "all"}, {"rest": "mean_var"}  # type: ignore[var-annotated]


def a_run(arm: str, seed: int, test: float = math.nan) -> dict[str, Any]:
    return {
        "run_id": f"{arm} {seed}",
        "model": "net",
        "arm": arm,
        "seed": seed,
        "role": "arm",
        "status": "finished",
        "test_auroc": test,
    }


def curves(of: Mapping[str, Sequence[Sequence[float]]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and their validations at steps 10, 20, ...: one list a seed."""
    runs = [a_run(arm, seed) for arm, seeds in of.items() for seed in range(len(seeds))]
    history = [
        {"run_id": run["run_id"], "step": 10 * (i + 1), "split": "val", "quantity": "auroc", "value": value}
        for run in runs
        for i, value in enumerate(of[run["arm"]][run["seed"]])
    ]
    return pd.DataFrame(runs), pd.DataFrame(history)


def cells(table: Table) -> dict[tuple[str, str], str]:
    return {(row[0], head): cell for row in table.rows for head, cell in zip(table.heads[1:], row[1:], strict=True)}


def test_convergence_has_means_with_intervals_and_the_baseline_has_no_speed_up() -> None:
    slow, fast = [[0.5, 0.6, 0.8], [0.5, 0.8, 0.9]], [[0.8, 0.7, 0.7], [0.7, 0.8, 0.7]]
    runs, history = curves({"random": slow, "pretrained": fast})
    (table,) = convergence(runs, history, "auroc", 0.75, "random")
    assert (table.caption, table.heads) == (
        "net",
        (
            *("Arm", "Steps to the threshold", "Speed-up to the threshold"),
            *("Steps to the best", "Speed-up to the best", "Area under the curve"),
        ),
    )
    found = cells(table)
    assert found["random", "Steps to the threshold"] == "25\n0 to 89"  # never before step 0
    assert found["random", "Speed-up to the best"] == found["random", "Speed-up to the threshold"] == "baseline"
    assert found["pretrained", "Speed-up to the best"] == "2.000\n30 over 15 steps"  # never the ratio alone
    assert found["random", "Steps to the best"] == "30"  # no spread, no interval
    value, _, span = found["random", "Area under the curve"].partition("\n")
    low, high = map(float, span.split(" to "))
    assert float(value) == pytest.approx((0.625 + 0.75) / 2, abs=1e-3)
    assert 0 <= low < high <= 1


def test_a_run_that_never_reaches_the_threshold_makes_bounds() -> None:
    never, soon = [[0.5, 0.6, 0.6], [0.5, 0.6, 0.8]], [[0.8, 0.7, 0.7], [0.7, 0.8, 0.7]]
    runs, history = curves({"random": never, "pretrained": soon, "none": [never[0]] * 2})
    found = cells(convergence(runs, history, "auroc", 0.75, "random")[0])
    assert found["random", "Steps to the threshold"].startswith("≥ ")
    assert found["pretrained", "Speed-up to the threshold"].startswith("≥ ")
    assert found["random", "Steps to the threshold"] == "≥ 30\n1 of 2 never"
    assert found["none", "Speed-up to the threshold"] == "undefined\n≥ 30 over ≥ 30 steps"  # a bound over a bound


def test_without_a_threshold_or_with_a_diverged_arm() -> None:
    runs, history = curves({"random": [[0.5, 0.6]], "lost": [[0.5, 0.6]]})
    runs.loc[runs["arm"] == "lost", "status"] = "diverged"
    (table,) = convergence(runs, history, "auroc", None, "random")
    assert table.heads == ("Arm", "Steps to the best", "Speed-up to the best", "Area under the curve")
    assert cells(table)["lost", "Area under the curve"] == "undefined"


def test_nothing_to_converge_is_no_table() -> None:
    runs, history = curves({"random": [[0.5, 0.6]]})
    assert convergence(runs.iloc[:0], history, "auroc", None, "random") == []
    assert convergence(runs, history.iloc[:0], "auroc", None, "random") == []
    assert convergence(runs, history, "loss", None, "random") == []
    assert convergence(runs, history, "auroc", None, "an arm without runs") == []


def measured(**arms: Sequence[float]) -> pd.DataFrame:
    return pd.DataFrame([a_run(arm, seed, value) for arm, values in arms.items() for seed, value in enumerate(values)])


STUDY: dict[str, Any] = {
    "arms": {"random": RANDOM, "pretrained": PRETRAINED, "mean_var": MEAN_VAR},
    "models": {"net": {"weights": "run:nat"}},
}


def test_reuse_is_a_share_and_a_gain() -> None:
    runs = measured(random=[0.50, 0.48, 0.52], pretrained=[0.80, 0.82, 0.78], mean_var=[0.72, 0.70, 0.74])
    (table,) = reuse(STUDY, runs, "auroc")
    assert table.heads == ("Network", "Of test AUROC", "Value", "95 % interval over seeds")
    assert [row[:3] for row in table.rows] == [
        ("net", "feature-reuse share, (WT − ST) / WT", "0.100"),
        ("net", "relative gain, WT / RI", "1.600"),
    ]
    assert all(" to " in row[3] for row in table.rows)
    assert table.words == 2


def test_reuse_of_one_seed_has_no_interval_and_says_why() -> None:
    (table,) = reuse(STUDY, measured(random=[0.5], pretrained=[0.8]), "auroc")
    ((_, head, value, span),) = table.rows
    assert (head, value) == ("relative gain, WT / RI", "1.600")
    assert span.startswith("–\nno interval")


def test_reuse_needs_its_arms() -> None:
    assert reuse(STUDY, measured(random=[0.5, 0.6], mean_var=[0.7, 0.7]), "auroc") == []
    assert reuse(STUDY, measured(random=[0.5], pretrained=[math.nan]), "auroc") == []
    assert reuse(STUDY, measured(random=[0.5], pretrained=[0.6]), "auprc") == []
    assert reuse(STUDY, pd.DataFrame(), "auroc") == []
    assert reuse(STUDY, measured(random=[0.0, 0.0], pretrained=[0.6, 0.7]), "auroc") == []  # no ratio to 0


def test_arms_with_weights_of_their_own_are_told_apart() -> None:
    arms = {**STUDY["arms"], "other": {"depth": "all", "weights": "run:other"}}
    runs = measured(random=[0.5, 0.51], pretrained=[0.8, 0.81], mean_var=[0.7, 0.71], other=[0.6, 0.61])
    (table,) = reuse({**STUDY, "arms": arms}, runs, "auroc")
    assert [row[1] for row in table.rows] == [
        "feature-reuse share, (WT − ST) / WT\npretrained and mean_var",  # not the other weights with these statistics
        "relative gain, WT / RI\npretrained and random",
        "relative gain, WT / RI\nother and random",
    ]


def test_the_page_has_the_tables_before_the_insides(build: Callable[..., Contents]) -> None:
    text = render(build(), interactive=False)
    assert 'href="#convergence"' in text
    assert 'href="#reuse"' in text
    assert text.index('id="arms"') < text.index('id="convergence"') < text.index('id="reuse"') < text.index('id="data"')
    assert "makes a mean a bound" in text
    assert "makes a mean a bound" not in render(build(study={"threshold": None}), interactive=False)


def test_each_class_has_its_curves_and_the_first_steps_are_shown_where_there_are_some() -> None:
    runs, history = curves({"random": [[0.5 + 0.01 * i for i in range(20)]], "pretrained": [[0.7] * 20]})
    of_classes = [history.assign(quantity=f"auroc/{label}") for label in ("edema", "<b>mass</b>")]
    styles = arm_styles(["random", "pretrained"], "random")
    drawn = class_curves(runs, pd.concat([history, *of_classes]), "auroc", styles)
    assert [one.name for one in drawn] == ["net, the first steps", "net, edema", "net, <b>mass</b>"]
    assert drawn[1].description == "AUROC of edema by training step."
    spec = drawn[0].chart.to_dict()
    steps = [value["step"] for value in spec["datasets"][spec["layer"][0]["data"]["name"]]]
    assert max(steps) <= 10 + 190 / 4
    assert len({*steps}) >= 4
    few, short = curves({"random": [[0.5, 0.6]]})
    assert class_curves(few, short, "auroc", styles) == []
    many = pd.concat([short, *(short.assign(quantity=f"auroc/{number}") for number in range(40))])
    assert len(class_curves(few, many, "auroc", styles)) == MOST_CLASSES
    study = {"arms": {"random": {}}}
    page = render(Contents(study, recommend(study, []), runs=few, history=many), interactive=False)
    assert "Each class by itself" in page
