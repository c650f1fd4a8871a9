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

from transfuse.report import waterfall
from transfuse.report.html import Contents, chart_image, render
from transfuse.report.palette import arm_styles
from transfuse.results.arms import ArmComparison
from transfuse.results.causes import Waterfall, waterfalls
from transfuse.statistics.comparison import Estimate

ARMS: dict[str, dict[str, Any]] = {
    "random": {},
    "mean_var": {"rest": "mean_var"},
    "pretrained": {"depth": "all"},
    "frozen": {"depth": "all", "freeze": "all"},
}
LEVELS = {"random": 0.80, "mean_var": 0.79, "pretrained": 0.86, "frozen": 0.82}
PAIRS = [("mean_var", "random"), ("pretrained", "mean_var"), ("pretrained", "frozen")]
Make = Callable[..., Any]


def comparisons(make: Make, half: float = 0.02, **changes: Any) -> list[ArmComparison]:
    better = -1 if changes.get("metric") == "brier" else 1
    return [
        ArmComparison(
            "net",
            arm,
            baseline,
            make(
                better * (LEVELS[arm] - LEVELS[baseline]),
                half,
                values_a=(LEVELS[arm] - 0.01, LEVELS[arm] + 0.01),
                values_b=(LEVELS[baseline],),
                **changes,
            ),
        )
        for arm, baseline in PAIRS
    ]


def page(contents: Contents) -> str:
    """The page without what is not looked at here: drawing takes time."""
    return render(replace(contents, history=pd.DataFrame(), samples=()), interactive=False)


def fall_of(rows: list[ArmComparison]) -> Waterfall:
    (fall,) = waterfalls(rows, ARMS)
    return fall


def table(make: Make, half: float = 0.02, **changes: Any) -> pd.DataFrame:
    return waterfall.waterfall_table(fall_of(comparisons(make, half, **changes)))


def dots(frame: pd.DataFrame, metric: str) -> list[float]:
    """Where in the picture the bars end, in pixels from the left, from the upper bar to the lower."""
    spec = waterfall.draw_waterfall(frame, metric=metric, styles=arm_styles(ARMS, "random")).to_dict()
    found = re.findall(
        r'aria-label="[^"]*"[^>]*transform="translate\(([\d.]+),([\d.]+)\)" d="M[\d.]+,0A', chart_image(spec)
    )
    return [x for _, x in sorted((float(y), float(x)) for x, y in found)]


def test_bars_float_from_arm_to_arm(comparison: Make) -> None:
    frame = table(comparison)
    assert list(frame.columns) == waterfall.COLUMNS
    assert frame["row"].tolist() == [0, 1, 2, 3, 4]
    assert frame["kind"].tolist() == ["level", "step", "step", "level", "beside"]
    assert frame["arm"].tolist() == ["random", "mean_var", "pretrained", "pretrained", "pretrained"]
    np.testing.assert_allclose(frame["start"], [0.80, 0.80, 0.79, 0.86, 0.82])
    np.testing.assert_allclose(frame["end"], [0.80, 0.79, 0.86, 0.86, 0.86])
    np.testing.assert_allclose(frame["low"], [math.nan, 0.77, 0.84, math.nan, 0.84])
    np.testing.assert_allclose(frame["high"], [math.nan, 0.81, 0.88, math.nan, 0.88])
    assert frame["title"].tolist() == [
        "random",
        "+ weight scale: mean_var − random",
        "+ feature reuse: pretrained − mean_var",
        "pretrained",
        "beside it, adaptation: pretrained − frozen",
    ]
    assert frame["label"][1:3].tolist() == [
        "−0.010 (−0.030 to +0.010) can't tell",
        "+0.070 (+0.050 to +0.090) helps",
    ]


def test_a_step_says_why_it_decides_nothing(comparison: Make) -> None:
    rows = comparisons(comparison, verdict="undecided")
    plateau: Any = object()
    frame = waterfall.waterfall_table(fall_of([rows[0], replace(rows[1], rising={"mean_var": plateau})]))
    assert frame["label"][1].endswith(" can't tell")
    assert frame["label"][2].endswith(" can't tell: not levelled off")


def test_levels_have_their_intervals_where_they_are_known(comparison: Make) -> None:
    fall = fall_of(comparisons(comparison))
    known = Estimate(0.8, 0.75, 0.85, 0.95, "", 60)
    frame = waterfall.waterfall_table(fall, {"random": known, "pretrained": None})
    assert frame["label"][[0, 3]].tolist() == ["0.800 (0.750 to 0.850)", "0.860"]
    endless = {"random": replace(known, low=-math.inf, high=math.inf)}
    assert waterfall.waterfall_table(fall, endless)["label"][0] == "0.800"


