from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from transfuse.report import figures, tables
from transfuse.report.html import Contents
from transfuse.report.palette import DARK, DASHES, LIGHT, arm_styles
from transfuse.results.arms import ArmComparison
from transfuse.statistics.plateau import Plateau


def curve(run_id: str, values: list[float], arm: str = "random", status: str = "finished") -> pd.DataFrame:
    steps = [10 * i for i in range(len(values))]
    return pd.DataFrame(
        {"model": "net", "arm": arm, "seed": 0, "run_id": run_id, "status": status, "step": steps, "value": values}
    )


def test_curves_hold_the_validation_values_of_the_arms(contents: Contents) -> None:
    frame = figures.learning_curves(contents.history, contents.runs, "auroc")
    assert list(frame.columns) == figures.CURVE_COLUMNS
    logged = contents.history.query("split == 'val' and quantity == 'auroc'")["value"]
    assert len(frame) == logged.notna().sum()
    assert np.isclose(frame["value"].sum(), logged.sum())
    assert frame.groupby("run_id")["step"].is_monotonic_increasing.all()


def test_source_trainings_are_no_curves(contents: Contents) -> None:
    runs = contents.runs.assign(role=["source"] * 3 + ["arm"] * (len(contents.runs) - 3))
    frame = figures.learning_curves(contents.history, runs, "auroc")
    assert set(runs["run_id"][:3]).isdisjoint(frame["run_id"])


def test_empty_tables_make_empty_curves() -> None:
    frame = figures.learning_curves(pd.DataFrame(), pd.DataFrame(), "auroc")
    assert list(frame.columns) == figures.CURVE_COLUMNS
    assert figures.mean_curves(frame).empty


def test_a_mean_is_over_all_seeds_that_finished() -> None:
    curves = pd.concat(
        [curve("a", [0.5, 0.6, 0.7]), curve("b", [0.7, 0.8]), curve("c", [0.0, 0.0, 0.0], status="diverged")]
    )
    means = figures.mean_curves(curves)
    assert means["step"].tolist() == [0, 10]  # seed b stopped after step 10
    np.testing.assert_allclose(means["value"], [0.6, 0.7])
    assert means["seeds"].tolist() == [2, 2]


