"""What analyses of similarity found: which maps, boxes, points, lines and tables show it, and these themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from transfuse.report import similarity_figures
from transfuse.report.coefficient_boxes import RANDOM
from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import PAGE_INK
from transfuse.report.heatmaps import heatmap
from transfuse.report.lines_by_block import lines_by_block
from transfuse.report.pair_names import network_name, pair_styles
from transfuse.report.palette import PAGE, Style
from transfuse.results.phrases import number

SIMILARITIES = ("cka", "rbf_cka", "cca", "svcca", "pwcca")


def similarities(what: str, model: str, rows: pd.DataFrame, styles: Mapping[str, Style]) -> Iterator[Drawing | Table]:
    """Maps where all pairs of blocks or of networks were compared, else each block with itself, as boxes and lines.

    Args:
        what: the analysis, one of `SIMILARITIES`.
        model: the network.
        rows: its measurements, each with the name of its `pair`.
        styles: of the study's arms.
    """
    values = rows[rows["quantity"].isin(SIMILARITIES)]
    if not (values["block"] == values["other_block"]).all():
        for name, group in values.groupby("pair", sort=False):
            yield _map_of_blocks(f"{model}, {name}", group)
    elif _between_all_networks(values):
        yield from _maps_of_networks(model, values)
    else:
        yield from _coefficients(what, model, rows, styles)
        yield from _before_and_after(model, values)
        measure = str(values["quantity"].iloc[0])
        yield from lines_by_block(model, rows, measure, "independent", measure.upper(), styles)
        if (values["arm"] != values["other_arm"]).any() or (values["seed"] != values["other_seed"]).any():
            yield _top_two(model, values)


def dynamics(model: str, rows: pd.DataFrame) -> Iterator[Drawing]:
    """Each block against itself in the trained network, over the steps of training; a chart for each arm."""
    values = rows[~rows["quantity"].isin(("independent", "samples"))].sort_values("position", kind="stable")
    for arm in dict.fromkeys(values["arm"]):
        mean = values[values["arm"] == arm].groupby(["block", "step"], sort=False)["value"].mean().reset_index()
        measure = f"{str(values['quantity'].iloc[0]).upper()} with the trained network"
        chart = similarity_figures.dynamics(mean, measure=measure, ink=PAGE_INK)
        yield Drawing(f"{model}, {arm}", f"{measure} over the steps of training, {arm}.", chart)


def _between_all_networks(values: pd.DataFrame) -> bool:
    """Whether several arms in several states were compared with each other, seed by seed."""
    arms, states = set(values["arm"]) | set(values["other_arm"]), set(values["state"]) | set(values["other_state"])
    across = (values["arm"] != values["other_arm"]).any() and (values["seed"] == values["other_seed"]).all()
    return bool(across) and len(arms) > 1 and len(states) > 1


def _map_of_blocks(name: str, group: pd.DataFrame) -> Drawing:
    """All pairs of blocks of two networks; the mean over seeds."""
    mean = group.groupby(["block", "other_block"], sort=False)["value"].mean().reset_index()
    first = group.iloc[0]
    measure = str(first["quantity"]).replace("_", " ").upper()
    rows, columns = network_name(first["arm"], first["state"]), network_name(first["other_arm"], first["other_state"])
    if rows == columns:
        rows, columns = f"{rows}, one seed", f"{columns}, another seed"
    chart = heatmap(mean, measure=measure, rows=rows, columns=columns, ink=PAGE_INK)
    own = mean[mean["block"] == mean["other_block"]]
    said = f"each block with itself {number(own['value'].min())} to {number(own['value'].max())}" if len(own) else ""
    return Drawing(name, f"{measure} of every block of {rows} with every block of {columns}; {said}.", chart, False)


def _maps_of_networks(model: str, values: pd.DataFrame) -> Iterator[Drawing]:
    """For each block, every network against every other (AN-7)."""
    measure = str(values["quantity"].iloc[0]).upper()
    for block in dict.fromkeys(values.sort_values("position", kind="stable")["block"]):
        own = values[values["block"] == block]
        cells: dict[tuple[str, str], list[float]] = {}
        names: dict[str, None] = {}
        for row in own.itertuples(index=False):
            one, other = network_name(row.arm, row.state), network_name(row.other_arm, row.other_state)
            names |= {one: None, other: None}
            cells.setdefault((one, other), []).append(float(row.value))
            cells.setdefault((other, one), []).append(float(row.value))
        cells |= {(name, name): [1.0] for name in names}
        table = [
            {"row": one, "column": other, "value": float(np.mean(cells[one, other])) if (one, other) in cells else None}
            for one in names
            for other in names
        ]
        chart = heatmap(pd.DataFrame(table), measure=measure, rows="network", columns="network", ink=PAGE_INK)
        yield Drawing(f"{model}, {block}", f"{measure} at {block} between all networks.", chart, False)


def _coefficients(what: str, model: str, rows: pd.DataFrame, styles: Mapping[str, Style]) -> Iterator[Drawing | Table]:
    """The whole distribution of coefficients beside random features', and the area between them (AN-24, AN-25)."""
    rows = rows.sort_values("position", kind="stable")
    own = rows[rows["quantity"] == "coefficient"]
    if own.empty:
        return
    first = own["pair"].iloc[0]
    random = rows[(rows["quantity"] == "random_coefficient") & (rows["pair"] == first)]
    measure = f"{what.upper()} coefficients"
    chart = similarity_figures.coefficients_box(
        pd.concat([own.assign(kind=own["pair"]), random.assign(kind=RANDOM)])[["block", "kind", "value"]],
        measure=measure,
        styles=pair_styles(own["pair"], styles),
        palette=PAGE,
        ink=PAGE_INK,
    )
    yield Drawing(f"{model}, all coefficients", f"{measure} by block, beside random features'.", chart)
    areas = rows[rows["quantity"] == "area_above_random"]
    wide = areas.pivot_table("value", "pair", "block", sort=False)
    lines = [
        (str(name), *(number(value) for value in line)) for name, line in zip(wide.index, wide.values, strict=True)
    ]
    yield Table(f"{model}, area of the sorted coefficients above random", ("Networks", *wide.columns), lines)


