"""Axes, colours and the look that the figures of `similarity_figures` and `heatmaps` share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from transfuse.errors import DataError
from transfuse.report.figures import Ink, in_page_style
from transfuse.report.palette import Style
from transfuse.results import phrases

if TYPE_CHECKING:
    import altair

# From input to output, blue to orange: as light as keeps 3:1 against a white and against a dark page.
DEPTH = ("#3d6bd6", "#8a5fd0", "#c64f92", "#d9663a", "#c97a1e")


def inline(frame: pd.DataFrame) -> altair.InlineData:
    """The table inside the chart's definition, NaN as null; charts of tables may have any number of rows."""
    import altair as alt

    rounded = frame.assign(**{str(name): frame[name].map(_rounded) for name in frame if frame[name].dtype.kind == "f"})
    records = json.loads(rounded.to_json(orient="records", double_precision=15))
    return alt.InlineData(values=tuple(records))  # each change of a chart would copy a list, and what is in it


def _rounded(value: float) -> float:
    """Seven digits, however small the value: distances of weights begin at the fifth decimal."""
    return float(f"{value:.7g}")


def styled(chart: Any, ink: Ink) -> Any:
    """The chart with the report's type and lines, and those of its legend and title."""
    return (
        in_page_style(chart, ink)
        .configure_legend(labelColor=ink.muted, titleColor=ink.muted, titleFontWeight="normal", labelFontSize=11.5)
        .configure_title(
            color=ink.text,
            subtitleColor=ink.muted,
            anchor="start",
            frame="group",
            fontSize=13,
            fontWeight=600,
            subtitleFontSize=11.5,
            offset=8,
        )
    )


def table(frame: pd.DataFrame, needed: Sequence[str], by: str = "") -> pd.DataFrame:
    """The table with the columns it needs, names as text; `by` is empty where nothing tells the lines apart.

    Raises:
        DataError: missing columns or no row.
    """
    missing = [name for name in needed if name not in frame]
    if missing:
        found = ", ".join(map(str, frame.columns)) or "none"
        raise DataError(f"the table has no column {', '.join(missing)}; expected {', '.join(needed)}; found {found}")
    if frame.empty:
        raise DataError(f"the table of {', '.join(needed)} is empty; there is nothing to draw")
    if by and by not in frame:
        frame = frame.assign(**{by: ""})
    texts = {name for name in ("row", "column", "block", "kind", "label", by) if name in frame}
    return frame.reset_index(drop=True).astype(dict.fromkeys(texts, str))


def block_axis(blocks: Sequence[str], band: bool = False) -> Any:
    """Blocks from input to output along x, slanted where their names need it."""
    import altair as alt

    settings: dict[str, Any] = {"type": "band"} if band else {"type": "point", "padding": 0.4}
    count, room = len(blocks), max(map(len, blocks)) * len(blocks) * 8
    look: dict[str, Any] = {"labelAngle": 0}
    if room > 430:  # a chart's width on half a page
        look = {"labelAngle": -45} if count <= 20 else {"labelAngle": -90, "labelFontSize": 9.5}
    return alt.X(
        "block:N",
        title="block, from input to output",
        sort=list(blocks),
        scale=alt.Scale(domain=list(blocks), **settings),
        axis=alt.Axis(labelOverlap=count > 40, labelLimit=110, grid=False, **look),
    )


def step_axis(title: str, **settings: Any) -> Any:
    """Steps of training, each label with a prefix of its own: 0, 500, 1k."""
    import altair as alt

    return alt.Axis(title=title, labelExpr="format(datum.value, '~s')", **settings)


def value_axis(measure: str, domain: tuple[float, float] | None) -> Any:
    """The value along y, over a fixed range or as it needs."""
    import altair as alt

    settings: dict[str, Any] = {"domain": list(domain), "nice": False} if domain else {}
    return alt.Y("value:Q", title=measure, scale=alt.Scale(zero=False, **settings), axis=alt.Axis(tickCount=6))


def arm_scales(
    values: pd.Series, by: str, styles: Mapping[str, Style], palette: tuple[str, ...], legend: bool
) -> tuple[Any, Any]:
    """Colour and dash pattern of the lines, in the order of `styles`."""
    import altair as alt

    there = set(values)
    names = [name for name in styles if name in there]
    own = alt.Legend(
        title=None,
        orient="top",
        symbolType="stroke",
        symbolSize=260,
        symbolStrokeWidth=2.5,
        symbolOpacity=1,
        columns=min(len(names), max(1, 70 // (max(map(len, names)) + 6))),
    )
    shown = own if legend and names != [""] else None
    colours = alt.Scale(domain=names, range=[styles[name].colour(palette) for name in names])
    dashes = alt.Scale(domain=names, range=[list(styles[name].dash) for name in names])
    return alt.Color(f"{by}:N", scale=colours, legend=shown), alt.StrokeDash(f"{by}:N", scale=dashes, legend=shown)


def depth_colours(count: int) -> list[str]:
    """Colours of `count` blocks from input to output.

    >>> depth_colours(2)
    ['#3d6bd6', '#c97a1e']
    """
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in DEPTH], dtype=float)
    places = np.linspace(0, len(stops) - 1, count) if count > 1 else np.zeros(1)
    channels = [np.interp(places, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    return ["#" + "".join(f"{round(float(value)):02x}" for value in colour) for colour in zip(*channels, strict=True)]


def depth_colour(names: Sequence[str], by: str = "block") -> Any:
    """The colour of each block by its place, with a legend from input to output."""
    import altair as alt

    scale = alt.Scale(domain=list(names), range=depth_colours(len(names)))
    legend = alt.Legend(title=by, symbolType="circle", columns=1 + (len(names) - 1) // 17, symbolLimit=0, rowPadding=1)
    return alt.Color(f"{by}:N", sort=list(names), scale=scale, legend=legend if any(names) else None)


def numbers(frame: pd.DataFrame, names: Mapping[str, str]) -> list[Any]:
    """Lines of the tooltip for those columns that are there."""
    import altair as alt

    there = {name: title for name, title in names.items() if name in frame}
    small = not any((frame[name].abs() >= SMALL).any() for name in there)
    return [alt.Tooltip(f"{name}:Q", title=title, format=".3~r" if small else ".3f") for name, title in there.items()]


SMALL = 0.01
"""Values below this are told to two digits that are not 0, not to three decimals."""


def brief(value: float) -> str:
    """A value in words: three decimals, or two digits where these would say nothing.

    >>> brief(0.1234), brief(0.0), brief(0.0000321)
    ('0.123', '0.000', '0.000032')
    """
    if value == 0 or not np.isfinite(value) or abs(value) >= SMALL:
        return phrases.number(value)
    return phrases.number(value, 1 - int(np.floor(np.log10(abs(value)))))


def said(row: Mapping[Any, Any], measure: str) -> str:
    """A row's value in words, with its interval where it has one."""
    text = f"{measure} {brief(row['value'])}"
    if np.isfinite(row.get("low", np.nan)) and np.isfinite(row.get("high", np.nan)):
        text += f" ({brief(row['low'])} to {brief(row['high'])})"
    return text


def hit(base: Any, tooltip: list[Any]) -> Any:
    """Points larger than those seen, so that they are easily met by the pointer; they say what `says` holds."""
    return base.mark_point(size=160, filled=True, opacity=0).encode(tooltip=tooltip, description="says:N")
