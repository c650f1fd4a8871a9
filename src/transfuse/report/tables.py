"""The rows of the report's tables, as text that is ready to print."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from transfuse.metrics import COUNT_METRICS
from transfuse.results import arms, phrases
from transfuse.results.arms import ArmComparison, ArmEstimate, ArmSpeed


@dataclass(frozen=True)
class ArmRow:
    """One arm of one network: its test metric, its difference to the baseline, and its speed."""

    arm: str
    value: str
    interval: str
    seeds: tuple[str, ...]
    difference: str
    difference_interval: str
    verdict: str
    why: str
    speed: str
    speed_seeds: str


def arm_rows(
    model: str,
    labels: Sequence[str],
    baseline: str,
    estimates: Sequence[ArmEstimate],
    comparisons: Sequence[ArmComparison],
    speeds: Sequence[ArmSpeed],
    seeds: Sequence[int] = (),
) -> list[ArmRow]:
    """One row an arm, in the order of `labels`; a seed of `seeds` without a value is a dash, never left out."""
    values = {row.arm: row for row in estimates if row.model == model}
    against = {row.arm: row for row in comparisons if row.model == model and row.baseline == baseline}
    fast = {row.arm: row for row in speeds if row.model == model}
    rows = []
    for arm in labels:
        measured, row, speed = values.get(arm), against.get(arm), fast.get(arm)
        found = row.comparison if row else None
        estimate = measured.estimate if measured else None
        defined = found is not None and math.isfinite(found.difference)
        rows.append(
            ArmRow(
                arm=arm,
                value=phrases.number(estimate.value) if estimate else "no result",
                interval=f"{phrases.number(estimate.low)} to {phrases.number(estimate.high)}"
                if estimate and math.isfinite(estimate.low) and math.isfinite(estimate.high)
                else "",
                seeds=tuple(
                    phrases.number(measured.seeds[seed]) if seed in measured.seeds else "–"
                    for seed in (seeds or measured.seeds)
                )
                if measured
                else (),
                difference=phrases.signed(found.difference) if found and defined else "",
                difference_interval=_span(found.low, found.high) if found and defined else "",
                verdict="baseline" if arm == baseline else str(found.verdict) if found and defined else "none",
                why=row.why_undecided if row and defined else "",
                speed=speed_text(speed),
                speed_seeds=", ".join(
                    "never" if steps is None else f"{steps:,}" for steps in (speed.seeds.values() if speed else ())
                ),
            )
        )
    return rows


def _span(low: float, high: float) -> str:
    bounded = math.isfinite(low) and math.isfinite(high)
    return f"{phrases.signed(low)} to {phrases.signed(high)}" if bounded else "no interval"


def speed_text(speed: ArmSpeed | None) -> str:
    """The median steps to the threshold, and how many seeds never got there.

    >>> speed_text(ArmSpeed("net", "random", {0: 100, 1: 240, 2: None}, median=240))
    '240 (1 of 3 never)'
    """
    if speed is None:
        return "no result"
    total = len(speed.seeds)
    if speed.median is None:
        return f"never ({speed.never} of {total} seeds)"
    return f"{speed.median:,.0f}" + (f" ({speed.never} of {total} never)" if speed.never else "")


@dataclass(frozen=True)
class RunRow:
    """One training as a line of the runs table."""

    model: str
    arm: str
    seed: str
    status: str
    metrics: tuple[str, ...]
    best: str
    steps: str
    time: str
    parameters: str
    transferred: str
    run_id: str
    reason: str


def test_metrics(runs: pd.DataFrame, first: str) -> list[str]:
    """The test metrics that any run has a value of, the study's first."""
    names = [
        name.removeprefix("test_")
        for name in map(str, runs.columns)
        if name.startswith("test_") and runs[name].notna().any()
    ]
    return sorted(names, key=lambda name: name != first)


def run_rows(runs: pd.DataFrame, metrics: Sequence[str], failures: Sequence[Mapping[str, Any]]) -> list[RunRow]:
    """One row a run, source trainings and runs without a record included."""
    rows = []
    for run in runs.to_dict("records"):
        rows.append(
            RunRow(
                model=str(run.get("model", "")),
                arm=_arm(run),
                seed=_whole(run.get("seed")),
                status=str(run.get("status", "")),
                metrics=tuple(_metric(run.get(f"test_{name}")) if _is_of(run, name) else "" for name in metrics),
                best=_whole(run.get("best_step")),
                steps=_whole(run.get("steps")),
                time=phrases.duration(_real(run.get("total_seconds", run.get("train_seconds")))),
                parameters=_whole(run.get("parameters")),
                transferred=_share(run.get("transferred_share")),
                run_id=str(run.get("run_id", "")),
                reason=_said(run.get("reason")) or _said(run.get("stop_reason")),
            )
        )
    for failure in failures:
        rows.append(
            RunRow(
                model=str(failure.get("model", "")),
                arm=_arm(failure),
                seed=_whole(failure.get("seed")),
                status=str(failure.get("state") or "failed"),
                metrics=("",) * len(metrics),
                best="",
                steps="",
                time="",
                parameters="",
                transferred="",
                run_id=str(failure.get("run_id", "")),
                reason=_said(failure.get("reason")),
            )
        )
    return rows


