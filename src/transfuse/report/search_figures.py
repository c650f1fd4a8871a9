"""How a search looked for the smallest network, as the page shows it: a chart of its rounds, and a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import CURVE_HEIGHT, PAPER_INK, WIDTH, Ink
from transfuse.report.palette import LIGHT
from transfuse.report.scales import block_axis, hit, inline, styled
from transfuse.results import phrases
from transfuse.results.cut_search import Search
from transfuse.results.smallest_network import amount, share

if TYPE_CHECKING:
    import altair

COLUMNS = ["round", "cut", "value", "low", "high", "steps", "kept", "mark"]
_GAP = "\N{NO-BREAK SPACE}"
_NAMES = {"logme": "LogME", "overlap": "overlap with random features"}


def search_table(found: Search) -> pd.DataFrame:
    """One row a cut and round, as they were looked at: `COLUMNS`; `mark` says what became of the cut."""
    rows = []
    last = {one.arm: one for one in found.seen}
    for one in found.seen:
        chosen = one.arm in (found.best, found.smallest) and last[one.arm] is one
        mark = "chosen" if chosen else "went on" if one.kept else "left"
        rows.append((one.round, block_of(one.arm), one.value, one.low, one.high, one.steps, one.kept, mark))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float, "low": float, "high": float})


def block_of(arm: str) -> str:
    """The block after which an arm is cut.

    >>> block_of("truncated@layer2")
    'layer2'
    """
    return arm.partition("@")[2] or arm


def draw_search(
    frame: pd.DataFrame,
    *,
    cuts: list[str],
    quantity: str,
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """What was seen of each cut, a colour a round; filled points went on or were chosen.

    Args:
        frame: as `search_table` gives it.
        cuts: names of all, the smallest network first.
        quantity: what was seen, for the axis.
        palette: of the rounds.
        ink: of everything else.
    """
    import altair as alt

    frame = frame.rename(columns={"cut": "block"})
    x = block_axis(cuts).title("the network ends after this block")
    y = alt.Y("value:Q", title=quantity, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    known = frame[frame["value"].notna()]
    rounds = list(dict.fromkeys(frame["round"]))
    colours = [palette[(place + 1) % len(palette)] for place in range(len(rounds))]
    colour = alt.Color(
        "round:N",
        scale=alt.Scale(domain=rounds, range=colours),
        legend=alt.Legend(title=None, orient="top") if len(rounds) > 1 else None,
    )
    points = alt.Chart(inline(known)).encode(x=x, y=y, color=colour)
    spans = alt.Chart(inline(known[known["low"].notna()])).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    tooltip = [
        alt.Tooltip("block:N"),
        alt.Tooltip("round:N"),
        alt.Tooltip("value:Q", title=quantity, format=".3f"),
        alt.Tooltip("steps:Q", title="steps"),
        alt.Tooltip("mark:N", title="it"),
    ]
    layers: list[Any] = [
        points.mark_line(strokeWidth=1, opacity=0.5, aria=False),
        spans.mark_rule(strokeWidth=1.5, opacity=0.6, aria=False),
        points.transform_filter("!datum.kept").mark_point(size=60, fill=ink.page, opacity=1, aria=False),
        points.transform_filter("datum.kept").mark_point(size=80, filled=True, opacity=1, aria=False),
        points.transform_filter("datum.mark == 'chosen'").mark_point(size=260, strokeWidth=1.5, aria=False),
        hit(points, tooltip),
    ]
    drawing: altair.LayerChart = styled(alt.layer(*layers).properties(width=WIDTH, height=CURVE_HEIGHT), ink)
    return drawing


def search_drawing(found: Search, palette: tuple[str, ...], ink: Ink) -> Drawing | None:
    """The chart of a search with its words; None where nothing was seen yet."""
    frame = search_table(found)
    if frame["value"].notna().sum() == 0:
        return None
    quantity = quantity_of(found)
    chart = draw_search(frame, cuts=[block_of(arm) for arm in found.cuts], quantity=quantity, palette=palette, ink=ink)
    lines = [
        f"{row['round']}, {row['cut']}: {phrases.number(row['value'])}, {row['mark']}"
        for row in frame.to_dict("records")
    ]
    return Drawing(found.model, f"{quantity} of the cuts of {found.model}. {'; '.join(lines)}.", chart)


def quantity_of(found: Search) -> str:
    """What was seen of the cuts, as an axis says it."""
    seen = next(iter(found.seen)).quantity if found.seen else found.metric
    if seen in _NAMES:
        return _NAMES[seen]
    name = phrases.metric_name(found.metric)
    return f"{name}, held-out training images" if found.strategy == "rank" else f"validation {name}"


def verdict_table(found: Search) -> Table:
    """The cuts that were compared on the test part, against the whole network."""
    name, gap = phrases.metric_name(found.test_metric), phrases.trimmed(found.margin)
    assert found.verdict is not None
    heads = (
        "Cut",
        "Parameters",
        "MACs",
        f"Test {name}",
        f"Difference to {found.verdict.whole}, with its 95 % interval",
        f"P(less than {gap} worse)",
    )
    rows = []
    for row in found.verdict.rows:
        same, held = row.name == found.verdict.whole, found.verdict.held.get(row.name)
        tested = share(row.probability) if not math.isnan(row.probability) else "no test"
        bounded = math.isfinite(row.low) and math.isfinite(row.high)
        ends = f"{phrases.signed(row.low)}{_GAP}to{_GAP}{phrases.signed(row.high)}" if bounded else "no interval"
        rows.append(
            (
                row.name,
                amount(found.parameters[row.name]),
                amount(found.macs_of[row.name], "macs"),
                phrases.number(row.value),
                "the whole network" if same else f"{phrases.signed(row.difference)}\n{ends}",
                "" if same else f"{tested}\nshows nothing: {held}" if held else tested,
            )
        )
    return Table(f"{found.model}: the chosen cuts on the test part", heads, rows)
