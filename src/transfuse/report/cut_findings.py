"""What the analyses that rank the cuts of a network found, as drawings and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from transfuse.report import similarity_figures
from transfuse.report.coefficient_boxes import RANDOM, coefficients_box
from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import PAGE_INK
from transfuse.report.lines_by_block import lines_by_block
from transfuse.report.palette import PAGE, Style
from transfuse.results.phrases import metric_name, number

CUTS = ("cut_ranking", "cut_overlap", "cut_screen")
_KINDS = {"probe": "linear probe", "knn": "nearest neighbours"}


def cut_findings(what: str, model: str, rows: pd.DataFrame, styles: Mapping[str, Style]) -> Iterator[Drawing | Table]:
    """What one of `CUTS` measured of a network."""
    if what == "cut_overlap":
        yield from _overlap(model, rows)
    elif what == "cut_screen":
        metric = str(rows[~rows["quantity"].isin(("parameters", "macs"))]["quantity"].iloc[0])
        yield from lines_by_block(model, rows, metric, "", f"validation {metric_name(metric)}", styles)
    else:
        yield from _ranking(model, rows)


def _ranking(model: str, rows: pd.DataFrame) -> Iterator[Drawing | Table]:
    rows = rows.sort_values("position", kind="stable")
    metric = metric_name(str(rows["label"].dropna().iloc[0]))
    frame = rows[rows["quantity"].isin(_KINDS)][["block", "quantity", "value", "low", "high"]]
    frame = frame.assign(score=frame["quantity"].map(_KINDS)).drop(columns="quantity")
    chart = similarity_figures.block_lines(
        frame, measure=f"{metric} of held-out training patients", by="score", palette=PAGE, ink=PAGE_INK
    )
    best = frame.sort_values("value").groupby("score", sort=False).tail(1).to_dict("records")
    said = "; ".join(f"{row['score']} up to {number(row['value'])} at {row['block']}" for row in best)
    yield Drawing(model, f"{metric} by cut for {model}, before training: {said}.", chart)
    wide = rows.pivot_table("value", "block", "quantity", sort=False).reset_index().to_dict("records")
    lines = [(str(row["block"]), *(number(row[name]) for name in ("probe", "knn", "logme"))) for row in wide]
    yield Table(model, ("Cut after", f"Probe, {metric}", f"Nearest neighbours, {metric}", "LogME"), lines)


def _overlap(model: str, rows: pd.DataFrame) -> Iterator[Drawing | Table]:
    rows = rows.sort_values("position", kind="stable")
    drawn = rows[rows["quantity"].isin(("coefficient", "random_coefficient"))]
    for arm in dict.fromkeys(drawn["arm"]):
        own = drawn[drawn["arm"] == arm]
        kind = own["quantity"].map({"coefficient": "before and after", "random_coefficient": RANDOM})
        chosen = str(rows[(rows["quantity"] == "chosen") & (rows["arm"] == arm)]["block"].iloc[0])
        chart = coefficients_box(
            own.assign(kind=kind)[["block", "kind", "value"]], chosen=chosen, palette=PAGE, ink=PAGE_INK
        )
        name = model if drawn["arm"].nunique() == 1 else f"{model}, {arm}"
        yield Drawing(name, f"SVCCA coefficients by cut for {name}; cut after {chosen}.", chart)
    wide = rows.pivot_table("value", "block", "quantity", sort=False).reset_index().to_dict("records")
    lines = [
        (str(row["block"]), number(row["median"]), number(row["random_quantile"]), number(row["overlap"]))
        for row in wide
    ]
    yield Table(
        model, ("Cut after", "Median coefficient", "90 % quantile of random ones", "Overlap of histograms"), lines
    )
