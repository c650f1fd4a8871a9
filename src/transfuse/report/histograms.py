"""Histograms over one another: how the weights of a layer lie before and after training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from transfuse.errors import DataError
from transfuse.report.figures import CURVE_HEIGHT, PAPER_INK, WIDTH, Ink
from transfuse.report.palette import LIGHT, arm_styles
from transfuse.report.scales import arm_scales, inline, styled, table
from transfuse.results import phrases

if TYPE_CHECKING:
    import altair


def histogram(
    frame: pd.DataFrame,
    *,
    measure: str = "weight",
    counted: str = "count",
    by: str = "state",
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """Histograms of several states in one chart, each an outline over a light filling (METHODS AN-11).

    Args:
        frame: columns low, high, value[, `by`], a row a bin: its edges and what is in it.
        measure: name of what was counted, for the axis.
        counted: name of `value`.
        by: column that tells the states apart; may be missing.
        palette: of the states.
        ink: of everything else.

    Raises:
        DataError: missing columns, no row, or a bin without width.
    """
    import altair as alt

    frame = table(frame, ("low", "high", "value"), by).sort_values([by, "low"], kind="stable")
    if not (frame["low"] < frame["high"]).all():
        raise DataError("a bin of the histogram ends where it begins, or before; expected low < high")
    frame = frame.assign(
        says=[
            f"{row[by]}, {row['low']:.3g} to {row['high']:.3g}: {counted} {phrases.trimmed(row['value'])}".removeprefix(
                ", "
            )
            for row in frame.to_dict("records")
        ]
    )
    # Down to zero on both sides, so that the outline is closed.
    steps = pd.concat(
        [
            pd.DataFrame(
                {
                    by: name,
                    "low": [own["low"].iloc[0], *own["low"], own["high"].iloc[-1]],
                    "value": [0.0, *own["value"], 0.0],
                    "place": range(len(own) + 2),
                }
            )
            for name, own in frame.groupby(by, sort=False)
        ]
    )
    # In the palette's colours, not its grey, which is the baseline's.
    colour, dash = arm_scales(frame[by], by, arm_styles(dict.fromkeys(frame[by])), palette, legend=True)
    x = alt.X("low:Q", title=measure, scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(tickCount=7, grid=False))
    y: dict[str, Any] = {"title": counted, "stack": None, "axis": alt.Axis(tickCount=5, format="~s")}
    bars = alt.Chart(inline(frame)).mark_rect(opacity=0.22)
    outline = alt.Chart(inline(steps)).mark_line(interpolate="step-after", strokeWidth=1.75, aria=False, tooltip=None)
    zero = alt.datum(0)
    chart = alt.layer(
        outline.encode(x=x, y=alt.Y("value:Q", **y), color=colour, strokeDash=dash, order="place:Q"),
        bars.encode(
            x=x,
            x2="high:Q",
            y=alt.Y("value:Q", **y),
            y2=zero,
            color=colour,
            description="says:N",
            tooltip=[
                *([alt.Tooltip(f"{by}:N")] if frame[by].any() else ()),
                alt.Tooltip("low:Q", title="from", format=".3g"),
                alt.Tooltip("high:Q", title="to", format=".3g"),
                alt.Tooltip("value:Q", title=counted, format=",.4~g"),
            ],
        ),
    )
    return styled(chart.properties(width=WIDTH, height=CURVE_HEIGHT), ink)
