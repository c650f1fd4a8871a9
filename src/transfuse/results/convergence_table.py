"""Convergence of every arm of a study as one tidy table, read from its history."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from transfuse.errors import SpecError, nearest
from transfuse.results import arms, phrases
from transfuse.statistics.convergence import (
    StepsTo,
    StepsToBest,
    areas_under_curves,
    mean_steps,
    speedup,
    steps_to,
    steps_to_best,
)
from transfuse.statistics.seeds import seed_mean

COLUMNS = ["model", "arm", "measure", "value", "low", "high", "std", "seeds", "censored", "bound", "note"]


@dataclass(frozen=True)
class _Arm:
    """The curves of one arm by seed; a diverged run has only what it reached, `lost` names it."""

    curves: Mapping[int, tuple[np.ndarray, np.ndarray]]
    lost: frozenset[int]


def convergence_table(
    runs: pd.DataFrame,
    history: pd.DataFrame,
    quantity: str,
    *,
    threshold: float | None = None,
    baseline: str | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """How fast every arm of every network learns, from the tables `runs` and `history` of the store.

    The measures, each over the seeds of an arm:

    - `steps_to_threshold` (with `threshold`): first validation at or beyond it;
    - `steps_to_best`: the validation with the best value; a diverged run has none;
    - `speedup_to_threshold`, `speedup_to_best` (with `baseline`): mean steps of the baseline / mean steps of the arm
      (METHODS AN-22, 2.2.14), above 1 where the arm is faster;
    - `area_under_curve`: mean of the quantity over the steps that all finished runs of the network have in common.

    Args:
        runs: `run_id, model, arm, seed[, role, status]`; source trainings are left out.
        history: `run_id, step, split, quantity, value`; the split "val" is read.
        quantity: of the history; a loss-like one counts as better where it is smaller.
        threshold: in units of the quantity.
        baseline: arm that the speed-up is against.
        confidence: of the t intervals over seeds, in (0, 1).

    Returns:
        `COLUMNS`. `seeds` counts all runs of the arm, `censored` those without the number, which `note` names;
        `bound` says how to read `value`: "exact", "at least", "at most", or "undefined", where it is NaN and `note`
        says why. low and high are infinite where there is no interval, std is NaN where it is unknown.

    Raises:
        SpecError: a quantity or a baseline that is not there, a threshold that is not finite.
    """
    if runs.empty or history.empty:
        return pd.DataFrame(columns=COLUMNS)
    logged = history[history["split"] == "val"]
    if quantity not in set(logged["quantity"]):
        raise SpecError(
            f"quantity is {quantity!r}, which no validation logged; {nearest(quantity, logged['quantity'].unique())}"
        )
    own = arms.arm_runs(runs)
    if baseline is not None and baseline not in set(own["arm"]):
        raise SpecError(f"baseline is {baseline!r}, which is no arm; {nearest(baseline, own['arm'].unique())}")
    better = not phrases.smaller_is_better(quantity)
    rows: list[dict[str, Any]] = []
    for model, group in own.groupby("model", sort=False):
        found = _curves(group, logged[logged["quantity"] == quantity])
        for row in _network(found, threshold, baseline, better, confidence):
            rows.append({"model": str(model), **row})
    return pd.DataFrame(rows, columns=COLUMNS)


def _curves(runs: pd.DataFrame, logged: pd.DataFrame) -> dict[str, _Arm]:
    by_run = dict(iter(logged.groupby("run_id")))
    unseen = (np.array([0.0]), np.array([math.nan]))
    found = {}
    for arm, group in runs.groupby("arm", sort=False):
        curves, lost = {}, set()
        for run in group.sort_values("seed").to_dict("records"):
            seed = int(run["seed"])
            curves[seed] = unseen
            if (frame := by_run.get(run["run_id"])) is not None:
                ordered = frame.drop_duplicates("step", keep="last").sort_values("step")
                curves[seed] = (ordered["step"].to_numpy(float), ordered["value"].to_numpy(float))
            if run.get("status") == "diverged":
                lost.add(seed)
        found[str(arm)] = _Arm(curves, frozenset(lost))
    return found


def _network(
    found: Mapping[str, _Arm], threshold: float | None, baseline: str | None, better: bool, confidence: float
) -> Iterator[dict[str, Any]]:
    events: dict[str, dict[str, StepsTo | StepsToBest]] = {}
    if threshold is not None:
        events["threshold"] = {arm: steps_to([*of.curves.values()], threshold, better) for arm, of in found.items()}
    # Before it diverged a run had some best value, but not the one it was trained for.
    events["best"] = {
        arm: steps_to_best([_nothing(curve) if seed in of.lost else curve for seed, curve in of.curves.items()], better)
        for arm, of in found.items()
    }
    yield from _areas(found, confidence)
    for event, steps in events.items():
        for arm, of in found.items():
            yield _steps_row(arm, f"steps_to_{event}", steps[arm], [*of.curves], confidence)
            if baseline is not None and baseline in found and arm != baseline:
                fast = speedup(steps[baseline], steps[arm], confidence)
                lost = sum(step is None for step in (*steps[arm].steps, *steps[baseline].steps))
                values = (math.nan if fast.value is None else fast.value, fast.low, fast.high)
                yield _row(arm, f"speedup_to_{event}", values, math.nan, len(of.curves), lost, fast.bound, fast.note)


def _steps_row(
    arm: str, measure: str, found: StepsTo | StepsToBest, seeds: list[int], confidence: float
) -> dict[str, Any]:
    mean = mean_steps(found, confidence)
    lost = [seed for seed, step in zip(seeds, found.steps, strict=True) if step is None]
    notes = [f"no such step: {_named(lost)}"] if lost else [mean.reason] if mean.reason else []
    if isinstance(found, StepsToBest) and found.at_end:
        notes.append(f"{found.at_end} of {len(seeds)} best at the last validation, so training may have ended too soon")
    limits = (mean.value, mean.low, mean.high)
    std = math.nan if mean.std is None else mean.std
    return _row(arm, measure, limits, std, len(seeds), len(lost), "at least" if lost else "exact", "; ".join(notes))


def _areas(found: Mapping[str, _Arm], confidence: float) -> Iterator[dict[str, Any]]:
    pairs = [(arm, seed) for arm, of in found.items() for seed in of.curves]
    finished = [
        found[arm].curves[seed]
        for arm, seed in pairs
        if seed not in found[arm].lost and np.isfinite(found[arm].curves[seed][1]).any()
    ]
    spans = [(steps[np.isfinite(values)][0], steps[np.isfinite(values)][-1]) for steps, values in finished]
    first, last = max((span[0] for span in spans), default=0.0), min((span[1] for span in spans), default=0.0)
    for arm, of in found.items():
        count = len(of.curves)
        none = (math.nan, -math.inf, math.inf)
        if not first < last:
            note = "the finished runs have fewer than two validated steps in common"
            yield _row(arm, "area_under_curve", none, math.nan, count, count, "undefined", note)
            continue
        curves = [_nothing(curve) if seed in of.lost else curve for seed, curve in of.curves.items()]
        areas = areas_under_curves(curves, first, last).values
        lost = [seed for seed, value in zip(of.curves, areas, strict=True) if value is None]
        notes = [f"over steps {first:,.0f} to {last:,.0f}", *([f"without {_named(lost)}"] if lost else ())]
        if len(lost) == count:
            yield _row(arm, "area_under_curve", none, math.nan, count, count, "undefined", "; ".join(notes))
            continue
        mean = seed_mean([value for value in areas if value is not None], confidence)
        notes += [mean.reason] if mean.reason else []
        std = math.nan if mean.std is None else mean.std
        limits = (mean.value, mean.low, mean.high)
        yield _row(arm, "area_under_curve", limits, std, count, len(lost), "exact", "; ".join(notes))


def _row(
    arm: str,
    measure: str,
    limits: tuple[float, float, float],
    std: float,
    seeds: int,
    censored: int,
    bound: str,
    note: str,
) -> dict[str, Any]:
    value, low, high = limits
    values = (arm, measure, value, low, high, std, seeds, censored, bound, note)
    return dict(zip(COLUMNS[1:], values, strict=True))


def _nothing(curve: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return curve[0], np.full_like(curve[1], math.nan)


def _named(seeds: list[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {phrases.listed([str(seed) for seed in seeds])}"
