"""A plausible finished study: 2 networks, 4 arms, 3 seeds, one diverged run, and what follows from it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transfuse.report.html import Contents
from transfuse.results.arms import ArmComparison, ArmEstimate
from transfuse.results.recommend import recommend
from transfuse.statistics.comparison import Comparison, Estimate
from transfuse.statistics.planning import Components

ARMS: dict[str, dict[str, Any]] = {
    "random": {},
    "pretrained": {"depth": "all"},
    "mean_var": {"depth": 0, "rest": "mean_var"},
    "transfusion": {"depth": "middle"},
}
LEVELS = {"random": 0.86, "pretrained": 0.915, "mean_var": 0.872, "transfusion": 0.908}
SPEED = {"random": 170.0, "pretrained": 60.0, "mean_var": 120.0, "transfusion": 75.0}
SPEC = "name: demo\ndata:\n  name: fundus-phantom\n  size: 64\nseeds: 3\n"


def make_comparison(difference: float, half: float, **changes: Any) -> Comparison:
    low, high = difference - half, difference + half
    verdict: Any = "helps" if low > 0 else "hurts" if high < 0 else "undecided"
    if verdict == "undecided" and max(abs(low), abs(high)) < 0.02:
        verdict = "equivalent"
    found = Comparison(
        difference=difference,
        low=low,
        high=high,
        verdict=verdict,
        margin=0.02,
        metric="auroc",
        standard_error=half / 2,
        df=6.0,
        patients=60,
        seeds_a=3,
        seeds_b=3,
        values_a=(0.9, 0.9, 0.9),
        values_b=(0.9, 0.9, 0.9),
        equivalence=(difference - 0.8 * half, difference + 0.8 * half),
        components=Components(1e-4, 0.0, 0.0, 1e-5, 1e-5),
        needed_patients=480,
        needed_seeds=9,
    )
    return replace(found, **changes)


def make_png(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] / 63 - 0.5
    disc = (x**2 + y**2 < 0.24)[..., None]
    image = np.clip(disc * (np.array([190, 90, 40]) + 25 * rng.normal(size=(64, 64, 1))), 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_contents(
    models: tuple[str, ...] = ("cbr_small", "resnet18"),
    arms: dict[str, dict[str, Any]] | None = None,
    seeds: int = 3,
    diverged: tuple[str, str, int] | None = ("resnet18", "random", 2),
    **changes: Any,
) -> Contents:
    arms = ARMS if arms is None else arms
    rng = np.random.default_rng(0)
    runs, history, estimates, comparisons, predictions = [], [], [], [], []
    for place, model in enumerate(models):
        shrink = 1 - 0.7 * place
        levels = {arm: 0.86 + shrink * (LEVELS.get(arm, 0.88) - 0.86) for arm in arms}
        for arm in arms:
            values = {}
            for seed in range(seeds):
                run_id = f"{len(runs):012x}"
                lost = (model, arm, seed) == diverged
                top = levels[arm] + 0.008 * rng.normal()
                for step in range(0, 200 if lost else 601, 20):
                    value = 0.5 + (top - 0.5) * (1 - math.exp(-step / SPEED.get(arm, 100.0)))
                    history.append((run_id, step / 60, step, "val", "auroc", value + 0.006 * rng.normal(), step / 10))
                    history.append((run_id, step / 60, step, "train", "loss", math.exp(-step / 200), step / 10))
                if lost:
                    history.append((run_id, 3.3, 200, "val", "auroc", math.nan, 20.0))
                else:
                    values[seed] = top
                runs.append(
                    {
                        "run_id": run_id,
                        "study": "demo",
                        "model": model,
                        "arm": arm,
                        "seed": seed,
                        "status": "diverged" if lost else "finished",
                        "reason": "loss is nan at step 200" if lost else "",
                        "dataset": "fundus-phantom",
                        "parameters": 2_100_000 if place == 0 else 11_178_053,
                        "trained_parameters": 2_100_000,
                        "transferred_share": 1.0 if arms[arm].get("depth") == "all" else 0.0,
                        "best_step": 480,
                        "best_value": top,
                        "monitor": "auroc",
                        "steps": 200 if lost else 600,
                        "stop_reason": "" if lost else "all steps done",
                        "train_seconds": 31.5,
                        "total_seconds": 34.25,
                        "device": "cpu",
                        "threads": 1,
                        "weights": "run:natural" if arms[arm] else None,
                        "source_run": "feedfacecafe" if arms[arm] else None,
                        "role": "arm",
                        "test_auroc": math.nan if lost else top,
                        "test_accuracy": math.nan if lost else 0.7,
                    }
                )
            if values:
                mean = float(np.mean(list(values.values())))
                estimates.append(
                    ArmEstimate(
                        model, arm, Estimate(mean, mean - 0.03, mean + 0.03, 0.95, "patients and seeds", 60), values
                    )
                )
        names = list(arms)
        pairs = [(arm, names[0]) for arm in names[1:]]
        pairs += [(a, b) for a, b in (("pretrained", "mean_var"), ("transfusion", "pretrained")) if {a, b} <= set(arms)]
        means = {row.arm: row.estimate.value for row in estimates if row.model == model}
        seen = {row.arm: tuple(row.seeds.values()) for row in estimates if row.model == model}
        comparisons += [
            ArmComparison(
                model,
                a,
                b,
                make_comparison(means[a] - means[b], 0.018 + 0.006 * place, values_a=seen[a], values_b=seen[b]),
            )
            for a, b in pairs
            if a in means and b in means
        ]
    predictions = [
        {"run_id": f"{0:012x}", "part": part, "sample_id": f"{part}{i}", "patient_id": f"{part}{i // 2}"}
        for part, count in (("val", 96), ("test", 120))
        for i in range(count)
    ]
    study: dict[str, Any] = {
        "name": "demo",
        "title": "Do weights from natural phantoms help on fundus phantoms?",
        "question": "Five grades of diabetic retinopathy from 64 px phantoms, small training set.",
        "metric": "auroc",
        "margin": 0.02,
        "threshold": 0.8,
        "baseline": next(iter(arms), ""),
        "confidence": 0.95,
        "arms": arms,
        "models": {model: {"name": model} for model in models},
        "data": {
            "name": "fundus-phantom",
            "synthetic": True,
            "size": 64,
            "classes": ["1", "2", "3", "4", "5"],
            "split": {"train": "192 images of 96 patients"},
            "licence": "Apache-2.0",
        },
        "seeds": list(range(seeds)),
        "spec": SPEC,
    }
    study |= changes.pop("study", {})
    notes = changes.pop("notes", ("fundus-phantom is synthetic: grades follow from the lesions that were drawn.",))
    failures = changes.pop("failures", ())
    frames = {
        "runs": pd.DataFrame(runs),
        "history": pd.DataFrame(history, columns=["run_id", "epoch", "step", "split", "quantity", "value", "seconds"]),
        "predictions": pd.DataFrame(predictions),
    } | {key: changes.pop(key) for key in ("runs", "history", "predictions") if key in changes}
    comparisons = changes.pop("comparisons", comparisons)
    estimates = changes.pop("estimates", estimates)
    recommendation = recommend(
        study, comparisons, estimates, runs=frames["runs"], history=frames["history"], notes=notes, failures=failures
    )
    return Contents(
        study=study,
        recommendation=recommendation,
        comparisons=comparisons,
        estimates=estimates,
        notes=notes,
        environment={"versions": {"python": "3.11.2", "torch": "2.13.0"}, "machine": "x86_64, 2 cores", "threads": 1},
        samples=[(f"grade {grade}", make_png(10 * grade + i)) for grade in range(1, 6) for i in range(2)],
        failures=failures,
        **frames,
        **changes,
    )


@pytest.fixture
def contents() -> Contents:
    return make_contents()


@pytest.fixture
def build() -> Callable[..., Contents]:
    return make_contents


@pytest.fixture
def comparison() -> Callable[..., Comparison]:
    return make_comparison
