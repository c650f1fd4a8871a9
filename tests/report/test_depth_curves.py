"""The curve over the number of transferred blocks: which arms are on it, its numbers, its picture, its place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from transfuse.report import depth_curves
from transfuse.report.figures import PAPER_INK
from transfuse.report.html import Contents, render
from transfuse.report.palette import LIGHT, arm_styles
from transfuse.results.arms import ArmComparison, ArmEstimate
from transfuse.results.depth_curves import DepthCurve, curves_over_depth
from transfuse.statistics.comparison import Estimate

BLOCKS = ("stem", "layer1", "head")
VALUES = {"random": 0.70, "mean_var": 0.72, "wt_st@stem": 0.74, "wt_st@layer1": 0.80}


def settings(**changes: Any) -> dict[str, dict[str, Any]]:
    swept = {f"wt_st@{block}": {"depth": block, "rest": "mean_var", **changes} for block in BLOCKS}
    return {"random": {}, "mean_var": {"rest": "mean_var"}, **swept}


def estimates() -> list[ArmEstimate]:
    found = [
        ArmEstimate("net", arm, Estimate(value, value - 0.1, value + 0.1, 0.95, "patients and seeds", 60), {0: value})
        for arm, value in VALUES.items()
    ]
    return [*found, ArmEstimate("net", "wt_st@head", None, {})]


def comparisons(make: Callable[..., Any], metric: str = "auroc") -> list[ArmComparison]:
    sign = -1 if metric == "brier" else 1
    return [
        ArmComparison("net", arm, "random", make(sign * (value - VALUES["random"]), 0.03, metric=metric))
        for arm, value in VALUES.items()
        if arm != "random"
    ]


@pytest.fixture
def curve(comparison: Callable[..., Any]) -> DepthCurve:
    (found,) = curves_over_depth(settings(), estimates(), comparisons(comparison), "random")
    return found


def test_the_curve_begins_where_nothing_is_transferred_and_counts_every_arm(curve: DepthCurve) -> None:
    places = [(point.place.arm, point.place.n, point.place.m) for point in curve.points]
    assert places == [("mean_var", 0, 3), ("wt_st@stem", 1, 2), ("wt_st@layer1", 2, 1), ("wt_st@head", 3, 0)]
    assert (curve.sweep, curve.baseline, curve.level) == ("wt_st", "random", 0.70)
    assert curve.points[3].estimate is None
    assert curve.is_compared


def test_each_network_has_its_own_blocks(comparison: Callable[..., Any]) -> None:
    other = [replace(row, model="other") for row in estimates() if row.arm != "wt_st@head"]
    found = curves_over_depth(settings(), [*estimates(), *other], comparisons(comparison), "random")
    assert [(one.model, one.points[1].place.m) for one in found] == [("net", 2), ("other", 1)]
    assert [one.is_compared for one in found] == [True, False]


def test_only_an_arm_that_differs_in_depth_alone_begins_the_curve(comparison: Callable[..., Any]) -> None:
    def first(arms: dict[str, Any], **model: Any) -> str:
        return curves_over_depth(arms, estimates(), [], "random", {"net": model})[0].points[0].place.arm

    assert first(settings()) == "mean_var"
    assert first({**settings(rest="random"), "random": {"rest": "random"}}) == "random"
    assert first(settings(weights="run:x"), weights="run:x") == "mean_var"
    assert first(settings(weights="run:y"), weights="run:x") == "wt_st@stem"  # of other weights
    assert first(settings(norm="mean_var")) == "wt_st@stem"


@pytest.mark.parametrize("arms", [{"random": {}}, settings(truncate="layer1"), {"a@x": {"depth": "x"}}, {}])
def test_arms_that_differ_in_more_than_depth_are_no_sweep(arms: dict[str, Any]) -> None:
    rows = [*estimates(), ArmEstimate("net", "a@x", estimates()[0].estimate)]
    assert curves_over_depth(arms, rows, [], "random") == []
    assert curves_over_depth(settings(), [], [], "random") == []
    assert curves_over_depth(settings(), [replace(row, estimate=None) for row in estimates()], [], "random") == []


def test_the_band_is_the_interval_of_the_difference_to_the_baseline(curve: DepthCurve) -> None:
    frame = depth_curves.depth_table(curve, "auroc")
    assert list(frame) == depth_curves.COLUMNS
    assert frame["block"].tolist() == ["0", "1 · stem", "2 · layer1", "3 · head"]
    np.testing.assert_allclose(frame["value"], [0.72, 0.74, 0.80, math.nan])
    np.testing.assert_allclose(frame["low"], [0.69, 0.71, 0.77, math.nan])
    np.testing.assert_allclose(frame["high"], [0.75, 0.77, 0.83, math.nan])
    assert frame["label"].tolist()[2:] == ["+0.100 (+0.070 to +0.130) helps", "no finished run"]


def test_where_lower_is_better_the_band_lies_around_the_point_too(comparison: Callable[..., Any]) -> None:
    (curve,) = curves_over_depth(settings(), estimates(), comparisons(comparison, "brier"), "random")
    frame = depth_curves.depth_table(curve, "brier")
    np.testing.assert_allclose(frame["low"], [0.69, 0.71, 0.77, math.nan])
    np.testing.assert_allclose(frame["high"], [0.75, 0.77, 0.83, math.nan])
    assert frame["label"][2].startswith("−0.100")


def test_the_baseline_on_the_curve_is_its_own_line_and_without_comparisons_the_interval_is_the_arms(
    curve: DepthCurve, comparison: Callable[..., Any]
) -> None:
    rows = [replace(row, baseline="mean_var") for row in comparisons(comparison) if row.arm != "mean_var"]
    (on_it,) = curves_over_depth(settings(), estimates(), rows, "mean_var")
    frame = depth_curves.depth_table(on_it, "auroc")
    assert frame.loc[0, ["low", "high"]].tolist() == [0.72, 0.72]
    assert frame["label"][0] == "the baseline"
    (alone,) = curves_over_depth(settings(), estimates(), [], "random")
    frame = depth_curves.depth_table(alone, "auroc")
    np.testing.assert_allclose(frame["high"] - frame["value"], [0.1, 0.1, 0.1, math.nan])
    assert frame["label"][0] == "not compared"
    assert "where every arm of the network has one" in depth_curves.how_to_read([alone], "auroc")
    assert "the 95 % interval of its difference to random" in depth_curves.how_to_read([curve], "auroc", 0.02)
    assert "margin, 0.02" in depth_curves.how_to_read([curve], "auroc", 0.02)
    assert depth_curves.how_to_read([], "auroc") == ""


def test_an_infinite_interval_is_no_band(curve: DepthCurve) -> None:
    point = curve.points[1]
    assert point.against is not None
    assert point.estimate is not None
    endless = replace(point.against.comparison, low=-math.inf, high=math.inf)
    point = point._replace(against=replace(point.against, comparison=endless))
    frame = depth_curves.depth_table(replace(curve, points=(curve.points[0], point)), "auroc")
    np.testing.assert_allclose(frame["high"], [0.82, 0.84])  # all their own
    point = point._replace(estimate=replace(point.estimate, low=-math.inf, high=math.inf))
    bare = replace(curve, points=(point, *curve.points[2:]))
    assert depth_curves.depth_table(bare, "auroc").loc[0, ["low", "high"]].isna().all()
    styles = arm_styles(settings())
    drawing = depth_curves.depth_drawing(bare, metric="auroc", margin=0.02, styles=styles, palette=LIGHT, ink=PAPER_INK)
    assert not re.search("Infinity|NaN", json.dumps(drawing.chart.to_dict()))


def test_the_table_says_what_the_curve_shows(curve: DepthCurve) -> None:
    found = depth_curves.depth_numbers(curve, "auroc")
    assert found.caption == "net, wt_st"
    assert found.heads == ("Pretrained up to", "n/m", "Test AUROC", "Difference to random")
    assert found.rows[0] == ("nothing", "0/3", "0.720\n0.620 to 0.820", "+0.020\n(−0.010 to +0.050) can't tell")
    assert found.rows[3] == ("head", "3/0", "–", "no finished run")


def test_the_page_draws_the_curve_where_the_gain_sits_and_folds_its_table(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",), arms=settings(), diverged=None)
    text = render(replace(contents, history=pd.DataFrame(), samples=()))
    assert text.index("Where does the gain sit?") < text.index('id="depth-0"') < text.index('id="arms"')
    (label,) = re.findall(r'id="depth-0" role="img" aria-label="([^"]*)"', text)
    assert label.startswith("Test AUROC of net by the number of blocks that start pretrained, wt_st. 0: 0.8")
    fold = text[text.index("<details><summary>The curve in numbers") :]
    assert fold.index("Difference to random") < fold.index("</details>")
    specs = json.loads(re.search(r'id="chart-specs">(.*?)</script>', text, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert specs["depth-0"]["width"] == "container"