def _before_and_after(model: str, values: pd.DataFrame) -> Iterator[Drawing]:
    """Two networks at their start against the same two trained, where both were compared (AN-6)."""
    keys = ["arm", "seed", "other_arm", "other_seed", "block"]
    sides = [values[(values["state"] == state) & (values["other_state"] == state)] for state in ("initial", "trained")]
    joined = sides[0].merge(sides[1], on=keys, suffixes=("_initial", "_final"))
    if joined.empty:
        return
    frame = joined.rename(columns={"value_initial": "initial", "value_final": "final"})
    frame["label"] = frame["pair_final"]
    chart = similarity_figures.scatter(
        frame[["initial", "final", "block", "label"]], measure=str(values["quantity"].iloc[0]).upper(), ink=PAGE_INK
    )
    yield Drawing(f"{model}, before and after", f"Similarity before and after, {model}.", chart, False)


def _top_two(model: str, values: pd.DataFrame) -> Table:
    """The mean over the top two blocks, where the papers look for differences (AN-4; T, figure 2)."""
    top = sorted(values["position"].unique())[-2:]
    each = values[values["position"].isin(top)].groupby(["pair", "seed", "other_seed"], sort=False)["value"].mean()
    mean = each.groupby("pair", sort=False).agg(["mean", "std", "count"])
    rows = [
        (str(name), number(row["mean"]), number(row["std"]) if row["count"] > 1 else "–", f"{row['count']:g}")
        for name, row in mean.iterrows()
    ]
    return Table(f"{model}, mean over the top two blocks", ("Networks", "Similarity", "Deviation", "Pairs"), rows)
