"""Figures of what is inside networks: values by block, over training, before and after, and of single classes.

Each takes a tidy table and gives a Vega-Lite chart, as `transfuse.report.figures` does; its marks tell their values
under the pointer, in the page and (with `transfuse.report.hover`) in a still picture. Heat maps are in `heatmaps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from transfuse.errors import DataError
from transfuse.report.coefficient_boxes import coefficients_box
from transfuse.report.figures import CURVE_HEIGHT, PAPER_INK, WIDTH, Ink
from transfuse.report.heatmaps import heatmap, heatmaps
from transfuse.report.histograms import histogram
from transfuse.report.palette import LIGHT, Style, arm_styles
from transfuse.report.scales import (
    arm_scales,
    block_axis,
    depth_colour,
    hit,
    inline,
    numbers,
    said,
    step_axis,
    styled,
    table,
    value_axis,
)
from transfuse.results import phrases

if TYPE_CHECKING:
    import altair

__all__ = ["block_lines", "coefficients_box", "curve", "dynamics", "heatmap", "heatmaps", "histogram", "scatter"]

SQUARE = 340
INDEPENDENT = "independent features"
NUMBERS = {"value": "value", "low": "interval from", "high": "to", "independent": INDEPENDENT}


def block_lines(
    frame: pd.DataFrame,
    *,
    measure: str = "similarity",
    by: str = "arm",
    domain: tuple[float, float] | None = None,
    styles: Mapping[str, Style] | None = None,
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
    legend: bool = True,
) -> altair.LayerChart:
    """A value by block from input to output: a line an arm, its interval over seeds as a band.

    Args:
        frame: columns block, value[, `by`, low, high, independent], blocks in order of first appearance. Where low and
            high are missing or infinite there is no band; where `independent` is there, it is the dashed line: what
            features without anything in common would give. A missing value breaks the line.
        measure: name of the value.
        by: column that tells the lines apart; may be missing.
        domain: range of the axis; None: as the values need.
        styles: of the lines; None: as `arm_styles` gives.
        palette: of the lines.
        ink: of everything else.
        legend: whether the chart has one of its own.

    Raises:
        DataError: missing columns or no row.
    """
    import altair as alt

    frame = table(frame, ("block", "value"), by)
    blocks = list(dict.fromkeys(frame["block"]))
    styles = styles or arm_styles(frame[by])
    frame = frame.assign(
        says=[f"{row[by]}, {row['block']}: {said(row, measure)}".removeprefix(", ") for row in frame.to_dict("records")]
    )
    x, y = block_axis(blocks), value_axis(measure, domain)
    colour, dash = arm_scales(frame[by], by, styles, palette, legend)
    layers: list[Any] = []
    if {"low", "high"} <= set(frame):
        bounded = frame[np.isfinite(frame[["low", "high"]].to_numpy(float)).all(axis=1)]
        band = alt.Chart(inline(bounded)).mark_area(opacity=0.16, tooltip=None, aria=False)
        layers.append(band.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour, detail=f"{by}:N"))
    layers += _level(frame, x, by, colour, ink, domain)
    base = alt.Chart(inline(frame)).encode(x=x, y=y, color=colour)
    layers.append(base.mark_line(strokeWidth=2.25, strokeCap="round", aria=False).encode(strokeDash=dash))
    layers.append(base.mark_point(size=34, filled=True, opacity=1, aria=False))
    tooltip = [
        *([alt.Tooltip(f"{by}:N")] if frame[by].any() else ()),
        alt.Tooltip("block:N"),
        *numbers(frame, {**NUMBERS, "value": measure}),
    ]
    layers.append(hit(base, tooltip))
    return styled(alt.layer(*layers).properties(width=WIDTH, height=CURVE_HEIGHT), ink)


def dynamics(
    frame: pd.DataFrame,
    *,
    measure: str = "CCA with the final state",
    domain: tuple[float, float] | None = (0.0, 1.0),
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """A value of each block over the steps of training, on a logarithmic axis that begins at 0 (METHODS AN-8).

    Args:
        frame: columns step, block, value, blocks from input to output in order of first appearance; they are coloured
            in this order.
        measure: name of the value.
        domain: range of the axis; None: as the values need.
        ink: of everything that is not a line.

    Raises:
        DataError: missing columns, no row, or a negative step.
    """
    import altair as alt

    frame = table(frame, ("step", "block", "value"))
    steps = frame["step"].astype(float)
    if (steps < 0).any():
        raise DataError(f"a step is {steps.min():g}; expected steps of training from 0 on")
    blocks = list(dict.fromkeys(frame["block"]))
    frame = frame.assign(
        says=[f"{row['block']}, step {row['step']:,.0f}: {said(row, measure)}" for row in frame.to_dict("records")]
    )
    x = alt.X(
        "step:Q",
        # log(1 + step): as a logarithm from some steps on, and 0 has a place.
        scale=alt.Scale(type="symlog", constant=1, domain=[float(steps.min()), float(steps.max())], nice=False),
        axis=step_axis("training step (logarithmic)", values=_ticks(float(steps.min()), float(steps.max()))),
    )
    base = alt.Chart(inline(frame)).encode(
        x=x, y=value_axis(measure, domain), color=depth_colour(blocks), detail="block:N"
    )
    line = base.mark_line(strokeWidth=2, strokeCap="round", aria=False)
    dots = base.mark_point(size=22, filled=True, opacity=1, aria=False)
    tooltip = [
        alt.Tooltip("block:N"),
        alt.Tooltip("step:Q", format=","),
        *numbers(frame, {**NUMBERS, "value": measure}),
    ]
    chart = alt.layer(line, dots, hit(base, tooltip)).properties(width=WIDTH, height=CURVE_HEIGHT)
    return styled(chart, ink)


def scatter(
    frame: pd.DataFrame,
    *,
    measure: str = "similarity",
    by: str = "block",
    before: str = "at initialisation",
    after: str = "after training",
    domain: tuple[float, float] = (0.0, 1.0),
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """Before against after, each on the same range, with the line on which nothing has changed (METHODS AN-6).

    Args:
        frame: columns initial, final[, `by`, block, label]; a point a row; the colours follow the order of `by`.
        measure: name of the values.
        by: column that gives the colour: the block, or a group of blocks.
        before: what `initial` is.
        after: what `final` is.
        domain: range of both axes; widened where a value lies outside.
        ink: of everything that is not a point.

    Raises:
        DataError: missing columns or no row.
    """
    import altair as alt

    frame = table(frame, ("initial", "final"), by)
    values = frame[["initial", "final"]].to_numpy(float)
    low, high = float(np.nanmin([domain[0], *values.ravel()])), float(np.nanmax([domain[1], *values.ravel()]))
    groups = list(dict.fromkeys(frame[by]))
    names = [name for name in dict.fromkeys([by, "block", "label"]) if name in frame and frame[name].astype(bool).any()]
    frame = frame.assign(
        says=[
            ", ".join([*(str(row[name]) for name in names), f"{before} {phrases.number(row['initial'])}"])
            + f", {after} {phrases.number(row['final'])}"
            for row in frame.to_dict("records")
        ]
    )
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    base = alt.Chart(inline(frame)).encode(
        x=alt.X("initial:Q", title=f"{measure} {before}", scale=scale, axis=alt.Axis(tickCount=5)),
        y=alt.Y("final:Q", title=f"{measure} {after}", scale=scale, axis=alt.Axis(tickCount=5)),
        color=depth_colour(groups, by),
    )
    ends = pd.DataFrame({"initial": [low, high], "final": [low, high]})
    same = alt.Chart(inline(ends)).mark_line(color=ink.muted, strokeDash=[4, 4], strokeWidth=1, aria=False)
    tooltip = [
        *(alt.Tooltip(f"{name}:N") for name in names),
        alt.Tooltip("initial:Q", title=before, format=".3f"),
        alt.Tooltip("final:Q", title=after, format=".3f"),
    ]
    dots = base.mark_point(size=70, filled=True, opacity=0.85).encode(tooltip=tooltip, description="says:N")
    chart = alt.layer(same.encode(x="initial:Q", y="final:Q"), dots).properties(width=SQUARE, height=SQUARE)
    return styled(chart, ink)


def curve(
    frame: pd.DataFrame,
    zoom: tuple[float, float] | None = None,
    *,
    quantity: str = "value",
    by: str = "label",
    styles: Mapping[str, Style] | None = None,
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
    legend: bool = True,
) -> altair.LayerChart:
    """Learning curves of each class or disease: thin lines for runs, thick ones for their means; whole, or zoomed.

    The mean is over the runs and at the steps at which all of a class have a value.

    Args:
        frame: columns step, value[, `by`, run_id].
        zoom: first and last step to show, the values' axis then fits what is inside; None: all steps.
        quantity: name of the value.
        by: column that tells the classes apart; may be missing.
        styles: of the classes; None: as `arm_styles` gives.
        palette: of the lines.
        ink: of everything else.
        legend: whether the chart has one of its own.

    Raises:
        DataError: missing columns, no row, or none inside the zoom.
    """
    import altair as alt

    frame = table(frame, ("step", "value"), by)
    if zoom is not None:
        inside = frame[frame["step"].between(*zoom)]
        if inside.empty:
            raise DataError(
                f"zoom is {zoom}, in which there is no value; the steps run from {frame['step'].min():g} to "
                f"{frame['step'].max():g}"
            )
        frame = inside
    frame = frame[np.isfinite(frame["value"].to_numpy(float))]
    runs = frame if "run_id" in frame else frame.assign(run_id="")
    means = runs.groupby([by, "step"], sort=False)["value"].agg(["mean", "count"]).reset_index()
    means.columns = pd.Index([by, "step", "value", "runs"])
    means = means[means["runs"] == means[by].map(runs.groupby(by)["run_id"].nunique())].sort_values("step")
    means = means.assign(
        says=[
            f"{row[by]}, step {row['step']:,.0f}: {said(row, quantity)}".removeprefix(", ")
            for row in means.to_dict("records")
        ]
    )
    styles = styles or arm_styles(frame[by])
    colour, dash = arm_scales(frame[by], by, styles, palette, legend)
    fixed: dict[str, Any] = {"domain": list(zoom), "nice": False} if zoom else {}
    scale = alt.Scale(zero=False, **fixed)
    x = alt.X("step:Q", scale=scale, axis=step_axis("training step", tickCount=6))
    y = value_axis(quantity, None)
    thin = alt.Chart(inline(runs)).mark_line(strokeWidth=1, opacity=0.35, aria=False)
    base = alt.Chart(inline(means)).encode(x=x, y=y, color=colour)
    thick = base.mark_line(strokeWidth=2.5, strokeCap="round", aria=False).encode(strokeDash=dash)
    tooltip = [
        *([alt.Tooltip(f"{by}:N")] if frame[by].any() else ()),
        alt.Tooltip("step:Q", format=","),
        alt.Tooltip("value:Q", title=f"mean {quantity}", format=".3f"),
        alt.Tooltip("runs:Q"),
    ]
    layers = [thin.encode(x=x, y=y, color=colour, strokeDash=dash, detail="run_id:N"), thick, hit(base, tooltip)]
    return styled(alt.layer(*layers).properties(width=WIDTH, height=CURVE_HEIGHT), ink)


def _level(
    frame: pd.DataFrame, x: Any, by: str, colour: Any, ink: Ink, domain: tuple[float, float] | None
) -> list[Any]:
    """The value of independent features: one grey line where all arms share it, else one in each arm's colour."""
    import altair as alt

    if "independent" not in frame or not np.isfinite(frame["independent"].to_numpy(float)).any():
        return []
    apart = frame.groupby("block")["independent"].agg(np.ptp).max() > 5e-4
    levels = frame if apart else frame.drop_duplicates("block")
    levels = levels.assign(
        says=[
            f"{row['block']}: {INDEPENDENT} {phrases.number(row['independent'])}" for row in levels.to_dict("records")
        ]
    )
    base = alt.Chart(inline(levels)).encode(x=x, y=alt.Y("independent:Q"))
    tooltip = [alt.Tooltip("block:N"), alt.Tooltip("independent:Q", title=INDEPENDENT, format=".3f")]
    line = base.mark_line(strokeDash=[4, 4], strokeWidth=1.25, color=ink.muted, aria=False)
    hit = base.mark_point(size=120, filled=True, opacity=0)
    first = levels[levels["block"] == levels["block"].iloc[0]].nlargest(1, "independent")
    # The level rises with the blocks' width: below its first point the name is out of its way, if there is room.
    low, high = domain or (float(frame["value"].min()), float(frame["value"].max()))
    below = float(first["independent"].iloc[0]) > low + 0.08 * (high - low)
    look: dict[str, Any] = {"align": "left", "dy": 11 if below else -11, "fontSize": 11.5, "aria": False}
    name = alt.Chart(inline(first)).encode(x=alt.value(4), y=alt.Y("independent:Q"), text=alt.value(INDEPENDENT))
    return [
        line.encode(**({"color": colour, "detail": f"{by}:N"} if apart else {})),
        name.mark_text(stroke=ink.page, strokeWidth=4, strokeJoin="round", **look),  # the line ends around its name
        name.mark_text(color=ink.muted, **look),
        hit.encode(tooltip=tooltip, description="says:N"),
    ]


def _ticks(first: float, last: float) -> list[float]:
    powers = [10.0**k for k in range(13) if first <= 10.0**k <= last]
    ends = [value for value in (first, last) if all(abs(np.log1p(value) - np.log1p(p)) > 0.5 for p in powers)]
    return sorted({*powers, *ends})
