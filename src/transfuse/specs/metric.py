"""The metrics that a study can name, and between which values they lie."""

from __future__ import annotations

from typing import Literal

Metric = Literal[
    "auroc",
    "auprc",
    "average_precision",
    "accuracy",
    "top5",
    "macro_recall",
    "kappa",
    "ece",
    "brier",
    "referable_auroc",
    "referable_auroc_max",
    "dice",
    "jaccard",
]
BOUNDS: dict[str, tuple[float, float]] = {"kappa": (-1.0, 1.0), "brier": (0.0, 2.0)}
"""Smallest and largest value of the metrics that do not lie between 0 and 1."""
