"""Box plots of canonical correlations by block, beside those of random features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from transfuse.errors import DataError, nearest
from transfuse.report.figures import CURVE_HEIGHT, PAPER_INK, WIDTH, Ink
from transfuse.report.palette import LIGHT, Style, arm_styles
from transfuse.report.scales import block_axis, inline, styled, table
from transfuse.results import phrases

if TYPE_CHECKING:
    import altair


RANDOM = "random features"
"""The kind whose boxes are outlined: coefficients of random features of the same shape."""

FLAT = 0.02
"""A box of less height is seen by its median alone, which is drawn in the box's colour."""


def box_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Five numbers of each block and kind: columns block, kind, count, least, lower, median, upper, most.

    Args:
        frame: columns block, kind, value; as for `coefficients_box`.
    """
    groups = frame.groupby(["block", "kind"], sort=False)["value"]
    five = groups.quantile(np.array([0, 0.25, 0.5, 0.75, 1.0])).unstack()
    five.columns = pd.Index(["least", "lower", "median", "upper", "most"])
    return groups.size().rename("count").to_frame().join(five).reset_index()


def coefficients_box(
    frame: pd.DataFrame,
    *,
    metric: pd.DataFrame | None = None,
    metric_name: str = "test metric",
    measure: str = "SVCCA coefficients",
    chosen: str | None = None,
    styles: Mapping[str, Style] | None = None,
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """The whole distribution of coefficients at each block, with outlined boxes for random features (METHODS AN-24).

    A box holds the middle half, its line is the median, the whiskers reach to the smallest and the largest coefficient:
    for random features, the edge of the law they follow.

    Args:
        frame: columns block, kind, value; kind `RANDOM` is drawn in outline, any other filled. One row a coefficient.
        metric: columns block, value: a line with an axis of its own on the right, for the network cut at each block.
        metric_name: of this axis.
        measure: name of the coefficients.
        chosen: the block at which the network is cut: a dashed line through its boxes says so.
        styles: of the kinds but `RANDOM`; None: as `arm_styles` gives.
        palette: of the boxes; the metric's colour is its third.
        ink: of everything else.

    Raises:
        DataError: missing columns, no row, coefficients that are not finite, or a chosen block that is none of these.
    """
    import altair as alt

    frame = table(frame, ("block", "kind", "value"))
    if not np.isfinite(frame["value"].to_numpy(float)).all():
        raise DataError("a coefficient is not finite; a box plot takes coefficients in [0, 1]")
    blocks = list(dict.fromkeys(frame["block"]))
    if chosen is not None and chosen not in blocks:
        raise DataError(f"chosen is {chosen!r}, which has no coefficients: {nearest(chosen, blocks)}")
    kinds = sorted(dict.fromkeys(frame["kind"]), key=lambda kind: kind == RANDOM)
    five = box_table(frame)
    own = styles or arm_styles(kind for kind in kinds if kind != RANDOM)
    edges = {kind: ink.muted if kind == RANDOM else own[kind].colour(palette) for kind in kinds}
    fills = {**edges, RANDOM: ink.band}
    seen = (five["upper"] - five["lower"] >= FLAT) & (five["kind"] != RANDOM)
    five = five.assign(
        line=np.where(seen, ink.page, five["kind"].map(edges)),
        says=[
            f"{row['block']}, {row['kind']}: median {phrases.number(row['median'])}, middle half "
            f"{phrases.number(row['lower'])} to {phrases.number(row['upper'])}, all {phrases.number(row['least'])} to "
            f"{phrases.number(row['most'])}, {phrases.counted(row['count'], 'coefficient')}"
            for row in five.to_dict("records")
        ],
    )
    wide = int(np.clip(WIDTH / len(blocks) / (len(kinds) + 1), 3, 22))
    legend = alt.Legend(
        title=None,
        orient="top",
        symbolType="square",
        columns=min(len(kinds), max(1, 70 // (max(map(len, kinds)) + 6))),
    )
    stroke = alt.Stroke("kind:N", scale=alt.Scale(domain=kinds, range=[edges[kind] for kind in kinds]), legend=legend)
    fill = alt.Fill("kind:N", scale=alt.Scale(domain=kinds, range=[fills[kind] for kind in kinds]), legend=legend)
    base = alt.Chart(inline(five)).encode(
        x=block_axis(blocks, band=True),
        xOffset=alt.XOffset("kind:N", scale=alt.Scale(domain=kinds, paddingOuter=0.25)),
    )
    y = alt.Y("least:Q", title=measure, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    tooltip = [
        alt.Tooltip("block:N"),
        alt.Tooltip("kind:N", title="features"),
        *(
            alt.Tooltip(f"{key}:Q", title=title, format=".3f")
            for key, title in (
                *(("median", "median"), ("lower", "lower quartile"), ("upper", "upper quartile")),
                *(("least", "smallest"), ("most", "largest")),
            )
        ),
        alt.Tooltip("count:Q", title="coefficients", format=","),
    ]
    whiskers = base.mark_rule(strokeWidth=1.25, aria=False).encode(y=y, y2="most:Q", stroke=stroke)
    boxes = base.mark_bar(width=wide, cornerRadius=1, strokeWidth=1.25).encode(
        y=alt.Y("lower:Q"), y2="upper:Q", stroke=stroke, fill=fill, tooltip=tooltip, description="says:N"
    )
    middle = base.mark_tick(width=wide, thickness=2, orient="horizontal", aria=False).encode(
        y=alt.Y("median:Q"), color=alt.Color("line:N", scale=None)
    )
    chart = alt.layer(whiskers, boxes, middle)
    if chosen is not None:
        cut = pd.DataFrame({"block": [chosen], "says": [f"the network is cut above {chosen}"]})
        there = alt.Chart(inline(cut)).encode(x=block_axis(blocks, band=True))
        line = there.mark_rule(strokeDash=[4, 3], strokeWidth=1.5, color=ink.muted).encode(description="says:N")
        text = there.mark_text(baseline="bottom", dy=-3, color=ink.muted, aria=False).encode(
            y=alt.value(0), text=alt.value("cut")
        )
        chart = alt.layer(line, chart, text)
    if metric is not None:
        metric = table(metric, ("block", "value"))
        metric = metric.assign(
            says=[f"{row['block']}: {metric_name} {phrases.number(row['value'])}" for row in metric.to_dict("records")]
        )
        right = alt.Chart(inline(metric)).encode(
            x=block_axis(blocks, band=True),
            y=alt.Y(
                "value:Q",
                title=metric_name,
                scale=alt.Scale(zero=False, padding=12),
                axis=alt.Axis(orient="right", grid=False, titleColor=palette[2], labelColor=palette[2], tickCount=5),
            ),
            color=alt.value(palette[2]),
        )
        line = alt.layer(
            right.mark_line(strokeWidth=2, aria=False),
            right.mark_point(size=45, filled=True, opacity=1).encode(
                tooltip=[alt.Tooltip("block:N"), alt.Tooltip("value:Q", title=metric_name, format=".3f")],
                description="says:N",
            ),
        )
        chart = alt.layer(chart, line).resolve_scale(y="independent")
    return styled(chart.properties(width=WIDTH, height=CURVE_HEIGHT), ink)