@pytest.mark.parametrize("most", [30, 100, 999])
def test_thinning_keeps_both_ends_and_the_order(most: int) -> None:
    curves = pd.concat([curve("a", list(np.arange(400.0))), curve("b", list(np.arange(301.0)))], ignore_index=True)
    thin = figures.thinned(curves, most)
    assert len(thin) <= most + 2
    for run_id, last in (("a", 399), ("b", 300)):
        values = thin.loc[thin["run_id"] == run_id, "value"]
        assert values.iloc[0] == 0
        assert values.iloc[-1] == last
        assert values.is_monotonic_increasing
        assert values.diff().max() <= 2 * math.ceil(400 / (most // 2 - 1))
    assert figures.thinned(curves, 10_000) is curves


def test_forest_rows_say_what_they_show(comparison: Callable[..., Any]) -> None:
    frame = figures.forest(
        [
            ArmComparison("net", "a", "random", comparison(0.05, 0.02)),
            ArmComparison("net", "b", "random", comparison(0.01, 0.04)),
            ArmComparison("net", "c", "random", comparison(0.01, math.inf, verdict="undecided")),
            ArmComparison("net", "d", "random", comparison(math.nan, math.nan)),
            ArmComparison("other", "a", "random", comparison(0.0, 0.01)),
        ]
    )
    assert frame["label"].tolist() == [
        "+0.050 (+0.030 to +0.070) helps",
        "+0.010 (−0.030 to +0.050) can't tell",
        "+0.010 (no interval) can't tell",
        "undefined",
        "0.000 (−0.010 to +0.010) equivalent",
    ]
    assert frame["row"].tolist() == [0, 1, 2, 3, 0]
    assert frame["low"].isna().tolist() == [False, False, True, True, False]
    low, high = figures.forest_domain(frame, 0.02)
    assert low < -0.03
    assert high > 0.07


def test_an_axis_ends_where_the_metric_does(comparison: Callable[..., Any]) -> None:
    wide = figures.forest([ArmComparison("net", "a", "random", comparison(0.4, 0.6))])
    assert figures.forest_domain(wide, 0.02, span=1.0)[1] == 1
    assert figures.forest_domain(wide, 0.02)[1] > 1
    spec = figures.draw_forest(wide, margin=0.02, metric="auroc", styles=arm_styles(["a"], "a")).to_dict()
    domains = {tuple(layer["encoding"]["x"].get("scale", {}).get("domain", ())) for layer in spec["layer"]}
    assert max(high for _, high in filter(None, domains)) == 1


def test_a_word_on_why_stands_only_beside_an_open_verdict(comparison: Callable[..., Any]) -> None:
    taken = comparison(0.038, 0.03, verdict="undecided", p_difference=0.02, family=5)
    labels = figures.forest([ArmComparison("net", "a", "random", taken)])["label"].tolist()
    assert labels == ["+0.038 (+0.008 to +0.068) can't tell: Holm, 5 comparisons"]
    assert figures.difference_label(0.05, 0.03, 0.07, "helps", "not levelled off").endswith("+0.070) helps")


def test_numbers_have_a_line_of_their_own_on_a_narrow_page(comparison: Callable[..., Any]) -> None:
    frame = figures.forest([ArmComparison("net", "a", "random", comparison(0.04, 0.06))])
    spec = figures.draw_forest(frame, margin=0.02, metric="auroc", styles=arm_styles(["a"], "a")).to_dict()
    places = [layer["mark"]["dy"]["expr"] for layer in spec["layer"] if layer["mark"]["type"] == "text"]
    narrow, wide = zip(*(map(int, re.findall(r"-\d+", place)) for place in places), strict=True)
    assert len(set(narrow)) == 2  # the name above the numbers
    assert len(set(wide)) == 1
    # The band and zero keep to the interval: no text lies over them.
    marks = {layer["mark"]["type"]: layer["mark"] for layer in spec["layer"]}
    assert marks["tick"]["height"] < figures.ROW / 2
    assert "rect" not in marks


@pytest.mark.parametrize("margin", [0.02, 0.0])
def test_a_forest_without_numbers_has_a_range(margin: float) -> None:
    low, high = figures.forest_domain(figures.forest([]), margin)
    assert low < 0 < high


def test_charts_compile_with_colours_of_the_arms(contents: Contents) -> None:
    styles = arm_styles(contents.study["arms"], "random")
    curves = figures.learning_curves(contents.history, contents.runs, "auroc")
    chart = figures.draw_learning_curves(
        curves[curves["model"] == "resnet18"], quantity="auroc", styles=styles, threshold=0.8
    )
    scales = str(chart.to_dict())
    assert all(LIGHT[styles[arm].place] in scales for arm in styles)
    frame = figures.forest([row for row in contents.comparisons if row.model == "resnet18"])
    assert figures.draw_forest(frame, margin=0.02, metric="auroc", styles=styles).to_dict()["height"] == 5 * figures.ROW


def test_forty_arms_differ_by_colour_or_dash() -> None:
    styles = arm_styles([f"arm{i}" for i in range(36)], "arm3")
    assert styles["arm3"].place == 0
    assert len(set(styles.values())) == min(36, 1 + (len(LIGHT) - 1) * len(DASHES))


def _luminance(colour: str) -> float:
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("palette", "page"), [(LIGHT, "#ffffff"), (DARK, "#14171a")])
def test_colours_can_be_seen_on_their_page(palette: tuple[str, ...], page: str) -> None:
    """WCAG 2.2, 1.4.11: graphics need a contrast of at least 3:1."""
    for colour in palette:
        high, low = sorted((_luminance(colour), _luminance(page)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_one_seed_is_said_beside_an_interval_that_looks_decided(comparison: Callable[..., Any]) -> None:
    found = ArmComparison("net", "pretrained", "random", comparison(0.03, 0.02, verdict="undecided", seeds_a=1))
    assert figures.forest([found])["label"].tolist() == ["+0.030 (+0.010 to +0.050) can't tell: 1 seed"]
    (row,) = tables.arm_rows("net", ["pretrained"], "random", [], [found], [])
    assert (row.verdict, row.why) == ("undecided", "1 seed")


def test_an_arm_that_had_not_levelled_off_is_said_beside_an_interval_that_looks_decided(
    comparison: Callable[..., Any],
) -> None:
    still = {"random": Plateau(False, 0.1, 0.02, (0.1,), (200.0,), (300.0,))}
    found = ArmComparison("net", "pretrained", "random", comparison(0.03, 0.02, verdict="undecided"), still)
    assert figures.forest([found])["label"].tolist() == ["+0.030 (+0.010 to +0.050) can't tell: not levelled off"]
    (row,) = tables.arm_rows("net", ["pretrained"], "random", [], [found], [])
    assert (row.verdict, row.why) == ("undecided", "not levelled off")
