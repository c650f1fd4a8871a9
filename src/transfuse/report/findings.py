"""What one line of `analyses` found: for each kind of analysis, its measurements as drawings and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from transfuse.report import similarity_figures
from transfuse.report.cut_findings import CUTS, cut_findings
from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import PAGE_INK
from transfuse.report.lines_by_block import lines_by_block
from transfuse.report.pair_names import pair_names
from transfuse.report.palette import PAGE, Style
from transfuse.report.similarity_findings import SIMILARITIES, dynamics, similarities
from transfuse.results.phrases import metric_name, number

_LINES = {
    "cca_patches": ("cca", "independent", "CCA"),
    "l2": ("l2_distance", "", "l2 distance per weight"),
    "knn": ("", "", ""),
    "reinitialise": ("drop", "", "drop of the test metric"),
    "attention": ("attended_distance", "uniform", "attended distance (pixels)"),
}
"""Analyses that are lines by block: the quantity, the level beside it, the axis; k-NN has the study's metric."""


def findings(what: str, rows: pd.DataFrame, styles: Mapping[str, Style], metric: str) -> Iterator[Drawing | Table]:
    """What shows the measurements of an analysis, network by network; nothing for one that only has pictures.

    Args:
        what: the analysis.
        rows: its measurements, at least one.
        styles: of the study's arms.
        metric: the study's.
    """
    rows = rows.assign(pair=pair_names(rows))
    for model in dict.fromkeys(rows["model"]):
        own = rows[rows["model"] == model]
        if what in SIMILARITIES:
            yield from similarities(what, model, own, styles)
        elif what == "dynamics":
            yield from dynamics(model, own)
        elif what == "histogram":
            yield from _histograms(model, own)
        elif what == "fid":
            yield _distances(model, own)
        elif what == "gradcam":
            yield _mass(model, own)
        elif what in CUTS:
            yield from cut_findings(what, model, own, styles)
        elif what in _LINES:
            yield from _lines(what, model, own, styles, metric)


def _lines(what: str, model: str, rows: pd.DataFrame, styles: Mapping[str, Style], metric: str) -> Iterator[Drawing]:
    quantity, level, axis = _LINES[what]
    quantity, axis = quantity or metric, axis or f"k-NN {metric_name(metric)}"
    if quantity not in set(rows["quantity"]):
        quantity = rows["quantity"].iloc[0]  # the study's metric does not go with k-NN scores
        axis = f"k-NN {metric_name(quantity)}"
    return lines_by_block(model, rows, quantity, level, axis, styles)


def _histograms(model: str, rows: pd.DataFrame) -> Iterator[Drawing]:
    for arm in dict.fromkeys(rows["arm"]):
        own = rows[rows["arm"] == arm]
        own = own.assign(state=own["label"].map({"initial": "at the start", "trained": "trained"}))
        chart = similarity_figures.histogram(own[["state", "low", "high", "value"]], palette=PAGE, ink=PAGE_INK)
        yield Drawing(f"{model}, {arm}", f"Weights of the first layer of {model}, {arm}.", chart)


def _distances(model: str, rows: pd.DataFrame) -> Table:
    heads = {"label": "Source", "arm": "Features of", "block": "Block"}
    numbers = {"frechet_distance": "Distance", "by_chance": "By chance", "samples": "Images, the fewer"}
    return _means(model, rows, heads, numbers)


def _mass(model: str, rows: pd.DataFrame) -> Table:
    heads = {"arm": "Arm", "block": "Block"}
    numbers = {
        "mass_inside_lesions": "Share of the map inside the lesions",
        "mass_by_chance": "Of an even map",
        "samples": "Images",
    }
    return _means(model, rows, heads, numbers)


def _means(caption: str, rows: pd.DataFrame, heads: Mapping[str, str], numbers: Mapping[str, str]) -> Table:
    """A table with a line for each of what `heads` names, and the mean over seeds of each quantity."""
    wide = rows.pivot_table("value", list(heads), "quantity", sort=False).reset_index().to_dict("records")
    lines = [
        (
            *(str(line[name]) for name in heads),
            *(f"{line[name]:.0f}" if name == "samples" else number(line[name]) for name in numbers),
        )
        for line in wide
    ]
    return Table(caption, (*heads.values(), *numbers.values()), lines, len(heads))
