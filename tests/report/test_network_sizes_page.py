"""How small the network may be, on the page: the chart's table, the names beside points, the section."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from transfuse.report.figures import PAPER_INK
from transfuse.report.html import Contents, chart_image, render
from transfuse.report.labels import place_labels
from transfuse.report.network_sizes import size_drawing, size_table
from transfuse.report.palette import arm_styles
from transfuse.report.pareto_figures import (
    COLUMNS,
    HEIGHT,
    WIDTH,
    _ticks,
    chart_costs,
    cost_domain,
    draw_pareto,
    margin_line,
    pareto_table,
    value_domain,
)
from transfuse.results.network_sizes import Answer, ArmSize, Name, Sizes, Timing

ARMS = {
    # arm: parameters, MACs, value, P(not dominated), P(not worse)
    "stub": (10_000, 4_000_000, 0.70, 1.0, 0.001),
    "cut": (2_000_000, 90_000_000, 0.88, 0.97, 0.96),
    "slim": (2_000_000, 90_000_000, 0.86, 0.03, 0.80),
    "full": (9_000_000, 400_000_000, 0.89, 0.70, 1.0),
}


def make_sizes(models: tuple[str, ...] = ("net",), macs: bool = True, metric: str = "auroc", timed: str = "") -> Sizes:
    rows = []
    for factor, model in enumerate(models, 1):
        for arm, (parameters, passes, value, place, chance) in ARMS.items():
            costs: dict[str, float] = {"parameters": factor * parameters} | ({"macs": factor * passes} if macs else {})
            timing = Timing(passes / 5e7, passes / 6e7, passes / 4e7) if timed else None
            costs |= {"latency": timing.median} if timing else {}
            rows.append(
                ArmSize(
                    Name(model, arm),
                    costs,
                    value,
                    value - 0.03,
                    value + 0.03,
                    dict.fromkeys(costs, place),
                    dict.fromkeys(costs, 0.5) if len(models) > 1 else {},
                    chance,
                    timing=timing,
                )
            )
    best, cut = Name(models[0], "full"), Name(models[0], "cut")
    answers = [
        Answer("", cost, best, cut, cut, 0.96, 3, 3, (rows[1].costs[cost], rows[3].costs[cost]))
        for cost in rows[0].costs
    ]
    return Sizes(metric, 0.02, tuple(rows), tuple(answers), timed)


def test_the_front_is_that_of_the_means_and_equal_arms_stand_side_by_side() -> None:
    frame = pareto_table(make_sizes(), "macs")
    assert list(frame) == COLUMNS
    assert dict(zip(frame["arm"], frame["front"], strict=True)) == {
        "stub": True,
        "cut": True,
        "slim": False,
        "full": True,
    }
    by_arm = frame.set_index("arm")
    assert by_arm.loc["cut", "place"] < by_arm.loc["cut", "cost"] < by_arm.loc["slim", "place"]
    assert by_arm.loc["full", "place"] == by_arm.loc["full", "cost"]
    low, high = cost_domain(frame["cost"])
    assert frame["place"].between(low, high).all()
    bottom, top = value_domain(frame, "auroc", 0.02)
    assert bottom < frame["low"].min()
    assert frame["high"].max() < top
    for metric, wide in (("auroc", 0.4), ("brier", 0.4)):  # a margin that is wider than the arms lie apart
        bottom, top = value_domain(frame, metric, wide)
        assert bottom < margin_line(frame, metric, wide) < top


def test_where_lower_is_better_the_front_is_below() -> None:
    frame = pareto_table(make_sizes(metric="brier"), "macs").set_index("arm")
    assert frame["front"].to_dict() == {"stub": True, "cut": False, "slim": False, "full": False}
    chart = size_drawing(
        make_sizes(metric="brier"), "macs", arm_styles(ARMS), ("black",) * 8, PAPER_INK
    ).chart.to_dict()
    assert "best mean + 0.02" in json.dumps(chart)


def test_an_arm_that_was_not_judged_is_not_on_the_front_and_sets_no_line() -> None:
    found = make_sizes()
    out = replace(found.rows[3], not_dominated={}, not_worse=math.nan, reason="training had not levelled off")
    frame = pareto_table(replace(found, rows=(*found.rows[:3], out)), "macs")
    assert frame.set_index("arm")["front"].to_dict() == {"stub": True, "cut": True, "slim": False, "full": False}
    chart = draw_pareto(frame, cost="macs", metric="auroc", margin=0.02, styles=arm_styles(ARMS)).to_dict()
    lines = [row for rows in chart["datasets"].values() for row in rows if "text" in row]
    assert [line["value"] for line in lines] == [pytest.approx(0.88 - 0.02)]
    nobody = [replace(row, not_dominated={}, reason="one seed") for row in found.rows]
    assert pareto_table(replace(found, rows=tuple(nobody)), "macs")["front"].sum() == 3


def test_parameters_are_drawn_where_macs_are_unknown_or_the_same() -> None:
    assert chart_costs(make_sizes()) == ["macs"]
    assert chart_costs(make_sizes(macs=False)) == ["parameters"]
    found = make_sizes()
    same = tuple(replace(row, costs={**row.costs, "macs": 7}) for row in found.rows)
    assert chart_costs(replace(found, rows=same)) == ["parameters"]
    some = (replace(found.rows[0], costs={"parameters": 5}), *found.rows[1:])
    assert chart_costs(replace(found, rows=some)) == ["parameters"]


def test_latency_has_a_chart_and_a_column_of_its_own(build: Callable[..., Contents]) -> None:
    found = make_sizes(timed="Latency is of one image on <this> machine.")
    assert chart_costs(found) == ["macs", "latency"]
    frame = pareto_table(found, "latency")
    assert frame["cost"].tolist() == [0.08, 1.8, 1.8, 8.0]
    drawing = size_drawing(found, "latency", arm_styles(ARMS), ("black",) * 8, PAPER_INK)
    assert drawing.name == "Test AUROC against latency"
    assert "cut of net, 1.80\xa0ms: 0.880" in drawing.description
    image = chart_image(drawing.chart.to_dict())
    assert "milliseconds an image (log scale)" in image
    assert ">0.2</text>" in image
    table = size_table(found)
    assert table.heads[1:4] == ("Parameters", "MACs", "Latency")
    assert "P(not dominated) by latency" in table.heads
    assert table.rows[1][3] == "1.80\xa0ms\n1.50\xa0to\xa02.25"
    untimed = replace(found.rows[0], costs={"parameters": 5, "macs": 5}, timing=None)
    assert chart_costs(replace(found, rows=(untimed, *found.rows[1:]))) == ["macs"]
    contents = build(models=("net",), arms={arm: {} for arm in ARMS}, diverged=None)
    text = render(replace(contents, network_sizes=found, history=pd.DataFrame(), samples=()), interactive=False)
    assert "Latency is of one image on &lt;this&gt; machine." in text
    assert re.findall(r'id="(pareto-\d)"', text) == ["pareto-0", "pareto-1"]
    assert "1.80\xa0ms an image instead of 8.00\xa0ms" in text


@pytest.mark.parametrize(("low", "high"), [(2.9, 4.6), (1.0, 3.0), (1e5, 1e11), (0.02, 90), (1.01, 1.98), (3.31, 3.91)])
def test_an_axis_has_two_numbers_at_least_and_not_too_many(low: float, high: float) -> None:
    found = _ticks(low, high)
    assert 2 <= len(found) <= 16
    assert all(low <= tick <= high for tick in found)
    assert all(float(f"{tick:.2g}") == pytest.approx(tick) for tick in found)


def test_names_never_touch_and_those_without_room_are_left_out() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        count = 30
        points = [tuple(one) for one in generator.random((count, 2)) * (WIDTH, HEIGHT)]
        spans = [(y - 25, y + 25) for _, y in points]
        names = [f"arm number {k}" for k in range(count)]
        found = place_labels(names, points, spans, (WIDTH, HEIGHT), range(count))
        boxes = []
        for (x, y), label in zip(points, found, strict=True):
            if not label.text:
                continue
            wide = 6.8 * len(label.text)
            left = x + label.dx - {"left": 0, "right": wide, "center": wide / 2}[label.align]
            boxes.append((left, left + wide, y + label.dy - 7.5, y + label.dy + 7.5))
        assert 3 < len(boxes) < count
        for place, (left, right, top, bottom) in enumerate(boxes):
            assert left >= 0
            assert right <= WIDTH
            assert top >= 0
            assert bottom <= HEIGHT
            for other in boxes[:place]:
                assert right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top


def test_the_chart_is_drawn_and_says_what_it_shows() -> None:
    for models in (("net",), ("net", "other")):
        drawing = size_drawing(make_sizes(models), "macs", arm_styles(ARMS), ("black",) * 8, PAPER_INK)
        image = chart_image(drawing.chart.to_dict())
        for arm in ARMS:
            assert f">{arm}" in image
        assert "best mean − 0.02" in image
        assert ("other</text>" in image) == (len(models) > 1)
        assert "stub of net, 4.00\xa0M: 0.700, P(not dominated) > 99 %" in drawing.description


def test_the_table_names_the_unknown_and_the_best() -> None:
    found = make_sizes(("net", "other"))
    rising = replace(found.rows[0], not_dominated={}, not_worse=math.nan, reason="training had not levelled off")
    table = size_table(replace(found, rows=(rising, *found.rows[1:])))
    assert table.heads == (
        "Arm",
        "Network",
        "Parameters",
        "MACs",
        "Test AUROC",
        "P(not dominated) by parameters",
        "P(not dominated) by MACs",
        "P(less than 0.02 worse)",
    )
    assert table.words == 2
    lines = {row[:2]: row[2:] for row in table.rows}
    assert lines["stub", "net"][3:] == ("unknown\n50 % in its network",) * 2 + ("no test",)
    assert lines["cut", "net"] == (
        "2.00\xa0M",
        "90.0\xa0M",
        "0.880\n0.850\xa0to\xa00.910",
        "97 %\n50 % in its network",
        "97 %\n50 % in its network",
        "96 %",
    )
    assert lines["full", "net"][-1] == "the best"
    assert lines["full", "other"][-1] == "> 99 %"


def test_macs_that_are_unknown_are_said_to_be() -> None:
    found = make_sizes()
    older = replace(found.rows[0], costs={"parameters": 10_000})
    rows = tuple(replace(row, not_dominated={"parameters": 0.5}) for row in (older, *found.rows[1:]))
    table = size_table(replace(found, rows=rows))
    assert table.heads[:5] == ("Arm", "Parameters", "MACs", "Test AUROC", "P(not dominated) by parameters")
    assert table.rows[0][2] == "unknown"
    assert table.rows[1][2] == "90.0\xa0M"


def test_the_page_has_the_section_where_costs_differ(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",), arms={arm: {} for arm in ARMS}, diverged=None)
    assert "How small can the network be?" not in render(contents, interactive=False)
    text = render(replace(contents, network_sizes=make_sizes()))
    assert text.count("How small can the network be?") == 1
    assert (
        "The smallest arm that is shown to be less than 0.02 AUROC worse than the best, full, is cut (probability 96 %)"
        in text
    )
    assert 'href="#network-size"' in text
    ids = re.findall(r'\sid="([^"]+)"', re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    assert len(ids) == len(set(ids))
    specs = json.loads(re.search(r'id="chart-specs">(.*?)</script>', text, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert specs["pareto-0"]["width"] == "container"
    assert "focus" in {parameter["name"] for parameter in specs["pareto-0"]["params"]}


def test_an_arm_without_an_interval_is_a_point_without_a_line() -> None:
    found = make_sizes()
    bare = replace(found.rows[1], low=-math.inf, high=math.inf)
    frame = pareto_table(replace(found, rows=(found.rows[0], bare, *found.rows[2:])), "macs")
    assert frame.set_index("arm").loc["cut", ["low", "high"]].isna().all()
    chart = draw_pareto(frame, cost="macs", metric="auroc", margin=0.02, styles=arm_styles(ARMS)).to_dict()
    bounded = [rows for rows in chart["datasets"].values() if len(rows) == 3 and all(row.get("low") for row in rows)]
    assert bounded
    assert not any(math.isinf(value) for value in pd.DataFrame(frame[["value", "place"]]).to_numpy().ravel())