def test_right_is_better_also_where_less_is(comparison: Make) -> None:
    upwards = dots(table(comparison), "auroc")
    frame = table(comparison, metric="brier")
    np.testing.assert_allclose(frame["end"], [0.80, 0.79, 0.86, 0.86, 0.86])
    assert frame["label"][1].startswith("+0.010 (")  # a smaller Brier score is a gain
    np.testing.assert_allclose(frame[["low", "high"]].loc[1], [0.81, 0.77])
    mirrored = dots(frame, "brier")
    assert len(upwards) == len(mirrored) == 3
    assert upwards[0] < upwards[1] == pytest.approx(upwards[2])
    assert mirrored[0] > mirrored[1] == pytest.approx(mirrored[2])


@pytest.mark.parametrize("half", [0.02, 0.3, math.inf])
def test_every_bar_and_interval_is_inside_the_picture(comparison: Make, half: float) -> None:
    frame = table(comparison, half, verdict="undecided")
    spec = waterfall.draw_waterfall(frame, metric="auroc", styles=arm_styles(ARMS)).to_dict()
    domains = {tuple(found) for found in _all(spec, "domain") if isinstance(found[0], float)}
    ((low, high),) = domains
    values = frame[["start", "end", "low", "high"]].to_numpy()
    assert low < np.nanmin(values)
    assert np.nanmax(values) <= high <= 1  # no arm has an AUROC beyond 1
    assert high == 1 or np.nanmax(values) < high
    assert high - low < 1.2 * (np.nanmax(values) - np.nanmin(values))


