"""Where a network may be cut and with which head, as the page shows it (Peng et al. 2023, Fig. 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import PAGE_INK, PAPER_INK, WIDTH, Ink, difference_label
from transfuse.report.palette import LIGHT, PAGE, Style
from transfuse.report.scales import arm_scales, block_axis, hit, inline, styled
from transfuse.results import phrases
from transfuse.results.cut_heads import HEADS, Cut, Cuts, best_of
from transfuse.results.smallest_network import amount

if TYPE_CHECKING:
    import altair

COLUMNS = ["head", "block", "arm", "value", "low", "high", "parameters"]
STYLES = {"pooled": Style(1, (1, 0)), "unpooled": Style(2, (6, 3))}
METRIC_HEIGHT, SIZE_HEIGHT = 240, 150
_ROOM = 52  # pixels for the numbers of a y axis, the same in every chart, so that the blocks stand below each other
_GAP = "\N{NO-BREAK SPACE}"


class CutTopic(NamedTuple):
    """What the page says of the cuts of one network.

    Attributes:
        name: the network and its sweeps.
        sentence: the best cut of each head.
        drawings: one a metric, then the parameters.
        table: the same in numbers.
    """

    name: str
    sentence: str
    drawings: list[Drawing]
    table: Table


def cut_topics(found: Sequence[Cuts]) -> list[CutTopic]:
    """Draw the cuts of every network."""
    return [CutTopic(one.name, best_in_words(one), cut_drawings(one), cut_numbers(one)) for one in found]


def cut_table(found: Cuts, metric: str) -> pd.DataFrame:
    """One row a cut and head, from the image on: `COLUMNS`.

    `low` and `high` are the ends of the 95 % interval, NaN where there is none; so is `value` without a result.
    """
    rows = []
    for sweep in found.sweeps:
        for cut in sweep.cuts:
            one = cut.estimates.get(metric)
            ends = (math.nan, math.nan) if one is None else (one.low, one.high)
            bounded = all(map(math.isfinite, ends))
            value = math.nan if one is None else one.value
            size = math.nan if cut.parameters is None else cut.parameters
            rows.append(
                (HEADS[sweep.pool], cut.block, cut.arm, value, *(ends if bounded else (math.nan, math.nan)), size)
            )
    floats = dict.fromkeys(("value", "low", "high", "parameters"), float)
    return pd.DataFrame(rows, columns=COLUMNS).astype(floats)


def draw_cut_metric(
    frame: pd.DataFrame, *, metric: str, palette: tuple[str, ...] = LIGHT, ink: Ink = PAPER_INK
) -> altair.LayerChart:
    """A test metric over the cuts, a line a head, with its 95 % intervals.

    Args:
        frame: as `cut_table` gives it.
        metric: its name.
        palette: of the heads.
        ink: of everything else.
    """
    import altair as alt

    name = phrases.metric_name(metric)
    title = f"test {name}" + (" (lower: better)" if phrases.smaller_is_better(metric) else "")
    x = _blocks(frame)
    known = frame[frame["value"].notna()]
    known = known.assign(says=[f"{row['head']}, {row['block']}: {_said(row)}" for row in known.to_dict("records")])
    bounded = known[known["low"].notna()]
    colour, dash = arm_scales(frame["head"], "head", STYLES, palette, legend=frame["head"].nunique() > 1)
    offset = alt.XOffset("head:N", scale=alt.Scale(domain=_heads(frame), paddingOuter=1))
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False), axis=_axis())
    points = alt.Chart(inline(known)).encode(x=x, y=y, xOffset=offset)
    spans = alt.Chart(inline(bounded)).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    layers: list[Any] = [
        points.mark_line(strokeWidth=2, aria=False).encode(color=colour, strokeDash=dash),
        spans.mark_rule(strokeWidth=1.75, aria=False).encode(xOffset=offset),
        points.mark_point(size=60, filled=True, opacity=1, aria=False).encode(color=colour),
        hit(points, [alt.Tooltip("block:N", title="cut after"), alt.Tooltip("says:N", title=f"test {name}")]),
    ]
    drawing: altair.LayerChart = styled(alt.layer(*layers).properties(width=WIDTH, height=METRIC_HEIGHT), ink)
    return drawing


def draw_cut_parameters(
    frame: pd.DataFrame, *, palette: tuple[str, ...] = LIGHT, ink: Ink = PAPER_INK
) -> altair.LayerChart:
    """The parameters of every cut with its head, as bars from 0.

    Args:
        frame: as `cut_table` gives it, of any metric.
        palette: of the heads.
        ink: of everything else.
    """
    import altair as alt

    known = frame[frame["parameters"].notna()]
    says = [f"{row['head']}, {row['block']}: {amount(row['parameters'])}" for row in known.to_dict("records")]
    colour, _ = arm_scales(frame["head"], "head", STYLES, palette, legend=False)
    bars = alt.Chart(inline(known.assign(says=says))).encode(
        x=_blocks(frame),
        y=alt.Y("parameters:Q", title="parameters", axis=_axis(labelExpr="format(datum.value, '~s')")),
        xOffset=alt.XOffset("head:N", scale=alt.Scale(domain=_heads(frame))),
        color=colour,
        tooltip=[alt.Tooltip("says:N", title="parameters")],
        description="says:N",
    )
    drawing: altair.LayerChart = styled(
        alt.layer(bars.mark_bar(opacity=0.85, aria=False)).properties(width=WIDTH, height=SIZE_HEIGHT), ink
    )
    return drawing


def cut_drawings(found: Cuts, palette: tuple[str, ...] = PAGE, ink: Ink = PAGE_INK) -> list[Drawing]:
    """A chart a metric, then that of the parameters, with what they say in words."""
    drawn = []
    for metric in found.metrics:
        frame = cut_table(found, metric)
        lines = [f"{row['head']}, {row['block']}: {_said(row)}" for row in frame.to_dict("records")]
        words = f"Test {phrases.metric_name(metric)} of {found.model} by the block it is cut after. {'; '.join(lines)}."
        chart = draw_cut_metric(frame, metric=metric, palette=palette, ink=ink)
        drawn.append(Drawing(f"{found.name}: test {phrases.metric_name(metric)}", words, chart))
    frame = cut_table(found, found.metrics[0])
    known = frame[frame["parameters"].notna()]
    if len(known):
        lines = [f"{row['head']}, {row['block']}: {amount(row['parameters'])}" for row in known.to_dict("records")]
        words = f"Parameters of {found.model} by the block it is cut after. {'; '.join(lines)}."
        drawn.append(Drawing(f"{found.name}: parameters", words, draw_cut_parameters(frame, palette=palette, ink=ink)))
    return drawn


def cut_numbers(found: Cuts) -> Table:
    """A line a cut and head: parameters, every metric with its interval, and the heads against each other."""
    names = [f"Test {phrases.metric_name(metric)}" for metric in found.metrics]
    heads = ("Cut after", "Head", "Parameters", *names, *(("Unpooled less pooled",) if found.against else ()))
    rows = []
    for block in found.blocks:
        for sweep in found.sweeps:
            for cut in (one for one in sweep.cuts if one.block == block):
                size = "–" if cut.parameters is None else amount(cut.parameters)
                values = [_cell(cut, metric) for metric in found.metrics]
                against = [_against(found, block) if sweep.pool == "none" else ""] if found.against else []
                rows.append((block, HEADS[sweep.pool], size, *values, *against))
    return Table(found.name, heads, rows, words=2)


def best_in_words(found: Cuts) -> str:
    """The best cut of each head by its mean, in a sentence a head.

    The best of many is too good by as much as luck helped it; the sentence says by what it was chosen.
    """
    metric = found.metrics[0]
    parts = []
    for pool, cut in best_of(found, metric, phrases.smaller_is_better(metric)).items():
        size = "" if cut.parameters is None else f" and {amount(cut.parameters)} parameters"
        value = phrases.number(cut.estimates[metric].value)
        parts.append(f"{value} with the {HEADS[pool]} head after {cut.block}{size}")
    if not parts:
        return ""
    return f"Best mean test {phrases.metric_name(metric)} of {found.model}: {'; '.join(parts)}."


def how_to_read(found: Sequence[Cuts]) -> str:
    """The sentences over the charts."""
    if not found:
        return ""
    said = (
        "The network is cut after each block in turn. A point is the mean over seeds, the bar through it its 95 % "
        "interval over patients and seeds; the lowest chart has all parameters of the cut network with its head."
    )
    if any(len(one.sweeps) > 1 for one in found):
        compared = any(one.against for one in found)
        said += (
            " The pooled head sees the average of the last feature map, the unpooled one all of it. Intervals of two "
            "heads may overlap where their difference is certain: "
            + ("the table has it, with its verdict." if compared else "pairs: [[one arm, the other]] has it compared.")
        )
    return f"{said} The best of many cuts is a little too good: a description, not a test."


def _blocks(frame: pd.DataFrame) -> Any:
    """The blocks along x, at the same places in every chart."""
    import altair as alt

    blocks = list(dict.fromkeys(frame["block"]))
    scale = alt.Scale(type="band", domain=blocks, paddingInner=0.2, paddingOuter=0.2)
    return block_axis(blocks, band=True).title("cut after").scale(scale)


def _heads(frame: pd.DataFrame) -> list[str]:
    there = set(frame["head"])
    return [head for head in HEADS.values() if head in there]


def _axis(**settings: Any) -> Any:
    import altair as alt

    return alt.Axis(tickCount=5, minExtent=_ROOM, maxExtent=_ROOM, **settings)


def _said(row: Mapping[Any, Any]) -> str:
    if not math.isfinite(row["value"]):
        return "no result"
    span = f" ({phrases.number(row['low'])} to {phrases.number(row['high'])})" if math.isfinite(row["low"]) else ""
    return phrases.number(row["value"]) + span


def _cell(cut: Cut, metric: str) -> str:
    one = cut.estimates.get(metric)
    if one is None:
        return "–"
    bounded = math.isfinite(one.low) and math.isfinite(one.high)
    span = f"{phrases.number(one.low)}{_GAP}to{_GAP}{phrases.number(one.high)}" if bounded else one.method
    return f"{phrases.number(one.value)}\n{span}"


def _against(found: Cuts, block: str) -> str:
    row = found.against.get(block)
    if row is None:
        return "not compared"
    of = row.comparison
    words, bracket, rest = difference_label(
        of.difference, of.low, of.high, str(of.verdict), row.why_undecided
    ).partition(" (")
    return words + (f"\n({rest}" if bracket else "")