def states(rows: Sequence[RunRow]) -> str:
    """How many runs stand where, in words; empty where all have finished."""
    found = Counter(row.status for row in rows)
    return "" if set(found) <= {"finished"} else ", ".join(f"{count} {state}" for state, count in found.items())


def parted(text: str) -> tuple[str, tuple[str, ...]]:
    """A sentence that ends in three or more items in brackets, as the sentence and the items; any other as it is.

    >>> parted("Some are small (grade 2: 5 of 9; grade 3: 2 of 8; grade 4: 0 of 7).")
    ('Some are small:', ('grade 2: 5 of 9', 'grade 3: 2 of 8', 'grade 4: 0 of 7'))
    >>> parted("One run diverged (random, seed 2).")
    ('One run diverged (random, seed 2).', ())
    """
    lead, bracket, tail = text.removesuffix(".").partition(" (")
    items = tail.removesuffix(")").split("; ")
    if not bracket or not tail.endswith(")") or len(items) < 3 or {"(", ")"} & set("".join(items)):
        return text, ()
    return f"{lead}:", tuple(items)


def counts(predictions: pd.DataFrame, runs: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """How many images and patients the arms' validation and test parts hold, from the stored predictions."""
    if predictions.empty or runs.empty:
        return {}
    own = predictions[predictions["run_id"].isin(arms.arm_runs(runs)["run_id"])]
    samples = own.drop_duplicates(["part", "sample_id"])
    return {
        str(part): (len(group), int(group["patient_id"].nunique()))
        for part, group in samples.groupby("part", sort=False)
    }


def facts(values: Mapping[str, Any], skip: Sequence[str] = ()) -> list[tuple[str, str]]:
    """A mapping as labelled lines; nested ones are flattened, nothing is left out but None and empty values.

    >>> facts({"name": "phantom", "split": {"train": 10}, "synthetic": True, "root": None})
    [('name', 'phantom'), ('split: train', '10'), ('synthetic', 'yes')]
    """
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        label = str(key).replace("_", " ")
        if key in skip or value is None or (isinstance(value, (str, list, tuple, dict)) and not value):
            continue
        if isinstance(value, Mapping):
            lines += [(f"{label}: {inner}", text) for inner, text in facts(value)]
        elif isinstance(value, bool):
            lines.append((label, "yes" if value else "no"))
        elif isinstance(value, (list, tuple)):
            lines.append((label, ", ".join(str(item) for item in value)))
        elif isinstance(value, float):
            lines.append((label, f"{value:g}"))
        else:
            lines.append((label, str(value)))
    return lines


def grouped(samples: Sequence[tuple[str, bytes]]) -> dict[str, list[str]]:
    """Images by caption, in order, in base64."""
    groups: dict[str, list[str]] = {}
    for caption, png in samples:
        groups.setdefault(caption, []).append(base64.b64encode(png).decode("ascii"))
    return groups


def _real(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _metric(value: Any) -> str:
    number = _real(value)
    return "undefined" if number is None else phrases.number(number)


def _is_of(run: Mapping[Any, Any], metric: str) -> bool:
    """Whether a metric is about the data of a run: a source may well have labels of images, and its study masks."""
    return "task" not in run or (run["task"] == "segmentation") == (metric in COUNT_METRICS)


def _whole(value: Any) -> str:
    number = _real(value)
    return "" if number is None else f"{number:,.0f}"


def _share(value: Any) -> str:
    number = _real(value)
    return "" if number is None else f"{100 * number:.0f} %"


def _arm(run: Mapping[Any, Any]) -> str:
    name = str(run.get("arm", ""))
    if run.get("role") == "trial":
        return f"{name} at rate {phrases.trimmed(run['learning_rate'])}"
    if run.get("role") == "search":
        steps = _real(run.get("asked_steps"))
        return f"{name} (search{'' if steps is None else f', {steps:.0f} steps'})"
    if run.get("role") == "size":
        return f"{name} on {100 * run['train_fraction']:.4g} % of the patients"
    return f"source {name}".strip() if run.get("role") == "source" else name


def _said(value: Any) -> str:
    return "" if value is None or (not isinstance(value, str) and pd.isna(value)) else str(value)
