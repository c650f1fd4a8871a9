"""The chart of a test metric against what a network costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from transfuse.report.figures import PAPER_INK, Ink, in_page_style
from transfuse.report.labels import Box, place_labels
from transfuse.report.palette import LIGHT, Style
from transfuse.results import phrases
from transfuse.results.network_sizes import COSTS, Sizes
from transfuse.results.smallest_network import costing, share

if TYPE_CHECKING:
    import altair

WIDTH, HEIGHT = 720, 340
COLUMNS = [
    "model",
    "arm",
    "cost",
    "place",
    "value",
    "low",
    "high",
    "not_dominated",
    "front",
    "label",
    "dx",
    "dy",
    "align",
]
DODGE = 13
"""Pixels between arms of the same size."""
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")


def chart_costs(found: Sizes) -> list[str]:
    """The costs that are drawn: MACs where they are known and differ, else parameters; and latency, likewise."""
    differ = [cost for cost in COSTS if None not in (of := {row.costs.get(cost) for row in found.rows}) and len(of) > 1]
    return ["macs" if "macs" in differ else "parameters", *(["latency"] if "latency" in differ else [])]


def pareto_table(found: Sizes, cost: str) -> pd.DataFrame:
    """One row an arm with what is drawn of it: `COLUMNS`.

    `place` is the cost, shifted a little where several arms have the same one; `front` is whether the arm is on the
    front of the means; `label` is the arm's name where there is room for it, `dx`, `dy` and `align` where it stands.
    """
    rows = [row for row in found.rows if math.isfinite(row.value)]
    alone = len({row.name.model for row in rows}) == 1
    frame = pd.DataFrame(
        {
            "model": [row.name.model for row in rows],
            "arm": [row.name.arm for row in rows],
            "cost": [float(row.costs[cost]) for row in rows],
            "value": [row.value for row in rows],
            "low": [row.low if math.isfinite(row.low) else math.nan for row in rows],
            "high": [row.high if math.isfinite(row.high) else math.nan for row in rows],
            "not_dominated": [row.not_dominated.get(cost, math.nan) for row in rows],
        }
    )
    better = -1 if phrases.smaller_is_better(found.metric) else 1
    ordered = judged(frame).assign(signed=-better * frame["value"]).sort_values(["cost", "signed"], kind="stable")
    before = (-ordered["signed"]).cummax().shift(fill_value=-math.inf)
    frame["front"] = (-ordered["signed"] > before).reindex(frame.index, fill_value=False)
    low, high = cost_domain(frame["cost"])
    per_pixel = math.log(high / low) / WIDTH
    same = frame.groupby("cost")["cost"]
    shift = (same.cumcount() - (same.transform("size") - 1) / 2) * DODGE
    frame["place"] = frame["cost"] * np.exp(shift * per_pixel)
    names = list(frame["arm"]) if alone else [f"{row['arm']} ({row['model']})" for row in frame.to_dict("records")]
    told = {name for answer in found.answers for name in (answer.best, answer.smallest)}
    untold = [row.name not in told for row in rows]
    first = frame.assign(untold=untold, back=~frame["front"], chance=-frame["not_dominated"].fillna(0))
    order = first.sort_values(["untold", "back", "chance"], kind="stable").index.tolist()
    return frame.assign(**_labels(frame, names, order, found))[COLUMNS]


def _labels(frame: pd.DataFrame, names: Sequence[str], order: Sequence[int], found: Sizes) -> dict[str, list[Any]]:
    """The columns `label, dx, dy, align`; names keep off the lines of the chart."""
    low, high = cost_domain(frame["cost"])
    bottom, top = value_domain(frame, found.metric, found.margin)

    def down(values: pd.Series) -> list[float]:
        return ((top - values) / (top - bottom) * HEIGHT).tolist()

    x, y = (np.log(frame["place"] / low) / math.log(high / low) * WIDTH).tolist(), down(frame["value"])
    spans = zip(down(frame["high"].fillna(frame["value"])), down(frame["low"].fillna(frame["value"])), strict=True)
    (limit,) = down(pd.Series([margin_line(frame, found.metric, found.margin)]))
    lines: list[Box] = [(0, WIDTH, limit - 1, limit + 1), (0, 120, limit - 18, limit)]
    steps = sorted((x[index], y[index]) for index in np.flatnonzero(frame["front"]))
    for (left, before), (right, after) in pairwise(steps):
        lines += [(left, right, before - 1, before + 1), (right - 1, right + 1, min(before, after), max(before, after))]
    placed = place_labels(names, list(zip(x, y, strict=True)), list(spans), (WIDTH, HEIGHT), order, lines)
    return {
        "label": [one.text for one in placed],
        "dx": [one.dx for one in placed],
        "dy": [one.dy for one in placed],
        "align": [one.align for one in placed],
    }


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The arms that were held against each other; all, where none was."""
    known = frame["not_dominated"].notna()
    return frame[known] if known.any() else frame


def margin_line(frame: pd.DataFrame, metric: str, margin: float) -> float:
    """A margin from the best mean, on its worse side."""
    judge = judged(frame)["value"]
    return float(judge.min() + margin if phrases.smaller_is_better(metric) else judge.max() - margin)


def cost_domain(costs: pd.Series) -> tuple[float, float]:
    """Ends of a logarithmic axis with room on both sides."""
    low, high = float(costs.min()), float(costs.max())
    room = max(high / low, 2.0) ** 0.12
    return low / room, high * room


