"""What the analyses found, as the report shows it: for each line of `analyses`, its charts, tables and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from transfuse.report import similarity_figures
from transfuse.report.coefficient_boxes import RANDOM
from transfuse.report.explanations import EXPLANATIONS
from transfuse.report.figures import PAGE_INK
from transfuse.report.heatmaps import heatmap
from transfuse.report.notes import grouped
from transfuse.report.palette import DASHES, LIGHT, PAGE, Style, arm_styles
from transfuse.report.pictures import Picture, gallery
from transfuse.report.scales import brief
from transfuse.results.phrases import metric_name, number
from transfuse.results.seeds import seed_mean

LEAST_SEEDS = 3
"""A band is drawn from so many seeds on: with two it is 12 times as wide as their distance and hides the lines."""

SIMILARITIES = ("cka", "rbf_cka", "cca", "svcca", "pwcca")


class Drawing(NamedTuple):
    """A chart, what it is of, and what it says in words; `fluid` ones take the width of the page."""

    name: str
    description: str
    chart: Any
    fluid: bool = True


class Table(NamedTuple):
    """A table of texts: first columns of words, then numbers; what follows a line break in a cell is small."""

    caption: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int = 1


@dataclass
class Topic:
    """One line of `analyses`: what it measured, and what it found.

    Attributes:
        what: the analysis.
        title: its heading.
        how: how to read it, in a sentence or two.
        compared: which networks, blocks and images it is of; empty where the study does not say.
        drawings, tables, galleries: what there is to see.
        notes: what it warned of, each with the networks of which it did.
        missing: analyses without a result, each with the reason.
    """

    what: str
    title: str
    how: str
    compared: str = ""
    drawings: list[Drawing] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    galleries: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def topics(
    study: Mapping[str, Any],
    measurements: pd.DataFrame,
    pictures: Sequence[tuple[Mapping[str, Any], str, np.ndarray]],
    analyses: Sequence[Mapping[str, Any]],
) -> list[Topic]:
    """One topic for each line of `analyses`, in their order.

    Args:
        study: baseline, metric, arms and analyses (`compared`: what each compared, in words), as the report has them.
        measurements: a row a number, with the names of its analysis.
        pictures: the names of the analysis, a caption, an array.
        analyses: where each stands: its names, `state`, `reason`, `notes`.
    """
    styles = arm_styles(study.get("arms") or {}, str(study.get("baseline") or ""))
    found = []
    # Work that two lines share is listed with the first of them only, but measured under both.
    lines = {one["place"]: one["analysis"] for one in (*analyses, *(row for row, _, _ in pictures))}
    if len(measurements):
        lines |= dict(measurements[["place", "analysis"]].drop_duplicates().itertuples(index=False))
    for place, what in sorted(lines.items()):
        here = [one for one in analyses if one["place"] == place]
        topic = Topic(what, *EXPLANATIONS[what])
        asked = dict(enumerate(study.get("analyses") or ())).get(place)
        topic.compared = str((asked or {}).get("compared", ""))
        rows = measurements[measurements["place"] == place] if len(measurements) else measurements
        if len(rows):
            _fill(topic, rows, styles, str(study.get("metric") or "auroc"))
        shown = [(row, caption, array) for row, caption, array in pictures if row["place"] == place]
        topic.galleries += [str(each) for each in _galleries(topic, shown)]
        topic.notes = _notes(here, bool((asked or {}).get("compares", any(map(_of_two, here)))))
        topic.missing = [
            f"{one['title']}: {one['state']}" + (f", {one['reason']}" if one["reason"] else "")
            for one in here
            if one["state"] != "finished"
        ]
        found.append(topic)
    return found


def _of_two(one: Mapping[str, Any]) -> bool:
    """Whether an analysis looked at more than one network, or at one in two states."""
    return any(one[key] != one[f"other_{key}"] for key in ("arm", "seed", "state"))


def _notes(analyses: Sequence[Mapping[str, Any]], compares: bool) -> list[str]:
    """What the analyses of a line warned of, each with the networks that it is about."""
    if not analyses:
        return []
    names = _pair_names(pd.DataFrame(analyses))
    if len({one["model"] for one in analyses}) > 1:
        names = [f"{one['model']}, {name}" for one, name in zip(analyses, names, strict=True)]
    said = [(name, note) for one, name in zip(analyses, names, strict=True) for note in one["notes"]]
    done = sum(one["state"] == "finished" for one in analyses)
    return grouped(said, done, "comparison" if compares else "network")


def _pair_styles(names: Iterable[str], styles: Mapping[str, Style]) -> dict[str, Style]:
    """An arm keeps its colour in every chart; starts and pairs of arms take colours that no arm has, while there are.

    Args:
        names: of the lines or boxes of a chart.
        styles: of the study's arms.
    """
    names = list(dict.fromkeys(names))
    taken = {style.place for style in styles.values()}
    free = [place for place in range(1, len(LIGHT)) if place not in taken]
    first = 0 if free else 1  # an arm's colour, but never its line
    free = free or list(range(1, len(LIGHT)))
    others = [name for name in names if name not in styles]
    own = {
        name: Style(free[count % len(free)], DASHES[(first + count // len(free)) % len(DASHES)])
        for count, name in enumerate(others)
    }
    return {name: styles[name] if name in styles else own[name] for name in names}


def _fill(topic: Topic, rows: pd.DataFrame, styles: Mapping[str, Style], metric: str) -> None:
    rows = rows.assign(pair=_pair_names(rows))
    for model in dict.fromkeys(rows["model"]):
        own = rows[rows["model"] == model]
        if topic.what in SIMILARITIES:
            _similarities(topic, model, own, styles)
        elif topic.what == "dynamics":
            _dynamics(topic, model, own)
        elif topic.what == "histogram":
            _histogram(topic, model, own)
        elif topic.what == "fid":
            _fid(topic, model, own)
        elif topic.what == "gradcam":
            _mass(topic, model, own)
        elif topic.what in _LINES:
            quantity, level, axis = _LINES[topic.what]
            quantity, axis = quantity or metric, axis or f"k-NN {metric_name(metric)}"
            if quantity not in set(own["quantity"]):
                quantity = own["quantity"].iloc[0]  # the study's metric does not go with k-NN scores
                axis = f"k-NN {metric_name(quantity)}"
            _lines(topic, model, own, quantity, level, axis, styles)


_LINES = {
    "cca_patches": ("cca", "independent", "CCA"),
    "l2": ("l2_distance", "", "l2 distance per weight"),
    "knn": ("", "", ""),
    "reinitialise": ("drop", "", "drop of the test metric"),
    "attention": ("attended_distance", "uniform", "attended distance (pixels)"),
}


def _pair_names(rows: pd.DataFrame) -> list[str]:
    """What a row is of, in words: an arm, or two networks."""
    names = []
    same = (rows["arm"] == rows["other_arm"]) & (rows["state"] == rows["other_state"])
    over_seeds = bool((same & (rows["seed"] != rows["other_seed"])).any())
    for row in rows[["arm", "state", "seed", "other_arm", "other_state", "other_seed"]].to_dict("records"):
        one, other = _network(row["arm"], row["state"]), _network(row["other_arm"], row["other_state"])
        if row["arm"] == row["other_arm"]:  # before and after, or seed against seed
            moved = f"{one} and trained" if over_seeds else str(row["arm"])
            names.append(one if row["state"] == row["other_state"] else moved)
        else:
            names.append(f"{one} and {other}")
    return names


def _network(arm: Any, state: Any) -> str:
    return f"{arm}, start" if state == "initial" else str(arm)


def _over_seeds(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The mean of `value` over seeds and its t interval; of one seed the row's own, of pairs of seeds none."""
    out = []
    for key, group in rows.groupby(list(by), sort=False, dropna=False):
        values = group["value"].to_numpy(float)
        values = values[np.isfinite(values)]
        names = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        if not len(values):
            continue
        mean = seed_mean(values)
        apart = bool((group["seed"] == group["other_seed"]).all())  # pairs of seeds share runs: S runs, more pairs
        low, high = (mean.low, mean.high) if apart and len(values) >= LEAST_SEEDS else (np.nan, np.nan)
        if len(values) == 1:  # an interval of its own, over patients
            low, high = group["low"].iloc[0], group["high"].iloc[0]
        out.append({**names, "value": mean.value, "low": low, "high": high, "seeds": len(values)})
    return pd.DataFrame(out)


