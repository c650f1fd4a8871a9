"""Where the gain sits, as the page shows it: waterfalls, those of single classes, and curves over the depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from transfuse.report import depth_curves, waterfall
from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import PAGE_INK
from transfuse.report.learning import MOST_CLASSES
from transfuse.report.palette import PAGE, Style
from transfuse.results import phrases
from transfuse.results.arms import ArmComparison, ArmEstimate
from transfuse.results.causes import Settings, Waterfall, waterfalls
from transfuse.results.depth_curves import curves_over_depth


class Gain(NamedTuple):
    """What the page says of where the gain sits; a part without anything to show is empty.

    Attributes:
        falls: the waterfalls.
        how_it_falls: how to read them.
        of_classes: the waterfalls of single classes.
        depths: the curves over the depth.
        how_deep: how to read them.
        depth_tables: the same in numbers.
    """

    falls: list[Drawing]
    how_it_falls: str
    of_classes: list[Drawing]
    depths: list[Drawing]
    how_deep: str
    depth_tables: list[Table]


class _Fall(NamedTuple):
    """A waterfall of a network, and what it is called: by the arm at its top too, where the network has several."""

    model: str
    name: str
    fall: Waterfall


def gain(
    study: Mapping[str, Any],
    arms: Mapping[str, Settings],
    baseline: str,
    estimates: Sequence[ArmEstimate],
    comparisons: Sequence[ArmComparison],
    styles: Mapping[str, Style],
) -> Gain:
    """Draw where the gain sits.

    Args:
        study: `metric, margin, models, data` of a report's study, each may be missing.
        arms: label -> settings, of all arms.
        baseline: the arm that the others are compared with.
        estimates: of every arm that was asked for.
        comparisons: of the study.
        styles: of the arms.
    """
    metric, margin, models = str(study.get("metric") or "auroc"), study.get("margin"), study.get("models") or {}
    falls = []
    for model in dict.fromkeys(row.model for row in comparisons):
        found = waterfalls([row for row in comparisons if row.model == model], arms, models.get(model))
        falls += [_Fall(model, model if len(found) == 1 else f"{model}, {fall.top}", fall) for fall in found]
    frames = [
        waterfall.waterfall_table(one.fall, {row.arm: row.estimate for row in estimates if row.model == one.model})
        for one in falls
    ]
    curves = curves_over_depth(arms, estimates, comparisons, baseline, models)
    return Gain(
        [_drawn(one, frame, metric, styles) for one, frame in zip(falls, frames, strict=True)],
        waterfall.how_to_read(frames, metric, margin),
        [drawing for one in falls for drawing in _of_classes(one, study.get("data") or {}, metric, styles)],
        [
            depth_curves.depth_drawing(
                curve, metric=metric, margin=float(margin or 0), styles=styles, palette=PAGE, ink=PAGE_INK
            )
            for curve in curves
        ],
        depth_curves.how_to_read(curves, metric, margin),
        [depth_curves.depth_numbers(curve, metric) for curve in curves],
    )


def _of_classes(one: _Fall, data: Mapping[str, Any], metric: str, styles: Mapping[str, Style]) -> list[Drawing]:
    """Those of single classes, of more than two or of several labels; a bar of one length is one difference in all."""
    names = [str(name) for name in data.get("classes") or ()]
    classes = [index for index in one.fall.classes if index < len(names)][:MOST_CLASSES]
    if len(classes) < 2 or (len(names) < 3 and data.get("task") != "multilabel"):
        return []
    frames = [waterfall.waterfall_table(one.fall.of_class(index)) for index in classes]
    spans = waterfall.same_lengths(frames, phrases.bounds(metric))
    return [
        _drawn(one._replace(name=f"{one.name}: {names[index]}"), frame, f"{metric}/{names[index]}", styles, domain)
        for index, frame, domain in zip(classes, frames, spans, strict=True)
    ]


def _drawn(
    one: _Fall,
    frame: pd.DataFrame,
    metric: str,
    styles: Mapping[str, Style],
    domain: tuple[float, float] | None = None,
) -> Drawing:
    chart = waterfall.draw_waterfall(frame, metric=metric, styles=styles, domain=domain, palette=PAGE, ink=PAGE_INK)
    lines = "; ".join(f"{row.title}: {row.label}" for row in frame.itertuples(index=False))
    said = f"Test {phrases.metric_name(metric)} of {one.model}, from {one.fall.bottom} to {one.fall.top}. {lines}."
    return Drawing(one.name, said, chart)
