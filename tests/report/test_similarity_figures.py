from __future__ import annotations

import itertools
import json
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from transfuse.errors import DataError
from transfuse.report import heatmaps as maps
from transfuse.report import similarity_figures as figures
from transfuse.report.coefficient_boxes import box_table
from transfuse.report.figures import PAGE_INK, PAPER_INK
from transfuse.report.hover import titled
from transfuse.report.html import chart_image
from transfuse.report.palette import DARK, LIGHT, PAGE, Style, arm_styles
from transfuse.report.scales import depth_colours

BLOCKS = ["conv1", *(f"layer{stage}.{unit}" for stage in range(1, 5) for unit in range(4))]
SVG = "{http://www.w3.org/2000/svg}"


def similarities(rows: list[str] = BLOCKS, columns: list[str] | None = None, **changes: Any) -> pd.DataFrame:
    pairs = list(itertools.product(rows, columns or rows))
    values = np.linspace(0, 1, len(pairs))
    frame = pd.DataFrame(pairs, columns=["row", "column"]).assign(value=values, independent=0.05, samples=5120)
    return frame.assign(**changes)


def drawn(chart: Any) -> tuple[str, list[str]]:
    """The chart as a still picture, and what its marks say under the pointer."""
    svg = titled(chart_image(chart.to_dict()))
    return svg, [str(title.text) for title in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def cells(svg: str) -> dict[str, tuple[float, float, str]]:
    """Left, top and colour of each cell by what it says."""
    found = {}
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        title = path.find(f"{SVG}title")
        if title is not None:
            left, top = re.match(r"M(-?[\d.]+),(-?[\d.]+)", path.attrib["d"]).groups()  # type: ignore[union-attr]
            found[str(title.text)] = (float(left), float(top), path.attrib["fill"])
    return found


# -- heat maps ------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 17, 34])
def test_every_cell_of_a_heat_map_tells_its_value(count: int) -> None:
    names = [f"layer{index // 6}.{index % 6}" for index in range(count)]
    svg, titles = drawn(figures.heatmap(similarities(names), measure="CKA"))
    assert len(titles) == count**2
    value = 1 / (count**2 - 1)
    assert titles[1] == f"{names[0]} and {names[1]}: CKA {value:.3f}, independent features: 0.050, 5,120 samples"
    labels = [str(text.text) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert all(labels.count(name) == 2 for name in names)  # block names on both axes
    assert "url(#gradient" in svg  # one colour bar, not a symbol for each value
    assert "aria-" not in svg.replace("aria-hidden", "")  # said once, by the titles


def test_the_first_block_is_at_the_lower_left() -> None:
    found = cells(drawn(figures.heatmap(similarities(list("abcdefghijk"))))[0])
    places = {text.split(":")[0]: place for text, place in found.items()}
    assert places["a and a"][0] < places["a and k"][0]  # columns go to the right
    assert places["a and a"][1] > places["k and a"][1]  # rows go up


def test_the_order_is_that_of_the_table_not_of_the_alphabet() -> None:
    names = ["stem", "layer10", "layer9", *"defghijk"]
    found = cells(drawn(figures.heatmap(similarities(names)))[0])
    lefts = [found[text][0] for text in found if text.startswith("stem and")]
    assert lefts == sorted(lefts)


def test_one_colour_scale_whatever_the_values() -> None:
    low = cells(drawn(figures.heatmap(similarities(value=0.25)))[0])
    mixed = cells(drawn(figures.heatmap(similarities(value=[0.25, *[0.9] * (len(BLOCKS) ** 2 - 1)])))[0])
    assert {colour for *_, colour in low.values()} == {next(iter(mixed.values()))[2]}
    ends = cells(drawn(figures.heatmap(similarities(list("abcdefghijk"))))[0])
    rgb = [tuple(int(code[i : i + 2], 16) for i in (1, 3, 5)) for code in (maps.SCALE[0], maps.SCALE[-1])]
    colours = [colour for *_, colour in ends.values()]
    assert [colours[0], colours[-1]] == [f"rgb({r}, {g}, {b})" for r, g, b in rgb]


def test_values_outside_the_scale_are_drawn_at_its_ends_and_said() -> None:
    frame = similarities(list("abcdefghijk"))
    frame.loc[[0, 1, 2], "value"] = [-0.027, -0.01, -1e-9]
    frame.loc[120, "value"] = 1.0125
    svg, titles = drawn(figures.heatmap(frame, title="before"))
    assert "2 values below 0 drawn as 0 (lowest −0.027)" in svg
    assert "1 value above 1 drawn as 1 (highest 1.012)" in svg
    assert titles[0].startswith("a and a: similarity −0.027")  # the true one
    colours = [place[2] for place in cells(svg).values()]
    assert colours[0] == colours[1] == colours[2]
    untitled, _ = drawn(figures.heatmap(frame))
    assert "2 values below 0" in untitled
    assert "drawn as" not in drawn(figures.heatmap(similarities()))[0]


def test_a_pair_without_a_value_is_a_cell_that_says_so() -> None:
    frame = similarities(list("abcdefghijk"))
    frame.loc[5, "value"] = np.nan
    svg, titles = drawn(figures.heatmap(frame))
    assert "1 pair without a value: grey" in svg
    assert len(titles) == 121
    assert any(text.startswith("a and f: similarity undefined") for text in titles)


def test_small_maps_print_their_values_and_large_ones_do_not() -> None:
    assert "0.33</text>" in drawn(figures.heatmap(similarities(["a", "b"])))[0]
    assert "0.33</text>" not in drawn(figures.heatmap(similarities(list("abcdefghi"), value=1 / 3)))[0]


def test_a_heat_map_takes_the_rows_of_a_study_and_networks_of_different_depth() -> None:
    frame = similarities(["a", "b", "c"], ["x", "y"]).rename(columns={"row": "block", "column": "other_block"})
    chart = figures.heatmap(frame.drop(columns=["independent", "samples"])).to_dict()
    assert chart["width"] / 2 == chart["height"] / 3
    assert len(drawn(figures.heatmap(frame))[1]) == 6


def test_names_cannot_break_out_of_the_picture() -> None:
    bad = '</title><script>alert("1")</script>&'
    svg, titles = drawn(figures.heatmap(similarities([bad, "b"])))
    assert "<script" not in svg
    assert titles[0].startswith(f"{bad} and {bad}: ")


def test_multiples_share_one_legend_and_one_size_of_cell() -> None:
    parts = [similarities(BLOCKS[:count]).assign(arm=arm) for arm, count in (("rand", 5), ("imnet", 9), ("mv", 9))]
    chart = figures.heatmaps(pd.concat(parts), "arm", measure="CCA")
    svg, titles = drawn(chart)
    assert len(titles) == 25 + 2 * 81
    assert svg.count("<linearGradient") == 1
    sides = {round(part["width"] / count, 6) for part, count in zip(chart.to_dict()["concat"], (5, 9, 9), strict=True)}
    assert len(sides) == 1
    assert all(name in svg for name in ("rand", "imnet", "mv"))
    assert (
        figures.heatmaps(pd.concat([similarities(["x", "y"]).assign(arm=a) for a in "abcd"]), "arm").to_dict()[
            "columns"
        ]
        == 2
    )


def test_charts_hold_more_rows_than_the_limit_of_altair() -> None:
    names = [f"block{index}" for index in range(72)]
    assert len(figures.heatmap(similarities(names)).to_dict()["datasets"].popitem()[1]) == 5184


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            pd.DataFrame({"row": ["a"], "value": [1.0]}),
            "no column column; expected row, column, value; found row, value",
        ),
        (similarities()[:0], "is empty"),
        (pd.concat([similarities(["a"])] * 2), "'a' with 'a' has several values"),
    ],
)
def test_a_heat_map_refuses(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        figures.heatmap(frame)
    with pytest.raises(DataError, match="no column arm"):
        figures.heatmaps(similarities(), "arm")


# -- colours ------------------------------------------------------------


def _luminance(colour: str) -> float:
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_scale_gets_lighter_all_the_way() -> None:
    """What colour-blind eyes, and a black-and-white print, read is the lightness."""
    lightness = np.cbrt([_luminance(colour) for colour in maps.SCALE])
    assert np.diff(lightness).min() > 0.04


@pytest.mark.parametrize("page", ["#ffffff", "#14171a"])
def test_lines_of_blocks_can_be_seen_on_every_page(page: str) -> None:
    """WCAG 2.2, 1.4.11: graphics need a contrast of at least 3:1."""
    for colour in depth_colours(17):
        high, low = sorted((_luminance(colour), _luminance(page)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3, colour
    assert len(set(depth_colours(34))) == 34
    assert depth_colours(1) == depth_colours(2)[:1]


# -- lines, points, boxes ------------------------------------------------------------


def by_block(**changes: Any) -> pd.DataFrame:
    rows = [
        (arm, block, level - 0.01 * i)
        for arm, level in (("imnet", 0.9), ("rand", 0.5))
        for i, block in enumerate(BLOCKS)
    ]
    frame = pd.DataFrame(rows, columns=["arm", "block", "value"])
    return frame.assign(low=frame["value"] - 0.05, high=frame["value"] + 0.05, independent=0.1).assign(**changes)


def test_lines_by_block_have_their_interval_and_the_level_of_independent_features() -> None:
    svg, titles = drawn(figures.block_lines(by_block(), measure="CCA", domain=(0, 1)))
    assert "imnet, conv1: CCA 0.900 (0.850 to 0.950)" in titles
    assert "conv1: independent features 0.100" in titles
    assert len(titles) == 2 * 17 + 17  # the shared level once
    assert svg.count("independent features</text>") == 2  # the name, and the page's colour around it
    labels = [str(text.text) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert [label for label in labels if label in BLOCKS] == BLOCKS


def test_levels_that_differ_are_drawn_for_each_arm() -> None:
    frame = by_block(independent=[0.1] * 17 + [0.3] * 17)
    assert len(drawn(figures.block_lines(frame))[1]) == 4 * 17


def test_lines_without_interval_level_or_arm() -> None:
    plain = by_block()[["block", "value"]][:5]
    svg, titles = drawn(figures.block_lines(plain, measure="l2"))
    assert titles[0] == "conv1: l2 0.900"
    assert "independent features" not in svg
    unbounded = by_block(low=-np.inf, high=np.inf)
    assert drawn(figures.block_lines(unbounded, measure="CCA"))[1][17] == "imnet, conv1: CCA 0.900"
    assert '"legend": null' in json.dumps(figures.block_lines(plain).to_dict())


def test_an_undefined_value_breaks_the_line_and_is_not_drawn_as_0() -> None:
    frame = by_block()[["arm", "block", "value"]][:6]
    frame.loc[2, "value"] = np.nan
    _, titles = drawn(figures.block_lines(frame, measure="CCA", domain=(0, 1)))
    assert not any(re.search(r"layer1\.1: CCA 0\.0", title) for title in titles)


def test_charts_take_the_colours_of_the_page_and_of_the_arms() -> None:
    styles = arm_styles(["imnet", "rand"], "rand")
    spec = json.dumps(figures.block_lines(by_block(), styles=styles, palette=PAGE, ink=PAGE_INK).to_dict())
    assert styles["rand"].colour(PAGE) in spec
    assert "var(--muted)" in spec
    assert all(colour not in spec for colour in (*LIGHT, *DARK))


def test_dynamics_show_step_0_on_a_logarithmic_axis() -> None:
    rows = [
        (step, block, 0.5 + 0.1 * np.log10(1 + step)) for block in BLOCKS[:3] for step in (0, 1, 10, 100, 1000, 3000)
    ]
    svg, titles = drawn(figures.dynamics(pd.DataFrame(rows, columns=["step", "block", "value"])))
    assert "conv1, step 0: CCA with the final state 0.500" in titles
    assert len(titles) == 18
    assert all(f">{label}</text>" in svg for label in ("0", "1", "10", "100", "1k", "3k", *BLOCKS[:3]))
    lefts = [cell[0] for text, cell in _points(svg).items() if text.startswith("conv1")]
    gaps = np.diff(lefts)
    assert gaps[3] == pytest.approx(gaps[2], rel=0.1)  # decades of equal width
    with pytest.raises(DataError, match="a step is -1"):
        figures.dynamics(pd.DataFrame({"step": [-1], "block": ["a"], "value": [0.1]}))


def _points(svg: str) -> dict[str, tuple[float, float]]:
    found = {}
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        title = path.find(f"{SVG}title")
        if title is not None:
            x, y = re.search(r"translate\((-?[\d.]+),(-?[\d.]+)\)", path.attrib["transform"]).groups()  # type: ignore[union-attr]
            found[str(title.text)] = (float(x), float(y))
    return found


def test_scatter_has_one_range_on_both_axes_and_the_line_of_no_change() -> None:
    frame = pd.DataFrame({"block": ["a", "b"], "initial": [0.2, 0.6], "final": [0.2, -0.1]})
    chart = figures.scatter(frame, measure="CCA")
    svg, titles = drawn(chart)
    assert titles == [
        "a, at initialisation 0.200, after training 0.200",
        "b, at initialisation 0.600, after training −0.100",
    ]
    x, y = _points(svg)[titles[0]]
    assert x == pytest.approx(figures.SQUARE - y)  # on the line
    spec = chart.to_dict()
    assert spec["width"] == spec["height"]
    assert json.dumps(spec).count('"domain": [-0.1, 1.0]') == 2


def test_boxes_are_the_five_numbers_and_random_is_grey() -> None:
    rng = np.random.default_rng(0)
    frame = pd.concat(
        [
            pd.DataFrame({"block": block, "kind": kind, "value": rng.random(101)})
            for block in ("a", "b")
            for kind in ("random features", "features")
        ]
    )
    table = box_table(frame).set_index(["block", "kind"])
    values = frame[(frame["block"] == "b") & (frame["kind"] == "random features")]["value"]
    numbers = table.loc[("b", "random features"), ["least", "lower", "median", "upper", "most"]].tolist()
    assert numbers == pytest.approx(np.percentile(values, [0, 25, 50, 75, 100]))
    metric = pd.DataFrame({"block": ["a", "b"], "value": [0.8, 0.9]})
    svg, titles = drawn(figures.coefficients_box(frame, metric=metric, metric_name="AUPRC"))
    assert sum("101 coefficients" in title for title in titles) == 4
    assert "b: AUPRC 0.900" in titles
    fills = {text.split(",")[1].split(":")[0]: colour for text, (_, _, colour) in _bars(svg).items() if "," in text}
    assert fills == {" features": LIGHT[1], " random features": PAPER_INK.band}
    named = {"features": Style(2, (1, 0))}
    own = drawn(figures.coefficients_box(frame, styles=named))[0]
    assert {colour for text, (_, _, colour) in _bars(own).items() if "a, features" in text} == {LIGHT[2]}
    assert len(drawn(figures.coefficients_box(frame))[1]) == 4
    with pytest.raises(DataError, match="a coefficient is not finite"):
        figures.coefficients_box(frame.assign(value=np.nan))


def test_boxes_of_coefficients_that_are_all_one_are_lines_in_their_colour() -> None:
    frame = pd.DataFrame(
        {"block": "a", "kind": ["features"] * 9 + ["other"] * 9, "value": [1.0] * 9 + [0.1, 0.5, 0.9] * 3}
    )
    (data,) = figures.coefficients_box(frame).to_dict()["datasets"].values()
    rows = {row["kind"]: row["line"] for row in data}
    assert rows == {"features": LIGHT[1], "other": PAPER_INK.page}


def test_the_chosen_cut_is_marked_in_the_boxes() -> None:
    frame = pd.DataFrame({"block": ["a", "b", "a", "b"], "kind": "features", "value": [0.1, 0.2, 0.3, 0.4]})
    titles = drawn(figures.coefficients_box(frame, chosen="b"))[1]
    assert [title for title in titles if "cut" in title] == ["the network is cut above b"]
    assert not any("cut" in title for title in drawn(figures.coefficients_box(frame))[1])
    with pytest.raises(DataError, match="chosen is 'c', which has no coefficients"):
        figures.coefficients_box(frame, chosen="c")


def test_a_legend_of_long_names_has_several_rows() -> None:
    kinds = [f"random and pretrained, start {place}" for place in range(4)]
    frame = pd.DataFrame({"block": "a", "kind": kinds, "value": [0.1, 0.2, 0.3, 0.4]})
    assert '"columns": 1' in json.dumps(figures.coefficients_box(frame).to_dict())


def _bars(svg: str) -> dict[str, tuple[float, float, str]]:
    found = {}
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        title = path.find(f"{SVG}title")
        if title is not None:
            found[str(title.text)] = (0.0, 0.0, path.attrib["fill"])
    return found


def test_curves_of_classes_whole_and_zoomed() -> None:
    rows = [
        (label, run, step, base + step / 1000 + 0.02 * run)
        for label, base in (("Edema", 0.5), ("Atelectasis", 0.6))
        for run in (0, 1)
        for step in range(0, 301 - 100 * run, 50)
    ]
    frame = pd.DataFrame(rows, columns=["label", "run_id", "step", "value"])
    _, titles = drawn(figures.curve(frame, quantity="AUROC"))
    assert len(titles) == 2 * 5  # to step 200, as far as both runs came
    assert "Edema, step 100: AUROC 0.610" in titles
    chart = figures.curve(frame, (0, 100), quantity="AUROC")
    assert len(drawn(chart)[1]) == 2 * 3
    assert '"domain": [0, 100]' in json.dumps(chart.to_dict())
    with pytest.raises(DataError, match="the steps run from 0 to 300"):
        figures.curve(frame, (1000, 2000))


@pytest.mark.parametrize(
    "draw", [figures.block_lines, figures.dynamics, figures.scatter, figures.coefficients_box, figures.curve]
)
def test_figures_name_what_the_table_lacks(draw: Any) -> None:
    with pytest.raises(DataError, match=r"no column .*; expected .*; found arm"):
        draw(pd.DataFrame({"arm": ["a"]}))


def test_axes_and_legends_get_no_titles() -> None:
    spec = figures.block_lines(by_block()).to_dict()
    svg, titles = drawn(figures.block_lines(by_block()))
    assert not any("axis" in title or "legend" in title for title in titles)
    assert "role=" not in svg
    spec["config"]["aria"] = False  # as the report sets it
    assert titled(chart_image(spec)).count("<title>") == len(titles)


def test_histograms_lie_over_one_another_and_tell_their_bins() -> None:
    edges = np.linspace(-0.3, 0.3, 11)
    rng = np.random.default_rng(0)
    parts = []
    for state, width in (("at the start", 0.02), ("trained", 0.1)):
        values, _ = np.histogram(rng.normal(0, width, 1000), edges)
        parts.append(pd.DataFrame({"state": state, "low": edges[:-1], "high": edges[1:], "value": values}))
    svg, titles = drawn(figures.histogram(pd.concat(parts)))
    assert len(titles) == 20
    assert f"trained, -0.3 to -0.24: count {parts[1]['value'].iloc[0]}" in titles
    assert all(f">{state}</text>" in svg for state in ("at the start", "trained"))
    assert len(drawn(figures.histogram(parts[0].drop(columns="state")))[1]) == 10
    with pytest.raises(DataError, match="low < high"):
        figures.histogram(parts[0].assign(high=-1.0))
