"""Made-up arms of known quality on the same patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from transfuse.statistics.arm import Arm, arm_of_scores


def make_arms(
    generator: np.random.Generator,
    effects: Mapping[str, float],
    *,
    seeds: int = 4,
    patients: int = 60,
    spread: float = 0.2,
    metric: str = "auroc",
    folds: np.ndarray | None = None,
) -> dict[str, Arm]:
    """Arms on the same samples, two of each patient; what is hard about a patient is shared by all."""
    positive = np.arange(patients) % 2
    target, who = np.repeat(positive, 2), np.repeat(np.arange(patients), 2)
    shared = 0.7 * generator.normal(size=patients)[who] + 0.4 * generator.normal(size=2 * patients)
    found = {}
    for name, effect in effects.items():
        scores = target * (effect + spread * generator.normal(size=(seeds, 1)))
        scores = scores + shared + 0.5 * generator.normal(size=(seeds, patients))[:, who]
        if metric != "auroc":  # probabilities
            scores = 1 / (1 + np.exp(-(scores - effect / 2)))
        found[name] = arm_of_scores(target, scores, who, metric, folds[who] if folds is not None else None)
    return found


@pytest.fixture
def study() -> Callable[..., dict[str, Arm]]:
    return make_arms


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)
