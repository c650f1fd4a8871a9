"""The report's figures: for each, a function that makes the table it shows and one that draws this table.

The charts are Vega-Lite definitions (Altair): the same one is drawn inside the report and saved as SVG, PNG or PDF.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from transfuse.report.palette import LIGHT, Style
from transfuse.results import arms, phrases
from transfuse.results.arms import ArmComparison

if TYPE_CHECKING:
    import altair

ROW = 60  # height of one comparison in pixels
WIDTH = 640
NARROW = 620  # a chart of fewer pixels has the numbers of a row in a line of their own
CURVE_HEIGHT = 300
FOREST_COLUMNS = ["model", "arm", "baseline", "difference", "low", "high", "verdict", "row", "label"]
CURVE_COLUMNS = ["model", "arm", "seed", "run_id", "status", "step", "value"]


class Ink(NamedTuple):
    """The colours of everything that is not an arm."""

    text: str = "#1c2024"
    muted: str = "#5d6570"
    grid: str = "#e3e6ea"
    band: str = "#e9edf2"
    page: str = "#ffffff"


PAPER_INK = Ink()
PAGE_INK = Ink("var(--ink)", "var(--muted)", "var(--grid)", "var(--band)", "var(--page)")


def by_width(narrow: float | str, wide: float | str) -> Any:
    """A place in a row of a chart, by the room that the page has for it.

    >>> by_width(-3, -9).to_dict()
    {'expr': 'width < 620 ? -3 : -9'}
    """
    import altair as alt

    return alt.expr(f"width < {NARROW} ? {narrow} : {wide}")


def forest(comparisons: Sequence[ArmComparison]) -> pd.DataFrame:
    """One row a comparison, in the order given, with the line of text that is drawn over its interval.

    What is undefined or infinite is NaN in difference, low and high; the row stays.
    """
    rows: list[tuple[object, ...]] = []
    places: dict[str, int] = {}
    for item in comparisons:
        found = item.comparison
        defined = math.isfinite(found.difference)
        bounded = defined and math.isfinite(found.low) and math.isfinite(found.high)
        verdict = str(found.verdict) if defined else "undefined"
        label = difference_label(found.difference, found.low, found.high, verdict, item.why_undecided)
        place = places[item.model] = places.get(item.model, -1) + 1
        limits = (found.low, found.high) if bounded else (math.nan, math.nan)
        values = (found.difference if defined else math.nan, *limits)
        rows.append((item.model, item.arm, item.baseline, *values, verdict, place, label))
    return pd.DataFrame(rows, columns=FOREST_COLUMNS).astype({"difference": float, "low": float, "high": float})


def difference_label(difference: float, low: float, high: float, verdict: str, why: str = "") -> str:
    """The line of text over a difference: its size, its interval and its verdict, with a word on why it is open.

    >>> difference_label(0.05, 0.03, 0.07, "helps"), difference_label(0.01, -math.inf, math.inf, "undecided", "1 seed")
    ('+0.050 (+0.030 to +0.070) helps', "+0.010 (no interval) can't tell: 1 seed")
    """
    if not math.isfinite(difference):
        return "undefined"
    bounded = math.isfinite(low) and math.isfinite(high)
    span = f"({phrases.signed(low)} to {phrases.signed(high)})" if bounded else "(no interval)"
    said = f"can't tell: {why}" if why and verdict == "undecided" else {"undecided": "can't tell"}.get(verdict, verdict)
    return f"{phrases.signed(difference)} {span} {said}"


def forest_domain(frame: pd.DataFrame, margin: float, span: float = math.inf) -> tuple[float, float]:
    """The range of differences that holds every interval, zero and the margin on both sides, none beyond `span`."""
    values = frame[["difference", "low", "high"]].to_numpy(float)
    values = values[~np.isnan(values)]
    low, high = min([-margin, *values]), max([margin, *values])
    if low == high:
        low, high = -1.0, 1.0
    pad = 0.04 * (high - low)
    return max(float(low - pad), min(-span, low)), min(float(high + pad), max(span, high))


def learning_curves(history: pd.DataFrame, runs: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Validation values of the arms' runs, a row a value: `CURVE_COLUMNS`, ordered by run and step.

    Undefined values (NaN, infinite) are left out, source trainings too; a diverged run is shown as far as it came.
    """
    if history.empty or runs.empty:
        return pd.DataFrame(columns=CURVE_COLUMNS)
    chosen = history[(history["split"] == "val") & (history["quantity"] == quantity)]
    chosen = chosen[chosen["value"].map(math.isfinite)]
    joined = arms.arm_runs(runs)[["run_id", "model", "arm", "seed", "status"]].merge(chosen, on="run_id", sort=False)
    frame = joined[CURVE_COLUMNS].sort_values(["model", "arm", "seed", "run_id", "step"], kind="stable")
    return frame.reset_index(drop=True)


def mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds at each step: columns model, arm, step, value, seeds.

    Over finished runs, and only at steps at which each of them has a value, so that no seed that stopped early bends
    the curve.
    """
    columns = ["model", "arm", "step", "value", "seeds"]
    curves = curves[curves["status"] == "finished"]
    if curves.empty:
        return pd.DataFrame(columns=columns)
    groups = curves.groupby(["model", "arm", "step"], sort=False)["value"]
    frame = groups.agg(["mean", "count"]).reset_index().set_axis(columns, axis=1)
    total = curves.groupby(["model", "arm"])["run_id"].nunique()
    everyone = frame.merge(total.rename("everyone").reset_index(), on=["model", "arm"], sort=False)["everyone"]
    return frame[frame["seeds"].to_numpy() == everyone.to_numpy()].reset_index(drop=True)


def thinned(curves: pd.DataFrame, most: int = 4000) -> pd.DataFrame:
    """At most about `most` points in all, evenly taken from each run, its first and last point among them."""
    if len(curves) <= most:
        return curves
    run = curves.groupby(["arm", "run_id"]).ngroup()  # two arms may have come to the same run
    each = max(2, most // run.nunique())
    place = curves.groupby(run).cumcount()
    size = run.groupby(run).transform("size")
    # A point is kept where a grid of `each` points over the run's positions has a knot.
    kept = (place * (each - 1) // (size - 1).clip(lower=1)).astype(int)
    first = ~pd.DataFrame({"run": run, "knot": kept}).duplicated()
    return curves[first | (place == size - 1)].reset_index(drop=True)


def draw_forest(
    frame: pd.DataFrame,
    *,
    margin: float,
    metric: str,
    styles: Mapping[str, Style],
    domain: tuple[float, float] | None = None,
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """A forest plot of one network: differences with their 95 % intervals over the band of the margin."""
    import altair as alt

    low, high = domain or forest_domain(frame, margin, phrases.span(metric))
    records = frame.assign(title=[f"{arm} − {base}" for arm, base in zip(frame["arm"], frame["baseline"], strict=True)])
    height = ROW * max(1, len(frame))
    x = alt.X(
        "low:Q",
        title=f"difference in test {phrases.metric_name(metric)} (right of zero: better)",
        scale=alt.Scale(domain=[low, high], nice=False, zero=False),
        axis=alt.Axis(format="+~g", tickCount=7, grid=False, labelExpr="datum.value === 0 ? '0' : datum.label"),
    )
    places = list(range(max(1, len(frame))))
    # Numbers as row positions: two comparisons may share their names, a row never.
    y = alt.Y("row:O", axis=None, scale=alt.Scale(domain=places, padding=0.5))
    colour = alt.Color("arm:N", scale=_colours(frame, styles, palette), legend=None)
    tooltip = [
        alt.Tooltip("title:N", title="comparison"),
        alt.Tooltip("label:N", title="difference (95 %)"),
    ]
    base = alt.Chart(records).encode(y=y)
    bounded = alt.Chart(records[records["low"].notna()]).encode(y=y, color=colour, tooltip=tooltip)
    defined = alt.Chart(records[records["difference"].notna()]).encode(y=y, color=colour, tooltip=tooltip)
    # Band and zero lie behind the intervals alone, so that no text crosses them.
    drop = by_width(15, 9)
    behind = alt.Chart(records.assign(left=-margin, right=margin, zero=0.0)).encode(y=y)
    band = behind.mark_rule(color=ink.band, strokeWidth=20, yOffset=drop).encode(x=alt.X("left:Q"), x2="right:Q")
    zero = behind.mark_tick(color=ink.muted, thickness=1, height=20, yOffset=drop).encode(x="zero:Q")
    dashes = alt.StrokeDash("arm:N", scale=_dashes(frame, styles), legend=None)
    # An interval lies right below its own line of text, and far above the next one's.
    span = bounded.mark_rule(strokeWidth=3, yOffset=drop).encode(x=x, x2="high:Q", strokeDash=dashes)
    dot = defined.mark_point(size=110, filled=True, opacity=1, yOffset=drop).encode(x=alt.X("difference:Q"))
    limit = by_width("width - 4", "width - 360")  # the numbers keep their room
    name = base.mark_text(align="left", fontWeight="bold", dy=by_width(-19, -9), limit=limit, color=ink.text).encode(
        x=alt.value(2), text="title:N"
    )
    text = base.mark_text(align="right", dy=by_width(-4, -9), color=ink.text).encode(
        x=alt.value(alt.expr("width - 2")), text="label:N"
    )
    chart = alt.layer(band, zero, span, dot, name, text).properties(width=WIDTH, height=height)
    return in_page_style(chart, ink)


def draw_learning_curves(
    frame: pd.DataFrame,
    *,
    quantity: str,
    styles: Mapping[str, Style],
    threshold: float | None = None,
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """Learning curves of one network: a thin line a seed, a thick one for the mean over seeds, the threshold dashed.

    The parameter `focus` holds the label of the one arm to bring out, or null.
    """
    import altair as alt

    name = phrases.metric_name(quantity)
    focus = alt.param(name="focus", value=None)
    dashes = alt.StrokeDash("arm:N", scale=_dashes(frame, styles), legend=None)
    colour = alt.Color("arm:N", scale=_colours(frame, styles, palette), legend=None)
    x = alt.X("step:Q", title="training step", axis=alt.Axis(tickCount=6, format="~s"))
    y = alt.Y("value:Q", title=f"validation {name}", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))

    def shown(strong: float) -> Any:
        return alt.condition("focus === null || datum.arm === focus", alt.value(strong), alt.value(0.06))

    seeds = (
        alt.Chart(frame)
        .mark_line(strokeWidth=1)
        .encode(x=x, y=y, color=colour, strokeDash=dashes, detail="run_id:N", opacity=shown(0.4))
    )
    means = alt.Chart(mean_curves(frame)).encode(x=x, y=y, color=colour)
    thick = means.mark_line(strokeWidth=2.75, strokeCap="round").encode(strokeDash=dashes, opacity=shown(1))
    points = means.mark_point(size=160, filled=True, opacity=0).encode(
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("step:Q", format=","),
            alt.Tooltip("value:Q", title=f"mean {name}", format=".3f"),
            alt.Tooltip("seeds:Q"),
        ]
    )
    layers = [seeds, thick, points]
    if threshold is not None:
        line = pd.DataFrame({"value": [float(threshold)], "text": [f"threshold {phrases.trimmed(threshold)}"]})
        rule = alt.Chart(line).encode(y=y)
        layers = [
            rule.mark_rule(strokeDash=[4, 4], color=ink.muted),
            rule.mark_text(align="right", baseline="bottom", dy=-3, color=ink.muted).encode(
                x=alt.value(alt.expr("width")), text="text:N"
            ),
            *layers,
        ]
    chart = alt.layer(*layers).add_params(focus).properties(width=WIDTH, height=CURVE_HEIGHT)
    return in_page_style(chart, ink)


def _present(frame: pd.DataFrame, styles: Mapping[str, Style]) -> list[str]:
    there = set(frame["arm"])
    return [arm for arm in styles if arm in there]


def _colours(frame: pd.DataFrame, styles: Mapping[str, Style], palette: tuple[str, ...]) -> Any:
    import altair as alt

    names = _present(frame, styles)
    return alt.Scale(domain=names, range=[styles[name].colour(palette) for name in names])


def _dashes(frame: pd.DataFrame, styles: Mapping[str, Style]) -> Any:
    import altair as alt

    names = _present(frame, styles)
    return alt.Scale(domain=names, range=[list(styles[name].dash) for name in names])


def in_page_style(chart: Any, ink: Ink) -> altair.LayerChart:
    """The chart with the report's type, lines and colours."""
    import altair as alt

    styled: altair.LayerChart = chart.configure(  # at once, as each call copies the chart
        background="transparent",
        font="system-ui, sans-serif",
        padding=2,
        view=alt.ViewConfig(stroke=None),
        text=alt.MarkConfig(fontSize=12.5),
        axis=alt.AxisConfig(
            labelColor=ink.muted,
            titleColor=ink.muted,
            gridColor=ink.grid,
            domainColor=ink.grid,
            tickColor=ink.grid,
            labelFontSize=12,
            titleFontSize=12.5,
            titleFontWeight="normal",
            titlePadding=10,
        ),
    )
    return styled