def _lines(
    topic: Topic, model: str, rows: pd.DataFrame, quantity: str, level: str, axis: str, styles: Mapping[str, Style]
) -> None:
    rows = rows.sort_values("position", kind="stable")
    frame = _over_seeds(rows[rows["quantity"] == quantity], ("block", "pair"))
    if frame.empty:
        return
    frame = _ordered(frame, rows)
    base = rows[rows["quantity"] == level].groupby("block", sort=False)["value"].mean() if level else pd.Series()
    if len(base):
        frame["independent"] = frame["block"].map(base)
    if level == "independent":  # a similarity lies in [0, 1], and so does what is meant by its band
        frame[["low", "high"]] = frame[["low", "high"]].astype(float).clip(0, 1)
    frame = frame.rename(columns={"pair": "arm"})
    if not np.isfinite(frame[["low", "high"]].to_numpy(float)).all(axis=1).any():
        frame = frame.drop(columns=["low", "high"])  # a chart warns of bands that are all empty
    chart = similarity_figures.block_lines(
        frame,
        measure=axis,
        styles=_pair_styles(frame["arm"], styles),
        palette=PAGE,
        ink=PAGE_INK,
    )
    best = frame.sort_values("value").groupby("arm", sort=False).tail(1).to_dict("records")
    said = "; ".join(f"{row['arm']} up to {brief(row['value'])} at {row['block']}" for row in best)
    topic.drawings.append(Drawing(model, f"{axis} by block for {model}: {said}.", chart))


