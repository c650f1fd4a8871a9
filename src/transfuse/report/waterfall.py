"""The gain of pretrained weights as a waterfall: from random weights up to them, one cause after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from transfuse.report.figures import PAPER_INK, ROW, WIDTH, Ink, by_width, difference_label, in_page_style
from transfuse.report.palette import LIGHT, Style
from transfuse.report.scales import arm_scales
from transfuse.results import phrases
from transfuse.results.causes import Step, Waterfall

if TYPE_CHECKING:
    import altair

    from transfuse.statistics.comparison import Estimate

COLUMNS = ["row", "kind", "arm", "title", "label", "start", "end", "low", "high"]
LEVEL, STEP, BESIDE = "level", "step", "beside"


def waterfall_table(fall: Waterfall, estimates: Mapping[str, Estimate | None] | None = None) -> pd.DataFrame:
    """The rows of one waterfall from top to bottom: `COLUMNS`.

    The first arm and the last are levels, with start and end alike; each step between them runs from `start` to `end`,
    in units of the metric, and has its 95 % interval from `low` to `high`, as values that `end` might have with `start`
    as it is. What stands beside comes last. Without an interval, `low` and `high` are NaN.

    Args:
        fall: the steps.
        estimates: the test metric of arms, by label, for the numbers of the levels.
    """
    estimates = estimates or {}
    levels = [(fall.bottom, fall.steps[0].start), (fall.top, fall.steps[-1].end)]
    first, last = (
        {"kind": LEVEL, "arm": arm, "title": arm, "start": value, "end": value, "low": math.nan, "high": math.nan}
        | {"label": _level_label(value, estimates.get(arm))}
        for arm, value in levels
    )
    steps = [_step_row(step, STEP, f"+ {step.cause.lower()}") for step in fall.steps]
    beside = [_step_row(step, BESIDE, f"beside it, {step.cause.lower()}") for step in fall.beside]
    frame = pd.DataFrame([first, *steps, last, *beside])
    return frame.assign(row=range(len(frame)))[COLUMNS]


def draw_waterfall(
    frame: pd.DataFrame,
    *,
    metric: str,
    styles: Mapping[str, Style],
    domain: tuple[float, float] | None = None,
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """A waterfall of one network: bars that float from arm to arm, each with the 95 % interval of its step.

    Right is better, also where a smaller value of the metric is. A bar has the colour of the arm that it leads to; one
    without an interval is an outline.

    Args:
        frame: what `waterfall_table` gives.
        metric: name of the metric.
        styles: of the arms.
        domain: range of the axis; None: as the values need.
        palette: of the arms.
        ink: of everything else.
    """
    import altair as alt

    rows = list(range(len(frame)))
    y = alt.Y("row:O", axis=None, scale=alt.Scale(domain=rows, padding=0.5))
    x = alt.X(
        "start:Q",
        title=f"test {phrases.metric_name(metric)} (right: better)",
        scale=alt.Scale(
            domain=list(domain or _domain(frame, phrases.bounds(metric))),
            nice=False,
            zero=False,
            reverse=phrases.smaller_is_better(metric),
        ),
        axis=alt.Axis(tickCount=7),
    )
    colour, _ = arm_scales(frame["arm"], "arm", styles, palette, legend=False)
    tooltip = [alt.Tooltip("title:N", title="step"), alt.Tooltip("label:N", title="difference (95 %)")]
    moves = frame[frame["kind"] != LEVEL]
    bounded = moves["low"].notna()
    drop = by_width(_NARROW_DROP, _DROP)

    def marks(part: pd.DataFrame) -> altair.Chart:
        return alt.Chart(part).encode(y=y, color=colour, tooltip=tooltip)

    # A line thick enough is a bar: its ends are values, its place in the row is that of the interval.
    bar = marks(moves[bounded]).mark_rule(strokeWidth=_BAR, yOffset=drop, opacity=0.32).encode(x=x, x2="end:Q")
    edges = [
        marks(moves[~bounded]).mark_rule(
            strokeWidth=1.5, strokeDash=[4, 3], yOffset=by_width(_NARROW_DROP + half, _DROP + half)
        )
        for half in (-_BAR / 2, _BAR / 2)
    ]
    span = marks(moves[bounded]).mark_rule(strokeWidth=3, yOffset=drop).encode(x=alt.X("low:Q"), x2="high:Q")
    dot = marks(moves).mark_point(size=90, filled=True, opacity=1, yOffset=drop).encode(x=alt.X("end:Q"))
    level = marks(frame[frame["kind"] == LEVEL]).mark_tick(thickness=4, height=_BAR + 2, yOffset=drop, opacity=1)
    joints = alt.Chart(_joints(frame)).mark_rule(
        color=ink.muted, strokeWidth=1, strokeDash=[2, 3], yOffset=drop, y2Offset=drop
    )
    first_beside = moves[moves["kind"] == BESIDE].head(1)
    fence = alt.Chart(first_beside).mark_rule(color=ink.grid, strokeWidth=1, yOffset=2 - ROW / 2)
    layers = [
        fence.encode(y=y, x=alt.value(0), x2=alt.value(alt.expr("width"))),
        joints.encode(x=alt.X("value:Q"), y=y, y2="to:O"),
        bar,
        *(edge.encode(x=x, x2="end:Q") for edge in edges),
        span,
        dot,
        level.encode(x=alt.X("end:Q")),
    ]
    limit = by_width("width - 4", "width - 360")  # the numbers keep their room
    named = alt.Chart(frame).encode(y=y, x=alt.value(2), text="title:N")
    told = alt.Chart(frame).encode(y=y, x=alt.value(alt.expr("width - 2")), text="label:N")
    # The page's colour round the letters keeps the lines between the rows off them.
    names: dict[str, Any] = {"align": "left", "fontWeight": "bold", "dy": by_width(-20, _LIFT), "limit": limit}
    numbers: dict[str, Any] = {"align": "right", "dy": by_width(-6, _LIFT)}
    halo: dict[str, Any] = {"color": ink.page, "stroke": ink.page, "strokeWidth": 5, "strokeJoin": "round"}
    layers += [
        text.mark_text(**look, **by)
        for by in (halo, {"color": ink.text})
        for text, look in ((named, names), (told, numbers))
    ]
    return in_page_style(alt.layer(*layers).properties(width=WIDTH, height=ROW * len(frame)), ink)


def how_to_read(frames: Sequence[pd.DataFrame], metric: str, margin: float | None = None) -> str:
    """The sentences over the waterfalls, about what is in them.

    Args:
        frames: what `waterfall_table` gives, of each.
        metric: name of the metric.
        margin: the difference that does not matter.
    """
    if not frames:
        return ""
    rows = pd.concat(frames)
    moves = rows[rows["kind"] != LEVEL]
    whole = any(frame["kind"].eq(STEP).sum() > 1 for frame in frames)
    scale = "the scale of the weights alone (Mean Var less random weights), then " if whole else ""
    end = f". The margin, below which a step does not matter, is {phrases.trimmed(margin)}." if margin else "."
    bars = f"A bar runs from one arm's mean test {phrases.metric_name(metric)} to the next one's, and its line is the "
    said = [
        f"The way up to pretrained weights in steps: {scale}the learned features (pretrained less Mean Var weights).",
        f"{bars}95 % interval of the step{end}",
    ]
    if (moves["kind"] == BESIDE).any():
        said.append("Beside it: what training the transferred layers adds to keeping them frozen.")
    if moves["low"].isna().any():
        said.append("A dashed outline is a step without an interval: nothing can be said of it yet.")
    return " ".join(said)


_BAR, _DROP, _LIFT = 16, 8, -11  # thickness of a bar, how far it lies below and its text above the middle of a row
_NARROW_DROP = 13


def _level_label(value: float, estimate: Estimate | None) -> str:
    found = estimate is not None and math.isfinite(estimate.low) and math.isfinite(estimate.high)
    span = f" ({phrases.number(estimate.low)} to {phrases.number(estimate.high)})" if found and estimate else ""
    return f"{phrases.number(value)}{span}"


def _step_row(step: Step, kind: str, head: str) -> dict[str, object]:
    least, most = phrases.bounds(step.comparison.metric)
    low, high = (step.level(end) for end in step.interval)
    bounded = math.isfinite(low) and math.isfinite(high)
    low, high = (min(max(end, least), most) for end in (low, high))  # a level that no arm can have is none
    return {
        "kind": kind,
        "arm": step.arm,
        "title": f"{head}: {step.arm} {phrases.MINUS} {step.baseline}",
        "label": difference_label(step.difference, *step.interval, step.verdict, step.why_undecided),
        "start": step.start,
        "end": step.end,
        "low": low if bounded else math.nan,
        "high": high if bounded else math.nan,
    }


def _domain(frame: pd.DataFrame, bounds: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float]:
    """The range of values that holds every level and every interval, and none beyond the metric's bounds."""
    values = frame[["start", "end", "low", "high"]].to_numpy(float)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = 0.04 * (high - low) or 0.01
    return max(low - pad, bounds[0]), min(high + pad, bounds[1])


def same_lengths(
    frames: Sequence[pd.DataFrame], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> list[tuple[float, float]]:
    """A range of values for each waterfall, all as wide as the widest needs, so that their bars can be compared.

    None goes beyond the metric's `bounds`.
    """
    ranges = [_domain(frame, bounds) for frame in frames]
    wide = max((high - low for low, high in ranges), default=0.0)
    starts = [min(max((low + high - wide) / 2, bounds[0]), bounds[1] - wide) for low, high in ranges]
    return [(start, start + wide) for start in starts]


def _joints(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines that lead from the end of each row to the next one; what stands beside ends where the steps end."""
    way = frame[frame["kind"] != BESIDE]
    found = [(row, row + 1, value) for row, value in zip(way["row"][:-1], way["end"][:-1], strict=True)]
    top = way.iloc[-1]
    found += [(row - 1, row, top["end"]) for row in frame.loc[frame["kind"] == BESIDE, "row"]]
    return pd.DataFrame(found, columns=["row", "to", "value"])
