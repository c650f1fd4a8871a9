"""Tables on how fast arms learn, and how much of a gain is reuse of features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import pandas as pd

from transfuse.errors import TransfuseError
from transfuse.metrics import EVERY_METRIC
from transfuse.report.drawings import Drawing, Table
from transfuse.report.figures import PAGE_INK, learning_curves
from transfuse.report.palette import PAGE, Style
from transfuse.report.similarity_figures import curve
from transfuse.results import arms
from transfuse.results.convergence_table import convergence_table
from transfuse.results.phrases import MINUS, metric_name, number
from transfuse.statistics.reuse import relative_gain, reuse_share

_MEASURES = (
    ("steps_to_threshold", "Steps to the threshold"),
    ("speedup_to_threshold", "Speed-up to the threshold"),
    ("steps_to_best", "Steps to the best"),
    ("speedup_to_best", "Speed-up to the best"),
    ("area_under_curve", "Area under the curve"),
)


def convergence(runs: pd.DataFrame, history: pd.DataFrame, quantity: str, threshold: Any, baseline: str) -> list[Table]:
    """For each network, how fast its arms learn (METHODS MET-8, AN-22): means over seeds with t intervals."""
    if runs.empty or history.empty:
        return []
    try:
        found = convergence_table(
            runs, history, quantity, threshold=None if threshold is None else float(threshold), baseline=baseline
        )
    except TransfuseError:
        return []  # no such quantity in these histories: the learning curves are missing too
    tables = []
    for model in dict.fromkeys(found["model"]):
        own = found[found["model"] == model]
        shown = [(key, head) for key, head in _MEASURES if key in set(own["measure"])]
        names = list(dict.fromkeys(own["arm"].astype(str)))
        cells = {(arm, key): "baseline" if arm == baseline else "–" for arm in names for key, _ in shown}
        rows = {(row["arm"], row["measure"]): row for row in own.to_dict("records")}
        for (arm, measure), row in rows.items():
            steps = measure.replace("speedup", "steps")
            of = [rows[name, steps] for name in (baseline, arm)] if steps != measure else []
            cells[arm, measure] = _cell(row, quantity, " over ".join(_mean_steps(one) for one in of))
        lines = [(arm, *(cells[arm, key] for key, _ in shown)) for arm in names]
        tables.append(Table(str(model), ("Arm", *(head for _, head in shown)), lines))
    return tables


MOST_CLASSES = 14
"""Curves are drawn of so many classes at most; there are 14 in ChestX-ray14 and CheXpert."""
_LEAST_POINTS = 4


def class_curves(
    runs: pd.DataFrame, history: pd.DataFrame, quantity: str, styles: Mapping[str, Style]
) -> list[Drawing]:
    """The learning curves of each class of the labels, the arms in one chart (T, figure 16), and the first quarter.

    The first quarter of the training is shown of the quantity itself, where it has validations enough (V, figures 3
    and 11: zoomed and full).
    """
    if history.empty or runs.empty:
        return []
    mine = history[history["run_id"].isin(arms.arm_runs(runs)["run_id"])]
    named = dict.fromkeys(name for name in mine["quantity"] if str(name).startswith(f"{quantity}/"))
    drawings = []
    for name in [quantity, *list(named)[:MOST_CLASSES]]:
        frame = learning_curves(history, runs, name)
        for model in dict.fromkeys(frame["model"]):
            own = frame[frame["model"] == model]
            label = str(name).partition("/")[2]
            zoom = None
            if not label:  # the whole curve is drawn above
                first, last = own["step"].min(), own["step"].max()
                zoom = (float(first), float(first + (last - first) / 4))
                if own["step"].between(*zoom).groupby(own["run_id"]).sum().max() < _LEAST_POINTS:
                    continue
            what = f"{metric_name(quantity)} of {label}" if label else f"{metric_name(quantity)}, the first steps"
            chart = curve(
                own,
                zoom,
                quantity=f"validation {metric_name(quantity)}",
                by="arm",
                styles=styles,
                palette=PAGE,
                ink=PAGE_INK,
            )
            drawings.append(
                Drawing(f"{model}, {label or 'the first steps'}", f"{what} by training step.", chart, False)
            )
    return drawings


def _cell(row: Mapping[Any, Any], quantity: str, steps_of: str = "") -> str:
    """A number, then in small its interval, the runs that never got there, and the steps that a speed-up is of."""
    steps = str(row["measure"]).startswith("steps")
    say, low, high = _step if steps else number, row["low"], row["high"]
    small = []
    if math.isfinite(low):  # a t interval does not know where its quantity ends
        ends = (0.0, math.inf) if steps else _ends(quantity) if row["measure"] == "area_under_curve" else None
        low, high = (max(low, ends[0]), min(high, ends[1])) if ends else (low, high)
        small.append(f"{say(low)} to {say(high)}")
    if steps and row["censored"]:
        small.append(f"{row['censored']} of {row['seeds']} never")
    if steps_of:
        small.append(f"{steps_of} steps")
    undefined = row["bound"] == "undefined" or not math.isfinite(row["value"])
    value = "undefined" if undefined else f"{_bound(row)}{say(row['value'])}"
    return "\n".join([value, "; ".join(small)] if small else [value])


def _bound(row: Mapping[Any, Any]) -> str:
    return {"at least": "≥ ", "at most": "≤ "}.get(row["bound"], "")


def _mean_steps(row: Mapping[Any, Any]) -> str:
    return f"{_bound(row)}{_step(row['value'])}"


def _ends(quantity: str) -> tuple[float, float] | None:
    return EVERY_METRIC[quantity].bounds if quantity in EVERY_METRIC else None


def _step(value: float) -> str:
    return f"{value:,.0f}".replace("-", MINUS)


def reuse(study: Mapping[str, Any], runs: pd.DataFrame, metric: str) -> list[Table]:
    """Feature-reuse share (WT - ST) / WT and relative gain WT / RI of each network that has the arms (MET-9)."""
    column = f"test_{metric}"
    if runs.empty or column not in runs:
        return []
    settings = {str(arm): dict(own or {}) for arm, own in (study.get("arms") or {}).items()}
    own = arms.arm_runs(runs)
    lines: list[tuple[str, ...]] = []
    for model in dict.fromkeys(own["model"].astype(str)):
        values = _values(own, model, column)
        found = {kind: [arm for arm in values if arms.kind_of(settings.get(arm, {})) == kind] for kind in _KINDS}
        weights = {arm: arms.weights_of(settings[arm], (study.get("models") or {}).get(model)) for arm in settings}
        for head, function, other in (
            ("feature-reuse share, (WT − ST) / WT", reuse_share, "scale"),
            ("relative gain, WT / RI", relative_gain, "random"),
        ):
            several = len(found["full"]) > 1 or len(found[other]) > 1
            for one, second in product(found["full"], found[other]):
                if other == "scale" and weights[one] != weights[second]:
                    continue  # statistics of other weights than those that were transferred
                try:
                    ratio = function([*values[one].values()], [*values[second].values()])
                except TransfuseError:
                    continue  # a metric that is not positive has no ratios
                whose = f"\n{one} and {second}" if several else ""
                finite = math.isfinite(ratio.low)
                span = f"{number(ratio.low)} to {number(ratio.high)}" if finite else f"–\n{ratio.method}"
                lines.append((model, f"{head}{whose}", number(ratio.value), span))
    heads = ("Network", f"Of test {metric_name(metric)}", "Value", "95 % interval over seeds")
    return [Table("Pretrained (WT), Mean Var (ST) and random weights (RI)", heads, lines, 2)] if lines else []


_KINDS = ("full", "scale", "random")


def _values(runs: pd.DataFrame, model: str, column: str) -> dict[str, dict[int, float]]:
    """The number of each seed of each arm of a network that has any."""
    own = runs[(runs["model"] == model) & runs[column].notna()]
    return {
        str(arm): dict(zip(group["seed"].astype(int), group[column].astype(float), strict=True))
        for arm, group in own.groupby("arm", sort=False)
    }