def _ticks(low: float, high: float) -> list[float]:
    """Numbers to write at a logarithmic axis: 1, 2 and 5 of each power of ten, or powers of ten alone where many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), range(1, 10), [step / 10 for step in range(10, 100)]):
        found = [value for power in powers for step in steps if low <= (value := step * 10.0**power) <= high]
        if len(found) > 1 and (len(powers) > 5 or len(steps) > 1):
            break
    return found


def value_domain(frame: pd.DataFrame, metric: str, margin: float) -> tuple[float, float]:
    """Ends of the axis of the metric, which hold every interval and the line of the margin."""
    ends = [*frame[["value", "low", "high"]].to_numpy(float).ravel(), margin_line(frame, metric, margin)]
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = 0.08 * max(high - low, 2 * margin)
    return low - room, high + room


def draw_pareto(
    frame: pd.DataFrame,
    *,
    cost: str,
    metric: str,
    margin: float,
    styles: Mapping[str, Style],
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """The test metric of each arm against what it costs; a larger, stronger point is more probably on the front.

    The line joins the arms that no other one beats by its mean, the dashed one lies a margin from the best mean; arms
    that were not held against the others count for neither.

    Args:
        frame: as `pareto_table` gives it.
        cost: key of `COSTS`, which `frame` is of.
        metric: of the study.
        margin: of the study.
        styles: of the arms.
        palette: of the arms.
        ink: of everything else.
    """
    import altair as alt

    name = phrases.metric_name(metric)
    low, high = cost_domain(frame["cost"])
    title = {"macs": "MACs of one image", "latency": "milliseconds an image"}.get(cost, COSTS[cost])
    x = alt.X(
        "place:Q",
        title=f"{title} (log scale)",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(
            format="~g" if cost == "latency" else "~s",
            values=_ticks(low, high),
            grid=False,
            labelOverlap="greedy",
            labelSeparation=12,
        ),
    )
    y = alt.Y(
        "value:Q",
        title=f"test {name}",
        scale=alt.Scale(domain=list(value_domain(frame, metric, margin)), nice=False, zero=False),
        axis=alt.Axis(tickCount=6),
    )
    frame = frame.assign(
        strength=0.35 + 0.65 * frame["not_dominated"].fillna(0),
        says=[
            phrases.number(row["value"])
            + (f" ({phrases.number(row['low'])} to {phrases.number(row['high'])})" if pd.notna(row["low"]) else "")
            for row in frame.to_dict("records")
        ],
        amount=[costing(value, cost) for value in frame["cost"]],
        chance=[share(value) for value in frame["not_dominated"]],
    )
    focus = alt.param(name="focus", value=None)
    faint = "focus !== null && datum.arm !== focus"
    unsaid = f"{faint} || (width < 520 && !datum.front)"  # on a narrow page names would stand on each other
    there = [arm for arm in styles if arm in set(frame["arm"])]
    colour = alt.Color(
        "arm:N", scale=alt.Scale(domain=there, range=[styles[arm].colour(palette) for arm in there]), legend=None
    )
    models = list(dict.fromkeys(frame["model"]))
    look: dict[str, Any] = {
        "symbolFillColor": ink.muted,
        "symbolStrokeWidth": 0,
        "labelColor": ink.text,
        "labelFontSize": 12.5,
    }
    shape = alt.Shape(
        "model:N",
        scale=alt.Scale(domain=models, range=[_SHAPES[place % len(_SHAPES)] for place in range(len(models))]),
        legend=alt.Legend(title=None, orient="top", **look) if len(models) > 1 else None,
    )
    strength = alt.Opacity("strength:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1]), legend=None)
    shown = alt.condition(faint, alt.value(0.08), strength)
    tooltip = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("model:N", title="network"),
        alt.Tooltip("amount:N", title="size"),
        alt.Tooltip("says:N", title=f"test {name}"),
        alt.Tooltip("chance:N", title="P(not dominated)"),
    ]
    sign = "+" if phrases.smaller_is_better(metric) else phrases.MINUS
    text = f"best mean {sign} {phrases.trimmed(margin)}"
    line = pd.DataFrame({"value": [margin_line(frame, metric, margin)], "text": [text]})
    limit = alt.Chart(line).encode(y=y)
    base = alt.Chart(frame).encode(x=x, y=y)
    bounded = alt.Chart(frame[frame["low"].notna()]).encode(x=x, color=colour, opacity=shown)
    steps = alt.Chart(frame[frame["front"]]).encode(x=x, y=y)
    layers = [
        limit.mark_rule(strokeDash=[4, 4], color=ink.muted),
        limit.mark_text(align="left", baseline="bottom", dx=3, dy=-3, color=ink.muted).encode(
            x=alt.value(0), text="text:N"
        ),
        steps.mark_line(interpolate="step-after", color=ink.muted, strokeWidth=1.25, opacity=0.7),
        bounded.mark_rule(strokeWidth=1.75).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, strokeWidth=0).encode(
            color=colour,
            shape=shape,
            opacity=shown,
            size=alt.Size("strength:Q", scale=alt.Scale(domain=[0.35, 1], range=[45, 210]), legend=None),
            tooltip=tooltip,
        ),
    ]
    named = frame[frame["label"] != ""]
    for place in dict.fromkeys(zip(named["dx"], named["dy"], named["align"], strict=True)):
        dx, dy, align = place
        group = named[(named["dx"] == dx) & (named["dy"] == dy) & (named["align"] == align)]
        layers.append(
            alt.Chart(group)
            .mark_text(align=align, dx=dx, dy=dy, color=ink.text)
            .encode(x=x, y=y, text="label:N", opacity=alt.condition(unsaid, alt.value(0), alt.value(1)))
        )
    chart = alt.layer(*layers).add_params(focus).properties(width=WIDTH, height=HEIGHT)
    return in_page_style(chart, ink)
