"""How much data it takes: the curve of each arm over the number of training patients, and what it says in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import CURVE_HEIGHT, PAGE_INK, PAPER_INK, WIDTH, Ink
from transfuse.report.palette import LIGHT, PAGE, Style
from transfuse.report.scales import arm_scales, inline, styled
from transfuse.results import arms, phrases
from transfuse.results.data_size import (
    MORE,
    ArmDataSize,
    DataSizes,
    between,
    cannot_tell,
    end,
    mean_of_seeds,
    notes,
    sentences,
)

if TYPE_CHECKING:
    import altair

    from transfuse.statistics.crossover import Crossover
    from transfuse.statistics.data_size import DataSizeCurve

_POINTS = 60
_DODGE = 1.02
"""Points of two arms at one size stand so far apart, as a factor, or one would hide the other."""


class Amount(NamedTuple):
    """How much data one network takes: the answer, a chart, a table, and what is to be kept in mind."""

    model: str
    sentences: Sequence[str]
    drawing: Drawing | None
    table: Table
    notes: Sequence[str]


def data_size_amounts(
    found: Sequence[DataSizes],
    settings: Mapping[str, Mapping[str, Any]],
    metric: str,
    baseline: str,
    styles: Mapping[str, Style],
) -> list[Amount]:
    """What the page shows of each network.

    Args:
        found: the arms of each network over the number of training patients.
        settings: of each arm.
        metric: of the study.
        baseline: of the study.
        styles: of each arm.
    """
    subjects = arms.subjects(settings)
    whole = [arm for arm, own in settings.items() if arms.kind_of(own) == arms.FULL]
    told = whole or [arm for arm, own in settings.items() if arms.transfers(own)]
    return [
        Amount(
            one.model,
            sentences(one, baseline, subjects, told),
            data_size_drawing(one, metric, styles, PAGE, PAGE_INK) if one.arms else None,
            data_size_table(one, metric, baseline),
            notes(one),
        )
        for one in found
    ]


def curve_table(found: DataSizes) -> pd.DataFrame:
    """The fitted curves, a row a point: arm, patients, value, low, high; NaN where there is no interval."""
    rows = []
    for row in found.arms:
        curve = row.curve
        for patients in np.geomspace(curve.patients[0], curve.largest, _POINTS):
            at = curve.at(min(max(float(patients), curve.patients[0]), curve.largest))
            bounded = math.isfinite(at.low) and math.isfinite(at.high)
            limits = (at.low, at.high) if bounded else (math.nan, math.nan)
            rows.append((row.arm, float(patients), at.value, *limits))
    return pd.DataFrame(rows, columns=["arm", "patients", "value", "low", "high"])


def seed_table(found: DataSizes) -> pd.DataFrame:
    """The metric of each seed, a row a training: arm, patients, place (where it is drawn), value."""
    rows = []
    for number, row in enumerate(found.arms):
        dodge = _DODGE ** (number - (len(found.arms) - 1) / 2)
        for patients, values in zip(row.curve.patients, row.curve.values, strict=True):
            rows += [(row.arm, patients, patients * dodge, value) for value in values]
    return pd.DataFrame(rows, columns=["arm", "patients", "place", "value"])


def draw_data_size(
    found: DataSizes,
    *,
    metric: str,
    styles: Mapping[str, Style],
    palette: tuple[str, ...] = LIGHT,
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """The test metric against the number of training patients: a point a seed, a line with its band an arm."""
    import altair as alt

    curves, seeds = curve_table(found), seed_table(found)
    name = phrases.metric_name(metric)
    sizes = sorted(set(seeds["patients"]))
    ends = [float(min(seeds["place"].min(), sizes[0])) / _DODGE, float(max(seeds["place"].max(), sizes[-1])) * _DODGE]
    axis = alt.Axis(values=sizes, format=",", grid=False, labelOverlap="greedy", labelSeparation=6)
    scale = alt.Scale(type="log", domain=ends, nice=False)
    x = alt.X("patients:Q", title="training patients (logarithmic scale)", scale=scale, axis=axis)
    y = alt.Y("value:Q", title=f"test {name}", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    colour, dash = arm_scales(curves["arm"], "arm", styles, palette, legend=True)
    drawn = alt.Chart(inline(curves)).encode(x=x)
    low = alt.Y("low:Q", title=f"test {name}", scale=alt.Scale(zero=False))
    layers = [
        drawn.mark_area(opacity=max(0.06, 0.24 / (1 + len(found.arms)))).encode(y=low, y2="high:Q", color=colour),
        drawn.mark_line(strokeWidth=2.75, strokeCap="round").encode(y=y, color=colour, strokeDash=dash),
    ]
    says = seeds.assign(
        says=[
            f"{arm}, {patients:,} patients: {phrases.number(value)}"
            for arm, patients, _, value in seeds.itertuples(index=False, name=None)
        ]
    )
    layers.append(
        alt.Chart(inline(says))
        .mark_point(size=42, filled=True, opacity=0.85)
        .encode(
            x=alt.X("place:Q", scale=scale, axis=axis, title="training patients (logarithmic scale)"),
            y=y,
            color=colour,
            description="says:N",
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("patients:Q", title="training patients", format=","),
                alt.Tooltip("value:Q", title=f"test {name}", format=".3f"),
            ],
        )
    )
    chart = alt.layer(*layers).properties(width=WIDTH, height=CURVE_HEIGHT)
    drawing: altair.LayerChart = styled(chart, ink)
    return drawing


def data_size_drawing(
    found: DataSizes, metric: str, styles: Mapping[str, Style], palette: tuple[str, ...], ink: Ink
) -> Drawing:
    """The chart of one network with what it says in words."""
    parts = []
    for row in found.arms:
        first, last = row.curve.at(row.curve.patients[0]), row.curve.at(row.curve.largest)
        parts.append(
            f"{row.arm} {phrases.number(first.value)} at {row.curve.patients[0]:,} patients and "
            f"{phrases.number(last.value)} at {row.curve.largest:,}"
        )
    text = f"Test {phrases.metric_name(metric)} by number of training patients for {found.model}. {'; '.join(parts)}."
    chart = draw_data_size(found, metric=metric, styles=styles, palette=palette, ink=ink)
    return Drawing(found.model, text, chart)


def data_size_table(found: DataSizes, metric: str, baseline: str) -> Table:
    """The arms in numbers."""
    name = phrases.metric_name(metric)
    met = [row.within for row in found.arms if row.within is not None]
    heads = ["Arm", f"Test {name}, all patients", "The same, fitted", f"{MORE} patients more"]
    base = [row.curve for row in found.arms if row.arm == baseline]
    if met:
        heads += [f"{baseline} within {phrases.trimmed(met[0].margin)} from", f"{baseline} as good from"]
    rows = []
    for row in found.arms:
        seeds = phrases.counted(len(row.curve.values[-1]), "seed")
        cells = [row.arm, f"{phrases.number(mean_of_seeds(row))}\nmean of {seeds}", _estimate(row), _gain(row)]
        if met:
            cells += [_met(one, [row.curve, *base]) for one in (row.within, row.crossing)]
        rows.append(tuple(cells))
    return Table(found.model, tuple(heads), rows)


def _met(one: Crossover | None, curves: Sequence[DataSizeCurve]) -> str:
    """From how many patients on one curve comes up to the other; where that can't be told, no number."""
    if one is None:
        return "–"
    number = "can't tell" if cannot_tell(one, *curves) else f"{end(one.patients, one)}{_far(one.patients, one.largest)}"
    return f"{number}\n{between(one)}"


def _estimate(row: ArmDataSize) -> str:
    at = row.curve.at(row.curve.largest)
    if not math.isfinite(at.low):
        return f"{phrases.number(at.value)}\n{row.curve.method}"
    return f"{phrases.number(at.value)}\n{phrases.number(at.low)} to {phrases.number(at.high)}"


def _gain(row: ArmDataSize) -> str:
    gain = row.worth.gain
    if math.isnan(gain.value):
        return f"–\n{row.worth.note}"
    if not math.isfinite(gain.low):
        return f"{phrases.signed(gain.value, 4)}\nno interval"
    return f"{phrases.signed(gain.value, 4)}\n{phrases.signed(gain.low, 4)} to {phrases.signed(gain.high, 4)}"


def _far(patients: float, largest: int) -> str:
    return " (extrapolated)" if math.isfinite(patients) and patients > largest else ""