def _ordered(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Blocks from the image to the head, whatever the order of the networks that have them."""
    places = rows.groupby("block")["position"].max()  # a cut network has its head early
    order = frame["block"].map(places)
    return frame.assign(_place=order).sort_values("_place", kind="stable").drop(columns="_place")


def _similarities(topic: Topic, model: str, rows: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    values = rows[rows["quantity"].isin(SIMILARITIES)]
    same = values["block"] == values["other_block"]
    if not same.all():
        for name, group in values.groupby("pair", sort=False):
            first = group.iloc[0]
            topic.drawings.append(_map_of_blocks(topic, f"{model}, {name}", group, first))
        return
    arms, states = set(values["arm"]) | set(values["other_arm"]), set(values["state"]) | set(values["other_state"])
    across = (values["arm"] != values["other_arm"]).any() and (values["seed"] == values["other_seed"]).all()
    if across and len(arms) > 1 and len(states) > 1:
        topic.drawings += _maps_of_networks(topic, model, values)
        return
    _boxes(topic, model, rows, styles)
    if {("initial", "initial"), ("trained", "trained")} <= set(
        zip(values["state"], values["other_state"], strict=True)
    ):
        _scatter(topic, model, values)
    measure = str(values["quantity"].iloc[0])
    _lines(topic, model, rows, measure, "independent", measure.upper(), styles)
    if (values["arm"] != values["other_arm"]).any() or (values["seed"] != values["other_seed"]).any():
        topic.tables.append(_top_two(model, values))


def _boxes(topic: Topic, model: str, rows: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    """The whole distribution of coefficients beside random features', and the area between them (AN-24, AN-25)."""
    rows = rows.sort_values("position", kind="stable")
    own = rows[rows["quantity"] == "coefficient"]
    if own.empty:
        return
    frame = own.assign(kind=own["pair"])
    first = own["pair"].iloc[0]
    random = rows[(rows["quantity"] == "random_coefficient") & (rows["pair"] == first)]
    measure = f"{topic.what.upper()} coefficients"
    chart = similarity_figures.coefficients_box(
        pd.concat([frame, random.assign(kind=RANDOM)])[["block", "kind", "value"]],
        measure=measure,
        styles=_pair_styles(own["pair"], styles),
        palette=PAGE,
        ink=PAGE_INK,
    )
    topic.drawings.append(Drawing(f"{model}, all coefficients", f"{measure} by block, beside random features'.", chart))
    areas = rows[rows["quantity"] == "area_above_random"]
    wide = areas.pivot_table("value", "pair", "block", sort=False)
    lines = [
        (str(name), *(number(value) for value in line)) for name, line in zip(wide.index, wide.values, strict=True)
    ]
    topic.tables.append(
        Table(f"{model}, area of the sorted coefficients above random", ("Networks", *wide.columns), lines)
    )


def _map_of_blocks(topic: Topic, name: str, group: pd.DataFrame, first: pd.Series) -> Drawing:
    """All pairs of blocks of two networks; the mean over seeds."""
    mean = group.groupby(["block", "other_block"], sort=False)["value"].mean().reset_index()
    measure = str(group["quantity"].iloc[0]).replace("_", " ").upper()
    rows, columns = (_network(first["arm"], first["state"]), _network(first["other_arm"], first["other_state"]))
    if rows == columns:
        rows, columns = f"{rows}, one seed", f"{columns}, another seed"
    chart = heatmap(mean, measure=measure, rows=rows, columns=columns, ink=PAGE_INK)
    own = mean[mean["block"] == mean["other_block"]]
    said = f"each block with itself {number(own['value'].min())} to {number(own['value'].max())}" if len(own) else ""
    return Drawing(name, f"{measure} of every block of {rows} with every block of {columns}; {said}.", chart, False)


def _maps_of_networks(topic: Topic, model: str, values: pd.DataFrame) -> Iterator[Drawing]:
    """For each block, every network against every other (AN-7)."""
    measure = str(values["quantity"].iloc[0]).upper()
    for block in dict.fromkeys(values.sort_values("position", kind="stable")["block"]):
        own = values[values["block"] == block]
        cells: dict[tuple[str, str], list[float]] = {}
        names: dict[str, None] = {}
        for row in own.itertuples(index=False):
            one, other = _network(row.arm, row.state), _network(row.other_arm, row.other_state)
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


def _scatter(topic: Topic, model: str, values: pd.DataFrame) -> None:
    """Two networks at their start against the same two trained (AN-6)."""
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
    topic.drawings.append(Drawing(f"{model}, before and after", f"Similarity before and after, {model}.", chart, False))


def _top_two(model: str, values: pd.DataFrame) -> Table:
    """The mean over the top two blocks, where the papers look for differences (AN-4; T, figure 2)."""
    top = sorted(values["position"].unique())[-2:]
    each = values[values["position"].isin(top)].groupby(["pair", "seed", "other_seed"], sort=False)["value"].mean()
    mean = each.groupby("pair", sort=False).agg(["mean", "std", "count"])
    rows = [
        (
            str(name),
            number(row["mean"]),
            number(row["std"]) if row["count"] > 1 else "–",
            f"{row['count']:g}",
        )
        for name, row in mean.iterrows()
    ]
    return Table(f"{model}, mean over the top two blocks", ("Networks", "Similarity", "Deviation", "Pairs"), rows)


def _dynamics(topic: Topic, model: str, rows: pd.DataFrame) -> None:
    values = rows[~rows["quantity"].isin(("independent", "samples"))].sort_values("position", kind="stable")
    for arm in dict.fromkeys(values["arm"]):
        mean = values[values["arm"] == arm].groupby(["block", "step"], sort=False)["value"].mean().reset_index()
        measure = f"{str(values['quantity'].iloc[0]).upper()} with the trained network"
        chart = similarity_figures.dynamics(mean, measure=measure, ink=PAGE_INK)
        topic.drawings.append(Drawing(f"{model}, {arm}", f"{measure} over the steps of training, {arm}.", chart))


def _histogram(topic: Topic, model: str, rows: pd.DataFrame) -> None:
    for arm in dict.fromkeys(rows["arm"]):
        own = rows[rows["arm"] == arm]
        own = own.assign(state=own["label"].map({"initial": "at the start", "trained": "trained"}))
        chart = similarity_figures.histogram(own[["state", "low", "high", "value"]], palette=PAGE, ink=PAGE_INK)
        topic.drawings.append(Drawing(f"{model}, {arm}", f"Weights of the first layer of {model}, {arm}.", chart))


def _fid(topic: Topic, model: str, rows: pd.DataFrame) -> None:
    heads = {"label": "Source", "arm": "Features of", "block": "Block"}
    numbers = {"frechet_distance": "Distance", "by_chance": "By chance", "samples": "Images, the fewer"}
    topic.tables.append(_wide(model, rows, heads, numbers))


def _mass(topic: Topic, model: str, rows: pd.DataFrame) -> None:
    heads = {"arm": "Arm", "block": "Block"}
    numbers = {
        "mass_inside_lesions": "Share of the map inside the lesions",
        "mass_by_chance": "Of an even map",
        "samples": "Images",
    }
    topic.tables.append(_wide(model, rows, heads, numbers))


def _wide(caption: str, rows: pd.DataFrame, heads: Mapping[str, str], numbers: Mapping[str, str]) -> Table:
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


def _galleries(topic: Topic, shown: Sequence[tuple[Mapping[str, Any], str, np.ndarray]]) -> Iterator[Any]:
    """The pictures of each network side by side."""
    for name in dict.fromkeys((row["model"], row["arm"], row["seed"]) for row, _, _ in shown):
        model, arm, seed = name
        own = [
            Picture(array, caption, f"{topic.title} {model}, {arm}: {caption}")
            for row, caption, array in shown
            if (row["model"], row["arm"], row["seed"]) == name
        ]
        yield gallery(own, f"{model} · {arm} · seed {seed}")