def test_without_intervals_the_bars_are_outlines_and_the_page_says_so(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",), seeds=1, diverged=None)
    rows = [
        replace(row, comparison=replace(row.comparison, low=-math.inf, high=math.inf, verdict="undecided", seeds_a=1))
        for row in contents.comparisons
    ]
    text = page(replace(contents, comparisons=rows))
    assert "A dashed outline is a step without an interval" in text
    assert "(no interval) can&#39;t tell: 1 seed" in text
    (fall,) = waterfalls(rows, contents.study["arms"])
    frame = waterfall.waterfall_table(fall)
    assert frame[["low", "high"]].isna().all(axis=None)
    spec = waterfall.draw_waterfall(frame, metric="auroc", styles=arm_styles(contents.study["arms"])).to_dict()
    assert "Infinity" not in json.dumps(spec)
    assert len(dots(frame, "auroc")) == 2


def test_no_step_and_no_difference_still_draw(comparison: Make) -> None:
    same = [
        ArmComparison("net", arm, base, comparison(0.0, 0.0, values_a=(0.5,), values_b=(0.5,))) for arm, base in PAIRS
    ]
    assert len(set(dots(waterfall.waterfall_table(fall_of(same)), "auroc"))) == 1


def _all(node: Any, key: str) -> list[Any]:
    """All values of a key, anywhere in a chart's definition."""
    if isinstance(node, dict):
        return [value for name, value in node.items() if name == key] + [
            found for value in node.values() for found in _all(value, key)
        ]
    return [found for value in node for found in _all(value, key)] if isinstance(node, list) else []


def test_how_to_read_names_only_what_is_there(comparison: Make) -> None:
    whole = table(comparison)
    said = waterfall.how_to_read([whole], "auroc", 0.02)
    assert "the scale of the weights alone (Mean Var less random weights), then the learned features" in said
    assert "interval of the step. The margin, below which a step does not matter, is 0.02." in said
    assert "Beside it: what training the transferred layers adds to keeping them frozen." in said
    assert "outline" not in said
    rows = comparisons(comparison)
    short = waterfall.how_to_read([waterfall.waterfall_table(fall_of(rows[1:]))], "auroc")
    assert "scale of the weights" not in short
    assert "margin" not in short
    assert short.endswith(
        "interval of the step. Beside it: what training the transferred layers adds to keeping them frozen."
    )
    plain = waterfall.how_to_read([waterfall.waterfall_table(fall_of(rows[:2]))], "auroc", 0.02)
    assert "Beside it" not in plain
    assert waterfall.how_to_read([], "auroc", 0.02) == ""


def test_the_report_shows_one_waterfall_a_network_above_the_pairs(contents: Contents) -> None:
    text = page(contents)
    assert re.findall(r'id="(fall-\d|gain-\d)"', text) == ["fall-0", "fall-1", "gain-0", "gain-1"]
    (label,) = re.findall(r'id="fall-0" role="img" aria-label="([^"]*)"', text)
    assert label.startswith("Test AUROC of cbr_small, from random to pretrained. random: 0.8")
    assert "; + feature reuse: pretrained − mean_var: +0.0" in label
    without = [row for row in contents.comparisons if row.arm != "mean_var"]
    text = page(replace(contents, comparisons=without))
    assert 'id="fall-0"' not in text
    assert "The way up to pretrained weights" not in text


def test_two_sources_have_a_waterfall_each(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",), diverged=None)
    arms = {
        **contents.study["arms"],
        "other": {"depth": "all", "weights": "run:other"},
        "other_mv": {"rest": "mean_var", "weights": "run:other"},
    }
    names = {"pretrained": "other", "mean_var": "other_mv", "random": "random"}
    more = [
        replace(row, arm=names[row.arm], baseline=names[row.baseline])
        for row in contents.comparisons
        if row.arm in ("pretrained", "mean_var")
    ]
    study = {**contents.study, "arms": arms, "models": {"net": {"weights": "run:natural"}}}
    text = page(replace(contents, study=study, comparisons=[*contents.comparisons, *more]))
    captions = re.findall(r'<figcaption>([^<]*)</figcaption>\s*<div class="chart" id="fall-', text)
    assert captions == ["net, pretrained", "net, other"]


def of_three_classes(contents: Contents, **data: Any) -> Contents:
    """With a comparison of each of three classes."""

    def classes(row: ArmComparison) -> ArmComparison:
        found = row.comparison
        own = {
            index: replace(
                found,
                values_a=tuple(value + shift for value in found.values_a),
                values_b=tuple(value + shift for value in found.values_b),
                low=found.low * (1 + index),
            )
            for index, shift in enumerate((0.02, 0.0, -0.2))
        }
        return replace(row, comparison=replace(found, per_class=own))

    study = {**contents.study, "data": {**contents.study["data"], **data}}
    return replace(contents, study=study, comparisons=[classes(row) for row in contents.comparisons])


def test_single_classes_have_waterfalls_in_a_fold_below(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",), diverged=None)
    names = ["oedema", "mass", "</b>"]
    text = page(of_three_classes(contents, classes=names))
    fold = text[text.index('<details class="classes"><summary>Each class by itself') :]
    assert text.index('id="fall-0"') < text.index('id="fall-class-0"') < text.index('id="gain-0"')
    fold = fold[: fold.index("</details>")]
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", fold)
    assert captions == ["net: oedema", "net: mass", "net: &lt;/b&gt;"]
    (label,) = re.findall(r'id="fall-class-1" role="img" aria-label="([^"]*)"', fold)
    assert label.startswith("Test AUROC (mass) of net, from random to pretrained. random: 0.8")
    assert "corrected for all classes of all comparisons of the network (Holm)" in fold
    assert "fall-class" not in page(contents)  # metrics without classes
    assert "fall-class" not in page(of_three_classes(contents, classes=["no", "yes"]))
    both = page(of_three_classes(contents, classes=["mass", "oedema"], task="multilabel"))
    assert both.count('id="fall-class-') == 2


def test_a_bar_of_one_length_is_one_difference_in_all_classes(comparison: Make) -> None:
    wide, narrow = table(comparison, 0.1), table(comparison, 0.01)
    narrow[["start", "end", "low", "high"]] += 0.3
    found = waterfall.same_lengths([wide, narrow])
    assert found[0][1] - found[0][0] == pytest.approx(found[1][1] - found[1][0])
    for (low, high), frame in zip(found, (wide, narrow), strict=True):
        values = frame[["start", "end", "low", "high"]].to_numpy()
        assert low < np.nanmin(values)
        assert np.nanmax(values) < high
    assert waterfall.same_lengths([]) == []
    ends = waterfall.same_lengths([table(comparison, 0.1), table(comparison, 0.3)], (0.0, 1.0))
    assert [high for _, high in ends] == [1, 1]  # moved within the metric's bounds, as long as before
    assert ends[0] == pytest.approx(ends[1])
    spec = waterfall.draw_waterfall(narrow, metric="auroc", styles=arm_styles(ARMS), domain=found[1]).to_dict()
    assert list(found[1]) in _all(spec, "domain")
