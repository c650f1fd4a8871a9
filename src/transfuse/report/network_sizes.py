"""How small the network may be, as the page shows it: a chart and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import Ink
from transfuse.report.palette import Style
from transfuse.report.pareto_figures import draw_pareto, pareto_table
from transfuse.results import phrases
from transfuse.results.network_sizes import COSTS, ArmSize, Name, Sizes
from transfuse.results.smallest_network import amount, share

_GAP = "\N{NO-BREAK SPACE}"


def size_drawing(found: Sizes, cost: str, styles: Mapping[str, Style], palette: tuple[str, ...], ink: Ink) -> Drawing:
    """The chart of one of the costs, with the words that belong to it."""
    frame = pareto_table(found, cost)
    chart = draw_pareto(
        frame, cost=cost, metric=found.metric, margin=found.margin, styles=styles, palette=palette, ink=ink
    )
    lines = [
        f"{row['arm']} of {row['model']}, {amount(row['cost'], cost)}: {phrases.number(row['value'])}, "
        f"P(not dominated) {share(row['not_dominated'])}"
        for row in frame.to_dict("records")
    ]
    words = f"Test {phrases.metric_name(found.metric)} against {COSTS[cost]}. {'; '.join(lines)}."
    return Drawing(f"Test {phrases.metric_name(found.metric)} against {COSTS[cost]}", words, chart)


def size_table(found: Sizes) -> Table:
    """A line an arm: what it costs, its metric, and the two probabilities."""
    costs = [cost for cost in COSTS if any(cost in row.costs for row in found.rows)]
    ranked = [cost for cost in costs if any(cost in row.not_dominated for row in found.rows)]
    several = len({row.name.model for row in found.rows}) > 1
    gap = phrases.trimmed(found.margin)
    best = next((answer.best for answer in found.answers if not answer.model), None)
    heads = (
        "Arm",
        *(("Network",) if several else ()),
        *(COSTS[cost] if cost == "macs" else COSTS[cost].capitalize() for cost in costs),
        f"Test {phrases.metric_name(found.metric)}",
        *(f"P(not dominated) by {COSTS[cost]}" for cost in ranked),
        f"P(less than {gap} worse)",
    )
    return Table(
        "Every arm, by parameters",
        heads,
        [_line(row, costs, ranked, several, best) for row in found.rows],
        2 if several else 1,
    )


def _line(
    row: ArmSize, costs: Sequence[str], ranked: Sequence[str], several: bool, best: Name | None
) -> tuple[str, ...]:
    bounded = math.isfinite(row.low) and math.isfinite(row.high)
    span = f"\n{phrases.number(row.low)}{_GAP}to{_GAP}{phrases.number(row.high)}" if bounded else ""
    places = []
    for cost in ranked:
        known = row.not_dominated.get(cost, math.nan)
        own = row.in_network.get(cost, math.nan)
        small = f"{share(own)} in its network" if not math.isnan(own) else row.reason if math.isnan(known) else ""
        places.append(share(known) + (f"\n{small}" if small else ""))
    return (
        row.name.arm,
        *((row.name.model,) if several else ()),
        *(_cost(row, cost) for cost in costs),
        f"{phrases.number(row.value)}{span}",
        *places,
        "the best" if row.name == best else share(row.not_worse) if not math.isnan(row.not_worse) else "no test",
    )


def _cost(row: ArmSize, cost: str) -> str:
    if cost not in row.costs:
        return "unknown"
    said = amount(row.costs[cost], cost)
    if cost == "latency" and row.timing is not None:
        low, high = (amount(end, cost).partition(_GAP)[0] for end in row.timing[1:])
        said += f"\n{low}{_GAP}to{_GAP}{high}"
    return said
