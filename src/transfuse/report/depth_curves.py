"""Where the gain sits, as the page shows it: the curve over the number of transferred blocks, and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import CURVE_HEIGHT, PAPER_INK, WIDTH, Ink, difference_label
from transfuse.report.palette import LIGHT, Style
from transfuse.report.scales import arm_scales, block_axis, hit, inline, styled
from transfuse.results import phrases
from transfuse.results.depth_curves import DepthCurve, DepthPoint

if TYPE_CHECKING:
    import altair

COLUMNS = ["arm", "n", "block", "value", "low", "high", "label"]


def depth_table(found: DepthCurve, metric: str) -> pd.DataFrame:
    """One row a point, from none to all blocks transferred: `COLUMNS`.

    `low` and `high` are the values that the arm would have at the ends of the 95 % interval of its difference to the
    baseline; where not every arm has one, those of its own interval. They are NaN where there is none.
    """
    rows = []
    for point in found.points:
        low, high = _ends(point, found, metric)
        value = math.nan if point.estimate is None else point.estimate.value
        name = f"{point.place.n} · {point.place.block}" if point.place.n else "0"
        rows.append((point.place.arm, point.place.n, name, value, low, high, _label(point, found)))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float, "low": float, "high": float})


def _ends(point: DepthPoint, found: DepthCurve, metric: str) -> tuple[float, float]:
    if point.estimate is None:
        return math.nan, math.nan
    ends = (point.estimate.low, point.estimate.high)
    if found.is_compared:
        ends = (found.level, found.level)
        if point.against is not None:
            sign = -1 if phrases.smaller_is_better(metric) else 1
            of = point.against.comparison
            ends = (found.level + sign * of.low, found.level + sign * of.high)
    low, high = sorted(ends)
    least, most = phrases.bounds(metric)
    low, high = (end if math.isinf(end) else min(max(end, least), most) for end in (low, high))
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (math.nan, math.nan)


def _label(point: DepthPoint, found: DepthCurve) -> str:
    """The difference to the baseline in words."""
    if point.estimate is None:
        return "no finished run"
    if point.against is None:
        return "the baseline" if point.place.arm == found.baseline else "not compared"
    of = point.against.comparison
    return difference_label(of.difference, of.low, of.high, str(of.verdict), point.against.why_undecided)


def draw_depth(
    frame: pd.DataFrame,
    *,
    baseline: str,
    level: float,
    metric: str,
    margin: float,
    styles: Mapping[str, Style],
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """The test metric over the number of transferred blocks, the interval as a band, the baseline dashed.

    Args:
        frame: as `depth_table` gives it.
        baseline: its name.
        level: its metric; NaN leaves it out, and the margin around it.
        metric: of the study.
        margin: of the study.
        styles: of the arms.
        palette: of the arms.
        ink: of everything else.
    """
    import altair as alt

    name = phrases.metric_name(metric)
    title = f"test {name}" + (" (lower: better)" if phrases.smaller_is_better(metric) else "")
    x = block_axis(list(frame["block"])).title("blocks that start pretrained, from the image on")
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    frame = frame.assign(
        says=[f"{row['arm']}: {phrases.number(row['value'])}, {row['label']}" for row in frame.to_dict("records")]
    )
    layers: list[Any] = []
    if math.isfinite(level):
        line = pd.DataFrame({"value": [level], "low": [level - margin], "high": [level + margin], "text": [baseline]})
        rule = alt.Chart(line).encode(y=y)
        layers += [
            alt.Chart(line).mark_rect(color=ink.band).encode(y=alt.Y("low:Q"), y2="high:Q"),
            rule.mark_rule(strokeDash=[4, 4], color=ink.muted),
        ]
    known = frame[frame["value"].notna()]
    bounded = known[known["low"].notna()]
    colour, _ = arm_scales(frame["arm"], "arm", styles, palette, legend=False)
    spans = alt.Chart(inline(bounded)).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    points = alt.Chart(inline(known)).encode(x=x, y=y)
    tooltip = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("value:Q", title=f"test {name}", format=".3f"),
        alt.Tooltip("label:N", title=f"against {baseline}"),
    ]
    layers += [
        spans.mark_area(opacity=0.14, color=ink.muted, aria=False),
        points.mark_line(strokeWidth=2, color=ink.muted, aria=False),
        spans.mark_rule(strokeWidth=2, aria=False).encode(color=colour),
        points.mark_point(size=90, filled=True, opacity=1, aria=False).encode(color=colour),
    ]
    if math.isfinite(level):
        # The page's colour round the letters keeps the band and the lines off them.
        told = rule.encode(x=alt.value(alt.expr("width")), text="text:N")
        look: dict[str, Any] = {"align": "right", "baseline": "bottom", "dx": -3, "dy": -3}
        layers += [told.mark_text(**look, color=ink.page, stroke=ink.page, strokeWidth=4, strokeJoin="round")]
        layers += [told.mark_text(**look, color=ink.muted)]
    layers.append(hit(points, tooltip))
    drawing: altair.LayerChart = styled(alt.layer(*layers).properties(width=WIDTH, height=CURVE_HEIGHT), ink)
    return drawing


def depth_drawing(
    found: DepthCurve,
    *,
    metric: str,
    margin: float,
    styles: Mapping[str, Style],
    palette: tuple[str, ...],
    ink: Ink,
) -> Drawing:
    """The chart with what it says in words."""
    frame = depth_table(found, metric)
    chart = draw_depth(
        frame,
        baseline=found.baseline,
        level=found.level,
        metric=metric,
        margin=margin,
        styles=styles,
        palette=palette,
        ink=ink,
    )
    lines = [f"{row['block']}: {phrases.number(row['value'])}, {row['label']}" for row in frame.to_dict("records")]
    words = f"Test {phrases.metric_name(metric)} of {found.model} by the number of blocks that start pretrained, "
    return Drawing(f"{found.model}, {found.sweep}", f"{words}{found.sweep}. {'; '.join(lines)}.", chart)


def depth_numbers(found: DepthCurve, metric: str) -> Table:
    """The curve in numbers: a line an arm."""
    heads = ("Pretrained up to", "n/m", f"Test {phrases.metric_name(metric)}", f"Difference to {found.baseline}")
    rows = []
    for point in found.points:
        place, value = f"{point.place.n}/{point.place.m}", "–"
        if point.estimate is not None:
            bounded = math.isfinite(point.estimate.low) and math.isfinite(point.estimate.high)
            span = f"{phrases.number(point.estimate.low)} to {phrases.number(point.estimate.high)}"
            value = phrases.number(point.estimate.value) + (f"\n{span}" if bounded else f"\n{point.estimate.method}")
        words, bracket, rest = _label(point, found).partition(" (")
        rows.append((point.place.block or "nothing", place, value, words + (f"\n({rest}" if bracket else "")))
    return Table(f"{found.model}, {found.sweep}", heads, rows)


def how_to_read(found: Sequence[DepthCurve], metric: str, margin: float | None = None) -> str:
    """The sentences over the curves.

    Args:
        found: the curves.
        metric: name of the metric.
        margin: the difference that does not matter.
    """
    if not found:
        return ""
    name, baseline = phrases.metric_name(metric), found[0].baseline
    said = [f"Test {name} over the number of blocks that start pretrained, the first ones from the image on (WT-ST)."]
    if all(curve.is_compared for curve in found):
        said.append(
            f"A point is the mean over seeds of one arm; the band, the 95 % interval of its difference to {baseline}, "
            "the dashed line, over patients and seeds: where the band leaves the line out, the arm differs from it "
            "when it is looked at by itself."
        )
    else:
        said.append(
            "A point is the mean over seeds of one arm; the band, its 95 % interval over patients and seeds (that of "
            f"its difference to {baseline}, where every arm of the network has one). The dashed line is {baseline}."
        )
    if margin:
        said.append(f"Shaded: less than the margin, {phrases.trimmed(margin)}, from it.")
    return " ".join(said)
