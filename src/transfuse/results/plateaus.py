"""Which arms of a study had levelled off when their training ended; no verdict rests on one that had not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from transfuse.results import arms, phrases

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Comparison
    from transfuse.statistics.plateau import Plateau

Curve = tuple[np.ndarray, np.ndarray]

UNSEEN: Curve = (np.array([0.0]), np.array([math.nan]))
"""The curve of a run without validations of the metric."""


def plateaus(runs: pd.DataFrame, history: pd.DataFrame, metric: str, margin: float) -> dict[tuple[str, str], Plateau]:
    """Whether each arm of each network had levelled off, by (network, arm).

    Only finished runs count: those that diverged have no test metric. A run is tested with the weights of the
    validation that is best by what it monitored, so that decides which values of the metric count.

    Args:
        runs: `run_id, model, arm, seed[, role, status, monitor]`; source trainings are left out.
        history: `run_id, step, split, quantity, value`; the split "val" is read.
        metric: of the study; where the validations did not log it, it cannot be told.
        margin: > 0, in units of the metric.

    Raises:
        SpecError: a margin that is not positive.
    """
    from transfuse.statistics.plateau import plateau

    if runs.empty or history.empty:
        return {}
    own = arms.arm_runs(runs)
    monitors = own["monitor"].dropna().astype(str) if "monitor" in own else ()
    logged = {name: arms.validations(history, name) for name in {metric, *monitors}}
    if "status" in own:
        own = own[own["status"] == "finished"]
    found = {}
    for (model, arm), group in own.groupby(["model", "arm"], sort=False):
        ordered = group.sort_values("seed")
        of_arm = plateau(
            [logged[metric].get(run_id, UNSEEN) for run_id in ordered["run_id"]],
            margin,
            not phrases.smaller_is_better(metric),
            _chosen_by(ordered, logged, metric),
        )
        if not set(ordered["run_id"]) & set(logged[metric]):
            of_arm = replace(of_arm, reason=f"the validations did not log {phrases.metric_name(metric)}")
        found[str(model), str(arm)] = of_arm
    return found


def _chosen_by(runs: pd.DataFrame, logged: Mapping[str, Mapping[Any, Curve]], metric: str) -> list[list[float]] | None:
    """What chose the best validation of each run, larger is better; None where it is the metric, or was not logged."""
    names = set(runs["monitor"].dropna()) if "monitor" in runs else set()
    quantity = str(names.pop()) if len(names) == 1 else metric
    if quantity == metric or not logged[quantity]:
        return None
    sign, values = -1 if phrases.smaller_is_better(quantity) else 1, []
    for run_id in runs["run_id"]:
        by_step = dict(zip(*logged[quantity].get(run_id, ((), ())), strict=True))
        steps, _ = logged[metric].get(run_id, UNSEEN)
        values.append([sign * by_step.get(step, math.nan) for step in steps])
    return values


def rising(found: Mapping[tuple[str, str], Plateau], model: str, names: Sequence[str]) -> dict[str, Plateau]:
    """Those arms of a network, among `names`, that had not levelled off."""
    return {arm: found[model, arm] for arm in names if (model, arm) in found and found[model, arm].plateaued is False}


def withheld(found: Comparison, still: Mapping[str, Plateau]) -> Comparison:
    """A comparison as it is when none of its arms is `still` rising, else without a verdict.

    Its numbers stay; its tests, and those of its classes, become NaN, so that Holm's correction leaves them out. No
    number of patients or seeds would decide it, only a longer training, which its notes say.
    """
    if not still:
        return found
    held = untested(found)
    classes = {label: withheld(of_class, still) for label, of_class in found.per_class.items()}
    return replace(held, per_class=classes, notes=(*found.notes, *notes(still, found.metric)))


def untested(found: Comparison) -> Comparison:
    """A comparison, and those of its classes, without test and verdict; its numbers stay."""
    return replace(
        found,
        verdict="undecided",
        p_difference=math.nan,
        p_equivalence=math.nan,
        p_not_worse=math.nan,
        needed_patients=None,
        needed_seeds=None,
        per_class={label: untested(of_class) for label, of_class in found.per_class.items()},
    )


def notes(still: Mapping[str, Plateau], metric: str) -> tuple[str, ...]:
    """A sentence for each arm that had not levelled off: what it gained, over which steps, and what to do."""
    return tuple(
        f"Training had not levelled off: {gained({arm: one}, metric)}, and only less than "
        f"{phrases.trimmed(one.margin / 2)}, half the margin, is level. No verdict is given; train longer."
        for arm, one in still.items()
    )


def gained(still: Mapping[str, Plateau], metric: str) -> str:
    """What arms gained, over which steps, as one clause.

    >>> from transfuse.statistics.plateau import plateau
    >>> rising = plateau([([100, 200, 300], [0.5, 0.6, 0.7])], 0.02)
    >>> gained({"random": rising, "pretrained": rising}, "auroc")
    'random gained 0.100 and pretrained 0.100 validation AUROC in the last third of their 300 steps'
    """
    by_steps: dict[str, list[tuple[str, str]]] = {}
    for arm, one in still.items():
        low, high = min(one.last), max(one.last)
        steps = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
        by_steps.setdefault(steps, []).append((arm, phrases.number(one.gained)))
    clauses = []
    for steps, ((first, number), *others) in by_steps.items():
        who = phrases.listed([f"{first} gained {number}", *(f"{arm} {number}" for arm, number in others)])
        whose = "their" if others else "its"
        clauses.append(f"{who} validation {phrases.metric_name(metric)} in the last third of {whose} {steps} steps")
    return "; ".join(clauses)


def caveats(found: Mapping[tuple[str, str], Plateau], model: str, metric: str) -> list[str]:
    """What is to be said of a network's arms that had not levelled off, and of those of which it cannot be told."""
    own = {arm: one for (net, arm), one in found.items() if net == model}
    still = rising(found, model, list(own))
    lines = []
    if still:
        level = f"{phrases.trimmed(next(iter(still.values())).margin / 2)} of validation {phrases.metric_name(metric)}"
        sizes = "; ".join(f"{arm}: {_gain(one)}" for arm, one in still.items())
        lines.append(
            f"training had not levelled off in {len(still)} of {phrases.counted(len(own), 'arm')}, so no verdict is "
            f"given on {'it' if len(still) == 1 else 'them'}: train longer, until less than {level}, half the margin, "
            f"is gained in the last third of the steps ({sizes})."
        )
    unknown: dict[str, list[str]] = {}
    for arm, one in own.items():
        if one.plateaued is None:
            unknown.setdefault(one.reason, []).append(arm)
    lines += [
        f"whether training had levelled off can't be told for {phrases.listed(names)}: {reason}."
        for reason, names in unknown.items()
    ]
    return lines


def _gain(one: Plateau) -> str:
    """What one arm gained, in few words; over the steps of each run where they differ."""
    spans = dict.fromkeys(f"{first:,.0f} to {last:,.0f}" for first, last in zip(one.first, one.last, strict=True))
    return f"{phrases.number(one.gained)} over steps {phrases.listed(list(spans))}"
